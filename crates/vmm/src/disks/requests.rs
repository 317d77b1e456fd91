//! What can be asked of disks while the machine runs. Each may take long, and each can be asked again
//! after an answer got lost.

use super::{DiskError, Disks, Entry, layers, now};
use crate::{control::Files, virtio::plug_disk};
use api::vmm::{AttachDisk, Disk, LayersSwitched, ResizeDisk, SwitchLayers};
use std::sync::Arc;

const SECTOR: u64 = 512;

/// What is left to do to take a disk out.
enum Rest {
    /// It is off the bus, or whoever takes it off is at it: it is closed, once.
    Close,
    /// No driver has it: all of it.
    Detach,
    /// A driver has it, and keeps a device that does nothing any more.
    Abandon,
}

impl Disks {
    /// Plugs a disk in and tells the guest.
    ///
    /// # Errors
    /// [`DiskError`]; the machine is as before.
    pub fn plug(&self, request: &AttachDisk, files: &mut Files) -> Result<(), DiskError> {
        let none = || DiskError::Argument {
            disk: "AttachDisk".to_owned(),
            problem: "names no disk".to_owned(),
        };
        let wanted = request.disk.as_ref().ok_or_else(none)?;
        if !self.announce(wanted)? {
            return Ok(());
        }
        let opened = layers::open(&wanted.disk_id, &wanted.layers, files).and_then(|layers| {
            let (root, memory) = (&self.root, &self.memory);
            Ok(plug_disk(root, memory, self.vcpus, wanted, layers, &self.rings)?)
        });
        let mut set = self.set();
        let place = set.iter_mut().find(|entry| entry.disk_id == wanted.disk_id);
        match (opened, place) {
            (Ok(disk), Some(entry)) => {
                let slot = disk.slot().slot;
                entry.disk = Some(Arc::new(disk));
                self.tell(slot);
                Ok(())
            }
            (Ok(disk), None) => {
                // Nobody takes away an entry that is being opened; but if, then not half of it.
                drop(set);
                self.root.detach(disk.slot());
                disk.close();
                Err(DiskError::NotFound(wanted.disk_id.clone()))
            }
            (Err(error), _) => {
                set.retain(|entry| entry.disk_id != wanted.disk_id);
                drop(set);
                self.root.router().refresh();
                Err(error)
            }
        }
    }

    /// Makes an entry for a disk that is to be opened; `false` if it is there already.
    fn announce(&self, wanted: &Disk) -> Result<bool, DiskError> {
        let disk_id = &wanted.disk_id;
        let state =
            |problem: &str| DiskError::State { disk: disk_id.clone(), problem: problem.to_owned() };
        let mut set = self.set();
        let Some(entry) = set.iter().find(|entry| entry.disk_id == *disk_id) else {
            set.push(Entry {
                disk_id: disk_id.clone(),
                system: false,
                disk: None,
                asked_unix_ms: None,
                out: false,
            });
            return Ok(true);
        };
        match &entry.disk {
            None => Err(state("another request is attaching it; ask again")),
            Some(_) if entry.out || entry.asked_unix_ms.is_some() => {
                Err(state("it is being detached; attach it again once it is gone"))
            }
            Some(disk) => {
                if !disk.in_use() {
                    self.tell(disk.slot().slot);
                }
                Ok(false)
            }
        }
    }

    fn tell(&self, slot: u8) {
        if let Err(error) = self.hotplug.plugged(slot) {
            crate::say::report(format_args!("the guest is not told of slot {slot}: {error}"));
        }
    }

    /// Asks the guest to let a disk go, or takes it out by force.
    ///
    /// # Errors
    /// [`DiskError`] for a disk that is not there, or must not be taken out.
    pub fn unplug(&self, disk_id: &str, force: bool) -> Result<(), DiskError> {
        let (disk, rest) = {
            let mut set = self.set();
            let Some(entry) = set.iter_mut().find(|entry| entry.disk_id == disk_id) else {
                return Err(DiskError::NotFound(disk_id.to_owned()));
            };
            let state = |problem: &str| DiskError::State {
                disk: disk_id.to_owned(),
                problem: problem.to_owned(),
            };
            if entry.system {
                return Err(state("the system disk stays; stop the instance to change it"));
            }
            let Some(disk) = entry.disk.clone() else {
                return Err(state("another request is attaching it; ask again"));
            };
            entry.asked_unix_ms.get_or_insert_with(now);
            let mut rest = Rest::Close;
            if !entry.out {
                // With force too, and before the slot is free: a guest that has the disk learns that
                // it is gone, and learns it before it hears of the slot's next disk.
                let slot = disk.slot().slot;
                if let Err(error) = self.hotplug.want_back(slot) {
                    let what = format_args!("the guest is not asked for slot {slot}: {error}");
                    crate::say::report(what);
                }
                if !force {
                    return Ok(());
                }
                entry.out = true;
                rest = Rest::Detach;
                if disk.in_use() {
                    self.husks().push(Arc::clone(&disk));
                    rest = Rest::Abandon;
                }
            }
            (disk, rest)
        };
        match rest {
            Rest::Close => self.finish(disk),
            Rest::Detach => {
                self.root.detach(disk.slot());
                self.finish(disk);
            }
            Rest::Abandon => {
                disk.abandon();
                self.forget(&disk);
            }
        }
        Ok(())
    }

    /// Grows a disk and tells the guest.
    ///
    /// # Errors
    /// [`DiskError`]; the disk has its old size, or after an error of the host perhaps the new one,
    /// which the next try finds out.
    pub fn resize(&self, request: &ResizeDisk) -> Result<(), DiskError> {
        let ResizeDisk { disk_id, size_bytes } = request;
        let disk = self.find(disk_id)?;
        let refuse = |problem: String| DiskError::Argument { disk: disk_id.clone(), problem };
        if !size_bytes.is_multiple_of(SECTOR) {
            return Err(refuse(format!("{size_bytes} bytes are no whole number of sectors")));
        }
        let old = disk.size();
        if *size_bytes < old {
            let problem = format!("it has {old} bytes and cannot shrink to {size_bytes}");
            return Err(refuse(problem));
        }
        if *size_bytes > old {
            disk.grow(*size_bytes)?;
        }
        Ok(())
    }

    /// Puts a disk on other layers.
    ///
    /// # Errors
    /// [`DiskError`]; the disk is on its old layers.
    pub fn switch_layers(
        &self,
        request: &SwitchLayers,
        files: &mut Files,
    ) -> Result<LayersSwitched, DiskError> {
        let SwitchLayers { disk_id, chain_epoch, top, backing } = request;
        let disk = self.find(disk_id)?;
        if disk.chain_epoch() == *chain_epoch {
            return Ok(LayersSwitched { paused_ns: 0 });
        }
        let top = layers::open(disk_id, top, files)?.pop();
        let backing = layers::open(disk_id, backing, files)?;
        let paused = disk.switch_layers(*chain_epoch, top, backing)?;
        Ok(LayersSwitched { paused_ns: u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX) })
    }
}
