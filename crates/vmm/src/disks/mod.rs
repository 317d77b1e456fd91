//! The disks of a machine, which come and go while it runs.
//!
//! A disk is in one of four states: it is being opened, it is in the machine, the guest was asked to
//! let it go, or it is off the bus and being closed. It is listed until its files are closed, so
//! that who does not see it any more may use them.
//!
//! Force closes a disk's files under a driver that is at work. The device stays on the bus without
//! them, and only fails, until the guest lets go of it.
//!
//! The guest has a say in one thing only: it may let go of a disk it was asked for. A disk that is
//! ejected without having been asked for stays where it is; the guest finds it again by a scan of
//! the bus, and meanwhile the list says that it is not in use.

mod layers;
mod requests;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::{
    config::MAX_LAYERS,
    events::unix_ms,
    memory::GuestMemory,
    pci::{
        PciRoot,
        hotplug::{Ejector, HotplugController},
    },
    thread::{self, ThreadKind},
    virtio::{DeviceError, DiskHandle, QUEUE_DEPTH, Rings, attach_disk, default_queues},
};
use api::vmm::{AttachedDisk, Disk, DiskLimit, DiskStats};
use qcow2::RingPool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Disks beside the system disk there are rings for: as many as an instance may have.
const DATA_DISKS: u32 = 16;
/// Descriptors a queue takes on top of its ring: doorbells, timers, interrupts, and what waits.
const FILES_PER_QUEUE: u32 = 16;

/// Why a request about a disk was refused.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such disk.
    #[error("the machine has no disk {0}")]
    NotFound(String),
    /// Not as things are.
    #[error("{disk}: {problem}")]
    State {
        /// ECS id.
        disk: String,
        /// Why not, and what to do.
        problem: String,
    },
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

/// A disk on its way in, in, or on its way out.
struct Entry {
    disk_id: String,
    /// The first of the description.
    system: bool,
    /// Absent while it is being opened.
    disk: Option<Arc<DiskHandle>>,
    /// When the guest was asked first to let it go.
    asked_unix_ms: Option<u64>,
    /// It is off the bus, or somebody is taking it off.
    out: bool,
}

impl Entry {
    fn present(&self) -> Option<&Arc<DiskHandle>> {
        self.disk.as_ref().filter(|_| !self.out)
    }
}

