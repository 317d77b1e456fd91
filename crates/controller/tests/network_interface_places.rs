//! Network interfaces with their instances, and what hosts and lists tell of them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod eni_calls;
mod fake_agent;

use api::{
    host::VpcSpec,
    v1::{eip_service_client::EipServiceClient, *},
};
use cloud_process::{CloudProcess, code};
use disk_calls::{cloud_with_host, run, until_hosts, until_instance};
use eni_calls::*;
use fake_agent::{FakeAgent, registration};
use std::time::{Duration, Instant};

fn text(value: &str) -> String {
    value.to_owned()
}

#[tokio::test]
async fn instances_are_made_with_several_interfaces_and_keep_what_is_to_stay() {
    let (cloud, site, agent) = cloud_with_host().await;
    let existing = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    let order = InstanceNetworkInterfaceOrder::default;
    let request = RunInstancesRequest {
        network_interface: vec![
            InstanceNetworkInterfaceOrder {
                network_interface_name: text("second"),
                secondary_private_ip_address_count: 1,
                queue_number: 2,
                delete_on_release: Some(false),
                ..order()
            },
            InstanceNetworkInterfaceOrder { network_interface_id: existing.clone(), ..order() },
        ],
        client_token: text("once"),
        ..site.run(1)
    };
    let instance_id = run(&cloud, request.clone()).await;
    assert_eq!(run(&cloud, request.clone()).await, instance_id);
    until_eni_is(&cloud, &existing, "InUse").await;
    let spec = spec_of(&agent, &instance_id);
    let shape: Vec<_> = spec
        .enis
        .iter()
        .map(|eni| (eni.primary, eni.secondary_private_ips.len(), eni.queues))
        .collect();
    assert_eq!(shape, [(true, 0, 0), (false, 1, 2), (false, 0, 0)]);
    assert_eq!(spec.enis[2].eni_id, existing);
    let kept = spec.enis[1].eni_id.clone();
    let taken = RunInstancesRequest { client_token: text("twice"), ..request.clone() };
    let refused = cloud.instances().run_instances(taken).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.InvalidEniState");

    // What goes with its instance is gone with it, what is to stay is free.
    agent.behaviour.lock().unwrap().holding_enis.insert(kept.clone(), text("busy"));
    let delete = DeleteInstanceRequest {
        instance_id: instance_id.clone(),
        force: true,
        ..Default::default()
    };
    cloud.instances().delete_instance(delete).await.unwrap();
    until_instance(&cloud, &instance_id, "gone").await;
    let left = enis(&cloud, DescribeNetworkInterfacesRequest::default()).await;
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((left.network_interface_id.as_str(), left.status.as_str()), (&*kept, "Available"));
    assert_eq!((left.instance_id.as_str(), left.host_id.as_str()), ("", ""));

    // As the primary one too, and several instances at once.
    let primary = InstanceNetworkInterfaceOrder {
        instance_type: text("Primary"),
        v_switch_id: site.v_switch_id.clone(),
        security_group_ids: vec![site.security_group_id.clone()],
        network_interface_name: text("first"),
        ..order()
    };
    let bare = RunInstancesRequest {
        v_switch_id: String::new(),
        security_group_id: String::new(),
        ..site.run(2)
    };
    let two =
        RunInstancesRequest { network_interface: vec![primary.clone(), order()], ..bare.clone() };
    let ids = cloud.instances().run_instances(two).await.unwrap().into_inner().instance_id_sets;
    for id in &ids {
        until_instance(&cloud, id, "Running").await;
        assert_eq!(primary_of(&cloud, id).await.network_interface_name, "first");
        assert_eq!(spec_of(&agent, id).enis.len(), 2);
    }
    let three = [order(), order(), order()];
    let named = InstanceNetworkInterfaceOrder { network_interface_id: kept, ..order() };
    for (amount, interfaces, expected) in [
        (1, three.to_vec(), "EniPerInstanceLimitExceeded"),
        (1, vec![primary.clone()], "InvalidParam.NetworkInterface"),
        (2, vec![named.clone()], "InvalidParam.NetworkInterface"),
        (1, vec![named.clone(), named.clone()], "InvalidParam.NetworkInterface"),
        (
            1,
            vec![InstanceNetworkInterfaceOrder { description: text("x"), ..named.clone() }],
            "InvalidParam.NetworkInterface",
        ),
        (
            1,
            vec![InstanceNetworkInterfaceOrder { network_interface_id: text("eni-x"), ..order() }],
            "InvalidEniId.NotFound",
        ),
        (
            1,
            vec![InstanceNetworkInterfaceOrder {
                secondary_private_ip_address_count: u32::MAX,
                ..order()
            }],
            "InvalidOperation.Ipv4CountExceeded",
        ),
        (
            1,
            vec![InstanceNetworkInterfaceOrder { v_switch_id: text("vsw-x"), ..order() }],
            "InvalidVSwitchId.NotFound",
        ),
    ] {
        let request = RunInstancesRequest { network_interface: interfaces, ..site.run(amount) };
        let refused = cloud.instances().run_instances(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    no_faults(&agent);
}

fn the_vpc(spec: &api::host::HostSpec) -> VpcSpec {
    spec.vpcs.first().cloned().unwrap_or_default()
}

#[tokio::test]
async fn hosts_know_what_the_others_have_of_a_vpc() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "1"]).await;
    let site = cloud.site().await;
    let at = |host_id: &str, underlay: &str| api::host::RegisterHostRequest {
        underlay_ip: text(underlay),
        ..registration(host_id, 2, 8 << 10)
    };
    let first = FakeAgent::start_as(&cloud, at("host-1", "192.0.2.1"));
    until_hosts(&cloud, 1).await;
    let on_first = run(&cloud, site.run(1)).await;
    assert!(the_vpc(&first.spec()).remote_hosts.is_empty());
    let second = FakeAgent::start_as(&cloud, at("host-2", "192.0.2.2"));
    until_hosts(&cloud, 2).await;
    let on_second = run(&cloud, site.run(1)).await;
    let ip = |eni: NetworkInterface| eni.private_ip_address;
    let (one, two) =
        (ip(primary_of(&cloud, &on_first).await), ip(primary_of(&cloud, &on_second).await));
    let knows = |agent: &FakeAgent, underlay: &'static str, addresses: Vec<String>| {
        let behaviour = std::sync::Arc::clone(&agent.behaviour);
        async move {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let spec = behaviour.lock().unwrap().spec.clone().unwrap_or_default();
                let remotes = the_vpc(&spec).remote_hosts;
                let as_wanted = match remotes.as_slice() {
                    [] => addresses.is_empty(),
                    [remote] => remote.underlay_ip == underlay && remote.addresses == addresses,
                    _ => false,
                };
                if as_wanted {
                    return;
                }
                assert!(Instant::now() < deadline, "{remotes:?}, not {underlay} {addresses:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    knows(&first, "192.0.2.2", vec![two.clone()]).await;
    knows(&second, "192.0.2.1", vec![one.clone()]).await;
    let members = |agent: &FakeAgent| agent.spec().security_groups[0].member_ips.clone();
    assert_eq!(members(&first), members(&second));

    // An interface that moves is where its instance is.
    let moving = create_eni(&cloud, new_eni(&site)).await;
    attach_eni(&cloud, &moving.network_interface_id, &on_second).await.unwrap();
    let mut both = vec![two.clone(), moving.private_ip_address.clone()];
    both.sort_by_key(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap());
    knows(&first, "192.0.2.2", both).await;
    until_eni_is(&cloud, &moving.network_interface_id, "InUse").await;
    detach_eni(&cloud, &moving.network_interface_id, &on_second).await.unwrap();
    until_eni_is(&cloud, &moving.network_interface_id, "Available").await;
    knows(&first, "192.0.2.2", vec![two.clone()]).await;
    attach_eni(&cloud, &moving.network_interface_id, &on_first).await.unwrap();
    let eni = until_eni_is(&cloud, &moving.network_interface_id, "InUse").await;
    assert_eq!(eni.host_id, "host-1");
    let mut both = vec![one, moving.private_ip_address];
    both.sort_by_key(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap());
    knows(&second, "192.0.2.1", both).await;

    // A host that is somewhere else now, and an instance that is gone.
    drop(second);
    let second = FakeAgent::start_as(&cloud, at("host-2", "2001:db8::2"));
    knows(&first, "2001:db8::2", vec![two]).await;
    let hosts = disk_calls::hosts(&cloud).await;
    assert_eq!(hosts[1].underlay_ip, "2001:db8::2");
    let delete = DeleteInstanceRequest { instance_id: on_second, force: true, dry_run: false };
    cloud.instances().delete_instance(delete).await.unwrap();
    knows(&first, "", Vec::new()).await;
    let mut wrong = at("host-3", "here");
    let refused = fake_agent::client(&cloud).register_host(wrong.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
    wrong.underlay_ip = String::new();
    fake_agent::client(&cloud).register_host(wrong).await.unwrap();
    for agent in [&first, &second] {
        no_faults(agent);
    }
    // The type's limits go with each instance.
    let limit = spec_of(&first, &on_first).network_limit.unwrap();
    assert_eq!((limit.kbits_per_second, limit.burst_kbits_per_second), (2_000_000, 12_500_000));
    assert_eq!(limit.packets_per_second, 1_100_000);
}

#[tokio::test]
async fn interfaces_are_listed_by_what_they_are() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let named = CreateNetworkInterfaceRequest {
        network_interface_name: text("web-1"),
        tag: vec![Tag { key: text("env"), value: text("test") }],
        secondary_private_ip_address_count: 1,
        ..new_eni(&site)
    };
    let made = create_eni(&cloud, named).await;
    create_eni(&cloud, new_eni(&site)).await;
    let all = DescribeNetworkInterfacesRequest::default;
    for (request, expected) in [
        (all(), 3),
        (DescribeNetworkInterfacesRequest { instance_id: instance_id.clone(), ..all() }, 1),
        (DescribeNetworkInterfacesRequest { r#type: text("Secondary"), ..all() }, 2),
        (DescribeNetworkInterfacesRequest { status: text("InUse"), ..all() }, 1),
        (DescribeNetworkInterfacesRequest { network_interface_name: text("web-*"), ..all() }, 1),
        (
            DescribeNetworkInterfacesRequest {
                private_ip_address: vec![made.private_ip_sets[1].private_ip_address.clone()],
                ..all()
            },
            1,
        ),
        (
            DescribeNetworkInterfacesRequest {
                tag: vec![Tag { key: text("env"), value: String::new() }],
                ..all()
            },
            1,
        ),
        (
            DescribeNetworkInterfacesRequest {
                security_group_id: site.security_group_id.clone(),
                ..all()
            },
            3,
        ),
    ] {
        assert_eq!(enis(&cloud, request.clone()).await.len(), expected, "{request:?}");
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request =
            DescribeNetworkInterfacesRequest { max_results: 2, next_token: token, ..all() };
        let answer = cloud.network_interfaces().describe_network_interfaces(request).await;
        let answer = answer.unwrap().into_inner();
        seen.extend(answer.network_interface_sets);
        token = answer.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn public_addresses_are_told_with_the_private_ones_they_stand_for() {
    let cloud = CloudProcess::start(&["--eip-range", "203.0.113.0/28"]).await;
    let site = cloud.site().await;
    let _agent = FakeAgent::start(&cloud, "host-1", 16, 64 << 10);
    until_hosts(&cloud, 1).await;
    let instance_id = run(&cloud, site.run(1)).await;
    let request =
        CreateNetworkInterfaceRequest { secondary_private_ip_address_count: 2, ..new_eni(&site) };
    let made = create_eni(&cloud, request).await;
    let eni_id = made.network_interface_id.clone();
    attach_eni(&cloud, &eni_id, &instance_id).await.unwrap();
    let mut eips = EipServiceClient::new(cloud.channel());
    let second = &made.private_ip_sets[1].private_ip_address;
    let eip =
        eips.allocate_eip_address(AllocateEipAddressRequest::default()).await.unwrap().into_inner();
    let associate = AssociateEipAddressRequest {
        allocation_id: eip.allocation_id.clone(),
        instance_id: eni_id.clone(),
        instance_type: text("NetworkInterface"),
        private_ip_address: second.clone(),
        ..Default::default()
    };
    eips.associate_eip_address(associate).await.unwrap();
    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    let public = eni.private_ip_sets[1].associated_public_ip.clone().unwrap();
    assert_eq!(
        (&public.allocation_id, &public.public_ip_address),
        (&eip.allocation_id, &eip.eip_address)
    );
    assert!(
        eni.associated_public_ip.is_none() && eni.private_ip_sets[0] == made.private_ip_sets[0]
    );
    // It moves with the interface, and is free when its private address is.
    detach_eni(&cloud, &eni_id, &instance_id).await.unwrap();
    let eni = until_eni_is(&cloud, &eni_id, "Available").await;
    assert_eq!(eni.private_ip_sets[1].associated_public_ip, Some(public));
    unassign(&cloud, &eni_id, &[second]).await.unwrap();
    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    assert!(eni.private_ip_sets.iter().all(|ip| ip.associated_public_ip.is_none()));
}
