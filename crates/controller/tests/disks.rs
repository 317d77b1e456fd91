//! Disks as a resource of their own, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_agent;

use api::{host::DiskMetrics, v1::*};
use cloud_process::code;
use disk_calls::*;
use fake_agent::FakeAgent;
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;

#[tokio::test]
async fn a_disk_lives_its_whole_life() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let used = hosts(&cloud).await[0].disk_gib_used;
    let request = CreateDiskRequest {
        disk_name: "data".to_owned(),
        client_token: "once".to_owned(),
        tag: vec![Tag { key: "env".to_owned(), value: "test".to_owned() }],
        ..new_disk(40)
    };
    let disk_id = create(&cloud, request.clone()).await;
    assert_eq!(create(&cloud, request.clone()).await, disk_id, "the token names the same order");
    let other = CreateDiskRequest { size: 41, ..request };
    let refused = cloud.disks().create_disk(other).await.unwrap_err();
    assert_eq!(code(&refused), "IdempotentParameterMismatch");

    let disk = find(&cloud, &disk_id).await.unwrap();
    assert_eq!((disk.status.as_str(), disk.r#type.as_str(), disk.size), ("Available", "data", 40));
    assert_eq!((disk.category.as_str(), disk.performance_level.as_str()), ("cloud_essd", "PL1"));
    assert_eq!((disk.iops, disk.throughput), (1800 + 50 * 40, 140));
    assert_eq!(disk.serial_number, disk_id.strip_prefix("d-").unwrap());
    assert!(disk.portable && !disk.delete_with_instance && disk.in_effect);
    assert_eq!(
        (disk.instance_id.as_str(), disk.device.as_str(), disk.host_id.as_str()),
        ("", "", "")
    );
    assert_eq!(disk.tags[0].value, "test");
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, used, "it is on no host yet");
    assert!(agent.spec().disks.iter().all(|spec| spec.disk_id != disk_id));

    cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap();
    let disk = until_status(&cloud, &disk_id, "In_use").await;
    assert_eq!((disk.instance_id.as_str(), disk.device.as_str()), (&*instance_id, "/dev/xvdb"));
    assert_eq!(disk.attachments[0].device, "/dev/xvdb");
    assert!(!disk.attached_time.is_empty() && disk.host_id == "host-1");
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, used + 40);
    assert_eq!(agent.spec().instances[0].disk_ids[1], disk_id);
    let again = cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap_err();
    assert_eq!(code(&again), "InvalidDisk.InUse");
    assert_eq!(code(&delete(&cloud, &disk_id).await.unwrap_err()), "DiskStillAttached");

    cloud.disks().detach_disk(detach(&disk_id, &instance_id)).await.unwrap();
    let disk = until_status(&cloud, &disk_id, "Available").await;
    assert!(disk.instance_id.is_empty() && !disk.detached_time.is_empty());
    assert_eq!(disk.host_id, "host-1", "its content stays where it is");
    assert!(agent.spec().disks.iter().any(|spec| spec.disk_id == disk_id));
    assert_eq!(agent.spec().instances[0].disk_ids.len(), 1);

    delete(&cloud, &disk_id).await.unwrap();
    until_gone(&cloud, &disk_id).await;
    assert_eq!(code(&delete(&cloud, &disk_id).await.unwrap_err()), "InvalidDiskId.NotFound");
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, used);
    assert!(!agent.behaviour.lock().unwrap().disks.contains_key(&disk_id));
    let never = create(&cloud, new_disk(20)).await;
    delete(&cloud, &never).await.unwrap();
    assert!(find(&cloud, &never).await.is_none(), "no host has to be waited for");
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_the_disk_detaching() {
    let (cloud, site, agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let second = run(&cloud, site.run(1)).await;
    let request = CreateDiskRequest { instance_id: first.clone(), ..new_disk(20) };
    let disk_id = create(&cloud, CreateDiskRequest { zone_id: String::new(), ..request }).await;
    until_status(&cloud, &disk_id, "In_use").await;
    let refuses = "the guest has it mounted".to_owned();
    agent.behaviour.lock().unwrap().holding.insert(disk_id.clone(), refuses);
    cloud.disks().detach_disk(detach(&disk_id, &first)).await.unwrap();
    let disk =
        until(&cloud, &disk_id, |disk| disk.status_reason.contains("the guest has it")).await;
    assert_eq!((disk.status.as_str(), disk.instance_id.as_str()), ("Detaching", &*first));
    assert_eq!(disk.device, "/dev/xvdb");
    for (to, wanted) in [(&first, "IncorrectDiskStatus"), (&second, "IncorrectDiskStatus")] {
        let refused = cloud.disks().attach_disk(attach(&disk_id, to)).await.unwrap_err();
        assert_eq!(code(&refused), wanted);
        assert!(refused.message().contains("the guest has it mounted"), "{refused}");
    }
    let refused = cloud.disks().detach_disk(detach(&disk_id, &first)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus");
    assert_eq!(code(&delete(&cloud, &disk_id).await.unwrap_err()), "DiskStillAttached");
    // Its place is not given away either.
    let other = create(&cloud, new_disk(20)).await;
    let named = AttachDiskRequest { device: "/dev/xvdb".to_owned(), ..attach(&other, &first) };
    let refused = cloud.disks().attach_disk(named).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidDevice.InUse");
    cloud.disks().attach_disk(attach(&other, &first)).await.unwrap();
    assert_eq!(until_status(&cloud, &other, "In_use").await.device, "/dev/xvdc");

    agent.behaviour.lock().unwrap().holding.clear();
    until_status(&cloud, &disk_id, "Available").await;
    cloud.disks().attach_disk(attach(&disk_id, &second)).await.unwrap();
    assert_eq!(until_status(&cloud, &disk_id, "In_use").await.instance_id, second);
}

#[tokio::test]
async fn a_disk_that_a_host_may_still_attach_is_given_to_nobody_else() {
    let (cloud, site, agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let second = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, new_disk(20)).await;
    agent.behaviour.lock().unwrap().stuck = true;
    cloud.disks().attach_disk(attach(&disk_id, &first)).await.unwrap();
    let disk = until_status(&cloud, &disk_id, "Attaching").await;
    assert!(disk.status_reason.contains("waiting for host host-1"), "{}", disk.status_reason);
    cloud.disks().detach_disk(detach(&disk_id, &first)).await.unwrap();
    // Reports of an agent that has not seen the change say nothing about it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    until_status(&cloud, &disk_id, "Detaching").await;
    let refused = cloud.disks().attach_disk(attach(&disk_id, &second)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus");
    agent.behaviour.lock().unwrap().stuck = false;
    until_status(&cloud, &disk_id, "Available").await;
}

#[tokio::test]
async fn a_disk_grows_and_changes_its_level_while_in_use() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, new_disk(40)).await;
    let resize = |new_size: u32, kind: &str| ResizeDiskRequest {
        disk_id: disk_id.clone(),
        new_size,
        r#type: kind.to_owned(),
        ..Default::default()
    };
    let refused = cloud.disks().resize_disk(resize(50, "online")).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInstanceStatus.NotRunning");
    cloud.disks().resize_disk(resize(50, "offline")).await.unwrap();
    assert_eq!(find(&cloud, &disk_id).await.unwrap().size, 50);

    cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap();
    until_status(&cloud, &disk_id, "In_use").await;
    let used = hosts(&cloud).await[0].disk_gib_used;
    agent.behaviour.lock().unwrap().stuck = true;
    let once = ResizeDiskRequest { client_token: "grow".to_owned(), ..resize(500, "online") };
    cloud.disks().resize_disk(once.clone()).await.unwrap();
    cloud.disks().resize_disk(once).await.unwrap();
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, used + 450);
    let disk = find(&cloud, &disk_id).await.unwrap();
    assert_eq!((disk.size, disk.iops, disk.in_effect), (500, 1800 + 50 * 500, false));
    assert!(disk.status_reason.contains("to act on the latest size"), "{}", disk.status_reason);
    agent.behaviour.lock().unwrap().stuck = false;
    until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!(agent.behaviour.lock().unwrap().disks[&disk_id].size_bytes, 500 * GIB);

    for (size, wanted) in [
        (500, "InvalidDiskSize.TooSmall"),
        (20, "InvalidDiskSize.TooSmall"),
        (70_000, "InvalidDiskSize.TooLarge"),
    ] {
        let refused = cloud.disks().resize_disk(resize(size, "")).await.unwrap_err();
        assert_eq!(code(&refused), wanted, "{refused}");
    }
    let refused = cloud.disks().resize_disk(resize(600, "sideways")).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParam.Type");

    let spec = |category: &str, level: &str, dry_run| ModifyDiskSpecRequest {
        disk_id: disk_id.clone(),
        disk_category: category.to_owned(),
        performance_level: level.to_owned(),
        dry_run,
        ..Default::default()
    };
    let dry = cloud.disks().modify_disk_spec(spec("", "PL2", true)).await.unwrap_err();
    assert_eq!(code(&dry), "DryRunOperation");
    cloud.disks().modify_disk_spec(spec("", "PL2", false)).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.performance_level.as_str(), disk.iops, disk.throughput), ("PL2", 26_800, 370));
    for (category, level, wanted) in [
        ("", "PL3", "OperationDenied.PerformanceLevelNotMatch"),
        ("", "PL9", "InvalidPerformanceLevel.Malformed"),
        ("tape", "", "InvalidDiskCategory.ValueNotSupported"),
        ("cloud_ssd", "PL1", "InvalidPerformanceLevel.Malformed"),
    ] {
        let refused = cloud.disks().modify_disk_spec(spec(category, level, false)).await;
        assert_eq!(code(&refused.unwrap_err()), wanted);
    }
    cloud.disks().modify_disk_spec(spec("cloud_auto", "", false)).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.category.as_str(), disk.performance_level.as_str()), ("cloud_auto", ""));
    let specs = agent.spec().disks;
    let spec = specs.iter().find(|spec| spec.disk_id == disk_id).unwrap();
    assert_eq!((spec.size_gib, spec.category.as_str()), (500, "cloud_auto"));
    assert_eq!(spec.iops, disk.iops);
}

