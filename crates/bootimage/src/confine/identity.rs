//! Users and privileges.

use super::check;
use crate::error::Error;

pub(super) fn uid() -> u32 {
    // SAFETY: has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

pub(super) fn is_root() -> bool {
    uid() == 0
}

/// Another user and group in all three roles; that clears every capability as well.
pub(super) fn become_user(uid: u32, gid: u32) -> Result<(), Error> {
    // SAFETY: the list is empty, so the null pointer is not followed.
    check("setgroups", unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
    // SAFETY: plain numbers.
    check("setresgid", unsafe { libc::setresgid(gid, gid, gid) }.into())?;
    // SAFETY: plain numbers.
    check("setresuid", unsafe { libc::setresuid(uid, uid, uid) }.into())?;
    Ok(())
}

/// No privileges by executing files, and no ptrace or core dump by others.
pub(super) fn give_up_privileges() -> Result<(), Error> {
    // SAFETY: plain numbers.
    check("no_new_privs", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: plain numbers.
    check("dumpable", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())?;
    Ok(())
}
