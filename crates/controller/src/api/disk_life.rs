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
    ids,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use prost::Message as _;
use store::{DiskRecord, DisksLookup, DisksPlan, DisksView, Refusal};

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
    })
}

/// The place an instance of the view offers.
fn seat_at<'a>(view: &'a DisksView, instance_id: &str) -> Result<Seat<'a>, Refusal> {
    let details = instance_in(view, instance_id).ok_or_else(|| instance_not_found(instance_id))?;
    let host = view.hosts.iter().find(|host| host.host_id == details.instance.host_id);
    let host = host.ok_or_else(|| {
        refuse(500, "InternalError", format!("the host of instance {instance_id} is not known"))
    })?;
    Ok(Seat { details, leaving: &view.leaving, host })
}

/// The disk that a request describes, at no instance.
fn new_disk(request: &CreateDiskRequest) -> Result<DiskRecord, Refusal> {
    if request.encrypted {
        return Err(unsupported("encrypted disks are not supported; leave encrypted out"));
    }
    if !["", "Disabled"].contains(&request.multi_attach.as_str()) {
        return Err(unsupported(
            "a disk can be at one instance only; leave multi_attach out or give Disabled",
        ));
    }
    validation::display_name("InvalidDiskName.Malformed", "disk name", &request.disk_name)?;
    validation::description("InvalidDescription.Malformed", &request.description)?;
    let shape = Shape::parse(&request.disk_category, &request.performance_level, &DATA)?;
    if request.size == 0 {
        return Err(missing("size"));
    }
    let mut disk = DiskRecord {
        name: request.disk_name.clone(),
        description: request.description.clone(),
        zone_id: request.zone_id.clone(),
        tags: validation::tags(&request.tag)?,
        generation: 1,
        ..Default::default()
    };
    shape.give(&mut disk, request.size, &DATA)?;
    Ok(disk)
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
        } else if request.instance_id.is_empty() {
            return Err(missing("zone_id or instance_id"));
        }
        let template = new_disk(&request)?;
        let CreateDiskRequest { zone_id, instance_id, .. } = request;
        let lookup = DisksLookup {
            instance_ids: Some(instance_id.clone())
                .filter(|id| !id.is_empty())
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let decide = move |view: &DisksView| {
            let now = now_ms();
            let mut disk = DiskRecord { disk_id: ids::disk(), created_ms: now, ..template.clone() };
            disk_state::refresh(&mut disk);
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
            disk_state::release(&mut disk)?;
            Ok(DisksPlan { update: vec![disk], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DeleteDiskResponse::default())
    }
}
