//! Which disks are encrypted, and with which keys.
//!
//! A disk that is made encrypted gets a data key of its own. One that begins with the content of an
//! encrypted snapshot or image has the data key of that, since its layers lie on those, whatever the
//! request says.

use crate::ecs_error::refuse;
use kms::{KeyManagement, KmsError};
use store::{DataKeyRecord, DiskRecord, Refusal};

/// What a request says about a disk.
pub(crate) fn check(encrypted: bool, kms_key_id: &str) -> Result<(), Refusal> {
    if encrypted || kms_key_id.is_empty() {
        return Ok(());
    }
    Err(refuse(
        400,
        "InvalidParameter.EncryptedIllegal",
        format!("kms_key_id is {kms_key_id}, so encrypted must be true"),
    ))
}

/// A new data key, if the request wants one.
pub(crate) fn new_key(
    kms: &dyn KeyManagement,
    encrypted: bool,
    kms_key_id: &str,
) -> Result<Option<DataKeyRecord>, Refusal> {
    check(encrypted, kms_key_id)?;
    if !encrypted {
        return Ok(None);
    }
    let made = kms.generate_data_key(kms_key_id).map_err(|e| refused(&e))?;
    Ok(Some(DataKeyRecord { kms_key_id: made.key_id, wrapped: made.wrapped }))
}

/// The disk is to begin with the content of `source`, which has this key.
pub(crate) fn begin_with(
    disk: &mut DiskRecord,
    kms_key_id: &str,
    key: Option<&DataKeyRecord>,
    source: &str,
) -> Result<(), Refusal> {
    let Some(key) = key else { return Ok(()) };
    if !kms_key_id.is_empty() && kms_key_id != key.kms_key_id {
        return Err(refuse(
            400,
            "EncryptedOption.Conflict",
            format!(
                "{source} is encrypted with KMS key {}, and so is what is made from it; leave \
                 kms_key_id out",
                key.kms_key_id
            ),
        ));
    }
    disk.data_key = Some(key.clone());
    Ok(())
}

fn refused(error: &KmsError) -> Refusal {
    let (status, code) = match error {
        KmsError::NoStore { .. } => (400, "InvalidParameter.EncryptedNotSupported"),
        KmsError::NotFound { .. } => (404, "InvalidParameter.KMSKeyId.NotFound"),
        KmsError::Disabled { .. } => (403, "InvalidParameter.KMSKeyId.CMKNotEnabled"),
        KmsError::Unusable { .. } | KmsError::NotItsKey { .. } => {
            (403, "InvalidParameter.KMSKeyId.KMSUnauthorized")
        }
        _ => (500, "InternalError"),
    };
    refuse(status, code, error.to_string())
}
