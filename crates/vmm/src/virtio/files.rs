//! Descriptors a machine description names by number.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, RawFd},
};

/// A descriptor of our own of the open file that `fd` stands for. `fd` itself stays as it is, so
/// naming one twice does no harm here.
///
/// # Errors
/// If `fd` is not open.
pub fn inherited(fd: RawFd) -> io::Result<File> {
    /// Above standard input, output and error.
    const LOWEST: libc::c_int = 3;
    // SAFETY: takes and returns numbers only.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, LOWEST) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(copy) })
}
