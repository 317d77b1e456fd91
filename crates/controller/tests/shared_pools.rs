//! Storage pools that several hosts share, against the real process and fake agents.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_agent;

use api::{
    host::{HostSpec, StoragePool as HostPool, StoragePoolState},
    v1::*,
};
use cloud_process::{CloudProcess, Site, code};
use disk_calls::*;
use fake_agent::{Behaviour, FakeAgent, registration};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const SHARED: &str = "pool-shared";

fn pool(id: &str, host: &str, capacity_gib: u64, shared: bool) -> HostPool {
    HostPool {
        pool_id: id.to_owned(),
        name: if shared { "nfs".to_owned() } else { "default".to_owned() },
        path: format!("/srv/{host}"),
        capacity_bytes: capacity_gib * GIB,
        available_bytes: capacity_gib * GIB,
        overcommit: 1.0,
        state: StoragePoolState::Ready.into(),
        shared,
        ..Default::default()
    }
}

struct Shared {
    cloud: CloudProcess,
    site: Site,
    agents: Vec<FakeAgent>,
    /// One on each host.
    instances: Vec<String>,
}

impl Shared {
    /// Two hosts with a pool of their own each and one that they share.
    async fn new() -> Self {
        let cloud = CloudProcess::start(&["--cpu-overcommit", "10", "--lease-seconds", "2"]).await;
        let site = cloud.site().await;
        let mut shared = Self { cloud, site, agents: Vec::new(), instances: Vec::new() };
        for host in ["host-1", "host-2"] {
            let own = pool(&format!("pool-{host}"), host, 100, false);
            let pools = vec![own, pool(SHARED, host, 200, true)];
            let behaviour = Behaviour { pools, ..Default::default() };
            let registered = registration(host, 16, 64 << 10);
            shared.agents.push(FakeAgent::start_with(&shared.cloud, registered, behaviour));
            until_hosts(&shared.cloud, shared.agents.len()).await;
        }
        for host in ["host-1", "host-2"] {
            let instance = run(&shared.cloud, shared.site.run(1)).await;
            let disks = disks_of(&shared.cloud, &instance).await;
            assert_eq!(disks[0].storage_pool_id, format!("pool-{host}"), "own pools come first");
            shared.instances.push(instance);
        }
        shared
    }

    async fn create(&self, size: u32) -> String {
        let pool = SHARED.to_owned();
        let request = CreateDiskRequest { size, storage_pool_id: pool, ..Default::default() };
        let id = create(&self.cloud, request).await;
        until_status(&self.cloud, &id, "Available").await;
        id
    }

    async fn attach(&self, disk: &str, index: usize) -> Result<(), tonic::Status> {
        let request = attach(disk, &self.instances[index]);
        self.cloud.disks().attach_disk(request).await.map(drop)
    }

    async fn at(&self, disk: &str, index: usize) -> Disk {
        self.attach(disk, index).await.unwrap();
        let found = until_status(&self.cloud, disk, "In_use").await;
        assert_eq!(found.host_id, format!("host-{}", index + 1));
        found
    }

    async fn detach(&self, disk: &str, index: usize) {
        let request = detach(disk, &self.instances[index]);
        self.cloud.disks().detach_disk(request).await.unwrap();
    }

    async fn free(&self, disk: &str, index: usize) {
        self.detach(disk, index).await;
        until_status(&self.cloud, disk, "Available").await;
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.agents[index].behaviour.lock().unwrap());
    }

    async fn lose(&self, index: usize) {
        self.change(index, |agent| agent.silent = true);
        let host = format!("host-{}", index + 1);
        until_true("the host to be lost", async || {
            let pool = self.pool().await;
            pool.hosts.iter().any(|h| h.host_id == host && h.status == "Unavailable")
        })
        .await;
    }

    async fn pool(&self) -> StoragePool {
        pools(&self.cloud, "").await.into_iter().find(|pool| pool.shared).unwrap()
    }

    async fn until_spec(&self, index: usize, what: &str, so: impl Fn(&HostSpec) -> bool) {
        until_true(what, async || so(&self.agents[index].spec())).await;
    }
}

async fn until_true(what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < deadline, "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn disks_of(cloud: &CloudProcess, instance_id: &str) -> Vec<Disk> {
    let request =
        DescribeDisksRequest { instance_id: instance_id.to_owned(), ..Default::default() };
    list(cloud, request).await
}

