//! Disks: virtio-blk on image layers, with a rate limit.

mod backend;
mod config;
mod device;
mod image;
mod limiter;
mod queue;
mod request;
mod stats;

#[cfg(test)]
mod limiter_tests;
#[cfg(test)]
mod tests;

pub(super) use config::Geometry;
pub(super) use request::{Request, rehearse};

use super::{DeviceError, transport};
use crate::{
    config::{MAX_DISK_QUEUES, bad, check_disk, inherited},
    context::MachineContext,
    pci::{PciRoot, SlotInfo},
};
use api::vmm::{Disk, DiskFormat, DiskLayer, DiskLimit, DiskStats, file_ref::Source};
use backend::Backend;
use device::{BlockConfig, BlockDevice};
use image::ImageBackend;
use limiter::Rates;
use queue::DiskShared;
use std::{fmt, fs::OpenOptions, sync::Arc};

/// A disk in the machine.
pub struct DiskHandle {
    disk_id: String,
    slot: SlotInfo,
    shared: Arc<DiskShared>,
    image: Arc<qcow2::Image>,
    function: Arc<transport::VirtioPci>,
}

impl DiskHandle {
    /// ECS id.
    pub fn disk_id(&self) -> &str {
        &self.disk_id
    }

    /// What was done so far.
    pub fn stats(&self) -> DiskStats {
        self.shared.counters.snapshot(&self.disk_id)
    }

    /// Another sustained rate, for requests that already wait too. `None` is unlimited.
    pub fn set_limit(&self, limit: Option<&DiskLimit>) {
        self.shared.limiter.set(rates(limit));
    }

    /// Makes every completed write last.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn flush(&self) -> Result<(), DeviceError> {
        let image = |source| DeviceError::Image { disk: self.disk_id.clone(), source };
        self.image.flush().map_err(image)
    }

    /// Waits for what is under way, and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
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

fn rates(limit: Option<&DiskLimit>) -> Rates {
    limit.map_or_else(Rates::default, |limit| Rates {
        iops: limit.iops,
        bytes_per_second: limit.bytes_per_second,
    })
}

/// Opens a disk's layers and puts the disk on the bus. Descriptors of the layers are used up.
///
/// # Errors
/// [`DeviceError`] if the configuration or an image is not usable, or the host refuses.
pub fn attach_disk(
    root: &PciRoot,
    context: &MachineContext,
    disk: &Disk,
) -> Result<DiskHandle, DeviceError> {
    let id = disk.disk_id.as_str();
    check_disk(id, disk)?;
    let layers = disk
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| open_layer(id, layer, index == 0 && !disk.read_only));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let options = qcow2::OpenOptions { read_only: disk.read_only };
    let image = qcow2::Image::open(layers, options)
        .map_err(|source| DeviceError::Image { disk: id.to_owned(), source })?;
    let queues = match disk.queues {
        0 => context.vcpus.clamp(1, MAX_DISK_QUEUES),
        wanted => wanted,
    };
    let config = BlockConfig {
        disk_id: id.to_owned(),
        read_only: disk.read_only,
        queues: queues as u16,
        rates: rates(disk.limit.as_ref()),
    };
    let backend = ImageBackend(Arc::clone(&image));
    if backend.size() < config::SECTOR {
        return Err(bad(id, "it is smaller than a sector of 512 bytes", "give it an image").into());
    }
    let device =
        BlockDevice::new(&config, &backend).map_err(DeviceError::host(id, "set its queues up"))?;
    let shared = device.shared();
    let (function, slot) = transport::attach(root, &context.memory, disk.slot, Box::new(device))
        .map_err(DeviceError::pci(id))?;
    Ok(DiskHandle { disk_id: id.to_owned(), slot, shared, image, function })
}

fn open_layer(id: &str, layer: &DiskLayer, write: bool) -> Result<qcow2::Layer, DeviceError> {
    let format = match layer.format() {
        DiskFormat::Raw => qcow2::Format::Raw,
        DiskFormat::Qcow2 => qcow2::Format::Qcow2,
        DiskFormat::Unspecified => {
            return Err(bad(id, "a layer has no format", "say RAW or QCOW2").into());
        }
    };
    let source = layer.file.as_ref().and_then(|file| file.source.as_ref());
    let file = match source {
        Some(Source::Fd(fd)) => inherited(*fd),
        Some(Source::Path(path)) => OpenOptions::new().read(true).write(write).open(path),
        None => Err(std::io::ErrorKind::NotFound.into()),
    };
    let file = file.map_err(DeviceError::host(id, "open a layer"))?;
    Ok(qcow2::Layer { file, format })
}
