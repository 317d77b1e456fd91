//! Storage pools that several hosts name: one account, and disks that go from host to host.

use super::{Backend, records::*};
use store::*;

async fn plan(store: &dyn Store, plan: DisksPlan) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &DisksView| Ok(plan.clone()));
    store.change_disks(None, DisksLookup::default(), decide).await
}

fn shared(limit_gib: u64) -> PoolRecord {
    PoolRecord { shared: true, ..pool("p-s", limit_gib) }
}

fn with(id: &str, pools: Vec<PoolRecord>) -> HostRegistration {
    let mut registration = host(id, 4, 4096);
    registration.host.pools = pools;
    registration
}

fn at(id: &str, host_id: &str) -> DiskRecord {
    let (host_id, pool_id) = (host_id.to_owned(), "p-s".to_owned());
    DiskRecord { host_id, pool_id, ..disk(id) }
}

async fn both(store: &dyn Store) {
    for id in ["h-1", "h-2"] {
        let own = pool(&format!("p-{id}"), 10);
        store.register_host(with(id, vec![own, shared(100)])).await.unwrap();
    }
}

async fn report(store: &dyn Store, host_id: &str, pools: Vec<PoolRecord>) {
    let report = HostReport {
        host_id: host_id.to_owned(),
        session: 1,
        observed_revision: 1,
        events: Vec::new(),
        pools,
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(|_| Ok(StatusPlan::default())),
    };
    store.report_status(report).await.unwrap();
}

async fn the_disk(store: &dyn Store, id: &str) -> DiskRecord {
    let filter = DiskFilter { disk_ids: vec![id.to_owned()], ..Default::default() };
    let listed = store.disks(filter, Page::Offset { offset: 0, limit: 10 }).await.unwrap();
    listed.items.into_iter().next().unwrap()
}

async fn spec(store: &dyn Store, host_id: &str) -> HostSnapshot {
    store.host_snapshot(host_id).await.unwrap().unwrap()
}

pub async fn a_shared_pool_has_one_account_and_hosts_of_its_own(backend: &impl Backend) {
    let store = backend.open();
    both(&*store).await;
    let insert = vec![at("d-1", "h-1"), at("d-2", "h-2")];
    plan(&*store, DisksPlan { insert, ..Default::default() }).await.unwrap();
    let found = store.pools().await.unwrap();
    let found: Vec<_> = found.into_iter().filter(|(pool, _)| pool.shared).collect();
    let [(one, 2)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.provisioned_gib, one.host_id.as_str(), one.hosts.len()), (40, "", 2));
    let more = DisksPlan { insert: vec![at("d-3", "h-2")], ..Default::default() };
    let more =
        DisksPlan { insert: vec![DiskRecord { size_gib: 61, ..more.insert[0].clone() }], ..more };
    assert!(matches!(plan(&*store, more).await, Err(StoreError::PoolFull { .. })));

    // One host does not reach it: it says nothing of the pool, only of itself.
    let gone = PoolRecord {
        state: PoolState::Unavailable,
        message: "not mounted".to_owned(),
        limit_gib: 0,
        ..shared(0)
    };
    report(&*store, "h-2", vec![gone]).await;
    let seen = |snapshot: HostSnapshot| {
        let pool = snapshot.host.pools.into_iter().find(|pool| pool.shared).unwrap();
        (pool.host_id, pool.state, pool.limit_gib, pool.message)
    };
    let of_two = seen(spec(&*store, "h-2").await);
    let expected = ("h-2".to_owned(), PoolState::Unavailable, 100, "not mounted".to_owned());
    assert_eq!(of_two, expected);
    assert_eq!(seen(spec(&*store, "h-1").await).1, PoolState::Ready);
    assert_eq!(spec(&*store, "h-1").await.host.disk_gib(), 10, "its own");
    // By id or name a decision sees all of its hosts.
    for id in ["p-s", "p-h-1"] {
        let hosts = if id == "p-s" { 2 } else { 1 };
        let decide = Box::new(move |view: &DisksView| {
            assert_eq!(view.hosts.len(), hosts);
            Ok(DisksPlan::default())
        });
        let lookup = DisksLookup { pool_id: id.to_owned(), ..Default::default() };
        store.change_disks(None, lookup, decide).await.unwrap();
    }

    // A host that does not name it any more has it while its disks lie there, and then no more.
    store.register_host(with("h-2", Vec::new())).await.unwrap();
    assert_eq!(seen(spec(&*store, "h-2").await).1, PoolState::Unavailable);
    let gone = DiskRecord { host_id: "h-1".to_owned(), ..the_disk(&*store, "d-2").await };
    plan(&*store, DisksPlan { update: vec![gone], ..Default::default() }).await.unwrap();
    store.register_host(with("h-2", Vec::new())).await.unwrap();
    assert!(spec(&*store, "h-2").await.host.pools.is_empty());
    // Nor is it anybody's alone.
    let alone = with("h-3", vec![pool("p-s", 100)]);
    let refused = store.register_host(alone).await.unwrap_err();
    assert!(refused.to_string().contains("p-s"), "{refused}");
}

