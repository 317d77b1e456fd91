//! Snapshots: the top becomes a frozen layer, an empty top is put on it. While a VMM has the disk it
//! does the switch itself; what the agent does before and after may be cut off anywhere.

use super::{
    Disks, OpenChain, OpenLayer,
    layering::{Layering, Pending},
    sources::layer_name,
    tops::{LockedTop, open_below},
};
use crate::{
    error::{Error, Result},
    layout::{names_in, remove_file},
};
use api::{
    host::{HostSpec, SnapshotSpec},
    vmm::DiskFormat,
};
use std::collections::HashSet;

/// The disk of a snapshot that was not taken is gone: it never will be.
pub(super) const DISK_GONE: &str = "InvalidDiskId.NotFound";

/// What a VMM needs to freeze a disk's top.
#[derive(Debug)]
pub struct Frozen {
    /// The new, empty top.
    pub top: OpenLayer,
    /// What lies below it, the old top first; and which chain it is then.
    pub below: OpenChain,
}

impl Disks {
    /// The snapshot to take of a disk: one whose taking has begun, or the first of the spec that is
    /// not there.
    pub fn snapshot_to_take(&self, spec: &HostSpec, disk_id: &str) -> Option<String> {
        Self::next_snapshot(&self.layering(), spec, disk_id)
    }

    /// The same; none while a step is under way.
    pub fn snapshot_to_take_now(&self, spec: &HostSpec, disk_id: &str) -> Option<String> {
        Self::next_snapshot(&*self.try_layering()?, spec, disk_id)
    }

    fn next_snapshot(layering: &Layering, spec: &HostSpec, disk_id: &str) -> Option<String> {
        if let Some(Pending::Freeze { layer }) =
            layering.disks.get(disk_id).and_then(|entry| entry.pending.as_ref())
        {
            return Some(layer.clone());
        }
        let missing = |s: &&SnapshotSpec| {
            s.disk_id == disk_id && !layering.layers.contains_key(&s.snapshot_id)
        };
        spec.snapshots.iter().find(missing).map(|s| s.snapshot_id.clone())
    }

    /// Makes the new top and announces the step.
    ///
    /// # Errors
    /// When another step of the disk is under way, or a file cannot be made or opened.
    pub fn prepare_freeze(&self, disk_id: &str, snapshot_id: &str) -> Result<Frozen> {
        self.announce_freeze(disk_id, snapshot_id)?;
        let layering = self.layering();
        let next = self.layout.next_top(disk_id);
        let top = LockedTop::open(&next)?.ok_or_else(|| {
            Error::resource(disk_id, "DiskBusy", "its next top is still open somewhere")
        })?;
        let old = open_below(&self.layout.disk(disk_id))?;
        let layers = self.layers_of(&layering, disk_id, old)?;
        let epoch = layering.disks.get(disk_id).map_or(0, |entry| entry.chain_epoch);
        let key = self.key_of(&layering, disk_id)?;
        Ok(Frozen {
            top: OpenLayer { file: top.0, format: DiskFormat::Qcow2 },
            below: OpenChain { layers, chain_epoch: epoch + 1, key },
        })
    }

    fn announce_freeze(&self, disk_id: &str, snapshot_id: &str) -> Result<()> {
        let wanted = Pending::Freeze { layer: snapshot_id.to_owned() };
        let mut layering = self.layering();
        let pending = layering.disks.get(disk_id).and_then(|entry| entry.pending.clone());
        match pending {
            Some(pending) if pending == wanted => return Ok(()),
            Some(pending) => {
                let message = format!("another step of the disk is under way: {pending:?}");
                return Err(Error::resource(disk_id, "DiskBusy", message));
            }
            None => {}
        }
        let top = self.layout.disk(disk_id);
        let size = qcow2::probe(&open_below(&top)?).map_err(|e| {
            Error::resource(disk_id, "SnapshotFailed", format!("{}: {e}", top.display()))
        })?;
        let name = layer_name(snapshot_id);
        let backing = qcow2::Backing { name, format: qcow2::Format::Qcow2 };
        let next = self.layout.next_top(disk_id);
        let key = self.key_of(&layering, disk_id)?;
        self.create_overlay(&next, disk_id, size.virtual_size, Some(backing), key)?;
        if !layering.disks.contains_key(disk_id) {
            return Err(Error::resource(disk_id, "DiskNotReady", "the disk is being made"));
        }
        layering.change(&self.layout, |account| {
            if let Some(entry) = account.disks.get_mut(disk_id) {
                entry.pending = Some(wanted);
            }
        })
    }

