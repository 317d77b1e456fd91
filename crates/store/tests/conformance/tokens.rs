//! Client tokens and durability.

use super::{Backend, records::*};
use std::sync::Arc;
use store::*;

pub async fn a_token_repeats_its_answer(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let first = store.create_instances(token("t", 1), lookup(), plan(&["i-1"])).await.unwrap();
    assert_eq!(first.bytes, b"i-1");
    let again = store.create_instances(token("t", 1), lookup(), plan(&["i-2"])).await.unwrap();
    assert_eq!(again.bytes, b"i-1");
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
    assert_eq!(later.bytes, b"i-4");
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
    assert_eq!(again.bytes, b"i-1,i-2");
}

pub async fn an_import_does_not_take_a_token_that_has_an_answer(backend: &impl Backend) {
    let store = backend.open();
    let image = |id: &str, status: &str| ImageRecord {
        image_id: id.to_owned(),
        name: id.to_owned(),
        description: String::new(),
        status: status.to_owned(),
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
    };
    let finish = |id: &str, hash| {
        let planned = Planned { record: image(id, "Available"), answer: id.as_bytes().to_vec() };
        store.finish_image(token("t", hash), planned)
    };
    for id in ["m-1", "m-2", "m-3"] {
        store.begin_image(image(id, "Creating")).await.unwrap();
    }
    finish("m-1", 1).await.unwrap();
    let error = finish("m-2", 1).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    let error = finish("m-3", 2).await.unwrap_err();
    assert!(matches!(error, StoreError::TokenMismatch { .. }), "{error}");
    let filter = ImageFilter { statuses: vec!["Creating".to_owned()], ..Default::default() };
    let left = store.images(filter, Page::Offset { offset: 0, limit: 10 }).await.unwrap();
    assert_eq!(left.total, 2, "nothing of a refused transaction is left");
}
