//! Image copies: fetched from the controller, resumed where a fetch broke off, verified by digest,
//! and only then given their name.

use crate::{
    controller_link::RegistryClient,
    durable_file::{self, PART},
    error::{Error, FileContext as _, Result},
    layout::{Layout, is_safe_id, names_in, remove_file},
};
use api::host::{HostSpec, ImageSpec, ReadImageRequest};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, sync::Notify, task::JoinHandle};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A controller that sends nothing for this long is taken for gone.
const SILENCE: Duration = Duration::from_secs(20);

/// The image copies of this host.
#[derive(Debug)]
pub struct Images {
    layout: Layout,
    client: RegistryClient,
    fetches: Mutex<BTreeMap<String, Fetch>>,
    arrived: Arc<Notify>,
}

#[derive(Debug)]
struct Fetch {
    task: JoinHandle<()>,
    /// Why the last attempt failed.
    error: Arc<Mutex<Option<(String, String)>>>,
}

impl Images {
    /// Over the image directory. `arrived` is notified with each image that is complete.
    pub fn new(layout: Layout, client: RegistryClient, arrived: Arc<Notify>) -> Self {
        Self { layout, client, fetches: Mutex::default(), arrived }
    }

    /// Fetches what the spec wants and is not here.
    pub fn want(&self, spec: &HostSpec) {
        let mut fetches = self.fetches();
        fetches.retain(|id, fetch| {
            let wanted = spec.images.iter().any(|i| i.image_id == *id);
            if !wanted {
                fetch.task.abort();
            }
            wanted && !fetch.task.is_finished()
        });
        for image in &spec.images {
            if self.is_here(image) || fetches.contains_key(&image.image_id) {
                continue;
            }
            let error = Arc::new(Mutex::new(None));
            let fetch = keep_fetching(
                self.layout.clone(),
                self.client.clone(),
                image.clone(),
                Arc::clone(&error),
                Arc::clone(&self.arrived),
            );
            let task = tokio::spawn(fetch);
            fetches.insert(image.image_id.clone(), Fetch { task, error });
        }
    }

    fn is_here(&self, image: &ImageSpec) -> bool {
        fs::metadata(self.layout.image(&image.image_id)).is_ok_and(|m| m.len() == image.file_bytes)
    }

    /// Why an image of the spec cannot be used yet; `None` if it can.
    pub fn why_not(&self, image_id: &str) -> Option<Error> {
        if self.layout.image(image_id).exists() {
            return None;
        }
        let failure = self.fetches().get(image_id).and_then(|f| lock(&f.error).clone());
        let (code, message) = failure.unwrap_or_else(|| {
            ("ImageNotReady".into(), "the image is being copied to this host".into())
        });
        Some(Error::resource(image_id, code, message))
    }

