//! Images made from snapshots and from other images.

use super::{
    Backend,
    records::{disk, lookup, site},
    snapshots::snapshot,
};
use std::sync::{Arc, Mutex};
use store::*;

fn image(id: &str, status: &str) -> ImageRecord {
    ImageRecord {
        image_id: id.to_owned(),
        name: format!("name of {id}"),
        status: status.to_owned(),
        ..Default::default()
    }
}

/// An image with a data disk of its own.
fn made(id: &str) -> ImageRecord {
    let of =
        |snapshot_id: &str, size_gib| ImageDisk { snapshot_id: snapshot_id.to_owned(), size_gib };
    ImageRecord {
        source_snapshot_id: "s-1".to_owned(),
        disks: vec![of("s-1", 20), of("s-2", 40), of("", 30)],
        tags: vec![("env".to_owned(), "test".to_owned())],
        ..image(id, "Creating")
    }
}

async fn change(store: &dyn Store, plan: DisksPlan) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &DisksView| Ok(plan.clone()));
    store.change_disks(None, DisksLookup::default(), decide).await
}

async fn insert(store: &dyn Store, image: ImageRecord) -> Result<Answer, StoreError> {
    change(store, DisksPlan { insert_images: vec![image], ..Default::default() }).await
}

async fn list(store: &dyn Store, filter: ImageFilter) -> Vec<ImageRecord> {
    let page = Page::Offset { offset: 0, limit: 100 };
    let listed = store.images(filter, page).await.unwrap();
    listed.items.into_iter().map(|(image, _)| image).collect()
}

async fn finish(store: &dyn Store, image: ImageRecord) -> Result<Answer, StoreError> {
    store.finish_image(None, Planned { record: image, answer: Vec::new() }).await
}

pub async fn names_are_unique_and_attributes_change(backend: &impl Backend) {
    let store = backend.open();
    insert(&*store, made("m-1")).await.unwrap();
    let same = ImageRecord { name: "name of m-1".to_owned(), ..made("m-2") };
    let error = insert(&*store, same).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    insert(&*store, image("m-2", "Available")).await.unwrap();
    let renamed = ImageRecord {
        family: "web".to_owned(),
        version: "3".to_owned(),
        name: "new name".to_owned(),
        ..made("m-1")
    };
    let update = DisksPlan { update_images: vec![renamed.clone()], ..Default::default() };
    change(&*store, update).await.unwrap();
    let filter =
        ImageFilter { tags: vec![("env".to_owned(), String::new())], ..Default::default() };
    assert_eq!(list(&*store, filter).await, std::slice::from_ref(&renamed));
    let taken = ImageRecord { name: "name of m-2".to_owned(), ..renamed };
    let update = DisksPlan { update_images: vec![taken], ..Default::default() };
    let error = change(&*store, update).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
}

