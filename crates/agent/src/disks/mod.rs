//! Disks: a qcow2 file each that is written, on layers frozen by snapshots, on an image copy or
//! nothing. Made in milliseconds whatever the image's size, since only metadata is written.

mod attachments;
mod freeze;
pub(crate) mod keys;
mod layering;
mod mend;
mod merge;
mod report;
mod sources;
mod tops;
mod tree;

pub use attachments::{Attached, Attachments, DisksOfVmm};
pub use freeze::Frozen;
pub use keys::{Keys, in_pipe};
pub use merge::run as run_merges;
pub(crate) use report::wanting;
pub(crate) use tops::{held_bytes, open_image};
pub use tree::TreeLease;

use crate::{
    durable_file::PART,
    error::{Error, Result},
    layout::{Layout, is_safe_id, names_in, remove_file},
};
use api::{
    host::{DiskSpec, HostSpec, SnapshotStatus},
    vmm::DiskFormat,
};
use layering::{Below, DiskEntry, Layering};
use qcow2::Passphrase;
use report::Noted;
use sources::{Sources, format_of};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};
use tops::{LockedTop, open_below};

const GIB: u64 = 1 << 30;

/// The disks and snapshots of one storage pool of this host, or of one tree of a shared pool, and how
/// each is.
#[derive(Debug)]
pub struct Disks {
    layout: Layout,
    pool_id: String,
    /// Disks of which the spec does not say in which pool they are, are in this one.
    is_default: bool,
    /// What of a shared pool this is.
    tree: Option<TreeLease>,
    /// Held while files are made or moved.
    layering: Mutex<Layering>,
    noted: Mutex<BTreeMap<String, Noted>>,
    /// Why a snapshot of the spec is not there, by its id.
    snapshot_errors: Mutex<BTreeMap<String, (String, String)>>,
    attachments: Arc<Attachments>,
    keys: Keys,
    /// As last reported.
    last_snapshots: Mutex<Vec<SnapshotStatus>>,
}

/// One file of a disk's chain, opened for a VMM or the boot finder.
#[derive(Debug)]
pub struct OpenLayer {
    /// The file.
    pub file: File,
    /// Its format as this host knows it.
    pub format: DiskFormat,
}

/// A disk's whole chain, top first.
#[derive(Debug)]
pub struct OpenChain {
    /// The files.
    pub layers: Vec<OpenLayer>,
    /// Which chain it is.
    pub chain_epoch: u64,
    /// What opens those of them that are encrypted.
    pub key: Option<Passphrase>,
}

impl Disks {
    /// Over the disk directory.
    ///
    /// # Errors
    /// When the account of disks and layers cannot be read.
    pub fn open_in(
        layout: Layout,
        pool_id: &str,
        is_default: bool,
        attachments: Arc<Attachments>,
        keys: Keys,
    ) -> Result<Self> {
        let layering = Mutex::new(Layering::load(&layout)?);
        Ok(Self {
            layout,
            pool_id: pool_id.to_owned(),
            is_default,
            tree: None,
            layering,
            noted: Mutex::default(),
            snapshot_errors: Mutex::default(),
            last_snapshots: Mutex::default(),
            attachments,
            keys,
        })
    }

    /// Whether what the spec says to be in this pool, and tree of it, is in this one.
    pub fn is_home(&self, pool_id: &str, tree_id: &str) -> bool {
        match &self.tree {
            Some(tree) => pool_id == self.pool_id && tree_id == tree.tree_id,
            None => pool_id == self.pool_id || (self.is_default && pool_id.is_empty()),
        }
    }

    /// Whether the disk is, or is being made, in this pool.
    pub fn knows(&self, disk_id: &str) -> bool {
        self.noted().contains_key(disk_id) || self.has(disk_id)
    }

    /// Where the files are that its disks are written to.
    pub fn directory(&self) -> PathBuf {
        self.layout.disks()
    }

    /// Which VMM has which disk.
    pub fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Images that anything here lies on.
    pub fn images(&self) -> BTreeSet<String> {
        self.layering().images()
    }

