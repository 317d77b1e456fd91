//! Shared pools: a directory that several hosts name. Its disks are in trees, each of them one host's
//! at a time, who has the tree's lease while it is.

use super::{Pool, Pools};
use crate::{
    disks::{Disks, TreeLease, wanting},
    error::{Error, FileContext as _, Result},
    layout::is_safe_id,
    lease::Held,
};
use api::host::{DiskStatus, HostSpec, SnapshotStatus};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// In the pool's directory.
const TREES: &str = "trees";
/// In a tree's directory.
const LEASE: &str = "lease";

/// What the spec says of a tree.
#[derive(Debug, Default)]
struct Home {
    epoch: u64,
    /// Ids of its disks and snapshots, those to be removed too.
    members: BTreeSet<String>,
    /// Not only removals.
    wanted: bool,
}

/// A tree that is this host's.
#[derive(Debug, Default)]
pub(super) struct Tree {
    members: BTreeSet<String>,
    home_epoch: u64,
    /// Opened under a lease, which may be over.
    disks: Option<Arc<Disks>>,
    /// Shared by the steps that use it. Whoever has it alone may let the tree go.
    gate: Arc<RwLock<()>>,
    /// What is wrong with disks that a host which is gone had in use.
    damaged: Vec<(String, Error)>,
    /// Why it could not be opened.
    refused: Option<(String, String)>,
    /// The home epoch of a spec that is older than what another host has done since.
    outdated: Option<u64>,
}

/// Disks that are used for a step. A tree stays this host's until the step is over.
#[derive(Debug)]
pub(super) struct InUse {
    disks: Arc<Disks>,
    _step: Option<OwnedRwLockReadGuard<()>>,
}

impl InUse {
    /// Of a pool of the host's own.
    pub fn own(disks: Arc<Disks>) -> Self {
        Self { disks, _step: None }
    }
}

impl Deref for InUse {
    type Target = Disks;
    fn deref(&self) -> &Disks {
        &self.disks
    }
}

impl Tree {
    /// Its disks, while they may be used.
    fn usable(&self) -> Option<InUse> {
        let disks = self.disks.clone()?;
        // It is being let go otherwise.
        let step = Arc::clone(&self.gate).try_read_owned().ok()?;
        let may_use = disks.lease().is_some_and(TreeLease::may_use);
        may_use.then_some(InUse { disks, _step: Some(step) })
    }
}

/// The trees of a spec that are in a pool.
fn homes(spec: &HostSpec, pool_id: &str) -> BTreeMap<String, Home> {
    let mut homes: BTreeMap<String, Home> = BTreeMap::new();
    let mut add = |pool: &str, tree: &str, epoch: u64, id: &str, wanted: bool| {
        // Ids become names of directories.
        if pool == pool_id && is_safe_id(tree) {
            let home = homes.entry(tree.to_owned()).or_default();
            home.epoch = home.epoch.max(epoch);
            home.members.insert(id.to_owned());
            home.wanted |= wanted;
        }
    };
    for disk in &spec.disks {
        add(&disk.pool_id, &disk.tree_id, disk.home_epoch, &disk.disk_id, true);
    }
    for s in &spec.snapshots {
        add(&s.pool_id, &s.tree_id, s.home_epoch, &s.snapshot_id, true);
    }
    for r in &spec.removals {
        add(&r.pool_id, &r.tree_id, r.home_epoch, &r.resource_id, false);
    }
    homes
}

impl Pool {
    fn tree_dir(&self, tree_id: &str) -> PathBuf {
        self.path.join(TREES).join(tree_id)
    }

    /// The disks of its trees that may be used now.
    pub(super) fn usable_trees(&self) -> Vec<InUse> {
        let now = self.now();
        if now.unavailable.is_some() {
            return Vec::new();
        }
        now.trees.values().filter_map(Tree::usable).collect()
    }

    /// Directories of its disks and layers, of all hosts.
    pub(super) fn content_dirs(&self) -> Result<Vec<PathBuf>> {
        if !self.option.shared {
            return Ok(vec![self.layout.disks(), self.layout.layers()]);
        }
        let trees = crate::layout::names_in(&self.path.join(TREES))?;
        let of = |tree: &String| {
            let layout = self.layout.in_pool(self.tree_dir(tree));
            [layout.disks(), layout.layers()]
        };
        Ok(trees.iter().flat_map(of).collect())
    }