pub async fn what_is_made_here_outlives_a_restart_and_imports_do_not(backend: &impl Backend) {
    let store = backend.open();
    insert(&*store, made("m-1")).await.unwrap();
    let copy = ImageRecord { source_image_id: "m-1".to_owned(), ..image("m-2", "Creating") };
    insert(&*store, copy).await.unwrap();
    store.begin_image(image("m-3", "Creating")).await.unwrap();
    assert_eq!(store.fail_unfinished_images("restarted").await.unwrap(), 1);
    let creating = ImageFilter { statuses: vec!["Creating".to_owned()], ..Default::default() };
    let left: Vec<String> =
        list(&*store, creating).await.into_iter().map(|image| image.image_id).collect();
    assert_eq!(left, ["m-2", "m-1"]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copies = Arc::clone(&seen);
    let look = move |view: &ImageView| {
        copies.lock().unwrap().clone_from(&view.copies);
        Err(Refusal { status: 403, code: "No".into(), message: String::new() })
    };
    store.delete_image("m-1", Box::new(look)).await.unwrap_err();
    assert_eq!(*seen.lock().unwrap(), ["m-2"]);
}

pub async fn an_image_deleted_while_it_is_made_stays_deleted(backend: &impl Backend) {
    let store = backend.open();
    insert(&*store, made("m-1")).await.unwrap();
    store.delete_image("m-1", Box::new(|_| Ok(()))).await.unwrap();
    let done = ImageRecord { status: "Available".to_owned(), ..made("m-1") };
    let error = finish(&*store, done).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert!(list(&*store, ImageFilter::default()).await.is_empty());
    // Its name, disks and tags are free again.
    insert(&*store, made("m-1")).await.unwrap();
    let done = ImageRecord {
        status: "Available".to_owned(),
        format: "qcow2".to_owned(),
        file_bytes: 7,
        virtual_bytes: 9,
        sha256: "aa".to_owned(),
        ..made("m-1")
    };
    finish(&*store, done.clone()).await.unwrap();
    assert_eq!(list(&*store, ImageFilter::default()).await, [done]);
}

pub async fn the_newest_image_of_a_family_makes_instances(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let of = |id: &str, status: &str| ImageRecord { family: "web".to_owned(), ..image(id, status) };
    for new in [of("m-1", "Available"), of("m-2", "Available"), of("m-3", "Creating")] {
        insert(&*store, new).await.unwrap();
    }
    insert(&*store, image("m-4", "Available")).await.unwrap();
    let chosen = async |family: &str| {
        let seen = Arc::new(Mutex::new(None));
        let found = Arc::clone(&seen);
        let look = move |view: &CreateView| {
            *found.lock().unwrap() = view.image.clone().map(|image| image.image_id);
            Err(Refusal { status: 403, code: "No".into(), message: String::new() })
        };
        let lookup =
            CreateLookup { image_id: String::new(), image_family: family.to_owned(), ..lookup() };
        store.create_instances(None, lookup, Box::new(look)).await.unwrap_err();
        seen.lock().unwrap().clone()
    };
    assert_eq!(chosen("web").await.as_deref(), Some("m-2"));
    assert_eq!(chosen("other").await, None);
    store.delete_image("m-2", Box::new(|_| Ok(()))).await.unwrap();
    assert_eq!(chosen("web").await.as_deref(), Some("m-1"));
}

pub async fn snapshots_know_the_images_made_from_them(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    let on_host =
        DiskRecord { host_id: "h-1".to_owned(), image_id: "m-base".to_owned(), ..disk("d-1") };
    let taken = |id: &str| SnapshotRecord { image_id: "m-base".to_owned(), ..snapshot(id, "d-1") };
    let plan = DisksPlan {
        insert: vec![on_host],
        insert_snapshots: vec![taken("s-1"), taken("s-2"), taken("s-3")],
        insert_images: vec![image("m-base", "Available"), made("m-1")],
        ..Default::default()
    };
    change(&*store, plan).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for snapshot_id in ["s-1", "s-2", "s-3"] {
        let found = Arc::clone(&seen);
        let look = move |view: &DisksView| {
            let ids = |images: &[ImageRecord]| -> Vec<String> {
                images.iter().map(|image| image.image_id.clone()).collect()
            };
            found.lock().unwrap().push((ids(&view.made_images), ids(&view.images_below)));
            Ok(DisksPlan::default())
        };
        let lookup = DisksLookup {
            snapshot_ids: vec![snapshot_id.to_owned()],
            images_below: true,
            ..Default::default()
        };
        store.change_disks(None, lookup, Box::new(look)).await.unwrap();
    }
    let below = vec!["m-base".to_owned()];
    let by = vec!["m-1".to_owned()];
    let expected = [(by.clone(), below.clone()), (by, below.clone()), (Vec::new(), below)];
    assert_eq!(*seen.lock().unwrap(), expected);
    let of = |id: &str| ImageFilter { snapshot_id: id.to_owned(), ..Default::default() };
    assert_eq!(list(&*store, of("s-2")).await.len(), 1);
    assert!(list(&*store, of("s-3")).await.is_empty());
    // Instances of the image get its data disks' snapshots to see.
    let snapshots = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&snapshots);
    let look = move |view: &CreateView| {
        let ids = view.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone());
        *found.lock().unwrap() = ids.collect();
        Err(Refusal { status: 403, code: "No".into(), message: String::new() })
    };
    store.create_instances(None, lookup(), Box::new(look)).await.unwrap_err();
    assert_eq!(*snapshots.lock().unwrap(), ["s-2"]);
}
