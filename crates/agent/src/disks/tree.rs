//! Disks of a shared pool. What has layers in common, a disk and what was made from its snapshots, is
//! a tree: it has a directory, an account of layers and a lease of its own, and is one host's at a
//! time. There nothing goes because a spec does not name it: it may be another host's by now.

use super::{Attachments, Disks, Keys, layering::Layering, tops::LockedTop};
use crate::{
    error::{Error, FileContext as _, Result},
    layout::{Layout, make_dir, names_in, remove_dir},
    lease::Leases,
};
use api::host::{HostSpec, Removal};
use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A tree, and the lease under which it was opened.
#[derive(Debug, Clone)]
pub struct TreeLease {
    /// Id of the disk it began with.
    pub tree_id: String,
    /// The host's leases.
    pub leases: Arc<Leases>,
    /// Epoch of the lease.
    pub epoch: u64,
    /// It is to be let go, and no long step may go on.
    pub leaving: Arc<AtomicBool>,
}

impl TreeLease {
    /// Whether it may be used for a step from now on.
    pub fn may_use(&self) -> bool {
        self.leases.held(&self.tree_id).is_some_and(|held| held.epoch == self.epoch)
    }
}

impl Disks {
    /// Opens a tree, whose lease this host has. `layout` has its directory as pool; `home_epoch` is
    /// the one of the spec.
    ///
    /// # Errors
    /// `DiskLeaseHeld` when another host was given it since; when its account cannot be read.
    pub fn open_tree(
        layout: Layout,
        pool_id: &str,
        tree: TreeLease,
        home_epoch: u64,
        attachments: Arc<Attachments>,
        keys: Keys,
    ) -> Result<Self> {
        make_dir(&layout.disks(), 0o711)?;
        make_dir(&layout.layers(), 0o711)?;
        let layering = Layering::load(&layout)?;
        if layering.home_epoch > home_epoch {
            let message = "it was given to another host since; this host waits for the \
                           controller's word";
            return Err(Error::resource(&tree.tree_id, "DiskLeaseHeld", message));
        }
        let disks = Self::open_in(layout, pool_id, false, attachments, keys)?;
        Ok(Self { tree: Some(tree), ..disks })
    }

    /// Puts the disks in order if the lease is new and the holder before did not let it go itself.
    /// `in_use`: a VMM of this host has, or may have, one of them. Answers what is damaged.
    ///
    /// # Errors
    /// When a file or the account cannot be read or written.
    pub fn put_in_order(
        &self,
        clean: bool,
        in_use: bool,
        home_epoch: u64,
    ) -> Result<Vec<(String, Error)>> {
        let Some(epoch) = self.tree.as_ref().map(|tree| tree.epoch) else { return Ok(Vec::new()) };
        let known = {
            let layering = self.layering();
            if (layering.lease_epoch, layering.home_epoch) == (epoch, home_epoch) {
                return Ok(Vec::new());
            }
            (layering.lease_epoch == epoch, layering.disks.keys().cloned().collect::<Vec<_>>())
        };
        let mut damaged = Vec::new();
        if let (false, ids) = known
            && !clean
            && !in_use
        {
            for id in ids {
                // Not under a host that is gone for the lease, but whose lock is still there.
                let top = self.layout.disk(&id);
                let locked = if top.exists() { LockedTop::open(&top)? } else { continue };
                if locked.is_none() {
                    let message = "its lease is this host's, but it is still locked for the host \
                                   before, until the file system gives that lock up or the process \
                                   there ends";
                    return Err(Error::resource(&id, "DiskBusy", message));
                }
                match self.mend(&id) {
                    Ok(Some(done)) => tracing::info!("{done}"),
                    Ok(None) => {}
                    Err(e) if e.is_permanent() => damaged.push((id, e)),
                    Err(e) => return Err(e),
                }
            }
        }
        if damaged.is_empty() {
            self.layering().change(&self.layout, |account| {
                account.lease_epoch = epoch;
                account.home_epoch = home_epoch;
            })?;
        }
        Ok(damaged)
    }

    /// Whether files may be changed: in a pool of the host's own they always may.
    pub(super) fn may_use(&self) -> bool {
        self.tree.as_ref().is_none_or(TreeLease::may_use)
    }

