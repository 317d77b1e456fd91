//! ACPI tables of a hardware-reduced machine (ACPI 6.5, chapter 5 and section 4.1).

mod dsdt;
mod hotplug;

use crate::{
    layout::{self, PciWindows},
    memory::GuestMemory,
};
use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use std::io;
use vm_memory::{Bytes, GuestAddress};

const OEM: [u8; 6] = *b"ECSVMM";
const OEM_TABLE: [u8; 8] = *b"ECSVMM  ";
const OEM_REVISION: u32 = 1;

/// Written to the reset register to reset the machine.
pub const RESET_VALUE: u8 = 1;
/// Value of SLP_TYP for S5, soft off.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Bit of the generic event device's register: power button pressed.
pub const GED_POWER_BUTTON: u8 = 1;
/// Bit of the generic event device's register: look at the PCI hot-plug registers.
pub const GED_PCI: u8 = 1 << 1;

/// IA-PC boot architecture flag: no VGA.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;

/// Address of the root pointer, for the kernel's boot parameters.
pub const RSDP: u64 = layout::ACPI.start;

/// Puts all tables into guest memory. Bit `n` of `hotplug` says that PCI slot `n` may be filled and
/// emptied while the machine runs.
///
/// # Errors
/// If they do not fit where they belong.
pub fn write(
    memory: &GuestMemory,
    vcpus: u32,
    windows: &PciWindows,
    hotplug: u32,
) -> io::Result<()> {
    // The root pointer comes first, so that it is where firmware would have put it.
    let mut next = RSDP + (Rsdp::len() as u64).next_multiple_of(16);
    let mut put = |table: &dyn Aml| -> io::Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = next;
        next = (next + bytes.len() as u64).next_multiple_of(16);
        if next > layout::ACPI.end {
            return Err(io::Error::other("the ACPI tables do not fit into their region"));
        }
        memory.write_slice(&bytes, GuestAddress(address)).map_err(io::Error::other)?;
        Ok(address)
    };
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&dsdt::body(windows, hotplug));
    let dsdt = put(&dsdt)?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(put(&fadt(dsdt))?);
    xsdt.add_entry(put(&madt(vcpus))?);
    xsdt.add_entry(put(&mcfg(windows))?);
    let xsdt = put(&xsdt)?;
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    memory.write_slice(&root, GuestAddress(RSDP)).map_err(io::Error::other)
}

fn port(address: u64) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address)
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set bits mean: no fixed button, the namespace has one.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.finalize()
}

fn madt(vcpus: u32) -> impl Aml {
    let local_apic = LocalInterruptController::Address(layout::LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local_apic);
    for id in (0..=u8::MAX).take(vcpus as usize) {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC as u32, 0));
    madt
}

fn mcfg(windows: &PciWindows) -> impl Aml {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    let buses = (windows.ecam.end - windows.ecam.start) >> 20;
    mcfg.add_ecam(windows.ecam.start, 0, 0, (buses - 1).min(255) as u8);
    mcfg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table(memory: &GuestMemory, address: u64) -> Vec<u8> {
        let header = bytes(memory, address, 8);
        let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        bytes(memory, address, len)
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn tables(vcpus: u32) -> Vec<(String, Vec<u8>)> {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        write(&memory, vcpus, &PciWindows::new(64 << 20, 40), !0b111).unwrap();
        let root = bytes(&memory, RSDP, 36);
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!(sum(&root[..20]), 0);
        assert_eq!(sum(&root), 0);
        let xsdt = table(&memory, u64_at(&root, 24));
        let mut found = vec![("XSDT".to_owned(), xsdt.clone())];
        for entry in xsdt[36..].chunks(8) {
            let table = table(&memory, u64_at(entry, 0));
            if &table[..4] == b"FACP" {
                let dsdt = self::table(&memory, u64_at(&table, 140));
                found.push(("DSDT".to_owned(), dsdt));
            }
            found.push((String::from_utf8(table[..4].to_vec()).unwrap(), table));
        }
        found
    }

    #[test]
    fn every_table_is_reachable_from_the_root_and_sums_to_zero() {
        let tables = tables(254);
        let names: Vec<_> = tables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["XSDT", "DSDT", "FACP", "APIC", "MCFG"]);
        for (name, bytes) in &tables {
            assert_eq!(sum(bytes), 0, "{name}");
        }
    }

    #[test]
    fn the_madt_has_one_enabled_local_apic_per_vcpu_and_the_io_apic() {
        for vcpus in [1, 2, 254] {
            let (_, madt) = tables(vcpus).swap_remove(3);
            let mut entries = &madt[44..];
            let mut ids = Vec::new();
            while !entries.is_empty() {
                let (entry, rest) = entries.split_at(usize::from(entries[1]));
                match entry[0] {
                    0 => {
                        assert_eq!(entry[4] & 1, 1);
                        ids.push(u32::from(entry[3]));
                    }
                    1 => assert_eq!(&entry[4..8], &0xfec0_0000u32.to_le_bytes()),
                    other => panic!("entry of type {other}"),
                }
                entries = rest;
            }
            assert_eq!(ids, (0..vcpus).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_fadt_says_hardware_reduced_and_how_to_reset_and_power_off() {
        let (_, fadt) = tables(1).swap_remove(2);
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_ne!(flags & 1 << 20, 0);
        assert_ne!(flags & 1 << 10, 0);
        assert_eq!((fadt[116], u64_at(&fadt, 120)), (1, layout::RESET));
        assert_eq!(fadt[128], RESET_VALUE);
        assert_eq!((fadt[244], u64_at(&fadt, 248)), (1, layout::SLEEP_CONTROL));
        assert_eq!((fadt[256], u64_at(&fadt, 260)), (1, layout::SLEEP_STATUS));
    }
}