    /// Makes the disks of the spec whose source is here, brings those that no VMM has to the size
    /// and content they should have, takes their snapshots, and removes disks and layers that nobody
    /// wants or uses. What cannot be done is in the status of that disk or snapshot.
    ///
    /// # Errors
    /// When the disk directory cannot be read, or the account of it not be written.
    pub fn reconcile(
        &self,
        spec: &HostSpec,
        image_error: impl Fn(&str) -> Option<Error>,
    ) -> Result<bool> {
        let sources = Sources { spec, image_error: &image_error };
        let mut changed = false;
        for disk in spec.disks.iter().filter(|disk| self.is_home(&disk.pool_id, &disk.tree_id)) {
            let done = self.settle(disk, &sources);
            changed |= self.note(disk, done);
        }
        changed |= self.take_offline_snapshots(spec)?;
        changed |= self.remove_disks(spec)?;
        changed |= self.remove_layers(spec)?;
        for name in names_in(&self.layout.disks())?.iter().filter(|n| n.ends_with(PART)) {
            remove_file(&self.layout.disks().join(name))?;
        }
        Ok(changed)
    }

    /// One disk as it should be while no VMM has it. Answers its size if that was looked at.
    fn settle(&self, disk: &DiskSpec, sources: &Sources<'_>) -> Result<Option<u64>> {
        let mut layering = self.layering();
        self.finish_moved(&mut layering, &disk.disk_id)?;
        self.make(&mut layering, disk, sources)?;
        let entry = layering.disks.get(&disk.disk_id);
        let epoch = entry.map_or(0, |e| e.content_epoch);
        let pending = entry.is_some_and(|e| e.pending.is_some());
        if !pending && epoch >= disk.content_epoch && self.is_settled(disk) {
            return Ok(None);
        }
        if self.attachments.of_disk(&disk.disk_id).is_some() {
            // Its owner's.
            return Ok(None);
        }
        let path = self.layout.disk(&disk.disk_id);
        let Some(mut top) = LockedTop::open(&path)? else { return Ok(None) };
        if pending {
            self.finish_pending(&mut layering, &disk.disk_id, 0)?;
            match LockedTop::open(&path)? {
                Some(new) => top = new,
                None => return Ok(None),
            }
        }
        if layering.disks.get(&disk.disk_id).is_some_and(|entry| entry.below.is_none()) {
            let below = sources.below(disk)?;
            layering.change(&self.layout, |account| {
                if let Some(entry) = account.disks.get_mut(&disk.disk_id) {
                    entry.below = Some(below);
                }
            })?;
        }
        if epoch < disk.content_epoch {
            self.replace_content(&mut layering, disk, sources)?;
            match LockedTop::open(&path)? {
                Some(new) => top = new,
                None => return Ok(None),
            }
        }
        self.grow(top, &layering, disk).map(Some)
    }

    fn remove_disks(&self, spec: &HostSpec) -> Result<bool> {
        let goes = self.going_disks(spec);
        let mut changed = false;
        for id in self.on_medium()?.into_iter().filter(|id| goes(id)) {
            let mut layering = self.layering();
            let free = self.attachments.of_disk(&id).is_none();
            let top = self.layout.disk(&id);
            let locked = if free && top.exists() { LockedTop::open(&top)? } else { None };
            if !free || (top.exists() && locked.is_none()) {
                self.noted().entry(id.clone()).or_insert_with(|| Noted::leaving(&id));
                continue;
            }
            // What it was cut off at no longer matters, except for a snapshot's layer.
            if layering.disks.contains_key(&id) {
                self.finish_pending(&mut layering, &id, 0)?;
            }
            remove_file(&top)?;
            remove_file(&self.layout.next_top(&id))?;
            changed = true;
        }
        let mut layering = self.layering();
        let left: HashSet<String> = self.on_medium()?.into_iter().collect();
        let stays = |id: &String| !goes(id) || left.contains(id);
        if !layering.disks.keys().all(stays) {
            layering.change(&self.layout, |account| account.disks.retain(|id, _| stays(id)))?;
        }
        self.noted().retain(|id, _| stays(id));
        Ok(changed)
    }

