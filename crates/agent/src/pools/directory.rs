//! One pool's directory: that it is the one it was, and how full it is.
//!
//! An empty directory under the pool's path is most often a file system that is not mounted. Disks
//! made there would come up empty, so a pool is known by a file in it that is written once.

use super::option::PoolOption;
use crate::{
    disks::held_bytes,
    durable_file,
    error::{Error, FileContext as _, Result},
    layout::{make_dir, names_in, remove_file},
    lease::Terms,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// In the pool; never changes.
const MARKER: &str = "pool.json";
/// Default reserve: this part of the capacity, and no more than so many bytes.
const RESERVE_SHARE: u64 = 20;
const RESERVE_MOST: u64 = 10 << 30;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    pool_id: String,
    /// Whose it is; of a shared one, who made it.
    host_id: String,
    /// Of a shared one: what all of its hosts must agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shared {
    lease_hold_ms: u64,
    lease_stop_ms: u64,
}

impl Shared {
    fn of(terms: Terms) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { lease_hold_ms: ms(terms.hold), lease_stop_ms: ms(terms.stop) }
    }

    fn terms(self) -> Terms {
        let of = Duration::from_millis;
        Terms { hold: of(self.lease_hold_ms), stop: of(self.lease_stop_ms) }
    }
}

/// What a pool is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub pool_id: String,
    /// Of a shared one: the times of its leases.
    pub terms: Option<Terms>,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub capacity: u64,
    pub available: u64,
    pub reserve: u64,
}

/// What the pool in this directory is; made if the directory is empty. `known`: the id it had.
pub(super) fn identify(
    path: &Path,
    host_id: &str,
    known: Option<&str>,
    option: &PoolOption,
) -> Result<Identity> {
    let unavailable = |message: String| {
        Error::resource(path.display().to_string(), "StoragePoolUnavailable", message)
    };
    let file = path.join(MARKER);
    if let Some(marker) = durable_file::read_json::<Marker>(&file)? {
        check(&marker, host_id, known, option).map_err(unavailable)?;
        let terms = marker.shared.map(Shared::terms);
        return Ok(Identity { pool_id: marker.pool_id, terms });
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
    let shared = option.shared.then(|| Shared::of(option.terms()));
    let marker = Marker { pool_id, host_id: host_id.to_owned(), shared };
    make_marker(path, &marker)?;
    // Another host may have been first.
    let marker = durable_file::read_json::<Marker>(&file)?
        .ok_or_else(|| unavailable(format!("its {MARKER} does not stay")))?;
    check(&marker, host_id, known, option).map_err(unavailable)?;
    Ok(Identity { pool_id: marker.pool_id, terms: marker.shared.map(Shared::terms) })
}

/// Makes the marker, unless there is one.
fn make_marker(path: &Path, marker: &Marker) -> Result<()> {
    let new = path.join(format!("{MARKER}.{}", uuid::Uuid::new_v4().simple()));
    durable_file::write_json(&new, marker)?;
    let file = path.join(MARKER);
    let linked = fs::hard_link(&new, &file);
    remove_file(&new)?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).at("make", &file),
        _ => durable_file::sync_dir(path),
    }
}

/// Why the pool is not the one that is meant.
fn check(
    marker: &Marker,
    host_id: &str,
    known: Option<&str>,
    option: &PoolOption,
) -> Result<(), String> {
    let Marker { pool_id, host_id: owner, shared } = marker;
    match (shared, option.shared) {
        (None, true) => {
            return Err(format!(
                "it is storage pool {pool_id} of host {owner} alone; leave shared out, or give an \
                 empty directory"
            ));
        }
        (Some(_), false) => {
            return Err(format!("it is shared storage pool {pool_id}; name it with shared"));
        }
        (None, false) if owner != host_id => {
            return Err(format!(
                "it is storage pool {pool_id} of host {owner}; give this host a directory of its own"
            ));
        }
        (Some(shared), true) if option.lease.is_some_and(|hold| hold != shared.terms().hold) => {
            return Err(format!(
                "the leases of storage pool {pool_id} were made with lease={}s; give that, or leave \
                 it out",
                shared.lease_hold_ms / 1000
            ));
        }
        _ => {}
    }
    match known {
        Some(known) if known != pool_id => Err(format!(
            "it is storage pool {pool_id}, and this one was {known}; mount that one there, or give \
             this one another name"
        )),
        _ => Ok(()),
    }
}

