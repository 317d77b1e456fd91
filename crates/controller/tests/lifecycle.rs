//! Instances from their making to their end, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, Site, code};
use fake_agent::FakeAgent;
use std::time::{Duration, Instant};

async fn describe(cloud: &CloudProcess, id: &str) -> Option<Instance> {
    let request =
        DescribeInstancesRequest { instance_ids: vec![id.to_owned()], ..Default::default() };
    let answer = cloud.instances().describe_instances(request).await.unwrap().into_inner();
    answer.instances.into_iter().next()
}

async fn until(cloud: &CloudProcess, id: &str, status: &str) -> Instance {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = describe(cloud, id).await;
        if let Some(instance) = &found
            && instance.status == status
        {
            return instance.clone();
        }
        assert!(Instant::now() < deadline, "{id} is not {status}: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_reason(cloud: &CloudProcess, id: &str, reason: &str) -> Instance {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let instance = describe(cloud, id).await.unwrap();
        if instance.status_reason.contains(reason) {
            return instance;
        }
        assert!(Instant::now() < deadline, "{id} does not say {reason}: {instance:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_gone(cloud: &CloudProcess, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(instance) = describe(cloud, id).await {
        assert!(Instant::now() < deadline, "{id} does not go: {instance:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_host(cloud: &CloudProcess, status: &str) -> Host {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let hosts =
            cloud.operator().describe_hosts(DescribeHostsRequest {}).await.unwrap().into_inner();
        if let Some(host) = hosts.hosts.iter().find(|host| host.status == status) {
            return host.clone();
        }
        assert!(Instant::now() < deadline, "no host is {status}: {hosts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn cloud_with_host() -> (CloudProcess, Site, FakeAgent) {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 8, 64 << 10);
    until_host(&cloud, "Ready").await;
    (cloud, site, agent)
}

#[tokio::test]
async fn an_instance_lives_its_whole_life() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut request = site.run(1);
    request.instance_name = "web".to_owned();
    request.host_name = "web-1".to_owned();
    request.user_data = "I2Nsb3VkLWNvbmZpZwo=".to_owned();
    let id = cloud.instances().run_instances(request).await.unwrap().into_inner().instance_id_sets
        [0]
    .clone();
    let running = until(&cloud, &id, "Running").await;
    assert_eq!(running.host_id, "host-1");
    assert_eq!(running.cpu, 2);
    assert_eq!(running.memory, 4096);
    assert_eq!(running.instance_type_family, "ecs.c7");
    assert_eq!(running.vpc_attributes.unwrap().private_ip_address, ["10.1.0.1"]);
    assert_eq!(running.stopped_mode, "Not-applicable");
    assert_eq!(running.start_time, "2026-11-23T11:01Z");

    let spec = agent.spec();
    let wanted = &spec.instances[0];
    let metadata = wanted.metadata.as_ref().unwrap();
    assert_eq!(metadata.user_data, b"#cloud-config\n");
    assert_eq!(metadata.hostname, "web-1");
    assert_eq!(wanted.enis[0].gateway_ip, "10.1.255.253");
    assert!(wanted.enis[0].mac.starts_with("00:16:3e:"));
    assert_eq!(spec.security_groups[0].member_ips, ["10.1.0.1"]);
    assert_eq!(spec.vpcs[0].vni, 1);
    assert_eq!(spec.images[0].image_id, site.image_id);
    assert_eq!(spec.disks[0].image_id, site.image_id);
    assert!(spec.disks[0].iops > 0 && spec.disks[0].bytes_per_second > 0);

    let delete = |force| DeleteInstanceRequest { instance_id: id.clone(), force, dry_run: false };
    let refused = cloud.instances().delete_instance(delete(false)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);

    let stop = StopInstanceRequest { instance_id: id.clone(), ..Default::default() };
    cloud.instances().stop_instance(stop.clone()).await.unwrap();
    let stopped = until(&cloud, &id, "Stopped").await;
    assert_eq!(stopped.stopped_mode, "KeepCharging");
    let refused = cloud.instances().stop_instance(stop).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    assert_eq!(until_host(&cloud, "Ready").await.vcpus_used, 2);

    let start = StartInstanceRequest { instance_id: id.clone(), dry_run: false };
    cloud.instances().start_instance(start).await.unwrap();
    let again = until(&cloud, &id, "Running").await;
    assert_eq!(again.vpc_attributes.unwrap().private_ip_address, ["10.1.0.1"]);
    assert_eq!(again.disk_ids, stopped.disk_ids);

    let reboot = RebootInstanceRequest { instance_id: id.clone(), ..Default::default() };
    cloud.instances().reboot_instance(reboot).await.unwrap();
    until(&cloud, &id, "Running").await;
    let starts: Vec<u64> =
        agent.behaviour.lock().unwrap().starts.keys().map(|(_, epoch)| *epoch).collect();
    assert_eq!(starts, [1, 2, 3]);

    cloud.instances().delete_instance(delete(true)).await.unwrap();
    until_gone(&cloud, &id).await;
    let host = until_host(&cloud, "Ready").await;
    assert_eq!((host.vcpus_used, host.memory_mib_used, host.instances), (0, 0, 0));
    assert!(agent.behaviour.lock().unwrap().disks.is_empty());
}

#[tokio::test]
async fn create_instance_ends_stopped_with_its_disk_made() {
    let (cloud, site, agent) = cloud_with_host().await;
    let disk = |code: &str| Some(("failed".to_owned(), code.to_owned(), "not yet".to_owned()));
    agent.behaviour.lock().unwrap().disk_state = disk("ImageNotReady");
    let request = CreateInstanceRequest {
        image_id: site.image_id.clone(),
        instance_type: "ecs.c7.large".to_owned(),
        v_switch_id: site.v_switch_id.clone(),
        security_group_id: site.security_group_id.clone(),
        data_disk: vec![DataDisk { size: 50, ..Default::default() }],
        ..Default::default()
    };
    let id = cloud.instances().create_instance(request).await.unwrap().into_inner().instance_id;
    // While its disks are being made, and when they cannot be.
    until_reason(&cloud, &id, "ImageNotReady: not yet").await;
    agent.behaviour.lock().unwrap().disk_state = disk("DiskCreateFailed");
    let failed = until_reason(&cloud, &id, "cannot be made").await;
    assert_eq!(failed.status, "Pending");
    let creating = DescribeDisksRequest { status: "Creating".to_owned(), ..Default::default() };
    let listed = cloud.disks().describe_disks(creating).await.unwrap().into_inner().disks;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|disk| disk.status == "Creating"), "{listed:?}");
    agent.behaviour.lock().unwrap().disk_state = None;
    let stopped = until(&cloud, &id, "Stopped").await;
    assert_eq!(stopped.disk_ids.len(), 2);
    // A disk that is lost later is another matter.
    agent.behaviour.lock().unwrap().disk_state = disk("DiskMissing");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(describe(&cloud, &id).await.unwrap().status, "Stopped");
    agent.behaviour.lock().unwrap().disk_state = None;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(agent.behaviour.lock().unwrap().starts.is_empty());
    let request = DescribeDisksRequest { instance_id: id.clone(), ..Default::default() };
    let disks = cloud.disks().describe_disks(request).await.unwrap().into_inner().disks;
    let system = disks.iter().find(|disk| disk.r#type == "system").unwrap();
    let data = disks.iter().find(|disk| disk.r#type == "data").unwrap();
    assert_eq!((system.device.as_str(), data.device.as_str()), ("/dev/xvda", "/dev/xvdb"));
    assert_eq!((data.size, data.performance_level.as_str()), (50, "PL1"));
    assert_eq!(data.iops, 1800 + 50 * 50);
    assert_eq!(data.status, "In_use");
    let start = StartInstanceRequest { instance_id: id.clone(), dry_run: false };
    cloud.instances().start_instance(start).await.unwrap();
    until(&cloud, &id, "Running").await;
}

#[tokio::test]
async fn stop_charging_gives_the_capacity_back_and_start_takes_it_again() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "1"]).await;
    let site = cloud.site().await;
    let _agent = FakeAgent::start(&cloud, "host-1", 2, 8 << 10);
    until_host(&cloud, "Ready").await;
    let mut instances = cloud.instances();
    let first = instances.run_instances(site.run(1)).await.unwrap().into_inner();
    let first = first.instance_id_sets[0].clone();
    until(&cloud, &first, "Running").await;

    let refused = instances.run_instances(site.run(1)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("host host-1 has 0 vCPUs free of 2"), "{refused}");

    let stop = StopInstanceRequest {
        instance_id: first.clone(),
        stopped_mode: "StopCharging".to_owned(),
        ..Default::default()
    };
    instances.stop_instance(stop).await.unwrap();
    assert_eq!(until(&cloud, &first, "Stopped").await.stopped_mode, "StopCharging");
    let second = instances.run_instances(site.run(1)).await.unwrap().into_inner();
    let second = second.instance_id_sets[0].clone();
    until(&cloud, &second, "Running").await;

    let start = StartInstanceRequest { instance_id: first.clone(), dry_run: false };
    let refused = instances.start_instance(start.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.NoStock");
    let delete =
        DeleteInstanceRequest { instance_id: second.clone(), force: true, ..Default::default() };
    instances.delete_instance(delete).await.unwrap();
    until_gone(&cloud, &second).await;
    instances.start_instance(start).await.unwrap();
    until(&cloud, &first, "Running").await;
}

#[tokio::test]
async fn what_the_guest_does_itself_is_taken_in() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut instances = cloud.instances();
    let ids = instances.run_instances(site.run(2)).await.unwrap().into_inner().instance_id_sets;
    until(&cloud, &ids[0], "Running").await;
    until(&cloud, &ids[1], "Running").await;
    agent.behaviour.lock().unwrap().powering_off.push(ids[0].clone());
    let stopped = until(&cloud, &ids[0], "Stopped").await;
    assert!(stopped.status_reason.contains("powered itself off"), "{}", stopped.status_reason);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stopped = until(&cloud, &ids[0], "Stopped").await;
    assert!(stopped.status_reason.contains("powered itself off"), "{}", stopped.status_reason);
    agent.behaviour.lock().unwrap().powering_off.clear();
    let start = StartInstanceRequest { instance_id: ids[0].clone(), dry_run: false };
    instances.start_instance(start).await.unwrap();
    until(&cloud, &ids[0], "Running").await;
    assert_eq!(describe(&cloud, &ids[1]).await.unwrap().status, "Running");
}

