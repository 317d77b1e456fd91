//! What the rest of the agent asks of disks, each in the pool that has it.

use super::{Pool, Pools, trees::InUse};
use crate::{
    disks::{Attachments, Frozen, OpenChain},
    error::{Error, Result},
};
use api::host::{DiskStatus, HostSpec, SnapshotStatus};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

const UNAVAILABLE: &str = "StoragePoolUnavailable";
const SNAPSHOT_MISSING: &str = "SnapshotMissing";

impl Pools {
    /// Which VMM has which disk.
    pub fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// The disks of pools that can be reached, and of trees of shared ones that may be used now.
    pub(super) fn available(&self) -> impl Iterator<Item = InUse> {
        self.pools.iter().flat_map(|pool| {
            if pool.option.shared {
                pool.usable_trees()
            } else {
                pool.disks().map(InUse::own).into_iter().collect()
            }
        })
    }

    /// The pool's disks that have this disk.
    fn of(&self, disk_id: &str) -> Result<InUse> {
        if let Some(disks) = self.available().find(|disks| disks.knows(disk_id)) {
            return Ok(disks);
        }
        if let Some(why) = self.why_not_usable(disk_id) {
            return Err(why);
        }
        let opened = |pool: &&Pool| {
            let now = pool.now();
            now.disks.as_ref().is_some_and(|disks| disks.knows(disk_id))
        };
        Err(match self.pools.iter().find(opened) {
            Some(pool) => unavailable(pool, disk_id),
            None => Error::resource(
                disk_id,
                "DiskNotReady",
                "none of this host's storage pools that can be reached has the disk yet",
            ),
        })
    }

    /// Where the file is that a disk is written to; none while its pool cannot be asked.
    pub fn directory_of(&self, disk_id: &str) -> Option<PathBuf> {
        self.of(disk_id).ok().map(|disks| disks.directory())
    }

    /// Images that anything here lies on; none while a pool cannot be asked.
    pub fn images(&self) -> Option<BTreeSet<String>> {
        let mut images = BTreeSet::new();
        // What disks of shared pools lie on is in the spec of the host that has them.
        for pool in self.pools.iter().filter(|pool| !pool.option.shared) {
            images.extend(pool.disks()?.images());
        }
        images.extend(self.available().flat_map(|disks| disks.images()));
        Some(images)
    }

