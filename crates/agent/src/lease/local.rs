//! Leases of this host, as its processes see them.
//!
//! One process, the lease keeper, holds them all and outlives the agent. It is told what to hold by
//! files in a directory of the host's own, and tells there until when each may be used. Whoever uses
//! a disk reads that itself: the agent before each step, the keeper of a VMM all the time.

use super::{Terms, clock::now};
use crate::{
    error::{Error, FileContext as _, Result},
    layout::{Layout, is_safe_id, make_dir, names_in, remove_file},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

const WANT: &str = ".want";
const STATE: &str = ".state";
/// Held by the lease keeper.
pub(super) const LOCK: &str = "lock";
/// When the agent was last heard of.
pub(super) const AGENT: &str = "agent";
/// A step is begun only if so much of the time that a look allows is left: this part of it.
const MARGIN: u32 = 4;

/// A lease to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The storage pool it is in.
    pub pool_id: String,
    /// Its directory.
    pub directory: PathBuf,
    /// This host.
    pub host_id: String,
    /// [`Terms::hold`] in milliseconds.
    pub hold_ms: u64,
    /// [`Terms::stop`] in milliseconds.
    pub stop_ms: u64,
}

impl Want {
    /// The times of this lease.
    pub fn terms(&self) -> Terms {
        let of = Duration::from_millis;
        Terms { hold: of(self.hold_ms), stop: of(self.stop_ms) }
    }
}

/// How a lease is. Times are those of [`now`], in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseState {
    /// Until when it may be used; 0: it is not this host's.
    pub until_ms: u64,
    /// Its epoch, if it is this host's.
    pub epoch: u64,
    /// The holder before had let it go.
    pub clean: bool,
    /// [`Terms::hold`].
    pub hold_ms: u64,
    /// Another host that has it; empty: none is known.
    pub holder: String,
    /// It is taken from another host, which may use it until then.
    pub waits_until_ms: u64,
    /// Why the directory cannot be asked.
    pub trouble: String,
}

/// A lease that may be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its epoch.
    pub epoch: u64,
    /// The holder before had let it go.
    pub clean: bool,
}

/// The leases of this host.
#[derive(Debug)]
pub struct Leases {
    dir: PathBuf,
    layout: Layout,
    host_id: String,
}

impl Leases {
    /// Of the host with this layout.
    pub fn new(layout: &Layout, host_id: &str) -> Self {
        Self { dir: layout.leases(), layout: layout.clone(), host_id: host_id.to_owned() }
    }

    /// Wants a lease.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn want(&self, tree_id: &str, pool_id: &str, directory: &Path, terms: Terms) -> Result<()> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let want = Want {
            pool_id: pool_id.to_owned(),
            directory: directory.to_owned(),
            host_id: self.host_id.clone(),
            hold_ms: ms(terms.hold),
            stop_ms: ms(terms.stop),
        };
        let path = want_file(&self.dir, tree_id);
        if read::<Want>(&path).as_ref() != Some(&want) {
            make_dir(&self.dir, 0o700)?;
            write(&path, &want)?;
        }
        Ok(())
    }

    /// Wants a lease no more. Nothing of this host uses it.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn forget(&self, tree_id: &str) -> Result<()> {
        remove_file(&want_file(&self.dir, tree_id))
    }

    /// Those wanted, by tree.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn wanted(&self) -> Result<BTreeMap<String, Want>> {
        wanted(&self.dir)
    }

    /// The lease, if it may be used for a step from now on.
    pub fn held(&self, tree_id: &str) -> Option<Held> {
        let state = state(&self.dir, tree_id)?;
        let until = Duration::from_millis(state.until_ms);
        let margin = Duration::from_millis(state.hold_ms) / MARGIN;
        (state.until_ms > 0 && now() + margin < until)
            .then_some(Held { epoch: state.epoch, clean: state.clean })
    }

    /// Why a disk of the tree cannot be used, and what ends it.
    pub fn why_not(&self, tree_id: &str, disk_id: &str) -> Error {
        let state = state(&self.dir, tree_id).unwrap_or_default();
        let (code, message) = explain(&state, now());
        Error::resource(disk_id, code, message)
    }

    /// What changes when any lease does.
    pub fn fingerprint(&self) -> Vec<(String, u64, String)> {
        let trees = self.wanted().unwrap_or_default().into_keys();
        let of = |tree: String| {
            let state = state(&self.dir, &tree).unwrap_or_default();
            let usable = if self.held(&tree).is_some() { state.epoch } else { 0 };
            (tree, usable, state.holder)
        };
        trees.map(of).collect()
    }

    /// A VMM of the instance is about to get a disk: its keeper ends it when the lease does.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn register(&self, instance_id: &str, tree_id: &str, disk_id: &str) -> Result<()> {
        let dir = self.layout.vmm_leases(instance_id);
        let path = dir.join(tree_id);
        let mut disks: Vec<String> = read(&path).unwrap_or_default();
        if !disks.iter().any(|id| id == disk_id) {
            disks.push(disk_id.to_owned());
            make_dir(&dir, 0o700)?;
            write(&path, &disks)?;
        }
        Ok(())
    }

    /// The instance's VMM has only these disks.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn settle(&self, instance_id: &str, has: &[String]) -> Result<()> {
        let dir = self.layout.vmm_leases(instance_id);
        for tree_id in registered(&dir)? {
            let path = dir.join(&tree_id);
            let disks: Vec<String> = read(&path).unwrap_or_default();
            if !disks.iter().any(|id| has.contains(id)) {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Whether a VMM of this host has, or may have, a disk of the tree.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub fn is_registered(&self, tree_id: &str) -> Result<bool> {
        is_registered(&self.layout.vmm(), tree_id)
    }

    /// Says that the agent lives, and starts the lease keeper if it is needed and not there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn tend(&self, keeper_bin: &Path) -> Result<()> {
        if self.wanted()?.is_empty() {
            return Ok(());
        }
        write(&self.dir.join(AGENT), &super::keeper::ms(now()))?;
        if is_locked(&self.dir.join(LOCK))? {
            return Ok(());
        }
        let log_path = self.dir.join("keeper.log");
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.at("open", &log_path)?;
        let mut child = Command::new(keeper_bin)
            .arg(super::keeper::COMMAND)
            .arg("--leases")
            .arg(&self.dir)
            .arg("--vmm-dir")
            .arg(self.layout.vmm())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().at("duplicate", &log_path)?)
            .stderr(log)
            .spawn()
            .at("start", keeper_bin)?;
        // Only to reap it.
        thread::spawn(move || child.wait());
        Ok(())
    }
}