async fn pools(cloud: &CloudProcess, host: &str) -> Vec<StoragePool> {
    let request = DescribeStoragePoolsRequest { host_id: host.to_owned(), ..Default::default() };
    cloud.operator().describe_storage_pools(request).await.unwrap().into_inner().pools
}

#[tokio::test]
async fn a_shared_pool_is_one_pool_whose_hosts_reach_it_or_not() {
    let shared = Shared::new().await;
    let all = pools(&shared.cloud, "").await;
    assert_eq!(all.len(), 3);
    let found = shared.pool().await;
    assert_eq!(
        (found.pool_id.as_str(), found.host_id.as_str(), found.limit_gib),
        (SHARED, "", 200)
    );
    let hosts: Vec<_> =
        found.hosts.iter().map(|h| (h.host_id.as_str(), h.path.as_str(), &*h.status)).collect();
    assert_eq!(hosts, [("host-1", "/srv/host-1", "Ready"), ("host-2", "/srv/host-2", "Ready")]);
    assert_eq!(pools(&shared.cloud, "host-2").await.len(), 2);
    assert_eq!(hosts_gib(&shared.cloud).await, [100, 100], "what is shared is no host's");

    shared.change(0, |agent| {
        let pool = agent.pools.iter_mut().find(|pool| pool.shared).unwrap();
        pool.state = StoragePoolState::Unavailable.into();
        (pool.message, pool.capacity_bytes) = ("not mounted".to_owned(), 0);
    });
    until_true("its state", async || shared.pool().await.hosts[0].status == "Unavailable").await;
    let found = shared.pool().await;
    assert_eq!((found.status.as_str(), found.limit_gib), ("Ready", 200), "the other has it");
    assert_eq!(found.hosts[0].status_reason, "not mounted");
    // A new disk is made through the host that has it; it does not go to the other.
    let disk = shared.create(20).await;
    assert_eq!(find(&shared.cloud, &disk).await.unwrap().host_id, "host-2");
    let refused = shared.attach(&disk, 0).await.unwrap_err();
    assert!(code(&refused) == "OperationDenied" && refused.message().contains("not mounted"));

    // What one host is promised is promised to all.
    let too_much =
        CreateDiskRequest { size: 181, storage_pool_id: SHARED.to_owned(), ..Default::default() };
    let refused = shared.cloud.disks().create_disk(too_much).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    assert!(refused.message().contains("has 180 GiB of disk free of 200"), "{refused}");
    let mut request = shared.site.run(3);
    let data = DataDisk { size: 80, storage_pool_id: "nfs".to_owned(), ..Default::default() };
    request.data_disk = vec![data];
    request.min_amount = 1;
    shared.change(0, |agent| {
        agent.pools[1] = pool(SHARED, "host-1", 200, true);
    });
    until_true("its state", async || shared.pool().await.hosts[0].status == "Ready").await;
    let made = shared.cloud.instances().run_instances(request).await.unwrap().into_inner();
    assert_eq!(made.instance_id_sets.len(), 2, "180 GiB are enough for two of 80");
    assert_eq!(shared.pool().await.provisioned_gib, 180);
}

async fn hosts_gib(cloud: &CloudProcess) -> Vec<u64> {
    hosts(cloud).await.iter().map(|host| host.disk_gib).collect()
}

