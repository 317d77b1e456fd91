//! HTTP on a listener of one VPC.

use crate::{
    Directory,
    answer::{Answer, answer, refusal},
};
use hyper::{
    Request, StatusCode, body::Incoming, header::CONTENT_LENGTH, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

const CONNECTIONS: usize = 1024;
const CONNECTIONS_PER_INSTANCE: usize = 32;
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a request's line and headers together.
const HEADER_BYTES: usize = 16 * 1024;
/// No request has a body that anyone reads.
const BODY_BYTES: u64 = 1024;
/// After an error of accept, such as too many open files.
const PAUSE_ON_ERROR: Duration = Duration::from_millis(100);

/// The metadata service. Cheap to clone; serves any number of VPCs.
#[derive(Clone)]
pub struct Service {
    key: Arc<[u8; 32]>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

type OpenConnections = Arc<Mutex<HashMap<Ipv4Addr, usize>>>;

/// Counts one connection of an instance for as long as it lives.
struct Seat {
    open: OpenConnections,
    peer: Ipv4Addr,
}

impl Seat {
    fn take(open: &OpenConnections, peer: Ipv4Addr) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= CONNECTIONS_PER_INSTANCE {
            return None;
        }
        *count += 1;
        Some(Self { open: Arc::clone(open), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

impl Service {
    /// `key` signs session tokens. Keep it, so that tokens stay valid over restarts.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key: Arc::new(key) }
    }

    /// Answers one VPC's instances until the returned future is dropped, which ends its
    /// connections too.
    pub async fn serve(&self, listener: TcpListener, directory: Arc<dyn Directory>) {
        let mut connections = JoinSet::new();
        let open = OpenConnections::default();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            let (stream, peer) = match listener.accept().await {
                Ok((stream, from)) => match from.ip() {
                    IpAddr::V4(peer) => (stream, peer),
                    IpAddr::V6(_) => continue,
                },
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a metadata connection");
                    sleep(PAUSE_ON_ERROR).await;
                    continue;
                }
            };
            // One instance must not keep the others out.
            let Some(seat) = Seat::take(&open, peer) else { continue };
            let connection = converse(stream, peer, Arc::clone(&self.key), Arc::clone(&directory));
            connections.spawn(async move {
                let _seat = seat;
                // Whether it ended by itself or by time makes no difference.
                let _ = timeout(CONNECTION_LIFETIME, connection).await;
            });
        }
    }
}

async fn converse(
    stream: TcpStream,
    peer: Ipv4Addr,
    key: Arc<[u8; 32]>,
    directory: Arc<dyn Directory>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = respond(&request, peer, &key, &*directory);
        async move { Ok::<_, Infallible>(answer) }
    });
    let outcome = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        // A client that shuts its side after the request, as `nc` does, is still owed the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = outcome {
        tracing::debug!(%peer, error = %e, "metadata connection");
    }
}

fn respond(
    request: &Request<Incoming>,
    peer: Ipv4Addr,
    key: &[u8; 32],
    directory: &dyn Directory,
) -> Answer {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if length > BODY_BYTES {
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "No request needs a body.");
    }
    match directory.instance_by_ip(peer) {
        Some(instance) => {
            answer(&instance, key, request.method(), request.uri().path(), request.headers())
        }
        None => refusal(StatusCode::NOT_FOUND, "No instance of this VPC has your address."),
    }
}
