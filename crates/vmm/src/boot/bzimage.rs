//! The Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst, section 64-bit boot protocol).

use super::{
    BootError, Entry, Loaded, MemoryMapEntry, Payload, initrd, vmlinux, write, write_cmdline,
};
use crate::{layout, memory::GuestMemory, say::report};
use linux_loader::{
    bootparam::{boot_e820_entry, boot_params, setup_header},
    loader::{BzImage, Error, KernelLoader as _, bzimage},
};
use vm_memory::{ByteValued as _, GuestAddress};

/// The 64-bit entry point lies this far into the loaded image.
const ENTRY_64: u64 = 0x200;
/// xloadflags: there is a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1;
/// First protocol version with xloadflags.
const VERSION_XLOADFLAGS: u16 = 0x20c;
/// Loader type without a registered id.
const LOADER_UNDEFINED: u8 = 0xff;

pub(super) enum Failure {
    NotBzImage(String),
    Fatal(BootError),
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        Self::Fatal(error)
    }
}

/// A kernel in guest memory.
pub(super) struct Kernel {
    /// The header to give it.
    pub header: setup_header,
    /// First address it does not use before it has read the memory map.
    pub end: u64,
    /// Where it is entered in long mode.
    pub entry: u64,
}

pub(super) fn load(
    payload: &mut Payload,
    memory: &GuestMemory,
    memory_bytes: u64,
    map: &[MemoryMapEntry],
    rsdp: u64,
) -> Result<Entry, Failure> {
    let low_end = memory_bytes.min(layout::LOW_RAM_END);
    let kernel = match vmlinux::load(&payload.kernel, memory, low_end, &payload.cmdline) {
        Ok(kernel) => kernel,
        Err(reason) => {
            let kernel = load_packed(payload, memory, low_end)?;
            report(format_args!("the kernel is left to unpack itself, which is slower: {reason}"));
            kernel
        }
    };
    let header = kernel.header;
    let initrd = match &mut payload.initrd {
        Some(file) => {
            let limit = u64::from(header.initrd_addr_max) + 1;
            Some(initrd::load(file, memory, memory_bytes, kernel.end, limit)?)
        }
        None => None,
    };
    write_cmdline(memory, &payload.cmdline, header.cmdline_size as usize)?;
    let page = zero_page(header, &payload.cmdline, initrd, map, rsdp);
    write(memory, "zero page", layout::ZERO_PAGE, page.as_slice())?;
    Ok(Entry::Linux64 { rip: kernel.entry })
}

/// Loads the kernel as it is, with the stub that unpacks it in the guest.
fn load_packed(
    payload: &mut Payload,
    memory: &GuestMemory,
    low_end: u64,
) -> Result<Kernel, Failure> {
    let room = low_end.saturating_sub(layout::HIGH_MEMORY);
    let size = payload.kernel.metadata().map_or(0, |file| file.len());
    let kernel = BzImage::load(
        memory,
        Some(GuestAddress(layout::HIGH_MEMORY)),
        &mut payload.kernel,
        Some(GuestAddress(layout::HIGH_MEMORY)),
    )
    .map_err(|error| match error {
        // It has the header, so it is a bzImage, and one without room.
        Error::Bzimage(bzimage::Error::ReadBzImageCompressedKernel) if size > room => {
            let address = layout::HIGH_MEMORY;
            Failure::Fatal(BootError::KernelTooBig { address, needed: size })
        }
        error => Failure::NotBzImage(error.to_string()),
    })?;
    let header =
        kernel.setup_header.ok_or_else(|| Failure::NotBzImage("no setup header".to_owned()))?;
    if !is_64_bit(&header) {
        return Err(BootError::Not64Bit.into());
    }
    let end = memory_needed(&header, kernel.kernel_end);
    if end > low_end {
        return Err(BootError::KernelTooBig {
            address: layout::HIGH_MEMORY,
            needed: end - layout::HIGH_MEMORY,
        }
        .into());
    }
    Ok(Kernel { header, end, entry: kernel.kernel_load.0 + ENTRY_64 })
}

/// Whether the kernel is one for the 64-bit boot protocol.
pub(super) fn is_64_bit(header: &setup_header) -> bool {
    let (version, xloadflags) = (header.version, header.xloadflags);
    version >= VERSION_XLOADFLAGS && xloadflags & XLF_KERNEL_64 != 0
}

/// First address the kernel does not use before it has read the memory map.
fn memory_needed(header: &setup_header, loaded_end: u64) -> u64 {
    let run_address = header.pref_address.max(layout::HIGH_MEMORY);
    run_address.saturating_add(u64::from(header.init_size)).max(loaded_end)
}

fn zero_page(
    header: setup_header,
    cmdline: &str,
    initrd: Option<Loaded>,
    map: &[MemoryMapEntry],
    rsdp: u64,
) -> boot_params {
    let mut page = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    page.hdr.cmdline_size = cmdline.len() as u32;
    if let Some(initrd) = initrd {
        // Both below 4 GiB: initrd::load keeps to low RAM.
        page.hdr.ramdisk_image = initrd.address as u32;
        page.hdr.ramdisk_size = initrd.size as u32;
    }
    let mut table = page.e820_table;
    for (slot, entry) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind };
    }
    page.e820_table = table;
    page.e820_entries = map.len().min(table.len()) as u8;
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::memory_map;

    #[test]
    fn the_zero_page_says_where_everything_is() {
        let header =
            setup_header { header: 0x5372_6448, init_size: 0x100_0000, ..Default::default() };
        let map = memory_map(4 << 30);
        let initrd = Loaded { address: 0x700_0000, size: 0x1234 };
        let page = zero_page(header, "console=ttyS0", Some(initrd), &map, 0xe_0000);
        let bytes = page.as_slice();
        assert_eq!(bytes.len(), 4096);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(u64_at(0x70), 0xe_0000);
        assert_eq!(u32_at(0x218), 0x700_0000);
        assert_eq!(u32_at(0x21c), 0x1234);
        assert_eq!(u32_at(0x228), layout::CMDLINE as u32);
        assert_eq!(bytes[0x210], 0xff);
        assert_eq!(usize::from(bytes[0x1e8]), map.len());
        assert_eq!((u64_at(0x2d0), u64_at(0x2d8), u32_at(0x2e0)), (0, 0xa_0000, 1));
        let last = 0x2d0 + 20 * (map.len() - 1);
        assert_eq!((u64_at(last), u64_at(last + 8)), (4 << 30, 1 << 30));
    }
}
