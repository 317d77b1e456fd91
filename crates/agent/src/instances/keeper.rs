//! The parent of one VMM: a process that outlives the agent, waits for the VMM and leaves its exit
//! code behind. It is this same executable, started as `ecs-agent keep-vmm`.
//!
//! Descriptor 3 is the instance's lock. Keeper and VMM both hold it, so the lock is free only when
//! no VMM lives and its exit report is there.

use super::exit::ExitReport;
use crate::{
    durable_file,
    error::{Error, Result},
    layout::Layout,
    lease,
};
use clap::Parser;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// First argument that makes the executable a keeper.
pub const COMMAND: &str = "keep-vmm";
/// Where the keeper and the VMM hold the lock.
pub const LOCK_FD: i32 = 3;
/// The VMM's other descriptors start here.
pub const FIRST_FD: i32 = 4;
/// How often it is looked whether the VMM uses leases.
const LOOK: Duration = Duration::from_secs(1);
/// How often the leases of a VMM that does are looked at.
const WATCH: Duration = Duration::from_millis(200);
/// A VMM is ended by so much before its lease is over.
const EARLY: Duration = Duration::from_millis(400);

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
    /// Where the leases of this host's disks are told of. A VMM with a disk whose lease is over is
    /// ended.
    #[arg(long)]
    pub leases: Option<PathBuf>,
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
    let leases = Used::of(&arguments);
    let mut lease_lost = None;
    let child = match leases.as_ref().and_then(Used::lost) {
        None => start(&arguments),
        Some(tree_id) => {
            let message = format!("the lease of {tree_id} is over");
            lease_lost = Some(tree_id);
            Err(io::Error::other(message))
        }
    };
    close_from(FIRST_FD);
    let status = child.and_then(|mut child| match &leases {
        None => child.wait(),
        Some(leases) => {
            let (status, lost) = watch(&mut child, leases)?;
            lease_lost = lost;
            Ok(status)
        }
    });
    let mut report = ExitReport { launch: arguments.launch, lease_lost, ..ExitReport::default() };
    match status {
        Ok(status) => (report.code, report.signal) = (status.code(), status.signal()),
        Err(e) => report.spawn_error = Some(e.to_string()),
    }
    if let Some(leases) = &leases {
        // What it was killed for or ended with, it uses none of them any more.
        if let Err(e) = crate::layout::remove_dir(&leases.own) {
            eprintln!("{e}");
        }
    }
    durable_file::write_json(&arguments.exit_report, &report)
}

/// The leases that a VMM's disks need.
struct Used<'a> {
    /// Where they are told of.
    leases: &'a Path,
    /// Where it is noted which.
    own: PathBuf,
}

impl<'a> Used<'a> {
    fn of(arguments: &'a Arguments) -> Option<Self> {
        let own = Layout::leases_of_vmm(arguments.config.parent()?);
        Some(Self { leases: arguments.leases.as_deref()?, own })
    }

    fn trees(&self) -> Vec<String> {
        lease::registered(&self.own).unwrap_or_default()
    }

    /// One that is over, or will be before this is asked again.
    fn lost(&self) -> Option<String> {
        let over = |tree_id: &String| {
            lease::now() + EARLY >= lease::usable_until(self.leases, tree_id)
                // Let go meanwhile: then the disk is the VMM's no more.
                && self.trees().contains(tree_id)
        };
        self.trees().into_iter().find(over)
    }
}

/// Waits for the VMM, and ends it when one of its leases is over.
fn watch(child: &mut Child, used: &Used<'_>) -> io::Result<(ExitStatus, Option<String>)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the VMM has no process id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut lost = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, lost));
        }
        if lost.is_none()
            && let Some(tree_id) = used.lost()
        {
            eprintln!("the lease of {tree_id} is over: ending the VMM");
            child.kill()?;
            lost = Some(tree_id);
        }
        let pause = if used.trees().is_empty() { LOOK } else { WATCH };
        let pause = Timespec::try_from(pause).ok();
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut ended, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
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
