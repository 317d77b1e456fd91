//! Disks: where they are, where they are wanted, and what they claim.

use super::{Backend, records::*};
use store::*;

async fn put(store: &dyn Store, disk: DiskRecord) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &DisksView| {
        Ok(DisksPlan { insert: vec![disk.clone()], ..Default::default() })
    });
    store.change_disks(None, DisksLookup::default(), decide).await
}

/// Changes one disk.
async fn change(
    store: &dyn Store,
    id: &str,
    change: impl Fn(&mut DiskRecord) + Send + Sync + 'static,
) -> Result<Answer, StoreError> {
    let decide = Box::new(move |view: &DisksView| {
        let mut disk = view.disks[0].clone();
        change(&mut disk);
        Ok(DisksPlan { update: vec![disk], ..Default::default() })
    });
    let lookup = DisksLookup { disk_ids: vec![id.to_owned()], ..Default::default() };
    store.change_disks(None, lookup, decide).await
}

fn on_h1(disk: &mut DiskRecord) {
    (disk.host_id, disk.pool_id) = ("h-1".to_owned(), "pool-h-1".to_owned());
}

async fn disks(store: &dyn Store, filter: DiskFilter) -> Vec<DiskRecord> {
    store.disks(filter, Page::Offset { offset: 0, limit: 100 }).await.unwrap().items
}

async fn the_disk(store: &dyn Store, id: &str) -> DiskRecord {
    let filter = DiskFilter { disk_ids: vec![id.to_owned()], ..Default::default() };
    disks(store, filter).await.remove(0)
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

pub async fn claims_follow_place_and_size(backend: &impl Backend) {
    let store = backend.open();
    let mut small = host("h-1", 4, 4096);
    small.host.pools = vec![pool("pool-h-1", 50)];
    store.register_host(small).await.unwrap();
    put(&*store, disk("d-1")).await.unwrap();
    assert_eq!(the_host(&*store).await.disk_gib_used(), 0, "it is nowhere yet");
    change(&*store, "d-1", on_h1).await.unwrap();
    assert_eq!(the_host(&*store).await.disk_gib_used(), 20);
    change(&*store, "d-1", |disk| disk.size_gib = 45).await.unwrap();
    assert_eq!(the_host(&*store).await.disk_gib_used(), 45);
    let full = change(&*store, "d-1", |disk| disk.size_gib = 51).await.unwrap_err();
    assert!(matches!(full, StoreError::PoolFull { .. }), "{full}");
    let placed =
        DiskRecord { host_id: "h-1".to_owned(), pool_id: "pool-h-1".to_owned(), ..disk("d-2") };
    let full = put(&*store, placed).await.unwrap_err();
    assert!(matches!(full, StoreError::PoolFull { .. }), "{full}");
    assert_eq!(the_host(&*store).await.disk_gib_used(), 45);
    assert_eq!(the_disk(&*store, "d-1").await.size_gib, 45);
}

pub async fn an_attachment_knows_its_revision(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    put(&*store, disk("d-1")).await.unwrap();
    let before = *store.revisions().borrow();
    change(&*store, "d-1", |disk| {
        on_h1(disk);
        (disk.instance_id, disk.position) = ("i-1".into(), 1);
    })
    .await
    .unwrap();
    let attached = the_disk(&*store, "d-1").await;
    assert!(attached.attachment_revision > before);
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().any(|c| (c.kind.as_str(), c.host_id.as_str()) == ("disk", "h-1")));
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    let ids: Vec<&str> = spec.instances[0].disks.iter().map(|d| d.disk_id.as_str()).collect();
    assert_eq!(ids, ["d-i-1", "d-1"]);
    // What is only said of it is no change of what is wanted.
    let before = *store.revisions().borrow();
    let mut told = attached.clone();
    told.reported = ReportedDisk {
        state: "ready".to_owned(),
        instance_id: "i-1".to_owned(),
        size_bytes: 20 << 30,
        ..Default::default()
    };
    told.status = "In_use".to_owned();
    report(&*store, StatusPlan { update_disks: vec![told.clone()], ..Default::default() }).await;
    assert_eq!(the_disk(&*store, "d-1").await, told);
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().all(|change| change.kind == "disk_status"), "{changes:?}");
    // One that still leaves is seen with its instance, though it is wanted there no more.
    change(&*store, "d-1", |disk| disk.instance_id.clear()).await.unwrap();
    assert!(the_disk(&*store, "d-1").await.attachment_revision > attached.attachment_revision);
    let decide = Box::new(|view: &DisksView| {
        assert_eq!(view.leaving[0].disk_id, "d-1");
        assert_eq!((view.instances[0].disks.len(), view.hosts.len()), (1, 1));
        Ok(DisksPlan::default())
    });
    let lookup = DisksLookup { instance_ids: vec!["i-1".to_owned()], ..Default::default() };
    store.change_disks(None, lookup, decide).await.unwrap();
    let filter = DiskFilter { instance_id: "i-1".to_owned(), ..Default::default() };
    assert_eq!(disks(&*store, filter).await.len(), 2);
}

