//! The PVH boot protocol (xen/include/public/arch-x86/hvm/start_info.h).

use super::{BootError, Entry, MemoryMapEntry, Payload, initrd, write, write_cmdline};
use crate::{layout, memory::GuestMemory};
use linux_loader::loader::{
    KernelLoaderResult,
    elf::{
        PvhBootCapability,
        start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
    },
};
use std::{fs::File, os::unix::fs::FileExt as _};
use vm_memory::ByteValued as _;

const MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = layout::PVH_INFO + 0x40;
const MEMORY_MAP: u64 = layout::PVH_INFO + 0x80;

/// Bytes of an ELF file's header and of one entry of its table of segments.
const HEADER: usize = 64;
const SEGMENT: usize = 56;
/// Type of a segment that is loaded.
const LOADED: u32 = 1;

/// Refuses an ELF file whose segments go past the RAM they must lie in. The loader below says no
/// more than that it could not read them. What else may be wrong with the file is for it to say.
pub(super) fn check_room(kernel: &File, memory_bytes: u64) -> Result<(), BootError> {
    let mut header = [0; HEADER];
    if kernel.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(());
    }
    let u64_at = |bytes: &[u8], at: usize| {
        bytes[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let (table, count) = (u64_at(&header, 32), u64_at(&header, 56) & 0xffff);
    for number in 0..count {
        let mut segment = [0; SEGMENT];
        let at = table.saturating_add(number * SEGMENT as u64);
        if kernel.read_exact_at(&mut segment, at).is_err() {
            return Ok(());
        }
        let (address, file, memory) =
            (u64_at(&segment, 24), u64_at(&segment, 32), u64_at(&segment, 40));
        let needed = file.max(memory);
        let end = address.saturating_add(needed);
        if u64_at(&segment, 0) as u32 == LOADED && end > memory_bytes.min(layout::LOW_RAM_END) {
            return Err(BootError::KernelTooBig { address, needed });
        }
    }
    Ok(())
}

pub(super) fn load(
    payload: &mut Payload,
    kernel: &KernelLoaderResult,
    memory: &GuestMemory,
    memory_bytes: u64,
    map: &[MemoryMapEntry],
    rsdp: u64,
) -> Result<Entry, BootError> {
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err(BootError::NoPvhNote);
    };
    let eip = u32::try_from(entry.0).map_err(|_| BootError::NoPvhNote)?;
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(file) = &mut payload.initrd {
        let loaded =
            initrd::load(file, memory, memory_bytes, kernel.kernel_end, layout::LOW_RAM_END)?;
        let module =
            hvm_modlist_entry { paddr: loaded.address, size: loaded.size, ..Default::default() };
        write(memory, "module list", MODULES, module.as_slice())?;
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
    }
    for (index, entry) in (0u64..).zip(map) {
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.size,
            type_: entry.kind,
            reserved: 0,
        };
        let bytes = entry.as_slice();
        write(memory, "memory map", MEMORY_MAP + index * bytes.len() as u64, bytes)?;
    }
    write_cmdline(memory, &payload.cmdline, usize::MAX)?;
    write(memory, "start information", layout::PVH_INFO, info.as_slice())?;
    Ok(Entry::Pvh { eip })
}
