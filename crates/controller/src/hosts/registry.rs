//! `HostRegistry`, which agents call.

use super::pools;
use crate::{
    cloud::Cloud,
    disk_metrics,
    ecs_error::{from_store, invalid, missing, refuse, to_status},
    host_spec, ids, status_intake,
    timestamp::now_ms,
};
use api::host::{
    HeartbeatRequest, HeartbeatResponse, HostSpec, HostStatus, ReadImageChunk, ReadImageRequest,
    RegisterHostRequest, RegisterHostResponse, ReportStatusResponse, WatchHostSpecRequest,
    host_registry_server::HostRegistry,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use std::net::IpAddr;
use store::{HostRecord, HostRegistration, HostReport, Refusal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    cloud: Cloud,
}

impl Registry {
    pub fn new(cloud: Cloud) -> Self {
        Self { cloud }
    }

    fn lease_until(&self, now: i64) -> i64 {
        now.saturating_add(i64::try_from(self.cloud.options.lease.as_millis()).unwrap_or(i64::MAX))
    }

    fn authorize<T>(&self, request: Request<T>) -> Result<T, Status> {
        let expected = format!("Bearer {}", self.cloud.options.join_token);
        let given = request.metadata().get("authorization").map(|value| value.as_bytes());
        if given.is_some_and(|given| same(given, expected.as_bytes())) {
            return Ok(request.into_inner());
        }
        Err(fail(&refuse(
            401,
            "InvalidJoinToken",
            "the host's join token is not this cloud's; give the agent the controller's \
             join-token file",
        )))
    }

    async fn register(
        &self,
        request: RegisterHostRequest,
    ) -> Result<RegisterHostResponse, Refusal> {
        if request.host_id.is_empty() {
            return Err(missing("host_id"));
        }
        self.cloud.check_zone(&request.zone_id)?;
        let capacity = request.capacity.ok_or_else(|| missing("capacity"))?;
        if capacity.vcpus == 0 || capacity.memory_mib == 0 {
            return Err(invalid(format!(
                "host {} offers {} vCPUs and {} MiB; both must be above 0",
                request.host_id, capacity.vcpus, capacity.memory_mib
            )));
        }
        let underlay: Result<IpAddr, _> = request.underlay_ip.parse();
        if !request.underlay_ip.is_empty() && underlay.is_err() {
            return Err(invalid(format!(
                "underlay_ip {:?} of host {} is not an IP address",
                request.underlay_ip, request.host_id
            )));
        }
        let now = now_ms();
        let limit = f64::from(capacity.vcpus) * self.cloud.options.cpu_overcommit;
        let factor = self.cloud.options.disk_overcommit;
        let pools = pools::registered(&request.host_id, &request.pools, &capacity, factor)?;
        let host = HostRecord {
            host_id: request.host_id,
            hostname: request.hostname,
            zone_id: request.zone_id,
            access_endpoint: request.access_endpoint,
            underlay_ip: request.underlay_ip,
            vcpus: capacity.vcpus,
            vcpu_limit: limit.floor().clamp(1.0, f64::from(u32::MAX)) as u32,
            memory_mib: capacity.memory_mib,
            vcpus_used: 0,
            memory_mib_used: 0,
            kvm: request.kvm,
            version: request.version,
            session: 0,
            lease_until_ms: 0,
            lost: false,
            last_seen_ms: now,
            observed_revision: 0,
            pools,
        };
        let registration =
            HostRegistration { host, now_ms: now, lease_until_ms: self.lease_until(now) };
        let session = self.cloud.store.register_host(registration).await.map_err(from_store)?;
        Ok(RegisterHostResponse {
            lease_seconds: self.cloud.options.lease.as_secs(),
            session,
            region_id: self.cloud.options.region_id.clone(),
        })
    }
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}

fn fail(refusal: &Refusal) -> Status {
    to_status(refusal, &ids::request())
}

#[tonic::async_trait]
impl HostRegistry for Registry {
    async fn register_host(
        &self,
        request: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        let request = self.authorize(request)?;
        let host_id = request.host_id.clone();
        let response = self.register(request).await.map_err(|refusal| fail(&refusal))?;
        tracing::info!(host_id, session = response.session, "host registered");
        Ok(Response::new(response))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = self.authorize(request)?;
        let now = now_ms();
        self.cloud
            .store
            .renew_host_lease(&request.host_id, request.session, now, self.lease_until(now))
            .await
            .map_err(|error| fail(&from_store(error)))?;
        Ok(Response::new(HeartbeatResponse { lease_seconds: self.cloud.options.lease.as_secs() }))
    }

    type WatchHostSpecStream = ReceiverStream<Result<HostSpec, Status>>;

    async fn watch_host_spec(
        &self,
        request: Request<WatchHostSpecRequest>,
    ) -> Result<Response<Self::WatchHostSpecStream>, Status> {
        let request = self.authorize(request)?;
        let specs = host_spec::watch(self.cloud.clone(), request.host_id, request.session);
        Ok(Response::new(ReceiverStream::new(specs)))
    }

    async fn report_status(
        &self,
        request: Request<HostStatus>,
    ) -> Result<Response<ReportStatusResponse>, Status> {
        let status = self.authorize(request)?;
        let now = now_ms();
        let samples = disk_metrics::Samples::of(&status);
        let report = HostReport {
            host_id: status.host_id.clone(),
            session: status.session,
            observed_revision: status.observed_revision,
            events: status_intake::events(&status),
            pools: pools::reported(&status.pools, self.cloud.options.disk_overcommit),
            now_ms: now,
            lease_until_ms: self.lease_until(now),
            decide: Box::new(move |view| Ok(status_intake::plan(view, &status, now))),
        };
        let acknowledged_event = self
            .cloud
            .store
            .report_status(report)
            .await
            .map_err(|error| fail(&from_store(error)))?;
        self.cloud.metrics.take(samples);
        Ok(Response::new(ReportStatusResponse { acknowledged_event }))
    }

    type ReadImageStream = BoxStream<'static, Result<ReadImageChunk, Status>>;

    async fn read_image(
        &self,
        request: Request<ReadImageRequest>,
    ) -> Result<Response<Self::ReadImageStream>, Status> {
        let request = self.authorize(request)?;
        let chunks = self
            .cloud
            .images
            .read(&request.image_id, request.offset)
            .await
            .map_err(|refusal| fail(&refusal))?;
        let stream = chunks.map(|chunk| {
            chunk.map(|data| ReadImageChunk { data }).map_err(|refusal| fail(&refusal))
        });
        Ok(Response::new(stream.boxed()))
    }
}
