//! `kill -9` at any moment loses nothing that was acknowledged and makes nothing twice.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, Site, code};
use fake_agent::FakeAgent;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

async fn all(cloud: &CloudProcess) -> Vec<Instance> {
    let mut instances = Vec::new();
    let mut request = DescribeInstancesRequest { max_results: 100, ..Default::default() };
    loop {
        let answer =
            cloud.instances().describe_instances(request.clone()).await.unwrap().into_inner();
        instances.extend(answer.instances);
        if answer.next_token.is_empty() {
            return instances;
        }
        request.next_token = answer.next_token;
    }
}

/// Calls with a token until it is answered, however often the process dies meanwhile. Answers the
/// ids of every answer it saw.
async fn insist(
    mut client: instance_service_client::InstanceServiceClient<tonic::transport::Channel>,
    request: RunInstancesRequest,
) -> Vec<String> {
    loop {
        match client.run_instances(request.clone()).await {
            Ok(answer) => return answer.into_inner().instance_id_sets,
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                panic!("refused: {status}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn request(site: &Site, index: usize) -> RunInstancesRequest {
    RunInstancesRequest {
        client_token: format!("token-{index}"),
        instance_type: "ecs.t6-c1m1.large".to_owned(),
        ..site.run(2)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_instances_survive_and_nothing_is_made_twice() {
    const CALLS: usize = 60;
    let mut cloud = CloudProcess::start(&["--cpu-overcommit", "1000"]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 64, 4 << 20);
    while cloud
        .operator()
        .describe_hosts(DescribeHostsRequest {})
        .await
        .unwrap()
        .into_inner()
        .hosts
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let tasks: Vec<_> = (0..CALLS)
        .map(|index| tokio::spawn(insist(cloud.instances(), request(&site, index))))
        .collect();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(3 + 17 * round)).await;
        cloud.restart().await;
    }
    let mut acknowledged = BTreeMap::new();
    for (index, task) in tasks.into_iter().enumerate() {
        acknowledged.insert(index, task.await.unwrap());
    }
    cloud.restart().await;

    // The same token answers the same after the crash, with other parameters it is refused.
    for (index, ids) in &acknowledged {
        assert_eq!(insist(cloud.instances(), request(&site, *index)).await, *ids);
    }
    let other = RunInstancesRequest { amount: 1, ..request(&site, 0) };
    let refused = cloud.instances().run_instances(other).await.unwrap_err();
    assert_eq!(code(&refused), "IdempotentParameterMismatch");

    let expected: BTreeSet<String> = acknowledged.values().flatten().cloned().collect();
    assert_eq!(expected.len(), 2 * CALLS, "two calls were given the same instance");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let instances = all(&cloud).await;
        let made: BTreeSet<String> =
            instances.iter().map(|instance| instance.instance_id.clone()).collect();
        assert_eq!(made, expected);
        let addresses: BTreeSet<String> = instances
            .iter()
            .flat_map(|instance| instance.network_interfaces.clone())
            .map(|interface| interface.primary_ip_address)
            .collect();
        assert_eq!(addresses.len(), made.len(), "an address was given twice");
        if instances.iter().all(|instance| instance.status == "Running") {
            break;
        }
        assert!(Instant::now() < deadline, "not all run: {instances:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        agent.behaviour.lock().unwrap().starts.values().all(|count| *count == 1),
        "a guest was started twice"
    );
    let hosts = cloud.operator().describe_hosts(DescribeHostsRequest {}).await.unwrap();
    assert_eq!(hosts.into_inner().hosts[0].vcpus_used, 2 * 2 * CALLS as u32);

    // Deleting through crashes leaves nothing.
    let ids: Vec<String> = expected.into_iter().collect();
    for (round, chunk) in ids.chunks(40).enumerate() {
        let request = DeleteInstancesRequest {
            instance_id: chunk.to_vec(),
            force: true,
            client_token: format!("delete-{round}"),
            ..Default::default()
        };
        cloud.instances().delete_instances(request.clone()).await.unwrap();
        cloud.restart().await;
        cloud.instances().delete_instances(request).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !all(&cloud).await.is_empty() {
        assert!(Instant::now() < deadline, "released instances stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hosts = cloud.operator().describe_hosts(DescribeHostsRequest {}).await.unwrap();
    let host = &hosts.into_inner().hosts[0];
    assert_eq!((host.vcpus_used, host.memory_mib_used), (0, 0));
    let switches = cloud.vpcs().describe_v_switches(DescribeVSwitchesRequest::default()).await;
    assert_eq!(switches.unwrap().into_inner().v_switches[0].available_ip_address_count, 65_532);
    assert!(agent.behaviour.lock().unwrap().disks.is_empty());
}

#[tokio::test]
async fn an_import_that_a_crash_cut_off_fails_and_leaves_no_file() {
    use import_image_request::Part;
    let mut cloud = CloudProcess::start(&[]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let header = ImportImageHeader { image_name: "cut".to_owned(), ..Default::default() };
    sender.send(ImportImageRequest { part: Some(Part::Header(header)) }).await.unwrap();
    sender.send(ImportImageRequest { part: Some(Part::Data(vec![1; 1000])) }).await.unwrap();
    let mut images = cloud.images();
    let upload = tokio::spawn(async move {
        images.import_image(tokio_stream::wrappers::ReceiverStream::new(receiver)).await
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_dir(cloud.path("images")).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "the upload does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cloud.kill();
    // As if it had been killed after the file got its name and before the image was Available.
    let partial = std::fs::read_dir(cloud.path("images")).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&partial, partial.with_extension("")).unwrap();
    cloud.spawn().await;
    assert!(upload.await.unwrap().is_err());
    let request = DescribeImagesRequest { status: "CreateFailed".to_owned(), ..Default::default() };
    let images = cloud.images().describe_images(request).await.unwrap().into_inner().images;
    assert_eq!(images.len(), 1);
    assert!(images[0].status_reason.contains("import it again"), "{}", images[0].status_reason);
    assert_eq!(std::fs::read_dir(cloud.path("images")).unwrap().count(), 0);
    // The name is free again.
    let header = ImportImageHeader { image_name: "cut".to_owned(), ..Default::default() };
    cloud.import(header, &vec![1; 1 << 20]).await.unwrap();
}

#[tokio::test]
async fn a_second_controller_leaves_the_first_ones_data_alone() {
    let cloud = CloudProcess::start(&[]).await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_ecs-controller"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(cloud.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success(), "{said}");
    assert!(said.contains("is in use by process"), "{said}");
}

#[tokio::test]
async fn hosts_have_time_to_come_back_after_the_controller_was_away() {
    let mut cloud = CloudProcess::start(&["--lease-seconds", "5"]).await;
    let site = cloud.site().await;
    fake_agent::client(&cloud)
        .register_host(fake_agent::registration("host-1", 8, 64 << 10))
        .await
        .unwrap();
    cloud.kill();
    tokio::time::sleep(Duration::from_millis(5500)).await;
    cloud.spawn().await;
    cloud.instances().run_instances(site.run(1)).await.unwrap();
}

#[tokio::test]
async fn an_idle_controller_does_not_write_all_the_time() {
    let cloud = CloudProcess::start(&[]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let written = || std::fs::metadata(cloud.path("ecs.db-wal")).unwrap().modified().unwrap();
    let before = written();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(written(), before);
}

/// Calls until the process answers.
async fn answered<T, F>(mut call: impl FnMut() -> F) -> Result<T, tonic::Status>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    loop {
        match call().await {
            Err(status) if api::error::ecs_code(&status).is_none() => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_come_and_go_survive_crashes() {
    let mut cloud = CloudProcess::start(&["--cpu-overcommit", "1000"]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 64, 4 << 20);
    let instance_id = loop {
        match cloud.instances().run_instances(site.run(1)).await {
            Ok(answer) => break answer.into_inner().instance_id_sets[0].clone(),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while all(&cloud).await[0].status != "Running" {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tasks: Vec<_> = (0..12_u32)
        .map(|number| {
            let (disks, instance_id) = (cloud.disks(), instance_id.clone());
            tokio::spawn(async move {
                let request = CreateDiskRequest {
                    zone_id: cloud_process::ZONE.to_owned(),
                    size: 20 + number,
                    client_token: format!("disk-{number}"),
                    ..Default::default()
                };
                let made = answered(|| {
                    let (mut disks, request) = (disks.clone(), request.clone());
                    async move { disks.create_disk(request).await }
                });
                let disk_id = made.await.unwrap().into_inner().disk_id;
                let attach = AttachDiskRequest {
                    disk_id: disk_id.clone(),
                    instance_id,
                    ..Default::default()
                };
                let attached = answered(|| {
                    let (mut disks, attach) = (disks.clone(), attach.clone());
                    async move { disks.attach_disk(attach).await }
                });
                // A call whose answer was lost has been carried out.
                if let Err(status) = attached.await {
                    assert_eq!(code(&status), "InvalidDisk.InUse", "{status}");
                }
                let grow = ResizeDiskRequest {
                    disk_id: disk_id.clone(),
                    new_size: 100 + number,
                    client_token: format!("grow-{number}"),
                    ..Default::default()
                };
                loop {
                    let grown = answered(|| {
                        let (mut disks, grow) = (disks.clone(), grow.clone());
                        async move { disks.resize_disk(grow).await }
                    });
                    match grown.await {
                        Ok(_) => return disk_id,
                        Err(status) => assert_eq!(code(&status), "IncorrectDiskStatus"),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(20 + 60 * round)).await;
        cloud.restart().await;
    }
    let mut expected = BTreeSet::new();
    for task in tasks {
        expected.insert(task.await.unwrap());
    }
    cloud.restart().await;
    let request =
        DescribeDisksRequest { disk_type: "data".to_owned(), page_size: 100, ..Default::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let disks = cloud.disks().describe_disks(request.clone()).await.unwrap().into_inner().disks;
        let ids: BTreeSet<String> = disks.iter().map(|disk| disk.disk_id.clone()).collect();
        assert_eq!(ids, expected, "every order made one disk");
        let devices: BTreeSet<&str> = disks.iter().map(|disk| disk.device.as_str()).collect();
        assert_eq!(devices.len(), disks.len(), "a place was given twice");
        assert!(disks.iter().all(|disk| disk.size >= 100), "{disks:?}");
        if disks.iter().all(|disk| disk.status == "In_use" && disk.in_effect) {
            break;
        }
        assert!(Instant::now() < deadline, "not all are there: {disks:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hosts = cloud.operator().describe_hosts(DescribeHostsRequest {}).await.unwrap();
    let data: u64 = (0..12).map(|number| 100 + number).sum();
    assert_eq!(hosts.into_inner().hosts[0].disk_gib_used, data + 1, "and the system disk of 1 GiB");
    assert_eq!(agent.behaviour.lock().unwrap().disks.len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interfaces_that_come_and_go_survive_crashes() {
    const INSTANCES: usize = 6;
    let mut cloud = CloudProcess::start(&["--cpu-overcommit", "1000"]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 64, 4 << 20);
    let order = RunInstancesRequest { client_token: "all".to_owned(), ..site.run(6) };
    let instance_ids = loop {
        match cloud.instances().run_instances(order.clone()).await {
            Ok(answer) => break answer.into_inner().instance_id_sets,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while all(&cloud).await.iter().any(|instance| instance.status != "Running") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tasks: Vec<_> = (0..2 * INSTANCES)
        .map(|number| {
            let (enis, site) = (cloud.network_interfaces(), site.clone());
            let instance_id = instance_ids[number / 2].clone();
            tokio::spawn(async move {
                let request = CreateNetworkInterfaceRequest {
                    v_switch_id: site.v_switch_id,
                    security_group_id: site.security_group_id,
                    client_token: format!("eni-{number}"),
                    ..Default::default()
                };
                let made = answered(|| {
                    let (mut enis, request) = (enis.clone(), request.clone());
                    async move { enis.create_network_interface(request).await }
                });
                let eni_id = made.await.unwrap().into_inner().network_interface_id;
                let attach = AttachNetworkInterfaceRequest {
                    network_interface_id: eni_id.clone(),
                    instance_id,
                    ..Default::default()
                };
                let attached = answered(|| {
                    let (mut enis, attach) = (enis.clone(), attach.clone());
                    async move { enis.attach_network_interface(attach).await }
                });
                // A call whose answer was lost has been carried out.
                if let Err(status) = attached.await {
                    assert_eq!(code(&status), "InvalidOperation.InvalidEniState", "{status}");
                }
                let more = AssignPrivateIpAddressesRequest {
                    network_interface_id: eni_id.clone(),
                    secondary_private_ip_address_count: 2,
                    client_token: format!("more-{number}"),
                    ..Default::default()
                };
                loop {
                    let assigned = answered(|| {
                        let (mut enis, more) = (enis.clone(), more.clone());
                        async move { enis.assign_private_ip_addresses(more).await }
                    });
                    match assigned.await {
                        Ok(_) => return eni_id,
                        Err(status) => {
                            assert_eq!(code(&status), "InvalidOperation.InvalidEniState")
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(20 + 60 * round)).await;
        cloud.restart().await;
    }
    let mut expected = BTreeSet::new();
    for task in tasks {
        expected.insert(task.await.unwrap());
    }
    cloud.restart().await;
    let request = DescribeNetworkInterfacesRequest { page_size: 100, ..Default::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = cloud.network_interfaces().describe_network_interfaces(request.clone()).await;
        let enis = answer.unwrap().into_inner().network_interface_sets;
        let made = enis.iter().filter(|eni| eni.r#type == "Secondary");
        let ids: BTreeSet<String> = made.map(|eni| eni.network_interface_id.clone()).collect();
        assert_eq!(ids, expected, "every order made one interface");
        let addresses: Vec<&str> = enis
            .iter()
            .flat_map(|eni| &eni.private_ip_sets)
            .map(|ip| ip.private_ip_address.as_str())
            .collect();
        assert_eq!(addresses.len(), INSTANCES + 2 * INSTANCES * 3);
        let distinct: BTreeSet<&&str> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len(), "an address was given twice");
        if enis.iter().all(|eni| eni.status == "InUse" && eni.in_effect) {
            break;
        }
        assert!(Instant::now() < deadline, "not all are there: {enis:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let behaviour = agent.behaviour.lock().unwrap();
    assert_eq!(behaviour.enis.len(), 3 * INSTANCES);
    assert!(behaviour.faults.is_empty(), "{:?}", behaviour.faults);
}