    /// The tree of a disk or snapshot.
    fn tree_of(&self, id: &str) -> Option<String> {
        let now = self.now();
        let found = now.trees.iter().find(|(_, tree)| tree.members.contains(id));
        found.map(|(tree_id, _)| tree_id.clone())
    }
}

impl Pools {
    /// Brings the trees of a shared pool that are this host's to where the spec wants them, and lets
    /// go of those that are not any more.
    pub(super) fn reconcile_shared(
        &self,
        pool: &Pool,
        spec: &HostSpec,
        image_error: &impl Fn(&str) -> Option<Error>,
    ) -> Result<bool> {
        let pool_id = pool.now().pool_id.clone();
        let homes = homes(spec, &pool_id);
        let mut changed = self.leave_others(pool, &pool_id, &homes)?;
        let wanted = self.leases.wanted()?;
        pool.now().trees.retain(|id, _| homes.contains_key(id) || wanted.contains_key(id));
        let mut failed = None;
        for (tree_id, home) in &homes {
            match self.tend_tree(pool, &pool_id, tree_id, home, spec, image_error) {
                Ok(did) => changed |= did,
                Err(e) => {
                    // One tree's trouble is none of the others'.
                    tracing::warn!(tree_id, "{e}");
                    failed = failed.or(Some(e));
                }
            }
        }
        match failed {
            // A lease that is over while it is worked explains itself in the disks' reports.
            Some(e) if e.code() != "DiskLeaseHeld" => Err(e),
            _ => Ok(changed),
        }
    }

    fn tend_tree(
        &self,
        pool: &Pool,
        pool_id: &str,
        tree_id: &str,
        home: &Home,
        spec: &HostSpec,
        image_error: &impl Fn(&str) -> Option<Error>,
    ) -> Result<bool> {
        let directory = pool.tree_dir(tree_id);
        if !home.wanted && !directory.try_exists().at("look for", &directory)? {
            // Another host may have removed it. What is not mounted looks the same.
            self.identify(pool)?;
            self.done().extend(home.members.iter().cloned());
            return self.drop_tree(pool, tree_id);
        }
        let Some(terms) = pool.now().terms else { return Ok(false) };
        let outdated = {
            let mut now = pool.now();
            let tree = now.trees.entry(tree_id.to_owned()).or_default();
            tree.members.clone_from(&home.members);
            tree.outdated == Some(home.epoch)
        };
        if outdated {
            return Ok(false);
        }
        self.leases.want(tree_id, pool_id, &directory.join(LEASE), terms)?;
        let epoch = {
            let mut now = pool.now();
            let tree = now.trees.entry(tree_id.to_owned()).or_default();
            let same = tree.home_epoch == home.epoch && tree.refused.is_none();
            tree.disks.as_ref().and_then(|d| d.lease()).filter(|_| same).map(|lease| lease.epoch)
        };
        let Some(held) = self.leases.held(tree_id) else { return Ok(false) };
        let opened = if epoch == Some(held.epoch) {
            false
        } else {
            self.open_tree(pool, pool_id, tree_id, home, held)?
        };
        let disks = pool.now().trees.get(tree_id).and_then(Tree::usable);
        let Some(disks) = disks else { return Ok(opened) };
        if let Some(lease) = disks.lease() {
            lease.leaving.store(false, Ordering::Relaxed);
        }
        self.look_at_damage(pool, tree_id, &disks, held, home)?;
        let mut changed = disks.reconcile(spec, image_error)? || opened;
        let removed = disks.removed(spec);
        if !home.wanted && disks.is_empty()? && disks.lease().is_some_and(TreeLease::may_use) {
            disks.remove_tree(&directory)?;
            changed |= self.drop_tree(pool, tree_id)?;
        }
        let mut done = self.done();
        changed |= !removed.is_subset(&done);
        done.extend(removed);
        Ok(changed)
    }

