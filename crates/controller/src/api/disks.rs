//! What disks there are and how they are.

use super::{Api, paging, request::at_most_100, service};
use crate::{
    disk_state,
    ecs_error::{disk_not_found, from_store, invalid, missing},
    timestamp,
};
use api::v1::{disk_service_server::DiskService, *};
use store::{DiskFilter, DiskRecord, DisksView, InstanceDetails, Page, Refusal};

service!(DiskService => Api {
    create_disk: CreateDiskRequest => CreateDiskResponse;
    attach_disk: AttachDiskRequest => AttachDiskResponse;
    detach_disk: DetachDiskRequest => DetachDiskResponse;
    delete_disk: DeleteDiskRequest => DeleteDiskResponse;
    describe_disks: DescribeDisksRequest => DescribeDisksResponse;
    modify_disk_attribute: ModifyDiskAttributeRequest => ModifyDiskAttributeResponse;
    modify_disk_spec: ModifyDiskSpecRequest => ModifyDiskSpecResponse;
    resize_disk: ResizeDiskRequest => ResizeDiskResponse;
    reset_disk: ResetDiskRequest => ResetDiskResponse;
    re_init_disk: ReInitDiskRequest => ReInitDiskResponse;
    replace_system_disk: ReplaceSystemDiskRequest => ReplaceSystemDiskResponse;
    describe_disk_monitor_data:
        DescribeDiskMonitorDataRequest => DescribeDiskMonitorDataResponse;
});

/// The disk of a view that was asked for.
pub(super) fn found<'a>(view: &'a DisksView, disk_id: &str) -> Result<&'a DiskRecord, Refusal> {
    let disk = view.disks.iter().find(|disk| disk.disk_id == disk_id);
    disk.ok_or_else(|| disk_not_found(disk_id))
}

/// An instance of a view.
pub(super) fn instance_in<'a>(
    view: &'a DisksView,
    instance_id: &str,
) -> Option<&'a InstanceDetails> {
    view.instances.iter().find(|details| details.instance.instance_id == instance_id)
}

impl Api {
    async fn describe_disks(
        &self,
        mut request: DescribeDisksRequest,
    ) -> Result<DescribeDisksResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        at_most_100("disk_ids", request.disk_ids.len())?;
        let (number, size) = (request.page_number, request.page_size);
        let (token, max_results) = (std::mem::take(&mut request.next_token), request.max_results);
        (request.page_number, request.page_size, request.max_results) = (0, 0, 0);
        let (page, page_number, page_size) =
            paging::either((number, size), (&token, max_results), 100, &request)?;
        let by_token = page_size == 0;
        let of_type = match request.disk_type.as_str() {
            "" | "all" => None,
            "system" => Some(true),
            "data" => Some(false),
            other => {
                return Err(invalid(format!(
                    "disk_type is {other:?}; it must be system, data or all"
                )));
            }
        };
        // Every data disk is portable, and no system disk is.
        let system = match (of_type, request.portable.map(|portable| !portable)) {
            (Some(a), Some(b)) if a != b => {
                return Err(invalid(
                    "no disk is both of this disk_type and of this portable; leave one of them out",
                ));
            }
            (a, b) => a.or(b),
        };
        let status = match request.status.as_str() {
            "" | "All" => "",
            status if disk_state::ALL.contains(&status) => status,
            other => {
                return Err(invalid(format!(
                    "status {other:?} does not exist; choose one of {} or All",
                    disk_state::ALL.join(", ")
                )));
            }
        };
        let filter = DiskFilter {
            disk_ids: request.disk_ids.clone(),
            instance_id: request.instance_id.clone(),
            system,
            name: request.disk_name.clone(),
            category: match request.category.as_str() {
                "all" => String::new(),
                category => category.to_owned(),
            },
            performance_level: request.performance_level.clone(),
            status: status.to_owned(),
            zone_id: request.zone_id.clone(),
            source_snapshot_id: request.snapshot_id.clone(),
            delete_with_instance: request.delete_with_instance,
            delete_auto_snapshot: request.delete_auto_snapshot,
            encrypted: request.encrypted,
            kms_key_id: request.kms_key_id.clone(),
            policy_id: request.auto_snapshot_policy_id.clone(),
            pool_id: request.storage_pool_id.clone(),
            tags: request.tag.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        };
        let listed = self.cloud.store.disks(filter, page).await.map_err(from_store)?;
        Ok(DescribeDisksResponse {
            request_id: String::new(),
            disks: listed.items.into_iter().map(|disk| self.disk(disk)).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
            next_token: paging::next_token(listed.next.filter(|_| by_token), &request),
        })
    }

    /// The disk with this id.
    pub(super) async fn find_disk(&self, disk_id: &str) -> Result<DiskRecord, Refusal> {
        if disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        let filter = DiskFilter { disk_ids: vec![disk_id.to_owned()], ..Default::default() };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.disks(filter, page).await.map_err(from_store)?;
        listed.items.into_iter().next().ok_or_else(|| disk_not_found(disk_id))
    }

    fn disk(&self, record: DiskRecord) -> Disk {
        let instance_id = disk_state::instance_of(&record).to_owned();
        let at_one = !instance_id.is_empty();
        let device = if at_one { disk_state::device(record.position) } else { String::new() };
        let attached_time = timestamp::minute(if at_one { record.attached_ms } else { 0 });
        let attachment = at_one.then(|| DiskAttachment {
            instance_id: instance_id.clone(),
            device: device.clone(),
            attached_time: attached_time.clone(),
        });
        Disk {
            serial_number: record.disk_id.strip_prefix("d-").unwrap_or_default().to_owned(),
            status_reason: disk_state::reason(&record),
            in_effect: disk_state::in_effect(&record),
            r#type: if record.system { "system" } else { "data" }.to_owned(),
            disk_id: record.disk_id,
            disk_name: record.name,
            description: record.description,
            region_id: self.cloud.options.region_id.clone(),
            zone_id: record.zone_id,
            status: record.status,
            category: record.category,
            performance_level: record.performance_level,
            size: u32::try_from(record.size_gib).unwrap_or(u32::MAX),
            image_id: if record.source_snapshot_id.is_empty() {
                record.image_id
            } else {
                String::new()
            },
            source_snapshot_id: record.source_snapshot_id,
            instance_id,
            device,
            delete_with_instance: record.delete_with_instance,
            creation_time: timestamp::minute(record.created_ms),
            attached_time,
            iops: record.iops,
            throughput: record.bytes_per_second >> 20,
            detached_time: timestamp::minute(record.detached_ms),
            portable: !record.system,
            delete_auto_snapshot: record.delete_auto_snapshot,
            tags: record.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
            attachments: attachment.into_iter().collect(),
            multi_attach: "Disabled".to_owned(),
            disk_charge_type: "PostPaid".to_owned(),
            host_id: record.host_id,
            provisioned_iops: record.provisioned_iops,
            bursting_enabled: record.bursting_enabled,
            storage_pool_id: record.pool_id,
            auto_snapshot_policy_id: record.policy_id,
            encrypted: record.data_key.is_some(),
            kms_key_id: record.data_key.map(|key| key.kms_key_id).unwrap_or_default(),
        }
    }
}