#[tokio::test]
async fn an_instance_that_cannot_boot_is_stopped_and_says_why() {
    let (cloud, site, agent) = cloud_with_host().await;
    agent.behaviour.lock().unwrap().silent = true;
    let mut instances = cloud.instances();
    let id = instances.run_instances(site.run(1)).await.unwrap().into_inner().instance_id_sets[0]
        .clone();
    let pending = describe(&cloud, &id).await.unwrap();
    assert_eq!(pending.status, "Pending");
    assert!(pending.status_reason.contains("host-1"), "{}", pending.status_reason);
    {
        let mut behaviour = agent.behaviour.lock().unwrap();
        behaviour.failing.insert(id.clone(), "no kernel in /boot".to_owned());
        behaviour.silent = false;
    }
    let stopped = until(&cloud, &id, "Stopped").await;
    assert_eq!(stopped.status_reason, "ImageBootFailed.NoKernel: no kernel in /boot");
    agent.behaviour.lock().unwrap().failing.clear();
    let start = StartInstanceRequest { instance_id: id.clone(), dry_run: false };
    instances.start_instance(start).await.unwrap();
    assert_eq!(until(&cloud, &id, "Running").await.status_reason, "");
}

#[tokio::test]
async fn a_released_instance_stays_until_its_disks_are_gone() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut instances = cloud.instances();
    let id = instances.run_instances(site.run(1)).await.unwrap().into_inner().instance_id_sets[0]
        .clone();
    until(&cloud, &id, "Running").await;
    agent.behaviour.lock().unwrap().keeps_disks = true;
    let delete =
        DeleteInstanceRequest { instance_id: id.clone(), force: true, ..Default::default() };
    instances.delete_instance(delete.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let releasing = describe(&cloud, &id).await.unwrap();
    assert!(releasing.status_reason.contains("being released"), "{releasing:?}");
    assert_eq!(releasing.status, "Stopping");
    assert!(agent.spec().instances.is_empty());
    let start = StartInstanceRequest { instance_id: id.clone(), dry_run: false };
    let refused = instances.start_instance(start).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    instances.delete_instance(delete).await.unwrap();
    agent.behaviour.lock().unwrap().keeps_disks = false;
    until_gone(&cloud, &id).await;
}

