//! Calls about disks, and waits for what they bring about.

#![allow(dead_code)]

use crate::{
    cloud_process::{CloudProcess, Site, ZONE},
    fake_agent::FakeAgent,
};
use api::v1::*;
use std::time::{Duration, Instant};

pub async fn list(cloud: &CloudProcess, request: DescribeDisksRequest) -> Vec<Disk> {
    cloud.disks().describe_disks(request).await.unwrap().into_inner().disks
}

pub async fn find(cloud: &CloudProcess, id: &str) -> Option<Disk> {
    let request = DescribeDisksRequest { disk_ids: vec![id.to_owned()], ..Default::default() };
    list(cloud, request).await.into_iter().next()
}

pub async fn until(cloud: &CloudProcess, id: &str, so: impl Fn(&Disk) -> bool) -> Disk {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let disk = find(cloud, id).await.unwrap();
        if so(&disk) {
            return disk;
        }
        assert!(Instant::now() < deadline, "{disk:?} is not as expected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_status(cloud: &CloudProcess, id: &str, status: &str) -> Disk {
    until(cloud, id, |disk| disk.status == status).await
}

pub async fn until_gone(cloud: &CloudProcess, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(disk) = find(cloud, id).await {
        assert!(Instant::now() < deadline, "{disk:?} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn cloud_with_host() -> (CloudProcess, Site, FakeAgent) {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "10"]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 16, 64 << 10);
    until_hosts(&cloud, 1).await;
    (cloud, site, agent)
}

pub async fn until_hosts(cloud: &CloudProcess, count: usize) {
    while hosts(cloud).await.len() < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn hosts(cloud: &CloudProcess) -> Vec<Host> {
    cloud.operator().describe_hosts(DescribeHostsRequest {}).await.unwrap().into_inner().hosts
}

/// A running instance.
pub async fn run(cloud: &CloudProcess, request: RunInstancesRequest) -> String {
    let id = cloud.instances().run_instances(request).await.unwrap().into_inner().instance_id_sets
        [0]
    .clone();
    until_instance(cloud, &id, "Running").await;
    id
}

pub async fn until_instance(cloud: &CloudProcess, id: &str, status: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let request =
            DescribeInstancesRequest { instance_ids: vec![id.to_owned()], ..Default::default() };
        let found = cloud.instances().describe_instances(request).await.unwrap().into_inner();
        let now = found.instances.first().map_or("gone", |instance| instance.status.as_str());
        if now == status {
            return;
        }
        assert!(Instant::now() < deadline, "{id} is {now}, not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn new_disk(size: u32) -> CreateDiskRequest {
    CreateDiskRequest { zone_id: ZONE.to_owned(), size, ..Default::default() }
}

pub async fn create(cloud: &CloudProcess, request: CreateDiskRequest) -> String {
    cloud.disks().create_disk(request).await.unwrap().into_inner().disk_id
}

pub fn attach(disk_id: &str, instance_id: &str) -> AttachDiskRequest {
    AttachDiskRequest {
        disk_id: disk_id.to_owned(),
        instance_id: instance_id.to_owned(),
        ..Default::default()
    }
}

pub fn detach(disk_id: &str, instance_id: &str) -> DetachDiskRequest {
    DetachDiskRequest {
        disk_id: disk_id.to_owned(),
        instance_id: instance_id.to_owned(),
        ..Default::default()
    }
}

pub async fn delete(cloud: &CloudProcess, disk_id: &str) -> Result<(), tonic::Status> {
    let request = DeleteDiskRequest { disk_id: disk_id.to_owned() };
    cloud.disks().delete_disk(request).await.map(drop)
}
