//! `CreateDisk`, `AttachDisk`, `DetachDisk` and `DeleteDisk`.

use super::{
    Api,
    disk_shape::{DATA, Shape},
    disks::{found, instance_in},
    request,
};
use crate::{
    disk_state::{self, Seat},
    ecs_error::{from_store, instance_not_found, missing, refuse, unsupported},
    encryption, ids,
    scheduler::{self, DiskNeed},
    snapshot_state,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use prost::Message as _;
use std::collections::BTreeSet;
use store::{
    DiskRecord, DisksLookup, DisksPlan, DisksView, HostRecord, PoolRecord, Refusal, SnapshotRecord,
};

/// A disk and an instance to look up.
fn both(disk_id: &str, instance_id: &str) -> Result<DisksLookup, Refusal> {
    if disk_id.is_empty() {
        return Err(missing("disk_id"));
    }
    if instance_id.is_empty() {
        return Err(missing("instance_id"));
    }
    Ok(DisksLookup {
        disk_ids: vec![disk_id.to_owned()],
        instance_ids: vec![instance_id.to_owned()],
        ..Default::default()
    })
}

/// The place an instance of the view offers.
fn seat_at<'a>(view: &'a DisksView, instance_id: &str) -> Result<Seat<'a>, Refusal> {
    let details = instance_in(view, instance_id).ok_or_else(|| instance_not_found(instance_id))?;
    let host = view.hosts.iter().find(|host| host.host_id == details.instance.host_id);
    let host = host.ok_or_else(|| {
        refuse(500, "InternalError", format!("the host of instance {instance_id} is not known"))
    })?;
    Ok(Seat { details, leaving: &view.leaving, host, mates: &view.mates })
}

/// The disk that a request describes, at no instance; without a size if it gives none.
fn new_disk(request: &CreateDiskRequest) -> Result<(DiskRecord, Shape), Refusal> {
    if !["", "Disabled"].contains(&request.multi_attach.as_str()) {
        return Err(unsupported(
            "a disk can be at one instance only; leave multi_attach out or give Disabled",
        ));
    }
    validation::display_name("InvalidDiskName.Malformed", "disk name", &request.disk_name)?;
    validation::description("InvalidDescription.Malformed", &request.description)?;
    let shape = Shape::parse(&request.disk_category, &request.performance_level, &DATA)?;
    shape.check_extras(request.provisioned_iops, request.bursting_enabled)?;
    if request.size == 0 && request.snapshot_id.is_empty() {
        return Err(missing("size"));
    }
    let mut disk = DiskRecord {
        name: request.disk_name.clone(),
        description: request.description.clone(),
        zone_id: request.zone_id.clone(),
        tags: validation::tags(&request.tag)?,
        provisioned_iops: request.provisioned_iops,
        bursting_enabled: request.bursting_enabled,
        generation: 1,
        ..Default::default()
    };
    if request.size > 0 {
        shape.give(&mut disk, request.size, &DATA)?;
    }
    Ok((disk, shape))
}

/// An id to look up, if there is one.
fn some(id: &str) -> Vec<String> {
    if id.is_empty() { Vec::new() } else { vec![id.to_owned()] }
}

/// A disk made from a snapshot is where the snapshot is, from the beginning.
fn place_with(
    disk: &mut DiskRecord,
    snapshot: &SnapshotRecord,
    zone_id: &str,
    view: &DisksView,
) -> Result<(), Refusal> {
    let (snapshot_id, host_id) = (&snapshot.snapshot_id, &snapshot.host_id);
    let host = view.hosts.iter().find(|host| host.host_id == *host_id).ok_or_else(|| {
        refuse(500, "InternalError", format!("the host of snapshot {snapshot_id} is not known"))
    })?;
    if !zone_id.is_empty() && zone_id != host.zone_id {
        return Err(refuse(
            400,
            "InvalidParameter.Conflict",
            format!("snapshot {snapshot_id} is in zone {}, not {zone_id}; give that", host.zone_id),
        ));
    }
    let need = DiskNeed { gib: disk.size_gib, pool_id: snapshot.pool_id.clone() };
    scheduler::choose(host, &need).map_err(|reason| {
        refuse(
            403,
            "OperationDenied.NoStock",
            format!(
                "a disk from snapshot {snapshot_id} has to be in the snapshot's pool, but host \
                 {host_id} {reason}; delete disks or snapshots there"
            ),
        )
    })?;
    disk.zone_id.clone_from(&host.zone_id);
    disk.host_id.clone_from(host_id);
    Ok(())
}