    /// The VMM is on the new top: the files take their places.
    ///
    /// # Errors
    /// When they cannot be moved or the account not be written.
    pub fn finish_freeze(&self, disk_id: &str, paused_ns: u64) -> Result<()> {
        let mut layering = self.layering();
        self.finish_pending(&mut layering, disk_id, paused_ns)
    }

    /// Why a snapshot is not there; until it is.
    pub fn explain_snapshot(&self, snapshot_id: &str, error: &Error) {
        let mut said = error.to_string();
        if !said.contains(snapshot_id) {
            said = format!("{snapshot_id}: {said}");
        }
        let said = (error.code().to_owned(), said);
        self.snapshot_errors().insert(snapshot_id.to_owned(), said);
    }

    /// Takes the snapshots of disks that no VMM has.
    pub(super) fn take_offline_snapshots(&self, spec: &HostSpec) -> Result<bool> {
        let mut changed = false;
        let mut looked_at = HashSet::new();
        for snapshot in spec.snapshots.iter().filter(|s| self.is_home(&s.pool_id, &s.tree_id)) {
            let id = snapshot.disk_id.as_str();
            if !looked_at.insert(id) {
                continue;
            }
            while let Some(next) = self.snapshot_to_take(spec, id) {
                match self.take_offline(spec, id, &next) {
                    Ok(true) => changed = true,
                    Ok(false) => break,
                    Err(e) => {
                        self.explain_snapshot(&next, &e);
                        break;
                    }
                }
            }
        }
        let wanted: HashSet<&str> = spec.snapshots.iter().map(|s| s.snapshot_id.as_str()).collect();
        self.snapshot_errors().retain(|id, _| wanted.contains(id.as_str()));
        Ok(changed)
    }

    /// False: a VMM has the disk, or it is still being made.
    fn take_offline(&self, spec: &HostSpec, disk_id: &str, snapshot_id: &str) -> Result<bool> {
        let top = self.layout.disk(disk_id);
        if !top.exists() {
            if spec.disks.iter().any(|d| d.disk_id == disk_id) {
                return Ok(false);
            }
            let message = format!("its disk {disk_id} was deleted before it could be taken");
            return Err(Error::resource(snapshot_id, DISK_GONE, message));
        }
        if self.attachments.of_disk(disk_id).is_some() {
            return Ok(false);
        }
        let Some(_top) = LockedTop::open(&top)? else { return Ok(false) };
        self.announce_freeze(disk_id, snapshot_id)?;
        self.finish_freeze(disk_id, 0)?;
        tracing::info!(disk_id, snapshot_id, "snapshot taken; no guest had the disk");
        Ok(true)
    }

    /// Removes layers that no snapshot names and nothing lies on.
    pub(super) fn remove_layers(&self, spec: &HostSpec) -> Result<bool> {
        let mut layering = self.layering();
        let mut changed = self.mark_deleted(spec, &mut layering)?;
        loop {
            let kept = self.kept_layers(spec, &layering);
            let unused = layering.unused(|id| kept.contains(id));
            if unused.is_empty() {
                break;
            }
            layering.change(&self.layout, |account| {
                account.layers.retain(|id, _| !unused.contains(id));
            })?;
            tracing::info!(layers = ?unused, "removing layers that nothing uses");
            changed = true;
        }
        // Left by a removal or a step that was cut off.
        let coming: HashSet<String> = layering
            .disks
            .values()
            .filter_map(|entry| match &entry.pending {
                Some(Pending::Freeze { layer }) => Some(layer.clone()),
                _ => None,
            })
            .collect();
        for name in names_in(&self.layout.layers())? {
            let id = name.strip_suffix(".qcow2").unwrap_or(&name);
            if !layering.layers.contains_key(id) && !coming.contains(id) {
                remove_file(&self.layout.layers().join(&name))?;
            }
        }
        Ok(changed)
    }
}