#[tokio::test]
async fn a_silent_host_is_lost_and_comes_back() {
    let cloud = CloudProcess::start(&["--lease-seconds", "1"]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 8, 64 << 10);
    until_host(&cloud, "Ready").await;
    let mut instances = cloud.instances();
    let id = instances.run_instances(site.run(1)).await.unwrap().into_inner().instance_id_sets[0]
        .clone();
    until(&cloud, &id, "Running").await;
    agent.behaviour.lock().unwrap().silent = true;
    until_host(&cloud, "Lost").await;
    let instance = describe(&cloud, &id).await.unwrap();
    assert_eq!(instance.status, "Running");
    assert!(instance.status_reason.contains("last seen"), "{}", instance.status_reason);
    let refused = instances.run_instances(site.run(1)).await.unwrap_err();
    assert!(refused.message().contains("has lost its lease"), "{refused}");
    agent.behaviour.lock().unwrap().silent = false;
    until_host(&cloud, "Ready").await;
    assert_eq!(describe(&cloud, &id).await.unwrap().status_reason, "");
}

#[tokio::test]
async fn events_are_kept_once_and_acknowledged() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut instances = cloud.instances();
    let id = instances.run_instances(site.run(1)).await.unwrap().into_inner().instance_id_sets[0]
        .clone();
    let event = |sequence, kind: &str| api::host::HostEvent {
        sequence,
        resource_id: id.clone(),
        r#type: kind.to_owned(),
        message: "ecs-vmm was killed".to_owned(),
        unix_ms: 1_795_431_667_000,
    };
    agent.behaviour.lock().unwrap().events =
        vec![event(1, "SystemFailure.Reboot"), event(2, "InstanceFailure.Reboot")];
    let deadline = Instant::now() + Duration::from_secs(10);
    while agent.behaviour.lock().unwrap().acknowledged < 2 {
        assert!(Instant::now() < deadline, "events are not acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Several more reports repeat them.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request =
        DescribeInstanceHistoryEventsRequest { instance_id: id.clone(), ..Default::default() };
    let events = instances.describe_instance_history_events(request).await.unwrap().into_inner();
    assert_eq!(events.total_count, 2);
    assert_eq!(events.instance_system_event_set[0].event_type, "InstanceFailure.Reboot");
    assert_eq!(events.instance_system_event_set[0].event_publish_time, "2026-11-23T11:01:07Z");
}

#[tokio::test]
async fn batches_give_one_line_each() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let mut instances = cloud.instances();
    let ids = instances.run_instances(site.run(2)).await.unwrap().into_inner().instance_id_sets;
    until(&cloud, &ids[0], "Running").await;
    until(&cloud, &ids[1], "Running").await;
    let stop = |ids: Vec<String>, how: &str| StopInstancesRequest {
        instance_id: ids,
        batch_optimization: how.to_owned(),
        ..Default::default()
    };
    let with_unknown = vec![ids[0].clone(), "i-unknown".to_owned()];
    let refused =
        instances.stop_instances(stop(with_unknown.clone(), "AllTogether")).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInstanceId.NotFound");
    assert_eq!(describe(&cloud, &ids[0]).await.unwrap().status, "Running");

    let lines = instances.stop_instances(stop(with_unknown, "SuccessFirst")).await.unwrap();
    let lines = lines.into_inner().instance_responses;
    assert_eq!(lines[0].code, "200");
    assert_eq!((&*lines[0].previous_status, &*lines[0].current_status), ("Running", "Stopping"));
    assert_eq!(lines[1].code, "InvalidInstanceId.NotFound");
    until(&cloud, &ids[0], "Stopped").await;

    let dry = StopInstancesRequest { dry_run: true, ..stop(vec![ids[1].clone()], "") };
    assert_eq!(code(&instances.stop_instances(dry).await.unwrap_err()), "DryRunOperation");
    assert_eq!(describe(&cloud, &ids[1]).await.unwrap().status, "Running");
}

