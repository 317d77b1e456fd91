//! The processes of instances that live on this host, found in `/proc` by the run directory in their
//! command line, and the locks they hold. Neither needs anything the agent remembers.

use crate::{
    error::{FileContext as _, Result},
    layout::{Layout, is_safe_id, make_dir},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What a process is to its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the guest.
    Vmm,
    /// Waits for the VMM.
    Keeper,
    /// Takes boot files out of its disk before a VMM is started, and is no sign of one.
    BootFinder,
}

/// Argument that names the run directory to a boot finder, its first one.
pub const BOOT_FINDER_MARK: &str = "--instance";

/// A process that belongs to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// What it does.
    pub role: Role,
}

/// What lives of one instance.
#[derive(Debug, Default)]
pub struct Presence {
    /// Somebody holds the instance's lock.
    pub locked: bool,
    /// Its processes.
    pub processes: Vec<Process>,
}

impl Presence {
    /// Whether a VMM lives, or may live.
    pub fn alive(&self) -> bool {
        self.locked || !self.processes.is_empty()
    }

    /// Looks at one instance.
    ///
    /// # Errors
    /// When the lock cannot be looked at.
    pub fn look(layout: &Layout, instance_id: &str) -> Result<Self> {
        // In this order: a keeper that ends in between frees the lock after it is gone.
        let locked = is_locked(layout, instance_id)?;
        let processes = if locked || layout.vmm_dir(instance_id).exists() {
            let mut found = processes(layout, Path::new("/proc"))?;
            let mut found = found.remove(instance_id).unwrap_or_default();
            found.retain(|process| process.role != Role::BootFinder);
            found
        } else {
            Vec::new()
        };
        Ok(Self { locked, processes })
    }

    /// Ends the VMM by signal; its keeper stays and notes it.
    pub fn kill(&self, layout: &Layout, instance_id: &str) {
        for process in self.processes.iter().filter(|p| p.role == Role::Vmm) {
            kill(layout, instance_id, process);
        }
    }

    /// Returns when the processes seen here are gone.
    pub async fn gone(&self, layout: &Layout, instance_id: &str) {
        if self.processes.is_empty() {
            // Locked by a process that is just starting or just ending.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            return;
        }
        // The keeper goes last; where it was killed, the VMM's end is waited for.
        for process in &self.processes {
            let Some(pidfd) = open_verified(layout, instance_id, process) else { continue };
            // SAFETY: the descriptor is moved in, so it stays open and the same while it is watched.
            match unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) } {
                Ok(pidfd) => {
                    if let Err(e) = pidfd.readable().await {
                        tracing::error!(instance_id, "cannot wait for the VMM: {e}");
                    }
                }
                Err(e) => {
                    tracing::error!(instance_id, "cannot wait for the VMM: {e}");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

fn kill(layout: &Layout, instance_id: &str, process: &Process) {
    if let Some(pidfd) = open_verified(layout, instance_id, process)
        && let Err(e) = pidfd_send_signal(&pidfd, Signal::KILL)
        && e != Errno::SRCH
    {
        tracing::error!(instance_id, pid = process.pid, role = ?process.role, "cannot kill: {e}");
    }
}

/// Ends the boot finders that an earlier agent left behind: nobody waits for them.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn kill_stray_boot_finders(layout: &Layout) -> Result<()> {
    for (id, found) in processes(layout, Path::new("/proc"))? {
        for process in found.iter().filter(|process| process.role == Role::BootFinder) {
            tracing::warn!(instance_id = id, pid = process.pid, "ending a stray boot finder");
            kill(layout, &id, process);
        }
    }
    Ok(())
}

/// Whether somebody has taken the instance's lock. Asked with a shared lock, so that two who ask at
/// once do not take each other for a VMM.
fn is_locked(layout: &Layout, instance_id: &str) -> Result<bool> {
    let path = layout.vmm_lock(instance_id);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).at("open", &path),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e).at("look at the lock", &path),
    }
}

/// Takes the instance's lock; `None` when somebody has it, or looks at it right now.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn try_lock(layout: &Layout, instance_id: &str) -> Result<Option<File>> {
    make_dir(&layout.instance(instance_id), 0o711)?;
    let path = layout.vmm_lock(instance_id);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .at("open", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e).at("lock", &path),
    }
}

