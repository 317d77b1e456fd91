//! Disks: virtio-blk on image layers, with a rate limit.

mod arrivals;
mod backend;
mod config;
mod device;
mod handle;
mod image;
mod limiter;
mod lookout;
mod queue;
mod refuser;
mod request;
mod stats;
mod telling;
mod timer;
mod trouble;

#[cfg(test)]
mod limiter_levels;
#[cfg(test)]
mod limiter_model;
#[cfg(test)]
mod limiter_shares;
#[cfg(test)]
mod limiter_tests;
#[cfg(test)]
mod tests;

pub(super) use config::Geometry;
pub use handle::DiskHandle;
pub use image::Rings;
pub use queue::DEPTH as QUEUE_DEPTH;
pub(super) use request::{Request, rehearse};

use super::{DeviceError, transport};
use crate::{
    config::{MAX_DISK_QUEUES, bad, check_disk, check_disk_shape, inherited},
    memory::GuestMemory,
    pci::PciRoot,
};
use api::vmm::{Disk, DiskFormat, DiskLayer, DiskLimit, FileRef, file_ref::Source};
use backend::Backend;
use device::{BlockConfig, BlockDevice};
use image::ImageBackend;
use limiter::Rates;
use queue::DiskShared;
use std::{
    fs::{File, OpenOptions},
    sync::Arc,
};

fn rates(limit: Option<&DiskLimit>) -> Rates {
    limit.map_or_else(Rates::default, |limit| Rates {
        iops: limit.iops,
        bytes_per_second: limit.bytes_per_second,
    })
}

/// A disk's layers, top first, and the key of those that are encrypted.
pub type Layers = (Vec<qcow2::Layer>, Option<qcow2::Passphrase>);

/// Queues of a disk whose description leaves it to the machine.
pub fn default_queues(vcpus: u32) -> u32 {
    vcpus.clamp(1, MAX_DISK_QUEUES)
}

/// Opens a disk's layers and puts the disk on the bus of a machine that does not run yet.
/// Descriptors of the layers are used up.
///
/// # Errors
/// [`DeviceError`] if the configuration or an image is not usable, or the host refuses.
pub fn attach_disk(
    root: &PciRoot,
    memory: &GuestMemory,
    vcpus: u32,
    disk: &Disk,
    rings: Rings,
) -> Result<DiskHandle, DeviceError> {
    let id = disk.disk_id.as_str();
    check_disk(id, disk)?;
    let layers = disk
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| open_layer(id, layer, index == 0 && !disk.read_only));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let key = match &disk.key {
        Some(key) => Some(read_key(id, key)?),
        None => None,
    };
    let Opened { device, shared, image } = open(vcpus, disk, (layers, key), rings)?;
    let (function, slot) =
        transport::attach(root, memory, disk.slot, device).map_err(DeviceError::pci(id))?;
    Ok(DiskHandle::new(disk, slot, shared, image, function))
}

/// Puts a disk of these layers on the bus of a running machine, whose guest does not know yet.
///
/// # Errors
/// As [`attach_disk`].
pub fn plug_disk(
    root: &PciRoot,
    memory: &GuestMemory,
    vcpus: u32,
    disk: &Disk,
    layers: Layers,
    rings: &Arc<qcow2::RingPool>,
) -> Result<DiskHandle, DeviceError> {
    let id = disk.disk_id.as_str();
    check_disk_shape(id, disk)?;
    let rings = Rings::OnlyPooled(Arc::clone(rings));
    let Opened { device, shared, image } = open(vcpus, disk, layers, rings)?;
    let (function, slot) =
        transport::plug(root, memory, disk.slot, device).map_err(DeviceError::pci(id))?;
    Ok(DiskHandle::new(disk, slot, shared, image, function))
}

/// A disk that is on no bus yet.
struct Opened {
    device: Box<BlockDevice>,
    shared: Arc<DiskShared>,
    image: Arc<qcow2::Image>,
}

fn open(
    vcpus: u32,
    disk: &Disk,
    (layers, key): Layers,
    rings: Rings,
) -> Result<Opened, DeviceError> {
    let id = disk.disk_id.as_str();
    let options = qcow2::OpenOptions { read_only: disk.read_only };
    let image = match key {
        Some(key) => qcow2::Image::open_encrypted(layers, options, &key),
        None => qcow2::Image::open(layers, options),
    };
    let image = image.map_err(|source| DeviceError::Image { disk: id.to_owned(), source })?;
    let queues = match disk.queues {
        0 => default_queues(vcpus),
        wanted => wanted,
    };
    let config = BlockConfig {
        disk_id: id.to_owned(),
        read_only: disk.read_only,
        queues: queues as u16,
        rates: rates(disk.limit.as_ref()),
    };
    let backend = ImageBackend { image: Arc::clone(&image), rings };
    if backend.size() < config::SECTOR {
        return Err(bad(id, "it is smaller than a sector of 512 bytes", "give it an image").into());
    }
    let device =
        BlockDevice::new(&config, &backend).map_err(DeviceError::host(id, "set its queues up"))?;
    let shared = device.shared();
    Ok(Opened { device: Box::new(device), shared, image })
}

/// A layer's format, as whoever describes the disk knows it.
///
/// # Errors
/// If it is not said.
pub fn layer_format(id: &str, layer: &DiskLayer) -> Result<qcow2::Format, DeviceError> {
    match layer.format() {
        DiskFormat::Raw => Ok(qcow2::Format::Raw),
        DiskFormat::Qcow2 => Ok(qcow2::Format::Qcow2),
        DiskFormat::Unspecified => Err(bad(id, "a layer has no format", "say RAW or QCOW2").into()),
    }
}

fn read_key(id: &str, key: &FileRef) -> Result<qcow2::Passphrase, DeviceError> {
    let file = match &key.source {
        Some(Source::Fd(fd)) => inherited(*fd),
        Some(Source::Path(path)) => File::open(path),
        None => Err(std::io::ErrorKind::NotFound.into()),
    };
    file.and_then(|file| qcow2::Passphrase::read(&file))
        .map_err(DeviceError::host(id, "read the key of its layers"))
}

fn open_layer(id: &str, layer: &DiskLayer, write: bool) -> Result<qcow2::Layer, DeviceError> {
    let format = layer_format(id, layer)?;
    let source = layer.file.as_ref().and_then(|file| file.source.as_ref());
    let file: std::io::Result<File> = match source {
        Some(Source::Fd(fd)) => inherited(*fd),
        Some(Source::Path(path)) => OpenOptions::new().read(true).write(write).open(path),
        None => Err(std::io::ErrorKind::NotFound.into()),
    };
    let file = file.map_err(DeviceError::host(id, "open a layer"))?;
    Ok(qcow2::Layer { file, format })
}
