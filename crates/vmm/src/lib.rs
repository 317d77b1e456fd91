//! One microVM: memory, vCPUs, boot, PCI, virtio devices, ACPI, SMBIOS.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod context;
pub mod control;
pub mod devices;
pub mod disks;
pub mod error;
pub mod events;
pub mod irq;
pub mod jail;
pub mod layout;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod nics;
pub mod pci;
pub mod plugged;
pub mod say;
pub mod service;
pub mod smbios;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod thread;
pub mod vcpu;
pub mod virtio;
