//! Images that are made here, of snapshots and of other images. What is to be made is a row that is
//! `Creating` and has a source; how far it is, is known in memory only: after a restart, and whenever
//! a host breaks off, it begins again.

use super::pull::pull;
use crate::{
    cloud::Cloud,
    ecs_error::from_store,
    snapshot_state::{ACCOMPLISHED, FAILED, PROGRESSING},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{ImageFilter, ImageRecord, Page, Planned, SnapshotFilter, SnapshotRecord, StoreError};
use tokio::{sync::Semaphore, task::JoinHandle};

/// Images looked at in one round; the others follow.
const MOST: u32 = 100;
/// Contents that come in at once.
const PULLS: usize = 4;
/// Between two looks at a snapshot that is not taken yet.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// How far every image is that is being made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Builds(Arc<Mutex<HashMap<String, Build>>>);

/// How far one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Build {
    /// Of its content, below 100.
    pub percent: u32,
    /// What it waits for, may be empty.
    pub reason: String,
}

impl Builds {
    /// How far an image is.
    pub fn of(&self, image_id: &str) -> Option<Build> {
        self.all().get(image_id).cloned()
    }

    pub(super) fn progress(&self, image_id: &str, percent: u32) {
        let build = Build { percent: percent.min(99), reason: String::new() };
        self.all().insert(image_id.to_owned(), build);
    }

    fn waits(&self, image_id: &str, reason: String) {
        self.all().insert(image_id.to_owned(), Build { percent: 0, reason });
    }