fn explain(state: &LeaseState, now: Duration) -> (&'static str, String) {
    let now_ms = super::keeper::ms(now);
    if !state.trouble.is_empty() {
        let message = format!(
            "its lease cannot be renewed: {}; look at the mount of its storage pool",
            state.trouble
        );
        return ("DiskLeaseLost", message);
    }
    let margin = state.hold_ms / u64::from(MARGIN);
    if state.until_ms > now_ms.saturating_add(margin) {
        return ("DiskNotReady", "its lease is this host's, which is about to open it".to_owned());
    }
    if state.until_ms > 0 {
        let message = "the shared directory of its storage pool has not answered in time, so its \
                       lease cannot be renewed; look at the mount"
            .to_owned();
        return ("DiskLeaseLost", message);
    }
    if state.waits_until_ms > now_ms {
        let message = format!(
            "its lease is being taken over from another host, which may use the disk for up to {} s \
             yet",
            // Not another sentence every second.
            (state.waits_until_ms - now_ms).div_ceil(10_000) * 10
        );
        return ("DiskLeaseHeld", message);
    }
    let message = if state.holder.is_empty() {
        "its lease is being asked for in the storage pool".to_owned()
    } else {
        format!(
            "host {} has its lease; it is taken over when that host lets the disk go (stop the \
             instance there, or detach the disk from it), or no longer renews it",
            state.holder
        )
    };
    ("DiskLeaseHeld", message)
}

fn want_file(dir: &Path, tree_id: &str) -> PathBuf {
    dir.join(format!("{tree_id}{WANT}"))
}

fn state_file(dir: &Path, tree_id: &str) -> PathBuf {
    dir.join(format!("{tree_id}{STATE}"))
}

pub(super) fn wanted(dir: &Path) -> Result<BTreeMap<String, Want>> {
    let names = names_in(dir)?;
    let ids = names.iter().filter_map(|name| name.strip_suffix(WANT)).filter(|id| is_safe_id(id));
    let of = |id: &str| Some((id.to_owned(), read::<Want>(&want_file(dir, id))?));
    Ok(ids.filter_map(of).collect())
}

pub(super) fn is_wanted(dir: &Path, tree_id: &str) -> bool {
    want_file(dir, tree_id).exists()
}

pub(super) fn forsake(dir: &Path, tree_id: &str) -> Result<()> {
    remove_file(&want_file(dir, tree_id))
}

pub(super) fn state(dir: &Path, tree_id: &str) -> Option<LeaseState> {
    read(&state_file(dir, tree_id))
}

