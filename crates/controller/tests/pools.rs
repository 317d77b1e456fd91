//! Storage pools of hosts, against the real process and fake agents.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_agent;

use api::{
    host::{StoragePool as HostPool, StoragePoolState},
    v1::*,
};
use cloud_process::{CloudProcess, Site, code};
use disk_calls::*;
use fake_agent::{Behaviour, FakeAgent, registration};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;

fn host_pool(id: &str, capacity_gib: u64, overcommit: f64) -> HostPool {
    HostPool {
        pool_id: id.to_owned(),
        name: id.to_owned(),
        path: format!("/srv/{id}"),
        capacity_bytes: capacity_gib * GIB,
        available_bytes: capacity_gib * GIB,
        overcommit,
        state: StoragePoolState::Ready.into(),
        ..Default::default()
    }
}

async fn cloud_with(pools: Vec<HostPool>) -> (CloudProcess, Site, FakeAgent) {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "10"]).await;
    let site = cloud.site().await;
    let behaviour = Behaviour { pools, ..Default::default() };
    let agent = FakeAgent::start_with(&cloud, registration("host-1", 16, 64 << 10), behaviour);
    until_hosts(&cloud, 1).await;
    (cloud, site, agent)
}

async fn pools(cloud: &CloudProcess) -> Vec<StoragePool> {
    let request = DescribeStoragePoolsRequest::default();
    cloud.operator().describe_storage_pools(request).await.unwrap().into_inner().pools
}