#[tokio::test]
async fn attributes_are_modified_in_the_states_that_allow_it() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut instances = cloud.instances();
    let request = RunInstancesRequest { deletion_protection: true, ..site.run(1) };
    let id =
        instances.run_instances(request).await.unwrap().into_inner().instance_id_sets[0].clone();
    let running = until(&cloud, &id, "Running").await;
    let modify = ModifyInstanceAttributeRequest { instance_id: id.clone(), ..Default::default() };
    let text = |value: &str| Some(value.to_owned());
    for (expected, request) in [
        ("MissingParameter", modify.clone()),
        ("MissingParameter", ModifyInstanceAttributeRequest::default()),
        (
            "InvalidInstanceId.NotFound",
            ModifyInstanceAttributeRequest {
                instance_id: "i-unknown".to_owned(),
                description: text(""),
                ..Default::default()
            },
        ),
        (
            "InvalidInstanceName.Malformed",
            ModifyInstanceAttributeRequest { instance_name: text(""), ..modify.clone() },
        ),
        (
            "InvalidDescription.Malformed",
            ModifyInstanceAttributeRequest { description: text("http://x"), ..modify.clone() },
        ),
        (
            "InvalidHostName.Malformed",
            ModifyInstanceAttributeRequest { host_name: text("-x"), ..modify.clone() },
        ),
        (
            "InvalidUserData.Base64FormatInvalid",
            ModifyInstanceAttributeRequest { user_data: text("#"), ..modify.clone() },
        ),
        (
            // All of a call or nothing: the name does not change either.
            "IncorrectInstanceStatus",
            ModifyInstanceAttributeRequest {
                user_data: text("I2Ns"),
                instance_name: text("other"),
                ..modify.clone()
            },
        ),
    ] {
        let refused = instances.modify_instance_attribute(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    assert_eq!(describe(&cloud, &id).await.unwrap().instance_name, running.instance_name);

    let delete =
        DeleteInstanceRequest { instance_id: id.clone(), force: true, ..Default::default() };
    let refused = instances.delete_instance(delete.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.DeletionProtection");
    assert!(refused.message().contains("ModifyInstanceAttribute"), "{refused}");
    let request = ModifyInstanceAttributeRequest {
        deletion_protection: Some(false),
        instance_name: text("web"),
        description: text("in front"),
        host_name: text("web-7"),
        ..modify.clone()
    };
    instances.modify_instance_attribute(request).await.unwrap();
    let modified = describe(&cloud, &id).await.unwrap();
    assert_eq!((&*modified.instance_name, &*modified.description), ("web", "in front"));
    assert_eq!((&*modified.host_name, &*modified.status), ("web-7", "Running"));
    assert!(!modified.deletion_protection);

    let stop = StopInstanceRequest { instance_id: id.clone(), ..Default::default() };
    instances.stop_instance(stop).await.unwrap();
    until(&cloud, &id, "Stopped").await;
    let request = ModifyInstanceAttributeRequest { user_data: text("I2Ns"), ..modify };
    instances.modify_instance_attribute(request).await.unwrap();
    assert_eq!(describe(&cloud, &id).await.unwrap().status, "Stopped");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let spec = agent.spec();
        let metadata = spec.instances[0].metadata.clone().unwrap();
        if metadata.user_data == b"#cl" && metadata.hostname == "web-7" {
            break;
        }
        assert!(Instant::now() < deadline, "the host is not told: {metadata:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    instances.delete_instance(delete).await.unwrap();
    until_gone(&cloud, &id).await;
}
