//! Networks, groups, keys, images and lists, through the API.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, ZONE, code};
use fake_agent::{FakeAgent, client, registration};
use std::time::{Duration, Instant};

fn text(value: &str) -> String {
    value.to_owned()
}

#[tokio::test]
async fn networks_have_their_rules() {
    let cloud = CloudProcess::start(&[]).await;
    let mut vpcs = cloud.vpcs();
    let bad = CreateVpcRequest { cidr_block: text("11.0.0.0/8"), ..Default::default() };
    assert_eq!(code(&vpcs.create_vpc(bad).await.unwrap_err()), "InvalidCidrBlock");
    let good = CreateVpcRequest {
        cidr_block: text("192.168.0.0/16"),
        client_token: text("t"),
        ..Default::default()
    };
    let vpc_id = vpcs.create_vpc(good.clone()).await.unwrap().into_inner().vpc_id;
    assert_eq!(vpcs.create_vpc(good).await.unwrap().into_inner().vpc_id, vpc_id);

    let vswitch = |cidr: &str| CreateVSwitchRequest {
        vpc_id: vpc_id.clone(),
        zone_id: text(ZONE),
        cidr_block: text(cidr),
        ..Default::default()
    };
    let id = vpcs.create_v_switch(vswitch("192.168.1.0/24")).await.unwrap().into_inner();
    for (cidr, expected) in [
        ("10.0.0.0/24", "InvalidCidrBlock"),
        ("192.168.1.128/25", "InvalidCidrBlock.Overlapped"),
        ("192.168.0.0/16", "InvalidCidrBlock.Overlapped"),
        ("192.168.2.0/30", "InvalidCidrBlock"),
        ("192.168.2.1/24", "InvalidCidrBlock.Malformed"),
    ] {
        let refused = vpcs.create_v_switch(vswitch(cidr)).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{cidr}: {refused}");
    }
    let nowhere = CreateVSwitchRequest { zone_id: text("mars-a"), ..vswitch("192.168.2.0/24") };
    let refused = vpcs.create_v_switch(nowhere).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidZoneId.NotFound");
    assert_eq!(refused.code(), tonic::Code::NotFound);
    let list = vpcs.describe_v_switches(DescribeVSwitchesRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().v_switches[0].available_ip_address_count, 252);

    let delete_vpc = DeleteVpcRequest { vpc_id: vpc_id.clone(), ..Default::default() };
    let refused = vpcs.delete_vpc(delete_vpc.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.VSwitch");
    let delete = DeleteVSwitchRequest { v_switch_id: id.v_switch_id.clone(), ..Default::default() };
    vpcs.delete_v_switch(delete.clone()).await.unwrap();
    assert_eq!(code(&vpcs.delete_v_switch(delete).await.unwrap_err()), "InvalidVSwitchId.NotFound");
    vpcs.delete_vpc(delete_vpc.clone()).await.unwrap();
    assert_eq!(code(&vpcs.delete_vpc(delete_vpc).await.unwrap_err()), "InvalidVpcId.NotFound");
}

#[tokio::test]
async fn security_groups_keep_their_rules() {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let mut groups = cloud.groups();
    let ssh = Permission {
        ip_protocol: text("tcp"),
        port_range: text("22/22"),
        source_cidr_ip: text("0.0.0.0/0"),
        ..Default::default()
    };
    let other = CreateSecurityGroupRequest { vpc_id: site.vpc_id.clone(), ..Default::default() };
    let other = groups.create_security_group(other).await.unwrap().into_inner().security_group_id;
    let from_group = Permission {
        ip_protocol: text("ALL"),
        source_group_id: other.clone(),
        ..Default::default()
    };
    let authorize = AuthorizeSecurityGroupRequest {
        security_group_id: site.security_group_id.clone(),
        permissions: vec![ssh.clone(), from_group, ssh.clone()],
        ..Default::default()
    };
    groups.authorize_security_group(authorize.clone()).await.unwrap();
    groups.authorize_security_group(authorize).await.unwrap();
    let egress = AuthorizeSecurityGroupEgressRequest {
        security_group_id: site.security_group_id.clone(),
        permissions: vec![Permission {
            ip_protocol: text("udp"),
            port_range: text("53/53"),
            dest_cidr_ip: text("10.0.0.0/8"),
            policy: text("drop"),
            ..Default::default()
        }],
        ..Default::default()
    };
    groups.authorize_security_group_egress(egress).await.unwrap();
    let attribute = DescribeSecurityGroupAttributeRequest {
        security_group_id: site.security_group_id.clone(),
        ..Default::default()
    };
    let rules = groups.describe_security_group_attribute(attribute.clone()).await.unwrap();
    let rules = rules.into_inner().permissions;
    assert_eq!(rules.len(), 3, "the same rule is there once: {rules:?}");

    let unknown = AuthorizeSecurityGroupRequest {
        security_group_id: site.security_group_id.clone(),
        permissions: vec![Permission {
            ip_protocol: text("all"),
            source_group_id: text("sg-unknown"),
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused = groups.authorize_security_group(unknown).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSourceGroupId.NotFound");
    let delete =
        |id: &str| DeleteSecurityGroupRequest { security_group_id: text(id), ..Default::default() };
    let refused = groups.delete_security_group(delete(&other)).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation");
    let by_id = rules.iter().find(|rule| rule.source_group_id == other).unwrap();
    let revoke = RevokeSecurityGroupRequest {
        security_group_id: site.security_group_id.clone(),
        security_group_rule_id: vec![by_id.security_group_rule_id.clone()],
        permissions: vec![ssh],
        ..Default::default()
    };
    groups.revoke_security_group(revoke).await.unwrap();
    groups.delete_security_group(delete(&other)).await.unwrap();
    let left = groups.describe_security_group_attribute(attribute).await.unwrap().into_inner();
    assert_eq!(left.permissions.len(), 1);
    assert_eq!(left.permissions[0].direction, "egress");
    assert_eq!(left.permissions[0].policy, "Drop");
}

#[tokio::test]
async fn key_pairs_are_made_and_imported() {
    let cloud = CloudProcess::start(&[]).await;
    let mut pairs = cloud.key_pairs();
    let create = CreateKeyPairRequest { key_pair_name: text("mine"), ..Default::default() };
    let made = pairs.create_key_pair(create.clone()).await.unwrap().into_inner();
    let private = ssh_key::PrivateKey::from_openssh(&made.private_key_body).unwrap();
    assert_eq!(private.algorithm(), ssh_key::Algorithm::Ed25519);
    let refused = pairs.create_key_pair(create).await.unwrap_err();
    assert_eq!(code(&refused), "KeyPair.AlreadyExist");

    let public = private.public_key().to_openssh().unwrap();
    let import = |name: &str, body: &str| ImportKeyPairRequest {
        key_pair_name: text(name),
        public_key_body: text(body),
        ..Default::default()
    };
    let imported = pairs.import_key_pair(import("copy", &public)).await.unwrap().into_inner();
    assert_eq!(imported.key_pair_finger_print, made.key_pair_finger_print);
    let several = format!("{public}\n{public}");
    let long = format!("{public} {}", "x".repeat(20_000));
    for body in ["ssh-rsa AAAA", "hello", &made.private_key_body, &several, &long] {
        let refused = pairs.import_key_pair(import("bad", body)).await.unwrap_err();
        assert_eq!(code(&refused), "InvalidPublicKeyBody.Malformed", "{body}");
    }
    let listed = pairs.describe_key_pairs(DescribeKeyPairsRequest::default()).await.unwrap();
    let listed = listed.into_inner().key_pairs;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|pair| pair.public_key.starts_with("ssh-ed25519 ")));
    let delete = DeleteKeyPairsRequest {
        key_pair_names: vec![text("mine"), text("copy")],
        ..Default::default()
    };
    pairs.delete_key_pairs(delete).await.unwrap();
    let listed = pairs.describe_key_pairs(DescribeKeyPairsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().total_count, 0);
}

#[tokio::test]
async fn images_are_checked_and_stay_while_disks_lie_on_them() {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let agent = FakeAgent::start(&cloud, "host-1", 8, 64 << 10);
    let header = |name: &str| ImportImageHeader { image_name: text(name), ..Default::default() };
    let raw = vec![3; 1 << 20];
    let wrong = ImportImageHeader { sha256: "0".repeat(64), ..header("wrong") };
    let refused = cloud.import(wrong, &raw).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageChecksum.Mismatch");
    let short = ImportImageHeader { file_bytes: 2 << 20, ..header("short") };
    assert_eq!(code(&cloud.import(short, &raw).await.unwrap_err()), "InvalidParameter");
    let refused = cloud.import(header("vmdk"), b"KDMV").await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageFormat");
    let refused = cloud.import(header("debian-12"), &raw).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageName.Duplicated");
    let request = DescribeImagesRequest { status: text("CreateFailed"), ..Default::default() };
    let failed = cloud.images().describe_images(request).await.unwrap().into_inner().images;
    assert_eq!(failed.len(), 3);
    assert!(failed.iter().all(|image| !image.status_reason.is_empty()));
    let with_token = ImportImageHeader { client_token: text("t"), ..header("again") };
    let first = cloud.import(with_token.clone(), &raw).await.unwrap();
    assert_eq!(cloud.import(with_token, &raw).await.unwrap(), first);

    let deadline = Instant::now() + Duration::from_secs(10);
    let ids = loop {
        match cloud.instances().run_instances(site.run(1)).await {
            Ok(answer) => break answer.into_inner().instance_id_sets,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let delete =
        |force| DeleteImageRequest { image_id: site.image_id.clone(), force, ..Default::default() };
    let refused = cloud.images().delete_image(delete(false)).await.unwrap_err();
    assert_eq!(code(&refused), "ImageUsingByInstance");
    assert!(refused.message().contains(&ids[0]), "{refused}");
    cloud.images().delete_image(delete(true)).await.unwrap();
    let refused = cloud.instances().run_instances(site.run(1)).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageId.NotFound");

    // The host can still copy it, from any offset, until the last disk on it is gone.
    let read = |offset| {
        let request = api::host::ReadImageRequest { image_id: site.image_id.clone(), offset };
        let mut client = client(&cloud);
        async move {
            let mut stream = client.read_image(request).await?.into_inner();
            let mut data = Vec::new();
            while let Some(chunk) = stream.message().await? {
                data.extend(chunk.data);
            }
            Ok::<_, tonic::Status>(data)
        }
    };
    assert_eq!(read(0).await.unwrap(), vec![7; 3 << 20]);
    assert_eq!(read((3 << 20) - 5).await.unwrap(), vec![7; 5]);
    assert!(agent.spec().images.iter().any(|image| image.image_id == site.image_id));
    let release =
        DeleteInstanceRequest { instance_id: ids[0].clone(), force: true, ..Default::default() };
    cloud.instances().delete_instance(release).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while cloud
        .instances()
        .describe_instances(DescribeInstancesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .total_count
        > 0
    {
        assert!(Instant::now() < deadline, "the instance does not go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let deleted = cloud.images().delete_image(delete(true)).await.unwrap_err();
    assert_eq!(code(&deleted), "InvalidImageId.NotFound");
}

#[tokio::test]
async fn run_instances_says_what_is_wrong() {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let _agent = FakeAgent::start(&cloud, "host-1", 64, 1 << 20);
    tokio::time::sleep(Duration::from_millis(300)).await;
    type Change = fn(&mut RunInstancesRequest);
    let cases: Vec<(&str, Change)> = vec![
        ("MissingParameter", |r| r.image_id.clear()),
        ("MissingParameter", |r| r.security_group_id.clear()),
        ("InvalidImageId.NotFound", |r| r.image_id = text("m-x")),
        ("InvalidInstanceType.ValueNotSupported", |r| r.instance_type = text("ecs.x.large")),
        ("OperationDenied.NoStock", |r| r.instance_type = text("ecs.ebmg7.32xlarge")),
        ("InvalidVSwitchId.NotFound", |r| r.v_switch_id = text("vsw-x")),
        ("InvalidSecurityGroupId.NotFound", |r| r.security_group_id = text("sg-x")),
        ("InvalidKeyPairName.NotFound", |r| r.key_pair_name = text("unknown")),
        ("InvalidUserData.Base64FormatInvalid", |r| r.user_data = text("#cloud-config")),
        ("InvalidUserData.SizeExceeded", |r| r.user_data = "AAAA".repeat(11_000)),
        ("InvalidHostName.Malformed", |r| r.host_name = text("-x")),
        ("InvalidInstanceName.Malformed", |r| r.instance_name = text("1")),
        ("InvalidMaxAmount.Malformed", |r| r.amount = 101),
        ("InvalidMinAmount.Malformed", |r| r.min_amount = 2),
        ("InvalidPrivateIpAddress.Malformed", |r| r.private_ip_address = text("x")),
        ("InvalidPrivateIpAddress", |r| r.private_ip_address = text("10.1.255.253")),
        ("InvalidHttpTokens.NotSupported", |r| r.http_tokens = text("maybe")),
        ("InvalidRegionId.NotFound", |r| r.region_id = text("mars")),
        ("UnsupportedOperation", |r| r.password = text("secret")),
        ("InvalidClientToken.ValueNotSupported", |r| r.client_token = "x".repeat(65)),
        ("InvalidSystemDiskCategory.ValueNotSupported", |r| {
            r.system_disk = Some(SystemDisk { category: text("tape"), ..Default::default() });
        }),
        ("InvalidPerformanceLevel.Malformed", |r| {
            let (category, performance_level) = (text("cloud_ssd"), text("PL1"));
            r.system_disk = Some(SystemDisk { category, performance_level, ..Default::default() });
        }),
        ("InvalidDataDiskSize.ValueNotSupported", |r| {
            r.data_disk = vec![DataDisk { size: 70_000, ..Default::default() }];
        }),
        ("Duplicate.TagKey", |r| {
            let tag = Tag { key: text("a"), value: text("b") };
            r.tag = vec![tag.clone(), tag];
        }),
        ("DryRunOperation", |r| r.dry_run = true),
    ];
    for (expected, change) in cases {
        let mut request = site.run(1);
        change(&mut request);
        let refused = cloud.instances().run_instances(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
        assert!(!refused.message().is_empty());
        assert!(api::error::request_id(&refused).is_some());
    }
    let list = cloud.instances().describe_instances(DescribeInstancesRequest::default()).await;
    assert_eq!(list.unwrap().into_inner().total_count, 0);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "100"]).await;
    let site = cloud.site().await;
    client(&cloud).register_host(registration("host-1", 64, 4 << 20)).await.unwrap();
    let mut request = site.run(23);
    request.instance_type = text("ecs.t6-c1m1.large");
    request.instance_name = text("web");
    request.unique_suffix = true;
    let made = cloud.instances().run_instances(request).await.unwrap().into_inner();
    assert_eq!(made.instance_id_sets.len(), 23);
    let mut seen = Vec::new();
    let mut request = DescribeInstancesRequest { max_results: 10, ..Default::default() };
    let mut pages = 0;
    loop {
        let page =
            cloud.instances().describe_instances(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.total_count, 23);
        assert_eq!(page.instances[0].instance_type_family, "ecs.t6");
        seen.extend(page.instances.into_iter().map(|instance| instance.instance_name));
        pages += 1;
        if page.next_token.is_empty() {
            break;
        }
        request.next_token = page.next_token;
    }
    let expected: Vec<String> = (1..=23).rev().map(|index| format!("web{index:03}")).collect();
    assert_eq!((pages, seen), (3, expected));
    // A token is good for its own query only.
    let first = DescribeInstancesRequest { max_results: 10, ..Default::default() };
    let token = cloud.instances().describe_instances(first).await.unwrap().into_inner().next_token;
    let foreign = DescribeInstancesRequest {
        next_token: token,
        status: text("Running"),
        ..Default::default()
    };
    let refused = cloud.instances().describe_instances(foreign).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
    let third = DescribeInstancesRequest { page_number: 3, page_size: 10, ..Default::default() };
    let page = cloud.instances().describe_instances(third).await.unwrap().into_inner();
    assert_eq!((page.instances.len(), page.page_number, page.page_size), (3, 3, 10));
    let named = DescribeInstancesRequest { instance_name: text("web00*"), ..Default::default() };
    let page = cloud.instances().describe_instances(named).await.unwrap().into_inner();
    assert_eq!(page.total_count, 9);
    let many = vec![text("i-x"); 101];
    let many = DescribeInstancesRequest { instance_ids: many, ..Default::default() };
    let refused = cloud.instances().describe_instances(many).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
    let many = DescribeDisksRequest { disk_ids: vec![text("d-x"); 101], ..Default::default() };
    let refused = cloud.disks().describe_disks(many).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
    let odd = DescribeInstancesRequest { status: text("Released"), ..Default::default() };
    let refused = cloud.instances().describe_instances(odd).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidStatus.NotFound");
}

#[tokio::test]
async fn concurrent_calls_never_oversell_a_host() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "1"]).await;
    let site = cloud.site().await;
    client(&cloud).register_host(registration("host-1", 21, 1 << 20)).await.unwrap();
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let (mut instances, request) = (cloud.instances(), site.run(1));
            tokio::spawn(async move { instances.run_instances(request).await })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(status) => assert_eq!(code(&status), "OperationDenied.NoStock"),
        }
    }
    assert_eq!(made, 10);
    // What does not fit whole can be made in part if the caller agrees.
    client(&cloud).register_host(registration("host-2", 6, 1 << 20)).await.unwrap();
    let part = RunInstancesRequest { min_amount: 2, ..site.run(5) };
    let made = cloud.instances().run_instances(part).await.unwrap().into_inner();
    assert_eq!(made.instance_id_sets.len(), 3);
}

#[tokio::test]
async fn a_group_that_is_given_twice_counts_once() {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    client(&cloud).register_host(registration("host-1", 8, 64 << 10)).await.unwrap();
    let other = CreateSecurityGroupRequest { vpc_id: site.vpc_id.clone(), ..Default::default() };
    let other = cloud.groups().create_security_group(other).await.unwrap().into_inner();
    let (first, second) = (site.security_group_id.clone(), other.security_group_id);
    let request = RunInstancesRequest {
        security_group_id: String::new(),
        security_group_ids: vec![second.clone(), first.clone(), second.clone()],
        ..site.run(1)
    };
    cloud.instances().run_instances(request).await.unwrap();
    let request = DescribeNetworkInterfacesRequest::default();
    let enis =
        cloud.network_interfaces().describe_network_interfaces(request).await.unwrap().into_inner();
    assert_eq!(enis.network_interface_sets[0].security_group_ids, [second, first]);
}

#[tokio::test]
async fn types_are_available_where_hosts_can_run_them() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "1"]).await;
    let one = |id: &str| DescribeInstanceTypesRequest {
        instance_types: vec![text(id)],
        ..Default::default()
    };
    let answer = cloud.catalog().describe_instance_types(one("ecs.c7.large")).await.unwrap();
    let kind = answer.into_inner().instance_types.remove(0);
    assert!(!kind.available && kind.unavailable_reason.contains("register one"), "{kind:?}");
    client(&cloud).register_host(registration("host-1", 2, 8 << 10)).await.unwrap();
    let answer = cloud.catalog().describe_instance_types(one("ecs.c7.large")).await.unwrap();
    let kind = answer.into_inner().instance_types.remove(0);
    assert!(kind.available, "{kind:?}");
    assert_eq!((kind.cpu_core_count, kind.memory_size), (2, 4.0));
    let answer = cloud.catalog().describe_instance_types(one("ecs.c7.xlarge")).await.unwrap();
    let kind = answer.into_inner().instance_types.remove(0);
    assert!(kind.unavailable_reason.contains("host-1 has 2 vCPUs free"), "{kind:?}");
}

#[tokio::test]
async fn hosts_need_the_join_token_and_a_known_zone() {
    let cloud = CloudProcess::start(&[]).await;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(cloud.path("join-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(cloud.path("")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut nobody = cloud.registry();
    let refused = nobody.register_host(registration("h", 1, 1024)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let mut request = registration("h", 1, 1024);
    request.zone_id = text("mars-a");
    let refused = client(&cloud).register_host(request).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidZoneId.NotFound");
    let request = api::host::ReadImageRequest { image_id: text("../ecs.db"), offset: 0 };
    let refused = client(&cloud).read_image(request).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageId.NotFound");
}
