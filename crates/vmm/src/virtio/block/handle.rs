//! A disk in the machine, for those who are not its guest.

use super::{queue::DiskShared, rates};
use crate::{
    pci::SlotInfo,
    plugged::Pluggable,
    virtio::{DeviceError, block::config::SECTOR, transport::VirtioPci},
};
use api::vmm::{AttachedDisk, Disk, DiskLimit, DiskStats};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A disk in the machine.
pub struct DiskHandle {
    disk_id: String,
    slot: SlotInfo,
    shared: Arc<DiskShared>,
    /// Taken away as the disk is closed. Whoever works on the image holds this for reading.
    image: RwLock<Option<Arc<qcow2::Image>>>,
    function: Arc<VirtioPci>,
    limit: Mutex<Option<DiskLimit>>,
    chain_epoch: AtomicU64,
    /// Held while size or layers change.
    changing: Mutex<()>,
}

impl DiskHandle {
    pub(super) fn new(
        disk: &Disk,
        slot: SlotInfo,
        shared: Arc<DiskShared>,
        image: Arc<qcow2::Image>,
        function: Arc<VirtioPci>,
    ) -> Self {
        Self {
            disk_id: disk.disk_id.clone(),
            slot,
            shared,
            image: RwLock::new(Some(image)),
            function,
            limit: Mutex::new(disk.limit),
            chain_epoch: AtomicU64::new(disk.chain_epoch),
            changing: Mutex::new(()),
        }
    }

    /// ECS id.
    pub fn disk_id(&self) -> &str {
        &self.disk_id
    }

    /// What was done so far.
    pub fn stats(&self) -> DiskStats {
        self.shared.counters.snapshot(&self.disk_id)
    }

    /// What the host does not let it do.
    pub fn trouble(&self, disk: &mut AttachedDisk) {
        self.shared.trouble.describe(disk);
    }

    /// Bytes the guest is told of.
    pub fn size(&self) -> u64 {
        self.shared.geometry().sectors * SECTOR
    }

    /// The rate it has. `None` is unlimited.
    pub fn limit(&self) -> Option<DiskLimit> {
        *self.limit_slot()
    }

    /// Another sustained rate, for requests that already wait too. `None` is unlimited.
    pub fn set_limit(&self, limit: Option<&DiskLimit>) {
        let mut slot = self.limit_slot();
        *slot = limit.copied();
        self.shared.limiter.set(rates(limit));
    }

    fn limit_slot(&self) -> MutexGuard<'_, Option<DiskLimit>> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the layers were called when they were given.
    pub fn chain_epoch(&self) -> u64 {
        self.chain_epoch.load(Ordering::Acquire)
    }

    /// Makes every completed write last.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn flush(&self) -> Result<(), DeviceError> {
        self.with_image(qcow2::Image::flush)
    }

    /// Grows the disk to `bytes` and tells the guest. May take long.
    ///
    /// # Errors
    /// [`DeviceError::Image`] says why the image cannot grow so.
    pub fn grow(&self, bytes: u64) -> Result<(), DeviceError> {
        let _one_at_a_time = self.changing();
        self.with_image(|image| image.grow(bytes))?;
        self.function.change_config(|| {
            self.shared.grown_to(bytes);
        });
        Ok(())
    }

    /// Puts the disk on other layers, which are called `epoch` from then on. Returns for how long no
    /// request was served; nothing is done, in no time, if the disk is on them already. May take
    /// long.
    ///
    /// # Errors
    /// [`DeviceError::Image`] says why the disk goes on with the layers it had.
    pub fn switch_layers(
        &self,
        epoch: u64,
        top: Option<qcow2::Layer>,
        backing: Vec<qcow2::Layer>,
        key: Option<&qcow2::Passphrase>,
    ) -> Result<Duration, DeviceError> {
        let _one_at_a_time = self.changing();
        if self.chain_epoch() == epoch {
            return Ok(Duration::ZERO);
        }
        let switched = self.with_image(|image| match key {
            Some(key) => image.switch_encrypted(top, backing, key),
            None => image.switch_layers(top, backing),
        })?;
        self.chain_epoch.store(epoch, Ordering::Release);
        Ok(switched.paused)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_image<T>(
        &self,
        work: impl FnOnce(&qcow2::Image) -> Result<T, qcow2::Error>,
    ) -> Result<T, DeviceError> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        let gone = || DeviceError::Gone { disk: self.disk_id.clone() };
        work(image.as_deref().ok_or_else(gone)?)
            .map_err(|source| DeviceError::Image { disk: self.disk_id.clone(), source })
    }

    fn close_image(&self) {
        // Held until the files are closed: who finds no image here takes them for closed.
        let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = image.take()
            && let Err(error) = image.flush()
        {
            // Nobody is left to tell but people: what the guest flushed itself has lasted before.
            crate::say::say(format_args!("{}: as it was taken out: {error}", self.disk_id));
        }
    }
}

impl Pluggable for DiskHandle {
    fn slot(&self) -> SlotInfo {
        self.slot
    }

    fn in_use(&self) -> bool {
        self.function.in_use()
    }

    /// Finishes what is under way, makes it last and closes the files, under the guest's driver. That
    /// is told that nothing works, so that it can let go of the disk: one that is not there at all
    /// it waits for, and with it all that comes and goes later.
    fn abandon(&self) {
        self.function.abandon();
        self.close_image();
    }

    /// Finishes what is under way, makes it last and closes the files.
    fn close(&self) {
        self.function.close();
        self.close_image();
    }

    fn stop(&self) {
        self.function.reset();
    }
}

impl fmt::Debug for DiskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskHandle")
            .field("disk_id", &self.disk_id)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