/// All disks.
pub struct Disks {
    root: Arc<PciRoot>,
    memory: GuestMemory,
    vcpus: u32,
    rings: Arc<RingPool>,
    hotplug: Arc<HotplugController>,
    /// Held for a moment only: whatever takes long happens without.
    set: Mutex<Vec<Entry>>,
    /// Devices whose disks are gone, and whose slots the guest has not given back yet.
    husks: Mutex<Vec<Arc<DiskHandle>>>,
    this: Weak<Self>,
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
        let disks = Arc::new_cyclic(|this: &Weak<Self>| Self {
            root: Arc::clone(root),
            memory: memory.clone(),
            vcpus,
            rings: RingPool::new(rings as usize, QUEUE_DEPTH),
            hotplug: Arc::clone(hotplug),
            set: Mutex::new(Vec::new()),
            husks: Mutex::new(Vec::new()),
            this: this.clone(),
        });
        let ejector: Weak<dyn Ejector> = disks.this.clone();
        hotplug.eject_to(ejector);
        disks
    }

    /// Attaches a disk of the description, before the machine runs.
    ///
    /// # Errors
    /// What is wrong with the disk.
    pub fn attach(&self, disk: &Disk, system: bool) -> Result<(), DeviceError> {
        let rings = if system { Rings::New } else { Rings::Pooled(Arc::clone(&self.rings)) };
        let handle = attach_disk(&self.root, &self.memory, self.vcpus, disk, rings)?;
        self.set().push(Entry {
            disk_id: disk.disk_id.clone(),
            system,
            disk: Some(Arc::new(handle)),
            asked_unix_ms: None,
            out: false,
        });
        Ok(())
    }

    /// Slots that the disks which may come and go can be in: bit `n` for slot `n`.
    pub fn changing_slots(&self) -> u32 {
        let mine = self.set().iter().fold(0, |mine, entry| match &entry.disk {
            Some(disk) if !entry.system => mine | 1 << disk.slot().slot,
            _ => mine,
        });
        !self.root.taken() | mine
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
        let mut disks: Vec<_> = self
            .set()
            .iter()
            .filter_map(|entry| {
                let disk = entry.disk.as_ref()?;
                let mut attached = AttachedDisk {
                    disk_id: entry.disk_id.clone(),
                    slot: disk.slot().slot.into(),
                    detaching: entry.asked_unix_ms.is_some(),
                    detach_asked_unix_ms: entry.asked_unix_ms.unwrap_or(0),
                    size_bytes: disk.size(),
                    limit: disk.limit(),
                    chain_epoch: disk.chain_epoch(),
                    in_use: disk.in_use(),
                    ..AttachedDisk::default()
                };
                disk.trouble(&mut attached);
                Some(attached)
            })
            .collect();
        disks.sort_by_key(|disk| disk.slot);
        disks
    }

    /// What each has done so far.
    pub fn stats(&self) -> Vec<DiskStats> {
        self.set().iter().filter_map(|entry| Some(entry.present()?.stats())).collect()
    }

    /// Another rate for a disk.
    ///
    /// # Errors
    /// If there is no such disk.
    pub fn set_limit(&self, disk_id: &str, limit: Option<&DiskLimit>) -> Result<(), DiskError> {
        self.find(disk_id)?.set_limit(limit);
        Ok(())
    }

    /// Makes every completed write of every disk last.
    ///
    /// # Errors
    /// What went wrong with the first disk that could not; the others are flushed all the same.
    pub fn flush(&self) -> Result<(), DeviceError> {
        let mut outcome = Ok(());
        for disk in self.handles() {
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
        for disk in self.handles() {
            disk.stop();
        }
    }

    /// Every disk whose files are open.
    fn handles(&self) -> Vec<Arc<DiskHandle>> {
        self.set().iter().filter_map(|entry| entry.disk.clone()).collect()
    }

    fn find(&self, disk_id: &str) -> Result<Arc<DiskHandle>, DiskError> {
        let set = self.set();
        let entry = set.iter().find(|entry| entry.disk_id == disk_id);
        entry
            .and_then(Entry::present)
            .cloned()
            .ok_or_else(|| DiskError::NotFound(disk_id.to_owned()))
    }

    fn set(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn husks(&self) -> MutexGuard<'_, Vec<Arc<DiskHandle>>> {
        self.husks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk in `slot` that the guest may let go of. It is this call's to take off the bus.
    fn wanted_back(&self, slot: u8) -> Option<Arc<DiskHandle>> {
        let mut set = self.set();
        let mut husks = self.husks();
        if let Some(at) = husks.iter().position(|husk| husk.slot().slot == slot) {
            return Some(husks.swap_remove(at));
        }
        let entry = set.iter_mut().find(|entry| {
            entry.present().is_some_and(|disk| disk.slot().slot == slot)
                && entry.asked_unix_ms.is_some()
        })?;
        entry.out = true;
        entry.disk.clone()
    }

    /// Closes a disk that is off the bus, and lists it no more. May take long.
    fn finish(&self, disk: Arc<DiskHandle>) {
        disk.close();
        self.forget(&disk);
        // Its vectors go with it, and then their routes can.
        drop(disk);
        self.root.router().refresh();
    }

    /// Lists a disk no more whose files are closed.
    fn forget(&self, disk: &Arc<DiskHandle>) {
        let is_it = |other: &Arc<DiskHandle>| Arc::ptr_eq(other, disk);
        self.set().retain(|entry| !entry.disk.as_ref().is_some_and(is_it));
    }
}

impl Ejector for Disks {
    fn ejected(&self, slot: u8) {
        let (Some(disk), Some(this)) = (self.wanted_back(slot), self.this.upgrade()) else {
            return;
        };
        // The guest sees at once that it is gone; the files take their time.
        self.root.detach(disk.slot());
        let closing = thread::spawn(ThreadKind::Disk, "detach", move || this.finish(disk));
        if let Err(error) = closing {
            // The next request to detach it does the rest.
            crate::say::report(format_args!("an ejected disk is not closed yet: {error}"));
        }
    }
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disks").field("disks", &self.handles()).finish_non_exhaustive()
    }
}

/// Now, as it is said to have been asked.
fn now() -> u64 {
    unix_ms().max(1)
}