    /// Brings the disks of every pool of the host's own that can be reached to where the spec wants
    /// them.
    ///
    /// # Errors
    /// The first error of a pool; the others were looked at all the same.
    pub fn reconcile(
        &self,
        spec: &HostSpec,
        image_error: impl Fn(&str) -> Option<Error>,
    ) -> Result<bool> {
        let mut changed = false;
        let mut failed = None;
        for disks in self.pools.iter().filter_map(Pool::disks) {
            match disks.reconcile(spec, &image_error) {
                Ok(did) => changed |= did,
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(changed), Err)
    }

    /// Merges one pair of layers, if there is one. See [`Disks::merge_next`].
    ///
    /// # Errors
    /// When the copy or the account of it fails.
    pub fn merge_next(
        &self,
        spec: &HostSpec,
        spec_now: impl Fn() -> Option<Arc<HostSpec>>,
    ) -> Result<bool> {
        for disks in self.available() {
            if disks.merge_next(spec, &spec_now)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens a disk's chain. See [`Disks::open`].
    ///
    /// # Errors
    /// When a file of the chain is not here, or somebody else has the disk.
    pub fn open(&self, spec: &HostSpec, disk_id: &str, writable: bool) -> Result<OpenChain> {
        let disks = self.of(disk_id)?;
        match self.damage(disk_id) {
            Some(damage) => Err(damage),
            None => disks.open(spec, disk_id, writable),
        }
    }

    /// The chain of a disk below its top, for a VMM that has the top.
    ///
    /// # Errors
    /// When a file of the chain is not here.
    pub fn open_backing(&self, disk_id: &str) -> Result<OpenChain> {
        self.of(disk_id)?.open_backing(disk_id)
    }

    /// The layers of a snapshot. See [`Disks::open_snapshot`].
    ///
    /// # Errors
    /// When no pool has it, or none of those that can be reached.
    pub fn open_snapshot(&self, snapshot_id: &str) -> Result<OpenChain> {
        for disks in self.available() {
            match disks.open_snapshot(snapshot_id) {
                Err(e) if e.code() == SNAPSHOT_MISSING => {}
                outcome => return outcome,
            }
        }
        if let Some(why) = self.why_not_usable(snapshot_id) {
            return Err(why);
        }
        let message = "this host does not have the snapshot";
        Err(match self.pools.iter().find(|pool| pool.now().unavailable.is_some()) {
            Some(pool) => unavailable(pool, snapshot_id),
            None => Error::resource(snapshot_id, SNAPSHOT_MISSING, message),
        })
    }

    /// Which chain a disk has; none while that cannot be asked.
    pub fn chain_epoch(&self, disk_id: &str) -> Option<u64> {
        self.of(disk_id).ok()?.chain_epoch(disk_id)
    }

    /// The snapshot to take of a disk, if there is one and its pool can be reached.
    pub fn snapshot_to_take(&self, spec: &HostSpec, disk_id: &str) -> Option<String> {
        self.of(disk_id).ok()?.snapshot_to_take_now(spec, disk_id)
    }

    /// Makes the new top and announces the step. See [`Disks::prepare_freeze`].
    ///
    /// # Errors
    /// When another step of the disk is under way, or a file cannot be made or opened.
    pub fn prepare_freeze(&self, disk_id: &str, snapshot_id: &str) -> Result<Frozen> {
        self.of(disk_id)?.prepare_freeze(disk_id, snapshot_id)
    }

    /// The VMM is on the new top: the files take their places.
    ///
    /// # Errors
    /// When they cannot be moved or the account not be written.
    pub fn finish_freeze(&self, disk_id: &str, paused_ns: u64) -> Result<()> {
        self.of(disk_id)?.finish_freeze(disk_id, paused_ns)
    }

    /// Why a snapshot of a disk is not there; until it is.
    pub fn explain_snapshot(&self, disk_id: &str, snapshot_id: &str, error: &Error) {
        if let Ok(disks) = self.of(disk_id) {
            disks.explain_snapshot(snapshot_id, error);
        }
    }

    /// Puts a disk's metadata in order after a crash. See [`Disks::mend`].
    ///
    /// # Errors
    /// `DiskCorrupt`, or what the file system said.
    pub fn mend(&self, disk_id: &str) -> Result<Option<String>> {
        match self.of(disk_id) {
            Ok(disks) => disks.mend(disk_id),
            // It waits until the disk is this host's again.
            Err(e) if e.code().starts_with("DiskLease") => Err(e),
            // Nothing can start from it either.
            Err(_) => Ok(None),
        }
    }

    /// How every disk is. See [`Disks::report`].
    pub fn report(&self, spec: Option<&HostSpec>) -> Vec<DiskStatus> {
        let mut all: Vec<DiskStatus> = Vec::new();
        for pool in &self.pools {
            let reachable = pool.disks().is_some();
            let Some(disks) = pool.now().disks.clone() else { continue };
            for mut status in disks.report(spec) {
                if !reachable {
                    let why = unavailable(pool, &status.disk_id);
                    status.state = "failed".to_owned();
                    (status.code, status.message) = (UNAVAILABLE.to_owned(), why.to_string());
                }
                all.push(status);
            }
        }
        for disks in self.pools.iter().flat_map(Pool::usable_trees) {
            all.extend(disks.report(spec));
        }
        for status in &mut all {
            if let Some(damage) = self.damage(&status.disk_id) {
                status.state = "failed".to_owned();
                (status.code, status.message) = (damage.code().to_owned(), damage.to_string());
            }
        }
        if let Some(spec) = spec {
            self.report_unseen(spec, &mut all);
        }
        for disk in spec.iter().flat_map(|spec| &spec.disks) {
            if all.iter().any(|status| status.disk_id == disk.disk_id) {
                continue;
            }
            let here = self.available().any(|disks| disks.is_home(&disk.pool_id, &disk.tree_id));
            if here {
                // It will be looked at.
                continue;
            }
            let message = format!(
                "{}: its storage pool {} cannot be reached by this host; mount it, and name it with \
                 --pool",
                disk.disk_id, disk.pool_id
            );
            all.push(self.unreached(&disk.disk_id, message));
        }
        // A guest may have one that is not to be here any more.
        for disk_id in self.attachments.disks() {
            if !all.iter().any(|status| status.disk_id == disk_id) {
                let message = format!("{disk_id}: its storage pool cannot be reached by this host");
                all.push(self.unreached(&disk_id, message));
            }
        }
        all
    }

    /// A disk in a pool that was not seen since the agent was started.
    fn unreached(&self, disk_id: &str, message: String) -> DiskStatus {
        let (at, attached) = self.attachments.of_disk(disk_id).unwrap_or_default();
        DiskStatus {
            disk_id: disk_id.to_owned(),
            state: "failed".to_owned(),
            code: UNAVAILABLE.to_owned(),
            message,
            attached_instance_id: at,
            size_bytes: attached.seen.map_or(0, |seen| seen.size_bytes),
            ..DiskStatus::default()
        }
    }

    /// How every snapshot of the spec is whose pool can be reached.
    pub fn report_snapshots(&self, spec: &HostSpec) -> Vec<SnapshotStatus> {
        let mut all: Vec<SnapshotStatus> =
            self.available().flat_map(|disks| disks.report_snapshots(spec)).collect();
        self.report_unseen_snapshots(spec, &mut all);
        all
    }

    /// The files of disks and layers with the disk or snapshot each belongs to.
    pub(crate) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut files = Vec::new();
        for disks in self.available() {
            files.extend(disks.files()?);
        }
        Ok(files)
    }

    /// A disk that is read through a layer, if there is one.
    pub(crate) fn user_of(&self, layer: &str) -> Option<String> {
        self.available().find_map(|disks| disks.user_of(layer))
    }
}

pub(super) fn unavailable(pool: &Pool, disk_id: &str) -> Error {
    let why = pool.now().unavailable.clone().unwrap_or_default();
    let message = format!("its storage pool {} cannot be reached: {why}", pool.option.name);
    Error::resource(disk_id, UNAVAILABLE, message)
}
