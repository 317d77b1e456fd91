//! Files a description names: inherited descriptors, or paths opened before the jail closes.

use api::vmm::{FileRef, file_ref::Source};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{FromRawFd as _, RawFd},
};

/// A file that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{field}: cannot open {name}: {source}")]
pub struct FileError {
    /// Field of the description.
    pub field: String,
    /// Path, or number of the descriptor.
    pub name: String,
    /// Why.
    pub source: io::Error,
}

/// Opens what `file` names, read-only.
///
/// # Errors
/// [`FileError`] with the field's name.
pub fn open_file(field: &str, file: Option<&FileRef>) -> Result<File, FileError> {
    let source = file.and_then(|file| file.source.as_ref());
    let (name, opened) = match source {
        Some(Source::Path(path)) => (path.clone(), OpenOptions::new().read(true).open(path)),
        Some(Source::Fd(fd)) => (format!("descriptor {fd}"), inherited(*fd)),
        None => ("nothing".to_owned(), Err(io::ErrorKind::NotFound.into())),
    };
    opened.map_err(|source| FileError { field: field.to_owned(), name, source })
}

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
