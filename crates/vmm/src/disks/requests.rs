//! What can be asked of disks while the machine runs. Each may take long, and each can be asked again
//! after an answer got lost.

use super::{DiskError, Disks, layers};
use crate::{control::Files, virtio::plug_disk};
use api::vmm::{AttachDisk, LayersSwitched, ResizeDisk, SwitchLayers};

const SECTOR: u64 = 512;

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
        self.plugged.plug(&wanted.disk_id, || {
            let layers = layers::open(&wanted.disk_id, &wanted.layers, files)?;
            let key = layers::key(&wanted.disk_id, wanted.key.as_ref(), files)?;
            let (root, memory) = (&self.root, &self.memory);
            Ok(plug_disk(root, memory, self.vcpus, wanted, (layers, key), &self.rings)?)
        })
    }

    /// Asks the guest to let a disk go, or takes it out by force.
    ///
    /// # Errors
    /// [`DiskError`] for a disk that is not there, or must not be taken out.
    pub fn unplug(&self, disk_id: &str, force: bool) -> Result<(), DiskError> {
        Ok(self.plugged.unplug(disk_id, force)?)
    }

    /// Grows a disk and tells the guest.
    ///
    /// # Errors
    /// [`DiskError`]; the disk has its old size, or after an error of the host perhaps the new one,
    /// which the next try finds out.
    pub fn resize(&self, request: &ResizeDisk) -> Result<(), DiskError> {
        let ResizeDisk { disk_id, size_bytes } = request;
        let disk = self.plugged.find(disk_id)?;
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
        let SwitchLayers { disk_id, chain_epoch, top, backing, key } = request;
        let disk = self.plugged.find(disk_id)?;
        if disk.chain_epoch() == *chain_epoch {
            return Ok(LayersSwitched { paused_ns: 0 });
        }
        let top = layers::open(disk_id, top, files)?.pop();
        let backing = layers::open(disk_id, backing, files)?;
        let key = layers::key(disk_id, key.as_ref(), files)?;
        let paused = disk.switch_layers(*chain_epoch, top, backing, key.as_ref())?;
        Ok(LayersSwitched { paused_ns: u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX) })
    }
}
