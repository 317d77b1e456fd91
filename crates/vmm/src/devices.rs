//! The PCI devices of the machine, as one.

use crate::{
    context::MachineContext,
    disks::Disks,
    error::VmmError,
    layout::PciWindows,
    pci::{PciRoot, hotplug::HotplugController},
    virtio::{NicHandle, RngHandle, attach_nic, attach_rng},
};
use api::vmm::{DiskStats, NicStats, VmConfig};
use std::sync::Arc;

/// Every PCI device, in the order of the description.
pub struct Devices {
    disks: Arc<Disks>,
    nics: Vec<NicHandle>,
    rng: Option<RngHandle>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl Devices {
    /// A machine with nothing but these disks, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn only(disks: Arc<Disks>) -> Self {
        Self { disks, nics: Vec::new(), rng: None }
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
        let mut nics = Vec::new();
        for wants_slot in [true, false] {
            for (index, disk) in config.disks.iter().enumerate() {
                if (disk.slot != 0) == wants_slot {
                    disks.attach(disk, index == 0)?;
                }
            }
            for (index, nic) in config.nics.iter().enumerate() {
                if (nic.slot != 0) == wants_slot {
                    nics.push((index, attach_nic(&root, context, nic)?));
                }
            }
        }
        let rng = attach_rng(&root, context)?;
        nics.sort_by_key(|(index, _)| *index);
        let nics = nics.into_iter().map(|(_, nic)| nic).collect();
        Ok(Self { disks, nics, rng: Some(rng) })
    }

    /// The disks.
    pub fn disks(&self) -> &Arc<Disks> {
        &self.disks
    }

    /// What each has done so far.
    pub fn stats(&self) -> (Vec<DiskStats>, Vec<NicStats>) {
        (self.disks.stats(), self.nics.iter().map(NicHandle::stats).collect())
    }

    /// Finishes what is under way and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        for nic in &self.nics {
            nic.stop();
        }
        self.disks.stop();
        if let Some(rng) = &self.rng {
            rng.stop();
        }
    }
}
