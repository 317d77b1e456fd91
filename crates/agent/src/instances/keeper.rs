//! The parent of one VMM: a process that outlives the agent, waits for the VMM and leaves its exit
//! code behind. It is this same executable, started as `ecs-agent keep-vmm`.
//!
//! Descriptor 3 is the instance's lock. Keeper and VMM both hold it, so the lock is free only when
//! no VMM lives and its exit report is there.

use super::exit::ExitReport;
use crate::{
    durable_file,
    error::{Error, Result},
};
use clap::Parser;
use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// First argument that makes the executable a keeper.
pub const COMMAND: &str = "keep-vmm";
/// Where the keeper and the VMM hold the lock.
pub const LOCK_FD: i32 = 3;
/// The VMM's other descriptors start here.
pub const FIRST_FD: i32 = 4;

/// Arguments of a keeper.
#[derive(Debug, Parser)]
#[command(name = "ecs-agent keep-vmm", about = "Waits for one VMM and notes how it ended.")]
pub struct Arguments {
    /// Where to write the exit report.
    #[arg(long)]
    pub exit_report: PathBuf,
    /// Number of this launch, for the report.
    #[arg(long)]
    pub launch: u64,
    /// cgroup to enter first.
    #[arg(long)]
    pub cgroup: PathBuf,
    /// The VMM.
    #[arg(long)]
    pub vmm: PathBuf,
    /// Its machine description.
    #[arg(long)]
    pub config: PathBuf,
}

/// Runs as a keeper, to the end.
///
/// # Errors
/// When the report cannot be written.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments =
        Arguments::try_parse_from(arguments).map_err(|e| Error::Configuration(e.to_string()))?;
    // Own session: neither a terminal nor the agent's service ends this instance.
    rustix::process::setsid()
        .map_err(|e| Error::Configuration(format!("cannot start a session: {e}")))?;
    let child = start(&arguments);
    close_from(FIRST_FD);
    let status = child.and_then(|mut child| child.wait());
    let report = match status {
        Ok(status) => ExitReport {
            launch: arguments.launch,
            code: status.code(),
            signal: status.signal(),
            spawn_error: None,
        },
        Err(e) => ExitReport {
            launch: arguments.launch,
            code: None,
            signal: None,
            spawn_error: Some(e.to_string()),
        },
    };
    durable_file::write_json(&arguments.exit_report, &report)
}

/// Starts the VMM inside its limits, or not at all.
fn start(arguments: &Arguments) -> io::Result<Child> {
    let because =
        |path: &Path, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let procs = arguments.cgroup.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|e| because(&procs, e))?;
    Command::new(&arguments.vmm)
        .arg("run")
        .arg("--config")
        .arg(&arguments.config)
        .stdin(Stdio::null())
        .current_dir("/")
        .spawn()
        .map_err(|e| because(&arguments.vmm, e))
}

/// Gives up the VMM's descriptors: its disks, taps and boot files must not live longer than it.
fn close_from(first: i32) {
    // SAFETY: this process opened nothing itself that is still in use; everything from `first` up
    // was inherited for the VMM, and no object of this program refers to it.
    let result = unsafe { libc::close_range(first.unsigned_abs(), u32::MAX, 0) };
    if result != 0 {
        eprintln!("cannot close the VMM's descriptors: {}", io::Error::last_os_error());
    }
}
