//! The PCI devices of the machine, as one.

use crate::{
    context::MachineContext,
    error::VmmError,
    layout::PciWindows,
    pci::PciRoot,
    virtio::{DiskHandle, NicHandle, RngHandle, attach_disk, attach_nic, attach_rng},
};
use api::vmm::{DiskLimit, DiskStats, NicStats, VmConfig};
use std::sync::Arc;

/// Every PCI device, in the order of the description.
pub struct Devices {
    _root: Option<Arc<PciRoot>>,
    disks: Vec<DiskHandle>,
    nics: Vec<NicHandle>,
    rng: Option<RngHandle>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl Devices {
    /// A machine without any.
    pub fn none() -> Self {
        Self { _root: None, disks: Vec::new(), nics: Vec::new(), rng: None }
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
    ) -> Result<Self, VmmError> {
        let root = PciRoot::new(context, windows)?;
        let mut disks = Vec::new();
        let mut nics = Vec::new();
        for wants_slot in [true, false] {
            for (index, disk) in config.disks.iter().enumerate() {
                if (disk.slot != 0) == wants_slot {
                    disks.push((index, attach_disk(&root, context, disk)?));
                }
            }
            for (index, nic) in config.nics.iter().enumerate() {
                if (nic.slot != 0) == wants_slot {
                    nics.push((index, attach_nic(&root, context, nic)?));
                }
            }
        }
        let rng = attach_rng(&root, context)?;
        disks.sort_by_key(|(index, _)| *index);
        nics.sort_by_key(|(index, _)| *index);
        Ok(Self {
            _root: Some(root),
            disks: disks.into_iter().map(|(_, disk)| disk).collect(),
            nics: nics.into_iter().map(|(_, nic)| nic).collect(),
            rng: Some(rng),
        })
    }

    /// What each has done so far.
    pub fn stats(&self) -> (Vec<DiskStats>, Vec<NicStats>) {
        let disks = self.disks.iter().map(DiskHandle::stats).collect();
        let nics = self.nics.iter().map(NicHandle::stats).collect();
        (disks, nics)
    }

    /// Another rate for a disk; `false` if there is no such disk.
    pub fn set_limit(&self, disk_id: &str, limit: Option<&DiskLimit>) -> bool {
        let disk = self.disks.iter().find(|disk| disk.disk_id() == disk_id);
        disk.inspect(|disk| disk.set_limit(limit)).is_some()
    }

    /// Makes every completed write of every disk last.
    ///
    /// # Errors
    /// What went wrong with the first disk that could not; the others are flushed all the same.
    pub fn flush(&self) -> Result<(), String> {
        let mut outcome = Ok(());
        for disk in &self.disks {
            if let Err(error) = disk.flush() {
                outcome = outcome.and(Err(error.to_string()));
            }
        }
        outcome
    }

    /// Finishes what is under way and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        for nic in &self.nics {
            nic.stop();
        }
        for disk in &self.disks {
            disk.stop();
        }
        if let Some(rng) = &self.rng {
            rng.stop();
        }
    }
}