    /// Whether a long step may go on.
    pub(super) fn may_go_on(&self) -> bool {
        let leaving = |tree: &TreeLease| tree.leaving.load(Ordering::Relaxed);
        !self.tree.as_ref().is_some_and(leaving) && self.may_use()
    }

    /// The tree is to be let go: a long step ends where it is, and goes on where it comes back.
    pub fn stop_long_steps(&self) {
        if let Some(tree) = &self.tree {
            tree.leaving.store(true, Ordering::Relaxed);
        }
    }

    /// The lease, of a tree.
    pub fn lease(&self) -> Option<&TreeLease> {
        self.tree.as_ref()
    }

    fn removals<'a>(&self, spec: &'a HostSpec, snapshots: bool) -> HashSet<&'a str> {
        let here = |r: &&Removal| r.snapshot == snapshots && self.is_home(&r.pool_id, &r.tree_id);
        spec.removals.iter().filter(here).map(|r| r.resource_id.as_str()).collect()
    }

    /// Which disks are to go.
    pub(super) fn going_disks<'a>(&self, spec: &'a HostSpec) -> impl Fn(&str) -> bool + use<'a> {
        let wanted: HashSet<&str> = spec.disks.iter().map(|d| d.disk_id.as_str()).collect();
        let removed = self.tree.as_ref().map(|_| self.removals(spec, false));
        move |id| match &removed {
            Some(removed) => removed.contains(id),
            None => !wanted.contains(id),
        }
    }

    /// Notes the deleted snapshots of a tree: their layers may stay for a while.
    pub(super) fn mark_deleted(&self, spec: &HostSpec, layering: &mut Layering) -> Result<bool> {
        let removed = self.removals(spec, true);
        let news = |id: &&str| layering.layers.get(*id).is_some_and(|layer| !layer.deleted);
        if self.tree.is_none() || !removed.iter().any(news) {
            return Ok(false);
        }
        layering.change(&self.layout, |account| {
            for id in removed {
                if let Some(layer) = account.layers.get_mut(id) {
                    layer.deleted = true;
                }
            }
        })?;
        Ok(true)
    }

    /// Layers that a snapshot names, or that a disk is still to be made from.
    pub(super) fn kept_layers(&self, spec: &HostSpec, layering: &Layering) -> HashSet<String> {
        let sources = spec.disks.iter().map(|d| d.source_snapshot_id.clone());
        let mut kept: HashSet<String> = sources.collect();
        kept.extend(spec.snapshots.iter().map(|s| s.snapshot_id.clone()));
        if self.tree.is_some() {
            let stays = layering.layers.iter().filter(|(_, layer)| !layer.deleted);
            kept.extend(stays.map(|(id, _)| id.clone()));
        }
        kept
    }

    /// What the spec wants removed of this tree and is.
    pub fn removed(&self, spec: &HostSpec) -> BTreeSet<String> {
        let layering = self.layering();
        let on_medium = self.on_medium().unwrap_or_default();
        let has_disk =
            |id: &str| layering.disks.contains_key(id) || on_medium.iter().any(|found| found == id);
        let has_snapshot = |id: &str| {
            layering.layers.get(id).is_some_and(|layer| !layer.deleted) || layering.is_pending(id)
        };
        let here = spec.removals.iter().filter(|r| self.is_home(&r.pool_id, &r.tree_id));
        let gone = here.filter(|r| {
            let id = r.resource_id.as_str();
            if r.snapshot { !has_snapshot(id) } else { !has_disk(id) }
        });
        gone.map(|r| r.resource_id.clone()).collect()
    }

    /// Whether nothing is left in the tree.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        let layering = self.layering();
        Ok(layering.disks.is_empty() && layering.layers.is_empty() && self.on_medium()?.is_empty())
    }

    /// Removes what is left of an empty tree.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_tree(&self, directory: &Path) -> Result<()> {
        remove_dir(directory)
    }

    /// What this host has written is on the medium, for whoever opens it next.
    ///
    /// # Errors
    /// When a file cannot be written out.
    pub fn sync(&self) -> Result<()> {
        for dir in [self.layout.disks(), self.layout.layers()] {
            for name in names_in(&dir)? {
                let path = dir.join(name);
                let file = File::open(&path).at("open", &path)?;
                file.sync_all().at("sync", &path)?;
            }
        }
        Ok(())
    }
}
