//! What a person may ask of a disk in which state.

use super::{AVAILABLE, DETACHING, IN_USE, device, reason, refresh};
use crate::{
    ecs_error::refuse,
    eni_state::MOST_DEVICES,
    instance_state::{RUNNING, STOPPED},
    scheduler::{self, DiskNeed},
};
use catalog::MAX_DATA_DISKS;
use store::{DiskRecord, HostRecord, InstanceDetails, InstanceRecord, PoolState, Refusal};

/// Last place that has a device name.
const LAST_POSITION: u32 = 25;

/// Where a disk is to go.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// The instance with the disks it has.
    pub details: &'a InstanceDetails,
    /// Disks that the instance is still to give up.
    pub leaving: &'a [DiskRecord],
    /// Its host.
    pub host: &'a HostRecord,
    /// Disks that have layers in common with the one that is to go there, that one too.
    pub mates: &'a [DiskRecord],
}

impl Seat<'_> {
    /// Places that are taken: a disk that leaves still has its own.
    fn taken(&self) -> Vec<u32> {
        let instance_id = &self.details.instance.instance_id;
        let leaving = self.leaving.iter().filter(|d| d.reported.instance_id == *instance_id);
        self.details.disks.iter().chain(leaving).map(|disk| disk.position).collect()
    }
}

/// The place that a device name means, or the first that is free.
///
/// # Errors
/// `InvalidDevice.Malformed`, `InvalidDevice.InUse`, `InstanceDiskLimitExceeded`.
pub fn seat(seat: &Seat<'_>, wanted: &str) -> Result<u32, Refusal> {
    let taken = seat.taken();
    let instance_id = &seat.details.instance.instance_id;
    let kind = catalog::instance_type(&seat.details.instance.instance_type);
    let slots = MOST_DEVICES.saturating_sub(1 + seat.details.enis.len());
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let most = kind.map_or(MAX_DATA_DISKS, |kind| kind.max_data_disks).min(slots);
    let data = taken.iter().filter(|position| **position > 0).count();
    if data >= most as usize {
        return Err(refuse(
            403,
            "InstanceDiskLimitExceeded",
            format!(
                "instance {instance_id} has {data} data disks of at most {most}; detach one first"
            ),
        ));
    }
    if wanted.is_empty() {
        return (1..=LAST_POSITION).find(|position| !taken.contains(position)).ok_or_else(|| {
            refuse(
                403,
                "InstanceDiskLimitExceeded",
                format!("instance {instance_id} has no device name left; detach a disk first"),
            )
        });
    }
    let position = (1..=LAST_POSITION).find(|position| device(*position) == wanted);
    let position = position.ok_or_else(|| {
        refuse(
            400,
            "InvalidDevice.Malformed",
            format!(
                "device {wanted:?} must be /dev/xvdb to /dev/xvdz; leave it out for a free one"
            ),
        )
    })?;
    if taken.contains(&position) {
        return Err(refuse(
            403,
            "InvalidDevice.InUse",
            format!(
                "device {wanted} of instance {instance_id} is taken; leave it out for a free one"
            ),
        ));
    }
    Ok(position)
}

