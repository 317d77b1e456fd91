//! Snapshots, and disks made from and reset to them, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, ZONE, code};
use disk_calls::*;
use fake_agent::FakeAgent;
use std::time::{Duration, Instant};

async fn snapshots(cloud: &CloudProcess, request: DescribeSnapshotsRequest) -> Vec<Snapshot> {
    cloud.snapshots().describe_snapshots(request).await.unwrap().into_inner().snapshots
}

async fn find_snapshot(cloud: &CloudProcess, id: &str) -> Option<Snapshot> {
    let request =
        DescribeSnapshotsRequest { snapshot_ids: vec![id.to_owned()], ..Default::default() };
    snapshots(cloud, request).await.into_iter().next()
}

async fn until_snapshot(cloud: &CloudProcess, id: &str, status: &str) -> Snapshot {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = find_snapshot(cloud, id).await;
        match found {
            Some(snapshot) if snapshot.status == status => return snapshot,
            other => assert!(Instant::now() < deadline, "{other:?} is not {status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_snapshot_gone(cloud: &CloudProcess, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(snapshot) = find_snapshot(cloud, id).await {
        assert!(Instant::now() < deadline, "{snapshot:?} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn of(disk_id: &str) -> CreateSnapshotRequest {
    CreateSnapshotRequest { disk_id: disk_id.to_owned(), ..Default::default() }
}

async fn take(cloud: &CloudProcess, request: CreateSnapshotRequest) -> String {
    let made = cloud.snapshots().create_snapshot(request).await.unwrap().into_inner();
    until_snapshot(cloud, &made.snapshot_id, "accomplished").await;
    made.snapshot_id
}

async fn forget(cloud: &CloudProcess, id: &str, force: bool) -> Result<(), tonic::Status> {
    let request = DeleteSnapshotRequest { snapshot_id: id.to_owned(), force };
    cloud.snapshots().delete_snapshot(request).await.map(drop)
}

async fn stop(cloud: &CloudProcess, instance_id: &str) {
    let request = StopInstanceRequest { instance_id: instance_id.to_owned(), ..Default::default() };
    cloud.instances().stop_instance(request).await.unwrap();
    until_instance(cloud, instance_id, "Stopped").await;
}

async fn start(cloud: &CloudProcess, instance_id: &str) -> Result<(), tonic::Status> {
    let request = StartInstanceRequest { instance_id: instance_id.to_owned(), dry_run: false };
    cloud.instances().start_instance(request).await.map(drop)
}

fn no_faults(agent: &FakeAgent) {
    let faults = agent.behaviour.lock().unwrap().faults.clone();
    assert!(faults.is_empty(), "{faults:?}");
}

#[tokio::test]
async fn a_snapshot_is_taken_and_outlives_its_disk() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, new_disk(20)).await;
    let refused = cloud.snapshots().create_snapshot(of(&disk_id)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus.NeverAttached");
    cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap();
    until_status(&cloud, &disk_id, "In_use").await;

    agent.behaviour.lock().unwrap().slow_snapshots = true;
    let request = CreateSnapshotRequest {
        snapshot_name: "before".to_owned(),
        client_token: "once".to_owned(),
        retention_days: 3,
        tag: vec![Tag { key: "env".to_owned(), value: "test".to_owned() }],
        ..of(&disk_id)
    };
    let made = cloud.snapshots().create_snapshot(request.clone()).await.unwrap().into_inner();
    let again = cloud.snapshots().create_snapshot(request).await.unwrap().into_inner();
    assert_eq!(made.snapshot_id, again.snapshot_id);
    let snapshot = find_snapshot(&cloud, &made.snapshot_id).await.unwrap();
    assert_eq!((snapshot.status.as_str(), snapshot.progress.as_str()), ("progressing", "0%"));
    assert!(!snapshot.available);
    // While it is being taken, its disk stays as it is.
    let refused = cloud.snapshots().create_snapshot(of(&disk_id)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus.CreatingSnapshot");
    let grow = ResizeDiskRequest { disk_id: disk_id.clone(), new_size: 40, ..Default::default() };
    let refused = cloud.disks().resize_disk(grow).await.unwrap_err();
    assert_eq!(code(&refused), "DiskCreatingSnapshot");
    let from = CreateDiskRequest { snapshot_id: made.snapshot_id.clone(), ..new_disk(0) };
    let refused = cloud.disks().create_disk(from).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnapshotId.NotReady");
    agent.behaviour.lock().unwrap().slow_snapshots = false;
    let snapshot = until_snapshot(&cloud, &made.snapshot_id, "accomplished").await;
    assert_eq!((snapshot.size_in_bytes, snapshot.progress.as_str()), (7 << 20, "100%"));
    assert_eq!(snapshot.taken_time, "2026-11-23T11:01:07Z");
    assert_eq!((snapshot.source_disk_id.as_str(), snapshot.source_disk_size), (&*disk_id, 20));
    assert_eq!((snapshot.source_disk_type.as_str(), snapshot.retention_days), ("data", 3));
    assert_eq!((snapshot.snapshot_type.as_str(), snapshot.usage.as_str()), ("user", "none"));
    assert!(snapshot.available && snapshot.host_id == "host-1");

    cloud.disks().detach_disk(detach(&disk_id, &instance_id)).await.unwrap();
    until_status(&cloud, &disk_id, "Available").await;
    delete(&cloud, &disk_id).await.unwrap();
    until_gone(&cloud, &disk_id).await;
    assert!(agent.behaviour.lock().unwrap().snapshots.contains_key(&made.snapshot_id));
    forget(&cloud, &made.snapshot_id, false).await.unwrap();
    until_snapshot_gone(&cloud, &made.snapshot_id).await;
    assert!(agent.behaviour.lock().unwrap().snapshots.is_empty());
    let refused = forget(&cloud, &made.snapshot_id, false).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnapshotId.NotFound");
    no_faults(&agent);
}

#[tokio::test]
async fn a_disk_is_made_from_a_snapshot_where_the_snapshot_is() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, CreateDiskRequest { instance_id, ..new_disk(40) }).await;
    until_status(&cloud, &disk_id, "In_use").await;
    let snapshot_id = take(&cloud, of(&disk_id)).await;
    let _second_host = FakeAgent::start(&cloud, "host-2", 16, 64 << 10);
    until_hosts(&cloud, 2).await;

    let from = |size| CreateDiskRequest { snapshot_id: snapshot_id.clone(), ..new_disk(size) };
    agent.behaviour.lock().unwrap().stuck = true;
    let made = create(&cloud, from(20)).await;
    assert_eq!(find(&cloud, &made).await.unwrap().status, "Creating");
    let busy = forget(&cloud, &snapshot_id, true).await.unwrap_err();
    assert_eq!(code(&busy), "Operation.Conflict");
    agent.behaviour.lock().unwrap().stuck = false;
    let disk = until_status(&cloud, &made, "Available").await;
    assert_eq!((disk.size, disk.host_id.as_str()), (40, "host-1"), "at least the snapshot's size");
    assert_eq!(disk.source_snapshot_id, snapshot_id);
    assert_eq!(agent.behaviour.lock().unwrap().disks[&made].source, snapshot_id);
    let larger = create(&cloud, from(100)).await;
    assert_eq!(until_status(&cloud, &larger, "Available").await.size, 100);
    let used = DescribeSnapshotsRequest { usage: "disk".to_owned(), ..Default::default() };
    assert_eq!(snapshots(&cloud, used).await[0].usage, "disk");

    // An instance with such a disk goes where the snapshot is, though the other host is emptier.
    let data = DataDisk { snapshot_id: snapshot_id.clone(), ..Default::default() };
    let instance_id =
        run(&cloud, RunInstancesRequest { data_disk: vec![data], ..site.run(1) }).await;
    let request = DescribeDisksRequest { instance_id, ..Default::default() };
    let disks = list(&cloud, request).await;
    assert!(disks.iter().all(|disk| disk.host_id == "host-1"), "{disks:?}");
    let data = disks.iter().find(|disk| disk.r#type == "data").unwrap();
    assert_eq!((data.size, data.source_snapshot_id.as_str()), (40, &*snapshot_id));
    let none = DataDisk { snapshot_id: "s-none".to_owned(), ..Default::default() };
    let none = RunInstancesRequest { data_disk: vec![none], ..site.run(1) };
    let refused = cloud.instances().run_instances(none).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnapshotId.NotFound");

    let refused = forget(&cloud, &snapshot_id, false).await.unwrap_err();
    assert_eq!(code(&refused), "SnapshotCreatedDisk");
    forget(&cloud, &snapshot_id, true).await.unwrap();
    until_snapshot_gone(&cloud, &snapshot_id).await;
    let again = ReInitDiskRequest { disk_id: made, ..Default::default() };
    let refused = cloud.disks().re_init_disk(again).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSourceSnapshot");
    no_faults(&agent);
}

#[tokio::test]
async fn a_disk_is_reset_and_made_anew_while_its_instance_is_stopped() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let request = DescribeDisksRequest { instance_id: instance_id.clone(), ..Default::default() };
    let system_id = list(&cloud, request).await[0].disk_id.clone();
    let snapshot_id = take(&cloud, of(&system_id)).await;
    let reset = |disk_id: &str| ResetDiskRequest {
        disk_id: disk_id.to_owned(),
        snapshot_id: snapshot_id.clone(),
        dry_run: false,
    };
    let refused = cloud.disks().reset_disk(reset(&system_id)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    let other = CreateDiskRequest { instance_id: instance_id.clone(), ..new_disk(20) };
    let other = create(&cloud, other).await;
    until_status(&cloud, &other, "In_use").await;
    stop(&cloud, &instance_id).await;
    let refused = cloud.disks().reset_disk(reset(&other)).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter.Mismatch");

    agent.behaviour.lock().unwrap().stuck = true;
    cloud.disks().reset_disk(reset(&system_id)).await.unwrap();
    let disk = find(&cloud, &system_id).await.unwrap();
    assert_eq!((disk.status.as_str(), disk.in_effect), ("ReIniting", false));
    let refused = start(&cloud, &instance_id).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus", "a running guest would be in the way");
    let busy = forget(&cloud, &snapshot_id, true).await.unwrap_err();
    assert_eq!(code(&busy), "Operation.Conflict");
    agent.behaviour.lock().unwrap().stuck = false;
    until_status(&cloud, &system_id, "In_use").await;
    assert_eq!(agent.behaviour.lock().unwrap().disks[&system_id].source, snapshot_id);
    start(&cloud, &instance_id).await.unwrap();
    until_instance(&cloud, &instance_id, "Running").await;
    stop(&cloud, &instance_id).await;

    let reinit = ReInitDiskRequest { disk_id: system_id.clone(), ..Default::default() };
    cloud.disks().re_init_disk(reinit.clone()).await.unwrap();
    until(&cloud, &system_id, |disk| disk.status == "In_use" && disk.in_effect).await;
    let (epoch, source) = {
        let behaviour = agent.behaviour.lock().unwrap();
        let disk = &behaviour.disks[&system_id];
        (disk.content_epoch, disk.source.clone())
    };
    assert_eq!((epoch, source.as_str()), (2, &*site.image_id));
    // It starts by itself, once the content is new and not before, and only this once.
    agent.behaviour.lock().unwrap().stuck = true;
    let and_start = ReInitDiskRequest { auto_start_instance: true, ..reinit };
    cloud.disks().re_init_disk(and_start).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    until_instance(&cloud, &instance_id, "Stopped").await;
    assert_eq!(find(&cloud, &system_id).await.unwrap().status, "ReIniting");
    agent.behaviour.lock().unwrap().stuck = false;
    until_instance(&cloud, &instance_id, "Running").await;
    assert_eq!(agent.behaviour.lock().unwrap().disks[&system_id].content_epoch, 3);
    stop(&cloud, &instance_id).await;
    until_instance(&cloud, &instance_id, "Stopped").await;
    let nowhere = create(&cloud, new_disk(20)).await;
    let nowhere = ReInitDiskRequest { disk_id: nowhere, ..Default::default() };
    let refused = cloud.disks().re_init_disk(nowhere).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus");
    no_faults(&agent);
}

#[tokio::test]
async fn a_system_disk_is_replaced() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let header = ImportImageHeader { image_name: "other".to_owned(), ..Default::default() };
    let image_id = cloud.import(header, &vec![9; 2 << 20]).await.unwrap();
    let request = DescribeDisksRequest { instance_id: instance_id.clone(), ..Default::default() };
    let old = list(&cloud, request.clone()).await.remove(0);
    let snapshot_id = take(&cloud, of(&old.disk_id)).await;
    let pair = CreateKeyPairRequest { key_pair_name: "ops".to_owned(), ..Default::default() };
    cloud.key_pairs().create_key_pair(pair).await.unwrap();
    let replace = ReplaceSystemDiskRequest {
        instance_id: instance_id.clone(),
        image_id: image_id.clone(),
        size: 30,
        client_token: "once".to_owned(),
        key_pair_name: "ops".to_owned(),
        ..Default::default()
    };
    let refused = cloud.disks().replace_system_disk(replace.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    stop(&cloud, &instance_id).await;
    let none = ReplaceSystemDiskRequest { image_id: "m-none".to_owned(), ..replace.clone() };
    let refused = cloud.disks().replace_system_disk(none).await.unwrap_err();
    // The token belongs to the order that was carried out, and none was.
    assert_eq!(code(&refused), "InvalidImageId.NotFound");
    let none = ReplaceSystemDiskRequest { key_pair_name: "none".to_owned(), ..replace.clone() };
    let refused = cloud.disks().replace_system_disk(none).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidKeyPairName.NotFound");
    let secret = ReplaceSystemDiskRequest { password: "Secret1!".to_owned(), ..replace.clone() };
    let refused = cloud.disks().replace_system_disk(secret).await.unwrap_err();
    assert_eq!(code(&refused), "UnsupportedOperation");
    let made = cloud.disks().replace_system_disk(replace.clone()).await.unwrap().into_inner();
    let again = cloud.disks().replace_system_disk(replace).await.unwrap().into_inner();
    assert_eq!(made.disk_id, again.disk_id);
    until_gone(&cloud, &old.disk_id).await;
    let disk = until_status(&cloud, &made.disk_id, "In_use").await;
    assert_eq!((disk.r#type.as_str(), disk.device.as_str()), ("system", "/dev/xvda"));
    assert_eq!((disk.size, disk.image_id.as_str()), (30, &*image_id));
    assert_eq!(list(&cloud, request).await.len(), 1);
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, 31, "30, and what its snapshot keeps");
    let found = DescribeInstancesRequest::default();
    let found = cloud.instances().describe_instances(found).await.unwrap().into_inner();
    assert_eq!(found.instances[0].image_id, image_id);
    assert_eq!(found.instances[0].key_pair_name, "ops");
    let keys = |spec: &api::host::HostSpec| {
        let metadata = spec.instances[0].metadata.clone().unwrap_or_default();
        metadata.public_keys.iter().any(|key| key.name == "ops" && !key.openssh.is_empty())
    };
    assert!(keys(&agent.spec()), "the new disk is given the key");
    assert_eq!(agent.behaviour.lock().unwrap().disks[&made.disk_id].source, image_id);
    assert_eq!(find_snapshot(&cloud, &snapshot_id).await.unwrap().source_disk_id, old.disk_id);
    let refused = delete(&cloud, &made.disk_id).await.unwrap_err();
    assert_eq!(code(&refused), "DiskStillAttached");
    start(&cloud, &instance_id).await.unwrap();
    until_instance(&cloud, &instance_id, "Running").await;
    no_faults(&agent);
}

#[tokio::test]
async fn policies_are_made_applied_and_taken_off() {
    let (cloud, site, _agent) = cloud_with_host().await;
    run(&cloud, site.run(1)).await;
    let disk_id = list(&cloud, DescribeDisksRequest::default()).await[0].disk_id.clone();
    let create = CreateAutoSnapshotPolicyRequest {
        auto_snapshot_policy_name: "nightly".to_owned(),
        time_points: vec![13, 1, 13],
        repeat_weekdays: vec![7, 1],
        retention_days: 7,
        ..Default::default()
    };
    type Change = fn(&mut CreateAutoSnapshotPolicyRequest);
    let cases: [(&str, Change); 5] = [
        ("MissingParameter", |r| r.time_points.clear()),
        ("InvalidParameter.TimePoints", |r| r.time_points = vec![24]),
        ("InvalidParameter.RepeatWeekdays", |r| r.repeat_weekdays = vec![0]),
        ("InvalidRetentionDays", |r| r.retention_days = -2),
        ("InvalidAutoSnapshotPolicyName.Malformed", |r| {
            r.auto_snapshot_policy_name = "1".to_owned();
        }),
    ];
    for (wanted, change) in cases {
        let mut request = create.clone();
        change(&mut request);
        let refused = cloud.snapshots().create_auto_snapshot_policy(request).await.unwrap_err();
        assert_eq!(code(&refused), wanted);
    }
    let made = cloud.snapshots().create_auto_snapshot_policy(create).await.unwrap().into_inner();
    let policy_id = made.auto_snapshot_policy_id;
    let apply = |policy: &str, disk: &str| ApplyAutoSnapshotPolicyRequest {
        auto_snapshot_policy_id: policy.to_owned(),
        disk_ids: vec![disk.to_owned()],
        ..Default::default()
    };
    for (policy, disk, wanted) in [
        ("sp-none", &*disk_id, "InvalidAutoSnapshotPolicyId.NotFound"),
        (&*policy_id, "d-none", "InvalidDiskId.NotFound"),
    ] {
        let refused = cloud.snapshots().apply_auto_snapshot_policy(apply(policy, disk)).await;
        assert_eq!(code(&refused.unwrap_err()), wanted);
    }
    cloud.snapshots().apply_auto_snapshot_policy(apply(&policy_id, &disk_id)).await.unwrap();
    let under =
        DescribeDisksRequest { auto_snapshot_policy_id: policy_id.clone(), ..Default::default() };
    assert_eq!(list(&cloud, under.clone()).await[0].auto_snapshot_policy_id, policy_id);
    let modify = ModifyAutoSnapshotPolicyExRequest {
        auto_snapshot_policy_id: policy_id.clone(),
        retention_days: Some(-1),
        ..Default::default()
    };
    cloud.snapshots().modify_auto_snapshot_policy_ex(modify).await.unwrap();
    let all = DescribeAutoSnapshotPolicyExRequest::default();
    let all = cloud.snapshots().describe_auto_snapshot_policy_ex(all).await.unwrap().into_inner();
    let policy = &all.auto_snapshot_policies[0];
    assert_eq!((policy.time_points.as_slice(), policy.disk_nums), ([1, 13].as_slice(), 1));
    assert_eq!((policy.repeat_weekdays.as_slice(), policy.retention_days), ([1, 7].as_slice(), -1));
    let cancel =
        CancelAutoSnapshotPolicyRequest { disk_ids: vec![disk_id.clone()], ..Default::default() };
    cloud.snapshots().cancel_auto_snapshot_policy(cancel).await.unwrap();
    assert!(list(&cloud, under).await.is_empty());
    let gone = DeleteAutoSnapshotPolicyRequest {
        auto_snapshot_policy_id: policy_id,
        ..Default::default()
    };
    cloud.snapshots().delete_auto_snapshot_policy(gone.clone()).await.unwrap();
    let refused = cloud.snapshots().delete_auto_snapshot_policy(gone).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidAutoSnapshotPolicyId.NotFound");
    // What names of policies begin with is not for people.
    let auto = CreateSnapshotRequest { snapshot_name: "auto-1".to_owned(), ..of(&disk_id) };
    let refused = cloud.snapshots().create_snapshot(auto).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnapshotName.Malformed");
    assert_eq!(ZONE, list(&cloud, DescribeDisksRequest::default()).await[0].zone_id);
}

#[tokio::test]
async fn an_acknowledged_snapshot_survives_a_crash_and_is_taken_once() {
    let (mut cloud, site, agent) = cloud_with_host().await;
    run(&cloud, site.run(1)).await;
    let disk_id = list(&cloud, DescribeDisksRequest::default()).await[0].disk_id.clone();
    agent.behaviour.lock().unwrap().slow_snapshots = true;
    let request = CreateSnapshotRequest { client_token: "once".to_owned(), ..of(&disk_id) };
    let made = cloud.snapshots().create_snapshot(request.clone()).await.unwrap().into_inner();
    cloud.restart().await;
    let again = cloud.snapshots().create_snapshot(request).await.unwrap().into_inner();
    assert_eq!(again.snapshot_id, made.snapshot_id);
    agent.behaviour.lock().unwrap().slow_snapshots = false;
    until_snapshot(&cloud, &made.snapshot_id, "accomplished").await;
    forget(&cloud, &made.snapshot_id, false).await.unwrap();
    cloud.restart().await;
    until_snapshot_gone(&cloud, &made.snapshot_id).await;
    assert!(agent.behaviour.lock().unwrap().snapshots.is_empty());
}
