//! `HostAccess`: consoles, tunnels and the list of what is on this host, for the controller.

mod console;
mod objects;
mod snapshot;
mod token;
mod tunnel;

pub use token::CheckToken;

use crate::{controller_link::MESSAGE_LIMIT, error::Result, host::Host, layout::is_safe_id};
use api::host::{
    ConsoleInput, ConsoleOutput, InstanceSpec, ListHostObjectsRequest, ListHostObjectsResponse,
    ReadConsoleLogRequest, ReadConsoleLogResponse, ReadSnapshotPart, ReadSnapshotRequest,
    TunnelData,
    host_access_server::{HostAccess, HostAccessServer},
};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, service::interceptor::InterceptedService};

/// Chunks on the way to a slow reader.
const IN_FLIGHT: usize = 32;
/// The same of a snapshot, of 1 MiB each.
const SNAPSHOT_PIECES: usize = 4;

/// The service.
#[derive(Debug, Clone)]
pub struct Access {
    host: Arc<Host>,
    keyboards: Arc<console::Keyboards>,
    snapshot_reads: Arc<Semaphore>,
}

impl Access {
    /// The service behind a token check.
    pub fn service(
        host: Arc<Host>,
        token: CheckToken,
    ) -> InterceptedService<HostAccessServer<Self>, CheckToken> {
        let snapshot_reads = Arc::new(Semaphore::new(snapshot::AT_ONCE));
        let access = Self { host, keyboards: Arc::default(), snapshot_reads };
        let server = HostAccessServer::new(access).max_encoding_message_size(MESSAGE_LIMIT);
        InterceptedService::new(server, token)
    }

    fn instance(&self, id: &str) -> Result<Arc<InstanceSpec>, Status> {
        let spec = self.host.current_spec();
        let found = spec.iter().flat_map(|s| &s.instances).find(|i| i.instance_id == id);
        found.filter(|_| is_safe_id(id)).cloned().map(Arc::new).ok_or_else(|| not_here(id))
    }

    /// What has been printed may be read for as long as anything of the instance is here.
    fn has_console(&self, id: &str) -> Result<(), Status> {
        match is_safe_id(id) && self.host.knows_instance(id) {
            true => Ok(()),
            false => Err(not_here(id)),
        }
    }
}

fn not_here(id: &str) -> Status {
    let message = format!("instance {id:?} is not on this host");
    error(Code::NotFound, "InvalidInstanceId.NotFound", message)
}

fn error(code: Code, ecs_code: &str, message: impl Into<String>) -> Status {
    api::error::status(code, ecs_code, message, "")
}

async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    stream.message().await?.ok_or_else(|| {
        error(Code::InvalidArgument, "MissingParameter", "the first message is missing")
    })
}

#[tonic::async_trait]
impl HostAccess for Access {
    type AttachConsoleStream = ReceiverStream<Result<ConsoleOutput, Status>>;
    type TunnelStream = ReceiverStream<Result<TunnelData, Status>>;

    async fn attach_console(
        &self,
        request: Request<Streaming<ConsoleInput>>,
    ) -> Result<Response<Self::AttachConsoleStream>, Status> {
        let mut input = request.into_inner();
        let first = first(&mut input).await?;
        self.has_console(&first.instance_id)?;
        let (output, stream) = mpsc::channel(IN_FLIGHT);
        let (host, keyboards) = (Arc::clone(&self.host), Arc::clone(&self.keyboards));
        tokio::spawn(console::attach(host, keyboards, first, input, output));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read_console_log(
        &self,
        request: Request<ReadConsoleLogRequest>,
    ) -> Result<Response<ReadConsoleLogResponse>, Status> {
        let request = request.into_inner();
        self.has_console(&request.instance_id)?;
        let path = self.host.layout.console_log(&request.instance_id);
        let read = move || console::read_log(&path, request.max_bytes);
        let read = tokio::task::spawn_blocking(read).await;
        let (data, last_update_unix_ms) = read
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|e| error(Code::Internal, "InternalError", format!("console log: {e}")))?;
        Ok(Response::new(ReadConsoleLogResponse { data, last_update_unix_ms }))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelData>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let mut input = request.into_inner();
        let first = first(&mut input).await?;
        let instance = self.instance(&first.instance_id)?;
        let connection = tunnel::connect(&self.host, &instance, &first).await?;
        let (output, stream) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(tunnel::carry(connection, first.data, input, output));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ReadSnapshotStream = ReceiverStream<Result<ReadSnapshotPart, Status>>;

    async fn read_snapshot(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        let id = request.into_inner().snapshot_id;
        let permit = Arc::clone(&self.snapshot_reads).try_acquire_owned().map_err(|_| {
            let message = "this host already reads as many snapshots as it does at once; ask again";
            error(Code::Unavailable, "HostBusy", message)
        })?;
        let (output, stream) = mpsc::channel(SNAPSHOT_PIECES);
        let host = Arc::clone(&self.host);
        // Opening reads tables.
        let opened = tokio::task::spawn_blocking(move || {
            snapshot::open(&host, &id).map(|image| (id, image))
        });
        let (id, image) = opened
            .await
            .map_err(|e| error(Code::Internal, "InternalError", e.to_string()))
            .flatten()?;
        tokio::task::spawn_blocking(move || snapshot::send(&id, &image, &output, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_host_objects(
        &self,
        _request: Request<ListHostObjectsRequest>,
    ) -> Result<Response<ListHostObjectsResponse>, Status> {
        let objects = objects::list(&self.host)
            .await
            .map_err(|e| error(Code::Internal, "InternalError", e.to_string()))?;
        Ok(Response::new(ListHostObjectsResponse { objects }))
    }
}
