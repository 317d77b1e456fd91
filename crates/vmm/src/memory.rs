//! Guest RAM: anonymous memory in one or two pieces around the hole below 4 GiB.

use crate::layout;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::io;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

/// Guest RAM as every part of the machine sees it. Cloning shares it.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Of an x86-64 processor.
const LARGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4 << 10;

/// Why guest RAM could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error(
        "cannot map {bytes} bytes of guest memory: {source}; lower memory_bytes or free memory"
    )]
    Map {
        /// Bytes asked for.
        bytes: u64,
        /// The refusal.
        source: io::Error,
    },
    /// The pieces do not make a valid address space.
    #[error("guest memory layout: {0}")]
    Layout(String),
    /// KVM refused the memory slot.
    #[error("KVM refused guest memory at {start:#x}: {source}")]
    Slot {
        /// Guest physical address.
        start: u64,
        /// The refusal.
        source: io::Error,
    },
}

/// The pieces of `bytes` of RAM: start and length.
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(layout::LOW_RAM_END);
    let mut pieces = vec![(0, low)];
    if bytes > low {
        pieces.push((layout::HIGH_RAM_START, bytes - low));
    }
    pieces
}

/// Maps `bytes` of guest RAM. Pages are only taken from the host when they are touched. It stays
/// mapped for as long as the process lives, as does the guest.
///
/// # Errors
/// [`MemoryError`] if the host refuses.
pub fn allocate(bytes: u64) -> Result<GuestMemory, MemoryError> {
    let mut regions = Vec::new();
    for (start, len) in ranges(bytes) {
        let refused = |source| MemoryError::Map { bytes: len, source };
        let size = usize::try_from(len)
            .map_err(|_| refused(io::Error::from_raw_os_error(libc::ENOMEM)))?;
        let mapping = map(size).map_err(refused)?;
        advise(&mapping);
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| MemoryError::Layout(format!("{start:#x}+{len:#x} overflows")))?;
        regions.push(region);
    }
    GuestMemory::from_regions(regions).map_err(|error| MemoryError::Layout(error.to_string()))
}

/// KVM maps a large page only where host and guest addresses agree in all bits below its size. Pieces
/// begin at multiples of it in the guest; the host aligns to small pages before Linux 6.7.
fn map(size: usize) -> io::Result<MmapRegion<()>> {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    );
    let with_spare =
        size.checked_add(LARGE_PAGE).ok_or(io::Error::from_raw_os_error(libc::ENOMEM))?;
    // SAFETY: a new mapping, which takes the place of no other.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), with_spare, prot, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let front = base.align_offset(LARGE_PAGE);
    let start = base.wrapping_byte_add(front);
    // Up to the end of the last page: RAM may have any size.
    let end = start.wrapping_byte_add(size.next_multiple_of(SMALL_PAGE));
    let back = (LARGE_PAGE - front).saturating_sub(size.next_multiple_of(SMALL_PAGE) - size);
    for (at, len) in [(base, front), (end, back / SMALL_PAGE * SMALL_PAGE)] {
        if len > 0 {
            // SAFETY: this part of the mapping above is not used and was given to nobody. If it
            // stays mapped, it is never touched.
            unsafe { libc::munmap(at, len) };
        }
    }
    // SAFETY: the mapping has at least `size` bytes from there and is never unmapped.
    unsafe { MmapRegion::build_raw(start.cast(), size, prot, flags) }.map_err(io::Error::other)
}

fn advise(mapping: &MmapRegion<()>) {
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
        // SAFETY: the range is exactly one live mapping of ours, and neither advice changes what
        // it holds. Both are hints: a kernel without them loses speed only.
        unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    }
}

/// Gives the RAM to the machine, one KVM memory slot per piece.
///
/// # Errors
/// [`MemoryError::Slot`] if KVM refuses one.
pub fn register(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let start = region.start_addr().0;
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the mapping lives in `memory`, which the machine keeps as long as the VM, and
        // slots do not overlap because regions do not.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|error| MemoryError::Slot { start, source: error.into() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_around_the_hole() {
        assert_eq!(ranges(256 << 20), vec![(0, 256 << 20)]);
        assert_eq!(ranges(3 * GIB), vec![(0, 3 * GIB)]);
        assert_eq!(ranges(3 * GIB + 2), vec![(0, 3 * GIB), (4 * GIB, 2)]);
        assert_eq!(ranges(64 * GIB), vec![(0, 3 * GIB), (4 * GIB, 61 * GIB)]);
    }

    #[test]
    fn the_host_can_map_large_pages() {
        for bytes in [2 * GIB, 5 * GIB, GIB + 4097] {
            let memory = allocate(bytes).unwrap();
            for region in memory.iter() {
                assert_eq!(region.as_ptr().align_offset(LARGE_PAGE), 0);
            }
            let last = GuestAddress(memory.last_addr().0);
            memory.write_obj(0x77u8, last).unwrap();
            assert_eq!(memory.read_obj::<u8>(last).unwrap(), 0x77);
        }
    }

    #[test]
    fn memory_is_reachable_on_both_sides_of_the_hole_and_not_in_it() {
        let memory = allocate(5 * GIB).unwrap();
        memory.write_obj(0x55u8, GuestAddress(3 * GIB - 1)).unwrap();
        memory.write_obj(0x66u8, GuestAddress(4 * GIB)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(3 * GIB - 1)).unwrap(), 0x55);
        assert!(memory.write_obj(0u8, GuestAddress(3 * GIB)).is_err());
        assert_eq!(memory.last_addr(), GuestAddress(6 * GIB - 1));
    }
}
