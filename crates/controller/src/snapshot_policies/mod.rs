//! Takes snapshots when policies say so, and removes those whose time is over.
//!
//! Level-triggered: each round looks for disks whose latest time point is not done, and for
//! snapshots that are past their retention. What is done for a time point is marked on the disk in
//! the transaction that makes the snapshot, so it is done once whatever is killed. Of time points
//! that were missed for long the latest is made up for.

mod schedule;

use crate::{cloud::Cloud, disk_state, snapshot_state, timestamp};
use schedule::latest_point;
use std::{sync::Arc, time::Duration};
use store::{
    DiskFilter, DisksLookup, DisksPlan, DisksView, Listed, Page, PolicyFilter, PolicyRecord,
    SnapshotFilter, SnapshotRecord, StoreError,
};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(5);
/// Life of the lease under which is worked.
const LEASE_MS: i64 = 60_000;
/// A time point that is longer ago is not made up for.
const LATE_MS: i64 = 24 * 60 * 60 * 1000;
/// Rows of one look.
const LOOK: u32 = 100;

/// Runs until the process ends. Only one controller at a time does the work.
pub(crate) async fn run(cloud: Cloud) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let policies = SnapshotPolicies::new(cloud);
    loop {
        tick.tick().await;
        if let Err(error) = policies.round(timestamp::now_ms()).await {
            tracing::warn!(%error, "snapshot policies could not be followed; trying again");
        }
    }
}

/// The one who follows the policies.
struct SnapshotPolicies {
    cloud: Cloud,
    name: String,
}

/// A disk and the time point that is due.
struct Due {
    disk_id: String,
    policy: PolicyRecord,
    point_ms: i64,
}

impl SnapshotPolicies {
    fn new(cloud: Cloud) -> Self {
        Self { cloud, name: uuid::Uuid::new_v4().to_string() }
    }

    /// Looks once. Without work nothing is written, not even the lease.
    async fn round(&self, now: i64) -> Result<(), StoreError> {
        let due = self.due(now).await?;
        let expired = self.expired(now).await?;
        if due.is_empty() && expired.is_empty() {
            return Ok(());
        }
        let until = now + LEASE_MS;
        let store = &self.cloud.store;
        if store.acquire_lease("snapshot-policies", &self.name, now, until).await?.is_none() {
            return Ok(());
        }
        for due in due {
            let (disk_id, point_ms) = (due.disk_id.clone(), due.point_ms);
            match self.take(due, now).await {
                Ok(()) => {}
                // Another controller was quicker, or it cannot be now: the next round looks again.
                Err(error @ (StoreError::AlreadyExists { .. } | StoreError::Refused(_))) => {
                    tracing::debug!(%error, disk_id, point_ms, "no automatic snapshot yet");
                }
                Err(error) => return Err(error),
            }
        }
        for snapshot_id in expired {
            match self.expire(&snapshot_id, now).await {
                Ok(()) => tracing::info!(snapshot_id, "snapshot is past its retention and goes"),
                Err(StoreError::Refused(refusal)) => {
                    tracing::debug!(%refusal, snapshot_id, "an expired snapshot stays");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Disks whose latest time point is not done.
    async fn due(&self, now: i64) -> Result<Vec<Due>, StoreError> {
        let store = &self.cloud.store;
        let mut due = Vec::new();
        let policies = every(|page| {
            let store = Arc::clone(store);
            async move { store.snapshot_policies(PolicyFilter::default(), page).await }
        });
        for (policy, disks) in policies.await? {
            let Some(point_ms) = latest_point(&policy, now) else { continue };
            if disks == 0 || now - point_ms > LATE_MS {
                continue;
            }
            let filter = DiskFilter { policy_id: policy.policy_id.clone(), ..Default::default() };
            let disks = every(|page| {
                let (store, filter) = (Arc::clone(store), filter.clone());
                async move { store.disks(filter, page).await }
            });
            for disk in disks.await?.into_iter().filter(|disk| disk.policy_point_ms < point_ms) {
                // One that has no content yet is passed over until it has.
                let ready = [disk_state::IN_USE, disk_state::AVAILABLE];
                if !disk.host_id.is_empty() && ready.contains(&disk.status.as_str()) {
                    due.push(Due { disk_id: disk.disk_id, policy: policy.clone(), point_ms });
                }
            }
        }
        Ok(due)
    }

    async fn expired(&self, now: i64) -> Result<Vec<String>, StoreError> {
        // A snapshot that disks were made from is kept for them.
        let filter =
            SnapshotFilter { expired_ms: Some(now), used: Some(false), ..Default::default() };
        let page = Page::After { position: None, limit: LOOK };
        let listed = self.cloud.store.snapshots(filter, page).await?;
        Ok(listed.items.into_iter().map(|(snapshot, _)| snapshot.snapshot_id).collect())
    }

    async fn take(&self, due: Due, now: i64) -> Result<(), StoreError> {
        let lookup = DisksLookup { disk_ids: vec![due.disk_id.clone()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut plan = DisksPlan::default();
            let Some(disk) = view.disks.first() else { return Ok(plan) };
            if disk.policy_id != due.policy.policy_id || disk.policy_point_ms >= due.point_ms {
                return Ok(plan);
            }
            let days = due.policy.retention_days;
            let mut disk = disk.clone();
            let snapshot = snapshot_state::take(&disk, &view.snapshots, days, now)?;
            plan.insert_snapshots.push(SnapshotRecord {
                name: name(due.point_ms, &due.policy.policy_id),
                automatic: true,
                point_ms: due.point_ms,
                ..snapshot
            });
            disk.policy_point_ms = due.point_ms;
            plan.update.push(disk);
            Ok(plan)
        };
        self.cloud.store.change_disks(None, lookup, Box::new(decide)).await.map(drop)
    }

    async fn expire(&self, snapshot_id: &str, now: i64) -> Result<(), StoreError> {
        let lookup =
            DisksLookup { snapshot_ids: vec![snapshot_id.to_owned()], ..Default::default() };
        let decide = move |view: &DisksView| {
            let mut plan = DisksPlan::default();
            let over = |s: &&SnapshotRecord| s.expires_ms > 0 && s.expires_ms <= now;
            if let Some(snapshot) = view.snapshots.iter().find(over) {
                let mut snapshot = snapshot.clone();
                snapshot_state::release(
                    &mut snapshot,
                    &view.from_snapshots,
                    &view.made_images,
                    false,
                )?;
                plan.update_snapshots.push(snapshot);
            }
            Ok(plan)
        };
        self.cloud.store.change_disks(None, lookup, Box::new(decide)).await.map(drop)
    }
}

/// `auto2.0_20261127_sp-...`, as ECS names them.
fn name(point_ms: i64, policy_id: &str) -> String {
    let day = timestamp::minute(point_ms);
    let day: String = day.chars().filter(char::is_ascii_digit).take(8).collect();
    format!("auto2.0_{day}_{policy_id}")
}

/// Every row of a list.
async fn every<T, F>(mut page: impl FnMut(Page) -> F) -> Result<Vec<T>, StoreError>
where
    F: Future<Output = Result<Listed<T>, StoreError>>,
{
    let mut items = Vec::new();
    let mut position = None;
    loop {
        let listed = page(Page::After { position, limit: LOOK }).await?;
        items.extend(listed.items);
        if listed.next.is_none() {
            return Ok(items);
        }
        position = listed.next;
    }
}

#[cfg(test)]
mod tests;
