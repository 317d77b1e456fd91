//! Descriptors and resource limits.

use std::os::fd::RawFd;
use std::time::Duration;

use super::check;
use crate::error::Error;

/// Memory of the whole process, code included.
const ADDRESS_SPACE: u64 = 512 << 20;

/// Closes every descriptor that is not needed, whoever left it open.
pub(super) fn close_others(keep: &[RawFd]) -> Result<(), Error> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|&fd| fd > 2).chain([u32::MAX]) {
        if fd > first {
            // SAFETY: nothing in this process uses these descriptors: it has just started, and its
            // own are the ones to keep.
            check("close_range", unsafe {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0)
            })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Memory, processor time, size of files, no new descriptors, no new processes, no core dump.
pub(super) fn limit(time: Duration, file_bytes: u64) -> Result<(), Error> {
    let seconds = time.as_secs().saturating_add(1);
    for (resource, value) in [
        (libc::RLIMIT_AS, ADDRESS_SPACE),
        (libc::RLIMIT_CPU, seconds),
        (libc::RLIMIT_FSIZE, file_bytes),
        (libc::RLIMIT_NPROC, 0),
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_MEMLOCK, 0),
        // Last: Landlock and the filter need none of their own afterwards, but one in between.
        (libc::RLIMIT_NOFILE, 64),
    ] {
        let value = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: points to a limit of this frame.
        check("setrlimit", unsafe { libc::setrlimit(resource, &value) }.into())?;
    }
    Ok(())
}
