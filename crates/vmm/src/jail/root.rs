//! Namespaces and the root directory.

use super::{JailError, failed};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare as unshare_namespaces},
    unistd::{chdir, chroot, pivot_root},
};
use std::io;

const NOTHING: Option<&str> = None;

/// Own mounts, IPC objects, host name, and a network without interfaces. Interfaces that are
/// already open stay usable.
pub(super) fn unshare() -> Result<(), JailError> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    unshare_namespaces(namespaces).map_err(failed("new namespaces"))?;
    // Or what is mounted below would appear outside.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .map_err(failed("make mounts private"))
}

/// Makes `path`, an empty directory, all there is of the file system.
pub(super) fn change(path: &str, own_mounts: bool) -> Result<(), JailError> {
    check_empty(path)?;
    let step = |what: &str| format!("{what} {path}");
    if own_mounts {
        mount(Some(path), path, NOTHING, MsFlags::MS_BIND, NOTHING)
            .map_err(failed(step("bind")))?;
        let sealed = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC;
        mount(NOTHING, path, NOTHING, sealed, NOTHING).map_err(failed(step("seal")))?;
        chdir(path).map_err(failed(step("enter")))?;
        // With both names the same, the old root ends up on top of the new one, to be taken off.
        match pivot_root(".", ".") {
            Ok(()) => {
                umount2(".", MntFlags::MNT_DETACH).map_err(failed("let go of the old root"))?
            }
            // A host that runs from its initial RAM file system cannot pivot away from it.
            Err(Errno::EINVAL) => {
                mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING)
                    .map_err(failed(step("move over the root")))?;
                chroot(".").map_err(failed(step("change root to")))?;
            }
            Err(error) => return Err(failed(step("pivot to"))(error)),
        }
    } else {
        chroot(path).map_err(failed(step("change root to")))?;
    }
    chdir("/").map_err(failed("enter the new root"))
}

fn check_empty(path: &str) -> Result<(), JailError> {
    let step = format!("look into {path}");
    match std::fs::read_dir(path).map_err(failed(step.clone()))?.next() {
        None => Ok(()),
        Some(_) => Err(JailError {
            step,
            source: io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "jail.chroot must be an empty directory",
            ),
        }),
    }
}