#[tokio::test]
async fn a_cloud_auto_disk_has_provisioned_iops_and_bursts() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let order = |category: &str, provisioned_iops, bursting_enabled| CreateDiskRequest {
        instance_id: instance_id.clone(),
        disk_category: category.to_owned(),
        size: 100,
        provisioned_iops,
        bursting_enabled,
        ..Default::default()
    };
    for (order, wanted) in [
        (order("cloud_essd", 1, false), "InvalidParameter.Conflict"),
        (order("", 0, true), "InvalidParameter.Conflict"),
        (order("cloud_auto", 50_001, false), "InvalidProvisionedIops.LimitExceeded"),
    ] {
        let refused = cloud.disks().create_disk(order).await.unwrap_err();
        assert_eq!(code(&refused), wanted, "{refused}");
    }
    let made = cloud.disks().create_disk(order("cloud_auto", 1000, false)).await.unwrap();
    let disk_id = made.into_inner().disk_id;
    // 1,800 + 50 for each GiB, and 16 KiB for each IOPS beyond that.
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.iops, disk.throughput, disk.provisioned_iops), (7_800, 185, 1000));

    let bursts = |enabled| ModifyDiskAttributeRequest {
        disk_id: disk_id.clone(),
        bursting_enabled: Some(enabled),
        ..Default::default()
    };
    cloud.disks().modify_disk_attribute(bursts(true)).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect && disk.bursting_enabled).await;
    assert_eq!((disk.iops, disk.throughput), (100_000, 1562));
    assert_eq!(agent.spec().disks.iter().find(|d| d.disk_id == disk_id).unwrap().iops, 100_000);
    cloud.disks().modify_disk_attribute(bursts(false)).await.unwrap();

    let spec = |category: &str, iops| ModifyDiskSpecRequest {
        disk_id: disk_id.clone(),
        disk_category: category.to_owned(),
        provisioned_iops: iops,
        ..Default::default()
    };
    cloud.disks().modify_disk_spec(spec("", Some(0))).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.iops, disk.throughput, disk.bursting_enabled), (6_800, 170, false));
    // Growth keeps them, another category does not have them.
    cloud.disks().modify_disk_spec(spec("", Some(200))).await.unwrap();
    let grow = ResizeDiskRequest { disk_id: disk_id.clone(), new_size: 200, ..Default::default() };
    cloud.disks().resize_disk(grow).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.iops, disk.provisioned_iops), (12_000, 200));
    let refused = cloud.disks().modify_disk_spec(spec("cloud_ssd", Some(1))).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter.Conflict");
    cloud.disks().modify_disk_spec(spec("cloud_ssd", None)).await.unwrap();
    let disk = until(&cloud, &disk_id, |disk| disk.in_effect).await;
    assert_eq!((disk.iops, disk.provisioned_iops), (7_800, 0));
    let refused = cloud.disks().modify_disk_attribute(bursts(true)).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter.Conflict");

    // Those of a new instance have them too.
    let auto = DataDisk {
        category: "cloud_auto".to_owned(),
        size: 100,
        provisioned_iops: 1000,
        ..Default::default()
    };
    let request = RunInstancesRequest { data_disk: vec![auto], ..site.run(1) };
    let instance_id = run(&cloud, request).await;
    let request = DescribeDisksRequest { instance_id, ..Default::default() };
    let disks = list(&cloud, request).await;
    assert!(disks.iter().any(|disk| (disk.iops, disk.provisioned_iops) == (7_800, 1000)));
}

