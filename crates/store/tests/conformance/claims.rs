//! Claims, and values that may be given once only.

use super::{Backend, records::*};
use std::{collections::BTreeSet, sync::Arc};
use store::*;

pub async fn concurrent_claims_never_oversell(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 11).await;
    let tasks: Vec<_> = (0..40)
        .map(|index| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { create(&*store, &[&format!("i-{index}")]).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(StoreError::HostFull { host_id }) => assert_eq!(host_id, "h-1"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made, 5, "11 vCPUs are room for five instances of two");
    let host = the_host(&*store).await;
    assert_eq!((host.vcpus_used, host.memory_mib_used), (10, 5 * 1024));
    assert_eq!(listed(&*store).await.len(), 5);
}

pub async fn a_failing_transaction_leaves_nothing(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    // The third does not fit any more.
    let error = create(&*store, &["i-1", "i-2", "i-3"]).await.unwrap_err();
    assert!(matches!(error, StoreError::HostFull { .. }), "{error}");
    assert!(listed(&*store).await.is_empty());
    assert_eq!(the_host(&*store).await.vcpus_used, 0);
    assert_eq!(the_host(&*store).await.disk_gib_used(), 0);
    // Neighbours of a failing transaction in the same commit stand.
    let (good, bad) = tokio::join!(create(&*store, &["i-1"]), create(&*store, &["i-2", "i-3"]));
    assert!(good.is_ok());
    assert!(bad.is_err());
    assert_eq!(listed(&*store).await.len(), 1);
}

pub async fn claims_follow_the_instance(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 2).await;
    create(&*store, &["i-1"]).await.unwrap();
    assert_eq!(the_host(&*store).await.disk_gib_used(), 20);
    change(&*store, "i-1", |record| record.claimed = false).await.unwrap();
    assert_eq!(the_host(&*store).await.vcpus_used, 0);
    create(&*store, &["i-2"]).await.unwrap();
    let error = change(&*store, "i-1", |record| record.claimed = true).await.unwrap_err();
    assert!(matches!(error, StoreError::HostFull { .. }), "{error}");
    assert_eq!(the_host(&*store).await.vcpus_used, 2);
}

pub async fn addresses_and_macs_are_unique(backend: &impl Backend) {
    let store = backend.open();
    network(&*store, "10.0.0.1", "10.0.0.4").await;
    store.register_host(host("h-1", 1000, 1 << 20)).await.unwrap();
    create(&*store, &["i-1", "i-2", "i-3", "i-4"]).await.unwrap();
    let details = listed(&*store).await;
    let addresses: BTreeSet<_> = details.iter().map(|found| found.enis[0].private_ip).collect();
    let macs: BTreeSet<_> = details.iter().map(|found| found.enis[0].mac.clone()).collect();
    assert_eq!((addresses.len(), macs.len()), (4, 4));
    let error = create(&*store, &["i-5"]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoFreeAddress { .. }), "{error}");
    let vni = |id: &'static str| {
        let store = Arc::clone(&store);
        async move {
            store.create_vpc(None, vpc(id)).await.unwrap();
            let filter = VpcFilter { vpc_ids: vec![id.to_owned()], ..Default::default() };
            let page = Page::Offset { offset: 0, limit: 1 };
            store.vpcs(filter, page).await.unwrap().items[0].0.vni
        }
    };
    let (a, b) = (vni("vpc-a").await, vni("vpc-b").await);
    assert!(a != b && (1..1 << 24).contains(&a) && (1..1 << 24).contains(&b));
}

pub async fn a_wanted_address_is_given_once(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let wish = |id: &str| -> Decide<CreateView, CreatePlan> {
        let mut new = instance(id, "h-1");
        new.enis[0].address = Some("10.0.7.7".parse().unwrap());
        Box::new(move |_| Ok(CreatePlan { instances: vec![new.clone()], ..CreatePlan::default() }))
    };
    store.create_instances(None, lookup(), wish("i-1")).await.unwrap();
    assert_eq!(listed(&*store).await[0].enis[0].private_ip.to_string(), "10.0.7.7");
    let error = store.create_instances(None, lookup(), wish("i-2")).await.unwrap_err();
    assert!(matches!(error, StoreError::AddressInUse { .. }), "{error}");
}