/// Makes what a pool holds.
pub(super) fn fill(disks: &Path, layers: &Path) -> Result<()> {
    make_dir(disks, 0o711)?;
    make_dir(layers, 0o711)
}

/// Looks at a pool. `dirs` are the directories of its disks and layers.
pub(super) fn figures(path: &Path, option: &PoolOption, dirs: &[PathBuf]) -> Result<Figures> {
    let found = rustix::fs::statvfs(path).at("look at the free space of", path)?;
    let bytes = |blocks: u64| found.f_frsize.saturating_mul(blocks);
    let (mut capacity, mut available) = (bytes(found.f_blocks), bytes(found.f_bavail));
    if let Some(most) = option.capacity {
        let mut held = 0_u64;
        for dir in dirs {
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
        let own = PoolOption::default();
        let of = |host: &str, known: Option<&str>| identify(path, host, known, &own);
        let id = of("h-1", None).unwrap().pool_id;
        assert_eq!(of("h-1", None).unwrap(), Identity { pool_id: id.clone(), terms: None });
        assert_eq!(of("h-1", Some(&id)).unwrap().pool_id, id);
        let said = |host: &str, known: Option<&str>| of(host, known).unwrap_err().to_string();
        let shared = PoolOption { shared: true, ..PoolOption::default() };
        let not_shared = identify(path, "h-1", None, &shared).unwrap_err().to_string();
        assert!(not_shared.contains("of host h-1 alone"), "{not_shared}");
        assert!(said("h-2", None).contains("of host h-1"));
        assert!(said("h-1", Some("pool-other")).contains("this one was pool-other"));
        fs::remove_file(path.join(MARKER)).unwrap();
        assert!(said("h-1", Some(&id)).contains("mount its file system"));
        fs::write(path.join("d"), "").unwrap();
        assert!(said("h-1", None).contains("not empty"));
        assert!(!path.join(MARKER).exists());
        let none = path.join("none");
        let said = identify(&none, "h-1", None, &own).unwrap_err().to_string();
        assert!(said.contains("no such directory"));
    }

    #[test]
    fn a_shared_pool_is_the_same_one_for_every_host() {
        let dir = tempfile::tempdir().unwrap();
        let hold = Duration::from_secs(7);
        let shared = PoolOption { shared: true, lease: Some(hold), ..PoolOption::default() };
        let plain = PoolOption { shared: true, ..PoolOption::default() };
        let first = identify(dir.path(), "h-1", None, &shared).unwrap();
        assert_eq!(first.terms.map(|terms| terms.hold), Some(hold));
        assert_eq!(identify(dir.path(), "h-2", None, &plain).unwrap(), first);
        assert_eq!(identify(dir.path(), "h-2", Some(&first.pool_id), &shared).unwrap(), first);
        assert_eq!(names_in(dir.path()).unwrap(), [MARKER]);
        let said = |option: &PoolOption| {
            identify(dir.path(), "h-2", None, option).unwrap_err().to_string()
        };
        assert!(said(&PoolOption::default()).contains("name it with shared"));
        let other = PoolOption { lease: Some(Duration::from_secs(9)), ..plain };
        assert!(said(&other).contains("lease=7s"));
        // Who comes second while it is made has what the first made.
        let late = Marker { pool_id: "pool-late".into(), host_id: "h-2".into(), shared: None };
        make_marker(dir.path(), &late).unwrap();
        assert_eq!(identify(dir.path(), "h-2", None, &shared).unwrap(), first);
    }

    #[test]
    fn a_capacity_below_the_file_systems_counts_what_the_pool_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("file"), vec![1; 1 << 20]).unwrap();
        let none = path.join("none");
        let option = PoolOption { capacity: Some(4 << 20), ..PoolOption::default() };
        let dirs = [path.to_owned(), none];
        let found = figures(path, &option, &dirs).unwrap();
        assert_eq!((found.capacity, found.reserve), (4 << 20, (4 << 20) / 20));
        assert!((2 << 20..=3 << 20).contains(&found.available), "{found:?}");
        let whole = figures(path, &PoolOption::default(), &dirs).unwrap();
        assert!(whole.capacity > found.capacity);
    }
}