    fn open_tree(
        &self,
        pool: &Pool,
        pool_id: &str,
        tree_id: &str,
        home: &Home,
        held: Held,
    ) -> Result<bool> {
        let layout = pool.layout.in_pool(pool.tree_dir(tree_id));
        let lease = TreeLease {
            tree_id: tree_id.to_owned(),
            leases: Arc::clone(&self.leases),
            epoch: held.epoch,
            leaving: Arc::default(),
        };
        let (attachments, keys) = (Arc::clone(&self.attachments), self.keys.clone());
        let opened = Disks::open_tree(layout, pool_id, lease, home.epoch, attachments, keys);
        let in_use = self.leases.is_registered(tree_id)?;
        let opened = opened.and_then(|disks| {
            let damaged = disks.put_in_order(held.clean, in_use, home.epoch)?;
            Ok((disks, damaged))
        });
        let mut now = pool.now();
        let tree = now.trees.entry(tree_id.to_owned()).or_default();
        match opened {
            Ok((disks, damaged)) => {
                tree.home_epoch = home.epoch;
                tree.disks = Some(Arc::new(disks));
                tree.damaged = damaged;
                tree.refused = None;
                tracing::info!(tree_id, epoch = held.epoch, clean = held.clean, "disks opened");
                Ok(true)
            }
            Err(e) => {
                tree.disks = None;
                tree.refused = Some((e.code().to_owned(), e.to_string()));
                let outdated = e.code() == "DiskLeaseHeld" && !in_use;
                tree.outdated = outdated.then_some(home.epoch);
                drop(now);
                if outdated {
                    // Whoever was given it since is to get it.
                    self.leases.forget(tree_id)?;
                }
                Err(e)
            }
        }
    }

    /// What was damaged may have been repaired by people.
    fn look_at_damage(
        &self,
        pool: &Pool,
        tree_id: &str,
        disks: &Disks,
        held: Held,
        home: &Home,
    ) -> Result<()> {
        let damaged = pool.now().trees.get(tree_id).is_some_and(|tree| !tree.damaged.is_empty());
        if !damaged {
            return Ok(());
        }
        let in_use = self.leases.is_registered(tree_id)?;
        let damaged = disks.put_in_order(held.clean, in_use, home.epoch)?;
        if let Some(tree) = pool.now().trees.get_mut(tree_id) {
            tree.damaged = damaged;
        }
        Ok(())
    }

    /// Lets go of the trees that the spec does not give this host any more, once no VMM has them.
    fn leave_others(
        &self,
        pool: &Pool,
        pool_id: &str,
        homes: &BTreeMap<String, Home>,
    ) -> Result<bool> {
        let mut changed = false;
        for (tree_id, want) in self.leases.wanted()? {
            if want.pool_id != pool_id || homes.contains_key(&tree_id) {
                continue;
            }
            if self.leases.is_registered(&tree_id)? {
                continue;
            }
            let (gate, disks) = {
                let now = pool.now();
                let tree = now.trees.get(&tree_id);
                (tree.map(|t| Arc::clone(&t.gate)), tree.and_then(|t| t.disks.clone()))
            };
            if let Some(disks) = &disks {
                disks.stop_long_steps();
            }
            let alone = gate.map(|gate| gate.try_write_owned()).transpose();
            let Ok(_alone) = alone else {
                // The step that uses it is over soon.
                continue;
            };
            // One that was over before has noted for whom it was.
            if self.leases.is_registered(&tree_id)? {
                continue;
            }
            if let Some(disks) = disks.filter(|d| d.lease().is_some_and(TreeLease::may_use)) {
                disks.sync()?;
            }
            changed |= self.drop_tree(pool, &tree_id)?;
            tracing::info!(tree_id, "the disk is another host's or gone: its lease is let go");
        }
        Ok(changed)
    }

    fn drop_tree(&self, pool: &Pool, tree_id: &str) -> Result<bool> {
        let known = pool.now().trees.remove(tree_id).is_some();
        self.leases.forget(tree_id)?;
        Ok(known)
    }

    /// Why a disk or snapshot of a shared pool cannot be used now; none if it is not this host's.
    pub(super) fn why_not_usable(&self, id: &str) -> Option<Error> {
        self.pools.iter().filter(|pool| pool.option.shared).find_map(|pool| {
            let tree_id = pool.tree_of(id)?;
            if pool.now().unavailable.is_some() {
                return Some(super::dispatch::unavailable(pool, id));
            }
            let refused = pool.now().trees.get(&tree_id).and_then(|tree| tree.refused.clone());
            Some(match refused {
                Some((code, message)) => Error::resource(id, code, message),
                None => self.leases.why_not(&tree_id, id),
            })
        })
    }

    /// What is wrong with a disk that a host which is gone had in use.
    pub(super) fn damage(&self, disk_id: &str) -> Option<Error> {
        self.pools.iter().find_map(|pool| {
            let now = pool.now();
            let mut damaged = now.trees.values().flat_map(|tree| &tree.damaged);
            let (id, error) = damaged.find(|(id, _)| id == disk_id)?;
            Some(Error::resource(id, error.code(), error.to_string()))
        })
    }