#[tokio::test]
async fn disks_that_are_kept_outlive_their_instance() {
    let (cloud, site, agent) = cloud_with_host().await;
    let kept = DataDisk { size: 30, delete_with_instance: Some(false), ..Default::default() };
    let gone = DataDisk { size: 20, ..Default::default() };
    let instance_id =
        run(&cloud, RunInstancesRequest { data_disk: vec![kept, gone], ..site.run(1) }).await;
    let request = DescribeDisksRequest { instance_id: instance_id.clone(), ..Default::default() };
    let disks = list(&cloud, request).await;
    assert_eq!(disks.len(), 3);
    let disk_id = disks.iter().find(|disk| disk.size == 30).unwrap().disk_id.clone();
    let gone_id = disks.iter().find(|disk| disk.size == 20).unwrap().disk_id.clone();
    let system_id = disks.iter().find(|disk| disk.r#type == "system").unwrap().disk_id.clone();
    let refused = cloud.disks().detach_disk(detach(&system_id, &instance_id)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied");

    agent.behaviour.lock().unwrap().stuck = true;
    let request = DeleteInstanceRequest {
        instance_id: instance_id.clone(),
        force: true,
        ..Default::default()
    };
    cloud.instances().delete_instance(request).await.unwrap();
    assert_ne!(find(&cloud, &disk_id).await.unwrap().status, "Available");
    let refused = cloud.disks().detach_disk(detach(&disk_id, &instance_id)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectInstanceStatus");
    let modify = ModifyDiskAttributeRequest {
        disk_id: gone_id.clone(),
        delete_with_instance: Some(false),
        ..Default::default()
    };
    let refused = cloud.disks().modify_disk_attribute(modify).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus");
    agent.behaviour.lock().unwrap().stuck = false;
    until_status(&cloud, &disk_id, "Available").await;
    until_gone(&cloud, &gone_id).await;
    until_gone(&cloud, &system_id).await;
    assert_eq!(hosts(&cloud).await[0].disk_gib_used, 30);
    assert_eq!(agent.behaviour.lock().unwrap().disks.len(), 1);
    // And goes to another one.
    let other = run(&cloud, site.run(1)).await;
    cloud.disks().attach_disk(attach(&disk_id, &other)).await.unwrap();
    until_status(&cloud, &disk_id, "In_use").await;
}

#[tokio::test]
async fn a_disk_stays_on_the_host_that_has_its_data() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, new_disk(20)).await;
    cloud.disks().attach_disk(attach(&disk_id, &first)).await.unwrap();
    until_status(&cloud, &disk_id, "In_use").await;
    cloud.disks().detach_disk(detach(&disk_id, &first)).await.unwrap();
    until_status(&cloud, &disk_id, "Available").await;
    let _second_host = FakeAgent::start(&cloud, "host-2", 16, 64 << 10);
    until_hosts(&cloud, 2).await;
    let second = run(&cloud, site.run(1)).await;
    let refused = cloud.disks().attach_disk(attach(&disk_id, &second)).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied");
    for host in ["host-1", "host-2"] {
        assert!(refused.message().contains(host), "{refused}");
    }
    // A disk that has no data yet goes wherever there is room.
    let huge = create(&cloud, CreateDiskRequest { size: 65_536, ..new_disk(0) }).await;
    cloud.disks().attach_disk(attach(&huge, &second)).await.unwrap();
    assert_eq!(until_status(&cloud, &huge, "In_use").await.host_id, "host-2");
}

#[tokio::test]
async fn refusals_have_the_codes_of_ecs() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    type Change = fn(&mut CreateDiskRequest);
    let cases: [(&str, Change); 10] = [
        ("MissingParameter", |r| r.zone_id.clear()),
        ("MissingParameter", |r| r.size = 0),
        ("InvalidZoneId.NotFound", |r| r.zone_id = "mars".to_owned()),
        ("InvalidInstanceId.NotFound", |r| r.instance_id = "i-none".to_owned()),
        ("InvalidDiskName.Malformed", |r| r.disk_name = "1".to_owned()),
        ("InvalidDataDiskCategory.ValueNotSupported", |r| r.disk_category = "tape".to_owned()),
        ("InvalidPerformanceLevel.Malformed", |r| r.performance_level = "PL7".to_owned()),
        ("InvalidDataDiskSize.ValueNotSupported", |r| r.size = 65_537),
        ("UnsupportedOperation", |r| r.multi_attach = "Enabled".to_owned()),
        ("InvalidTagKey.Malformed", |r| r.tag = vec![Tag::default()]),
    ];
    for (wanted, change) in cases {
        let mut request = new_disk(20);
        change(&mut request);
        let refused = cloud.disks().create_disk(request).await.unwrap_err();
        assert_eq!(code(&refused), wanted, "{refused}");
    }
    assert_eq!(list(&cloud, DescribeDisksRequest::default()).await.len(), 1);
    let disk_id = create(&cloud, new_disk(20)).await;
    for (disk, instance, device, wanted) in [
        ("d-none", &*instance_id, "", "InvalidDiskId.NotFound"),
        (&*disk_id, "i-none", "", "InvalidInstanceId.NotFound"),
        (&*disk_id, &*instance_id, "/dev/sda", "InvalidDevice.Malformed"),
        (&*disk_id, &*instance_id, "/dev/xvda", "InvalidDevice.Malformed"),
        (&*disk_id, "", "", "MissingParameter"),
    ] {
        let device = device.to_owned();
        let request = AttachDiskRequest { device, ..attach(disk, instance) };
        let refused = cloud.disks().attach_disk(request).await.unwrap_err();
        assert_eq!(code(&refused), wanted, "{refused}");
    }
    let refused = cloud.disks().detach_disk(detach(&disk_id, &instance_id)).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectDiskStatus");
    // One system disk and sixteen more.
    for number in 0..16 {
        let id = create(&cloud, new_disk(20)).await;
        cloud.disks().attach_disk(attach(&id, &instance_id)).await.unwrap_or_else(|status| {
            panic!("disk {number}: {status}");
        });
    }
    let refused = cloud.disks().attach_disk(attach(&disk_id, &instance_id)).await.unwrap_err();
    assert_eq!(code(&refused), "InstanceDiskLimitExceeded");
}

