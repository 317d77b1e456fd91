//! Timers of a queue's thread, and its shortest waits.

use std::{
    io,
    os::fd::{FromRawFd as _, RawFd},
};
use vmm_sys_util::timerfd::TimerFd;

/// A timer that never blocks who reads it, unlike those `TimerFd` makes itself.
pub fn timer() -> io::Result<TimerFd> {
    // SAFETY: takes and returns numbers only.
    let fd = unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us, so nobody else owns it.
    Ok(unsafe { TimerFd::from_raw_fd(fd) })
}

/// Waits a moment for `fd`; the caller looks again whatever the outcome.
pub fn wait_readable(fd: RawFd) {
    const MOMENT_MS: i32 = 10;
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid element for the length of the call.
    unsafe { libc::poll(&mut poll, 1, MOMENT_MS) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::fd::AsRawFd as _, time::Duration};

    #[test]
    fn a_timer_that_is_not_armed_blocks_nobody() {
        let mut timer = timer().unwrap();
        assert_eq!(timer.wait().unwrap_err().errno(), libc::EAGAIN);
        timer.reset(Duration::from_nanos(1), None).unwrap();
        wait_readable(timer.as_raw_fd());
        assert_eq!(timer.wait().unwrap(), 1);
    }
}
