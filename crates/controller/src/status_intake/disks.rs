//! What follows from a host's report for its disks.

use crate::disk_state;
use api::host::{DiskStatus, HostStatus};
use std::collections::HashMap;
use store::{DiskRecord, InstanceRecord};

/// The disks as they are with the report. `purge` gets those of which nothing is left.
pub(super) fn take_in(
    disks: &[DiskRecord],
    report: &HostStatus,
    purge: &mut Vec<String>,
) -> Vec<DiskRecord> {
    let statuses: HashMap<&str, &DiskStatus> =
        report.disks.iter().map(|status| (status.disk_id.as_str(), status)).collect();
    disks
        .iter()
        .map(|old| {
            let status = statuses.get(old.disk_id.as_str()).copied();
            let seen_release = report.observed_revision >= old.released_revision;
            if old.releasing && report.complete && seen_release && status.is_none() {
                purge.push(old.disk_id.clone());
            }
            with_report(old, status, report)
        })
        .collect()
}

fn with_report(old: &DiskRecord, status: Option<&DiskStatus>, report: &HostStatus) -> DiskRecord {
    let mut disk = old.clone();
    let reported = &mut disk.reported;
    // Who has the disk counts only from a host that knows where it is wanted now.
    let seen_attachment = report.observed_revision >= old.attachment_revision;
    match status {
        Some(status) => {
            reported.code.clone_from(&status.code);
            reported.message.clone_from(&status.message);
            // What cannot be looked at is taken to be as it was.
            if !status.unseen {
                reported.state.clone_from(&status.state);
                reported.generation = status.observed_generation;
                reported.size_bytes = status.size_bytes;
                reported.content_epoch = status.content_epoch;
            }
            if seen_attachment {
                reported.instance_id.clone_from(&status.attached_instance_id);
            }
        }
        None if report.complete && seen_attachment => reported.instance_id.clear(),
        None => {}
    }
    disk_state::refresh(&mut disk);
    disk
}

/// Whether a host that is to release an instance still has any disk that goes with it, or has any
/// other disk at it.
pub(super) fn anything_left(
    instance: &InstanceRecord,
    disks: &[DiskRecord],
    report: &HostStatus,
) -> bool {
    let goes_with_it: Vec<&str> = disks
        .iter()
        .filter(|disk| disk.instance_id == instance.instance_id && disk.delete_with_instance)
        .map(|disk| disk.disk_id.as_str())
        .collect();
    report.disks.iter().any(|status| {
        status.attached_instance_id == instance.instance_id
            || goes_with_it.contains(&status.disk_id.as_str())
    })
}

/// Disks that outlive an instance become Available.
pub(super) fn set_free(disks: &mut [DiskRecord], instance_id: &str, now_ms: i64) {
    let kept =
        |disk: &&mut DiskRecord| disk.instance_id == instance_id && !disk.delete_with_instance;
    for disk in disks.iter_mut().filter(kept) {
        disk.instance_id.clear();
        disk.reported.instance_id.clear();
        disk.detached_ms = now_ms;
        disk_state::refresh(disk);
    }
}