pub(super) fn publish(dir: &Path, tree_id: &str, state: Option<&LeaseState>) -> Result<()> {
    match state {
        Some(state) => write(&state_file(dir, tree_id), state),
        None => remove_file(&state_file(dir, tree_id)),
    }
}

/// Until when a tree's disks may be used; zero: not at all.
pub(crate) fn usable_until(dir: &Path, tree_id: &str) -> Duration {
    state(dir, tree_id).map_or(Duration::ZERO, |state| Duration::from_millis(state.until_ms))
}

/// Trees of which a VMM has disks, by its registrations.
pub(crate) fn registered(dir: &Path) -> Result<Vec<String>> {
    let mut names = names_in(dir)?;
    names.retain(|name| is_safe_id(name));
    Ok(names)
}

pub(super) fn is_registered(vmm_dir: &Path, tree_id: &str) -> Result<bool> {
    let of = |instance: &String| Layout::leases_of_vmm(&vmm_dir.join(instance)).join(tree_id);
    Ok(names_in(vmm_dir)?.iter().any(|instance| of(instance).exists()))
}

pub(super) fn is_locked(path: &Path) -> Result<bool> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.at("open", path)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e).at("look at the lock", path),
    }
}

/// These files do not outlive the host's boot, but other processes read them at any time.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Error::Damaged { path: path.into(), detail: e.to_string() })?;
    let mut new = path.as_os_str().to_owned();
    new.push(".part");
    fs::write(&new, json).at("write", path)?;
    fs::rename(&new, path).at("rename", path)
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> (tempfile::TempDir, Leases) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        make_dir(&layout.leases(), 0o700).unwrap();
        let leases = Leases::new(&layout, "h-1");
        (dir, leases)
    }

    #[test]
    fn a_step_is_begun_only_with_time_left_for_it() {
        let (_dir, leases) = leases();
        let of = |left: u64| LeaseState {
            until_ms: super::super::keeper::ms(now()) + left,
            epoch: 3,
            hold_ms: 20_000,
            ..LeaseState::default()
        };
        assert_eq!(leases.held("d-1"), None);
        publish(&leases.dir, "d-1", Some(&of(15_000))).unwrap();
        assert_eq!(leases.held("d-1"), Some(Held { epoch: 3, clean: false }));
        publish(&leases.dir, "d-1", Some(&of(4_000))).unwrap();
        assert_eq!(leases.held("d-1"), None);
        publish(&leases.dir, "d-1", None).unwrap();
        assert_eq!(leases.held("d-1"), None);
    }

    #[test]
    fn who_has_a_disk_and_what_to_do_is_said() {
        let (_dir, leases) = leases();
        let said = |state: &LeaseState| {
            publish(&leases.dir, "d-1", Some(state)).unwrap();
            let error = leases.why_not("d-1", "d-1");
            (error.code().to_owned(), error.to_string())
        };
        let until_ms = super::super::keeper::ms(now()) + 15_000;
        let ours = LeaseState { until_ms, hold_ms: 20_000, ..LeaseState::default() };
        assert_eq!(said(&ours).0, "DiskNotReady");
        let over = LeaseState { until_ms: until_ms - 12_000, ..ours };
        assert_eq!(said(&over).0, "DiskLeaseLost");
        let held = LeaseState { holder: "h-2".to_owned(), ..LeaseState::default() };
        let (code, message) = said(&held);
        assert!(code == "DiskLeaseHeld" && message.contains("h-2"), "{message}");
        let waits_until_ms = super::super::keeper::ms(now()) + 7_500;
        let (code, message) = said(&LeaseState { waits_until_ms, ..held.clone() });
        assert!(code == "DiskLeaseHeld" && message.contains("up to 10 s"), "{message}");
        let (code, message) = said(&LeaseState { trouble: "stale".to_owned(), ..held });
        assert!(code == "DiskLeaseLost" && message.contains("stale"), "{message}");
    }

    #[test]
    fn a_vmm_is_registered_as_long_as_it_has_a_disk_of_the_tree() {
        let (_dir, leases) = leases();
        leases.register("i-1", "d-1", "d-1").unwrap();
        leases.register("i-1", "d-1", "d-2").unwrap();
        leases.register("i-1", "d-9", "d-9").unwrap();
        leases.settle("i-1", &["d-2".to_owned(), "d-s".to_owned()]).unwrap();
        assert!(leases.is_registered("d-1").unwrap() && !leases.is_registered("d-9").unwrap());
        leases.settle("i-1", &["d-s".to_owned()]).unwrap();
        assert!(!leases.is_registered("d-1").unwrap());
    }
}
