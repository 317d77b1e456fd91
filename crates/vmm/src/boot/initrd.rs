//! Puts the initrd as high as the kernel can find it.

use super::{BootError, Loaded};
use crate::{layout, memory::GuestMemory};
use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
};
use vm_memory::{Bytes, GuestAddress};

const PAGE: u64 = 4096;

/// Loads `file` below `limit` (exclusive) and above `kernel_end`.
pub(super) fn load(
    file: &mut File,
    memory: &GuestMemory,
    memory_bytes: u64,
    kernel_end: u64,
    limit: u64,
) -> Result<Loaded, BootError> {
    let read = |source| BootError::Read { what: "initrd", source };
    let size = file.seek(SeekFrom::End(0)).map_err(read)?;
    file.rewind().map_err(read)?;
    let address = place(size, memory_bytes, kernel_end, limit)?;
    let too_big = |_| BootError::InitrdTooBig { size };
    memory
        .read_exact_volatile_from(
            GuestAddress(address),
            file,
            usize::try_from(size).map_err(too_big)?,
        )
        .map_err(|error| read(std::io::Error::other(error)))?;
    Ok(Loaded { address, size })
}

fn place(size: u64, memory_bytes: u64, kernel_end: u64, limit: u64) -> Result<u64, BootError> {
    if size == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let top = memory_bytes.min(layout::LOW_RAM_END).min(limit);
    top.checked_sub(size)
        .map(|address| address & !(PAGE - 1))
        .filter(|&address| address >= kernel_end)
        .ok_or(BootError::InitrdTooBig { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_below_every_limit_and_above_the_kernel() {
        let mib = 1u64 << 20;
        assert_eq!(place(mib + 1, 256 * mib, 64 * mib, 2048 * mib).unwrap(), 255 * mib - PAGE);
        assert_eq!(place(mib, 6144 * mib, 64 * mib, 2048 * mib).unwrap(), 2047 * mib);
        assert_eq!(place(mib, 6144 * mib, 64 * mib, u64::MAX).unwrap(), 3071 * mib);
        assert!(matches!(
            place(193 * mib, 256 * mib, 64 * mib, 2048 * mib),
            Err(BootError::InitrdTooBig { .. })
        ));
        assert!(matches!(
            place(u64::MAX, 256 * mib, 0, u64::MAX),
            Err(BootError::InitrdTooBig { .. })
        ));
        assert!(matches!(place(0, 256 * mib, 0, u64::MAX), Err(BootError::InitrdEmpty)));
    }
}
