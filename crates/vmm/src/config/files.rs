//! Files a description names: inherited descriptors, or paths opened before the jail closes.

use api::vmm::{Disk, FileRef, Nic, VmConfig, file_ref::Source};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io,
    os::fd::{FromRawFd as _, RawFd},
};

/// The first descriptor above standard input, output and error.
const LOWEST: RawFd = 3;

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

/// Closes the descriptors that a machine's description names, once there are copies of all of them:
/// whoever else opens a file that the guest has let go of, to lock it, must not find it held by one.
pub fn close_given(config: &VmConfig) {
    let of_disk = |disk: &Disk| -> Vec<FileRef> {
        let layers = disk.layers.iter().filter_map(|layer| layer.file.clone());
        layers.chain(disk.key.clone()).collect()
    };
    let files = config.disks.iter().flat_map(of_disk);
    let boot = config.boot.iter().flat_map(|boot| [boot.kernel.clone(), boot.initrd.clone()]);
    let numbers = files.chain(boot.flatten()).filter_map(|file| match file.source {
        Some(Source::Fd(fd)) => Some(fd),
        _ => None,
    });
    let of_nic = |nic: &Nic| [nic.tap_fds.clone(), nic.vhost_fds.clone()].concat();
    let given: BTreeSet<RawFd> = numbers
        .chain(config.nics.iter().flat_map(of_nic))
        .chain(config.console.iter().map(|console| console.log_fd))
        .filter(|fd| *fd >= LOWEST)
        .collect();
    for fd in given {
        // SAFETY: nobody in this process owns what was inherited: all that is used is a copy.
        unsafe { libc::close(fd) };
    }
}

/// A descriptor of our own of the open file that `fd` stands for. `fd` itself stays as it is, so
/// naming one twice does no harm here.
///
/// # Errors
/// If `fd` is not open.
pub fn inherited(fd: RawFd) -> io::Result<File> {
    // SAFETY: takes and returns numbers only.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, LOWEST) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::vmm::DiskLayer;
    use std::os::fd::IntoRawFd as _;

    #[test]
    fn a_file_that_was_given_is_held_by_its_copy_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let again = || File::options().read(true).write(true).open(file.path()).unwrap();
        let given = again();
        given.lock().unwrap();
        let given = FileRef { source: Some(Source::Fd(given.into_raw_fd())) };
        let layer = DiskLayer { file: Some(given.clone()), ..Default::default() };
        let disk = Disk { layers: vec![layer], ..Default::default() };
        let config = VmConfig { disks: vec![disk], ..Default::default() };
        let copy = open_file("disks.layers.file", Some(&given)).unwrap();
        close_given(&config);
        again().try_lock().unwrap_err();
        drop(copy);
        again().try_lock().unwrap();
    }
}