/// Wants an Available disk at an instance. A disk that has no place yet gets one in a pool of
/// the instance's host. Gives the changed instance.
///
/// # Errors
/// `IncorrectDiskStatus`, `InvalidDisk.InUse`, `IncorrectInstanceStatus`, `ResourcesNotInSameZone`,
/// `OperationDenied` for a disk of another host, `OperationDenied.NoStock` without room, and those
/// of [`seat`].
pub fn attach(
    disk: &mut DiskRecord,
    to: &Seat<'_>,
    wanted_device: &str,
    now: i64,
) -> Result<InstanceRecord, Refusal> {
    let mut instance = to.details.instance.clone();
    let (disk_id, instance_id) = (&disk.disk_id, &instance.instance_id);
    if !disk.instance_id.is_empty() {
        return Err(refuse(
            403,
            "InvalidDisk.InUse",
            format!("disk {disk_id} is at instance {}; detach it first", disk.instance_id),
        ));
    }
    expect(disk, &[AVAILABLE], "AttachDisk")?;
    expect_steady(&instance, "AttachDisk")?;
    if disk.zone_id != instance.zone_id {
        return Err(refuse(
            403,
            "ResourcesNotInSameZone",
            format!(
                "disk {disk_id} is in zone {}, instance {instance_id} in zone {}; use an instance \
                 of the disk's zone",
                disk.zone_id, instance.zone_id
            ),
        ));
    }
    if disk.host_id.is_empty() {
        let need = DiskNeed { gib: disk.size_gib, ..Default::default() };
        disk.pool_id = scheduler::choose(to.host, &need).map_err(|reason| {
            refuse(
                403,
                "OperationDenied.NoStock",
                format!(
                    "disk {disk_id} has to go to host {} of instance {instance_id}, which {reason}; \
                     delete disks or snapshots there, or use an instance on another host",
                    to.host.host_id
                ),
            )
        })?;
    } else if disk.host_id != instance.host_id && !disk.tree_id.is_empty() {
        can_move(disk, to)?;
    } else if disk.host_id != instance.host_id {
        return Err(refuse(
            403,
            "OperationDenied",
            format!(
                "the data of disk {disk_id} is on host {}, instance {instance_id} is on host {}; \
                 attach it to an instance on host {}, or copy the data over the network to a new \
                 disk",
                disk.host_id, instance.host_id, disk.host_id
            ),
        ));
    }
    disk.position = seat(to, wanted_device)?;
    disk.host_id.clone_from(&instance.host_id);
    disk.instance_id.clone_from(&instance.instance_id);
    disk.attached_ms = now;
    refresh(disk);
    instance.generation += 1;
    Ok(instance)
}

/// Whether a disk of a shared pool can go to another host: all that it has layers in common with
/// goes with it.
fn can_move(disk: &DiskRecord, to: &Seat<'_>) -> Result<(), Refusal> {
    let (disk_id, pool_id, host_id) = (&disk.disk_id, &disk.pool_id, &to.host.host_id);
    let denied = |message: String| Err(refuse(403, "OperationDenied", message));
    match to.host.pools.iter().find(|pool| pool.pool_id == *pool_id) {
        None => {
            return denied(format!(
                "disk {disk_id} is in shared storage pool {pool_id}, which host {host_id} of \
                 instance {} does not have; start its agent with --pool name=NAME,path=DIR,shared, \
                 or use an instance on a host that has the pool",
                to.details.instance.instance_id
            ));
        }
        Some(pool) if pool.state == PoolState::Unavailable => {
            return denied(format!(
                "host {host_id} cannot reach storage pool {pool_id} of disk {disk_id}: {}",
                pool.message
            ));
        }
        Some(_) => {}
    }
    let in_use = |mate: &&DiskRecord| {
        mate.disk_id != *disk_id && mate.host_id != *host_id && !super::instance_of(mate).is_empty()
    };
    match to.mates.iter().find(in_use) {
        None => Ok(()),
        Some(mate) => denied(format!(
            "disk {disk_id} has snapshots in common with disk {}, which is at instance {} on host \
             {}, and both can only be on one host; detach that one first, or use an instance on \
             that host",
            mate.disk_id,
            super::instance_of(mate),
            mate.host_id
        )),
    }
}

/// The host of a disk of a shared pool is lost: a disk that is wanted at no instance is free, as the
/// lease in the pool keeps it from being used twice.
pub fn free_of_lost_host(disk: &mut DiskRecord, hosts: &[HostRecord]) {
    let lost = hosts.iter().any(|host| host.host_id == disk.host_id && host.lost);
    if lost && !disk.tree_id.is_empty() && disk.instance_id.is_empty() {
        disk.reported.instance_id.clear();
        refresh(disk);
    }
}