    /// Opens a disk's chain, top first. The top is writable on demand, the rest never is; a writable
    /// one is nobody else's until its last duplicate is closed.
    ///
    /// # Errors
    /// When a file of the chain is not here, or somebody else has the disk; names the disk and why.
    pub fn open(&self, spec: &HostSpec, disk_id: &str, writable: bool) -> Result<OpenChain> {
        let not_ready = |why: &str| Error::resource(disk_id, "DiskNotReady", why);
        if !spec.disks.iter().any(|d| d.disk_id == disk_id) {
            return Err(not_ready("the disk is not in this host's spec yet"));
        }
        match self.noted().get(disk_id) {
            Some(noted) => noted.usable()?,
            None => return Err(not_ready("the disk is being made")),
        }
        let mut layering = self.layering();
        self.finish_moved(&mut layering, disk_id)?;
        let path = self.layout.disk(disk_id);
        let in_use = || {
            let message = if self.tree.is_some() {
                "it is locked: another instance of this host still has it, or it is being changed, \
                 or the file system has not yet given up the lock of a host that is gone"
            } else {
                "another instance on this host still has the disk, or it is being changed"
            };
            Error::resource(disk_id, "DiskBusy", message)
        };
        let mut top = LockedTop::open(&path)?.ok_or_else(in_use)?;
        if layering.disks.get(disk_id).is_some_and(|entry| entry.pending.is_some()) {
            self.finish_pending(&mut layering, disk_id, 0)?;
            top = LockedTop::open(&path)?.ok_or_else(in_use)?;
        }
        let file = if writable { top.0 } else { open_below(&path)? };
        let chain_epoch = layering.disks.get(disk_id).map_or(0, |entry| entry.chain_epoch);
        let key = self.key_of(&layering, disk_id)?;
        Ok(OpenChain { layers: self.layers_of(&layering, disk_id, file)?, chain_epoch, key })
    }

    /// The chain of a disk below its top, for a VMM that has the top.
    ///
    /// # Errors
    /// When a file of the chain is not here.
    pub fn open_backing(&self, disk_id: &str) -> Result<OpenChain> {
        let layering = self.layering();
        let top = open_below(&self.layout.disk(disk_id))?;
        let mut layers = self.layers_of(&layering, disk_id, top)?;
        layers.remove(0);
        let chain_epoch = layering.disks.get(disk_id).map_or(0, |entry| entry.chain_epoch);
        let key = self.key_of(&layering, disk_id)?;
        Ok(OpenChain { layers, chain_epoch, key })
    }

    /// What opens the encrypted layers of a disk.
    fn key_of(&self, layering: &Layering, disk_id: &str) -> Result<Option<Passphrase>> {
        let kept = layering.disks.get(disk_id).and_then(|entry| entry.key.as_ref());
        self.keys.passphrase(disk_id, kept)
    }

    /// What opens the encrypted ones of a layer and those below it.
    fn key_of_layer(&self, layering: &Layering, layer: &str) -> Result<Option<Passphrase>> {
        let kept = layering.layers.get(layer).and_then(|entry| entry.key.as_ref());
        self.keys.passphrase(layer, kept)
    }

    /// The layers of a snapshot, from its own down. They stay readable when the snapshot is deleted
    /// meanwhile.
    ///
    /// # Errors
    /// When the snapshot or a file below it is not here.
    pub fn open_snapshot(&self, snapshot_id: &str) -> Result<OpenChain> {
        let layering = self.layering();
        if !layering.layers.contains_key(snapshot_id) {
            let message = "this host does not have the snapshot";
            return Err(Error::resource(snapshot_id, "SnapshotMissing", message));
        }
        let below = Below::Layer(snapshot_id.to_owned());
        let layers = self.open_chain(&layering, snapshot_id, &below)?;
        let key = self.key_of_layer(&layering, snapshot_id)?;
        Ok(OpenChain { layers, chain_epoch: 0, key })
    }

