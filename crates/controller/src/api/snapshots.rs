//! Snapshots of disks.

use super::{Api, disks::found, paging, request, service};
use crate::{
    ecs_error::{from_store, invalid, missing, refuse, snapshot_not_found},
    snapshot_state::{self, ACCOMPLISHED},
    timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{snapshot_service_server::SnapshotService, *};
use prost::Message as _;
use store::{DisksLookup, DisksPlan, DisksView, Refusal, SnapshotFilter, SnapshotRecord};

/// Most days a snapshot is kept, other than for ever.
pub(super) const MOST_DAYS: u32 = 65_536;

service!(SnapshotService => Api {
    create_snapshot: CreateSnapshotRequest => CreateSnapshotResponse;
    delete_snapshot: DeleteSnapshotRequest => DeleteSnapshotResponse;
    describe_snapshots: DescribeSnapshotsRequest => DescribeSnapshotsResponse;
    create_auto_snapshot_policy:
        CreateAutoSnapshotPolicyRequest => CreateAutoSnapshotPolicyResponse;
    apply_auto_snapshot_policy:
        ApplyAutoSnapshotPolicyRequest => ApplyAutoSnapshotPolicyResponse;
    cancel_auto_snapshot_policy:
        CancelAutoSnapshotPolicyRequest => CancelAutoSnapshotPolicyResponse;
    describe_auto_snapshot_policy_ex:
        DescribeAutoSnapshotPolicyExRequest => DescribeAutoSnapshotPolicyExResponse;
    modify_auto_snapshot_policy_ex:
        ModifyAutoSnapshotPolicyExRequest => ModifyAutoSnapshotPolicyExResponse;
    delete_auto_snapshot_policy:
        DeleteAutoSnapshotPolicyRequest => DeleteAutoSnapshotPolicyResponse;
});

fn check_name(name: &str) -> Result<(), Refusal> {
    let code = "InvalidSnapshotName.Malformed";
    if name.starts_with("auto") {
        return Err(refuse(
            400,
            code,
            format!(
                "snapshot name {name:?} begins with auto, as those of policies do; choose another"
            ),
        ));
    }
    validation::display_name(code, "snapshot name", name)
}

/// None for `all`, else whether it is the first of two.
fn one_of_two(name: &str, value: &str, yes: &str, no: &str) -> Result<Option<bool>, Refusal> {
    match value {
        "" | "all" => Ok(None),
        value if value == yes => Ok(Some(true)),
        value if value == no => Ok(Some(false)),
        other => Err(invalid(format!("{name} is {other:?}; it must be {yes}, {no} or all"))),
    }
}

impl Api {
    async fn create_snapshot(
        &self,
        request: CreateSnapshotRequest,
    ) -> Result<CreateSnapshotResponse, Refusal> {
        let token = request::token("CreateSnapshot", &request.client_token, &request)?;
        if request.disk_id.is_empty() {
            return Err(missing("disk_id"));
        }
        check_name(&request.snapshot_name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        if request.retention_days > MOST_DAYS {
            return Err(invalid(format!(
                "retention_days is {}; it must be 1 to {MOST_DAYS}, or left out for ever",
                request.retention_days
            )));
        }
        let tags = validation::tags(&request.tag)?;
        let lookup = DisksLookup { disk_ids: vec![request.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let disk = found(view, &request.disk_id)?;
            let days = request.retention_days;
            let snapshot = SnapshotRecord {
                name: request.snapshot_name.clone(),
                description: request.description.clone(),
                tags: tags.clone(),
                ..snapshot_state::take(disk, &view.snapshots, days, now_ms())?
            };
            let snapshot_id = snapshot.snapshot_id.clone();
            let answer = CreateSnapshotResponse { snapshot_id, ..Default::default() };
            Ok(DisksPlan {
                insert_snapshots: vec![snapshot],
                answer: answer.encode_to_vec(),
                ..Default::default()
            })
        };
        request::response(self.cloud.store.change_disks(token, lookup, Box::new(decide)).await)
    }

    async fn delete_snapshot(
        &self,
        request: DeleteSnapshotRequest,
    ) -> Result<DeleteSnapshotResponse, Refusal> {
        if request.snapshot_id.is_empty() {
            return Err(missing("snapshot_id"));
        }
        let lookup =
            DisksLookup { snapshot_ids: vec![request.snapshot_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut snapshot = view
                .snapshots
                .iter()
                .find(|snapshot| snapshot.snapshot_id == request.snapshot_id)
                .cloned()
                .ok_or_else(|| snapshot_not_found(&request.snapshot_id))?;
            snapshot_state::release(
                &mut snapshot,
                &view.from_snapshots,
                &view.made_images,
                request.force,
            )?;
            Ok(DisksPlan { update_snapshots: vec![snapshot], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DeleteSnapshotResponse::default())
    }

    async fn describe_snapshots(
        &self,
        mut request: DescribeSnapshotsRequest,
    ) -> Result<DescribeSnapshotsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        request::at_most_100("snapshot_ids", request.snapshot_ids.len())?;
        let (number, size) = (request.page_number, request.page_size);
        let (token, max_results) = (std::mem::take(&mut request.next_token), request.max_results);
        (request.page_number, request.page_size, request.max_results) = (0, 0, 0);
        let (page, page_number, page_size) =
            paging::either((number, size), (&token, max_results), 100, &request)?;
        let by_token = page_size == 0;
        let status = match request.status.as_str() {
            "" | "all" => "",
            status if snapshot_state::ALL.contains(&status) => status,
            other => {
                return Err(invalid(format!(
                    "status {other:?} does not exist; choose one of {} or all",
                    snapshot_state::ALL.join(", ")
                )));
            }
        };
        let filter = SnapshotFilter {
            snapshot_ids: request.snapshot_ids.clone(),
            disk_id: request.disk_id.clone(),
            instance_id: request.instance_id.clone(),
            name: request.snapshot_name.clone(),
            status: status.to_owned(),
            automatic: one_of_two("snapshot_type", &request.snapshot_type, "auto", "user")?,
            disk_system: one_of_two(
                "source_disk_type",
                &request.source_disk_type,
                "system",
                "data",
            )?,
            used: one_of_two("usage", &request.usage, "disk", "none")?,
            expired_ms: None,
            tags: request.tag.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        };
        let listed = self.cloud.store.snapshots(filter, page).await.map_err(from_store)?;
        Ok(DescribeSnapshotsResponse {
            request_id: String::new(),
            snapshots: listed
                .items
                .into_iter()
                .map(|(snapshot, used)| self.snapshot(snapshot, used))
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
            next_token: paging::next_token(listed.next.filter(|_| by_token), &request),
        })
    }

    fn snapshot(&self, record: SnapshotRecord, used: bool) -> Snapshot {
        let accomplished = record.status == ACCOMPLISHED;
        Snapshot {
            status_reason: snapshot_state::reason(&record),
            snapshot_id: record.snapshot_id,
            snapshot_name: record.name,
            description: record.description,
            region_id: self.cloud.options.region_id.clone(),
            status: record.status,
            progress: if accomplished { "100%" } else { "0%" }.to_owned(),
            snapshot_type: if record.automatic { "auto" } else { "user" }.to_owned(),
            source_disk_id: record.disk_id,
            source_disk_size: u32::try_from(record.disk_size_gib).unwrap_or(u32::MAX),
            source_disk_type: if record.disk_system { "system" } else { "data" }.to_owned(),
            category: "standard".to_owned(),
            usage: if used { "disk" } else { "none" }.to_owned(),
            available: accomplished && !record.releasing,
            encrypted: record.data_key.is_some(),
            kms_key_id: record.data_key.map(|key| key.kms_key_id).unwrap_or_default(),
            retention_days: record.retention_days,
            creation_time: timestamp::second(record.created_ms),
            taken_time: timestamp::second(record.reported.taken_ms),
            size_in_bytes: record.reported.changed_bytes,
            tags: record.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
            host_id: record.host_id,
        }
    }
}