#[tokio::test]
async fn lists_narrow_and_attributes_change() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let named = CreateDiskRequest { disk_name: "web-1".to_owned(), ..new_disk(20) };
    let disk_id = create(&cloud, CreateDiskRequest { instance_id, ..named }).await;
    until_status(&cloud, &disk_id, "In_use").await;
    let other = create(&cloud, new_disk(500)).await;
    let tagged = |key: &str| Tag { key: key.to_owned(), value: String::new() };
    let cases: [(DescribeDisksRequest, usize); 8] = [
        (DescribeDisksRequest { disk_name: "web*".to_owned(), ..Default::default() }, 1),
        (DescribeDisksRequest { disk_type: "data".to_owned(), ..Default::default() }, 2),
        (DescribeDisksRequest { portable: Some(false), ..Default::default() }, 1),
        (DescribeDisksRequest { status: "Available".to_owned(), ..Default::default() }, 1),
        (DescribeDisksRequest { status: "In_use".to_owned(), ..Default::default() }, 2),
        (DescribeDisksRequest { delete_with_instance: Some(true), ..Default::default() }, 1),
        (DescribeDisksRequest { tag: vec![tagged("none")], ..Default::default() }, 0),
        (DescribeDisksRequest { max_results: 2, ..Default::default() }, 2),
    ];
    for (request, count) in cases {
        assert_eq!(list(&cloud, request.clone()).await.len(), count, "{request:?}");
    }
    let modify = ModifyDiskAttributeRequest {
        disk_ids: vec![disk_id.clone(), other.clone()],
        disk_name: Some("both".to_owned()),
        delete_with_instance: Some(true),
        ..Default::default()
    };
    cloud.disks().modify_disk_attribute(modify).await.unwrap();
    for id in [&disk_id, &other] {
        let disk = find(&cloud, id).await.unwrap();
        assert_eq!((disk.disk_name.as_str(), disk.delete_with_instance), ("both", true));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let names = agent.spec().instances[0].metadata.clone().unwrap().disk_names;
        if names.get(&disk_id).is_some_and(|name| name == "both") {
            break;
        }
        assert!(Instant::now() < deadline, "the guest is not told: {names:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let nothing = ModifyDiskAttributeRequest { disk_id: other, ..Default::default() };
    let refused = cloud.disks().modify_disk_attribute(nothing).await.unwrap_err();
    assert_eq!(code(&refused), "MissingParameter");
}

#[tokio::test]
async fn a_user_sees_how_near_a_disk_is_to_its_level() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let disk_id = create(&cloud, CreateDiskRequest { instance_id, ..new_disk(20) }).await;
    until_status(&cloud, &disk_id, "In_use").await;
    let ask = DescribeDiskMonitorDataRequest { disk_id: disk_id.clone() };
    let none = cloud.disks().describe_disk_monitor_data(ask.clone()).await.unwrap().into_inner();
    assert_eq!(none.total_count, 0);
    // 80% of 2800 IOPS over ten seconds.
    for (at_unix_ms, reads) in [(1_000_000, 0), (1_010_000, 22_400)] {
        let metrics = DiskMetrics {
            reads,
            read_bytes: reads * 4096,
            throttled: reads / 10,
            since_unix_ms: 1,
            at_unix_ms,
            ..Default::default()
        };
        agent.behaviour.lock().unwrap().disks.get_mut(&disk_id).unwrap().metrics = Some(metrics);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let answer = cloud.disks().describe_disk_monitor_data(ask).await.unwrap().into_inner();
    let data = &answer.monitor_data[0];
    assert_eq!((data.iops_read, data.iops_limit, data.level_percent), (2240, 2800, 80.0));
    assert_eq!((data.bps_total, data.throttled_percent), (2240 * 4096, 10.0));
    let ask = DescribeDiskMonitorDataRequest { disk_id: "d-none".to_owned() };
    let refused = cloud.disks().describe_disk_monitor_data(ask).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidDiskId.NotFound");
}
