//! The devices the guest cannot find by itself.

use super::{GED_PCI, GED_POWER_BUTTON, SLEEP_TYPE_S5, hotplug};
use crate::layout::{self, PciWindows};
use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType,
        FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed,
        Method, MethodCall, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path,
        ResourceTemplate, Store, ZERO,
    },
};

const NOTIFY_BUTTON_PRESSED: u8 = 0x80;

/// Body of the DSDT, without its header.
pub(super) fn body(windows: &PciWindows, hotplug: u32) -> Vec<u8> {
    let mut out = Vec::new();
    pci_root(windows, hotplug, &mut out);
    motherboard(windows, &mut out);
    serial(&mut out);
    clock(&mut out);
    panic_port(&mut out);
    power_button(&mut out);
    event_device(&mut out);
    let sleep = Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut out);
    out
}

fn port(base: u64, len: u8) -> IO {
    IO::new(base as u16, base as u16, 1, len)
}

/// An edge-triggered, active-high interrupt of this device alone.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// A level-triggered, active-high interrupt of this device alone.
fn level(gsi: u32) -> Interrupt {
    Interrupt::new(true, false, false, false, gsi)
}

fn pci_root(windows: &PciWindows, hotplug: u32, out: &mut Vec<u8>) {
    let bus_numbers = AddressSpace::new_bus_number(0u16, 0);
    let config_ports = port(0xcf8, 8);
    let pio = AddressSpace::new_io(windows.pio.start as u16, (windows.pio.end - 1) as u16, None);
    let mmio32 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        windows.mmio32.start as u32,
        (windows.mmio32.end - 1) as u32,
        None,
    );
    let mut resources: Vec<&dyn Aml> = vec![&bus_numbers, &config_ports, &pio, &mmio32];
    let mmio64 = (!windows.mmio64.is_empty()).then(|| {
        AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            windows.mmio64.start,
            windows.mmio64.end - 1,
            None,
        )
    });
    if let Some(mmio64) = &mmio64 {
        resources.push(mmio64);
    }
    let identity: [Name; 7] = [
        Name::new("_HID".into(), &EISAName::new("PNP0A08")),
        Name::new("_CID".into(), &EISAName::new("PNP0A03")),
        Name::new("_UID".into(), &ZERO),
        Name::new("_SEG".into(), &ZERO),
        Name::new("_BBN".into(), &ZERO),
        Name::new("_CCA".into(), &ONE),
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
    ];
    let slots = hotplug::Slots(hotplug);
    let mut children: Vec<&dyn Aml> = identity.iter().map(|name| name as &dyn Aml).collect();
    children.push(&slots);
    Device::new("_SB_.PCI0".into(), children).to_aml_bytes(out);
}

/// Keeps the kernel from handing the configuration window to a device.
fn motherboard(windows: &PciWindows, out: &mut Vec<u8>) {
    let ecam = Memory32Fixed::new(
        true,
        windows.ecam.start as u32,
        (windows.ecam.end - windows.ecam.start) as u32,
    );
    let registers = port(layout::SLEEP_CONTROL, layout::ACPI_PORTS);
    Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam, &registers])),
        ],
    )
    .to_aml_bytes(out);
}

fn serial(out: &mut Vec<u8>) {
    let (interrupt, ports) = (edge(layout::COM1_GSI), port(layout::COM1, 8));
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt, &ports])),
        ],
    )
    .to_aml_bytes(out);
}

fn clock(out: &mut Vec<u8>) {
    Device::new(
        "_SB_.RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port(layout::RTC, 2)])),
        ],
    )
    .to_aml_bytes(out);
}

fn panic_port(out: &mut Vec<u8>) {
    Device::new(
        "_SB_.PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port(layout::PVPANIC, 1)])),
        ],
    )
    .to_aml_bytes(out);
}

fn power_button(out: &mut Vec<u8>) {
    Device::new(
        "_SB_.PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
    .to_aml_bytes(out);
}

fn event_device(out: &mut Vec<u8>) {
    let offset = layout::GED_EVENTS as u16;
    let interrupt = level(layout::GED_GSI);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
            &OpRegion::new("EREG".into(), OpRegionSpace::SystemIO, &offset, &ONE),
            &Field::new(
                "EREG".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    // Reading clears the register, so once per interrupt.
                    &Store::new(&Local(0), &Path::new("EVTS")),
                    &And::new(&Local(1), &Local(0), &GED_POWER_BUTTON),
                    &If::new(
                        &Equal::new(&Local(1), &GED_POWER_BUTTON),
                        vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &NOTIFY_BUTTON_PRESSED)],
                    ),
                    &And::new(&Local(1), &Local(0), &GED_PCI),
                    &If::new(
                        &Equal::new(&Local(1), &GED_PCI),
                        vec![&MethodCall::new(hotplug::scan(), vec![])],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(out);
}
