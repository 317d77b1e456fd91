//! Imports that run in this process. An image that is Creating without one was left behind.

use crate::ecs_error::{from_store, refuse};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{ClientToken, Refusal, StoreError};

/// Every import that runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Imports(Arc<Mutex<Vec<Running>>>);

#[derive(Debug)]
struct Running {
    image_id: String,
    token: Option<ClientToken>,
}

/// One import that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Import {
    all: Imports,
    image_id: String,
}

impl Imports {
    /// Begins an import, unless one with the same client token runs.
    pub fn begin(&self, image_id: &str, token: Option<&ClientToken>) -> Result<Import, Refusal> {
        let mut running = self.running();
        if let Some(token) = token
            && let Some(other) = running
                .iter()
                .find_map(|import| import.token.as_ref().filter(|other| other.token == token.token))
        {
            if other.request_hash != token.request_hash {
                return Err(from_store(StoreError::TokenMismatch {
                    action: token.action.clone(),
                    token: token.token.clone(),
                }));
            }
            return Err(refuse(
                400,
                "Idempotence.Processing",
                format!(
                    "the import with client token {} still runs; ask again when it has ended",
                    token.token
                ),
            ));
        }
        running.push(Running { image_id: image_id.to_owned(), token: token.cloned() });
        Ok(Import { all: self.clone(), image_id: image_id.to_owned() })
    }

    /// Whether the import of this image runs.
    pub fn is_running(&self, image_id: &str) -> bool {
        self.running().iter().any(|import| import.image_id == image_id)
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.all.running().retain(|import| import.image_id != self.image_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(hash: u8) -> ClientToken {
        ClientToken {
            action: "ImportImage".to_owned(),
            token: "t".to_owned(),
            request_hash: vec![hash],
            now_ms: 0,
        }
    }

    #[test]
    fn a_token_is_used_by_one_import_at_a_time() {
        let imports = Imports::default();
        let first = imports.begin("m-1", Some(&token(1))).unwrap();
        let again = imports.begin("m-2", Some(&token(1))).unwrap_err();
        assert_eq!(again.code, "Idempotence.Processing");
        let other = imports.begin("m-3", Some(&token(2))).unwrap_err();
        assert_eq!(other.code, "IdempotentParameterMismatch");
        let _without = imports.begin("m-4", None).unwrap();
        assert!(imports.is_running("m-1") && !imports.is_running("m-2"));
        drop(first);
        assert!(!imports.is_running("m-1"));
        imports.begin("m-2", Some(&token(1))).unwrap();
    }
}
