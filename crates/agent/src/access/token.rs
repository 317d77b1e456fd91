//! Who may call `HostAccess`: whoever knows the join token.

use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Status, service::Interceptor};

/// Refuses calls without the token. Where the host has none, every call is accepted.
#[derive(Debug, Clone)]
pub struct CheckToken {
    digest: Option<[u8; 32]>,
}

impl CheckToken {
    /// From the token's text; empty: none.
    pub fn new(token: &str) -> Self {
        Self { digest: (!token.is_empty()).then(|| digest(token)) }
    }

    fn accepts(&self, header: Option<&str>) -> bool {
        let Some(expected) = self.digest else { return true };
        let token = header.and_then(|h| h.strip_prefix("Bearer ")).unwrap_or_default();
        // Of digests, so that the time it takes says nothing of the token.
        digest(token) == expected
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
        assert!(CheckToken::new("").accepts(None));
    }
}