    fn forget(&self, image_id: &str) {
        self.all().remove(image_id);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Build>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an image is not made yet, or never will be.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It will be so again: the image has failed.
    Lasting(String),
    /// It may be otherwise next time.
    Passing(String),
    /// Something else comes first.
    Waiting(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Passing(from_store(error).message)
    }
}

/// One image on its way. It is given up when this is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes images until the process ends.
pub(crate) async fn run(cloud: Cloud) {
    let mut revisions = cloud.store.revisions();
    let pulls = Arc::new(Semaphore::new(PULLS));
    let mut tasks: HashMap<String, Task> = HashMap::new();
    loop {
        match creating(&cloud).await {
            Ok(images) => look_after(&cloud, &mut tasks, images, &pulls).await,
            Err(error) => tracing::warn!(%error, "images to make cannot be listed; trying again"),
        }
        // A change of anything, but not each of many.
        let _ = tokio::time::timeout(Duration::from_secs(2), revisions.changed()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn creating(cloud: &Cloud) -> Result<Vec<ImageRecord>, StoreError> {
    let mut made = Vec::new();
    let mut position = None;
    loop {
        let filter =
            ImageFilter { statuses: vec!["Creating".to_owned()], ..ImageFilter::default() };
        let listed = cloud.store.images(filter, Page::After { position, limit: MOST }).await?;
        let images = listed.items.into_iter().map(|(image, _)| image);
        made.extend(images.filter(|image| {
            !image.source_snapshot_id.is_empty() || !image.source_image_id.is_empty()
        }));
        if listed.next.is_none() {
            return Ok(made);
        }
        position = listed.next;
    }
}

async fn look_after(
    cloud: &Cloud,
    tasks: &mut HashMap<String, Task>,
    images: Vec<ImageRecord>,
    pulls: &Arc<Semaphore>,
) {
    let before = tasks.len();
    tasks.retain(|image_id, task| {
        let wanted = images.iter().any(|image| image.image_id == *image_id);
        if !wanted {
            cloud.builds.forget(image_id);
        }
        wanted && !task.0.is_finished()
    });
    if tasks.len() < before {
        cloud.images.remove_stray(&*cloud.store).await;
    }
    for image in images {
        let image_id = image.image_id.clone();
        tasks
            .entry(image_id)
            .or_insert_with(|| Task(tokio::spawn(make(cloud.clone(), image, Arc::clone(pulls)))));
    }
}

/// Makes one image, however long it takes.
async fn make(cloud: Cloud, image: ImageRecord, pulls: Arc<Semaphore>) {
    let image_id = image.image_id.clone();
    let mut pause = RETRY_FIRST;
    loop {
        let ended = match attempt(&cloud, &image, &pulls).await {
            Ok(done) => end(&cloud, done).await,
            Err(Trouble::Lasting(reason)) => {
                tracing::warn!(image_id, reason, "an image cannot be made");
                let status = "CreateFailed".to_owned();
                end(&cloud, ImageRecord { status, status_reason: reason, ..image.clone() }).await
            }
            Err(trouble) => Err(trouble),
        };
        match ended {
            Ok(()) => return,
            Err(Trouble::Waiting(reason)) => {
                cloud.builds.waits(&image_id, reason);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(Trouble::Passing(reason) | Trouble::Lasting(reason)) => {
                tracing::info!(image_id, reason, "an image is not made yet; trying again");
                cloud.builds.waits(&image_id, format!("{reason}; it is tried again"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MOST);
            }
        }
    }
}

/// Writes how it ended. Nothing stays of one that failed or was deleted meanwhile.
async fn end(cloud: &Cloud, image: ImageRecord) -> Result<(), Trouble> {
    let (image_id, available) = (image.image_id.clone(), image.status == "Available");
    let planned = Planned { record: image, answer: Vec::new() };
    match cloud.store.finish_image(None, planned).await {
        Ok(_) if available => tracing::info!(image_id, "image made"),
        Ok(_) | Err(StoreError::Refused(_)) => cloud.images.remove(&image_id).await,
        Err(error) => return Err(error.into()),
    }
    cloud.builds.forget(&image_id);
    Ok(())
}

async fn attempt(
    cloud: &Cloud,
    image: &ImageRecord,
    pulls: &Semaphore,
) -> Result<ImageRecord, Trouble> {
    if !image.source_image_id.is_empty() {
        return copy(cloud, image).await;
    }
    for disk in &image.disks {
        if !disk.snapshot_id.is_empty() {
            taken(cloud, &disk.snapshot_id).await?;
        }
    }
    let snapshot = taken(cloud, &image.source_snapshot_id).await?;
    let host_id = &snapshot.host_id;
    let hosts = cloud.store.hosts().await?;
    let host = hosts.into_iter().map(|(host, _)| host).find(|host| host.host_id == *host_id);
    let host = host.ok_or_else(|| Trouble::Passing(format!("host {host_id} is not known")))?;
    let _permit = match pulls.try_acquire() {
        Ok(permit) => permit,
        Err(_) => {
            let reason = "other images are being made; it waits for them".to_owned();
            return Err(Trouble::Waiting(reason));
        }
    };
    pull(cloud, image, &host).await
}

/// A snapshot of the image, once it is taken.
async fn taken(cloud: &Cloud, snapshot_id: &str) -> Result<SnapshotRecord, Trouble> {
    let filter =
        SnapshotFilter { snapshot_ids: vec![snapshot_id.to_owned()], ..SnapshotFilter::default() };
    let page = Page::Offset { offset: 0, limit: 1 };
    let listed = cloud.store.snapshots(filter, page).await?;
    let found = listed.items.into_iter().map(|(snapshot, _)| snapshot).find(|s| !s.releasing);
    let snapshot = found
        .ok_or_else(|| Trouble::Lasting(format!("snapshot {snapshot_id} was deleted before")))?;
    match snapshot.status.as_str() {
        ACCOMPLISHED => Ok(snapshot),
        FAILED => Err(Trouble::Lasting(format!(
            "snapshot {snapshot_id} cannot be taken: {}",
            snapshot.reported.message
        ))),
        _ => Err(Trouble::Waiting(format!("snapshot {snapshot_id} is {PROGRESSING}"))),
    }
}

/// The same content under another id: the file has one more name.
async fn copy(cloud: &Cloud, image: &ImageRecord) -> Result<ImageRecord, Trouble> {
    let source_id = &image.source_image_id;
    let filter = ImageFilter { image_ids: vec![source_id.clone()], ..ImageFilter::default() };
    let listed = cloud.store.images(filter, Page::Offset { offset: 0, limit: 1 }).await?;
    let found = listed.items.into_iter().map(|(source, _)| source);
    let source = found
        .into_iter()
        .find(|source| source.status == "Available")
        .ok_or_else(|| Trouble::Lasting(format!("image {source_id} was deleted before")))?;
    cloud.images.link(source_id, &image.image_id).await.map_err(|error| {
        Trouble::Passing(format!("image {source_id} cannot be copied: {error}"))
    })?;
    Ok(ImageRecord {
        status: "Available".to_owned(),
        status_reason: String::new(),
        format: source.format,
        file_bytes: source.file_bytes,
        virtual_bytes: source.virtual_bytes,
        sha256: source.sha256,
        ..image.clone()
    })
}
