//! One pool's directory: that it is the one it was, and how full it is.
//!
//! An empty directory under the pool's path is most often a file system that is not mounted. Disks
//! made there would come up empty, so a pool is known by a file in it that is written once.

use super::option::PoolOption;
use crate::{
    disks::held_bytes,
    durable_file,
    error::{Error, FileContext as _, Result},
    layout::{make_dir, names_in},
};
use serde::{Deserialize, Serialize};
use std::{os::unix::fs::MetadataExt as _, path::Path};

/// In the pool; never changes.
const MARKER: &str = "pool.json";
/// Default reserve: this part of the capacity, and no more than so many bytes.
const RESERVE_SHARE: u64 = 20;
const RESERVE_MOST: u64 = 10 << 30;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    pool_id: String,
    host_id: String,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub capacity: u64,
    pub available: u64,
    pub reserve: u64,
}

/// The id of the pool in this directory; made if the directory is empty. `known`: the id it had.
pub(super) fn identify(path: &Path, host_id: &str, known: Option<&str>) -> Result<String> {
    let unavailable = |message: String| {
        Error::resource(path.display().to_string(), "StoragePoolUnavailable", message)
    };
    let file = path.join(MARKER);
    if let Some(marker) = durable_file::read_json::<Marker>(&file)? {
        if marker.host_id != host_id {
            return Err(unavailable(format!(
                "it is storage pool {} of host {}; give this host a directory of its own",
                marker.pool_id, marker.host_id
            )));
        }
        return match known {
            Some(known) if known != marker.pool_id => Err(unavailable(format!(
                "it is storage pool {}, and this one was {known}; mount that one there, or give \
                 this one another name",
                marker.pool_id
            ))),
            _ => Ok(marker.pool_id),
        };
    }
    if let Some(known) = known {
        return Err(unavailable(format!(
            "storage pool {known} is not there; mount its file system, or put its {MARKER} back"
        )));
    }
    let names = names_in(path)?;
    if let Some(name) = names.iter().find(|n| *n != "lost+found" && !n.starts_with(MARKER)) {
        return Err(unavailable(format!(
            "it is no storage pool and not empty ({name}); give an empty directory"
        )));
    }
    if !path.is_dir() {
        return Err(unavailable("there is no such directory; make it, or mount it".to_owned()));
    }
    let pool_id = format!("pool-{}", uuid::Uuid::new_v4().simple());
    let marker = Marker { pool_id: pool_id.clone(), host_id: host_id.to_owned() };
    durable_file::write_json(&file, &marker)?;
    Ok(pool_id)
}

/// Makes what a pool holds.
pub(super) fn fill(disks: &Path, layers: &Path) -> Result<()> {
    make_dir(disks, 0o711)?;
    make_dir(layers, 0o711)
}

/// Looks at a pool. `disks` and `layers` are its directories.
pub(super) fn figures(
    path: &Path,
    option: &PoolOption,
    disks: &Path,
    layers: &Path,
) -> Result<Figures> {
    let found = rustix::fs::statvfs(path).at("look at the free space of", path)?;
    let bytes = |blocks: u64| found.f_frsize.saturating_mul(blocks);
    let (mut capacity, mut available) = (bytes(found.f_blocks), bytes(found.f_bavail));
    if let Some(most) = option.capacity {
        let mut held = 0_u64;
        for dir in [disks, layers] {
            for name in names_in(dir)? {
                held = held.saturating_add(held_bytes(&dir.join(name)));
            }
        }
        capacity = capacity.min(most);
        available = available.min(capacity.saturating_sub(held));
    }
    let reserve = option.reserve.unwrap_or((capacity / RESERVE_SHARE).min(RESERVE_MOST));
    Ok(Figures { capacity, available, reserve })
}

/// The file system a directory is on.
pub(super) fn device(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).at("look at", path)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_pool_is_itself_or_unavailable_but_never_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let id = identify(path, "h-1", None).unwrap();
        assert_eq!(identify(path, "h-1", None).unwrap(), id);
        assert_eq!(identify(path, "h-1", Some(&id)).unwrap(), id);
        let said =
            |host: &str, known: Option<&str>| identify(path, host, known).unwrap_err().to_string();
        assert!(said("h-2", None).contains("of host h-1"));
        assert!(said("h-1", Some("pool-other")).contains("this one was pool-other"));
        fs::remove_file(path.join(MARKER)).unwrap();
        assert!(said("h-1", Some(&id)).contains("mount its file system"));
        fs::write(path.join("d"), "").unwrap();
        assert!(said("h-1", None).contains("not empty"));
        assert!(!path.join(MARKER).exists());
        let none = path.join("none");
        assert!(
            identify(&none, "h-1", None).unwrap_err().to_string().contains("no such directory")
        );
    }

    #[test]
    fn a_capacity_below_the_file_systems_counts_what_the_pool_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("file"), vec![1; 1 << 20]).unwrap();
        let none = path.join("none");
        let option = PoolOption { capacity: Some(4 << 20), ..PoolOption::default() };
        let found = figures(path, &option, path, &none).unwrap();
        assert_eq!((found.capacity, found.reserve), (4 << 20, (4 << 20) / 20));
        assert!((2 << 20..=3 << 20).contains(&found.available), "{found:?}");
        let whole = figures(path, &PoolOption::default(), path, &none).unwrap();
        assert!(whole.capacity > found.capacity);
    }
}
