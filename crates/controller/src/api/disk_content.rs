//! `ResetDisk`, `ReInitDisk` and `ReplaceSystemDisk`: other content for a disk or an instance.

use super::{
    Api,
    disk_shape::{SYSTEM, Shape},
    disks::{found, instance_in},
    instance_disks::at_instance,
    request,
};
use crate::{
    disk_state::{self, AVAILABLE, IN_USE},
    ecs_error::{
        dry_run, from_store, instance_not_found, key_pair_not_found, missing, refuse, unsupported,
    },
    ids, image_state,
    instance_state::STOPPED,
    scheduler::{self, DiskNeed, Needs},
    snapshot_state,
    timestamp::now_ms,
};
use api::v1::*;
use prost::Message as _;
use store::{DiskRecord, DisksLookup, DisksPlan, DisksView, InstanceRecord, Refusal};

const GIB: u64 = 1 << 30;

fn expect_stopped(instance: &InstanceRecord, action: &str) -> Result<(), Refusal> {
    if !instance.releasing && instance.status == STOPPED {
        return Ok(());
    }
    let state = if instance.releasing { "being released" } else { instance.status.as_str() };
    Err(refuse(
        403,
        "IncorrectInstanceStatus",
        format!(
            "instance {} is {state}; {action} needs Stopped: stop it first",
            instance.instance_id
        ),
    ))
}

/// Makes the content anew, from a snapshot, or from the image or nothing.
fn renew(
    disk: &mut DiskRecord,
    snapshot_id: &str,
    view: &DisksView,
    action: &str,
) -> Result<(), Refusal> {
    disk_state::expect(disk, &[IN_USE, AVAILABLE], action)?;
    if let Some(details) = instance_in(view, &disk.instance_id) {
        expect_stopped(&details.instance, action)?;
    }
    let (disk_id, code) = (&disk.disk_id, "DiskCreatingSnapshot");
    snapshot_state::check_none_in_progress(disk_id, &view.snapshots, code)?;
    snapshot_id.clone_into(&mut disk.content_snapshot_id);
    disk.content_epoch += 1;
    disk.generation += 1;
    disk_state::refresh(disk);
    Ok(())
}

fn reset(disk: &mut DiskRecord, snapshot_id: &str, view: &DisksView) -> Result<(), Refusal> {
    let snapshot = snapshot_state::ready(&view.snapshots, snapshot_id)?;
    if snapshot.disk_id != disk.disk_id {
        return Err(refuse(
            403,
            "InvalidParameter.Mismatch",
            format!(
                "snapshot {snapshot_id} is of disk {}, not of {}; use one of that disk, or make a \
                 new disk from it",
                snapshot.disk_id, disk.disk_id
            ),
        ));
    }
    renew(disk, snapshot_id, view, "ResetDisk")
}

fn reinit(disk: &mut DiskRecord, view: &DisksView) -> Result<(), Refusal> {
    if disk.host_id.is_empty() {
        return Err(refuse(
            403,
            "IncorrectDiskStatus",
            format!("disk {} was never attached and is still as it was made", disk.disk_id),
        ));
    }
    let source = disk.source_snapshot_id.clone();
    if !source.is_empty() && snapshot_state::ready(&view.snapshots, &source).is_err() {
        return Err(refuse(
            403,
            "InvalidSourceSnapshot",
            format!(
                "disk {} was made from snapshot {source}, which is gone; make a new disk instead",
                disk.disk_id
            ),
        ));
    }
    renew(disk, &source, view, "ReInitDisk")
}

