//! How a VMM ended, and the report its keeper leaves behind.
//!
//! The agent may be dead when a VMM ends, and a process's exit code can only be read by its parent.
//! So each VMM has a keeper (see [`super::keeper`]) as parent, which writes the code to `exit.json`
//! in the run directory, then releases the instance's lock. No report and no lock means that the
//! keeper was killed too: [`Exit::Unknown`], treated as a crash.

use super::record::{Phase, Record};
use api::vmm::ExitCode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the keeper writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// [`Record::launches`] of the VMM that ended.
    pub launch: u64,
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Why it could not even be started.
    pub spawn_error: Option<String>,
    /// The disk, with those it shares layers with, whose lease was over, so that it was ended.
    #[serde(default)]
    pub lease_lost: Option<String>,
}

/// Why a VMM is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    Shutdown,
    /// The guest asked for a reset.
    Reset,
    /// The VMM refused its configuration or the boot files.
    Refused {
        /// ECS-like code.
        code: String,
        /// What the VMM said.
        message: String,
    },
    /// Triple fault or KVM internal error.
    GuestFault {
        /// What the VMM said.
        detail: String,
    },
    /// The host refused something.
    HostFault {
        /// What the VMM said.
        detail: String,
    },
    /// Ended by a signal.
    Killed {
        /// Its number.
        signal: i32,
    },
    /// Its keeper ended it, since the lease of a disk was over.
    LeaseLost {
        /// Which disk, with those it shares layers with.
        tree_id: String,
    },
    /// Nobody saw it.
    Unknown,
    /// The host was restarted under it.
    HostRestarted,
    /// The agent died before it started one.
    NeverStarted,
}

impl Exit {
    /// Works out the end of the VMM the record speaks of. `vmm_said`: the end of its log.
    pub fn of(
        record: &Record,
        report: Option<&ExitReport>,
        host_boot_id: &str,
        vmm_said: &str,
    ) -> Self {
        let Some(report) = report.filter(|r| r.launch == record.launches) else {
            return match record.phase {
                _ if record.host_boot_id != host_boot_id => match record.phase {
                    Phase::Running => Self::HostRestarted,
                    _ => Self::NeverStarted,
                },
                Phase::Running => Self::Unknown,
                _ => Self::NeverStarted,
            };
        };
        let detail = last_words(vmm_said);
        if let Some(tree_id) = &report.lease_lost {
            return Self::LeaseLost { tree_id: tree_id.clone() };
        }
        if let Some(error) = &report.spawn_error {
            return Self::HostFault { detail: format!("ecs-vmm could not be started: {error}") };
        }
        if let Some(signal) = report.signal {
            return Self::Killed { signal };
        }
        let code = report.code.unwrap_or(-1);
        match ExitCode::try_from(code) {
            Ok(ExitCode::Shutdown) => Self::Shutdown,
            Ok(ExitCode::Reset) => Self::Reset,
            Ok(ExitCode::Config) => Self::Refused {
                code: "InvalidConfiguration.Vmm".into(),
                message: format!("ecs-vmm refused the machine: {detail}"),
            },
            Ok(ExitCode::Boot) => Self::Refused {
                code: "ImageBootFailed.Kernel".into(),
                message: format!("the system disk's kernel or initrd cannot be booted: {detail}"),
            },
            Ok(ExitCode::GuestFault) => Self::GuestFault { detail },
            Ok(ExitCode::Host) => Self::HostFault { detail },
            Err(_) => Self::HostFault { detail: format!("exit code {code}: {detail}") },
        }
    }

    /// The code of an instance given up after such exits.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::GuestFault { .. } => "InstanceFailure.GuestFault",
            Self::LeaseLost { .. } => "DiskLeaseLost",
            _ => "SystemFailure.VmmCrash",
        }
    }

    /// Whether the disks should be looked at before they are used again.
    pub fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::GuestFault { .. }
                | Self::HostFault { .. }
                | Self::Killed { .. }
                | Self::LeaseLost { .. }
                | Self::Unknown
                | Self::HostRestarted
        )
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest asked for a reset"),
            Self::Refused { message, .. } => write!(f, "{message}"),
            Self::GuestFault { detail } => write!(f, "the guest's CPU faulted: {detail}"),
            Self::HostFault { detail } => write!(f, "the VMM failed on the host: {detail}"),
            Self::Killed { signal } => write!(f, "the VMM was ended by signal {signal}"),
            Self::LeaseLost { tree_id } => write!(
                f,
                "the lease of disk {tree_id} could not be renewed in time, so its guest was ended \
                 before another host may use the disk; look at the mount of the disk's storage pool"
            ),
            Self::Unknown => write!(f, "the VMM and its keeper were ended, nobody saw why"),
            Self::HostRestarted => write!(f, "the host was restarted"),
            Self::NeverStarted => write!(f, "no VMM was started"),
        }
    }
}

/// The last lines of a log, as one line that fits a message.
fn last_words(text: &str) -> String {
    const LINES: usize = 3;
    const LIMIT: usize = 600;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let words = lines[lines.len().saturating_sub(LINES)..].join("; ");
    let words: String = words.chars().filter(|c| !c.is_control()).take(LIMIT).collect();
    if words.is_empty() { "it said nothing".into() } else { words }
}