pub async fn a_released_disk_goes_when_its_host_says_so(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let tagged = DiskRecord { tags: vec![("a".to_owned(), "b".to_owned())], ..disk("d-1") };
    put(&*store, tagged).await.unwrap();
    change(&*store, "d-1", |disk| disk.releasing = true).await.unwrap();
    assert!(disks(&*store, DiskFilter::default()).await.is_empty(), "no host has any of it");
    put(
        &*store,
        DiskRecord { host_id: "h-1".to_owned(), pool_id: "pool-h-1".to_owned(), ..disk("d-1") },
    )
    .await
    .unwrap();
    let before = *store.revisions().borrow();
    change(&*store, "d-1", |disk| disk.releasing = true).await.unwrap();
    let released = the_disk(&*store, "d-1").await;
    assert!(released.releasing && released.released_revision > before);
    assert_eq!(released.tags, [], "tags go with their disk");
    assert!(store.host_snapshot("h-1").await.unwrap().unwrap().disks.is_empty());
    assert_eq!(the_host(&*store).await.disk_gib_used(), 20);
    let purge = StatusPlan { purge_disks: vec!["d-1".to_owned()], ..Default::default() };
    report(&*store, purge).await;
    assert!(disks(&*store, DiskFilter::default()).await.is_empty());
    assert_eq!(the_host(&*store).await.disk_gib_used(), 0);
}

pub async fn a_spec_has_the_disks_that_stay(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    let on_host = |id: &str| DiskRecord {
        host_id: "h-1".to_owned(),
        pool_id: "pool-h-1".to_owned(),
        ..disk(id)
    };
    put(&*store, on_host("d-free")).await.unwrap();
    let kept = DiskRecord { instance_id: "i-1".to_owned(), position: 1, ..on_host("d-kept") };
    put(&*store, kept).await.unwrap();
    put(&*store, disk("d-nowhere")).await.unwrap();
    let ids = async || {
        let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
        spec.disks.into_iter().map(|disk| disk.disk_id).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["d-i-1", "d-free", "d-kept"]);
    super::records::change(&*store, "i-1", |record| record.releasing = true).await.unwrap();
    assert_eq!(ids().await, ["d-free", "d-kept"], "the instance's own disk goes with it");
}

pub async fn a_kept_disk_outlives_its_instance(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    let kept = DiskRecord {
        host_id: "h-1".to_owned(),
        pool_id: "pool-h-1".to_owned(),
        instance_id: "i-1".to_owned(),
        position: 1,
        ..disk("d-kept")
    };
    put(&*store, kept).await.unwrap();
    super::records::change(&*store, "i-1", |record| record.releasing = true).await.unwrap();
    let freed = DiskRecord { instance_id: String::new(), ..the_disk(&*store, "d-kept").await };
    let plan = StatusPlan {
        update_disks: vec![freed],
        purge: vec!["i-1".to_owned()],
        ..Default::default()
    };
    report(&*store, plan).await;
    assert!(listed(&*store).await.is_empty());
    let left = disks(&*store, DiskFilter::default()).await;
    assert_eq!(left.iter().map(|disk| disk.disk_id.as_str()).collect::<Vec<_>>(), ["d-kept"]);
    assert_eq!(the_host(&*store).await.disk_gib_used(), 20);
}

pub async fn two_disks_never_share_a_place(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    let at = |id: &str, position| DiskRecord {
        host_id: "h-1".to_owned(),
        pool_id: "pool-h-1".to_owned(),
        instance_id: "i-1".to_owned(),
        position,
        ..disk(id)
    };
    put(&*store, at("d-1", 1)).await.unwrap();
    put(&*store, at("d-2", 1)).await.unwrap_err();
    assert_eq!(the_host(&*store).await.disk_gib_used(), 40, "the refused one claims nothing");
    put(&*store, at("d-2", 2)).await.unwrap();
    // Disks that are at no instance have no place to share.
    put(&*store, disk("d-3")).await.unwrap();
    put(&*store, disk("d-4")).await.unwrap();
}

pub async fn lists_narrow(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    let web = DiskRecord {
        name: "web-1".to_owned(),
        status: "Available".to_owned(),
        performance_level: "PL2".to_owned(),
        source_snapshot_id: "s-1".to_owned(),
        tags: vec![("env".to_owned(), "test".to_owned())],
        ..disk("d-web")
    };
    put(&*store, web.clone()).await.unwrap();
    let filters = [
        DiskFilter { name: "web*".to_owned(), ..Default::default() },
        DiskFilter { status: "Available".to_owned(), ..Default::default() },
        DiskFilter { performance_level: "PL2".to_owned(), ..Default::default() },
        DiskFilter { source_snapshot_id: "s-1".to_owned(), ..Default::default() },
        DiskFilter { system: Some(false), ..Default::default() },
        DiskFilter { delete_with_instance: Some(false), ..Default::default() },
        DiskFilter { tags: vec![("env".to_owned(), "test".to_owned())], ..Default::default() },
    ];
    for filter in filters {
        let found = disks(&*store, filter.clone()).await;
        let expected =
            DiskRecord { attachment_revision: found[0].attachment_revision, ..web.clone() };
        assert_eq!(found, [expected], "{filter:?}");
    }
    let none = DiskFilter { tags: vec![("env".to_owned(), "x".to_owned())], ..Default::default() };
    assert!(disks(&*store, none).await.is_empty());
}
