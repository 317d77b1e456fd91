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
use vm_memory::ByteValued as _;

const MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = layout::PVH_INFO + 0x40;
const MEMORY_MAP: u64 = layout::PVH_INFO + 0x80;

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
