//! Files a description names: inherited descriptors, or paths opened before the jail closes.

use api::vmm::{FileRef, file_ref::Source};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
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
/// A descriptor is duplicated, so that the description may name it more than once.
///
/// # Errors
/// [`FileError`] with the field's name.
pub fn open_file(field: &str, file: Option<&FileRef>) -> Result<File, FileError> {
    let source = file.and_then(|file| file.source.as_ref());
    let (name, opened) = match source {
        Some(Source::Path(path)) => (path.clone(), OpenOptions::new().read(true).open(path)),
        Some(Source::Fd(fd)) => (format!("descriptor {fd}"), duplicate(*fd).map(File::from)),
        None => ("nothing".to_owned(), Err(io::ErrorKind::NotFound.into())),
    };
    opened.map_err(|source| FileError { field: field.to_owned(), name, source })
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and touches no memory.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}
