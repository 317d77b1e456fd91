//! The change feed and leases.

use super::{Backend, records::*};
use std::{sync::Arc, time::Duration};
use store::*;

pub async fn the_feed_misses_nothing(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 10_000).await;
    let start = *store.revisions().borrow();
    let reader = Arc::clone(&store);
    let watcher = tokio::spawn(async move {
        let mut revisions = reader.revisions();
        let mut seen = Vec::new();
        let mut through = start;
        while seen.len() < 200 {
            let grown = revisions.wait_for(|latest| *latest > through);
            tokio::time::timeout(Duration::from_secs(20), grown).await.unwrap().unwrap();
            let stretch = reader.changes_after(through).await.unwrap();
            assert!(stretch.through > through);
            for change in stretch.changes {
                assert!(change.revision > through && change.revision <= stretch.through);
                if change.kind == "instance" {
                    assert_eq!(change.host_id, "h-1");
                    seen.push(change.id);
                }
            }
            through = stretch.through;
        }
        seen
    });
    let tasks: Vec<_> = (0..200)
        .map(|index| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { create(&*store, &[&format!("i-{index}")]).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut seen = watcher.await.unwrap();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 200);
}

pub async fn compaction_is_told(backend: &impl Backend) {
    let store = backend.open();
    for index in 0..10 {
        store
            .create_vpc(token(&format!("t-{index}"), 1), vpc(&format!("vpc-{index}")))
            .await
            .unwrap();
    }
    let latest = *store.revisions().borrow();
    store.compact(3, 0).await.unwrap();
    assert!(matches!(store.changes_after(0).await, Err(StoreError::Compacted { .. })));
    assert_eq!(store.changes_after(latest - 3).await.unwrap().changes.len(), 3);
    // Tokens go by age.
    let again = store.create_vpc(token("t-1", 1), vpc("vpc-x")).await.unwrap();
    assert_eq!(again.bytes, b"vpc-1");
    store.compact(3, 6).await.unwrap();
    let anew = store.create_vpc(token("t-1", 1), vpc("vpc-y")).await.unwrap();
    assert_eq!(anew.bytes, b"vpc-y");
}

pub async fn refused_transactions_are_not_in_the_feed(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 2).await;
    let before = *store.revisions().borrow();
    create(&*store, &["i-1", "i-2"]).await.unwrap_err();
    let refusal = Refusal { status: 403, code: "No".into(), message: "no".to_owned() };
    let decide: Decide<VpcView, ()> = Box::new(move |_| Err(refusal.clone()));
    let error = store.delete_vpc("vpc-1", decide).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(refusal) if refusal.code == "No"));
    assert!(store.changes_after(before).await.unwrap().changes.is_empty());
    create(&*store, &["i-1"]).await.unwrap();
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().any(|change| change.kind == "instance" && change.id == "i-1"));
    assert!(changes.iter().any(|change| change.kind == "security_group" && change.id == "sg-1"));
}

pub async fn a_lease_has_one_holder(backend: &impl Backend) {
    let store = backend.open();
    let acquire = |holder: &'static str, now| store.acquire_lease("work", holder, now, now + 10);
    assert_eq!(acquire("a", 0).await.unwrap(), Some(1));
    assert_eq!(acquire("b", 5).await.unwrap(), None);
    assert_eq!(acquire("a", 8).await.unwrap(), Some(1));
    assert_eq!(acquire("b", 15).await.unwrap(), None);
    assert_eq!(acquire("b", 19).await.unwrap(), Some(2));
    assert_eq!(acquire("a", 20).await.unwrap(), None);
    assert_eq!(acquire("a", 30).await.unwrap(), Some(3));
}
