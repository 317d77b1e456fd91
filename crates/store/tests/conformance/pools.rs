//! Storage pools: what hosts say of them, and what disks and snapshots claim of them.

use super::{Backend, records::*};
use store::*;

async fn plan(store: &dyn Store, plan: DisksPlan) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &DisksView| Ok(plan.clone()));
    store.change_disks(None, DisksLookup::default(), decide).await
}

async fn put(store: &dyn Store, disk: DiskRecord) -> Result<Answer, StoreError> {
    plan(store, DisksPlan { insert: vec![disk], ..Default::default() }).await
}

fn in_pool(id: &str, pool_id: &str, size_gib: u64) -> DiskRecord {
    let (host_id, pool_id) = ("h-1".to_owned(), pool_id.to_owned());
    DiskRecord { host_id, pool_id, size_gib, ..disk(id) }
}

fn with(pools: Vec<PoolRecord>) -> HostRegistration {
    let mut registration = host("h-1", 4, 4096);
    registration.host.pools = pools;
    registration
}

async fn report(store: &dyn Store, session: u64, pools: Vec<PoolRecord>, plan: StatusPlan) {
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session,
        observed_revision: 1,
        events: Vec::new(),
        pools,
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(move |_| Ok(plan.clone())),
    };
    store.report_status(report).await.unwrap();
}

async fn the_pool(store: &dyn Store, id: &str) -> (PoolRecord, u64) {
    store.pools().await.unwrap().into_iter().find(|(pool, _)| pool.pool_id == id).unwrap()
}

pub async fn each_pool_is_claimed_by_itself(backend: &impl Backend) {
    let store = backend.open();
    store.register_host(with(vec![pool("p-a", 50), pool("p-b", 30)])).await.unwrap();
    put(&*store, in_pool("d-1", "p-a", 50)).await.unwrap();
    let full = put(&*store, in_pool("d-2", "p-a", 1)).await.unwrap_err();
    assert!(matches!(&full, StoreError::PoolFull { pool_id } if pool_id == "p-a"), "{full}");
    put(&*store, in_pool("d-2", "p-b", 20)).await.unwrap();
    let none = put(&*store, in_pool("d-3", "p-c", 1)).await.unwrap_err();
    assert!(matches!(none, StoreError::PoolFull { .. }), "a pool that is not there: {none}");
    let (a, disks) = the_pool(&*store, "p-a").await;
    assert_eq!((a.host_id.as_str(), a.provisioned_gib, disks), ("h-1", 50, 1));
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!((spec.host.disk_gib(), spec.host.disk_gib_used()), (80, 70));
    let filter = DiskFilter { pool_id: "p-b".to_owned(), ..Default::default() };
    let listed = store.disks(filter, Page::Offset { offset: 0, limit: 10 }).await.unwrap();
    assert_eq!(listed.items.iter().map(|d| d.disk_id.as_str()).collect::<Vec<_>>(), ["d-2"]);
    // A decision about a pool sees its host, and through it the pool.
    let decide = Box::new(|view: &DisksView| {
        assert_eq!(view.hosts[0].pools[1].pool_id, "p-b");
        Ok(DisksPlan::default())
    });
    let lookup = DisksLookup { pool_id: "p-b".to_owned(), ..Default::default() };
    store.change_disks(None, lookup, decide).await.unwrap();
}

pub async fn concurrent_claims_never_oversell_a_pool(backend: &impl Backend) {
    let store = backend.open();
    store.register_host(with(vec![pool("p-a", 105)])).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let store = std::sync::Arc::clone(&store);
            let disk = in_pool(&format!("d-{index}"), "p-a", 10);
            tokio::spawn(async move { put(&*store, disk).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += u64::from(task.await.unwrap());
    }
    assert_eq!(made, 10);
    assert_eq!(the_pool(&*store, "p-a").await.0.provisioned_gib, 100);
}

pub async fn what_snapshots_keep_is_claimed_too(backend: &impl Backend) {
    let store = backend.open();
    store.register_host(with(vec![pool("p-a", 50)])).await.unwrap();
    put(&*store, in_pool("d-1", "p-a", 40)).await.unwrap();
    let mut snapshot = SnapshotRecord {
        snapshot_id: "s-1".to_owned(),
        disk_id: "d-1".to_owned(),
        host_id: "h-1".to_owned(),
        pool_id: "p-a".to_owned(),
        ..Default::default()
    };
    let insert = DisksPlan { insert_snapshots: vec![snapshot.clone()], ..Default::default() };
    plan(&*store, insert).await.unwrap();
    snapshot.reported.changed_bytes = (5 << 30) + 1;
    let told = StatusPlan { update_snapshots: vec![snapshot], ..Default::default() };
    report(&*store, 1, Vec::new(), told).await;
    let (a, _) = the_pool(&*store, "p-a").await;
    assert_eq!((a.snapshot_bytes, a.claimed_gib()), ((5 << 30) + 1, 46));
    put(&*store, in_pool("d-2", "p-a", 5)).await.unwrap_err();
    put(&*store, in_pool("d-2", "p-a", 4)).await.unwrap();
    let purge = StatusPlan { purge_snapshots: vec!["s-1".to_owned()], ..Default::default() };
    report(&*store, 1, Vec::new(), purge).await;
    assert_eq!(the_pool(&*store, "p-a").await.0.claimed_gib(), 44);
}

pub async fn a_pool_is_as_its_host_says_and_never_forgotten_while_used(backend: &impl Backend) {
    let store = backend.open();
    store.register_host(with(vec![pool("p-a", 50), pool("p-b", 30)])).await.unwrap();
    put(&*store, in_pool("d-1", "p-a", 40)).await.unwrap();
    let before = *store.revisions().borrow();
    let low = PoolRecord {
        state: PoolState::Low,
        available_bytes: 7,
        message: "7 bytes left".to_owned(),
        ..pool("p-a", 50)
    };
    report(&*store, 1, vec![low.clone(), pool("p-x", 1)], StatusPlan::default()).await;
    assert_eq!(*store.revisions().borrow(), before, "free space is no news to anyone");
    let (a, _) = the_pool(&*store, "p-a").await;
    let expected = PoolRecord { host_id: "h-1".to_owned(), provisioned_gib: 40, ..low };
    assert_eq!(a, expected);
    assert_eq!(store.pools().await.unwrap().len(), 2, "one that was not registered is none");

    // Claims stay through a registration; what is not named any more goes when nothing lies in it.
    assert_eq!(store.register_host(with(vec![pool("p-b", 10)])).await.unwrap(), 2);
    let (a, _) = the_pool(&*store, "p-a").await;
    assert_eq!((a.state, a.provisioned_gib), (PoolState::Unavailable, 40));
    assert!(a.message.contains("--pool name=p-a"), "{}", a.message);
    store.register_host(with(vec![pool("p-a", 50)])).await.unwrap();
    let pools = store.pools().await.unwrap();
    let [(a, 1)] = pools.as_slice() else { panic!("{pools:?}") };
    assert_eq!((a.state, a.provisioned_gib), (PoolState::Ready, 40));

    let mut other = host("h-2", 4, 4096);
    other.host.pools = vec![pool("p-a", 50)];
    let taken = store.register_host(other).await.unwrap_err();
    assert!(taken.to_string().contains("h-1"), "a pool is one host's: {taken}");
}
