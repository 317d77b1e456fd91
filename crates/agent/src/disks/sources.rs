//! What a disk is made from: nothing, an image copy, or a snapshot's layer.

use super::layering::{Below, Layering};
use crate::{
    disks::{merge::unreadable, tops::open_below},
    error::{Error, Result},
    layout::Layout,
};
use api::{
    host::{DiskSpec, HostSpec, ImageSpec},
    vmm::DiskFormat,
};

/// The spec's images, and which of them are here.
pub struct Sources<'a> {
    /// The spec.
    pub spec: &'a HostSpec,
    /// Why an image is not here yet.
    pub image_error: &'a dyn Fn(&str) -> Option<Error>,
}

impl Sources<'_> {
    /// What the disk's first top lies on.
    pub fn below(&self, disk: &DiskSpec) -> Result<Below> {
        if !disk.source_snapshot_id.is_empty() {
            return Ok(Below::Layer(disk.source_snapshot_id.clone()));
        }
        if disk.image_id.is_empty() {
            return Ok(Below::Nothing);
        }
        let image = image_of(self.spec, &disk.disk_id, &disk.image_id)?;
        let raw = image_format(image)? == DiskFormat::Raw;
        Ok(Below::Image { id: disk.image_id.clone(), raw })
    }

    /// The name of `below` for a file's header, and the least size of a disk on it. Refuses what is
    /// not here.
    pub fn backing(
        &self,
        layout: &Layout,
        layering: &Layering,
        disk: &DiskSpec,
        below: &Below,
    ) -> Result<(Option<qcow2::Backing>, u64)> {
        match below {
            Below::Nothing => Ok((None, 0)),
            Below::Image { id, raw } => {
                let image = image_of(self.spec, &disk.disk_id, id)?;
                if let Some(error) = (self.image_error)(id) {
                    return Err(error);
                }
                let name = format!("../images/{id}");
                let format = qcow2_format(format_of(*raw));
                Ok((Some(qcow2::Backing { name, format }), image.virtual_bytes))
            }
            Below::Layer(id) => {
                if !layering.layers.contains_key(id) {
                    let message = format!("snapshot {id} has not been taken on this host yet");
                    return Err(Error::resource(&disk.disk_id, "SnapshotNotReady", message));
                }
                let path = layout.layer(id);
                let info = qcow2::probe(&open_below(&path)?)
                    .map_err(|e| unreadable(&disk.disk_id, &path, &e))?;
                let backing = qcow2::Backing { name: layer_name(id), format: qcow2::Format::Qcow2 };
                Ok((Some(backing), info.virtual_size))
            }
        }
    }
}

/// A layer as a file in the disk directory names it.
pub(super) fn layer_name(id: &str) -> String {
    format!("../layers/{id}.qcow2")
}

/// The image of the spec.
pub(super) fn image_of<'a>(
    spec: &'a HostSpec,
    disk_id: &str,
    image_id: &str,
) -> Result<&'a ImageSpec> {
    spec.images.iter().find(|i| i.image_id == image_id).ok_or_else(|| {
        let message = format!("its image {image_id} is not in this host's spec");
        Error::resource(disk_id, "ImageNotReady", message)
    })
}

/// The format of an image's file.
pub(super) fn image_format(image: &ImageSpec) -> Result<DiskFormat> {
    match image.format.to_ascii_lowercase().as_str() {
        "qcow2" => Ok(DiskFormat::Qcow2),
        "raw" => Ok(DiskFormat::Raw),
        other => Err(Error::resource(
            &image.image_id,
            "InvalidImageFormat.Unsupported",
            format!("image format {other:?} is not one of qcow2, raw; import it in one of these"),
        )),
    }
}

/// A file's format by the account of layers.
pub(super) fn format_of(raw: bool) -> DiskFormat {
    if raw { DiskFormat::Raw } else { DiskFormat::Qcow2 }
}

/// The same for the image crate.
pub(super) fn qcow2_format(format: DiskFormat) -> qcow2::Format {
    match format {
        DiskFormat::Raw => qcow2::Format::Raw,
        _ => qcow2::Format::Qcow2,
    }
}