    /// A VMM of the instance is about to get a disk: if it has a lease, the VMM's keeper watches it
    /// from now on, and ends the VMM when it is over.
    ///
    /// # Errors
    /// When the lease cannot be used now, or this cannot be noted.
    pub fn register(&self, instance_id: &str, disk_id: &str) -> Result<()> {
        let usable = self.available().any(|disks| disks.knows(disk_id));
        match self.why_not_usable(disk_id) {
            Some(why) if !usable => Err(why),
            _ => self.note_use(instance_id, disk_id),
        }
    }

    /// A VMM of the instance has a disk.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn note_use(&self, instance_id: &str, disk_id: &str) -> Result<()> {
        let mut shared = self.pools.iter().filter(|pool| pool.option.shared);
        match shared.find_map(|pool| pool.tree_of(disk_id)) {
            Some(tree_id) => self.leases.register(instance_id, &tree_id, disk_id),
            None => Ok(()),
        }
    }

    /// The disks of shared pools that the spec names and that cannot be looked at now.
    pub(super) fn report_unseen(&self, spec: &HostSpec, all: &mut Vec<DiskStatus>) {
        let done = self.done().clone();
        let disks = spec.disks.iter().filter(|disk| !disk.tree_id.is_empty());
        let disks = disks.map(|disk| (disk.disk_id.as_str(), disk.pool_id.as_str()));
        let removals = spec.removals.iter().filter(|r| !r.snapshot);
        let removals = removals.filter(|r| !done.contains(&r.resource_id));
        let removals = removals.map(|r| (r.resource_id.as_str(), r.pool_id.as_str()));
        for (id, pool_id) in disks.chain(removals) {
            if all.iter().any(|status| status.disk_id == id) {
                continue;
            }
            let why = self.why_not_usable(id).unwrap_or_else(|| self.not_reached(id, pool_id));
            let mut status = DiskStatus {
                disk_id: id.to_owned(),
                state: "failed".to_owned(),
                code: why.code().to_owned(),
                message: why.to_string(),
                unseen: true,
                ..DiskStatus::default()
            };
            if let Some((instance, _)) = self.attachments.of_disk(id) {
                status.attached_instance_id = instance;
            } else if let Some(instance) = wanting(spec, id)
                && !self.attachments.is_alive(instance)
            {
                instance.clone_into(&mut status.attached_instance_id);
            }
            all.push(status);
        }
    }

    /// The same of snapshots.
    pub(super) fn report_unseen_snapshots(&self, spec: &HostSpec, all: &mut Vec<SnapshotStatus>) {
        let done = self.done().clone();
        let snapshots = spec.snapshots.iter().filter(|s| !s.tree_id.is_empty());
        let snapshots = snapshots.map(|s| (s.snapshot_id.as_str(), s.pool_id.as_str()));
        let removals = spec.removals.iter().filter(|r| r.snapshot);
        let removals = removals.filter(|r| !done.contains(&r.resource_id));
        let removals = removals.map(|r| (r.resource_id.as_str(), r.pool_id.as_str()));
        for (id, pool_id) in snapshots.chain(removals) {
            if all.iter().any(|status| status.snapshot_id == id) {
                continue;
            }
            let why = self.why_not_usable(id).unwrap_or_else(|| self.not_reached(id, pool_id));
            all.push(SnapshotStatus {
                snapshot_id: id.to_owned(),
                code: why.code().to_owned(),
                message: why.to_string(),
                unseen: true,
                ..SnapshotStatus::default()
            });
        }
    }

    fn not_reached(&self, id: &str, pool_id: &str) -> Error {
        let pool = self.pools.iter().find(|pool| pool.now().pool_id == pool_id);
        if let Some(pool) = pool
            && pool.now().unavailable.is_some()
        {
            return super::dispatch::unavailable(pool, id);
        }
        let here = pool.is_some();
        let message = if here {
            "it is looked at with the next pass over the host".to_owned()
        } else {
            format!(
                "its storage pool {pool_id} cannot be reached by this host; mount it, and name it \
                 with --pool"
            )
        };
        Error::resource(id, if here { "DiskNotReady" } else { "StoragePoolUnavailable" }, message)
    }
}
