//! Policies by which snapshots are taken.

use super::{Api, disks::found, paging, request, snapshots::MOST_DAYS};
use crate::{
    ecs_error::{from_store, missing, policy_not_found, refuse},
    ids, timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use std::{collections::BTreeSet, ops::RangeInclusive};
use store::{Decide, DisksLookup, DisksPlan, DisksView, PolicyFilter, PolicyRecord, Refusal};

/// Hours or days, each once and in order.
fn checked(
    code: &'static str,
    name: &str,
    values: &[u32],
    range: RangeInclusive<u32>,
) -> Result<Vec<u32>, Refusal> {
    if let Some(odd) = values.iter().find(|value| !range.contains(value)) {
        return Err(refuse(
            400,
            code,
            format!("{name} has {odd}; it must be {} to {}", range.start(), range.end()),
        ));
    }
    Ok(values.iter().copied().collect::<BTreeSet<_>>().into_iter().collect())
}

fn hours(values: &[u32]) -> Result<Vec<u32>, Refusal> {
    checked("InvalidParameter.TimePoints", "time_points", values, 0..=23)
}

fn weekdays(values: &[u32]) -> Result<Vec<u32>, Refusal> {
    checked("InvalidParameter.RepeatWeekdays", "repeat_weekdays", values, 1..=7)
}

/// Days a snapshot is kept; 0 for ever, which is -1 in the call.
fn retention(days: i32) -> Result<u32, Refusal> {
    match (days, u32::try_from(days)) {
        (-1, _) => Ok(0),
        (_, Ok(days @ 1..=MOST_DAYS)) => Ok(days),
        _ => Err(refuse(
            400,
            "InvalidRetentionDays",
            format!("retention_days is {days}; it must be 1 to {MOST_DAYS}, or -1 for ever"),
        )),
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let code = "InvalidAutoSnapshotPolicyName.Malformed";
    validation::display_name(code, "policy name", name)
}

impl Api {
    pub(super) async fn create_auto_snapshot_policy(
        &self,
        request: CreateAutoSnapshotPolicyRequest,
    ) -> Result<CreateAutoSnapshotPolicyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        check_name(&request.auto_snapshot_policy_name)?;
        for (name, given) in [
            ("time_points", request.time_points.len()),
            ("repeat_weekdays", request.repeat_weekdays.len()),
        ] {
            if given == 0 {
                return Err(missing(name));
            }
        }
        if request.retention_days == 0 {
            return Err(missing("retention_days"));
        }
        let policy = PolicyRecord {
            policy_id: ids::snapshot_policy(),
            name: request.auto_snapshot_policy_name,
            time_points: hours(&request.time_points)?,
            weekdays: weekdays(&request.repeat_weekdays)?,
            retention_days: retention(request.retention_days)?,
            created_ms: now_ms(),
        };
        let auto_snapshot_policy_id = policy.policy_id.clone();
        self.cloud.store.create_snapshot_policy(policy).await.map_err(from_store)?;
        Ok(CreateAutoSnapshotPolicyResponse { auto_snapshot_policy_id, ..Default::default() })
    }

    pub(super) async fn apply_auto_snapshot_policy(
        &self,
        request: ApplyAutoSnapshotPolicyRequest,
    ) -> Result<ApplyAutoSnapshotPolicyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let policy_id = request.auto_snapshot_policy_id;
        if policy_id.is_empty() {
            return Err(missing("auto_snapshot_policy_id"));
        }
        self.put_disks_under(policy_id, request.disk_ids).await?;
        Ok(ApplyAutoSnapshotPolicyResponse::default())
    }

    pub(super) async fn cancel_auto_snapshot_policy(
        &self,
        request: CancelAutoSnapshotPolicyRequest,
    ) -> Result<CancelAutoSnapshotPolicyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        self.put_disks_under(String::new(), request.disk_ids).await?;
        Ok(CancelAutoSnapshotPolicyResponse::default())
    }

    /// Puts disks under a policy, or under none if it is empty.
    async fn put_disks_under(
        &self,
        policy_id: String,
        disk_ids: Vec<String>,
    ) -> Result<(), Refusal> {
        if disk_ids.is_empty() {
            return Err(missing("disk_ids"));
        }
        request::at_most_100("disk_ids", disk_ids.len())?;
        let lookup = DisksLookup {
            disk_ids: disk_ids.clone(),
            policy_id: policy_id.clone(),
            ..Default::default()
        };
        let decide = move |view: &DisksView| {
            if !policy_id.is_empty() && view.policy.is_none() {
                return Err(policy_not_found(&policy_id));
            }
            let now = now_ms();
            let mut plan = DisksPlan::default();
            for disk_id in &disk_ids {
                let mut disk = found(view, disk_id)?.clone();
                if disk.policy_id != policy_id {
                    disk.policy_id.clone_from(&policy_id);
                    disk.policy_point_ms = disk.policy_point_ms.max(now);
                    plan.update.push(disk);
                }
            }
            Ok(plan)
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map(drop).map_err(from_store)
    }

    pub(super) async fn describe_auto_snapshot_policy_ex(
        &self,
        request: DescribeAutoSnapshotPolicyExRequest,
    ) -> Result<DescribeAutoSnapshotPolicyExResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 100)?;
        let id = request.auto_snapshot_policy_id;
        let filter = PolicyFilter {
            policy_ids: if id.is_empty() { Vec::new() } else { vec![id] },
            name: request.auto_snapshot_policy_name,
        };
        let listed = self.cloud.store.snapshot_policies(filter, page).await.map_err(from_store)?;
        let describe = |(policy, disks): (PolicyRecord, u64)| AutoSnapshotPolicy {
            auto_snapshot_policy_id: policy.policy_id,
            auto_snapshot_policy_name: policy.name,
            region_id: self.cloud.options.region_id.clone(),
            time_points: policy.time_points,
            repeat_weekdays: policy.weekdays,
            retention_days: match policy.retention_days {
                0 => -1,
                days => i32::try_from(days).unwrap_or(i32::MAX),
            },
            status: "Normal".to_owned(),
            disk_nums: paging::total(disks),
            creation_time: timestamp::second(policy.created_ms),
        };
        Ok(DescribeAutoSnapshotPolicyExResponse {
            request_id: String::new(),
            auto_snapshot_policies: listed.items.into_iter().map(describe).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    pub(super) async fn modify_auto_snapshot_policy_ex(
        &self,
        request: ModifyAutoSnapshotPolicyExRequest,
    ) -> Result<ModifyAutoSnapshotPolicyExResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let policy_id = request.auto_snapshot_policy_id;
        if policy_id.is_empty() {
            return Err(missing("auto_snapshot_policy_id"));
        }
        let name = request.auto_snapshot_policy_name;
        check_name(name.as_deref().unwrap_or_default())?;
        let (hours, weekdays) = (hours(&request.time_points)?, weekdays(&request.repeat_weekdays)?);
        let retention_days = request.retention_days.map(retention).transpose()?;
        if name.is_none() && hours.is_empty() && weekdays.is_empty() && retention_days.is_none() {
            return Err(refuse(
                400,
                "MissingParameter",
                "nothing to modify is given; give auto_snapshot_policy_name, time_points, \
                 repeat_weekdays or retention_days",
            ));
        }
        let of_policy = policy_id.clone();
        let decide: Decide<Option<PolicyRecord>, PolicyRecord> = Box::new(move |old| {
            let mut policy = old.clone().ok_or_else(|| policy_not_found(&of_policy))?;
            if let Some(name) = &name {
                policy.name.clone_from(name);
            }
            if !hours.is_empty() {
                policy.time_points.clone_from(&hours);
            }
            if !weekdays.is_empty() {
                policy.weekdays.clone_from(&weekdays);
            }
            policy.retention_days = retention_days.unwrap_or(policy.retention_days);
            Ok(policy)
        });
        let changed = self.cloud.store.change_snapshot_policy(&policy_id, decide).await;
        changed.map_err(from_store)?;
        Ok(ModifyAutoSnapshotPolicyExResponse::default())
    }

    pub(super) async fn delete_auto_snapshot_policy(
        &self,
        request: DeleteAutoSnapshotPolicyRequest,
    ) -> Result<DeleteAutoSnapshotPolicyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let policy_id = request.auto_snapshot_policy_id;
        if policy_id.is_empty() {
            return Err(missing("auto_snapshot_policy_id"));
        }
        let of_policy = policy_id.clone();
        let decide: Decide<Option<PolicyRecord>, ()> = Box::new(move |old| {
            old.as_ref().map(|_| ()).ok_or_else(|| policy_not_found(&of_policy))
        });
        let deleted = self.cloud.store.delete_snapshot_policy(&policy_id, decide).await;
        deleted.map_err(from_store)?;
        Ok(DeleteAutoSnapshotPolicyResponse::default())
    }
}
