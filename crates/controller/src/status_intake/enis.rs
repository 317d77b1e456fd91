//! What follows from a host's report for network interfaces.

use crate::eni_state;
use api::host::{EniStatus, HostStatus};
use std::collections::HashMap;
use store::{EniRecord, InstanceRecord};

/// The interfaces as they are with the report.
pub(super) fn take_in(enis: &[EniRecord], report: &HostStatus) -> Vec<EniRecord> {
    let statuses: HashMap<&str, &EniStatus> =
        report.enis.iter().map(|status| (status.eni_id.as_str(), status)).collect();
    enis.iter()
        .map(|old| with_report(old, statuses.get(old.eni_id.as_str()).copied(), report))
        .collect()
}

fn with_report(old: &EniRecord, status: Option<&EniStatus>, report: &HostStatus) -> EniRecord {
    let mut eni = old.clone();
    let reported = &mut eni.reported;
    // Who has the interface counts only from a host that knows where it is wanted now.
    let seen_attachment = report.observed_revision >= old.attachment_revision;
    match status {
        Some(status) => {
            reported.generation = status.observed_generation;
            reported.code.clone_from(&status.code);
            reported.message.clone_from(&status.message);
            if seen_attachment {
                reported.instance_id.clone_from(&status.attached_instance_id);
            }
        }
        None if report.complete && seen_attachment => *reported = Default::default(),
        None => {}
    }
    if eni.instance_id.is_empty() && eni.reported.instance_id.is_empty() {
        // It is on no host any more, so none will say more about it.
        eni.host_id.clear();
        eni.reported = Default::default();
    }
    eni_state::refresh(&mut eni);
    eni
}

/// Whether a host that is to release an instance still has an interface at it.
pub(super) fn anything_left(instance: &InstanceRecord, report: &HostStatus) -> bool {
    report.enis.iter().any(|status| status.attached_instance_id == instance.instance_id)
}

/// Interfaces that outlive an instance become Available.
pub(super) fn set_free(enis: &mut [EniRecord], instance_id: &str) {
    for eni in enis.iter_mut() {
        if eni.instance_id == instance_id && !eni.delete_on_release {
            eni_state::set_free(eni);
        }
    }
}
