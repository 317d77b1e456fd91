//! PCI: configuration space by ECAM and by ports, BARs, MSI-X.
//!
//! One bus, one host bridge at 00:00.0, and single-function devices in slots 1 to 31. There is no
//! INTx: every device interrupts by MSI-X.

mod bars;
mod config;
pub mod hotplug;
mod hypervisor;
mod msi;
mod msix;
mod root;

#[cfg(test)]
mod tests;

pub use bars::BarAllocator;
pub use config::{BarSpace, BarSpec, ConfigSpace, Identity};
pub use hypervisor::{Doorbell, Hypervisor};
pub(crate) use msi::unheard;
pub use msi::{MsiMessage, MsiRouter, MsiVector};
pub use msix::{CAPABILITY_ID as MSIX_CAPABILITY, MsixTable};
pub use root::{PciDevice, PciRoot, SlotInfo};

#[cfg(any(test, feature = "testing"))]
pub(crate) use hypervisor::fake::FakeHypervisor;

use std::io;

/// Why a PCI device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// The wanted device number is not on the bus.
    #[error("PCI slot {slot} is taken or not in 1..=31; ask for another or for 0 (next free)")]
    Slot {
        /// Device number asked for.
        slot: u32,
    },
    /// All 31 device numbers are taken.
    #[error("all 31 PCI slots are taken; attach fewer disks and network interfaces")]
    NoSlot,
    /// No window has room for a BAR.
    #[error("no PCI window has {size:#x} bytes left for a BAR")]
    NoSpace {
        /// Size of the BAR in bytes.
        size: u64,
    },
    /// The BAR's size or index is not one PCI allows.
    #[error("BAR {index} of {size:#x} bytes is not possible")]
    Bar {
        /// Which of the six.
        index: u8,
        /// Size in bytes.
        size: u64,
    },
    /// The 256 bytes of conventional configuration space are full.
    #[error("no room for another PCI capability")]
    Capabilities,
    /// Every interrupt route KVM has is in use.
    #[error("all interrupt routes of the machine are in use; use fewer devices or queues")]
    NoRoute,
    /// The address is not free on a bus.
    #[error("PCI registers: {0}")]
    Bus(#[from] crate::bus::BusError),
    /// The host refused an event descriptor or KVM refused a registration.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was asked of the host.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}