#[tokio::test]
async fn a_disk_is_attached_on_any_host_and_takes_what_it_shares_layers_with() {
    let shared = Shared::new().await;
    let disk = shared.create(20).await;
    shared.at(&disk, 0).await;
    let request = CreateSnapshotRequest { disk_id: disk.clone(), ..Default::default() };
    let snapshot =
        shared.cloud.snapshots().create_snapshot(request).await.unwrap().into_inner().snapshot_id;
    until_true("the snapshot", async || {
        let request = DescribeSnapshotsRequest::default();
        let all = shared.cloud.snapshots().describe_snapshots(request).await.unwrap();
        all.into_inner().snapshots[0].status == "accomplished"
    })
    .await;
    let from = CreateDiskRequest { snapshot_id: snapshot.clone(), ..new_disk(20) };
    let second = create(&shared.cloud, from).await;
    until_status(&shared.cloud, &second, "Available").await;
    let spec_of = |spec: &HostSpec, id: &str| {
        spec.disks.iter().find(|d| d.disk_id == id).map(|d| (d.tree_id.clone(), d.home_epoch))
    };
    let tree = Some((disk.clone(), 1));
    shared
        .until_spec(0, "one tree", |spec| {
            spec_of(spec, &disk) == tree && spec_of(spec, &second) == tree
        })
        .await;

    // Not while the other is in use.
    let refused = shared.attach(&second, 1).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied");
    assert!(refused.message().contains(&format!("in common with disk {disk}")), "{refused}");
    shared.free(&disk, 0).await;
    shared.at(&second, 1).await;
    let moved = find(&shared.cloud, &disk).await.unwrap();
    assert_eq!((moved.host_id.as_str(), moved.status.as_str()), ("host-2", "Available"));
    let tree = Some((disk.clone(), 2));
    shared
        .until_spec(1, "all of it", |spec| {
            spec_of(spec, &disk) == tree
                && spec_of(spec, &second) == tree
                && spec.snapshots.iter().any(|s| s.snapshot_id == snapshot && s.home_epoch == 2)
        })
        .await;
    shared
        .until_spec(0, "nothing of it", |spec| {
            spec.disks.iter().all(|d| d.tree_id.is_empty())
                && spec.snapshots.is_empty()
                && spec.removals.is_empty()
        })
        .await;

    // Grown and reset where it is.
    let grow = ResizeDiskRequest { disk_id: disk.clone(), new_size: 30, ..Default::default() };
    until_true("its new size", async || {
        shared.cloud.disks().resize_disk(grow.clone()).await.is_ok()
    })
    .await;
    until(&shared.cloud, &disk, |disk| disk.in_effect).await;
    let reset = ResetDiskRequest {
        disk_id: disk.clone(),
        snapshot_id: snapshot.clone(),
        ..Default::default()
    };
    until_true("the reset", async || shared.cloud.disks().reset_disk(reset.clone()).await.is_ok())
        .await;
    until_status(&shared.cloud, &disk, "Available").await;
    shared.free(&second, 1).await;
    for id in [&second, &disk] {
        delete(&shared.cloud, id).await.unwrap();
        until_gone(&shared.cloud, id).await;
    }
    let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    shared.cloud.snapshots().delete_snapshot(request).await.unwrap();
    until_true("nothing", async || {
        let pool = shared.pool().await;
        (pool.provisioned_gib, pool.snapshot_bytes, pool.disks) == (0, 0, 0)
    })
    .await;
    for agent in &shared.agents {
        assert_eq!(agent.behaviour.lock().unwrap().faults, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_disk_of_a_lost_host_is_attached_elsewhere_and_deleted_by_another() {
    let shared = Shared::new().await;
    let (disk, idle) = (shared.create(20).await, shared.create(20).await);
    shared.at(&disk, 0).await;
    shared.at(&idle, 0).await;
    shared.free(&idle, 0).await;
    shared.lose(0).await;

    // Nobody waits for the host: the lease keeps the disk from being used twice.
    shared.detach(&disk, 0).await;
    assert_eq!(find(&shared.cloud, &disk).await.unwrap().status, "Available");
    shared.at(&disk, 1).await;

    // What is to go goes by a host that is there, once that has seen to it.
    shared.change(1, |agent| agent.stuck = true);
    delete(&shared.cloud, &idle).await.unwrap();
    shared
        .until_spec(1, "the removal", |spec| {
            spec.removals.iter().any(|r| r.resource_id == idle && r.home_epoch == 2 && !r.snapshot)
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let deleting = find(&shared.cloud, &idle).await.unwrap();
    assert_eq!(deleting.host_id, "host-2");
    shared.change(1, |agent| agent.stuck = false);
    until_gone(&shared.cloud, &idle).await;

    // The lost one is back and has nothing of them.
    shared.change(0, |agent| agent.silent = false);
    shared
        .until_spec(0, "nothing of it", |spec| {
            spec.removals.is_empty() && spec.disks.iter().all(|d| d.tree_id.is_empty())
        })
        .await;
    assert_eq!(until_status(&shared.cloud, &disk, "In_use").await.host_id, "host-2");
}
