//! Snapshots of disks, and their policies.

use super::{
    Backend,
    records::{disk, site},
};
use store::*;

pub fn snapshot(id: &str, disk_id: &str) -> SnapshotRecord {
    SnapshotRecord {
        snapshot_id: id.to_owned(),
        disk_id: disk_id.to_owned(),
        disk_size_gib: 20,
        category: "cloud_essd".to_owned(),
        host_id: "h-1".to_owned(),
        pool_id: "pool-h-1".to_owned(),
        created_ms: 1,
        status: "progressing".to_owned(),
        ..Default::default()
    }
}

async fn plan(store: &dyn Store, plan: DisksPlan) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &DisksView| Ok(plan.clone()));
    store.change_disks(None, DisksLookup::default(), decide).await
}

async fn take(store: &dyn Store, snapshot: SnapshotRecord) -> Result<Answer, StoreError> {
    plan(store, DisksPlan { insert_snapshots: vec![snapshot], ..Default::default() }).await
}

async fn list(store: &dyn Store, filter: SnapshotFilter) -> Vec<(SnapshotRecord, bool)> {
    store.snapshots(filter, Page::Offset { offset: 0, limit: 100 }).await.unwrap().items
}

async fn report(store: &dyn Store, plan: StatusPlan) {
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session: 1,
        observed_revision: 1,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(move |_| Ok(plan.clone())),
    };
    store.report_status(report).await.unwrap();
}

fn image() -> ImageRecord {
    ImageRecord {
        image_id: "m-1".to_owned(),
        name: "debian".to_owned(),
        description: String::new(),
        status: "Available".to_owned(),
        status_reason: String::new(),
        architecture: "x86_64".to_owned(),
        os_type: "linux".to_owned(),
        platform: String::new(),
        family: String::new(),
        format: "raw".to_owned(),
        file_bytes: 1,
        virtual_bytes: 1,
        sha256: String::new(),
        created_ms: 1,
        ..Default::default()
    }
}

pub async fn a_snapshot_outlives_its_disk_and_keeps_its_image(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    store.begin_image(image()).await.unwrap();
    let on_image =
        DiskRecord { host_id: "h-1".to_owned(), image_id: "m-1".to_owned(), ..disk("d-1") };
    let taken = SnapshotRecord { image_id: "m-1".to_owned(), ..snapshot("s-1", "d-1") };
    let both = DisksPlan {
        insert: vec![on_image],
        insert_snapshots: vec![taken.clone()],
        ..Default::default()
    };
    plan(&*store, both).await.unwrap();
    store.delete_image("m-1", Box::new(|_| Ok(()))).await.unwrap();
    report(&*store, StatusPlan { purge_disks: vec!["d-1".to_owned()], ..Default::default() }).await;
    assert_eq!(list(&*store, SnapshotFilter::default()).await, [(taken.clone(), false)]);
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!((spec.disks.len(), spec.snapshots), (0, vec![taken]));
    assert_eq!(spec.images[0].image_id, "m-1", "the snapshot lies on it");
    let gone = StatusPlan { purge_snapshots: vec!["s-1".to_owned()], ..Default::default() };
    report(&*store, gone).await;
    let left = store.images(ImageFilter::default(), Page::Offset { offset: 0, limit: 9 }).await;
    assert_eq!(left.unwrap().total, 0, "the last that lay on it takes it along");
}

pub async fn a_released_snapshot_goes_when_its_host_says_so(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let tags = vec![("a".to_owned(), "b".to_owned())];
    take(&*store, SnapshotRecord { tags: tags.clone(), ..snapshot("s-1", "d-1") }).await.unwrap();
    let before = *store.revisions().borrow();
    let mut told = snapshot("s-1", "d-1");
    told.reported = ReportedSnapshot {
        state: "accomplished".to_owned(),
        changed_bytes: 7 << 20,
        taken_ms: 9,
        ..Default::default()
    };
    told.status = "accomplished".to_owned();
    let update = StatusPlan { update_snapshots: vec![told.clone()], ..Default::default() };
    report(&*store, update).await;
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().all(|change| change.kind == "snapshot_status"), "{changes:?}");
    let listed = list(&*store, SnapshotFilter::default()).await.remove(0).0;
    assert_eq!(listed, SnapshotRecord { tags, ..told.clone() }, "tags stay");
    told.releasing = true;
    plan(&*store, DisksPlan { update_snapshots: vec![told], ..Default::default() }).await.unwrap();
    let listed = list(&*store, SnapshotFilter::default()).await.remove(0).0;
    assert!(listed.releasing && listed.released_revision > before);
    assert!(store.host_snapshot("h-1").await.unwrap().unwrap().snapshots.is_empty());
    let gone = StatusPlan { purge_snapshots: vec!["s-1".to_owned()], ..Default::default() };
    report(&*store, gone).await;
    assert!(list(&*store, SnapshotFilter::default()).await.is_empty());
}

pub async fn one_snapshot_for_one_time_point(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let at = |id: &str, disk_id: &str, point_ms| SnapshotRecord {
        point_ms,
        automatic: true,
        ..snapshot(id, disk_id)
    };
    take(&*store, at("s-1", "d-1", 3600)).await.unwrap();
    let twice = take(&*store, at("s-2", "d-1", 3600)).await.unwrap_err();
    assert!(matches!(twice, StoreError::AlreadyExists { .. }), "{twice}");
    take(&*store, at("s-3", "d-1", 7200)).await.unwrap();
    take(&*store, at("s-4", "d-2", 3600)).await.unwrap();
    // Those that people ask for have no time point.
    take(&*store, snapshot("s-5", "d-1")).await.unwrap();
    take(&*store, snapshot("s-6", "d-1")).await.unwrap();
}

