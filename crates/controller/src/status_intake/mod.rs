//! What follows from a host's report. A report never overwrites newer intent: it changes what is
//! wanted only if it speaks of the boot and the generation that are wanted now.

mod disks;
mod enis;
mod snapshots;

use crate::{disk_state, ids, instance_state, snapshot_state};
use api::host::{HostStatus, InstanceState, InstanceStatus};
use std::collections::HashMap;
use store::{
    DiskRecord, EventRecord, GuestState, HostView, InstanceRecord, ReportedState, StatusPlan,
};

/// Plans what a report changes.
pub fn plan(view: &HostView, report: &HostStatus, now_ms: i64) -> StatusPlan {
    let instances: HashMap<&str, &InstanceStatus> =
        report.instances.iter().map(|status| (status.instance_id.as_str(), status)).collect();
    let mut plan = StatusPlan::default();
    let mut disks_now = disks::take_in(&view.disks, report, &mut plan.purge_disks);
    let mut enis_now = enis::take_in(&view.enis, report);
    snapshots::take_in(&view.snapshots, report, &mut plan);

    for old in &view.instances {
        let status = instances.get(old.instance_id.as_str());
        if old.releasing
            && report.complete
            && report.observed_revision >= old.released_revision
            && status.is_none()
            && !disks::anything_left(old, &view.disks, report)
            && !enis::anything_left(old, report)
        {
            disks::set_free(&mut disks_now, &old.instance_id, now_ms);
            enis::set_free(&mut enis_now, &old.instance_id);
            let gone = disks_now.iter().filter(|disk| disk.instance_id == old.instance_id);
            let with_them = gone.flat_map(|disk| snapshot_state::going_with(disk, &view.snapshots));
            plan.update_snapshots.extend(with_them);
            plan.purge.push(old.instance_id.clone());
            continue;
        }
        let mut new = old.clone();
        match status {
            Some(status) => take_in(&mut new, status),
            // The host has forgotten it, and will make it again from the spec.
            None if report.complete => new.reported = None,
            None => {}
        }
        let missing = disks_now
            .iter()
            .find(|disk| disk.instance_id == old.instance_id && disk.reported.state != "ready");
        match missing {
            Some(disk) if old.reported.is_none() && old.boot_epoch == 0 && !old.releasing => {
                instance_state::await_disk(&mut new, disk);
            }
            _ => instance_state::refresh(&mut new),
        }
        if new.status == instance_state::STOPPED && new.stop_charging {
            new.claimed = false;
        }
        let made_anew = |disk: &DiskRecord| {
            disk.instance_id == old.instance_id && disk.status == disk_state::REINITING
        };
        // What refuses a start now does not with a later report.
        if new.start_when_ready && !new.releasing && !disks_now.iter().any(made_anew) {
            let mut started = new.clone();
            if instance_state::start(&mut started).is_ok() {
                new = started;
            }
        }
        if new != *old {
            plan.update.push(new);
        }
    }

    let changed = disks_now.into_iter().zip(&view.disks).filter(|(new, old)| new != *old);
    plan.update_disks = changed.map(|(new, _)| new).collect();
    let changed = enis_now.into_iter().zip(&view.enis).filter(|(new, old)| new != *old);
    plan.update_enis = changed.map(|(new, _)| new).collect();
    plan
}

fn take_in(instance: &mut InstanceRecord, status: &InstanceStatus) {
    let Some(state) = guest_state(status.state()) else { return };
    let mut reported = ReportedState {
        generation: status.observed_generation,
        boot_epoch: status.boot_epoch,
        state,
        code: status.code.clone(),
        message: status.message.clone(),
        started_ms: i64::try_from(status.started_unix_ms).unwrap_or(0),
    };
    let ended = matches!(state, GuestState::Stopped | GuestState::Failed);
    let of_present_intent = instance.power_on
        && reported.boot_epoch == instance.boot_epoch
        && reported.generation >= instance.power_generation;
    if ended && of_present_intent && (status.guest_initiated || state == GuestState::Failed) {
        instance.power_on = false;
        instance.generation += 1;
        instance.power_generation = reported.generation;
        instance.stop_charging = false;
        if reported.message.is_empty() && status.guest_initiated {
            reported.message =
                "the guest powered itself off; start it when it is needed".to_owned();
        }
    }
    if let Some(earlier) = &instance.reported {
        // Why it ended stays readable when later reports only say that it has.
        let silent = reported.code.is_empty() && reported.message.is_empty();
        if ended && silent && !instance.power_on && earlier.boot_epoch == reported.boot_epoch {
            reported.code.clone_from(&earlier.code);
            reported.message.clone_from(&earlier.message);
        }
    }
    instance.reported = Some(reported);
}

fn guest_state(state: InstanceState) -> Option<GuestState> {
    match state {
        InstanceState::Unspecified => None,
        InstanceState::Starting => Some(GuestState::Starting),
        InstanceState::Running => Some(GuestState::Running),
        InstanceState::Stopping => Some(GuestState::Stopping),
        InstanceState::Stopped => Some(GuestState::Stopped),
        InstanceState::Failed => Some(GuestState::Failed),
    }
}

/// Events of a report, as they are kept.
pub fn events(report: &HostStatus) -> Vec<EventRecord> {
    report
        .events
        .iter()
        .map(|event| EventRecord {
            event_id: ids::event(),
            host_id: report.host_id.clone(),
            sequence: event.sequence,
            resource_id: event.resource_id.clone(),
            event_type: event.r#type.clone(),
            message: event.message.clone(),
            occurred_ms: i64::try_from(event.unix_ms).unwrap_or(0),
        })
        .collect()
}
