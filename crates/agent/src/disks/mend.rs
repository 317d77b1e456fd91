//! Puts a disk's metadata in order after a crash.

use super::Disks;
use crate::error::{Error, FileContext as _, Result};
use std::{fs::OpenOptions, io};

/// Findings of a check that fit a message.
const FINDINGS: usize = 5;

impl Disks {
    /// Gives back what was allocated in a disk's top for a write that never came. Tells what was
    /// done. The disk must not be in use; one whose file is not there is none of this step's.
    ///
    /// # Errors
    /// `DiskCorrupt` when the metadata contradicts itself, which is left as it is; otherwise what
    /// the file system said.
    pub fn mend(&self, disk_id: &str) -> Result<Option<String>> {
        let path = self.layout.disk(disk_id);
        let corrupt = |found: String| {
            let message = format!(
                "its metadata is damaged ({found}); keep a copy of {} and repair the file with \
                 qemu-img check -r all, or put a good copy in its place, then start the instance",
                path.display()
            );
            Error::resource(disk_id, "DiskCorrupt", message)
        };
        let failed = |e: qcow2::Error| match e {
            qcow2::Error::Io { action, source } => {
                let message = format!("cannot {action} of {}: {source}", path.display());
                Error::resource(disk_id, "DiskCheckFailed", message)
            }
            other => corrupt(other.to_string()),
        };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.at("open", &path)?,
        };
        let report = qcow2::check(&file).map_err(failed)?;
        if report.corruptions > 0 {
            let found = report.messages.iter().take(FINDINGS).cloned().collect::<Vec<_>>();
            let found = format!("{} contradictions: {}", report.corruptions, found.join("; "));
            return Err(corrupt(found));
        }
        if report.leaks == 0 {
            return Ok(None);
        }
        qcow2::repair(&file).map_err(failed)?;
        Ok(Some(format!("disk {disk_id}: {} unused clusters were given back", report.leaks)))
    }
}
