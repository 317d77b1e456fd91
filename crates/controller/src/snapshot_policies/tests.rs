use super::*;
use crate::{CloudOptions, DataDir};
use store::{
    DiskRecord, HostRecord, HostRegistration, HostReport, ReportedDisk, SqliteOptions, SqliteStore,
    StatusPlan, Store,
};
use tempfile::TempDir;

const HOUR: i64 = 60 * 60 * 1000;
/// A Friday, midnight.
const FRIDAY: i64 = 20_784 * 24 * HOUR;

/// A database that controllers open one after the other.
struct Site {
    directory: TempDir,
}

impl Site {
    async fn new() -> (Self, SnapshotPolicies) {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        let policies = site.controller();
        let host = HostRecord {
            host_id: "h-1".to_owned(),
            hostname: String::new(),
            zone_id: "z".to_owned(),
            access_endpoint: String::new(),
            underlay_ip: String::new(),
            vcpus: 4,
            vcpu_limit: 4,
            memory_mib: 1024,
            vcpus_used: 0,
            memory_mib_used: 0,
            kvm: String::new(),
            version: String::new(),
            session: 0,
            lease_until_ms: 0,
            lost: false,
            last_seen_ms: 0,
            observed_revision: 0,
            pools: Vec::new(),
        };
        let store = &policies.cloud.store;
        let registration = HostRegistration { host, now_ms: 1, lease_until_ms: i64::MAX };
        store.register_host(registration).await.unwrap();
        let policy = PolicyRecord {
            policy_id: "sp-1".to_owned(),
            time_points: vec![1, 13],
            weekdays: vec![5, 6],
            retention_days: 1,
            ..Default::default()
        };
        store.create_snapshot_policy(policy).await.unwrap();
        (site, policies)
    }

    /// A controller that has just been started.
    fn controller(&self) -> SnapshotPolicies {
        let options = SqliteOptions { path: self.directory.path().join("ecs.db"), readers: 1 };
        let store = Arc::new(SqliteStore::open(&options).unwrap());
        SnapshotPolicies::new(Cloud::new(
            store,
            CloudOptions {
                data_dir: DataDir::lock(&self.directory.path().join(crate::ids::event())).unwrap(),
                region_id: "r".to_owned(),
                zone_ids: Vec::new(),
                lease: Duration::from_secs(15),
                cpu_overcommit: 1.0,
                disk_overcommit: 1.0,
                stop_timeout: Duration::from_secs(60),
                join_token: String::new(),
                dns_servers: Vec::new(),
                ntp_servers: Vec::new(),
                owner_account_id: String::new(),
                eip_ranges: Vec::new(),
                protected_cidrs: Vec::new(),
                kms: Arc::new(kms::KeyFolder::new("/nonexistent")),
            },
        ))
    }
}

fn disk(id: &str, applied_ms: i64) -> DiskRecord {
    let mut disk = DiskRecord {
        disk_id: id.to_owned(),
        host_id: "h-1".to_owned(),
        size_gib: 20,
        attached_ms: 2,
        policy_id: "sp-1".to_owned(),
        policy_point_ms: applied_ms,
        reported: ReportedDisk { state: "ready".to_owned(), ..Default::default() },
        ..Default::default()
    };
    disk_state::refresh(&mut disk);
    disk
}

async fn put(store: &dyn Store, disk: DiskRecord) {
    let decide = Box::new(move |_: &DisksView| {
        Ok(DisksPlan { insert: vec![disk.clone()], ..Default::default() })
    });
    store.change_disks(None, DisksLookup::default(), decide).await.unwrap();
}

async fn all(store: &dyn Store) -> Vec<SnapshotRecord> {
    let page = Page::Offset { offset: 0, limit: 100 };
    let listed = store.snapshots(SnapshotFilter::default(), page).await.unwrap();
    listed.items.into_iter().map(|(snapshot, _)| snapshot).collect()
}

/// Their host has taken them.
async fn accomplish(store: &dyn Store) {
    let update = all(store).await.into_iter().map(|mut snapshot| {
        snapshot.reported.state = "accomplished".to_owned();
        snapshot.status = "accomplished".to_owned();
        snapshot
    });
    let plan = DisksPlan { update_snapshots: update.collect(), ..Default::default() };
    let decide = Box::new(move |_: &DisksView| Ok(plan.clone()));
    store.change_disks(None, DisksLookup::default(), decide).await.unwrap();
}

