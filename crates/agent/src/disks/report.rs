//! What the controller is told of disks and snapshots.

use super::{Disks, GIB, tops::RESIZE_FAILED};
use crate::{
    error::{Error, Result},
    instances::plug,
};
use api::host::{DiskSpec, DiskStatus, HostSpec, SnapshotSpec, SnapshotStatus};

const READY: &str = "ready";
const FAILED: &str = "failed";

/// How one disk was when the host was last looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Noted {
    disk: DiskSpec,
    failure: Option<(String, String)>,
    /// The failure does not keep a VMM from having it.
    harmless: bool,
    /// Generation that is in effect.
    settled: u64,
    size_bytes: u64,
    /// Of the content it has.
    content_epoch: u64,
    /// Bytes of the host's that its top takes.
    allocated: Allocated,
}

/// Changes all the time, and so is no news.
#[derive(Debug, Clone, Copy, Default)]
struct Allocated(u64);

impl PartialEq for Allocated {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Noted {
    /// Of a disk that is not in the spec any more but in use.
    pub fn leaving(disk_id: &str) -> Self {
        let disk = DiskSpec { disk_id: disk_id.to_owned(), ..DiskSpec::default() };
        Self {
            disk,
            failure: None,
            harmless: false,
            settled: 0,
            size_bytes: 0,
            content_epoch: 0,
            allocated: Allocated::default(),
        }
    }

    /// Whether a VMM can be started with it.
    pub fn usable(&self) -> Result<()> {
        match &self.failure {
            _ if self.harmless => Ok(()),
            None => Ok(()),
            Some((code, message)) => Err(Error::resource(&self.disk.disk_id, code, message)),
        }
    }
}

impl Disks {
    /// Whether the disk is, without a VMM, as its spec wants it.
    pub(super) fn is_settled(&self, disk: &DiskSpec) -> bool {
        self.noted().get(&disk.disk_id).is_some_and(|noted| {
            noted.failure.is_none()
                && noted.settled == disk.generation
                && noted.size_bytes >= disk.size_gib.saturating_mul(GIB)
        })
    }

    /// Notes how the look at a disk went. True if that is news.
    pub(super) fn note(&self, disk: &DiskSpec, done: Result<Option<u64>>) -> bool {
        // Here and not with each report, which must not wait for a file system.
        let id = &disk.disk_id;
        let content_epoch = self.layering().disks.get(id).map_or(0, |entry| entry.content_epoch);
        let allocated = Allocated(self.allocated(id));
        let mut all = self.noted();
        let old = all.get(&disk.disk_id).cloned();
        let mut noted = Noted {
            disk: disk.clone(),
            failure: None,
            harmless: false,
            settled: old.as_ref().map_or(0, |old| old.settled),
            size_bytes: old.as_ref().map_or(0, |old| old.size_bytes),
            content_epoch,
            allocated,
        };
        match done {
            // Its limits are those of the VMM's start.
            Ok(Some(size_bytes)) => {
                noted.size_bytes = size_bytes;
                noted.settled = disk.generation;
            }
            Ok(None) => {}
            Err(e) => {
                noted.harmless = e.code() == RESIZE_FAILED;
                let (id, mut said) = (&disk.disk_id, e.to_string());
                if !said.contains(id.as_str()) {
                    said = format!("{id}: {said}");
                }
                noted.failure = Some((e.code().to_owned(), said));
            }
        }
        let changed = old.as_ref() != Some(&noted);
        all.insert(disk.disk_id.clone(), noted);
        changed
    }

    /// How every disk is. `spec` says which instance a disk has a place in at its next start.
    pub fn report(&self, spec: Option<&HostSpec>) -> Vec<DiskStatus> {
        let all: Vec<Noted> = self.noted().values().cloned().collect();
        all.iter().map(|noted| self.status(noted, spec)).collect()
    }

    fn status(&self, noted: &Noted, spec: Option<&HostSpec>) -> DiskStatus {
        let disk = &noted.disk;
        let id = disk.disk_id.as_str();
        let mut status = DiskStatus {
            disk_id: id.to_owned(),
            observed_generation: noted.settled,
            state: READY.into(),
            size_bytes: noted.size_bytes,
            content_epoch: noted.content_epoch,
            allocated_bytes: noted.allocated.0,
            ..DiskStatus::default()
        };
        let mut problem = None;
        if let Some((instance, attached)) = self.attachments.of_disk(id) {
            status.attached_instance_id = instance;
            status.metrics = attached.metrics;
            problem = attached.problem;
            if let Some(seen) = &attached.seen {
                status.size_bytes = seen.size_bytes;
                if plug::is_settled(disk, seen) {
                    status.observed_generation = disk.generation;
                }
            }
        } else if let Some(instance) = spec.and_then(|spec| wanting(spec, id)) {
            if self.attachments.is_alive(instance) {
                problem = self.attachments.refusal(instance, id);
            } else {
                status.attached_instance_id = instance.to_owned();
            }
        }
        if let Some((code, message)) = noted.failure.clone() {
            if !noted.harmless {
                status.state = FAILED.into();
            }
            problem = Some((code, message));
        }
        if let Some((code, message)) = problem {
            status.code = code;
            status.message = message;
        }
        status
    }

    /// How every snapshot of the spec is.
    pub fn report_snapshots(&self, spec: &HostSpec) -> Vec<SnapshotStatus> {
        let here = |id: &str| {
            let named =
                |s: &SnapshotSpec| s.snapshot_id == id && self.is_home(&s.pool_id, &s.tree_id);
            spec.snapshots.iter().any(named)
        };
        let Some(layering) = self.try_layering() else {
            // A step is under way, which may wait for a file system.
            let mut last = self.last_snapshots().clone();
            last.retain(|status| here(&status.snapshot_id));
            return last;
        };
        let errors = self.snapshot_errors();
        let status = |id: &str| {
            let mut status = SnapshotStatus {
                snapshot_id: id.to_owned(),
                state: "progressing".into(),
                ..SnapshotStatus::default()
            };
            if let Some(layer) = layering.layers.get(id) {
                status.state = "accomplished".into();
                status.changed_bytes = layer.changed_bytes;
                status.taken_unix_ms = layer.taken_unix_ms;
                status.paused_ns = layer.paused_ns;
            } else if let Some((code, message)) = errors.get(id) {
                status.code.clone_from(code);
                status.message.clone_from(message);
                if code == super::freeze::DISK_GONE {
                    status.state = FAILED.into();
                }
            }
            status
        };
        let named = spec.snapshots.iter().map(|s| s.snapshot_id.as_str()).filter(|id| here(id));
        let all: Vec<SnapshotStatus> = named.map(status).collect();
        self.last_snapshots().clone_from(&all);
        all
    }
}

pub(crate) fn wanting<'a>(spec: &'a HostSpec, disk_id: &str) -> Option<&'a str> {
    let wants = spec.instances.iter().find(|i| i.disk_ids.iter().any(|d| d == disk_id));
    wants.map(|i| i.instance_id.as_str())
}
