//! The clock that leases are measured with.

use std::time::Duration;

/// Time since this host was started, also that in which it was suspended: every process of the host
/// reads the same, and it never stands still.
pub fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is there.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    debug_assert_eq!(result, 0, "CLOCK_BOOTTIME is in every kernel");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
