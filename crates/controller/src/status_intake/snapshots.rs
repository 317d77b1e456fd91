//! What follows from a host's report for its snapshots.

use crate::snapshot_state;
use api::host::{HostStatus, SnapshotStatus};
use std::collections::HashMap;
use store::{SnapshotRecord, StatusPlan};

/// Takes the report in; snapshots of which nothing is left go.
pub(super) fn take_in(snapshots: &[SnapshotRecord], report: &HostStatus, plan: &mut StatusPlan) {
    let statuses: HashMap<&str, &SnapshotStatus> =
        report.snapshots.iter().map(|status| (status.snapshot_id.as_str(), status)).collect();
    for old in snapshots {
        match statuses.get(old.snapshot_id.as_str()) {
            Some(status) => {
                let mut new = old.clone();
                let reported = &mut new.reported;
                reported.code.clone_from(&status.code);
                reported.message.clone_from(&status.message);
                if !status.unseen {
                    reported.state.clone_from(&status.state);
                    reported.changed_bytes = status.changed_bytes;
                    reported.taken_ms = i64::try_from(status.taken_unix_ms).unwrap_or(0);
                }
                snapshot_state::derive(&new).clone_into(&mut new.status);
                if new != *old {
                    plan.update_snapshots.push(new);
                }
            }
            None => {
                let seen_release = report.observed_revision >= old.released_revision;
                if old.releasing && report.complete && seen_release {
                    plan.purge_snapshots.push(old.snapshot_id.clone());
                }
            }
        }
    }
}
