//! Namespaces with nothing in them.

use std::ffi::CStr;
use std::io;

use super::check;
use crate::error::Error;

/// Own namespaces, and an empty directory as root. `false` if this root may not do so, as in
/// containers.
pub(super) fn enter() -> Result<bool, Error> {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // SAFETY: plain flags; this process has one thread.
    if unsafe { libc::unshare(flags) } < 0 {
        let source = io::Error::last_os_error();
        return match source.raw_os_error() {
            Some(libc::EPERM) => Ok(false),
            _ => Err(Error::Confinement { step: "unshare", source }),
        };
    }
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None, "private mounts")?;
    // Any directory will do; /proc and /sys are on every system.
    let options = Some(c"size=4k,mode=0555,nr_inodes=2");
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let place = c"/sys";
    mount(Some(c"tmpfs"), place, Some(c"tmpfs"), flags, options, "empty root")?;
    // SAFETY: a string that ends with zero.
    check("chdir", unsafe { libc::chdir(place.as_ptr()) }.into())?;
    // Old and new root on the same directory: the old one lies on top and is taken off.
    let here = c".".as_ptr();
    // SAFETY: strings that end with zero.
    if unsafe { libc::syscall(libc::SYS_pivot_root, here, here) } == 0 {
        // SAFETY: a string that ends with zero.
        check("umount", unsafe { libc::umount2(here, libc::MNT_DETACH) }.into())?;
    } else {
        // The root is an initramfs, which cannot be taken off, only covered.
        mount(Some(c"."), c"/", None, libc::MS_MOVE, None, "pivot_root")?;
        // SAFETY: a string that ends with zero.
        check("chroot", unsafe { libc::chroot(here) }.into())?;
    }
    // SAFETY: a string that ends with zero.
    check("chdir", unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
    Ok(true)
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
    step: &'static str,
) -> Result<(), Error> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that end with zero, or null where mount(2) takes it.
    let result = unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(options).cast())
    };
    check(step, result.into()).map(|_| ())
}
