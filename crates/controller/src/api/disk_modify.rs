//! `ModifyDiskAttribute`, `ModifyDiskSpec` and `ResizeDisk`.

use super::{
    Api,
    disk_shape::{RESIZE, SPEC, Shape},
    disks::{found, instance_in},
    request,
};
use crate::{
    disk_state::{self, AVAILABLE, IN_USE},
    ecs_error::{dry_run, from_store, invalid, missing, refuse},
    instance_state::RUNNING,
    scheduler, snapshot_state, validation,
};
use api::v1::*;
use std::collections::BTreeSet;
use store::{DiskRecord, DisksLookup, DisksPlan, DisksView, Refusal};

fn check_attributes(request: &ModifyDiskAttributeRequest) -> Result<(), Refusal> {
    if let Some(name) = &request.disk_name {
        validation::display_name("InvalidDiskName.Malformed", "disk name", name)?;
    }
    if let Some(description) = &request.description {
        validation::description("InvalidDescription.Malformed", description)?;
    }
    let nothing = request.disk_name.is_none()
        && request.description.is_none()
        && request.delete_with_instance.is_none()
        && request.delete_auto_snapshot.is_none()
        && request.bursting_enabled.is_none();
    if nothing {
        return Err(refuse(
            400,
            "MissingParameter",
            "nothing to modify is given; give disk_name, description, delete_with_instance, \
             delete_auto_snapshot or bursting_enabled",
        ));
    }
    Ok(())
}

fn set_bursting(disk: &mut DiskRecord, enabled: bool) -> Result<(), Refusal> {
    let shape = Shape::parse(&disk.category, &disk.performance_level, &SPEC)?;
    shape.check_extras(0, enabled)?;
    if disk.bursting_enabled != enabled {
        disk.bursting_enabled = enabled;
        shape.give(disk, u32::try_from(disk.size_gib).unwrap_or(u32::MAX), &SPEC)?;
        disk.generation += 1;
        disk_state::refresh(disk);
    }
    Ok(())
}

/// Changes one disk; whether the instance it is at has to know.
fn modify(
    disk: &mut DiskRecord,
    view: &DisksView,
    request: &ModifyDiskAttributeRequest,
) -> Result<bool, Refusal> {
    let of_released =
        instance_in(view, &disk.instance_id).is_some_and(|details| details.instance.releasing);
    if disk.releasing || (of_released && request.delete_with_instance.is_some()) {
        return Err(refuse(
            403,
            "IncorrectDiskStatus",
            format!(
                "disk {} or its instance is being deleted; it can be changed no more",
                disk.disk_id
            ),
        ));
    }
    if disk.system && request.delete_with_instance == Some(false) {
        return Err(refuse(
            403,
            "OperationDenied",
            format!(
                "disk {} is a system disk and always goes with its instance; take a snapshot to \
                 keep its data",
                disk.disk_id
            ),
        ));
    }
    let renamed = request.disk_name.as_ref().is_some_and(|name| *name != disk.name);
    if let Some(name) = &request.disk_name {
        disk.name.clone_from(name);
    }
    if let Some(description) = &request.description {
        disk.description.clone_from(description);
    }
    if let Some(goes_with_it) = request.delete_with_instance {
        disk.delete_with_instance = goes_with_it;
    }
    if let Some(goes_with_it) = request.delete_auto_snapshot {
        disk.delete_auto_snapshot = goes_with_it;
    }
    if let Some(enabled) = request.bursting_enabled {
        set_bursting(disk, enabled)?;
    }
    Ok(renamed)
}

/// Refuses more of a pool than it may promise.
fn check_room(disk: &DiskRecord, new_size: u32, view: &DisksView) -> Result<(), Refusal> {
    let more = u64::from(new_size).saturating_sub(disk.size_gib);
    let host = view.hosts.iter().find(|host| host.host_id == disk.host_id);
    match host.and_then(|host| scheduler::no_room_to_grow(host, &disk.pool_id, more)) {
        None => Ok(()),
        Some(reason) => Err(refuse(
            403,
            "OperationDenied.NoStock",
            format!(
                "disk {} cannot grow by {more} GiB where it is: {reason}; delete disks or \
                 snapshots there, or grow it by less",
                disk.disk_id
            ),
        )),
    }
}

/// Whether the guest is to see the new size at once.
fn is_online(kind: &str) -> Result<bool, Refusal> {
    match kind {
        "" | "offline" => Ok(false),
        "online" => Ok(true),
        other => Err(refuse(
            400,
            "InvalidParam.Type",
            format!("type is {other:?}; it must be offline or online"),
        )),
    }
}

