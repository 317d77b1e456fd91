//! Whoever started this process reads its answer; without them there is no work to do.

use std::io;

use super::check;
use crate::error::Error;

/// The process that is the parent now.
pub(super) fn current() -> libc::pid_t {
    // SAFETY: has no arguments and cannot fail.
    unsafe { libc::getppid() }
}

/// Ends with the parent. A change of user undoes it, so it is called again after one.
pub(super) fn die_with(parent: libc::pid_t) -> Result<(), Error> {
    // SAFETY: plain numbers.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    check("death with the parent", set.into())?;
    // It may have ended before that call.
    if current() != parent {
        let source = io::Error::other("the process that started this one is gone");
        return Err(Error::Confinement { step: "parent", source });
    }
    Ok(())
}