fn replace(
    view: &DisksView,
    request: &ReplaceSystemDiskRequest,
    now: i64,
) -> Result<DisksPlan, Refusal> {
    let (instance_id, image_id, size) = (&request.instance_id, &request.image_id, request.size);
    let details = instance_in(view, instance_id).ok_or_else(|| instance_not_found(instance_id))?;
    expect_stopped(&details.instance, "ReplaceSystemDisk")?;
    let kind = &details.instance.instance_type;
    let image = image_state::bootable(view.image.as_ref(), image_id, kind)?;
    let old = details.disks.iter().find(|disk| disk.system).ok_or_else(|| {
        refuse(
            400,
            "InvalidInstance.NotFoundSystemDisk",
            format!("instance {instance_id} has no system disk; delete it and make it anew"),
        )
    })?;
    let image_gib = image.virtual_bytes.div_ceil(GIB);
    let size_gib = if size == 0 { old.size_gib.max(image_gib) } else { u64::from(size) };
    if size_gib < image_gib {
        return Err(refuse(
            404,
            "InvalidSystemDiskSize.LessThanImageSize",
            format!(
                "the system disk would have {size_gib} GiB, image {image_id} needs {image_gib}"
            ),
        ));
    }
    let host_id = &details.instance.host_id;
    let host = view.hosts.iter().find(|host| host.host_id == *host_id).ok_or_else(|| {
        refuse(500, "InternalError", format!("the host of instance {instance_id} is not known"))
    })?;
    let shared = if old.tree_id.is_empty() { String::new() } else { old.pool_id.clone() };
    let need = DiskNeed { gib: size_gib, pool_id: shared };
    let pool_id = scheduler::choose(host, &need).map_err(|reason| {
        refuse(
            403,
            "OperationDenied.NoStock",
            format!(
                "the new system disk of instance {instance_id} needs room beside the old one, but \
                 host {host_id} {reason}; delete disks or snapshots there"
            ),
        )
    })?;
    let shape = Shape::parse(&old.category, &old.performance_level, &SYSTEM)?;
    let mut new = DiskRecord {
        name: old.name.clone(),
        description: old.description.clone(),
        zone_id: old.zone_id.clone(),
        image_id: image_id.clone(),
        // An encrypted disk is followed by one.
        data_key: image.data_key.clone().or_else(|| old.data_key.clone()),
        system: true,
        delete_with_instance: true,
        delete_auto_snapshot: old.delete_auto_snapshot,
        provisioned_iops: old.provisioned_iops,
        bursting_enabled: old.bursting_enabled,
        created_ms: now,
        generation: 1,
        ..Default::default()
    };
    shape.give(&mut new, u32::try_from(size_gib).unwrap_or(u32::MAX), &SYSTEM)?;
    let new = at_instance(&new, ids::disk(), instance_id, host_id, &pool_id);
    let mut gone = old.clone();
    gone.reported.instance_id = std::mem::take(&mut gone.instance_id);
    gone.detached_ms = now;
    gone.releasing = true;
    disk_state::refresh(&mut gone);
    let mut instance = details.instance.clone();
    instance.image_id.clone_from(image_id);
    if !request.key_pair_name.is_empty() {
        let pair = view.key_pair.as_ref();
        let pair = pair.ok_or_else(|| key_pair_not_found(&request.key_pair_name))?;
        instance.key_pair_name.clone_from(&pair.name);
        instance.public_key.clone_from(&pair.public_key);
    }
    instance.generation += 1;
    let answer = ReplaceSystemDiskResponse { disk_id: new.disk_id.clone(), ..Default::default() };
    Ok(DisksPlan {
        insert: vec![new],
        update_instances: vec![instance],
        answer: answer.encode_to_vec(),
        ..releasing(gone, view)?
    })
}

/// The instance, wanted to run once its disks are made anew: a guest that runs would keep its host
/// from doing so. It has its place on the host from now on.
fn starting_later(instance: &InstanceRecord, view: &DisksView) -> Result<InstanceRecord, Refusal> {
    let mut instance = instance.clone();
    let host = view.hosts.iter().find(|host| host.host_id == instance.host_id);
    if let Some(host) = host
        && !instance.claimed
    {
        let needs = Needs::of_instance(&instance);
        if let Some(refusal) = scheduler::cannot_resume(host, &needs, now_ms()) {
            return Err(refusal);
        }
    }
    instance.claimed = true;
    instance.stop_charging = false;
    instance.start_when_ready = true;
    Ok(instance)
}

/// The plan by which a disk goes.
fn releasing(gone: DiskRecord, view: &DisksView) -> Result<DisksPlan, Refusal> {
    let (disk_id, code) = (&gone.disk_id, "DiskCreatingSnapshot");
    snapshot_state::check_none_in_progress(disk_id, &view.snapshots, code)?;
    let update_snapshots = snapshot_state::going_with(&gone, &view.snapshots).collect();
    Ok(DisksPlan { update: vec![gone], update_snapshots, ..Default::default() })
}

impl Api {
    pub(super) async fn reset_disk(
        &self,
        request: ResetDiskRequest,
    ) -> Result<ResetDiskResponse, Refusal> {
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        if request.snapshot_id.is_empty() {
            return Err(missing("snapshot_id"));
        }
        let lookup = DisksLookup {
            disk_ids: vec![request.disk_id.clone()],
            snapshot_ids: vec![request.snapshot_id.clone()],
            ..Default::default()
        };
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            reset(&mut disk, &request.snapshot_id, view)?;
            if request.dry_run {
                return Err(dry_run());
            }
            Ok(DisksPlan { update: vec![disk], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ResetDiskResponse::default())
    }

    pub(super) async fn re_init_disk(
        &self,
        request: ReInitDiskRequest,
    ) -> Result<ReInitDiskResponse, Refusal> {
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        let lookup = DisksLookup { disk_ids: vec![request.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            reinit(&mut disk, view)?;
            let at = instance_in(view, &disk.instance_id).filter(|_| request.auto_start_instance);
            let update_instances =
                at.map(|details| starting_later(&details.instance, view)).transpose()?;
            let update_instances = update_instances.into_iter().collect();
            Ok(DisksPlan { update: vec![disk], update_instances, ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ReInitDiskResponse::default())
    }

    pub(super) async fn replace_system_disk(
        &self,
        request: ReplaceSystemDiskRequest,
    ) -> Result<ReplaceSystemDiskResponse, Refusal> {
        let token = request::token("ReplaceSystemDisk", &request.client_token, &request)?;
        if request.instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        if request.image_id.is_empty() {
            return Err(missing("image_id"));
        }
        if !request.password.is_empty() {
            return Err(unsupported("passwords are not supported; give a key_pair_name"));
        }
        let lookup = DisksLookup {
            instance_ids: vec![request.instance_id.clone()],
            image_id: request.image_id.clone(),
            key_pair_name: request.key_pair_name.clone(),
            ..Default::default()
        };
        let decide = move |view: &DisksView| replace(view, &request, now_ms());
        request::response(self.cloud.store.change_disks(token, lookup, Box::new(decide)).await)
    }
}