pub async fn a_decision_sees_what_hangs_together(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let from = DiskRecord { source_snapshot_id: "s-1".to_owned(), ..disk("d-2") };
    let reset = DiskRecord { content_snapshot_id: "s-1".to_owned(), ..disk("d-3") };
    let all = DisksPlan {
        insert: vec![disk("d-1"), from, reset],
        insert_snapshots: vec![snapshot("s-1", "d-1"), snapshot("s-2", "d-2")],
        ..Default::default()
    };
    plan(&*store, all).await.unwrap();
    let decide = Box::new(|view: &DisksView| {
        let ids: Vec<&str> = view.snapshots.iter().map(|s| s.snapshot_id.as_str()).collect();
        assert_eq!(ids, ["s-2", "s-1"], "its own, and the one it was made from");
        assert_eq!(view.hosts.len(), 1, "where the snapshot lies");
        Ok(DisksPlan::default())
    });
    let lookup = DisksLookup { disk_ids: vec!["d-2".to_owned()], ..Default::default() };
    store.change_disks(None, lookup, decide).await.unwrap();
    let decide = Box::new(|view: &DisksView| {
        let ids: Vec<&str> = view.from_snapshots.iter().map(|d| d.disk_id.as_str()).collect();
        assert_eq!(ids, ["d-2", "d-3"]);
        Ok(DisksPlan::default())
    });
    let lookup = DisksLookup { snapshot_ids: vec!["s-1".to_owned()], ..Default::default() };
    store.change_disks(None, lookup, decide).await.unwrap();
    let used = SnapshotFilter { used: Some(true), ..Default::default() };
    let listed = list(&*store, used).await;
    assert_eq!((listed.len(), listed[0].0.snapshot_id.as_str(), listed[0].1), (1, "s-1", true));
}

pub async fn policies_come_and_go(backend: &impl Backend) {
    let store = backend.open();
    let policy = PolicyRecord {
        policy_id: "sp-1".to_owned(),
        name: "nightly".to_owned(),
        time_points: vec![1, 13],
        weekdays: vec![1, 7],
        retention_days: 7,
        created_ms: 1,
    };
    store.create_snapshot_policy(policy.clone()).await.unwrap();
    let under = DiskRecord { policy_id: "sp-1".to_owned(), policy_point_ms: 5, ..disk("d-1") };
    plan(&*store, DisksPlan { insert: vec![under.clone()], ..Default::default() }).await.unwrap();
    let page = Page::Offset { offset: 0, limit: 9 };
    let listed = store.snapshot_policies(PolicyFilter::default(), page).await.unwrap().items;
    assert_eq!(listed, [(policy.clone(), 1)]);
    let filter = DiskFilter { policy_id: "sp-1".to_owned(), ..Default::default() };
    let disks = store.disks(filter.clone(), page).await.unwrap().items;
    assert_eq!((disks.len(), disks[0].policy_point_ms), (1, 5));
    let decide: Decide<Option<PolicyRecord>, PolicyRecord> =
        Box::new(|old| Ok(PolicyRecord { time_points: Vec::new(), ..old.clone().unwrap() }));
    store.change_snapshot_policy("sp-1", decide).await.unwrap();
    let named = PolicyFilter { name: "night*".to_owned(), ..Default::default() };
    let listed = store.snapshot_policies(named, page).await.unwrap().items;
    assert_eq!(listed[0].0, PolicyRecord { time_points: Vec::new(), ..policy });
    store.delete_snapshot_policy("sp-1", Box::new(|_| Ok(()))).await.unwrap();
    assert_eq!(store.disks(filter, page).await.unwrap().total, 0, "no disk is under it any more");
    assert_eq!(store.snapshot_policies(PolicyFilter::default(), page).await.unwrap().total, 0);
}

pub async fn lists_of_snapshots_narrow(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    take(&*store, snapshot("s-1", "d-1")).await.unwrap();
    let other = SnapshotRecord {
        name: "other".to_owned(),
        automatic: true,
        disk_system: true,
        expires_ms: 50,
        status: "accomplished".to_owned(),
        tags: vec![("env".to_owned(), "test".to_owned())],
        ..snapshot("s-2", "d-2")
    };
    take(&*store, other).await.unwrap();
    let filters = [
        SnapshotFilter { disk_id: "d-2".to_owned(), ..Default::default() },
        SnapshotFilter { name: "oth*".to_owned(), ..Default::default() },
        SnapshotFilter { status: "accomplished".to_owned(), ..Default::default() },
        SnapshotFilter { automatic: Some(true), ..Default::default() },
        SnapshotFilter { disk_system: Some(true), ..Default::default() },
        SnapshotFilter { expired_ms: Some(50), ..Default::default() },
        SnapshotFilter { tags: vec![("env".to_owned(), String::new())], ..Default::default() },
    ];
    for filter in filters {
        let listed = list(&*store, filter.clone()).await;
        let ids: Vec<&str> = listed.iter().map(|(s, _)| s.snapshot_id.as_str()).collect();
        assert_eq!(ids, ["s-2"], "{filter:?}");
    }
    let early = SnapshotFilter { expired_ms: Some(49), ..Default::default() };
    assert!(list(&*store, early).await.is_empty());
}
