//! The instance state machine: pure functions from spec, record and what runs to the next legal
//! step, and from an exit to the new record.
//!
//! The machine never starts a VMM while one lives, and every step may be repeated: an agent that
//! dies anywhere starts again here with what it finds.

use super::{
    exit::Exit,
    record::{Phase, Record, Stopping},
};
use crate::error::Error;
use api::host::{InstanceState, InstanceStatus};

/// Waiting for a VMM that was told to end, before it is killed.
pub const TERMINATE_GRACE_MS: u64 = 5_000;
/// A guest that has not listened yet gets the power button again.
pub const PRESS_AGAIN_MS: u64 = 10_000;
/// A crash sooner after its start than this counts as quick.
pub const QUICK_MS: u64 = 60_000;
/// Quick crashes in a row after which the instance is given up.
pub const QUICK_CRASHES_MAX: u32 = 5;
const BACKOFF_FIRST_MS: u64 = 500;
const BACKOFF_MAX_MS: u64 = 30_000;
/// A guest that resets itself sooner than this is held back a little.
const QUICK_RESET_MS: u64 = 2_000;

/// What the spec wants of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// Grows with every change of the spec.
    pub generation: u64,
    /// Grows with each start and reboot.
    pub boot_epoch: u64,
    /// On or off.
    pub running: bool,
    /// Stop without asking the guest.
    pub force: bool,
    /// How long to ask the guest, milliseconds.
    pub stop_timeout_ms: u64,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something changes or the time has come.
    Wait {
        /// Look again then, milliseconds since 1970.
        until_ms: Option<u64>,
    },
    /// Start a VMM in this boot epoch.
    Launch {
        /// The spec's boot epoch.
        boot_epoch: u64,
    },
    /// Ask the guest to shut down.
    PressPowerButton,
    /// Tell the VMM to flush and end.
    Terminate,
    /// End the VMM by signal.
    Kill,
    /// Note that nothing runs, as the spec wants.
    SettleStopped,
    /// The instance is gone from the spec and nothing runs: remove what is left of it.
    Remove,
}

/// Chooses the next step. `alive`: a VMM of this instance lives, whatever the record says.
pub fn decide(now_ms: u64, desired: Option<&Desired>, record: &Record, alive: bool) -> Step {
    let Some(desired) = desired else {
        return if alive { stop_by_force(now_ms, record) } else { Step::Remove };
    };
    let new_epoch = desired.boot_epoch > record.boot_epoch;
    if alive {
        // A stop once begun is finished: the guest may have heard of it already.
        let stop = !desired.running || new_epoch || record.stopping.is_some();
        return match (stop, desired.force) {
            (false, _) => Step::Wait { until_ms: None },
            (true, true) => stop_by_force(now_ms, record),
            (true, false) => stop_gracefully(now_ms, desired, record),
        };
    }
    if !desired.running {
        return match record.phase {
            Phase::New | Phase::Stopped | Phase::GuestStopped => Step::Wait { until_ms: None },
            Phase::Failed { .. } if !new_epoch => Step::Wait { until_ms: None },
            _ => Step::SettleStopped,
        };
    }
    let launch = Step::Launch { boot_epoch: desired.boot_epoch.max(record.boot_epoch) };
    match record.phase {
        _ if new_epoch => launch,
        Phase::GuestStopped | Phase::Failed { .. } => Step::Wait { until_ms: None },
        Phase::Again { not_before_ms } if now_ms < not_before_ms => {
            Step::Wait { until_ms: Some(not_before_ms) }
        }
        _ => launch,
    }
}

fn stop_by_force(now_ms: u64, record: &Record) -> Step {
    match record.stopping.as_ref().and_then(|s| s.terminated_ms) {
        None => Step::Terminate,
        Some(t) if now_ms >= t.saturating_add(TERMINATE_GRACE_MS) => Step::Kill,
        Some(t) => Step::Wait { until_ms: Some(t.saturating_add(TERMINATE_GRACE_MS)) },
    }
}