/// The number of the launch a keeper was started for, from its command line.
pub fn launch_of(keeper: &Process) -> Option<u64> {
    let cmdline = fs::read(format!("/proc/{}/cmdline", keeper.pid)).ok()?;
    let mut arguments = cmdline.split(|b| *b == 0).map(String::from_utf8_lossy);
    arguments.find(|a| a == "--launch")?;
    arguments.next()?.parse().ok()
}

/// The user a process runs as.
pub fn uid_of(process: &Process) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every process of an instance on this host, by instance id.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processes(layout: &Layout, proc: &Path) -> Result<BTreeMap<String, Vec<Process>>> {
    let mut found: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    for entry in fs::read_dir(proc).at("list", proc)? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Gone again, or a kernel thread.
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
        if let Some((id, role)) = belongs_to(layout, &cmdline) {
            found.entry(id).or_default().push(Process { pid, role });
        }
    }
    Ok(found)
}

fn belongs_to(layout: &Layout, cmdline: &[u8]) -> Option<(String, Role)> {
    let mut arguments = cmdline.split(|b| *b == 0).map(String::from_utf8_lossy).skip(1);
    let role = match arguments.next()?.as_ref() {
        super::keeper::COMMAND => Role::Keeper,
        "run" => Role::Vmm,
        BOOT_FINDER_MARK => Role::BootFinder,
        _ => return None,
    };
    let path = match role {
        Role::BootFinder => arguments.next()?,
        Role::Vmm | Role::Keeper => arguments.skip_while(|a| a != "--config").nth(1)?,
    };
    let below = Path::new(path.as_ref()).strip_prefix(layout.vmm()).ok()?.to_str()?;
    let id = match role {
        Role::BootFinder => below,
        Role::Vmm | Role::Keeper => below.strip_suffix("/config.json")?,
    };
    is_safe_id(id).then(|| (id.to_owned(), role))
}

/// A descriptor of the process, if it still is the one that was seen: ids are used again.
fn open_verified(layout: &Layout, instance_id: &str, process: &Process) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    let cmdline = fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
    // A zombie has no command line left, and is as good as gone.
    let (id, role) = belongs_to(layout, &cmdline)?;
    (id == instance_id && role == process.role).then_some(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_their_config_path() {
        let layout = Layout::new("/s", "/r");
        let of = |args: &[&str]| belongs_to(&layout, args.join("\0").as_bytes());
        assert_eq!(
            of(&["/bin/ecs-vmm", "run", "--config", "/r/vmm/i-1/config.json"]),
            Some(("i-1".into(), Role::Vmm))
        );
        assert_eq!(
            of(&["x", "keep-vmm", "--launch", "3", "--config", "/r/vmm/i-1/config.json"]),
            Some(("i-1".into(), Role::Keeper))
        );
        assert_eq!(
            of(&["/bin/ecs-bootimage", "--instance", "/r/vmm/i-1", "--layer", "3:qcow2"]),
            Some(("i-1".into(), Role::BootFinder))
        );
        assert_eq!(of(&["vi", "/r/vmm/i-1/config.json"]), None);
        assert_eq!(of(&["x", "run", "--config", "/other/vmm/i-1/config.json"]), None);
        assert_eq!(of(&["x", "run", "--config", "/r/vmm/a/b/config.json"]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_lock_is_held_until_its_last_copy_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        let lock = try_lock(&layout, "i-1").unwrap().unwrap();
        let inherited = lock.try_clone().unwrap();
        drop(lock);
        assert!(try_lock(&layout, "i-1").unwrap().is_none());
        assert!(Presence::look(&layout, "i-1").unwrap().alive());
        drop(inherited);
        assert!(!Presence::look(&layout, "i-1").unwrap().alive());
        // Nor is one that looks taken for one that lives, and looking leaves nothing behind.
        let looking = File::open(layout.vmm_lock("i-1")).unwrap();
        flock(&looking, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(!Presence::look(&layout, "i-1").unwrap().alive());
        assert!(!Presence::look(&layout, "i-2").unwrap().alive());
        assert!(!layout.instance("i-2").exists());
    }
}
