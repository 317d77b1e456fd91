//! Events: numbered once, kept on disk until the controller has acknowledged them.

use crate::{durable_file, error::Result};
use api::host::HostEvent;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Events kept while the controller is away; beyond, the oldest are dropped.
const KEPT_MAX: usize = 10_000;
/// Between two events of one part and kind.
pub const SELDOM_MS: u64 = 600_000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    last_sequence: u64,
    /// Last occurrence recorded per resource, so that an agent killed between an event and the
    /// record of its cause does not tell it twice.
    last_occurrence: BTreeMap<String, u64>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Event {
    sequence: u64,
    resource_id: String,
    kind: String,
    message: String,
    unix_ms: u64,
}

/// The host's events.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    kept: Mutex<Kept>,
}

impl EventLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let kept = durable_file::read_json(path)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), kept: Mutex::new(kept) })
    }

    /// Appends an event, on the medium when this returns. `occurrence` grows with every distinct
    /// cause of the resource; one that was recorded already is not recorded again.
    ///
    /// # Errors
    /// When it cannot be written; the event is then not there.
    pub fn append(
        &self,
        resource_id: &str,
        occurrence: u64,
        kind: &str,
        message: &str,
        unix_ms: u64,
    ) -> Result<()> {
        let due = |last: u64| occurrence > last;
        self.append_if(resource_id, due, resource_id, occurrence, kind, message, unix_ms).map(drop)
    }

    /// Like [`append`](Self::append), for what a part of the resource suffers again and again: told
    /// of one `part` and kind at most once in [`SELDOM_MS`]. `unix_ms` says when it began. Answers
    /// whether it was told now.
    ///
    /// # Errors
    /// When it cannot be written; the event is then not there.
    pub fn append_seldom(
        &self,
        resource_id: &str,
        part: &str,
        kind: &str,
        message: &str,
        unix_ms: u64,
    ) -> Result<bool> {
        let cause = format!("{resource_id}/{part}/{kind}");
        let due = |last: u64| unix_ms >= last.saturating_add(SELDOM_MS);
        self.append_if(&cause, due, resource_id, unix_ms, kind, message, unix_ms)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one event")]
    fn append_if(
        &self,
        cause: &str,
        due: impl FnOnce(u64) -> bool,
        resource_id: &str,
        occurrence: u64,
        kind: &str,
        message: &str,
        unix_ms: u64,
    ) -> Result<bool> {
        let mut kept = self.kept();
        if kept.last_occurrence.get(cause).is_some_and(|last| !due(*last)) {
            return Ok(false);
        }
        let mut next = kept.clone();
        next.last_sequence += 1;
        next.last_occurrence.insert(cause.to_owned(), occurrence);
        let event = Event {
            sequence: next.last_sequence,
            resource_id: resource_id.to_owned(),
            kind: kind.to_owned(),
            message: message.to_owned(),
            unix_ms,
        };
        next.events.push(event);
        let excess = next.events.len().saturating_sub(KEPT_MAX);
        next.events.drain(..excess);
        durable_file::write_json(&self.path, &next)?;
        *kept = next;
        Ok(true)
    }

    /// Drops what the controller has.
    ///
    /// # Errors
    /// When it cannot be written; the events are then sent again, which is harmless.
    pub fn acknowledge(&self, sequence: u64) -> Result<()> {
        let mut kept = self.kept();
        if kept.events.first().is_none_or(|e| e.sequence > sequence) {
            return Ok(());
        }
        let mut next = kept.clone();
        next.events.retain(|e| e.sequence > sequence);
        durable_file::write_json(&self.path, &next)?;
        *kept = next;
        Ok(())
    }

    /// The last cause of the resource that was recorded, 0 if none was.
    pub fn last_occurrence(&self, resource_id: &str) -> u64 {
        self.kept().last_occurrence.get(resource_id).copied().unwrap_or(0)
    }

    /// Forgets a resource that is gone for good. Its events stay until acknowledged.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn forget(&self, resource_id: &str) -> Result<()> {
        let mut kept = self.kept();
        let parts = format!("{resource_id}/");
        let of_it = |cause: &String| cause == resource_id || cause.starts_with(&parts);
        if !kept.last_occurrence.keys().any(of_it) {
            return Ok(());
        }
        let mut next = kept.clone();
        next.last_occurrence.retain(|cause, _| !of_it(cause));
        durable_file::write_json(&self.path, &next)?;
        *kept = next;
        Ok(())
    }

    /// What the controller has not acknowledged yet.
    pub fn pending(&self) -> Vec<HostEvent> {
        let event = |e: &Event| HostEvent {
            sequence: e.sequence,
            resource_id: e.resource_id.clone(),
            r#type: e.kind.clone(),
            message: e.message.clone(),
            unix_ms: e.unix_ms,
        };
        self.kept().events.iter().map(event).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(log: &EventLog) -> Vec<u64> {
        log.pending().iter().map(|e| e.sequence).collect()
    }

    #[test]
    fn events_survive_until_acknowledged_and_numbers_never_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.json");
        let log = EventLog::open(&path).unwrap();
        log.append("i-1", 1, "SystemFailure.Reboot", "a", 10).unwrap();
        log.append("i-2", 1, "SystemFailure.Reboot", "b", 11).unwrap();
        drop(log);
        let log = EventLog::open(&path).unwrap();
        assert_eq!(sequences(&log), [1, 2]);
        log.acknowledge(2).unwrap();
        drop(log);
        let log = EventLog::open(&path).unwrap();
        assert!(log.pending().is_empty());
        log.append("i-1", 2, "SystemFailure.Reboot", "c", 12).unwrap();
        assert_eq!(sequences(&log), [3]);
        log.acknowledge(1).unwrap();
        assert_eq!(sequences(&log), [3]);
    }

    #[test]
    fn what_comes_again_and_again_is_told_seldom_of_each_part() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(&dir.path().join("events.json")).unwrap();
        let told = |disk: &str, at| {
            log.append_seldom("i-1", disk, "DiskOutOfSpace", "a", at).unwrap();
            log.pending().len()
        };
        assert_eq!((told("d-1", 1000), told("d-1", 1000), told("d-1", 2000)), (1, 1, 1));
        assert_eq!(told("d-2", 2000), 2);
        assert_eq!(told("d-1", 1000 + SELDOM_MS), 3);
        // Events of the instance itself are counted on their own.
        log.append("i-1", 1, "InstanceFailure.Reboot", "a", 10).unwrap();
        assert_eq!(log.last_occurrence("i-1"), 1);
        log.append_seldom("i-10", "d-3", "DiskOutOfSpace", "a", 5).unwrap();
        log.forget("i-1").unwrap();
        assert_eq!(log.kept().last_occurrence.len(), 1, "only the other instance's");
    }

    #[test]
    fn one_cause_is_told_once_even_after_its_acknowledgement() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.json");
        let log = EventLog::open(&path).unwrap();
        log.append("i-1", 7, "InstanceFailure.Reboot", "a", 10).unwrap();
        log.acknowledge(1).unwrap();
        drop(log);
        let log = EventLog::open(&path).unwrap();
        log.append("i-1", 7, "InstanceFailure.Reboot", "a", 10).unwrap();
        assert!(log.pending().is_empty());
        log.forget("i-1").unwrap();
        log.append("i-1", 1, "InstanceFailure.Reboot", "a", 10).unwrap();
        assert_eq!(sequences(&log), [2]);
    }
}