/// A disk of a pool that was named has a place there from the beginning. `near`: the host of the
/// instance it is for.
fn place_in(
    disk: &mut DiskRecord,
    pool_id: &str,
    zone_id: &str,
    near: &str,
    view: &DisksView,
) -> Result<(), Refusal> {
    let other = |host: &HostRecord| {
        let in_it = |pool: &PoolRecord| pool.pool_id == disk.pool_id && pool.name == pool_id;
        host.pools.iter().any(in_it)
    };
    if !disk.pool_id.is_empty() && disk.pool_id != pool_id && !view.hosts.iter().any(other) {
        return Err(refuse(
            400,
            "InvalidParameter.Conflict",
            format!(
                "snapshot {} is in storage pool {}, and a disk made from it has to be there, not \
                 in {pool_id}; leave storage_pool_id out",
                disk.source_snapshot_id, disk.pool_id
            ),
        ));
    }
    let named = |pool: &&PoolRecord| pool.pool_id == pool_id || pool.name == pool_id;
    let has_it = |host: &&HostRecord| host.pools.iter().any(|pool| named(&pool));
    let mut hosts: Vec<HostRecord> = view.hosts.iter().filter(has_it).cloned().collect();
    let mut pools: Vec<&str> = hosts
        .iter()
        .flat_map(|host| &host.pools)
        .filter(named)
        .map(|pool| pool.pool_id.as_str())
        .collect();
    pools.sort_unstable();
    pools.dedup();
    let pool = match pools.as_slice() {
        [] => {
            return Err(refuse(
                404,
                "InvalidStoragePoolId.NotFound",
                format!("storage pool {pool_id} does not exist; DescribeStoragePools lists them"),
            ));
        }
        [pool] => (*pool).to_owned(),
        _ => {
            return Err(refuse(
                400,
                "InvalidParameter.Conflict",
                format!("storage pools {} have the name {pool_id}; give the id", pools.join(", ")),
            ));
        }
    };
    let zones: BTreeSet<&str> = hosts.iter().map(|host| host.zone_id.as_str()).collect();
    if !zone_id.is_empty() && !zones.contains(zone_id) {
        let zones = zones.into_iter().collect::<Vec<_>>().join(", ");
        return Err(refuse(
            400,
            "InvalidParameter.Conflict",
            format!("storage pool {pool_id} is in zone {zones}, not {zone_id}; give that"),
        ));
    }
    // One that is made from a snapshot goes where that is, one for an instance to its host.
    let wanted = if disk.host_id.is_empty() { near } else { &disk.host_id };
    if hosts.iter().any(|host| host.host_id == wanted) {
        hosts.retain(|host| host.host_id == wanted);
    }
    let need = DiskNeed { gib: disk.size_gib, pool_id: pool };
    let (host, pool) =
        scheduler::choose_host(&hosts, &need, zone_id, now_ms()).map_err(|reason| {
            refuse(
                403,
                "OperationDenied.NoStock",
                format!("{reason}; delete disks or snapshots there, or use another pool"),
            )
        })?;
    disk.pool_id = pool;
    disk.zone_id.clone_from(&host.zone_id);
    disk.host_id.clone_from(&host.host_id);
    Ok(())
}

