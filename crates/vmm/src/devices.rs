//! The PCI devices of the machine, as one.

use crate::{
    context::MachineContext,
    disks::Disks,
    error::VmmError,
    layout::PciWindows,
    nics::Nics,
    pci::{PciRoot, hotplug::HotplugController},
    virtio::{RngHandle, attach_rng},
};
use api::vmm::{DiskStats, NicStats, VmConfig};
use std::sync::Arc;

/// Every PCI device, in the order of the description.
pub struct Devices {
    root: Arc<PciRoot>,
    disks: Arc<Disks>,
    nics: Nics,
    rng: Option<RngHandle>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl Devices {
    /// A machine with nothing but these devices, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn only(root: &Arc<PciRoot>, disks: Arc<Disks>, nics: Nics) -> Self {
        Self { root: Arc::clone(root), disks, nics, rng: None }
    }

    /// Opens and attaches what the description names: disks, then network interfaces, then the
    /// entropy device. Devices with a slot of their own come before those that take any.
    ///
    /// # Errors
    /// [`VmmError::Device`] names the device and what is wrong with it.
    pub fn attach(
        context: &MachineContext,
        windows: &PciWindows,
        config: &VmConfig,
        hotplug: &Arc<HotplugController>,
    ) -> Result<Self, VmmError> {
        let root = PciRoot::new(context, windows)?;
        let controlled = !config.control_socket.is_empty();
        let disks = Disks::new(&root, &context.memory, context.vcpus, hotplug, controlled);
        let nics = Nics::new(&root, &context.memory, context.vcpus, hotplug);
        for wants_slot in [true, false] {
            for (index, disk) in config.disks.iter().enumerate() {
                if (disk.slot != 0) == wants_slot {
                    disks.attach(disk, index == 0)?;
                }
            }
            for (index, nic) in config.nics.iter().enumerate() {
                if (nic.slot != 0) == wants_slot {
                    nics.attach(nic, index == 0)?;
                }
            }
        }
        let rng = attach_rng(&root, context)?;
        Ok(Self { root, disks, nics, rng: Some(rng) })
    }

    /// The disks.
    pub fn disks(&self) -> &Arc<Disks> {
        &self.disks
    }

    /// The network interfaces.
    pub fn nics(&self) -> &Nics {
        &self.nics
    }

    /// Slots that devices which come and go can be in: bit `n` for slot `n`.
    pub fn changing_slots(&self) -> u32 {
        !self.root.taken() | self.disks.changing_slots() | self.nics.changing_slots()
    }

    /// Descriptors the devices that may still come can take.
    pub fn files_to_come(&self) -> u64 {
        self.disks.files_to_come() + self.nics.files_to_come()
    }

    /// What each has done so far.
    pub fn stats(&self) -> (Vec<DiskStats>, Vec<NicStats>) {
        (self.disks.stats(), self.nics.stats())
    }

    /// Finishes what is under way and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        self.nics.stop();
        self.disks.stop();
        if let Some(rng) = &self.rng {
            rng.stop();
        }
    }
}
