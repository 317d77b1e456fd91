//! Disks of a new instance.

use super::disk_shape::{DATA, SYSTEM, Shape};
use crate::{
    disk_state,
    ecs_error::{missing, refuse},
    snapshot_state, validation,
};
use api::v1::{DataDisk, SystemDisk};
use store::{DiskRecord, ImageRecord, Refusal, SnapshotRecord};

pub(super) fn system_disk(
    wanted: &SystemDisk,
    image: &ImageRecord,
    image_gib: u64,
) -> Result<DiskRecord, Refusal> {
    let shape = Shape::parse(&wanted.category, &wanted.performance_level, &SYSTEM)?;
    let least = shape.least()?;
    let size_gib = if wanted.size == 0 {
        u32::try_from(image_gib).unwrap_or(u32::MAX).max(least)
    } else {
        wanted.size
    };
    if u64::from(size_gib) < image_gib {
        return Err(refuse(
            400,
            "InvalidSystemDiskSize.LessThanImageSize",
            format!(
                "the system disk would have {size_gib} GiB, image {} needs {image_gib}",
                image.image_id
            ),
        ));
    }
    let mut disk = named(&wanted.disk_name, &wanted.description)?;
    shape.give(&mut disk, size_gib, &SYSTEM)?;
    disk.image_id.clone_from(&image.image_id);
    disk.system = true;
    disk.delete_with_instance = true;
    Ok(disk)
}

pub(super) fn data_disk(
    wanted: &DataDisk,
    index: usize,
    snapshots: &[SnapshotRecord],
) -> Result<DiskRecord, Refusal> {
    let shape = Shape::parse(&wanted.category, &wanted.performance_level, &DATA)?;
    let mut disk = named(&wanted.disk_name, &wanted.description)?;
    let mut size = wanted.size;
    if !wanted.snapshot_id.is_empty() {
        let snapshot = snapshot_state::ready(snapshots, &wanted.snapshot_id)?;
        size = size.max(u32::try_from(snapshot.disk_size_gib).unwrap_or(u32::MAX));
        snapshot_state::begin_with(&mut disk, snapshot);
    }
    if size == 0 {
        return Err(missing(&format!("data_disk[{index}].size")));
    }
    shape.give(&mut disk, size, &DATA)?;
    disk.position = u32::try_from(index + 1).unwrap_or(u32::MAX);
    disk.delete_with_instance = wanted.delete_with_instance.unwrap_or(true);
    Ok(disk)
}

fn named(name: &str, description: &str) -> Result<DiskRecord, Refusal> {
    validation::display_name("InvalidDiskName.Malformed", "disk name", name)?;
    validation::description("InvalidDiskDescription.Malformed", description)?;
    Ok(DiskRecord {
        name: name.to_owned(),
        description: description.to_owned(),
        generation: 1,
        ..Default::default()
    })
}

/// The disk for one instance of the call.
pub(super) fn at_instance(
    disk: &DiskRecord,
    disk_id: String,
    instance_id: &str,
    host_id: &str,
    pool_id: &str,
) -> DiskRecord {
    let mut disk = DiskRecord {
        disk_id,
        instance_id: instance_id.to_owned(),
        host_id: host_id.to_owned(),
        pool_id: pool_id.to_owned(),
        attached_ms: disk.created_ms,
        ..disk.clone()
    };
    disk_state::refresh(&mut disk);
    disk
}
