//! `ecsctl lab crash`.

use super::{
    existing, host_number,
    layout::{Kind, Layout},
    machine, process, up,
};
use crate::error::{Error, Result};
use clap::ValueEnum;
use std::process::{Command, Stdio};

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Victim {
    /// The controller; its supervisor starts it again
    Controller,
    /// A host's agent; its host starts it again
    Agent,
    /// The VMM of an instance
    Vmm,
}

/// Sends SIGKILL.
pub(super) fn crash(
    layout: &Layout,
    what: Victim,
    instance: Option<&str>,
    host: &str,
) -> Result<()> {
    let record = existing(layout)?;
    let number = host_number(&record, host)?;
    let supervisor = match what {
        Victim::Controller => Some(up::CONTROLLER),
        Victim::Agent if record.kind == Kind::Native => Some(up::NATIVE_AGENT),
        _ => None,
    };
    let script = match (supervisor, what) {
        (Some(name), _) => {
            let pid = process::running(&layout.pid(name))
                .ok_or_else(|| Error::Local(format!("the {name} does not run")))?;
            format!("pkill -KILL -P {pid}")
        }
        (None, Victim::Vmm) => {
            let id = instance.unwrap_or_default();
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(Error::Local(format!("{id:?} is not an instance id")));
            }
            // The brackets keep the pattern from finding the shell it is in.
            format!("pkill -KILL -f '[e]cs-vmm.*{id}'")
        }
        (None, _) => "pkill -KILL -x ecs-agent".to_owned(),
    };
    let mut command = if supervisor.is_some() || record.kind == Kind::Native {
        let mut shell = Command::new("sh");
        shell.arg("-c");
        shell
    } else {
        machine::ssh(layout, &record, number, &[])
    };
    let status = command
        .arg(script)
        .stdin(Stdio::null())
        .status()
        .map_err(Error::io("cannot send a signal"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Local(format!("there is no such process on {host}")))
}
