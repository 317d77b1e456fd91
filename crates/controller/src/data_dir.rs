//! The data directory, which one controller at a time uses.

use crate::server::ServeError;
use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A data directory that is this process's alone for as long as this lives.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    _lock: Arc<File>,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// [`ServeError::DataDirInUse`] while another process has it; [`ServeError::DataDir`] if it
    /// cannot be used.
    pub fn lock(path: &Path) -> Result<Self, ServeError> {
        let failed = |source: io::Error| ServeError::DataDir { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        // User data is in there: nobody else's business.
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // For people only; whoever holds the lock may not have written it yet.
                let mut process = String::new();
                let _ = file.read_to_string(&mut process);
                return Err(ServeError::DataDirInUse {
                    path: path.to_owned(),
                    process: process.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: Arc::new(file) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let held = DataDir::lock(&path).unwrap();
        let refused = DataDir::lock(&path).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(refused.contains(&process) && refused.contains("data"), "{refused}");
        drop(held);
        DataDir::lock(&path).unwrap();
    }
}