fn resize(
    disk: &mut DiskRecord,
    new_size: u32,
    online: bool,
    view: &DisksView,
) -> Result<(), Refusal> {
    disk_state::expect(disk, &[IN_USE, AVAILABLE], "ResizeDisk")?;
    let (disk_id, size_gib) = (&disk.disk_id, disk.size_gib);
    snapshot_state::check_none_in_progress(disk_id, &view.snapshots, "DiskCreatingSnapshot")?;
    if u64::from(new_size) <= size_gib {
        return Err(refuse(
            403,
            "InvalidDiskSize.TooSmall",
            format!(
                "disk {disk_id} has {size_gib} GiB and would have {new_size}; a disk only grows, as \
                 shrinking would cut off data: give more than {size_gib}, or copy what is needed to \
                 a smaller disk"
            ),
        ));
    }
    let instance = instance_in(view, &disk.instance_id);
    if online && instance.is_none_or(|details| details.instance.status != RUNNING) {
        return Err(refuse(
            403,
            "InvalidInstanceStatus.NotRunning",
            format!("disk {disk_id} is at no Running instance; give type offline, or start it"),
        ));
    }
    let shape = Shape::parse(&disk.category, &disk.performance_level, &RESIZE)?;
    check_room(disk, new_size, view)?;
    shape.give(disk, new_size, &RESIZE)?;
    disk.generation += 1;
    disk_state::refresh(disk);
    Ok(())
}

fn change_spec(disk: &mut DiskRecord, request: &ModifyDiskSpecRequest) -> Result<(), Refusal> {
    let (category, level) = (&*request.disk_category, &*request.performance_level);
    disk_state::expect(disk, &[IN_USE, AVAILABLE], "ModifyDiskSpec")?;
    let same_category = category.is_empty() || category == disk.category;
    let shape = match (same_category, level.is_empty()) {
        (true, true) => Shape::parse(&disk.category, &disk.performance_level, &SPEC)?,
        (true, false) => Shape::parse(&disk.category, level, &SPEC)?,
        (false, _) => Shape::parse(category, level, &SPEC)?,
    };
    let size_gib = u32::try_from(disk.size_gib).unwrap_or(u32::MAX);
    let before = disk.clone();
    if let Some(iops) = request.provisioned_iops {
        shape.check_extras(iops, false)?;
        disk.provisioned_iops = iops;
    }
    shape.give(disk, size_gib, &SPEC)?;
    if *disk != before {
        disk.generation += 1;
    }
    disk_state::refresh(disk);
    Ok(())
}

impl Api {
    pub(super) async fn modify_disk_attribute(
        &self,
        request: ModifyDiskAttributeRequest,
    ) -> Result<ModifyDiskAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        request::at_most_100("disk_ids", request.disk_ids.len())?;
        let disk_ids = match (request.disk_id.is_empty(), request.disk_ids.is_empty()) {
            (true, true) => return Err(missing("disk_id")),
            (true, false) => request.disk_ids.clone(),
            (false, true) => vec![request.disk_id.clone()],
            (false, false) => return Err(invalid("give disk_id or disk_ids, not both")),
        };
        check_attributes(&request)?;
        let lookup = DisksLookup { disk_ids: disk_ids.clone(), ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut plan = DisksPlan::default();
            let mut told = BTreeSet::new();
            for disk_id in &disk_ids {
                let mut disk = found(view, disk_id)?.clone();
                if modify(&mut disk, view, &request)? {
                    told.insert(disk.instance_id.clone());
                }
                plan.update.push(disk);
            }
            // The guest can ask for the names of its disks.
            for instance_id in told {
                if let Some(details) = instance_in(view, &instance_id) {
                    let mut instance = details.instance.clone();
                    instance.generation += 1;
                    plan.update_instances.push(instance);
                }
            }
            Ok(plan)
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ModifyDiskAttributeResponse::default())
    }

    pub(super) async fn modify_disk_spec(
        &self,
        request: ModifyDiskSpecRequest,
    ) -> Result<ModifyDiskSpecResponse, Refusal> {
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        let nothing = request.disk_category.is_empty()
            && request.performance_level.is_empty()
            && request.provisioned_iops.is_none();
        if nothing {
            return Err(missing("disk_category, performance_level or provisioned_iops"));
        }
        let lookup = DisksLookup { disk_ids: vec![request.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            change_spec(&mut disk, &request)?;
            if request.dry_run {
                return Err(dry_run());
            }
            Ok(DisksPlan { update: vec![disk], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ModifyDiskSpecResponse::default())
    }

    pub(super) async fn resize_disk(
        &self,
        request: ResizeDiskRequest,
    ) -> Result<ResizeDiskResponse, Refusal> {
        let token = request::token("ResizeDisk", &request.client_token, &request)?;
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        if request.new_size == 0 {
            return Err(missing("new_size"));
        }
        let online = is_online(&request.r#type)?;
        let lookup = DisksLookup { disk_ids: vec![request.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut disk = found(view, &request.disk_id)?.clone();
            resize(&mut disk, request.new_size, online, view)?;
            Ok(DisksPlan { update: vec![disk], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(token, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ResizeDiskResponse::default())
    }
}