    fn layers_of(&self, layering: &Layering, disk_id: &str, top: File) -> Result<Vec<OpenLayer>> {
        let below = layering.disks.get(disk_id).and_then(|entry| entry.below.as_ref());
        let below = below.ok_or_else(|| {
            Error::resource(disk_id, "DiskNotReady", "what it lies on is not known yet")
        })?;
        let mut layers = vec![OpenLayer { file: top, format: DiskFormat::Qcow2 }];
        layers.extend(self.open_chain(layering, disk_id, below)?);
        Ok(layers)
    }

    fn open_chain(
        &self,
        layering: &Layering,
        disk_id: &str,
        below: &Below,
    ) -> Result<Vec<OpenLayer>> {
        let (layers, image) = layering.chain(below).map_err(|layer| {
            let message = format!("layer {layer} below it is not in this host's account");
            Error::resource(disk_id, "LayerMissing", message)
        })?;
        let mut opened = Vec::new();
        for id in layers {
            let file = open_below(&self.layout.layer(id))?;
            opened.push(OpenLayer { file, format: DiskFormat::Qcow2 });
        }
        if let Some((id, raw)) = image {
            let path = self.layout.image(id);
            if !path.exists() {
                let message = format!("this host does not have its image {id} yet");
                return Err(Error::resource(disk_id, "ImageNotReady", message));
            }
            let file = open_below(&path)?;
            opened.push(OpenLayer { file, format: format_of(raw) });
        }
        Ok(opened)
    }

    /// Which chain a disk has; none while a step is under way.
    pub fn chain_epoch(&self, disk_id: &str) -> Option<u64> {
        let layering = self.try_layering()?;
        Some(layering.disks.get(disk_id).map_or(0, |entry: &DiskEntry| entry.chain_epoch))
    }

    /// Whether the disk is, or is being made, in this pool, as far as that is known while a step is
    /// under way.
    fn has(&self, disk_id: &str) -> bool {
        self.try_layering().is_some_and(|layering| layering.disks.contains_key(disk_id))
    }

    fn on_medium(&self) -> Result<Vec<String>> {
        let names = names_in(&self.layout.disks())?;
        let id = |n: &String| {
            n.strip_suffix(".qcow2").or_else(|| n.strip_suffix(".next")).map(str::to_owned)
        };
        let ids: BTreeSet<String> = names.iter().filter_map(id).collect();
        Ok(ids.into_iter().filter(|id| is_safe_id(id)).collect())
    }

    /// The files of disks and layers with the disk or snapshot each belongs to.
    pub(crate) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let owner = |name: &str| {
            let name = name.trim_end_matches(PART);
            name.trim_end_matches(".qcow2").trim_end_matches(".next").to_owned()
        };
        let mut files = Vec::new();
        for dir in [self.layout.disks(), self.layout.layers()] {
            files.extend(names_in(&dir)?.iter().map(|name| (dir.join(name), owner(name))));
        }
        Ok(files)
    }

    /// A disk that is read through a layer, if there is one.
    pub(crate) fn user_of(&self, layer: &str) -> Option<String> {
        self.layering().through(layer).into_iter().next()
    }

    fn allocated(&self, disk_id: &str) -> u64 {
        held_bytes(&self.layout.disk(disk_id))
    }

    /// The account, unless a step is under way.
    fn try_layering(&self) -> Option<MutexGuard<'_, Layering>> {
        match self.layering.try_lock() {
            Ok(layering) => Some(layering),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn last_snapshots(&self) -> MutexGuard<'_, Vec<SnapshotStatus>> {
        self.last_snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layering(&self) -> MutexGuard<'_, Layering> {
        self.layering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<String, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot_errors(&self) -> MutexGuard<'_, BTreeMap<String, (String, String)>> {
        self.snapshot_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