#[tokio::test]
async fn one_snapshot_for_each_time_point_whoever_is_restarted() {
    let (site, first) = Site::new().await;
    let store = Arc::clone(&first.cloud.store);
    put(&*store, disk("d-1", FRIDAY)).await;
    first.round(FRIDAY + HOUR - 1).await.unwrap();
    assert!(all(&*store).await.is_empty(), "it is not time yet");
    first.round(FRIDAY + HOUR).await.unwrap();
    first.round(FRIDAY + HOUR + 5000).await.unwrap();
    let taken = all(&*store).await;
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].point_ms, taken[0].automatic), (FRIDAY + HOUR, true));
    assert_eq!(taken[0].name, "auto2.0_20261127_sp-1");
    assert_eq!(taken[0].expires_ms, FRIDAY + 25 * HOUR);
    // A controller that begins anew, when the first one's lease is over, does not take it again.
    drop(first);
    let second = site.controller();
    second.round(FRIDAY + 2 * HOUR).await.unwrap();
    assert_eq!(all(&*second.cloud.store).await.len(), 1);
    // Nor when somebody has deleted it meanwhile.
    let plan =
        StatusPlan { purge_snapshots: vec![taken[0].snapshot_id.clone()], ..Default::default() };
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session: 1,
        observed_revision: 1,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 10,
        lease_until_ms: i64::MAX,
        decide: Box::new(move |_| Ok(plan.clone())),
    };
    store.report_status(report).await.unwrap();
    second.round(FRIDAY + 3 * HOUR).await.unwrap();
    assert!(all(&*store).await.is_empty());
    second.round(FRIDAY + 13 * HOUR + 7).await.unwrap();
    assert_eq!(all(&*store).await[0].point_ms, FRIDAY + 13 * HOUR);
    second.round(FRIDAY + 20 * HOUR).await.unwrap();
    assert_eq!(all(&*store).await.len(), 1);
}

#[tokio::test]
async fn two_controllers_at_once_take_it_once() {
    let (site, first) = Site::new().await;
    put(&*first.cloud.store, disk("d-1", FRIDAY)).await;
    let second = site.controller();
    let now = FRIDAY + HOUR;
    let (a, b) = tokio::join!(first.round(now), second.round(now));
    a.unwrap();
    b.unwrap();
    assert_eq!(all(&*first.cloud.store).await.len(), 1);
}

#[tokio::test]
async fn disks_that_cannot_be_are_passed_over_until_they_can() {
    let (_site, policies) = Site::new().await;
    let store = &*policies.cloud.store;
    put(store, DiskRecord { host_id: String::new(), ..disk("d-nowhere", FRIDAY) }).await;
    put(store, disk("d-late", FRIDAY + 2 * HOUR)).await;
    let mut busy = disk("d-busy", FRIDAY);
    busy.content_epoch = 1;
    disk_state::refresh(&mut busy);
    put(store, busy).await;
    policies.round(FRIDAY + 3 * HOUR).await.unwrap();
    assert!(all(store).await.is_empty(), "{:?}", all(store).await);
    // Of what was missed for days, the latest is made up for, and what is too long ago is not.
    policies.round(FRIDAY + (13 + 24 + 12) * HOUR).await.unwrap();
    let taken = all(store).await;
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!((taken[0].disk_id.as_str(), taken[0].point_ms), ("d-late", FRIDAY + 37 * HOUR));
    policies.round(FRIDAY + (13 + 24 + 25) * HOUR).await.unwrap();
    assert_eq!(all(store).await.len(), 1);
}

#[tokio::test]
async fn snapshots_go_when_their_time_is_over_unless_disks_need_them() {
    let (_site, policies) = Site::new().await;
    let store = &*policies.cloud.store;
    put(store, disk("d-1", FRIDAY)).await;
    put(store, disk("d-2", FRIDAY)).await;
    policies.round(FRIDAY + HOUR).await.unwrap();
    accomplish(store).await;
    let of_second = all(store).await.into_iter().find(|s| s.disk_id == "d-2").unwrap();
    let made = DiskRecord {
        source_snapshot_id: of_second.snapshot_id.clone(),
        policy_id: String::new(),
        ..disk("d-3", 0)
    };
    put(store, made).await;
    // The policy's other points are not what this is about.
    store.delete_snapshot_policy("sp-1", Box::new(|_| Ok(()))).await.unwrap();
    policies.round(FRIDAY + 25 * HOUR - 1).await.unwrap();
    assert!(all(store).await.iter().all(|snapshot| !snapshot.releasing));
    policies.round(FRIDAY + 25 * HOUR).await.unwrap();
    let left: Vec<String> = all(store)
        .await
        .into_iter()
        .filter(|snapshot| !snapshot.releasing)
        .map(|snapshot| snapshot.snapshot_id)
        .collect();
    assert_eq!(left, [of_second.snapshot_id]);
}
