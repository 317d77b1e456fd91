//! Hosts and what they report.

use super::{Backend, records::*};
use store::*;

fn report(session: u64, revision: u64, plan: StatusPlan) -> HostReport {
    HostReport {
        host_id: "h-1".to_owned(),
        session,
        observed_revision: revision,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(move |_| Ok(plan.clone())),
    }
}

pub async fn a_report_purges_and_frees(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    create(&*store, &["i-1", "i-2"]).await.unwrap();
    let before = *store.revisions().borrow();
    change(&*store, "i-1", |record| record.releasing = true).await.unwrap();
    let released =
        listed(&*store).await.into_iter().find(|found| found.instance.releasing).unwrap();
    assert!(released.instance.released_revision > before);
    let snapshot = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(snapshot.instances.len(), 1, "what is being released is not in the spec");
    assert!(snapshot.revision >= released.instance.released_revision);
    assert_eq!(snapshot.groups[0].member_ips.len(), 1, "nor is its address");
    let changes = store.changes_after(before).await.unwrap().changes;
    for (kind, id) in [("vpc", "vpc-1"), ("security_group", "sg-1")] {
        assert!(changes.iter().any(|change| change.kind == kind && change.id == id), "{id}");
    }
    let page = Page::Offset { offset: 0, limit: 10 };
    let used = store.vswitches(VSwitchFilter::default(), page).await.unwrap().items[0].1;
    assert_eq!(used, 2, "it is not free yet");

    let plan = StatusPlan { purge: vec!["i-1".to_owned()], ..Default::default() };
    store.report_status(report(1, snapshot.revision, plan)).await.unwrap();
    assert_eq!(listed(&*store).await.len(), 1);
    let host = the_host(&*store).await;
    assert_eq!((host.vcpus_used, host.memory_mib_used, host.disk_gib_used()), (2, 1024, 20));
    assert_eq!(host.observed_revision, snapshot.revision);
    let snapshot = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(snapshot.groups[0].member_ips.len(), 1);
    assert_eq!(store.enis(EniFilter::default(), page).await.unwrap().total, 1);
    assert_eq!(store.disks(DiskFilter::default(), page).await.unwrap().total, 1);
    assert_eq!(store.vswitches(VSwitchFilter::default(), page).await.unwrap().items[0].1, 1);
}

pub async fn events_are_stored_once(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let event = |sequence| EventRecord {
        event_id: format!("e-{sequence}-{}", std::process::id()),
        host_id: "h-1".to_owned(),
        sequence,
        resource_id: "i-1".to_owned(),
        event_type: "SystemFailure.Reboot".to_owned(),
        message: String::new(),
        occurred_ms: 3,
    };
    let with_events =
        |events: Vec<EventRecord>| HostReport { events, ..report(1, 0, StatusPlan::default()) };
    assert_eq!(store.report_status(with_events(vec![event(1), event(2)])).await.unwrap(), 2);
    assert_eq!(store.report_status(with_events(vec![event(2), event(3)])).await.unwrap(), 3);
    assert_eq!(store.report_status(with_events(vec![])).await.unwrap(), 3);
    let page = Page::Offset { offset: 0, limit: 10 };
    let filter = EventFilter { resource_id: "i-1".to_owned(), ..Default::default() };
    let events = store.events(filter, page).await.unwrap();
    let sequences: Vec<u64> = events.items.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [3, 2, 1]);
}

pub async fn a_resource_keeps_its_latest_events(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let event = |sequence: u64| EventRecord {
        event_id: format!("e-{sequence}"),
        host_id: "h-1".to_owned(),
        sequence,
        resource_id: if sequence == 1 { "i-2" } else { "i-1" }.to_owned(),
        event_type: "SystemFailure.Reboot".to_owned(),
        message: String::new(),
        occurred_ms: 3,
    };
    let events = (1..=1010).map(event).collect();
    let with_events = HostReport { events, ..report(1, 0, StatusPlan::default()) };
    assert_eq!(store.report_status(with_events).await.unwrap(), 1010);
    let page = Page::Offset { offset: 0, limit: 1 };
    let all = store.events(EventFilter::default(), page).await.unwrap();
    assert_eq!((all.total, all.items[0].sequence), (1001, 1010));
}

pub async fn old_sessions_are_refused(backend: &impl Backend) {
    let store = backend.open();
    assert_eq!(store.register_host(host("h-1", 4, 1024)).await.unwrap(), 1);
    assert_eq!(store.register_host(host("h-1", 8, 2048)).await.unwrap(), 2);
    assert_eq!(the_host(&*store).await.vcpu_limit, 8);
    let stale = store.report_status(report(1, 0, StatusPlan::default())).await.unwrap_err();
    assert!(matches!(stale, StoreError::StaleSession { session: 1, .. }), "{stale}");
    let stale = store.renew_host_lease("h-1", 1, 5, 50).await.unwrap_err();
    assert!(matches!(stale, StoreError::StaleSession { .. }), "{stale}");
    let unknown = store.renew_host_lease("h-2", 1, 5, 50).await.unwrap_err();
    assert!(matches!(unknown, StoreError::StaleSession { .. }), "{unknown}");
    store.renew_host_lease("h-1", 2, 5, 50).await.unwrap();
}

pub async fn leases_can_be_extended_but_not_shortened(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    store.extend_host_leases(5000).await.unwrap();
    store.extend_host_leases(3000).await.unwrap();
    assert!(store.expire_hosts(5000).await.unwrap().is_empty());
    assert_eq!(store.expire_hosts(5001).await.unwrap(), ["h-1"]);
    store.extend_host_leases(9000).await.unwrap();
    assert!(the_host(&*store).await.lost, "only the host itself brings itself back");
}

pub async fn hosts_expire_and_return(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    assert!(store.expire_hosts(1000).await.unwrap().is_empty());
    assert_eq!(store.expire_hosts(1001).await.unwrap(), ["h-1"]);
    assert!(store.expire_hosts(1002).await.unwrap().is_empty(), "told once");
    assert!(the_host(&*store).await.lost);
    assert_eq!(listed(&*store).await[0].host_lost_since_ms, Some(1));
    store.renew_host_lease("h-1", 1, 1003, 2000).await.unwrap();
    assert!(!the_host(&*store).await.lost);
    // Registering again keeps what is claimed.
    store.register_host(host("h-1", 4, 1 << 20)).await.unwrap();
    assert_eq!(the_host(&*store).await.vcpus_used, 2);
}
