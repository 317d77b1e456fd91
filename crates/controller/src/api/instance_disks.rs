//! Disks of a new instance.

use super::disk_shape::{DATA, SYSTEM, Shape};
use crate::{
    disk_state,
    ecs_error::{missing, refuse},
    encryption, snapshot_state, validation,
};
use api::v1::{DataDisk, RunInstancesRequest, SystemDisk};
use kms::KeyManagement;
use store::{DataKeyRecord, DiskRecord, ImageRecord, Refusal, SnapshotRecord};

const GIB: u64 = 1 << 30;

/// Refuses more data disks than the type has places for.
pub(super) fn check_count(
    data_disks: usize,
    instance_type: &catalog::InstanceType,
) -> Result<(), Refusal> {
    if data_disks <= instance_type.max_data_disks as usize {
        return Ok(());
    }
    Err(refuse(
        400,
        "InstanceDiskNumber.LimitExceed",
        format!(
            "the instance would have {data_disks} data disks; {} has at most {}",
            instance_type.id, instance_type.max_data_disks
        ),
    ))
}

/// The disks of one instance: the system disk, then the image's data disks, then those the request
/// names. Ids, zone and time are still to be given.
pub(super) fn of(
    request: &RunInstancesRequest,
    image: &ImageRecord,
    snapshots: &[SnapshotRecord],
) -> Result<Vec<DiskRecord>, Refusal> {
    let image_gib = image.virtual_bytes.div_ceil(GIB);
    let default = SystemDisk::default();
    let system = request.system_disk.as_ref().unwrap_or(&default);
    let mut disks = vec![system_disk(system, image, image_gib)?];
    let of_image = image.disks.iter().skip(1).map(|disk| DataDisk {
        size: u32::try_from(disk.size_gib).unwrap_or(u32::MAX),
        snapshot_id: disk.snapshot_id.clone(),
        ..Default::default()
    });
    let of_image: Vec<DataDisk> = of_image.collect();
    for data in of_image.iter().chain(&request.data_disk) {
        disks.push(data_disk(data, disks.len() - 1, snapshots)?);
    }
    Ok(disks)
}

/// New data keys for the disks of one instance that the request wants encrypted.
#[derive(Debug, Clone)]
pub(super) struct NewKeys {
    system: Option<DataKeyRecord>,
    /// Of those the request names.
    data: Vec<Option<DataKeyRecord>>,
}

impl NewKeys {
    pub(super) fn make(
        kms: &dyn KeyManagement,
        request: &RunInstancesRequest,
    ) -> Result<Self, Refusal> {
        let system = request.system_disk.as_ref();
        let data = request.data_disk.iter();
        Ok(Self {
            system: match system {
                Some(disk) => encryption::new_key(kms, disk.encrypted, &disk.kms_key_id)?,
                None => None,
            },
            data: data
                .map(|disk| encryption::new_key(kms, disk.encrypted, &disk.kms_key_id))
                .collect::<Result<_, _>>()?,
        })
    }

    /// For the disk at `position` of `count`, unless it has the key of what it is made from.
    pub(super) fn give(&self, disk: &mut DiskRecord, position: usize, count: usize) {
        if disk.data_key.is_some() {
            return;
        }
        disk.data_key = match position {
            0 => self.system.clone(),
            // Those of the image come first.
            _ => (position + self.data.len())
                .checked_sub(count)
                .and_then(|index| self.data.get(index).cloned())
                .flatten(),
        };
    }
}

fn system_disk(
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
    disk.pool_id.clone_from(&wanted.storage_pool_id);
    shape.check_extras(wanted.provisioned_iops, wanted.bursting_enabled)?;
    disk.provisioned_iops = wanted.provisioned_iops;
    disk.bursting_enabled = wanted.bursting_enabled;
    shape.give(&mut disk, size_gib, &SYSTEM)?;
    let source = format!("image {}", image.image_id);
    encryption::begin_with(&mut disk, &wanted.kms_key_id, image.data_key.as_ref(), &source)?;
    disk.image_id.clone_from(&image.image_id);
    disk.system = true;
    disk.delete_with_instance = true;
    Ok(disk)
}

fn data_disk(
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
        snapshot_state::begin_with(&mut disk, snapshot, &wanted.kms_key_id)?;
    }
    let pool_id = &wanted.storage_pool_id;
    if disk.pool_id.is_empty() {
        disk.pool_id.clone_from(pool_id);
    } else if !pool_id.is_empty() && *pool_id != disk.pool_id {
        return Err(refuse(
            400,
            "InvalidParameter.Conflict",
            format!(
                "snapshot {} is in storage pool {}, and a disk made from it has to be there, not \
                 in {pool_id}; leave storage_pool_id out",
                wanted.snapshot_id, disk.pool_id
            ),
        ));
    }
    if size == 0 {
        return Err(missing(&format!("data_disk[{index}].size")));
    }
    shape.check_extras(wanted.provisioned_iops, wanted.bursting_enabled)?;
    disk.provisioned_iops = wanted.provisioned_iops;
    disk.bursting_enabled = wanted.bursting_enabled;
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
