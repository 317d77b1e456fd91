//! `ecsctl lab crash`.

use super::{
    existing, host_number,
    layout::{HostPaths, Kind, Layout},
    machine, monitor, process, up,
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
    /// A whole emulated host, which loses what it has not written and boots again
    Host,
}

// Patterns of whole command lines. The brackets keep one from finding the shell it is in.

/// The agent as `files.rs` starts it; not its keepers, `ecs-agent keep-vmm`, which are to outlive it.
const AGENT_PATTERN: &str = "[e]cs-agent --controller ";

/// The VMM alone; the instance's id is in its keeper's command line too.
fn vmm_pattern(paths: &HostPaths, id: &str) -> Result<String> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::Local(format!("{id:?} is not an instance id")));
    }
    Ok(format!("[e]cs-vmm run --config {}/vmm/{id}/", paths.run.display()))
}

/// Sends SIGKILL, or resets a host.
pub(super) fn crash(
    layout: &Layout,
    what: Victim,
    instance: Option<&str>,
    host: &str,
) -> Result<()> {
    let record = existing(layout)?;
    let number = host_number(&record, host)?;
    if what == Victim::Host {
        return match record.kind {
            Kind::Emulated => monitor::reset(layout, number),
            Kind::Native => Err(Error::Local(
                "this machine itself is the lab's host and is not reset; only emulated hosts are"
                    .to_owned(),
            )),
        };
    }
    let supervisor = match what {
        Victim::Controller => Some(up::CONTROLLER),
        Victim::Agent if record.kind == Kind::Native => Some(up::NATIVE_AGENT),
        _ => None,
    };
    let script = match supervisor {
        Some(name) => {
            let pid = process::running(&layout.pid(name))
                .ok_or_else(|| Error::Local(format!("the {name} does not run")))?;
            format!("pkill -KILL -P {pid}")
        }
        None => {
            let pattern = if what == Victim::Vmm {
                vmm_pattern(&HostPaths::of(layout, record.kind), instance.unwrap_or_default())?
            } else {
                AGENT_PATTERN.to_owned()
            };
            format!("pkill -KILL -f '{pattern}'")
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, path::Path};

    /// As pkill does.
    fn matches(pattern: &str, line: &str) -> bool {
        let mut grep =
            Command::new("grep").args(["-qE", pattern]).stdin(Stdio::piped()).spawn().unwrap();
        grep.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        grep.wait().unwrap().success()
    }

    #[test]
    fn a_crash_kills_what_it_names_and_no_keeper() {
        let layout = Layout::find(Some(Path::new("/lab"))).unwrap();
        let paths = HostPaths::of(&layout, Kind::Emulated);
        let vmm = vmm_pattern(&paths, "i-1").unwrap();
        let line = "/lab/bin/ecs-vmm run --config /run/ecs/vmm/i-1/config.json";
        let keeper = "/lab/bin/ecs-agent keep-vmm --launch 1 --exit-report /run/ecs/vmm/i-1/exit.json \
                      --vmm /lab/bin/ecs-vmm --config /run/ecs/vmm/i-1/config.json";
        let agent = "/lab/bin/ecs-agent --controller http://10.0.2.2:7800 --zone cn-lab-1a";
        assert!(matches(&vmm, line));
        assert!(!matches(&vmm, &line.replace("i-1", "i-12")));
        assert!(!matches(&vmm, keeper));
        assert!(!matches(&vmm, &format!("sh -c pkill -KILL -f '{vmm}'")));
        assert!(matches(AGENT_PATTERN, agent));
        assert!(!matches(AGENT_PATTERN, keeper));
        assert!(!matches(AGENT_PATTERN, &format!("sh -c pkill -KILL -f '{AGENT_PATTERN}'")));
        assert!(vmm_pattern(&paths, "i-1' x").is_err());
    }
}