fn stop_gracefully(now_ms: u64, desired: &Desired, record: &Record) -> Step {
    let Some(stopping) = &record.stopping else { return Step::PressPowerButton };
    let deadline = stopping.since_ms.saturating_add(desired.stop_timeout_ms);
    if stopping.terminated_ms.is_some() || now_ms >= deadline {
        return stop_by_force(now_ms, record);
    }
    match stopping.pressed_ms {
        None => Step::PressPowerButton,
        Some(t) if now_ms >= t.saturating_add(PRESS_AGAIN_MS) => Step::PressPowerButton,
        Some(t) => Step::Wait { until_ms: Some(deadline.min(t.saturating_add(PRESS_AGAIN_MS))) },
    }
}

/// The record with a stop step noted, to be saved before the step is done.
pub fn note_stop_step(now_ms: u64, record: &Record, step: Step) -> Record {
    let mut record = record.clone();
    let stopping =
        record.stopping.get_or_insert_with(|| Stopping { since_ms: now_ms, ..Stopping::default() });
    match step {
        Step::PressPowerButton => stopping.pressed_ms = Some(now_ms),
        Step::Terminate => stopping.terminated_ms = Some(now_ms),
        Step::Kill => stopping.killed = true,
        _ => {}
    }
    record
}

/// The record as it must be before a VMM is started.
pub fn note_launch(record: &Record, desired: &Desired, host_boot_id: &str) -> Record {
    let mut record = enter_epoch(record, desired);
    record.launches += 1;
    record.host_boot_id = host_boot_id.to_owned();
    record.phase = Phase::Launching;
    record
}

/// The record of an instance that cannot be started in this boot epoch.
pub fn note_refused(record: &Record, desired: &Desired, error: &Error) -> Record {
    let mut record = enter_epoch(record, desired);
    record.last_exit = error.to_string();
    record.phase = failed(error);
    record
}

fn enter_epoch(record: &Record, desired: &Desired) -> Record {
    let mut record = record.clone();
    let boot_epoch = desired.boot_epoch.max(record.boot_epoch);
    if boot_epoch > record.boot_epoch {
        record.restarts = 0;
        record.quick_crashes = 0;
        record.last_exit.clear();
        record.last_code.clear();
    }
    record.boot_epoch = boot_epoch;
    record.generation = desired.generation;
    record.stopping = None;
    record
}

fn failed(error: &Error) -> Phase {
    Phase::Failed { code: error.code().into(), message: error.to_string() }
}

/// What people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Event type.
    pub kind: &'static str,
    /// What happened and what the agent does about it.
    pub message: String,
}

/// The record after its VMM is gone, and the event to tell of, if any.
pub fn note_exit(now_ms: u64, record: &Record, exit: &Exit) -> (Record, Option<Notice>) {
    let mut next = record.clone();
    next.disks_suspect |= exit.is_crash();
    if let Some(stopping) = next.stopping.take() {
        next.phase = Phase::Stopped;
        if !exit.is_crash() || stopping.killed {
            return (next, None);
        }
        let kind = match exit {
            Exit::GuestFault { .. } => "InstanceFailure.Stop",
            _ => "SystemFailure.Stop",
        };
        next.last_exit = exit.to_string();
        let message = format!("{exit}, while the instance was being stopped");
        return (next, Some(Notice { kind, message }));
    }
    let age_ms = match record.phase {
        Phase::Running => now_ms.saturating_sub(record.started_unix_ms),
        _ => 0,
    };
    next.last_exit = exit.to_string();
    next.last_code.clear();
    match exit {
        Exit::Shutdown => {
            next.phase = Phase::GuestStopped;
            (next, None)
        }
        Exit::Reset => {
            next.quick_crashes = 0;
            let pause = if age_ms < QUICK_RESET_MS { QUICK_RESET_MS } else { 0 };
            next.phase = Phase::Again { not_before_ms: now_ms.saturating_add(pause) };
            (next, None)
        }
        Exit::LeaseLost { .. } => {
            next.restarts += 1;
            next.last_code = exit.code().into();
            next.phase = Phase::Again { not_before_ms: now_ms.saturating_add(BACKOFF_FIRST_MS) };
            let message =
                format!("{exit}; the instance is started again when this host has the lease");
            (next, Some(Notice { kind: "SystemFailure.Reboot", message }))
        }
        Exit::HostRestarted | Exit::NeverStarted => {
            next.phase = Phase::Again { not_before_ms: now_ms };
            let notice = matches!(exit, Exit::HostRestarted).then(|| Notice {
                kind: "SystemFailure.Reboot",
                message: format!("{exit}; the instance is started again"),
            });
            (next, notice)
        }
        Exit::Refused { code, message } => {
            next.phase = Phase::Failed { code: code.clone(), message: message.clone() };
            (next, None)
        }
        Exit::GuestFault { .. } | Exit::HostFault { .. } | Exit::Killed { .. } | Exit::Unknown => {
            let quick = age_ms < QUICK_MS;
            next.quick_crashes = if quick { next.quick_crashes + 1 } else { 1 };
            let kind = match exit {
                Exit::GuestFault { .. } => "InstanceFailure.Reboot",
                _ => "SystemFailure.Reboot",
            };
            if next.quick_crashes >= QUICK_CRASHES_MAX {
                let message = format!(
                    "{exit}; it ended {} times within {} s of its start, so it is not started \
                     again until StartInstances",
                    next.quick_crashes,
                    QUICK_MS / 1000
                );
                next.phase = Phase::Failed { code: exit.code().into(), message: message.clone() };
                return (next, Some(Notice { kind, message }));
            }
            next.restarts += 1;
            next.last_code = exit.code().into();
            let shift = next.quick_crashes.saturating_sub(1).min(16);
            let pause = (BACKOFF_FIRST_MS << shift).min(BACKOFF_MAX_MS);
            next.phase = Phase::Again { not_before_ms: now_ms.saturating_add(pause) };
            (next, Some(Notice { kind, message: format!("{exit}; the instance is started again") }))
        }
    }
}

