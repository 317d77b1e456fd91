//! Data keys of disks, and the master keys that wrap them.
//!
//! A data key is made for a disk, and known in the clear only to whoever opens the disk, for as long as
//! that takes. What is kept, with the disk's record, is the key wrapped by a master key, which
//! `KMSKeyId` names. [`KeyManagement`] is all that the cloud asks of a key management service;
//! [`KeyFolder`] is one made of files.

mod folder;
mod key;

use std::fmt::Debug;

pub use folder::KeyFolder;
pub use key::{DataKey, MasterKey, WrappedKey};

/// A key management service.
pub trait KeyManagement: Send + Sync + Debug {
    /// A new data key, wrapped by the master key of this id; an empty one stands for the service's own
    /// key. The answer has the id of the key that was used.
    ///
    /// # Errors
    /// [`KmsError`].
    fn generate_data_key(&self, key_id: &str) -> Result<WrappedKey, KmsError>;

    /// The data key.
    ///
    /// # Errors
    /// [`KmsError`].
    fn unwrap_data_key(&self, wrapped: &WrappedKey) -> Result<DataKey, KmsError>;
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// There is no key store.
    #[error("there is no key store at {place}; make one there, as the README says")]
    NoStore {
        /// Where it would be.
        place: String,
    },
    /// There is no such key.
    #[error("master key {key_id} does not exist in {place}; put its file there")]
    NotFound {
        /// The id.
        key_id: String,
        /// Where it would be.
        place: String,
    },
    /// The key is disabled.
    #[error("master key {key_id} is disabled; rename its file back to enable it")]
    Disabled {
        /// The id.
        key_id: String,
    },
    /// It is there and cannot be used.
    #[error("master key {key_id} cannot be used: {problem}")]
    Unusable {
        /// The id.
        key_id: String,
        /// Why, and what to do.
        problem: String,
    },
    /// What was unwrapped was not wrapped by this key, or was changed since.
    #[error(
        "the data key was not wrapped by master key {key_id} as it is now; put the right one back"
    )]
    NotItsKey {
        /// The id.
        key_id: String,
    },
    /// The host has no random numbers.
    #[error("cannot make a data key: {0}")]
    Random(String),
}
