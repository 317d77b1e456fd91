//! The agent's side of `HostRegistry`: it takes the spec for done at once and reports so.

#![allow(dead_code)]

use crate::cloud_process::{CloudProcess, ZONE};
use api::host::{
    DiskMetrics, DiskStatus, EniStatus, HostCapacity, HostEvent, HostSpec, HostStatus,
    InstanceState, InstanceStatus, Power, RegisterHostRequest, SnapshotStatus, StoragePool,
    WatchHostSpecRequest, host_registry_client::HostRegistryClient,
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

/// A disk as the host has it.
#[derive(Debug, Clone, Default)]
pub struct FakeDisk {
    pub generation: u64,
    pub size_bytes: u64,
    pub content_epoch: u64,
    /// What the content was made from.
    pub source: String,
    pub attached: String,
    pub metrics: Option<DiskMetrics>,
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
    pub disks: BTreeMap<String, FakeDisk>,
    /// Disks whose guest does not let go of them, with a reason.
    pub holding: BTreeMap<String, String>,
    /// Network interfaces on the host: generation, and the instance that has them.
    pub enis: BTreeMap<String, (u64, String)>,
    /// Network interfaces whose guest does not let go of them, with a reason.
    pub holding_enis: BTreeMap<String, String>,
    /// Snapshots on the host, by the disk they are of.
    pub snapshots: BTreeMap<String, String>,
    /// Takes no snapshots while set.
    pub slow_snapshots: bool,
    /// What was asked for and makes no sense.
    pub faults: Vec<String>,
    /// The spec that was acted on last.
    pub acted_on: HostSpec,
    /// Acts on no spec while set; it goes on reporting.
    pub stuck: bool,
    /// Storage pools, registered and reported; none: one of the capacity.
    pub pools: Vec<StoragePool>,
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
        Self::start_as(cloud, registration(host_id, vcpus, memory_mib))
    }

    pub fn start_as(cloud: &CloudProcess, registration: RegisterHostRequest) -> Self {
        Self::start_with(cloud, registration, Behaviour::default())
    }

    pub fn start_with(
        cloud: &CloudProcess,
        registration: RegisterHostRequest,
        behaviour: Behaviour,
    ) -> Self {
        let host_id = registration.host_id.clone();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let task = tokio::spawn(work(client(cloud), registration, Arc::clone(&behaviour)));
        Self { host_id, behaviour, task }
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
        pools: Vec::new(),
        ..RegisterHostRequest::default()
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
    let pools = behaviour.lock().unwrap().pools.clone();
    let request = RegisterHostRequest { pools, ..registration.clone() };
    let session = client.register_host(request).await?.into_inner().session;
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
    if !behaviour.stuck {
        behaviour.acted_on = behaviour.spec.clone().unwrap_or_default();
    }
    let spec = behaviour.acted_on.clone();
    guests.retain(|id, _| spec.instances.iter().any(|wanted| wanted.instance_id == *id));
    take_snapshots(behaviour, &spec);
    take_disks(behaviour, &spec, guests);
    take_enis(behaviour, &spec);
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
            .map(|(disk_id, disk)| DiskStatus {
                disk_id: disk_id.clone(),
                observed_generation: disk.generation,
                state: state.clone(),
                code: if behaviour.holding.contains_key(disk_id) {
                    "DetachRefused".to_owned()
                } else {
                    code.clone()
                },
                message: behaviour.holding.get(disk_id).unwrap_or(&message).clone(),
                attached_instance_id: disk.attached.clone(),
                size_bytes: disk.size_bytes,
                content_epoch: disk.content_epoch,
                metrics: disk.metrics.clone(),
                ..Default::default()
            })
            .collect(),
        events: behaviour.events.clone(),
        complete: true,
        snapshots: snapshot_statuses(behaviour, &spec),
        pools: behaviour.pools.clone(),
        enis: behaviour
            .enis
            .iter()
            .map(|(eni_id, (generation, instance_id))| {
                let held = behaviour.holding_enis.get(eni_id);
                EniStatus {
                    eni_id: eni_id.clone(),
                    observed_generation: *generation,
                    attached_instance_id: instance_id.clone(),
                    code: held.map(|_| "DetachNotAnswered".to_owned()).unwrap_or_default(),
                    message: held.cloned().unwrap_or_default(),
                }
            })
            .collect(),
    }
}