    /// Drops copies the spec does not name. Call only while no disk outside the spec is left, since
    /// that could still be an overlay on one of them.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not removed.
    pub fn drop_unused(&self, spec: &HostSpec, lain_on: &BTreeSet<String>) -> Result<()> {
        let wanted: HashSet<&str> = spec
            .images
            .iter()
            .map(|i| i.image_id.as_str())
            .chain(spec.disks.iter().map(|d| d.image_id.as_str()))
            .chain(lain_on.iter().map(String::as_str))
            .collect();
        for (path, id) in self.files()? {
            if !wanted.contains(id.as_str()) {
                tracing::info!(image_id = id, "removing an image copy nothing uses");
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The files of the image directory with the image each belongs to.
    pub(crate) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let dir = self.layout.images();
        let names = names_in(&dir)?;
        Ok(names.iter().map(|n| (dir.join(n), n.trim_end_matches(PART).to_owned())).collect())
    }

    fn fetches(&self) -> MutexGuard<'_, BTreeMap<String, Fetch>> {
        lock(&self.fetches)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep_fetching(
    layout: Layout,
    mut client: RegistryClient,
    image: ImageSpec,
    error: Arc<Mutex<Option<(String, String)>>>,
    arrived: Arc<Notify>,
) {
    let mut pause = RETRY_FIRST;
    loop {
        match fetch(&layout, &mut client, &image).await {
            Ok(()) => {
                tracing::info!(image_id = image.image_id, bytes = image.file_bytes, "image copied");
                arrived.notify_one();
                return;
            }
            Err(e) => {
                tracing::warn!(image_id = image.image_id, "cannot copy the image: {e}");
                *lock(&error) = Some((e.code().to_owned(), e.to_string()));
                arrived.notify_one();
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn fetch(layout: &Layout, client: &mut RegistryClient, image: &ImageSpec) -> Result<()> {
    if !is_safe_id(&image.image_id) {
        return Err(Error::resource(&image.image_id, "InvalidImageId", "not a valid image id"));
    }
    let part = layout.image_part(&image.image_id);
    let mut offset = fs::metadata(&part).map_or(0, |m| m.len());
    if offset > image.file_bytes {
        remove_file(&part)?;
        offset = 0;
    }
    if offset < image.file_bytes {
        let file = tokio::fs::OpenOptions::new().create(true).append(true).open(&part).await;
        let mut file = file.at("open", &part)?;
        let request = ReadImageRequest { image_id: image.image_id.clone(), offset };
        let mut stream = client.read_image(request).await?.into_inner();
        loop {
            let next = tokio::time::timeout(SILENCE, stream.message()).await.map_err(|_| {
                Error::resource(
                    &image.image_id,
                    "ImageFetchFailed",
                    format!("the controller sent nothing for {} s", SILENCE.as_secs()),
                )
            })?;
            let Some(chunk) = next? else { break };
            offset = offset.saturating_add(chunk.data.len() as u64);
            if offset > image.file_bytes {
                drop(file);
                remove_file(&part)?;
                return Err(mismatch(image, "the controller sent more bytes than the image has"));
            }
            file.write_all(&chunk.data).await.at("write", &part)?;
        }
        file.sync_all().await.at("sync", &part)?;
    }
    if offset < image.file_bytes {
        let message = format!("the transfer broke off at {offset} of {} bytes", image.file_bytes);
        return Err(Error::resource(&image.image_id, "ImageFetchFailed", message));
    }
    let target = layout.image(&image.image_id);
    let expected = image.clone();
    tokio::task::spawn_blocking(move || admit(&part, &target, &expected))
        .await
        .map_err(|e| Error::resource(&image.image_id, "ImageFetchFailed", e.to_string()))?
}

/// Gives a complete copy its name if its digest is right, removes it otherwise.
fn admit(part: &Path, target: &Path, image: &ImageSpec) -> Result<()> {
    let found = digest(part).at("read", part)?;
    if !image.sha256.is_empty() && found != image.sha256.to_ascii_lowercase() {
        remove_file(part)?;
        let detail = format!("its SHA-256 is {found}, expected {}", image.sha256);
        return Err(mismatch(image, &detail));
    }
    durable_file::rename(part, target)
}

fn mismatch(image: &ImageSpec, detail: &str) -> Error {
    Error::resource(
        &image.image_id,
        "ImageChecksumMismatch",
        format!("{detail}; the copy is fetched again, import the image anew if this stays"),
    )
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(sha256: &str) -> ImageSpec {
        ImageSpec { image_id: "m-1".into(), sha256: sha256.into(), ..ImageSpec::default() }
    }

    #[test]
    fn only_a_copy_with_the_right_digest_gets_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (part, target) = (dir.path().join("m-1.part"), dir.path().join("m-1"));
        // Of "abc", FIPS 180-2 appendix B.1.
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        fs::write(&part, "abd").unwrap();
        let refused = admit(&part, &target, &image(right)).unwrap_err();
        assert_eq!(refused.code(), "ImageChecksumMismatch");
        assert!(!part.exists() && !target.exists());
        fs::write(&part, "abc").unwrap();
        admit(&part, &target, &image(right)).unwrap();
        assert!(!part.exists() && target.exists());
    }
}
