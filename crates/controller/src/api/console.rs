//! The serial console and TCP tunnels: passed on to the agent of the instance's host.

use super::Api;
use crate::{
    ecs_error::{invalid, to_status},
    hosts::{agent_error, ask},
    ids,
};
use api::{
    host::{ConsoleInput, TunnelData},
    v1::{AttachConsoleRequest, AttachConsoleResponse, TunnelRequest, TunnelResponse},
};
use futures::{StreamExt as _, future, stream, stream::BoxStream};
use store::Refusal;
use tonic::{Response, Status, Streaming};

fn fail(refusal: &Refusal) -> Status {
    to_status(refusal, &ids::request())
}

fn first<T>(message: Option<T>) -> Result<T, Status> {
    message.ok_or_else(|| fail(&invalid("the stream ended before its first message")))
}

impl Api {
    pub(super) async fn console(
        &self,
        mut input: Streaming<AttachConsoleRequest>,
    ) -> Result<Response<BoxStream<'static, Result<AttachConsoleResponse, Status>>>, Status> {
        let opening = first(input.message().await?)?;
        let (_, host) =
            self.find_instance(&opening.instance_id).await.map_err(|refusal| fail(&refusal))?;
        let mut client = self.cloud.access.client(&host).map_err(|refusal| fail(&refusal))?;
        let rest = input
            .take_while(|message| future::ready(message.is_ok()))
            .filter_map(|message| future::ready(message.ok()));
        let outgoing = stream::once(async { opening })
            .chain(rest)
            .map(|message| ConsoleInput { instance_id: message.instance_id, data: message.data });
        let host_id = host.host_id;
        let output = ask(&host_id, client.attach_console(outgoing))
            .await
            .map_err(|refusal| fail(&refusal))?;
        let answers = output.map(move |message| {
            message
                .map(|output| AttachConsoleResponse { data: output.data })
                .map_err(|status| fail(&agent_error(&host_id, &status)))
        });
        Ok(Response::new(answers.boxed()))
    }

    pub(super) async fn tunnel_to(
        &self,
        mut input: Streaming<TunnelRequest>,
    ) -> Result<Response<BoxStream<'static, Result<TunnelResponse, Status>>>, Status> {
        let opening = first(input.message().await?)?;
        let (_, host) =
            self.find_instance(&opening.instance_id).await.map_err(|refusal| fail(&refusal))?;
        if !(1..=65_535).contains(&opening.port) {
            return Err(fail(&invalid(format!("port is {}; it must be 1 to 65535", opening.port))));
        }
        let mut client = self.cloud.access.client(&host).map_err(|refusal| fail(&refusal))?;
        let rest = input
            .take_while(|message| future::ready(message.is_ok()))
            .filter_map(|message| future::ready(message.ok()));
        let outgoing = stream::once(async { opening }).chain(rest).map(|message| TunnelData {
            instance_id: message.instance_id,
            private_ip: message.private_ip_address,
            port: message.port,
            data: message.data,
        });
        let host_id = host.host_id;
        let output =
            ask(&host_id, client.tunnel(outgoing)).await.map_err(|refusal| fail(&refusal))?;
        let answers = output.map(move |message| {
            message
                .map(|output| TunnelResponse { data: output.data })
                .map_err(|status| fail(&agent_error(&host_id, &status)))
        });
        Ok(Response::new(answers.boxed()))
    }
}
