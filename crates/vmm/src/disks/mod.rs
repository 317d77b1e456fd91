//! The disks of a machine, which come and go while it runs; see [`crate::plugged`].

mod layers;
mod requests;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::{
    config::MAX_LAYERS,
    memory::GuestMemory,
    pci::{PciRoot, hotplug::HotplugController},
    plugged::{PlugError, Pluggable as _, Plugged},
    virtio::{DeviceError, DiskHandle, QUEUE_DEPTH, Rings, attach_disk, default_queues},
};
use api::vmm::{AttachedDisk, Disk, DiskLimit, DiskStats};
use qcow2::RingPool;
use std::sync::Arc;

/// Disks beside the system disk there are rings for: as many as an instance may have.
const DATA_DISKS: u32 = 16;
/// Descriptors a queue takes on top of its ring: doorbells, timers, interrupts, and what waits.
const FILES_PER_QUEUE: u32 = 16;

/// Why a request about a disk was refused.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot come or go now.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// Nor at any other time.
    #[error("{disk}: {problem}")]
    Argument {
        /// ECS id.
        disk: String,
        /// What is wrong.
        problem: String,
    },
    /// The device or its image.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// All disks.
pub struct Disks {
    root: Arc<PciRoot>,
    memory: GuestMemory,
    vcpus: u32,
    rings: Arc<RingPool>,
    plugged: Arc<Plugged<DiskHandle>>,
}

impl Disks {
    /// A machine without any, to which some may come later if it is `controlled`. Made before the
    /// jail has closed.
    pub fn new(
        root: &Arc<PciRoot>,
        memory: &GuestMemory,
        vcpus: u32,
        hotplug: &Arc<HotplugController>,
        controlled: bool,
    ) -> Arc<Self> {
        let rings = if controlled { DATA_DISKS * default_queues(vcpus) } else { 0 };
        let fixed = "the system disk stays; stop the instance to change it";
        Arc::new(Self {
            root: Arc::clone(root),
            memory: memory.clone(),
            vcpus,
            rings: RingPool::new(rings as usize, QUEUE_DEPTH),
            plugged: Plugged::new(root, hotplug, fixed),
        })
    }

    /// Attaches a disk of the description, before the machine runs.
    ///
    /// # Errors
    /// What is wrong with the disk.
    pub fn attach(&self, disk: &Disk, system: bool) -> Result<(), DeviceError> {
        let rings = if system { Rings::New } else { Rings::Pooled(Arc::clone(&self.rings)) };
        let handle = attach_disk(&self.root, &self.memory, self.vcpus, disk, rings)?;
        self.plugged.insert(&disk.disk_id, system, handle);
        Ok(())
    }

    /// Slots of the disks that may go: bit `n` for slot `n`.
    pub fn changing_slots(&self) -> u32 {
        self.plugged.changing_slots()
    }

    /// Descriptors the disks that may still come can take.
    pub fn files_to_come(&self) -> u64 {
        let queues = default_queues(self.vcpus);
        let each = queues * FILES_PER_QUEUE + MAX_LAYERS as u32;
        // Those of a change of layers, which are there twice, and those of a request.
        let passing = 4 * MAX_LAYERS as u32;
        u64::from(DATA_DISKS * each + passing)
    }

    /// What there is, in order of slots.
    pub fn list(&self) -> Vec<AttachedDisk> {
        let listed = self.plugged.list().into_iter();
        let describe = listed.map(|listed| {
            let disk = &listed.device;
            let mut attached = AttachedDisk {
                disk_id: listed.id,
                slot: disk.slot().slot.into(),
                detaching: listed.asked_unix_ms.is_some(),
                detach_asked_unix_ms: listed.asked_unix_ms.unwrap_or(0),
                size_bytes: disk.size(),
                limit: disk.limit(),
                chain_epoch: disk.chain_epoch(),
                in_use: disk.in_use(),
                ..AttachedDisk::default()
            };
            disk.trouble(&mut attached);
            attached
        });
        describe.collect()
    }

    /// What each has done so far.
    pub fn stats(&self) -> Vec<DiskStats> {
        self.plugged.present().iter().map(|disk| disk.stats()).collect()
    }

    /// Another rate for a disk.
    ///
    /// # Errors
    /// If there is no such disk.
    pub fn set_limit(&self, disk_id: &str, limit: Option<&DiskLimit>) -> Result<(), DiskError> {
        self.plugged.find(disk_id)?.set_limit(limit);
        Ok(())
    }

    /// Makes every completed write of every disk last.
    ///
    /// # Errors
    /// What went wrong with the first disk that could not; the others are flushed all the same.
    pub fn flush(&self) -> Result<(), DeviceError> {
        let mut outcome = Ok(());
        for disk in self.plugged.handles() {
            match disk.flush() {
                // What is being closed is flushed by who closes it.
                Ok(()) | Err(DeviceError::Gone { .. }) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Finishes what is under way and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        self.plugged.stop();
    }
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disks").field("disks", &self.plugged.handles()).finish_non_exhaustive()
    }
}
