//! The agent's side of `HostRegistry`: it takes the spec for done at once and reports so.

#![allow(dead_code)]

use crate::cloud_process::{CloudProcess, ZONE};
use api::host::{
    DiskStatus, HostCapacity, HostEvent, HostSpec, HostStatus, InstanceState, InstanceStatus,
    Power, RegisterHostRequest, WatchHostSpecRequest, host_registry_client::HostRegistryClient,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};

pub type Client = HostRegistryClient<InterceptedService<Channel, Bearer>>;

#[derive(Debug, Clone)]
pub struct Bearer(pub MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub fn client(cloud: &CloudProcess) -> Client {
    let token = format!("Bearer {}", cloud.join_token()).parse().unwrap();
    HostRegistryClient::with_interceptor(cloud.channel(), Bearer(token))
}

/// What a test changes of an agent's behaviour, and what it sees of it.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Instances that cannot be started, with a reason.
    pub failing: BTreeMap<String, String>,
    /// Instances whose guest powers itself off.
    pub powering_off: Vec<String>,
    /// State, code and message of every disk, if not ready.
    pub disk_state: Option<(String, String, String)>,
    /// Leaves this instance's disks behind.
    pub keeps_disks: bool,
    /// Events to report.
    pub events: Vec<HostEvent>,
    /// Latest spec.
    pub spec: Option<HostSpec>,
    /// Highest event acknowledged.
    pub acknowledged: u64,
    /// Times each (instance, epoch) was started.
    pub starts: BTreeMap<(String, u64), u32>,
    /// Disks on the host.
    pub disks: BTreeMap<String, u64>,
    /// Reports nothing while set.
    pub silent: bool,
}

/// A running fake agent.
pub struct FakeAgent {
    pub host_id: String,
    pub behaviour: Arc<Mutex<Behaviour>>,
    task: JoinHandle<()>,
}

impl FakeAgent {
    pub fn start(cloud: &CloudProcess, host_id: &str, vcpus: u32, memory_mib: u64) -> Self {
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let task = tokio::spawn(work(
            client(cloud),
            registration(host_id, vcpus, memory_mib),
            Arc::clone(&behaviour),
        ));
        Self { host_id: host_id.to_owned(), behaviour, task }
    }

    pub fn spec(&self) -> HostSpec {
        self.behaviour.lock().unwrap().spec.clone().unwrap_or_default()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn registration(host_id: &str, vcpus: u32, memory_mib: u64) -> RegisterHostRequest {
    RegisterHostRequest {
        host_id: host_id.to_owned(),
        hostname: host_id.to_owned(),
        zone_id: ZONE.to_owned(),
        access_endpoint: "http://127.0.0.1:1".to_owned(),
        capacity: Some(HostCapacity { vcpus, memory_mib, disk_gib: 1_000_000 }),
        kvm: "full".to_owned(),
        version: "test".to_owned(),
    }
}

/// Registers and works until the task is aborted; begins again whenever the controller is gone.
async fn work(
    mut client: Client,
    registration: RegisterHostRequest,
    behaviour: Arc<Mutex<Behaviour>>,
) {
    // Epoch of the guest that runs, by instance.
    let mut guests: BTreeMap<String, InstanceStatus> = BTreeMap::new();
    loop {
        let _ = session(&mut client, &registration, &behaviour, &mut guests).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn session(
    client: &mut Client,
    registration: &RegisterHostRequest,
    behaviour: &Mutex<Behaviour>,
    guests: &mut BTreeMap<String, InstanceStatus>,
) -> Result<(), Status> {
    let session = client.register_host(registration.clone()).await?.into_inner().session;
    let watch = WatchHostSpecRequest { host_id: registration.host_id.clone(), session };
    let mut specs: Streaming<HostSpec> = client.watch_host_spec(watch).await?.into_inner();
    loop {
        let next = tokio::time::timeout(Duration::from_millis(50), specs.message()).await;
        match next {
            Ok(Ok(Some(spec))) => behaviour.lock().unwrap().spec = Some(spec),
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(status)) => return Err(status),
            Err(_) => {}
        }
        let status = {
            let mut behaviour = behaviour.lock().unwrap();
            if behaviour.silent {
                continue;
            }
            reconcile(&registration.host_id, session, &mut behaviour, guests)
        };
        let answer = client.report_status(status).await?.into_inner();
        behaviour.lock().unwrap().acknowledged = answer.acknowledged_event;
    }
}

fn reconcile(
    host_id: &str,
    session: u64,
    behaviour: &mut Behaviour,
    guests: &mut BTreeMap<String, InstanceStatus>,
) -> HostStatus {
    let spec = behaviour.spec.clone().unwrap_or_default();
    guests.retain(|id, _| spec.instances.iter().any(|wanted| wanted.instance_id == *id));
    if !behaviour.keeps_disks {
        behaviour.disks.retain(|id, _| spec.disks.iter().any(|wanted| wanted.disk_id == *id));
    }
    for disk in &spec.disks {
        behaviour.disks.insert(disk.disk_id.clone(), disk.generation);
    }
    for wanted in &spec.instances {
        let id = &wanted.instance_id;
        let guest = guests.entry(id.clone()).or_insert_with(|| InstanceStatus {
            instance_id: id.clone(),
            state: InstanceState::Stopped.into(),
            ..Default::default()
        });
        guest.observed_generation = wanted.generation;
        if wanted.power() == Power::Stopped {
            if guest.state() == InstanceState::Running {
                guest.set_state(InstanceState::Stopped);
            }
            guest.guest_initiated = false;
            continue;
        }
        if guest.boot_epoch < wanted.boot_epoch {
            guest.boot_epoch = wanted.boot_epoch;
            guest.guest_initiated = false;
            (guest.code, guest.message) = Default::default();
            if let Some(reason) = behaviour.failing.get(id) {
                guest.set_state(InstanceState::Failed);
                guest.code = "ImageBootFailed.NoKernel".to_owned();
                guest.message.clone_from(reason);
            } else {
                guest.set_state(InstanceState::Running);
                guest.started_unix_ms = 1_795_431_667_000;
                *behaviour.starts.entry((id.clone(), wanted.boot_epoch)).or_default() += 1;
            }
        }
        if behaviour.powering_off.contains(id) && guest.state() == InstanceState::Running {
            guest.set_state(InstanceState::Stopped);
            guest.guest_initiated = true;
        }
    }
    let ready = ("ready".to_owned(), String::new(), String::new());
    let (state, code, message) = behaviour.disk_state.clone().unwrap_or(ready);
    HostStatus {
        host_id: host_id.to_owned(),
        session,
        observed_revision: spec.revision,
        instances: guests.values().cloned().collect(),
        disks: behaviour
            .disks
            .iter()
            .map(|(disk_id, generation)| DiskStatus {
                disk_id: disk_id.clone(),
                observed_generation: *generation,
                state: state.clone(),
                code: code.clone(),
                message: message.clone(),
                ..Default::default()
            })
            .collect(),
        events: behaviour.events.clone(),
        complete: true,
        snapshots: Vec::new(),
    }
}