/// Wants a disk at its instance no more, also one that did not get there yet. Gives the changed
/// instance.
///
/// # Errors
/// `IncorrectDiskStatus`, `InvalidParameter.Mismatch` for another instance, `OperationDenied` for a
/// system disk, `IncorrectInstanceStatus`.
pub fn detach(
    disk: &mut DiskRecord,
    instance: &InstanceRecord,
    now: i64,
) -> Result<InstanceRecord, Refusal> {
    let disk_id = &disk.disk_id;
    if disk.instance_id.is_empty() {
        expect(disk, &[IN_USE], "DetachDisk")?;
    }
    if disk.instance_id != instance.instance_id {
        return Err(refuse(
            403,
            "InvalidParameter.Mismatch",
            format!(
                "disk {disk_id} is at instance {}, not at {}; name that one",
                disk.instance_id, instance.instance_id
            ),
        ));
    }
    if disk.system {
        return Err(refuse(
            403,
            "OperationDenied",
            format!(
                "disk {disk_id} is the system disk of instance {}, which cannot be without; \
                 only data disks can be detached",
                instance.instance_id
            ),
        ));
    }
    expect(disk, &[IN_USE, super::ATTACHING, super::CREATING], "DetachDisk")?;
    expect_steady(instance, "DetachDisk")?;
    // The host may have given it to the guest already and not said so yet.
    disk.reported.instance_id = std::mem::take(&mut disk.instance_id);
    disk.detached_ms = now;
    refresh(disk);
    let mut instance = instance.clone();
    instance.generation += 1;
    Ok(instance)
}

/// Wants nothing left of a disk. Asking twice is asking once.
///
/// # Errors
/// `DiskStillAttached` or `IncorrectDiskStatus` unless it is Available.
pub fn release(disk: &mut DiskRecord) -> Result<(), Refusal> {
    if disk.releasing {
        return Ok(());
    }
    if disk.status == DETACHING || !disk.instance_id.is_empty() {
        let at = super::instance_of(disk);
        let todo = if disk.system {
            format!("delete instance {at}, or replace its system disk")
        } else if disk.status == DETACHING {
            format!("wait until it is detached from instance {at}")
        } else {
            format!("detach it from instance {at} first")
        };
        return Err(refuse(
            403,
            "DiskStillAttached",
            format!("disk {} is {}; {todo}", disk.disk_id, disk.status),
        ));
    }
    expect(disk, &[AVAILABLE], "DeleteDisk")?;
    disk.releasing = true;
    refresh(disk);
    Ok(())
}

/// `IncorrectDiskStatus` unless the disk is in one of these.
pub(crate) fn expect(disk: &DiskRecord, wanted: &[&str], action: &str) -> Result<(), Refusal> {
    if !disk.releasing && wanted.contains(&disk.status.as_str()) {
        return Ok(());
    }
    let mut state = if disk.releasing { "being deleted" } else { disk.status.as_str() }.to_owned();
    let why = reason(disk);
    if !why.is_empty() && !disk.releasing {
        state = format!("{state} ({why})");
    }
    Err(refuse(
        403,
        "IncorrectDiskStatus",
        format!("disk {} is {state}; {action} needs {}", disk.disk_id, wanted.join(" or ")),
    ))
}

/// `IncorrectInstanceStatus` unless the instance is Running or Stopped, and stays.
///
/// # Errors
/// `IncorrectInstanceStatus`.
pub fn expect_steady(instance: &InstanceRecord, action: &str) -> Result<(), Refusal> {
    if !instance.releasing && [RUNNING, STOPPED].contains(&instance.status.as_str()) {
        return Ok(());
    }
    let state = if instance.releasing { "being released" } else { instance.status.as_str() };
    Err(refuse(
        403,
        "IncorrectInstanceStatus",
        format!(
            "instance {} is {state}; {action} needs Running or Stopped: wait for it",
            instance.instance_id
        ),
    ))
}
