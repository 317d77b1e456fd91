//! An agent's `HostAccess`, as the controller calls it.

#![allow(dead_code)]

use api::host::{
    ConsoleInput, ConsoleOutput, HostObject, ListHostObjectsRequest, ListHostObjectsResponse,
    ReadConsoleLogRequest, ReadConsoleLogResponse, ReadSnapshotPart, ReadSnapshotRequest,
    TunnelData,
    host_access_server::{HostAccess, HostAccessServer},
};
use futures::{StreamExt as _, stream::BoxStream};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Objects the host has.
pub type Objects = Arc<Mutex<Vec<HostObject>>>;

/// What is sent of a snapshot, part by part, and how long before each; by its id.
pub type Contents = Arc<Mutex<BTreeMap<String, Content>>>;

/// One snapshot's stream.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub parts: Vec<Result<ReadSnapshotPart, Status>>,
    pub pause: Duration,
    /// How often it was asked for.
    pub asked: u32,
}

#[derive(Debug)]
struct Access {
    token: String,
    objects: Objects,
    contents: Contents,
}

impl Access {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match request.metadata().get("authorization") {
            Some(value) if value == self.token.as_str() => Ok(()),
            _ => Err(Status::unauthenticated("no join token")),
        }
    }
}

/// Serves, and answers its endpoint.
pub async fn serve(join_token: &str, objects: Objects) -> String {
    serve_with(join_token, objects, Contents::default()).await
}

/// The same with snapshots to read.
pub async fn serve_with(join_token: &str, objects: Objects, contents: Contents) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let access = Access { token: format!("Bearer {join_token}"), objects, contents };
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        Server::builder().add_service(HostAccessServer::new(access)).serve_with_incoming(incoming),
    );
    endpoint
}

#[tonic::async_trait]
impl HostAccess for Access {
    type AttachConsoleStream = BoxStream<'static, Result<ConsoleOutput, Status>>;

    async fn attach_console(
        &self,
        request: Request<Streaming<ConsoleInput>>,
    ) -> Result<Response<Self::AttachConsoleStream>, Status> {
        self.check(&request)?;
        // Says whom it is attached to, then repeats what is typed.
        let echo = request.into_inner().map(|input| {
            input.map(|input| {
                let mut data = input.instance_id.into_bytes();
                data.extend(input.data);
                ConsoleOutput { data }
            })
        });
        Ok(Response::new(echo.boxed()))
    }

    async fn read_console_log(
        &self,
        request: Request<ReadConsoleLogRequest>,
    ) -> Result<Response<ReadConsoleLogResponse>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        Ok(Response::new(ReadConsoleLogResponse {
            data: format!("\x1b[1m{} of {}\n", request.instance_id, request.max_bytes).into_bytes(),
            last_update_unix_ms: 1_795_431_667_000,
        }))
    }

    type TunnelStream = BoxStream<'static, Result<TunnelData, Status>>;

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelData>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        self.check(&request)?;
        let mut input = request.into_inner();
        let first = input.message().await?.unwrap_or_default();
        if first.port == 23 {
            return Err(Status::failed_precondition("connection refused"));
        }
        Ok(Response::new(input.boxed()))
    }

    type ReadSnapshotStream = BoxStream<'static, Result<ReadSnapshotPart, Status>>;

    async fn read_snapshot(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        self.check(&request)?;
        let id = request.into_inner().snapshot_id;
        let content = {
            let mut contents = self.contents.lock().unwrap();
            let content = contents.entry(id).or_default();
            content.asked += 1;
            content.clone()
        };
        let Content { parts, pause, .. } = content;
        let parts = futures::stream::iter(parts).then(move |part| async move {
            tokio::time::sleep(pause).await;
            part
        });
        Ok(Response::new(parts.boxed()))
    }

    async fn list_host_objects(
        &self,
        request: Request<ListHostObjectsRequest>,
    ) -> Result<Response<ListHostObjectsResponse>, Status> {
        self.check(&request)?;
        let objects = self.objects.lock().unwrap().clone();
        Ok(Response::new(ListHostObjectsResponse { objects }))
    }
}
