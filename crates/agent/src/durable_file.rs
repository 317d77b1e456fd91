//! Files that are either the old or the new version after a crash, never something between.

use crate::error::{Error, FileContext as _, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Suffix of files that are not complete yet.
pub const PART: &str = ".part";

/// Replaces the file by one with these bytes. On return it is on the medium.
///
/// # Errors
/// When the file system refuses; the old version is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    create_with(path, |file, temporary| file.write_all(bytes).at("write", temporary))
}

/// Replaces the file by one that `fill` has filled. On return it is on the medium.
///
/// # Errors
/// When `fill` fails or the file system refuses; the old version is then still there.
pub fn create_with<T>(path: &Path, fill: impl FnOnce(&mut File, &Path) -> Result<T>) -> Result<T> {
    let temporary = temporary(path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .at("create", &temporary)?;
    let value = fill(&mut file, &temporary)?;
    file.sync_all().at("sync", &temporary)?;
    rename(&temporary, path)?;
    Ok(value)
}

/// Renames within a directory and makes the new name durable.
///
/// # Errors
/// When the file system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at("rename", from)?;
    sync_dir(to.parent().unwrap_or(Path::new("/")))
}

/// Makes names in a directory durable.
///
/// # Errors
/// When the file system refuses.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).at("sync", dir)
}

/// Replaces the file by `value` as JSON.
///
/// # Errors
/// As [`write`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::Damaged { path: path.into(), detail: e.to_string() })?;
    write(path, &json)
}

/// Reads JSON; `None` when there is no such file.
///
/// # Errors
/// When the file cannot be read, or is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Damaged { path: path.into(), detail: e.to_string() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::File { action: "read", path: path.into(), source: e }),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fill_leaves_the_old_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"old").unwrap();
        let failed = create_with(&path, |file, _| {
            file.write_all(b"half of the ne").unwrap();
            Err::<(), _>(Error::Configuration("power cut".into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn missing_and_damaged_json_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read_json::<u32>(&path).unwrap().is_none());
        fs::write(&path, "{").unwrap();
        assert!(matches!(read_json::<u32>(&path), Err(Error::Damaged { .. })));
    }
}