/// The record and event after the disks were found damaged by the crash that `next` and `notice`
/// are about: started again, the guest would make it worse.
pub fn note_damage(
    mut next: Record,
    notice: Option<Notice>,
    exit: &Exit,
    error: &Error,
) -> (Record, Notice) {
    if next.phase != Phase::Stopped {
        next.phase = failed(error);
    }
    let kind = notice.map_or("SystemFailure.Stop", |notice| notice.kind);
    let message =
        format!("{exit}; {error}; the instance is not started again until StartInstances");
    (next, Notice { kind, message })
}

/// The record after a launch that started no process.
pub fn note_failed_launch(now_ms: u64, record: &Record, error: &Error) -> Record {
    let mut next = record.clone();
    next.last_exit = error.to_string();
    if error.is_permanent() {
        next.phase = failed(error);
        return next;
    }
    next.last_code = error.code().into();
    next.quick_crashes += 1;
    let shift = next.quick_crashes.saturating_sub(1).min(16);
    let pause = (BACKOFF_FIRST_MS << shift).min(BACKOFF_MAX_MS);
    next.phase = Phase::Again { not_before_ms: now_ms.saturating_add(pause) };
    next
}

/// What the controller is told.
pub fn status(record: &Record, desired: Option<&Desired>, alive: bool) -> InstanceStatus {
    let mut status = InstanceStatus {
        instance_id: record.instance_id.clone(),
        observed_generation: record.generation,
        boot_epoch: record.boot_epoch,
        started_unix_ms: record.started_unix_ms,
        restarts: record.restarts,
        ..InstanceStatus::default()
    };
    let state = if alive && (record.stopping.is_some() || desired.is_none()) {
        InstanceState::Stopping
    } else {
        match &record.phase {
            Phase::New if desired.is_some_and(|d| d.running) => InstanceState::Starting,
            Phase::New | Phase::Stopped => InstanceState::Stopped,
            Phase::Launching | Phase::Again { .. } => InstanceState::Starting,
            Phase::Running if alive => InstanceState::Running,
            Phase::Running => InstanceState::Starting,
            Phase::GuestStopped => {
                status.guest_initiated = true;
                InstanceState::Stopped
            }
            Phase::Failed { code, message } => {
                status.code.clone_from(code);
                status.message.clone_from(message);
                InstanceState::Failed
            }
        }
    };
    status.state = state.into();
    if matches!(record.phase, Phase::Again { .. }) {
        status.code.clone_from(&record.last_code);
        status.message.clone_from(&record.last_exit);
    }
    status
}
