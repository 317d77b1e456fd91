//! Calls to the agent of a host.

use crate::ecs_error::refuse;
use api::host::host_access_client::HostAccessClient;
use std::{future::Future, time::Duration};
use store::{HostRecord, Refusal};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Time an agent has for the answer to a call.
const ANSWER_IN: Duration = Duration::from_secs(30);
/// A connection on which nothing comes for this long, not even an acknowledgement, is given up.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);

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
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(ALIVE_WITHIN)
            .keep_alive_timeout(ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        let value = format!("Bearer {}", self.join_token).parse().map_err(|_| {
            refuse(500, "InternalError", "the join token cannot be sent; make it plain ASCII")
        })?;
        Ok(HostAccessClient::with_interceptor(endpoint.connect_lazy(), Bearer(value)))
    }
}

/// Waits for an agent's answer to a call, but not for ever.
pub(crate) async fn ask<T>(
    host_id: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Refusal> {
    ask_within(ANSWER_IN, host_id, call).await
}

async fn ask_within<T>(
    limit: Duration,
    host_id: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(agent_error(host_id, &status)),
        Err(_) => Err(refuse(
            503,
            "HostUnavailable",
            format!(
                "host {host_id} did not answer within {} s; look at its agent",
                limit.as_secs()
            ),
        )),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_not_waited_for() {
        let never = std::future::pending::<Result<Response<()>, Status>>();
        let refusal = ask_within(Duration::from_millis(20), "h-1", never).await.unwrap_err();
        assert_eq!(refusal.code, "HostUnavailable");
        assert!(refusal.message.contains("host h-1 did not answer"), "{refusal}");
    }
}
