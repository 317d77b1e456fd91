//! The guest physical address map and the I/O ports of the machine.
//!
//! ```text
//! 0                RAM (real-mode tables, zero page, ACPI, SMBIOS in its first MiB)
//! 3 GiB            32-bit PCI window
//! 3.5 GiB          PCI ECAM, 1 MiB
//! 0xfec0_0000      I/O APIC
//! 0xfee0_0000      local APIC
//! 0xfffb_c000      pages KVM keeps for real mode
//! 4 GiB            rest of RAM
//! above RAM        64-bit PCI window
//! ```

use std::ops::Range;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// First address after the RAM below 4 GiB, when there is that much of it.
pub const LOW_RAM_END: u64 = 3 * GIB;
/// Where RAM goes on after the hole.
pub const HIGH_RAM_START: u64 = 4 * GIB;

/// 32-bit window for PCI BARs.
pub const PCI_MMIO32: Range<u64> = 3 * GIB..3 * GIB + 512 * MIB;
/// PCI configuration space of segment 0, bus 0. There is no other bus: Linux asks every slot of each
/// one it is told of, which took a tenth of a small guest's boot for 255 empty ones.
pub const PCI_ECAM: Range<u64> = 3 * GIB + 512 * MIB..3 * GIB + 513 * MIB;
/// Most of the 64-bit window for PCI BARs; less where the CPU has few physical address bits.
pub const PCI_MMIO64_MAX_SIZE: u64 = 64 * GIB;
/// I/O ports for PCI BARs.
pub const PCI_PIO: Range<u64> = 0xc000..0x1_0000;

/// I/O APIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Page KVM uses as identity map while a vCPU is in real mode (Intel only).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages KVM uses as task state segment while a vCPU is in real mode (Intel only).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Global descriptor table the first vCPU starts with.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table the first vCPU starts with (empty).
pub const IDT: u64 = 0x520;
/// PVH start information.
pub const PVH_INFO: u64 = 0x6000;
/// Linux boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack pointer the first vCPU starts with.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Top-level page table of the identity map the first vCPU starts with.
pub const PML4: u64 = 0x9000;
/// Second-level page table.
pub const PDPT: u64 = 0xa000;
/// Third-level page tables, one for each of the first four GiB.
pub const PAGE_DIRECTORIES: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes of the command line, its final NUL included.
pub const CMDLINE_SIZE: u64 = 2 * KIB;
/// First byte that is not RAM for the guest in its first MiB.
pub const LEGACY_HOLE: u64 = 0xa_0000;
/// ACPI tables, the root pointer first. In the region firmware is searched for it.
pub const ACPI: Range<u64> = 0xe_0000..0xf_0000;
/// SMBIOS entry point and table.
pub const SMBIOS: Range<u64> = 0xf_0000..0x10_0000;
/// Where the kernel is loaded, and where RAM goes on after the first MiB.
pub const HIGH_MEMORY: u64 = MIB;

/// First UART.
pub const COM1: u64 = 0x3f8;
/// Interrupt of the first UART.
pub const COM1_GSI: u32 = 4;
/// CMOS real-time clock.
pub const RTC: u64 = 0x70;
/// Interrupt of the real-time clock.
pub const RTC_GSI: u32 = 8;
/// Keyboard controller: status and command port; guests reset through it.
pub const I8042_COMMAND: u64 = 0x64;
/// pvpanic: a guest's kernel reports its panic here.
pub const PVPANIC: u64 = 0x505;
/// ACPI sleep control register.
pub const SLEEP_CONTROL: u64 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u64 = 0x601;
/// ACPI reset register.
pub const RESET: u64 = 0x602;
/// Why the generic event device interrupts, one bit per cause; reading clears.
pub const GED_EVENTS: u64 = 0x604;
/// Interrupt of the generic event device.
pub const GED_GSI: u32 = 9;
/// Registers of PCI hot-plug.
pub const PCI_HOTPLUG: u64 = 0x610;
/// All ports of ACPI registers, from the sleep control register on.
pub const ACPI_PORTS: u8 = 0x20;
/// Pins of the I/O APIC, so the first GSI that is free for MSI.
pub const IOAPIC_PINS: u32 = 24;

/// First address after all RAM of a machine with `memory` bytes of it.
pub fn end_of_ram(memory: u64) -> u64 {
    match memory.checked_sub(LOW_RAM_END) {
        Some(high) if high > 0 => HIGH_RAM_START + high,
        _ => memory,
    }
}

/// Where PCI devices may put their registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciWindows {
    /// Configuration space.
    pub ecam: Range<u64>,
    /// Memory below 4 GiB.
    pub mmio32: Range<u64>,
    /// Memory above RAM; may be empty.
    pub mmio64: Range<u64>,
    /// I/O ports.
    pub pio: Range<u64>,
}

impl PciWindows {
    /// The windows of a machine with `memory` bytes of RAM on a CPU with `physical_bits`.
    pub fn new(memory: u64, physical_bits: u8) -> Self {
        let start = end_of_ram(memory).max(HIGH_RAM_START).next_multiple_of(4 * GIB);
        let limit = 1u64 << physical_bits.clamp(36, 52);
        let end = limit.min(start + PCI_MMIO64_MAX_SIZE).max(start);
        Self { ecam: PCI_ECAM, mmio32: PCI_MMIO32, mmio64: start..end, pio: PCI_PIO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_ends_after_the_hole_if_there_is_more_than_fits_below() {
        assert_eq!(end_of_ram(256 * MIB), 256 * MIB);
        assert_eq!(end_of_ram(3 * GIB), 3 * GIB);
        assert_eq!(end_of_ram(6 * GIB), 7 * GIB);
    }

    #[test]
    fn the_hole_below_4_gib_has_a_place_for_all_that_is_not_ram() {
        let page = 4 * KIB;
        let places = [
            PCI_MMIO32,
            PCI_ECAM,
            IOAPIC..IOAPIC + page,
            LOCAL_APIC..LOCAL_APIC + page,
            KVM_IDENTITY_MAP..KVM_IDENTITY_MAP + page,
            KVM_TSS..KVM_TSS + 3 * page,
        ];
        assert_eq!(places[0].start, LOW_RAM_END);
        for pair in places.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?}");
        }
        assert!(places[5].end <= HIGH_RAM_START);
    }

    #[test]
    fn the_64_bit_window_lies_above_ram_and_below_the_cpus_limit() {
        let small = PciWindows::new(256 * MIB, 40);
        assert_eq!(small.mmio64, 4 * GIB..68 * GIB);
        let split = PciWindows::new(6 * GIB, 40);
        assert_eq!(split.mmio64, 8 * GIB..72 * GIB);
        let narrow = PciWindows::new(6 * GIB, 36);
        assert_eq!(narrow.mmio64, 8 * GIB..64 * GIB);
        let full = PciWindows::new(100 * GIB, 36);
        assert!(full.mmio64.is_empty());
    }
}
