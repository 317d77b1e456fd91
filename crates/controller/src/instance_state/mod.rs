//! Status of an instance: the one place where it is derived, and the moves between states.
//!
//! An instance that is made stopped is Pending until its disks are there. A released instance is
//! listed as Stopping or Stopped until its host has reported that nothing
//! of it is left, and is then gone: whoever waits for it to go knows that all is cleaned up. While
//! its host is lost it stays listed.

mod transitions;

pub use transitions::{StoppedMode, delete, reboot, start, stop};

use store::{DiskRecord, GuestState, InstanceRecord};

/// Being made: its host has nothing of it yet.
pub const PENDING: &str = "Pending";
/// Being started.
pub const STARTING: &str = "Starting";
/// Runs.
pub const RUNNING: &str = "Running";
/// Being stopped.
pub const STOPPING: &str = "Stopping";
/// Does not run.
pub const STOPPED: &str = "Stopped";

/// Every status there is.
pub const ALL: [&str; 5] = [PENDING, STARTING, RUNNING, STOPPING, STOPPED];

/// The status that follows from what is wanted and what the host said.
pub fn derive(instance: &InstanceRecord) -> &'static str {
    let Some(reported) = &instance.reported else {
        return if instance.releasing { STOPPING } else { PENDING };
    };
    if instance.power_on {
        if reported.boot_epoch < instance.boot_epoch {
            return STARTING;
        }
        return match reported.state {
            GuestState::Running => RUNNING,
            GuestState::Stopping => STOPPING,
            // A guest that ended on its own account has been taken in as wanted stopped, so this
            // one is about to be started again.
            GuestState::Starting | GuestState::Stopped | GuestState::Failed => STARTING,
        };
    }
    let ended = matches!(reported.state, GuestState::Stopped | GuestState::Failed);
    if ended && reported.generation >= instance.power_generation { STOPPED } else { STOPPING }
}

/// Why the instance is in its state, from what is wanted and what the host said.
pub fn reason(instance: &InstanceRecord) -> String {
    if instance.releasing {
        return format!(
            "being released; it goes when host {} has nothing left of it",
            instance.host_id
        );
    }
    let Some(reported) = &instance.reported else {
        return format!("waiting for host {} to begin", instance.host_id);
    };
    match (reported.code.as_str(), reported.message.as_str()) {
        ("", "") => String::new(),
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

/// Keeps an instance that is made stopped Pending: this disk of it is not there yet.
pub fn await_disk(instance: &mut InstanceRecord, disk: &DiskRecord) {
    instance.reported = None;
    refresh(instance);
    let disk_id = &disk.disk_id;
    let said = match (disk.reported.code.as_str(), disk.reported.message.as_str()) {
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let in_time = ["ImageNotReady", "DiskNotReady", "DiskLeaseHeld"]
        .iter()
        .any(|code| said.starts_with(code));
    instance.status_reason = if said.is_empty() {
        format!("waiting for host {} to make disk {disk_id}", instance.host_id)
    } else if in_time {
        said
    } else {
        format!(
            "{said} (disk {disk_id} cannot be made; its host keeps trying. If it stays so, delete \
             the instance with force and create it anew)"
        )
    };
}

/// Brings the derived columns up to date. Every change of an instance ends with this.
pub fn refresh(instance: &mut InstanceRecord) {
    instance.status = derive(instance).to_owned();
    instance.status_reason = reason(instance);
}
