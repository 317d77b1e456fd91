//! Calls to the agent of a host.

use crate::ecs_error::refuse;
use api::host::host_access_client::HostAccessClient;
use std::time::Duration;
use store::{HostRecord, Refusal};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Opens connections to agents.
#[derive(Debug, Clone)]
pub(crate) struct HostAccess {
    join_token: String,
}

/// Puts the join token on every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub(crate) type AccessClient = HostAccessClient<InterceptedService<Channel, Bearer>>;

impl HostAccess {
    pub fn new(join_token: String) -> Self {
        Self { join_token }
    }

    /// A client of the host's agent. It connects when it is first used.
    pub fn client(&self, host: &HostRecord) -> Result<AccessClient, Refusal> {
        if host.lost {
            return Err(refuse(
                503,
                "HostUnavailable",
                format!("host {} has lost its lease; bring its agent back", host.host_id),
            ));
        }
        let endpoint = Endpoint::from_shared(host.access_endpoint.clone())
            .map_err(|error| {
                refuse(
                    503,
                    "HostUnavailable",
                    format!(
                        "host {} gave {:?} as its access endpoint: {error}; correct it there",
                        host.host_id, host.access_endpoint
                    ),
                )
            })?
            .connect_timeout(Duration::from_secs(5));
        let value = format!("Bearer {}", self.join_token).parse().map_err(|_| {
            refuse(500, "InternalError", "the join token cannot be sent; make it plain ASCII")
        })?;
        Ok(HostAccessClient::with_interceptor(endpoint.connect_lazy(), Bearer(value)))
    }
}

/// What a caller of the API is told when an agent's answer is an error.
pub(crate) fn agent_error(host_id: &str, status: &Status) -> Refusal {
    let code = match status.code() {
        tonic::Code::NotFound => 404,
        tonic::Code::FailedPrecondition => 403,
        tonic::Code::InvalidArgument => 400,
        tonic::Code::Unimplemented => 501,
        tonic::Code::Unavailable => 503,
        _ => 500,
    };
    let ecs_code = api::error::ecs_code(status).unwrap_or_else(|| match code {
        404 => "InvalidInstanceId.NotFound".to_owned(),
        503 => "HostUnavailable".to_owned(),
        501 => "UnsupportedOperation".to_owned(),
        _ => "HostError".to_owned(),
    });
    Refusal {
        status: code,
        code: ecs_code.into(),
        message: format!("host {host_id}: {}", status.message()),
    }
}
