//! What the guest is told about its physical memory.

use crate::{layout, memory};

/// Type of usable RAM.
pub const E820_RAM: u32 = 1;
/// Type of what is there but not to be used as RAM.
pub const E820_RESERVED: u32 = 2;

/// One range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// [`E820_RAM`] or [`E820_RESERVED`].
    pub kind: u32,
}

/// The map of a machine with `memory_bytes` of RAM, sorted.
pub fn memory_map(memory_bytes: u64) -> Vec<MemoryMapEntry> {
    let ram = |start, end| MemoryMapEntry { start, size: end - start, kind: E820_RAM };
    let reserved = |start, end| MemoryMapEntry { start, size: end - start, kind: E820_RESERVED };
    let mut map =
        vec![ram(0, layout::LEGACY_HOLE), reserved(layout::ACPI.start, layout::SMBIOS.end)];
    let pieces = memory::ranges(memory_bytes);
    for &(start, size) in &pieces {
        let end = start + size;
        let start = start.max(layout::HIGH_MEMORY);
        if end > start {
            map.push(ram(start, end));
        }
    }
    let ecam = layout::PCI_ECAM;
    map.push(reserved(ecam.start, ecam.end));
    map.sort_by_key(|entry| entry.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ram_but_the_legacy_hole_is_usable_and_nothing_overlaps() {
        for bytes in [64 << 20, 3 << 30, (3 << 30) + (2 << 20), 6 << 30, 512u64 << 30] {
            let map = memory_map(bytes);
            let usable: u64 = map.iter().filter(|e| e.kind == E820_RAM).map(|e| e.size).sum();
            assert_eq!(usable, bytes - (layout::HIGH_MEMORY - layout::LEGACY_HOLE));
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start, "{map:x?}");
            }
            for entry in map.iter().filter(|entry| entry.kind == E820_RAM) {
                let end = entry.start + entry.size;
                assert!(end <= layout::LOW_RAM_END || entry.start >= layout::HIGH_RAM_START);
            }
        }
    }
}
