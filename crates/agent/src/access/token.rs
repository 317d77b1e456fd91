//! Who may call `HostAccess`: whoever knows the join token.

use sha2::{Digest as _, Sha256};
use std::fmt;
use tonic::{Code, Request, Status, service::Interceptor};

/// Refuses calls without the token.
#[derive(Clone)]
pub struct CheckToken {
    digest: [u8; 32],
}

impl fmt::Debug for CheckToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckToken").finish_non_exhaustive()
    }
}

impl CheckToken {
    /// From the token's text.
    pub fn new(token: &str) -> Self {
        Self { digest: digest(token) }
    }

    fn accepts(&self, header: Option<&str>) -> bool {
        let token = header.and_then(|h| h.strip_prefix("Bearer ")).unwrap_or_default();
        // Of digests, so that the time it takes says nothing of the token.
        digest(token) == self.digest
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Interceptor for CheckToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        if self.accepts(header) {
            return Ok(request);
        }
        Err(super::error(
            Code::Unauthenticated,
            "InvalidJoinToken",
            "the call lacks this host's join token; give controller and agents the same \
             --join-token-file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_accepted() {
        let check = CheckToken::new("secret");
        assert!(check.accepts(Some("Bearer secret")));
        for wrong in [None, Some("secret"), Some("Bearer "), Some("Bearer secret2"), Some("")] {
            assert!(!check.accepts(wrong), "{wrong:?}");
        }
    }
}