impl Api {
    pub(super) async fn create_disk(
        &self,
        request: CreateDiskRequest,
    ) -> Result<CreateDiskResponse, Refusal> {
        let token = request::token("CreateDisk", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if !request.zone_id.is_empty() {
            self.cloud.check_zone(&request.zone_id)?;
        } else if request.instance_id.is_empty() && request.storage_pool_id.is_empty() {
            return Err(missing("zone_id, instance_id or storage_pool_id"));
        }
        let (template, shape) = new_disk(&request)?;
        let kms = &*self.cloud.options.kms;
        // A repeated order gets its answer, whatever has become of the key since.
        let data_key = encryption::new_key(kms, request.encrypted, &request.kms_key_id);
        let CreateDiskRequest { zone_id, instance_id, snapshot_id, storage_pool_id, .. } = request;
        let kms_key_id = request.kms_key_id;
        let lookup = DisksLookup {
            instance_ids: some(&instance_id),
            snapshot_ids: some(&snapshot_id),
            pool_id: storage_pool_id.clone(),
            ..Default::default()
        };
        let decide = move |view: &DisksView| {
            let now = now_ms();
            let mut disk = DiskRecord { disk_id: ids::disk(), created_ms: now, ..template.clone() };
            disk.data_key = data_key.clone()?;
            disk_state::refresh(&mut disk);
            if !snapshot_id.is_empty() {
                let snapshot = snapshot_state::ready(&view.snapshots, &snapshot_id)?;
                let least = u32::try_from(snapshot.disk_size_gib).unwrap_or(u32::MAX);
                let wanted = u32::try_from(disk.size_gib).unwrap_or(u32::MAX);
                shape.give(&mut disk, wanted.max(least), &DATA)?;
                snapshot_state::begin_with(&mut disk, snapshot, &kms_key_id)?;
                place_with(&mut disk, snapshot, &zone_id, view)?;
            }
            if !storage_pool_id.is_empty() {
                let near = instance_in(view, &instance_id);
                let near = near.map(|d| d.instance.host_id.as_str()).unwrap_or_default();
                place_in(&mut disk, &storage_pool_id, &zone_id, near, view)?;
            }
            let mut update_instances = Vec::new();
            if !instance_id.is_empty() {
                let seat = seat_at(view, &instance_id)?;
                let of_instance = &seat.details.instance.zone_id;
                if !zone_id.is_empty() && zone_id != *of_instance {
                    return Err(refuse(
                        400,
                        "InvalidParameter.Conflict",
                        format!(
                            "instance {instance_id} is in zone {of_instance}, not {zone_id}; leave \
                             zone_id out"
                        ),
                    ));
                }
                disk.zone_id.clone_from(of_instance);
                update_instances.push(disk_state::attach(&mut disk, &seat, "", now)?);
            }
            disk_state::refresh(&mut disk);
            let answer = CreateDiskResponse { disk_id: disk.disk_id.clone(), ..Default::default() };
            let answer = answer.encode_to_vec();
            Ok(DisksPlan { insert: vec![disk], update_instances, answer, ..Default::default() })
        };
        request::response(self.cloud.store.change_disks(token, lookup, Box::new(decide)).await)
    }

    pub(super) async fn attach_disk(
        &self,
        request: AttachDiskRequest,
    ) -> Result<AttachDiskResponse, Refusal> {
        let lookup = both(&request.disk_id, &request.instance_id)?;
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            disk_state::free_of_lost_host(&mut disk, &view.hosts);
            let seat = seat_at(view, &request.instance_id)?;
            let instance = disk_state::attach(&mut disk, &seat, &request.device, now_ms())?;
            if let Some(goes_with_it) = request.delete_with_instance {
                disk.delete_with_instance = goes_with_it;
            }
            Ok(DisksPlan {
                update: vec![disk],
                update_instances: vec![instance],
                ..Default::default()
            })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(AttachDiskResponse::default())
    }

    pub(super) async fn detach_disk(
        &self,
        request: DetachDiskRequest,
    ) -> Result<DetachDiskResponse, Refusal> {
        let lookup = both(&request.disk_id, &request.instance_id)?;
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            let instance = instance_in(view, &request.instance_id)
                .ok_or_else(|| instance_not_found(&request.instance_id))?;
            let instance = disk_state::detach(&mut disk, &instance.instance, now_ms())?;
            disk_state::free_of_lost_host(&mut disk, &view.hosts);
            if let Some(goes_with_it) = request.delete_with_instance {
                disk.delete_with_instance = goes_with_it;
            }
            Ok(DisksPlan {
                update: vec![disk],
                update_instances: vec![instance],
                ..Default::default()
            })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DetachDiskResponse::default())
    }

    pub(super) async fn delete_disk(
        &self,
        request: DeleteDiskRequest,
    ) -> Result<DeleteDiskResponse, Refusal> {
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        let lookup = DisksLookup { disk_ids: vec![request.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            disk_state::free_of_lost_host(&mut disk, &view.hosts);
            disk_state::release(&mut disk)?;
            let (disk_id, code) = (&disk.disk_id, "DiskCreatingSnapshot");
            snapshot_state::check_none_in_progress(disk_id, &view.snapshots, code)?;
            let update_snapshots = snapshot_state::going_with(&disk, &view.snapshots).collect();
            Ok(DisksPlan { update: vec![disk], update_snapshots, ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DeleteDiskResponse::default())
    }
}
