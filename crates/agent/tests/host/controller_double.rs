//! The controller's side of `HostRegistry`, in the hands of a test.

use api::host::{
    HeartbeatRequest, HeartbeatResponse, HostEvent, HostSpec, HostStatus, ReadImageChunk,
    ReadImageRequest, RegisterHostRequest, RegisterHostResponse, ReportStatusResponse,
    WatchHostSpecRequest,
    host_registry_server::{HostRegistry, HostRegistryServer},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{Request, Response, Status, transport::Server};

pub const TOKEN: &str = "a-token";

#[derive(Debug, Default)]
pub struct Seen {
    pub registrations: Vec<RegisterHostRequest>,
    pub status: HostStatus,
    pub events: Vec<HostEvent>,
    pub image_offsets: Vec<u64>,
}

#[derive(Debug)]
pub struct State {
    pub spec: watch::Sender<HostSpec>,
    pub seen: Mutex<Seen>,
    pub images: Mutex<HashMap<String, Vec<u8>>>,
    /// Streams of images break off after so many bytes, once.
    pub break_image_after: Mutex<Option<usize>>,
}

#[derive(Debug)]
pub struct Controller {
    pub state: Arc<State>,
    pub address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Controller {
    pub async fn start() -> Self {
        let state = Arc::new(State {
            spec: watch::Sender::new(HostSpec { revision: 1, ..HostSpec::default() }),
            seen: Mutex::default(),
            images: Mutex::default(),
            break_image_after: Mutex::default(),
        });
        let mut controller =
            Self { state, address: SocketAddr::from(([127, 0, 0, 1], 0)), server: None };
        controller.resume().await;
        controller
    }

    /// Ends all connections and refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let service = HostRegistryServer::new(Service { state: Arc::clone(&self.state) });
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        self.server = Some(tokio::spawn(async { server.await.unwrap() }));
    }

    /// Publishes a new revision.
    pub fn publish(&self, change: impl FnOnce(&mut HostSpec)) -> u64 {
        let mut revision = 0;
        self.state.spec.send_modify(|spec| {
            change(spec);
            spec.revision += 1;
            revision = spec.revision;
        });
        revision
    }
}

#[derive(Debug)]
struct Service {
    state: Arc<State>,
}

fn check<T>(request: Request<T>) -> Result<T, Status> {
    let token = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    if token != Some(&format!("Bearer {TOKEN}")) {
        return Err(Status::unauthenticated("no token"));
    }
    Ok(request.into_inner())
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HostRegistry for Service {
    type WatchHostSpecStream = Boxed<HostSpec>;
    type ReadImageStream = Boxed<ReadImageChunk>;

    async fn register_host(
        &self,
        request: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        let request = check(request)?;
        let mut seen = self.state.seen.lock().unwrap();
        seen.registrations.push(request);
        let session = seen.registrations.len() as u64;
        Ok(Response::new(RegisterHostResponse {
            lease_seconds: 1,
            session,
            region_id: "cn-lab-1".into(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        check(request)?;
        Ok(Response::new(HeartbeatResponse { lease_seconds: 1 }))
    }

    async fn watch_host_spec(
        &self,
        request: Request<WatchHostSpecRequest>,
    ) -> Result<Response<Self::WatchHostSpecStream>, Status> {
        check(request)?;
        let specs = WatchStream::new(self.state.spec.subscribe()).map(Ok);
        Ok(Response::new(Box::pin(specs)))
    }

    async fn report_status(
        &self,
        request: Request<HostStatus>,
    ) -> Result<Response<ReportStatusResponse>, Status> {
        let status = check(request)?;
        let mut seen = self.state.seen.lock().unwrap();
        for event in &status.events {
            if seen.events.last().is_none_or(|last| last.sequence < event.sequence) {
                seen.events.push(event.clone());
            }
        }
        seen.status = status;
        let acknowledged_event = seen.events.last().map_or(0, |e| e.sequence);
        Ok(Response::new(ReportStatusResponse { acknowledged_event }))
    }

    async fn read_image(
        &self,
        request: Request<ReadImageRequest>,
    ) -> Result<Response<Self::ReadImageStream>, Status> {
        let request = check(request)?;
        self.state.seen.lock().unwrap().image_offsets.push(request.offset);
        let images = self.state.images.lock().unwrap();
        let bytes = images.get(&request.image_id).ok_or_else(|| Status::not_found("no image"))?;
        let bytes = bytes[usize::try_from(request.offset).unwrap()..].to_vec();
        let limit = self.state.break_image_after.lock().unwrap().take();
        let mut chunks: Vec<Result<ReadImageChunk, Status>> = bytes[..limit.unwrap_or(bytes.len())]
            .chunks(1000)
            .map(|chunk| Ok(ReadImageChunk { data: chunk.to_vec() }))
            .collect();
        if limit.is_some() {
            chunks.push(Err(Status::unavailable("the controller was killed")));
        }
        let stream = tokio_stream::iter(chunks).throttle(Duration::from_micros(100));
        Ok(Response::new(Box::pin(stream)))
    }
}
