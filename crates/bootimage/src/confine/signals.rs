//! Ends that are not a return: time, forbidden system calls, panics. Each leaves one JSON line on
//! standard output, as every other error does.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::check;
use crate::error::Error;

static SECONDS: AtomicU64 = AtomicU64::new(0);

/// Installs the handlers and the panic hook.
pub(super) fn report(time: Duration) -> Result<(), Error> {
    SECONDS.store(time.as_secs(), Ordering::Relaxed);
    for (signal, handler) in [
        (libc::SIGALRM, out_of_time as *const () as usize),
        (libc::SIGXCPU, out_of_time as *const () as usize),
        (libc::SIGSYS, forbidden as *const () as usize),
        // A file that grows too large is an error of write(2) then.
        (libc::SIGXFSZ, libc::SIG_IGN),
    ] {
        // SAFETY: all zeroes is an action with an empty mask and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the action lives in this frame, and the handlers only do what is safe in one.
        let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
        check("sigaction", result.into())?;
    }
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
        let line = serde_json::json!({
            "code": "ImageBootFailed.Corrupt",
            "message": format!(
                "the reader met something on the disk it did not expect, at {}; check the image's \
                 filesystem with fsck and report this place",
                at.unwrap_or_default()
            ),
        });
        let _ = writeln!(std::io::stdout(), "{line}");
        std::process::exit(1);
    }));
    Ok(())
}

/// Sets the alarm.
pub(super) fn alarm(time: Duration) {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    // SAFETY: a plain number; the handler is installed.
    unsafe { libc::alarm(seconds) };
}

extern "C" fn out_of_time(_: libc::c_int, _: *const libc::siginfo_t, _: *const libc::c_void) {
    end(
        b"{\"code\":\"ImageBootFailed.Timeout\",\"message\":\"looking for the kernel took longer than ",
        SECONDS.load(Ordering::Relaxed),
        b" s; the image's filesystem may be damaged, check it with fsck\"}\n",
    )
}

extern "C" fn forbidden(_: libc::c_int, info: *const libc::siginfo_t, _: *const libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t; in that of SIGSYS the number of the call is an int
    // after three ints, their padding and a pointer.
    let call = unsafe { info.cast::<u8>().add(24).cast::<u32>().read_unaligned() };
    end(
        b"{\"code\":\"ImageBootFailed.Confinement\",\"message\":\"the reader was stopped when it tried system call ",
        call.into(),
        b", which it may not use; check the image's filesystem with fsck and report this number\"}\n",
    )
}

/// Writes a line and ends the process, with nothing but calls that are safe in a signal handler.
fn end(before: &[u8], number: u64, after: &[u8]) -> ! {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    while at > 0 {
        at -= 1;
        if let (Some(digit), Ok(value)) = (digits.get_mut(at), u8::try_from(rest % 10)) {
            *digit = b'0' + value;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for part in [before, digits.get(at..).unwrap_or_default(), after] {
        // SAFETY: the bytes live through the call.
        unsafe { libc::write(1, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: never returns.
    unsafe { libc::_exit(1) }
}
