//! The directory of image files. A file has its final name only when it is complete and on disk.

use crate::ecs_error::refuse;
use futures::{Stream, stream};
use sha2::{Digest as _, Sha256};
use std::{io, path::PathBuf};
use store::{ImageFilter, Page, Refusal, Store};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};

/// Bytes of one chunk to a host.
const CHUNK: usize = 1 << 20;
const PARTIAL: &str = ".partial";

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct ImageFiles {
    directory: PathBuf,
}

impl ImageFiles {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, image_id: &str) -> PathBuf {
        self.directory.join(image_id)
    }

    /// Opens a new file for an image.
    pub async fn create(&self, image_id: &str) -> io::Result<Incoming> {
        fs::create_dir_all(&self.directory).await?;
        let partial = self.directory.join(format!("{image_id}{PARTIAL}"));
        let file = File::create(&partial).await?;
        Ok(Incoming {
            file,
            partial,
            complete: self.path(image_id),
            hash: Sha256::new(),
            length: 0,
        })
    }

    /// The bytes of an image from `offset` on.
    pub async fn read(
        &self,
        image_id: &str,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, Refusal>> + Send + 'static, Refusal> {
        let unknown = || {
            refuse(
                404,
                "InvalidImageId.NotFound",
                format!("image {image_id:?} has no file here; import it again"),
            )
        };
        let plain = image_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || image_id.is_empty() {
            return Err(unknown());
        }
        let mut file = File::open(self.path(image_id)).await.map_err(|_| unknown())?;
        let id = image_id.to_owned();
        let failed = move |error: io::Error| {
            tracing::error!(image_id = id, %error, "an image file cannot be read");
            refuse(500, "InternalError", format!("image {id} cannot be read: {error}"))
        };
        file.seek(io::SeekFrom::Start(offset)).await.map_err(&failed)?;
        Ok(stream::try_unfold(file, move |mut file| {
            let failed = failed.clone();
            async move {
                let mut data = Vec::with_capacity(CHUNK);
                (&mut file).take(CHUNK as u64).read_to_end(&mut data).await.map_err(failed)?;
                Ok((!data.is_empty()).then_some((data, file)))
            }
        }))
    }

    /// Removes an image's file, if it is there.
    pub async fn remove(&self, image_id: &str) {
        for path in [self.path(image_id), self.directory.join(format!("{image_id}{PARTIAL}"))] {
            if let Err(error) = fs::remove_file(&path).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an image file stays behind");
            }
        }
    }

    /// Removes files that never became complete. Only before the first upload.
    pub async fn remove_partial(&self) {
        let Ok(mut entries) = fs::read_dir(&self.directory).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(image_id) = name.strip_suffix(PARTIAL) {
                self.remove(image_id).await;
            }
        }
    }

    /// Removes files of images the store does not know: left by a process that was killed.
    pub async fn remove_unknown(&self, store: &dyn Store) {
        let Ok(mut entries) = fs::read_dir(&self.directory).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            let image_id = name.strip_suffix(PARTIAL).unwrap_or(&name).to_owned();
            let filter = ImageFilter { image_ids: vec![image_id.clone()], ..Default::default() };
            let page = Page::Offset { offset: 0, limit: 1 };
            match store.images(filter, page).await {
                Ok(listed) if listed.total == 0 => self.remove(&image_id).await,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A file on its way in.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: File,
    partial: PathBuf,
    complete: PathBuf,
    hash: Sha256,
    length: u64,
}

impl Incoming {
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn path(&self) -> &std::path::Path {
        &self.partial
    }

    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data).await?;
        self.hash.update(data);
        self.length += data.len() as u64;
        Ok(())
    }

    /// Brings all of it to the medium. Answers the SHA-256, lower-case hex.
    pub async fn sync(&mut self) -> io::Result<String> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok(self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Gives it its final name, durably.
    pub async fn complete(self) -> io::Result<()> {
        fs::rename(&self.partial, &self.complete).await?;
        match self.complete.parent() {
            Some(directory) => File::open(directory).await?.sync_all().await,
            None => Ok(()),
        }
    }
}
