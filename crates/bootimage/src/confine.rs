//! The jail of this process: what it gives up before it reads the first byte of a disk.
//!
//! From the outside in: namespaces of its own and an empty root directory (as root), another user
//! and no capabilities, no descriptor but the ones it needs, no new privileges, resource limits,
//! no filesystem and no network (Landlock), a wall-clock alarm, and a short list of system calls. It
//! ends with the process that started it.

mod identity;
mod landlock;
mod namespaces;
mod parent;
mod resources;
mod seccomp;
mod signals;

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::error::Error;

/// How to confine the process.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// The user to become; only as root.
    pub uid: u32,
    /// The group to become; only as root.
    pub gid: u32,
    /// Wall time until the process ends itself.
    pub time: Duration,
    /// Descriptors that stay open, next to standard input, output and error.
    pub keep: Vec<RawFd>,
    /// Bytes of the largest file it may write.
    pub file_bytes: u64,
    /// Fail where the host lacks a part of the jail, instead of going on without it.
    pub required: bool,
    /// The process to end with; the parent by default.
    pub parent: Option<libc::pid_t>,
}

/// `nobody` and `nogroup` of Debian.
pub const NOBODY: u32 = 65534;

/// What was in effect at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Own namespaces and an empty root directory. Needs root with `CAP_SYS_ADMIN`.
    pub namespaces: bool,
    /// Landlock denies the filesystem. Needs Linux 5.13 with Landlock.
    pub landlock: bool,
    /// System calls are filtered; always.
    pub system_calls: bool,
    /// The user the process runs as.
    pub uid: u32,
}

/// Enters the jail; there is no way back. What the host's kernel lacks is left out and reported,
/// unless all is required; never left out are the limits, the alarm and the system call filter.
///
/// Errors from here on, by signals or panics, are one JSON line on standard output and exit code 1.
///
/// # Errors
/// [`Error::Confinement`] with the step that failed.
pub fn enter(confinement: &Confinement) -> Result<Report, Error> {
    let parent = confinement.parent.unwrap_or_else(parent::current);
    parent::die_with(parent)?;
    signals::report(confinement.time)?;
    let root = identity::is_root();
    let namespaces = if root { namespaces::enter()? } else { false };
    require(confinement, "namespaces", namespaces, "they need root with CAP_SYS_ADMIN")?;
    resources::close_others(&confinement.keep)?;
    if root {
        identity::become_user(confinement.uid, confinement.gid)?;
        parent::die_with(parent)?;
    }
    identity::give_up_privileges()?;
    resources::limit(confinement.time, confinement.file_bytes)?;
    let landlock = landlock::deny_all()?;
    require(confinement, "landlock", landlock, "it needs Linux 5.13 with lsm=landlock")?;
    let uid = identity::uid();
    signals::alarm(confinement.time);
    seccomp::filter()?;
    Ok(Report { namespaces, landlock, system_calls: true, uid })
}

fn require(
    confinement: &Confinement,
    step: &'static str,
    done: bool,
    needs: &'static str,
) -> Result<(), Error> {
    if confinement.required && !done {
        return Err(Error::Confinement { step, source: io::Error::other(needs) });
    }
    Ok(())
}

/// Turns the answer of a system call into an error with its step.
fn check(step: &'static str, result: libc::c_long) -> Result<libc::c_long, Error> {
    if result < 0 {
        return Err(Error::Confinement { step, source: io::Error::last_os_error() });
    }
    Ok(result)
}