pub async fn what_has_layers_in_common_moves_together(backend: &impl Backend) {
    let store = backend.open();
    both(&*store).await;
    let snapshot = SnapshotRecord {
        snapshot_id: "s-1".to_owned(),
        disk_id: "d-1".to_owned(),
        host_id: "h-1".to_owned(),
        pool_id: "p-s".to_owned(),
        ..Default::default()
    };
    let insert = vec![at("d-1", "h-1"), at("d-9", "h-1")];
    plan(&*store, DisksPlan { insert, ..Default::default() }).await.unwrap();
    let insert_snapshots = vec![snapshot];
    plan(&*store, DisksPlan { insert_snapshots, ..Default::default() }).await.unwrap();
    let from = DiskRecord {
        source_snapshot_id: "s-1".to_owned(),
        content_snapshot_id: "s-1".to_owned(),
        ..at("d-2", "h-1")
    };
    plan(&*store, DisksPlan { insert: vec![from], ..Default::default() }).await.unwrap();
    let tree = |disk: DiskRecord| (disk.tree_id, disk.host_id, disk.home_epoch);
    let of = |tree: &str, host: &str, epoch| (tree.to_owned(), host.to_owned(), epoch);
    assert_eq!(tree(the_disk(&*store, "d-2").await), of("d-1", "h-1", 1));
    assert_eq!(tree(the_disk(&*store, "d-9").await), of("d-9", "h-1", 1));
    let lookup = DisksLookup { disk_ids: vec!["d-2".to_owned()], ..Default::default() };
    let decide = Box::new(|view: &DisksView| {
        let mates: Vec<&str> = view.mates.iter().map(|disk| disk.disk_id.as_str()).collect();
        assert_eq!(mates, ["d-1", "d-2"]);
        Ok(DisksPlan {
            update: vec![DiskRecord { host_id: "h-2".to_owned(), ..view.disks[0].clone() }],
            ..Default::default()
        })
    });
    let before = *store.revisions().borrow();
    store.change_disks(None, lookup, decide).await.unwrap();
    assert_eq!(tree(the_disk(&*store, "d-1").await), of("d-1", "h-2", 2));
    assert_eq!(tree(the_disk(&*store, "d-2").await), of("d-1", "h-2", 2));
    assert_eq!(tree(the_disk(&*store, "d-9").await), of("d-9", "h-1", 1));
    let two = spec(&*store, "h-2").await;
    assert_eq!((two.disks.len(), two.snapshots[0].home_epoch), (2, 2));
    let one = spec(&*store, "h-1").await;
    assert_eq!((one.disks.len(), one.snapshots.len(), one.removals.len()), (1, 0, 0));
    // Both hosts hear of it.
    let changes = store.changes_after(before).await.unwrap().changes;
    for host_id in ["h-1", "h-2"] {
        assert!(changes.iter().any(|c| c.host_id == host_id && c.kind == "disk"), "{host_id}");
    }
    // A snapshot that is taken now is where the disk is.
    let late = SnapshotRecord {
        snapshot_id: "s-2".to_owned(),
        disk_id: "d-2".to_owned(),
        host_id: "h-2".to_owned(),
        pool_id: "p-s".to_owned(),
        ..Default::default()
    };
    plan(&*store, DisksPlan { insert_snapshots: vec![late], ..Default::default() }).await.unwrap();
    assert_eq!(spec(&*store, "h-2").await.snapshots[1].tree_id, "d-1");
    assert_eq!(store.pools().await.unwrap().iter().map(|(p, _)| p.provisioned_gib).max(), Some(60));
}

pub async fn what_a_lost_host_was_to_remove_another_removes(backend: &impl Backend) {
    let store = backend.open();
    both(&*store).await;
    let used = DiskRecord { instance_id: "i-1".to_owned(), position: 1, ..at("d-2", "h-1") };
    let insert = vec![at("d-1", "h-1"), used, at("d-3", "h-1")];
    plan(&*store, DisksPlan { insert, ..Default::default() }).await.unwrap();
    for id in ["d-1", "d-2"] {
        let gone = DiskRecord { releasing: true, ..the_disk(&*store, id).await };
        plan(&*store, DisksPlan { update: vec![gone], ..Default::default() }).await.unwrap();
    }
    let ids = |snapshot: HostSnapshot| {
        snapshot.removals.into_iter().map(|r| (r.resource_id, r.home_epoch)).collect::<Vec<_>>()
    };
    let of = |id: &str, epoch| (id.to_owned(), epoch);
    assert_eq!(ids(spec(&*store, "h-1").await), [of("d-1", 1), of("d-2", 1)]);
    assert_eq!(spec(&*store, "h-1").await.disks.len(), 1);
    let released = the_disk(&*store, "d-1").await.released_revision;
    store.expire_hosts(500).await.unwrap();
    assert_eq!(ids(spec(&*store, "h-2").await), [], "none is lost");
    report(&*store, "h-2", Vec::new()).await;
    assert_eq!(store.expire_hosts(1500).await.unwrap(), ["h-1"]);
    // Not what an instance is to have.
    assert_eq!(ids(spec(&*store, "h-2").await), [of("d-1", 2)]);
    assert_eq!(ids(spec(&*store, "h-1").await), [of("d-2", 1)]);
    // A report of one that has not heard of it yet proves nothing.
    assert!(the_disk(&*store, "d-1").await.released_revision > released);
    assert_eq!(the_disk(&*store, "d-3").await.host_id, "h-1");
}