async fn until_pool(cloud: &CloudProcess, id: &str, status: &str) -> StoragePool {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = pools(cloud).await.into_iter().find(|pool| pool.pool_id == id).unwrap();
        if found.status == status {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?} is not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn change(agent: &FakeAgent, id: &str, change: impl FnOnce(&mut HostPool)) {
    let mut behaviour = agent.behaviour.lock().unwrap();
    change(behaviour.pools.iter_mut().find(|pool| pool.pool_id == id).unwrap());
}

#[tokio::test]
async fn a_host_that_names_no_pool_has_one() {
    let (cloud, site, _agent) = cloud_with(Vec::new()).await;
    run(&cloud, site.run(1)).await;
    let pools = pools(&cloud).await;
    let [pool] = pools.as_slice() else { panic!("{pools:?}") };
    assert_eq!((pool.pool_id.as_str(), pool.pool_name.as_str()), ("pool-host-1", "default"));
    assert_eq!((pool.status.as_str(), pool.disks), ("Ready", 1));
    assert_eq!((pool.overcommit, pool.limit_gib), (10.0, 10_000_000));
    assert!(pool.provisioned_gib > 0);
    let host = &hosts(&cloud).await[0];
    assert_eq!((host.disk_gib, host.disk_gib_used), (pool.limit_gib, pool.provisioned_gib));
}

#[tokio::test]
async fn disks_are_promised_as_much_as_a_pool_may_and_no_more() {
    let offered = vec![host_pool("p-a", 100, 1.5), host_pool("p-b", 40, 1.0)];
    let (cloud, site, agent) = cloud_with(offered).await;
    let instance_id = run(&cloud, site.run(1)).await;
    let system = find_all(&cloud, &instance_id).await.remove(0);
    assert_eq!(system.storage_pool_id, "p-a", "the one that is less full with it");

    // Named pools are places from the beginning.
    let named = |size, pool: &str| CreateDiskRequest {
        size,
        storage_pool_id: pool.to_owned(),
        ..Default::default()
    };
    let disk_id = create(&cloud, named(30, "p-b")).await;
    let disk = until_status(&cloud, &disk_id, "Available").await;
    assert_eq!((disk.storage_pool_id.as_str(), disk.host_id.as_str()), ("p-b", "host-1"));
    let spec = agent.spec();
    let spec = spec.disks.iter().find(|spec| spec.disk_id == disk_id).unwrap();
    assert_eq!(spec.pool_id, "p-b");
    let refused = cloud.disks().create_disk(named(20, "p-b")).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    assert!(refused.message().contains("p-b) has 10 GiB of disk free of 40"), "{refused}");
    let unknown = cloud.disks().create_disk(named(20, "p-z")).await.unwrap_err();
    assert_eq!(code(&unknown), "InvalidStoragePoolId.NotFound");
    let elsewhere = CreateDiskRequest { zone_id: "cn-none".to_owned(), ..named(20, "p-a") };
    let elsewhere = cloud.disks().create_disk(elsewhere).await.unwrap_err();
    assert_eq!(code(&elsewhere), "InvalidZoneId.NotFound");
    let request = DescribeDisksRequest { storage_pool_id: "p-b".to_owned(), ..Default::default() };
    assert_eq!(list(&cloud, request).await.len(), 1);

    // It stays where it is when it is attached; one without a place gets the emptier pool.
    cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap();
    assert_eq!(until_status(&cloud, &disk_id, "In_use").await.storage_pool_id, "p-b");
    let other = create(&cloud, new_disk(20)).await;
    assert_eq!(find(&cloud, &other).await.unwrap().storage_pool_id, "");
    cloud.disks().attach_disk(attach(&other, &instance_id)).await.unwrap();
    assert_eq!(until_status(&cloud, &other, "In_use").await.storage_pool_id, "p-a");

    let grow = |disk_id: &str, new_size| ResizeDiskRequest {
        disk_id: disk_id.to_owned(),
        new_size,
        ..Default::default()
    };
    let refused = cloud.disks().resize_disk(grow(&disk_id, 41)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    cloud.disks().resize_disk(grow(&disk_id, 40)).await.unwrap();
    let b = until_pool(&cloud, "p-b", "Ready").await;
    assert_eq!((b.provisioned_gib, b.limit_gib, b.disks), (40, 40, 1));
    let a = until_pool(&cloud, "p-a", "Ready").await;
    assert_eq!(
        (a.limit_gib, a.provisioned_gib, a.overcommit),
        (150, 20 + u64::from(system.size), 1.5)
    );

    // What snapshots keep is claimed too: the fake agent says 7 MiB of each.
    let request = CreateSnapshotRequest { disk_id: other.clone(), ..Default::default() };
    cloud.snapshots().create_snapshot(request).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while until_pool(&cloud, "p-a", "Ready").await.snapshot_bytes != 7 << 20 {
        assert!(Instant::now() < deadline, "the snapshot is not accounted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn find_all(cloud: &CloudProcess, instance_id: &str) -> Vec<Disk> {
    let request =
        DescribeDisksRequest { instance_id: instance_id.to_owned(), ..Default::default() };
    list(cloud, request).await
}

#[tokio::test]
async fn a_pool_that_is_low_or_gone_takes_no_disks_and_placement_moves_on() {
    let offered = vec![host_pool("p-a", 1000, 1.0), host_pool("p-b", 100, 1.0)];
    let (cloud, site, agent) = cloud_with(offered).await;
    let instance_id = run(&cloud, site.run(1)).await;
    change(&agent, "p-a", |pool| {
        pool.state = StoragePoolState::Low.into();
        (pool.available_bytes, pool.reserve_bytes) = (GIB, 50 * GIB);
        pool.message = "1 GiB left".to_owned();
    });
    let low = until_pool(&cloud, "p-a", "Low").await;
    assert_eq!((low.status_reason.as_str(), low.limit_gib), ("1 GiB left", 950));
    let disk_id = create(&cloud, new_disk(20)).await;
    cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap();
    assert_eq!(until_status(&cloud, &disk_id, "In_use").await.storage_pool_id, "p-b");

    change(&agent, "p-b", |pool| pool.state = StoragePoolState::Unavailable.into());
    until_pool(&cloud, "p-b", "Unavailable").await;
    let none = create(&cloud, new_disk(20)).await;
    let refused = cloud.disks().attach_disk(attach(&none, &instance_id)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    assert!(refused.message().contains("takes no new disks"), "{refused}");
    assert!(refused.message().contains("is unavailable"), "{refused}");
    let refused = cloud.instances().run_instances(site.run(1)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    assert_eq!(find(&cloud, &none).await.unwrap().status, "Available", "nothing was lost");

    // Another host takes what this one cannot.
    let behaviour = Behaviour { pools: vec![host_pool("p-c", 100, 1.0)], ..Default::default() };
    let _other = FakeAgent::start_with(&cloud, registration("host-2", 16, 64 << 10), behaviour);
    until_hosts(&cloud, 2).await;
    let moved = run(&cloud, site.run(1)).await;
    assert_eq!(find_all(&cloud, &moved).await[0].storage_pool_id, "p-c");

    change(&agent, "p-a", |pool| pool.state = StoragePoolState::Ready.into());
    until_pool(&cloud, "p-a", "Ready").await;
    cloud.disks().attach_disk(attach(&none, &instance_id)).await.unwrap();
    assert_eq!(until_status(&cloud, &none, "In_use").await.storage_pool_id, "p-a");
}

#[tokio::test]
async fn a_disk_from_a_snapshot_lies_in_the_snapshots_pool() {
    let (cloud, site, _agent) =
        cloud_with(vec![host_pool("p-a", 1000, 1.0), host_pool("p-b", 100, 1.0)]).await;
    run(&cloud, site.run(1)).await;
    let in_b =
        CreateDiskRequest { size: 20, storage_pool_id: "p-b".to_owned(), ..Default::default() };
    let disk_id = create(&cloud, in_b).await;
    until_status(&cloud, &disk_id, "Available").await;
    let request = CreateSnapshotRequest { disk_id, ..Default::default() };
    let snapshot_id =
        cloud.snapshots().create_snapshot(request).await.unwrap().into_inner().snapshot_id;
    let from = CreateDiskRequest { snapshot_id: snapshot_id.clone(), ..new_disk(20) };
    let elsewhere = CreateDiskRequest { storage_pool_id: "p-a".to_owned(), ..from.clone() };
    let deadline = Instant::now() + Duration::from_secs(20);
    let made = loop {
        match cloud.disks().create_disk(from.clone()).await {
            Ok(made) => break made.into_inner().disk_id,
            Err(status) => assert_eq!(code(&status), "InvalidSnapshotId.NotReady"),
        }
        assert!(Instant::now() < deadline, "the snapshot is not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(find(&cloud, &made).await.unwrap().storage_pool_id, "p-b");
    let refused = cloud.disks().create_disk(elsewhere).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter.Conflict");
    // With an instance as well.
    let mut request = site.run(1);
    request.data_disk = vec![DataDisk { snapshot_id, ..Default::default() }];
    let instance_id = run(&cloud, request).await;
    let disks = find_all(&cloud, &instance_id).await;
    let data = disks.iter().find(|disk| disk.r#type == "data").unwrap();
    assert_eq!(data.storage_pool_id, "p-b");
}
