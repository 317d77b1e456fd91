//! The keys of encrypted disks. A disk has one data key, which all of its encrypted layers have as
//! passphrase, and so have the snapshots and disks that layers are shared with. The account keeps it
//! wrapped; it is unwrapped for as long as somebody opens the files.

use crate::error::{Error, Result};
use api::host::DiskEncryption;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms::{KeyManagement, WrappedKey};
use qcow2::Passphrase;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use std::{fs::File, io, sync::Arc};

/// A wrapped data key as the account of layers keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptKey {
    /// The master key that wraps it.
    pub kms_key_id: String,
    /// The wrapped key in base64.
    pub wrapped: String,
}

impl From<&DiskEncryption> for KeptKey {
    fn from(encryption: &DiskEncryption) -> Self {
        let wrapped = STANDARD.encode(&encryption.wrapped_key);
        Self { kms_key_id: encryption.kms_key_id.clone(), wrapped }
    }
}

/// Unwraps the data keys of this host's disks.
#[derive(Debug, Clone)]
pub struct Keys(Arc<dyn KeyManagement>);

impl Keys {
    /// With a key management service.
    pub fn new(service: Arc<dyn KeyManagement>) -> Self {
        Self(service)
    }

    /// What opens the encrypted layers of a disk or snapshot; none if it has none.
    ///
    /// # Errors
    /// `KmsKeyUnavailable`, with the disk or snapshot and the master key.
    pub fn passphrase(
        &self,
        resource_id: &str,
        key: Option<&KeptKey>,
    ) -> Result<Option<Passphrase>> {
        let Some(key) = key else { return Ok(None) };
        let failed = |why: String| {
            let message = format!("its data key cannot be unwrapped: {why}");
            Error::resource(resource_id, "KmsKeyUnavailable", message)
        };
        let wrapped = STANDARD.decode(&key.wrapped).map_err(|e| failed(e.to_string()))?;
        let wrapped = WrappedKey { key_id: key.kms_key_id.clone(), wrapped };
        let data_key = self.0.unwrap_data_key(&wrapped).map_err(|e| failed(e.to_string()))?;
        Ok(Some(Passphrase::new(data_key.passphrase().to_vec())))
    }
}

/// A pipe that holds the key, and gives it away once.
///
/// # Errors
/// The host's.
pub fn in_pipe(key: &Passphrase) -> io::Result<File> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    key.write_to(&mut File::from(write))?;
    Ok(read.into())
}

/// Of hosts that have no master keys.
#[cfg(test)]
pub(crate) fn none() -> Keys {
    Keys::new(Arc::new(kms::KeyFolder::new("/nonexistent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gives_the_key_once() {
        let key = Passphrase::new(b"k".repeat(64));
        let pipe = in_pipe(&key).unwrap();
        assert!(Passphrase::read(&pipe).unwrap() == key);
        Passphrase::read(&pipe).unwrap_err();
    }
}
