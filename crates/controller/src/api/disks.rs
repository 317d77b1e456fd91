//! Disks.

use super::{Api, paging, request::at_most_100, service};
use crate::{
    ecs_error::{from_store, invalid},
    timestamp,
};
use api::v1::{
    DescribeDisksRequest, DescribeDisksResponse, Disk, disk_service_server::DiskService,
};
use store::{DiskFilter, DiskRecord, Refusal};

service!(DiskService => Api {
    describe_disks: DescribeDisksRequest => DescribeDisksResponse;
});

impl Api {
    async fn describe_disks(
        &self,
        request: DescribeDisksRequest,
    ) -> Result<DescribeDisksResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 100)?;
        at_most_100("disk_ids", request.disk_ids.len())?;
        let system = match request.disk_type.as_str() {
            "" | "all" => None,
            "system" => Some(true),
            "data" => Some(false),
            other => {
                return Err(invalid(format!(
                    "disk_type is {other:?}; it must be system, data or all"
                )));
            }
        };
        let reported_states: &[&str] = match request.status.as_str() {
            "" | "All" => &[],
            "In_use" => &["ready"],
            "Creating" => &["", "failed"],
            // States that no disk of this cloud is in yet.
            _ => &["-"],
        };
        let filter = DiskFilter {
            disk_ids: request.disk_ids,
            instance_id: request.instance_id,
            system,
            category: request.category,
            reported_states: reported_states.iter().map(ToString::to_string).collect(),
        };
        let listed = self.cloud.store.disks(filter, page).await.map_err(from_store)?;
        Ok(DescribeDisksResponse {
            request_id: String::new(),
            disks: listed.items.into_iter().map(|disk| self.disk(disk)).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    fn disk(&self, record: DiskRecord) -> Disk {
        let letter = u8::try_from(record.position).unwrap_or(25).min(25) + b'a';
        Disk {
            serial_number: record.disk_id.strip_prefix("d-").unwrap_or_default().to_owned(),
            device: format!("/dev/xvd{}", char::from(letter)),
            status: if record.reported_state == "ready" { "In_use" } else { "Creating" }.to_owned(),
            r#type: if record.position == 0 { "system" } else { "data" }.to_owned(),
            disk_id: record.disk_id,
            disk_name: record.name,
            description: record.description,
            region_id: self.cloud.options.region_id.clone(),
            zone_id: record.zone_id,
            category: record.category,
            performance_level: record.performance_level,
            size: u32::try_from(record.size_gib).unwrap_or(u32::MAX),
            image_id: record.image_id,
            source_snapshot_id: String::new(),
            instance_id: record.instance_id,
            delete_with_instance: record.delete_with_instance,
            creation_time: timestamp::minute(record.created_ms),
            attached_time: timestamp::minute(record.created_ms),
            iops: record.iops,
            throughput: record.bytes_per_second >> 20,
            status_reason: record.reported_message,
        }
    }
}
