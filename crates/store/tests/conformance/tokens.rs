//! Client tokens and durability.

use super::{Backend, records::*};
use std::sync::Arc;
use store::*;

pub async fn a_token_repeats_its_answer(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let first = store.create_instances(token("t", 1), lookup(), plan(&["i-1"])).await.unwrap();
    assert_eq!((first.bytes.as_slice(), first.replayed), (b"i-1".as_slice(), false));
    let again = store.create_instances(token("t", 1), lookup(), plan(&["i-2"])).await.unwrap();
    assert_eq!((again.bytes.as_slice(), again.replayed), (b"i-1".as_slice(), true));
    assert_eq!(listed(&*store).await.len(), 1);
    let error = store.create_instances(token("t", 2), lookup(), plan(&["i-3"])).await.unwrap_err();
    assert!(matches!(error, StoreError::TokenMismatch { .. }), "{error}");
    let kept = store.kept_answer(token("t", 1).unwrap()).await.unwrap().unwrap();
    assert_eq!(kept.bytes, b"i-1");
    // A refused call does not use its token up.
    let full: Vec<String> = (0..60).map(|index| format!("i-full-{index}")).collect();
    let full: Vec<&str> = full.iter().map(String::as_str).collect();
    store.create_instances(token("u", 1), lookup(), plan(&full)).await.unwrap_err();
    let later = store.create_instances(token("u", 1), lookup(), plan(&["i-4"])).await.unwrap();
    assert!(!later.replayed);
}

pub async fn concurrent_calls_with_one_token_make_one(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 1000).await;
    let tasks: Vec<_> = (0..30)
        .map(|index| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let ids = [format!("i-{index}")];
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                store.create_instances(token("t", 1), lookup(), plan(&ids)).await.unwrap()
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.bytes == answers[0].bytes));
    assert_eq!(listed(&*store).await.len(), 1);
}

pub async fn what_was_acknowledged_is_there_after_opening_again(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    store.create_instances(token("t", 1), lookup(), plan(&["i-1", "i-2"])).await.unwrap();
    change(&*store, "i-2", |record| {
        record.status = "Running".to_owned();
        record.reported = Some(ReportedState {
            generation: 1,
            boot_epoch: 1,
            state: GuestState::Running,
            code: "c".to_owned(),
            message: "m".to_owned(),
            started_ms: 9,
        });
    })
    .await
    .unwrap();
    let before = (listed(&*store).await, the_host(&*store).await, *store.revisions().borrow());
    drop(store);
    let store = backend.open();
    let after = (listed(&*store).await, the_host(&*store).await, *store.revisions().borrow());
    assert_eq!(before, after);
    let again = store.create_instances(token("t", 1), lookup(), plan(&["i-3"])).await.unwrap();
    assert_eq!((again.bytes.as_slice(), again.replayed), (b"i-1,i-2".as_slice(), true));
}
