//! The directory of image files. A file has its final name only when it is complete and on disk.

use crate::ecs_error::refuse;
use futures::{Stream, stream};
use sha2::{Digest as _, Sha256};
use std::{io, os::fd::AsFd, path::PathBuf};
use store::{ImageFilter, Page, Refusal, Store};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};

/// Bytes of one chunk to a host.
const CHUNK: usize = 1 << 20;
const PARTIAL: &str = ".partial";
/// Bytes between two looks at how much room is left.
const LOOK_EVERY: u64 = 16 << 20;
/// Bytes that images leave free: the database is in the same file system.
const RESERVE: u64 = 512 << 20;

/// Fails with `StorageFull` if `more` bytes would not leave the reserve.
fn check_room(file: &impl AsFd, more: u64) -> io::Result<()> {
    let system = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    // A small file system keeps a twentieth.
    let reserve = RESERVE.min(bytes(system.f_blocks) / 20);
    let free = bytes(system.f_bavail);
    if free >= more.saturating_add(reserve) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "the controller's data directory has {} MiB free and keeps {} MiB of them for its \
             database, {} MiB are needed",
            free >> 20,
            reserve >> 20,
            more.div_ceil(1 << 20)
        ),
    ))
}

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

    /// Opens a new file for an image of `expected` bytes; 0: not known yet.
    pub async fn create(&self, image_id: &str, expected: u64) -> io::Result<Incoming> {
        let directory = self.directory.clone();
        let partial = directory.join(format!("{image_id}{PARTIAL}"));
        let complete = self.path(image_id);
        // In one piece: where nobody waits for it any more, what was made is dropped, and with that
        // removed.
        let create = move || {
            std::fs::create_dir_all(directory)?;
            let file = std::fs::File::create(&partial)?;
            let (file, hash) = (File::from_std(file), Sha256::new());
            let incoming = Incoming { file, partial, complete, hash, length: 0, position: 0 };
            check_room(&incoming.file, expected)?;
            Ok(incoming)
        };
        tokio::task::spawn_blocking(create).await?
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

    /// Gives a complete file one more name, durably. Where the file system cannot, it is copied.
    pub async fn link(&self, image_id: &str, new_id: &str) -> io::Result<()> {
        let (from, to) = (self.path(image_id), self.path(new_id));
        let partial = self.directory.join(format!("{new_id}{PARTIAL}"));
        let directory = self.directory.clone();
        let link = move || {
            match std::fs::remove_file(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            match std::fs::hard_link(&from, &partial) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(_) => {
                    check_room(&std::fs::File::open(&from)?, std::fs::metadata(&from)?.len())?;
                    std::fs::copy(&from, &partial)?;
                    std::fs::File::open(&partial)?.sync_all()?;
                }
            }
            std::fs::rename(&partial, &to)?;
            // Two names of one file are left as they are by a rename.
            match std::fs::remove_file(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::File::open(directory)?.sync_all()
        };
        tokio::task::spawn_blocking(link).await?
    }

    /// Opens an image's file.
    pub async fn open(&self, image_id: &str) -> io::Result<std::fs::File> {
        Ok(File::open(self.path(image_id)).await?.into_std().await)
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

    /// Removes files of images that the store does not know or that failed: left by a process that
    /// was killed.
    pub async fn remove_stray(&self, store: &dyn Store) {
        let Ok(mut entries) = fs::read_dir(&self.directory).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            let image_id = name.strip_suffix(PARTIAL).unwrap_or(&name).to_owned();
            let filter = ImageFilter { image_ids: vec![image_id.clone()], ..Default::default() };
            let page = Page::Offset { offset: 0, limit: 1 };
            match store.images(filter, page).await {
                Ok(listed)
                    if listed.items.iter().all(|(image, _)| image.status == "CreateFailed") =>
                {
                    self.remove(&image_id).await;
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A file on its way in; removed when it is dropped before it is complete.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: File,
    partial: PathBuf,
    complete: PathBuf,
    hash: Sha256,
    length: u64,
    /// Where the next byte is written.
    position: u64,
}

impl Incoming {
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn path(&self) -> &std::path::Path {
        &self.partial
    }

    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_at(self.length, data).await
    }

    /// Writes at any place of the file.
    pub async fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = self.length.max(offset.saturating_add(data.len() as u64));
        if self.length / LOOK_EVERY != length / LOOK_EVERY {
            check_room(&self.file, LOOK_EVERY)?;
        }
        if offset != self.position {
            self.file.seek(io::SeekFrom::Start(offset)).await?;
        }
        self.file.write_all(data).await?;
        self.hash.update(data);
        self.length = length;
        self.position = offset + data.len() as u64;
        Ok(())
    }

    /// Brings all of it to the medium. Answers the SHA-256 of what was written, in the order it was,
    /// as lower-case hex.
    pub async fn sync(&mut self) -> io::Result<String> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok(self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The SHA-256 of the file, lower-case hex. Reads all of it.
    pub async fn sha256(&self) -> io::Result<String> {
        let mut file = File::open(&self.partial).await?.into_std().await;
        let digest = move || {
            use std::io::Read as _;
            let mut hash = Sha256::new();
            let mut data = vec![0; CHUNK];
            loop {
                let length = file.read(&mut data)?;
                if length == 0 {
                    break;
                }
                hash.update(&data[..length]);
            }
            Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
        };
        tokio::task::spawn_blocking(digest).await?
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

impl Drop for Incoming {
    fn drop(&mut self) {
        // Under its final name it is not there any more.
        if let Err(error) = std::fs::remove_file(&self.partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.partial.display(), %error, "an image file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_given_up_is_removed_even_while_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let files = ImageFiles::new(folder.path().join("images"));
        let left = || std::fs::read_dir(folder.path().join("images")).map_or(0, Iterator::count);
        for _ in 0..50 {
            let files = files.clone();
            let making = tokio::spawn(async move { files.create("m-1", 0).await });
            tokio::task::yield_now().await;
            making.abort();
            let _ = making.await;
        }
        // What runs beside has ended when this has.
        for _ in 0..100 {
            if left() == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(left(), 0);
        // Of another image: one of those above may still come and go.
        let there = |name: &str| folder.path().join("images").join(name).exists();
        drop(files.create("m-2", 0).await.unwrap());
        assert!(!there("m-2") && !there("m-2.partial"));
        files.create("m-2", 0).await.unwrap().complete().await.unwrap();
        assert!(there("m-2") && !there("m-2.partial"));
        files.link("m-2", "m-3").await.unwrap();
        files.link("m-2", "m-3").await.unwrap();
        assert!(there("m-2") && there("m-3") && !there("m-3.partial"));
        files.remove("m-2").await;
        assert!(there("m-3") && files.link("m-2", "m-4").await.is_err());
    }

    #[test]
    fn a_file_that_would_fill_the_disk_is_refused() {
        let file = tempfile::tempfile().unwrap();
        check_room(&file, 0).unwrap();
        let error = check_room(&file, 1 << 60).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("MiB free"), "{error}");
    }
}
