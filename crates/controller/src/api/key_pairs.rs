//! SSH key pairs.

use super::{Api, paging, service};
use crate::{
    ecs_error::{from_store, missing, refuse},
    ids, timestamp,
    timestamp::now_ms,
};
use api::v1::{key_pair_service_server::KeyPairService, *};
use md5::{Digest as _, Md5};
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey, rand_core::OsRng};
use store::{KeyPairFilter, KeyPairRecord, Refusal, StoreError};

/// Bytes of a public key and its comment; the largest RSA key has less than 3 KiB.
const MOST_KEY_BYTES: usize = 16 << 10;

service!(KeyPairService => Api {
    create_key_pair: CreateKeyPairRequest => CreateKeyPairResponse;
    import_key_pair: ImportKeyPairRequest => ImportKeyPairResponse;
    describe_key_pairs: DescribeKeyPairsRequest => DescribeKeyPairsResponse;
    delete_key_pairs: DeleteKeyPairsRequest => DeleteKeyPairsResponse;
});

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(missing("key_pair_name"));
    }
    crate::validation::display_name("InvalidKeyPairName.Malformed", "key pair name", name)
}

/// MD5 of the key as RFC 4716 writes it; `ssh-keygen -l -E md5` shows the same.
fn fingerprint(key: &PublicKey) -> Result<String, ssh_key::Error> {
    let bytes: Vec<String> =
        Md5::digest(key.to_bytes()?).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(bytes.join(":"))
}

impl Api {
    async fn create_key_pair(
        &self,
        request: CreateKeyPairRequest,
    ) -> Result<CreateKeyPairResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        check_name(&request.key_pair_name)?;
        let failed = |error: ssh_key::Error| {
            refuse(500, "InternalError", format!("the key pair could not be made: {error}"))
        };
        let mut private = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
        private.set_comment(&request.key_pair_name);
        let record = self.keep(&request.key_pair_name, private.public_key()).await?;
        Ok(CreateKeyPairResponse {
            request_id: String::new(),
            key_pair_id: record.key_pair_id,
            key_pair_name: record.name,
            key_pair_finger_print: record.fingerprint,
            private_key_body: private.to_openssh(LineEnding::LF).map_err(failed)?.to_string(),
        })
    }

    async fn import_key_pair(
        &self,
        request: ImportKeyPairRequest,
    ) -> Result<ImportKeyPairResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        check_name(&request.key_pair_name)?;
        let body = request.public_key_body.trim();
        if body.is_empty() {
            return Err(missing("public_key_body"));
        }
        if body.len() > MOST_KEY_BYTES {
            return Err(refuse(
                400,
                "InvalidPublicKeyBody.Malformed",
                format!("public_key_body has {} bytes; give at most {MOST_KEY_BYTES}", body.len()),
            ));
        }
        let malformed = |hint: String| refuse(400, "InvalidPublicKeyBody.Malformed", hint);
        let key = PublicKey::from_openssh(body).map_err(|error| {
            malformed(format!(
                "public_key_body is not one line of an OpenSSH public key ({error}); give the \
                 content of a .pub file"
            ))
        })?;
        if body.contains(['\n', '\r']) {
            return Err(malformed("public_key_body has several lines; give one key".to_owned()));
        }
        let record = self.keep(&request.key_pair_name, &key).await?;
        Ok(ImportKeyPairResponse {
            request_id: String::new(),
            key_pair_name: record.name,
            key_pair_finger_print: record.fingerprint,
        })
    }

    async fn keep(&self, name: &str, key: &PublicKey) -> Result<KeyPairRecord, Refusal> {
        let failed = |error: ssh_key::Error| {
            refuse(500, "InternalError", format!("public key {name}: {error}"))
        };
        let public_key = key.to_openssh().map_err(failed)?;
        let record = KeyPairRecord {
            key_pair_id: ids::key_pair(),
            name: name.to_owned(),
            fingerprint: fingerprint(key).map_err(failed)?,
            public_key,
            created_ms: now_ms(),
        };
        match self.cloud.store.create_key_pair(record.clone()).await {
            Ok(()) => Ok(record),
            Err(StoreError::AlreadyExists { what }) => Err(refuse(
                400,
                "KeyPair.AlreadyExist",
                format!("{what} already exists; choose another name or delete it first"),
            )),
            Err(error) => Err(from_store(error)),
        }
    }

    async fn describe_key_pairs(
        &self,
        request: DescribeKeyPairsRequest,
    ) -> Result<DescribeKeyPairsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let filter = KeyPairFilter {
            name: request.key_pair_name,
            fingerprint: request.key_pair_finger_print,
        };
        let listed = self.cloud.store.key_pairs(filter, page).await.map_err(from_store)?;
        Ok(DescribeKeyPairsResponse {
            request_id: String::new(),
            key_pairs: listed
                .items
                .into_iter()
                .map(|pair| KeyPair {
                    key_pair_id: pair.key_pair_id,
                    key_pair_name: pair.name,
                    key_pair_finger_print: pair.fingerprint,
                    creation_time: timestamp::minute(pair.created_ms),
                    public_key: pair.public_key,
                })
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn delete_key_pairs(
        &self,
        request: DeleteKeyPairsRequest,
    ) -> Result<DeleteKeyPairsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.key_pair_names.is_empty() {
            return Err(missing("key_pair_names"));
        }
        if request.key_pair_names.len() > 100 {
            return Err(refuse(
                400,
                "InvalidKeyPairNames.ValueNotSupported",
                "at most 100 key pairs can be deleted in one call",
            ));
        }
        self.cloud.store.delete_key_pairs(request.key_pair_names).await.map_err(from_store)?;
        Ok(DeleteKeyPairsResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_md5_that_ssh_keygen_shows() {
        let key = PublicKey::from_openssh(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKiRSUMYKNB6Yu4d2pCAW0CHzh9noFEY+eTMA7A0oN52 test",
        )
        .unwrap();
        assert_eq!(fingerprint(&key).unwrap(), "3e:6e:a5:2e:0e:e8:fc:a4:08:1f:69:db:7a:85:63:17");
    }
}
