//! The agent's side of `HostRegistry`: registration, lease, spec, reports. While the controller is
//! away the agent goes on with the last spec, which it keeps on disk.

mod report;
mod session;
pub mod spec_cache;

pub use session::{Identity, run};

use crate::error::{Error, Result};
use api::host::host_registry_client::HostRegistryClient;
use std::time::Duration;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A spec of a full host is larger than gRPC's default of 4 MiB.
pub const MESSAGE_LIMIT: usize = 256 << 20;

/// Client of the controller; connects when needed, again and again.
pub type RegistryClient = HostRegistryClient<InterceptedService<Channel, JoinToken>>;

/// Puts the join token on every call.
#[derive(Debug, Clone)]
pub struct JoinToken {
    bearer: MetadataValue<Ascii>,
}

impl JoinToken {
    /// From the token's text.
    ///
    /// # Errors
    /// When the text cannot be a header.
    pub fn new(token: &str) -> Result<Self> {
        let bearer = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut bearer = bearer.map_err(|_| {
            Error::Configuration("the join token must be printable ASCII characters".into())
        })?;
        // Not to be seen in logs.
        bearer.set_sensitive(true);
        Ok(Self { bearer })
    }
}

impl Interceptor for JoinToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.bearer.clone());
        Ok(request)
    }
}

/// A client of the controller at `endpoint`. Does not connect yet.
///
/// # Errors
/// When `endpoint` is not a URL.
pub fn client(endpoint: &str, token: JoinToken) -> Result<RegistryClient> {
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|source| Error::Unreachable { endpoint: endpoint.to_owned(), source })?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy();
    Ok(HostRegistryClient::with_interceptor(channel, token)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_not_shown() {
        let token = JoinToken::new("a-secret").unwrap();
        assert!(!format!("{token:?}").contains("a-secret"));
    }
}