/// Plugs the network interfaces of the spec, and unplugs others.
fn take_enis(behaviour: &mut Behaviour, spec: &HostSpec) {
    let mut wanted = BTreeMap::new();
    for instance in &spec.instances {
        for eni in &instance.enis {
            let place = (eni.generation, instance.instance_id.clone());
            if wanted.insert(eni.eni_id.clone(), place).is_some() {
                behaviour.faults.push(format!("{} is to be at two instances", eni.eni_id));
            }
        }
        if instance.enis.iter().filter(|eni| eni.primary).count() != 1 || !instance.enis[0].primary
        {
            behaviour.faults.push(format!("{} has not one primary first", instance.instance_id));
        }
    }
    let there = |id: &String| spec.instances.iter().any(|instance| instance.instance_id == *id);
    let holding = &behaviour.holding_enis;
    // A guest that is gone holds nothing.
    behaviour.enis.retain(|id, (_, at)| {
        let stays = wanted.get(id).is_some_and(|(_, instance_id)| instance_id == at);
        stays || (holding.contains_key(id) && there(at))
    });
    for (id, place) in wanted {
        match behaviour.enis.get_mut(&id) {
            Some(has) if has.1 == place.1 => *has = place,
            Some(_) => {}
            None => {
                behaviour.enis.insert(id, place);
            }
        }
    }
}

/// Makes the disks of the spec, and removes others.
fn take_disks(
    behaviour: &mut Behaviour,
    spec: &HostSpec,
    guests: &BTreeMap<String, InstanceStatus>,
) {
    if !behaviour.keeps_disks {
        behaviour.disks.retain(|id, _| spec.disks.iter().any(|wanted| wanted.disk_id == *id));
    }
    for wanted in &spec.disks {
        let id = &wanted.disk_id;
        let place = spec.instances.iter().find(|instance| instance.disk_ids.contains(id));
        let held = behaviour.holding.contains_key(id);
        let disk = behaviour.disks.entry(id.clone()).or_default();
        disk.generation = wanted.generation;
        if disk.size_bytes == 0 && behaviour.disk_state.is_some() {
            continue; // It cannot be made, and so is nowhere.
        }
        let new = disk.size_bytes == 0;
        disk.size_bytes = wanted.size_gib << 30;
        let running =
            guests.get(&disk.attached).is_some_and(|guest| guest.state() == InstanceState::Running);
        if new || (disk.content_epoch < wanted.content_epoch && !running) {
            let from = &wanted.source_snapshot_id;
            if !from.is_empty() && !behaviour.snapshots.contains_key(from) {
                behaviour
                    .faults
                    .push(format!("disk {id} is to be made from {from}, which is gone"));
            }
            if !from.is_empty() && !wanted.image_id.is_empty() {
                behaviour.faults.push(format!("disk {id} is to be made from two things"));
            }
            disk.content_epoch = wanted.content_epoch;
            disk.source = format!("{}{}", wanted.image_id, wanted.source_snapshot_id);
        }
        if disk.attached.is_empty() || !held {
            disk.attached = place.map(|i| i.instance_id.clone()).unwrap_or_default();
        }
    }
}

/// Takes the snapshots of the spec, and removes others.
fn take_snapshots(behaviour: &mut Behaviour, spec: &HostSpec) {
    let wanted = |id: &String| spec.snapshots.iter().any(|snapshot| snapshot.snapshot_id == *id);
    behaviour.snapshots.retain(|id, _| wanted(id));
    for snapshot in &spec.snapshots {
        let there = behaviour.disks.contains_key(&snapshot.disk_id);
        if there && !behaviour.slow_snapshots {
            let of = snapshot.disk_id.clone();
            behaviour.snapshots.entry(snapshot.snapshot_id.clone()).or_insert(of);
        }
    }
}

fn snapshot_statuses(behaviour: &Behaviour, spec: &HostSpec) -> Vec<SnapshotStatus> {
    let taken = behaviour.snapshots.keys().map(|id| SnapshotStatus {
        snapshot_id: id.clone(),
        state: "accomplished".to_owned(),
        changed_bytes: 7 << 20,
        taken_unix_ms: 1_795_431_667_000,
        ..Default::default()
    });
    let under_way =
        spec.snapshots.iter().filter(|s| !behaviour.snapshots.contains_key(&s.snapshot_id));
    let under_way = under_way.map(|snapshot| SnapshotStatus {
        snapshot_id: snapshot.snapshot_id.clone(),
        state: "progressing".to_owned(),
        ..Default::default()
    });
    taken.chain(under_way).collect()
}
