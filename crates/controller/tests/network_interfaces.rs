//! Network interfaces as a resource of their own, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod eni_calls;
mod fake_agent;

use api::{host::EniSpec, v1::*};
use cloud_process::{CloudProcess, Site, ZONE, code};
use disk_calls::{cloud_with_host, run, until_instance};
use eni_calls::*;
use std::time::Duration;

fn text(value: &str) -> String {
    value.to_owned()
}

#[tokio::test]
async fn an_interface_lives_its_whole_life() {
    let (cloud, site, agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let second = run(&cloud, site.run(1)).await;
    let request = CreateNetworkInterfaceRequest {
        network_interface_name: text("backend"),
        description: text("to the database"),
        primary_ip_address: text("10.1.7.7"),
        secondary_private_ip_address_count: 2,
        client_token: text("once"),
        tag: vec![Tag { key: text("env"), value: text("test") }],
        ..new_eni(&site)
    };
    let made = create_eni(&cloud, request.clone()).await;
    let again = create_eni(&cloud, request.clone()).await;
    let same =
        CreateNetworkInterfaceResponse { request_id: again.request_id.clone(), ..made.clone() };
    assert_eq!(again, same, "the token names the same order");
    let other = CreateNetworkInterfaceRequest { description: text("other"), ..request.clone() };
    let refused = cloud.network_interfaces().create_network_interface(other).await.unwrap_err();
    assert_eq!(code(&refused), "IdempotentParameterMismatch");
    assert_eq!((made.status.as_str(), made.r#type.as_str()), ("Available", "Secondary"));
    assert_eq!(made.private_ip_address, "10.1.7.7");
    assert_eq!(made.private_ip_sets.len(), 3);
    assert!(made.private_ip_sets[0].primary && !made.private_ip_sets[1].primary);
    assert!(made.mac_address.starts_with("00:16:3e:") && made.source_dest_check);
    assert_eq!((made.vpc_id.as_str(), made.zone_id.as_str()), (site.vpc_id.as_str(), ZONE));
    let eni_id = made.network_interface_id.clone();

    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    assert_eq!((eni.instance_id.as_str(), eni.attachment), ("", None));
    assert_eq!((eni.tags[0].value.as_str(), eni.delete_on_release), ("test", true));
    assert!(spec_of(&agent, &first).enis.len() == 1, "it is on no host yet");

    attach_eni(&cloud, &eni_id, &first).await.unwrap();
    let eni = until_eni_is(&cloud, &eni_id, "InUse").await;
    assert_eq!((eni.instance_id.as_str(), eni.host_id.as_str()), (first.as_str(), "host-1"));
    assert_eq!(eni.attachment.unwrap().device_index, 1);
    let spec = spec_of(&agent, &first);
    let [primary, EniSpec { eni_id: id, secondary_private_ips, primary: false, .. }] =
        spec.enis.as_slice()
    else {
        panic!("{spec:?}")
    };
    assert!(primary.primary && *id == eni_id);
    assert_eq!(secondary_private_ips.len(), 2);
    let again = attach_eni(&cloud, &eni_id, &second).await.unwrap_err();
    assert_eq!(code(&again), "InvalidOperation.InvalidEniState");
    assert_eq!(
        code(&delete_eni(&cloud, &eni_id).await.unwrap_err()),
        "InvalidOperation.InvalidEniState"
    );
    let wrong = detach_eni(&cloud, &eni_id, &second).await.unwrap_err();
    assert_eq!(code(&wrong), "InvalidParams.EniId");

    // It moves with its addresses and its groups.
    detach_eni(&cloud, &eni_id, &first).await.unwrap();
    until_eni_is(&cloud, &eni_id, "Available").await;
    until_spec(&agent, |spec| spec.instances.iter().all(|one| one.enis.len() == 1)).await;
    attach_eni(&cloud, &eni_id, &second).await.unwrap();
    let moved = until_eni_is(&cloud, &eni_id, "InUse").await;
    assert_eq!(moved.private_ip_sets, made.private_ip_sets);
    assert_eq!(moved.security_group_ids, made.security_group_ids);
    assert_eq!(moved.mac_address, made.mac_address);
    let by_address = DescribeInstancesRequest {
        private_ip_addresses: vec![made.private_ip_sets[2].private_ip_address.clone()],
        ..Default::default()
    };
    let described = cloud
        .instances()
        .describe_instances(by_address)
        .await
        .unwrap()
        .into_inner()
        .instances
        .remove(0);
    assert_eq!(described.instance_id, second);
    assert_eq!(described.network_interfaces[1].secondary_private_ip_address.len(), 2);

    detach_eni(&cloud, &eni_id, &second).await.unwrap();
    until_eni_is(&cloud, &eni_id, "Available").await;
    delete_eni(&cloud, &eni_id).await.unwrap();
    assert!(find_eni(&cloud, &eni_id).await.is_none(), "no host has to be waited for");
    assert_eq!(code(&delete_eni(&cloud, &eni_id).await.unwrap_err()), "InvalidEniId.NotFound");
    let again = create_eni(&cloud, request).await;
    assert_eq!(again.network_interface_id, eni_id, "the token names the same order");
    no_faults(&agent);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_code() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let mut service = cloud.network_interfaces();
    let good = new_eni(&site);
    for (request, expected) in [
        (
            CreateNetworkInterfaceRequest { v_switch_id: text("vsw-x"), ..good.clone() },
            "InvalidVSwitchId.NotFound",
        ),
        (
            CreateNetworkInterfaceRequest { security_group_id: text("sg-x"), ..good.clone() },
            "InvalidSecurityGroupId.NotFound",
        ),
        (
            CreateNetworkInterfaceRequest { security_group_id: text(""), ..good.clone() },
            "MissingParameter",
        ),
        (
            CreateNetworkInterfaceRequest { primary_ip_address: text("10.2.0.1"), ..good.clone() },
            "InvalidVSwitchId.IpInvalid",
        ),
        (
            CreateNetworkInterfaceRequest { primary_ip_address: text("10.1.0.0"), ..good.clone() },
            "InvalidVSwitchId.IpInvalid",
        ),
        (
            CreateNetworkInterfaceRequest { primary_ip_address: text("ten"), ..good.clone() },
            "InvalidParameter",
        ),
        (
            CreateNetworkInterfaceRequest {
                private_ip_address: vec![text("10.1.0.9"), text("10.1.0.9")],
                ..good.clone()
            },
            "InvalidIp.IpRepeated",
        ),
        (
            CreateNetworkInterfaceRequest {
                secondary_private_ip_address_count: 11,
                ..good.clone()
            },
            "InvalidOperation.Ipv4CountExceeded",
        ),
        (
            CreateNetworkInterfaceRequest { network_interface_name: text("1st"), ..good.clone() },
            "InvalidParameter",
        ),
        (
            CreateNetworkInterfaceRequest { queue_number: 2049, ..good.clone() },
            "InvalidParameter.InvalidEniQueueNumber",
        ),
        (
            CreateNetworkInterfaceRequest {
                tag: vec![Tag { key: text("acs:x"), value: text("") }],
                ..good.clone()
            },
            "InvalidTagKey.Malformed",
        ),
    ] {
        let refused = service.create_network_interface(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let primary = primary_of(&cloud, &instance_id).await;
    let taken = CreateNetworkInterfaceRequest {
        primary_ip_address: primary.private_ip_address.clone(),
        ..good.clone()
    };
    let refused = service.create_network_interface(taken).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidPrivateIpAddress.Duplicated");

    let id = primary.network_interface_id.as_str();
    for (outcome, expected) in [
        (attach_eni(&cloud, id, &instance_id).await, "InvalidOperation.InvalidEniType"),
        (detach_eni(&cloud, id, &instance_id).await, "InvalidOperation.DetachPrimaryEniNotAllowed"),
        (delete_eni(&cloud, id).await, "InvalidOperation.InvalidEniType"),
        (attach_eni(&cloud, "eni-x", &instance_id).await, "InvalidEniId.NotFound"),
        (attach_eni(&cloud, id, "").await, "MissingParameter"),
    ] {
        assert_eq!(code(&outcome.unwrap_err()), expected);
    }
    let loose = create_eni(&cloud, good.clone()).await.network_interface_id;
    assert_eq!(
        code(&attach_eni(&cloud, &loose, "i-x").await.unwrap_err()),
        "InvalidEcsId.NotFound"
    );
    assert_eq!(
        code(&detach_eni(&cloud, &loose, &instance_id).await.unwrap_err()),
        "InvalidOperation.InvalidEniState"
    );
    // An instance that is being made is no place yet.
    let other = CreateInstanceRequest {
        image_id: site.image_id.clone(),
        instance_type: text("ecs.c7.large"),
        v_switch_id: site.v_switch_id.clone(),
        security_group_id: site.security_group_id.clone(),
        ..Default::default()
    };
    let other = cloud.instances().create_instance(other).await.unwrap().into_inner().instance_id;
    until_instance(&cloud, &other, "Stopped").await;
    let request = DeleteInstanceRequest { instance_id: other.clone(), ..Default::default() };
    cloud.instances().delete_instance(request).await.unwrap();
    let refused = attach_eni(&cloud, &loose, &other).await.unwrap_err();
    assert!(
        ["InvalidOperation.InvalidEcsState", "InvalidEcsId.NotFound"]
            .contains(&code(&refused).as_str()),
        "{refused}"
    );
    // Another VPC.
    let abroad = abroad(&cloud).await;
    let there = create_eni(&cloud, new_eni(&abroad)).await.network_interface_id;
    assert_eq!(
        code(&attach_eni(&cloud, &there, &instance_id).await.unwrap_err()),
        "InvalidOperation.VpcMismatch"
    );
    let mixed = CreateNetworkInterfaceRequest {
        security_group_id: abroad.security_group_id.clone(),
        ..good.clone()
    };
    let refused = service.create_network_interface(mixed).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.VpcMismatch");
    // ecs.c7.large has three interfaces of six addresses and two queues.
    let many =
        CreateNetworkInterfaceRequest { secondary_private_ip_address_count: 6, ..good.clone() };
    let many = create_eni(&cloud, many).await.network_interface_id;
    assert_eq!(
        code(&attach_eni(&cloud, &many, &instance_id).await.unwrap_err()),
        "InvalidOperation.Ipv4CountExceeded"
    );
    let queues = CreateNetworkInterfaceRequest { queue_number: 3, ..good.clone() };
    let queues = create_eni(&cloud, queues).await.network_interface_id;
    assert_eq!(
        code(&attach_eni(&cloud, &queues, &instance_id).await.unwrap_err()),
        "InvalidOperation.ExceedInstanceTypeQueueNumber"
    );
    let third = create_eni(&cloud, good.clone()).await.network_interface_id;
    let fourth = create_eni(&cloud, good).await.network_interface_id;
    attach_eni(&cloud, &loose, &instance_id).await.unwrap();
    attach_eni(&cloud, &third, &instance_id).await.unwrap();
    let refused = attach_eni(&cloud, &fourth, &instance_id).await.unwrap_err();
    assert_eq!(code(&refused), "EniPerInstanceLimitExceeded");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let listed = DescribeNetworkInterfacesRequest { status: text("Gone"), ..Default::default() };
    let refused = service.describe_network_interfaces(listed).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
}

/// A network and a group in a VPC of their own.
async fn abroad(cloud: &CloudProcess) -> Site {
    let vpc = CreateVpcRequest { cidr_block: text("10.0.0.0/8"), ..Default::default() };
    let vpc_id = cloud.vpcs().create_vpc(vpc).await.unwrap().into_inner().vpc_id;
    let vswitch = CreateVSwitchRequest {
        vpc_id: vpc_id.clone(),
        zone_id: text(ZONE),
        cidr_block: text("10.1.0.0/16"),
        ..Default::default()
    };
    let v_switch_id = cloud.vpcs().create_v_switch(vswitch).await.unwrap().into_inner().v_switch_id;
    let security_group_id = create_group(cloud, &vpc_id, "").await;
    Site { vpc_id, v_switch_id, security_group_id, image_id: String::new() }
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_the_interface_detaching() {
    let (cloud, site, agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let second = run(&cloud, site.run(1)).await;
    let eni_id = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    attach_eni(&cloud, &eni_id, &first).await.unwrap();
    until_eni_is(&cloud, &eni_id, "InUse").await;
    let refuses = text("the guest has not released it");
    agent.behaviour.lock().unwrap().holding_enis.insert(eni_id.clone(), refuses);
    detach_eni(&cloud, &eni_id, &first).await.unwrap();
    detach_eni(&cloud, &eni_id, &first).await.unwrap();
    let eni = until_eni(&cloud, &eni_id, |eni| eni.status_reason.contains("not released")).await;
    assert_eq!((eni.status.as_str(), eni.instance_id.as_str()), ("Detaching", first.as_str()));
    assert!(eni.status_reason.starts_with("DetachNotAnswered"), "{}", eni.status_reason);
    for to in [&first, &second] {
        let refused = attach_eni(&cloud, &eni_id, to).await.unwrap_err();
        assert_eq!(code(&refused), "InvalidOperation.InvalidEniState");
        assert!(refused.message().contains("not released"), "{refused}");
    }
    assert_eq!(
        code(&delete_eni(&cloud, &eni_id).await.unwrap_err()),
        "InvalidOperation.InvalidEniState"
    );
    // Its place is not given away either.
    let other = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    attach_eni(&cloud, &other, &first).await.unwrap();
    let other = until_eni_is(&cloud, &other, "InUse").await;
    assert_eq!(other.attachment.unwrap().device_index, 2);
    agent.behaviour.lock().unwrap().holding_enis.clear();
    let eni = until_eni_is(&cloud, &eni_id, "Available").await;
    assert_eq!((eni.instance_id.as_str(), eni.status_reason.as_str()), ("", ""));
    attach_eni(&cloud, &eni_id, &second).await.unwrap();
    assert_eq!(until_eni_is(&cloud, &eni_id, "InUse").await.instance_id, second);
    no_faults(&agent);
}

#[tokio::test]
async fn an_interface_that_a_host_may_still_attach_is_given_to_nobody_else() {
    let (mut cloud, site, agent) = cloud_with_host().await;
    let first = run(&cloud, site.run(1)).await;
    let second = run(&cloud, site.run(1)).await;
    let eni_id = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    agent.behaviour.lock().unwrap().stuck = true;
    let primary = primary_of(&cloud, &first).await.network_interface_id;
    let more = assign(&primary, 1, &[]);
    cloud.network_interfaces().assign_private_ip_addresses(more).await.unwrap();
    let waiting = find_eni(&cloud, &primary).await.unwrap();
    assert_eq!((waiting.status.as_str(), waiting.in_effect), ("InUse", false));
    assert!(waiting.status_reason.contains("latest addresses"), "{}", waiting.status_reason);
    attach_eni(&cloud, &eni_id, &first).await.unwrap();
    let eni = until_eni_is(&cloud, &eni_id, "Attaching").await;
    assert!(eni.status_reason.contains("waiting for host host-1"), "{}", eni.status_reason);
    detach_eni(&cloud, &eni_id, &first).await.unwrap();
    // Reports of an agent that has not seen the change say nothing about it, nor does a restart.
    cloud.restart().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    until_eni_is(&cloud, &eni_id, "Detaching").await;
    let refused = attach_eni(&cloud, &eni_id, &second).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.InvalidEniState");
    agent.behaviour.lock().unwrap().stuck = false;
    until_eni_is(&cloud, &eni_id, "Available").await;
    attach_eni(&cloud, &eni_id, &second).await.unwrap();
    until_eni_is(&cloud, &eni_id, "InUse").await;
    until_eni(&cloud, &primary, |eni| eni.in_effect).await;
}

#[tokio::test]
async fn addresses_come_and_go_while_it_is_in_use() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let mut service = cloud.network_interfaces();
    let eni_id = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    attach_eni(&cloud, &eni_id, &instance_id).await.unwrap();
    until_eni_is(&cloud, &eni_id, "InUse").await;
    let once =
        AssignPrivateIpAddressesRequest { client_token: text("once"), ..assign(&eni_id, 2, &[]) };
    let given = service.assign_private_ip_addresses(once.clone()).await.unwrap().into_inner();
    let again = service.assign_private_ip_addresses(once).await.unwrap().into_inner();
    assert_eq!((given.private_ip_set.len(), &given.private_ip_set), (2, &again.private_ip_set));
    let more = service.assign_private_ip_addresses(assign(&eni_id, 0, &["10.1.9.9"]));
    assert_eq!(more.await.unwrap().into_inner().private_ip_set, ["10.1.9.9"]);
    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    assert_eq!(eni.private_ip_sets.len(), 4);
    until_spec(&agent, |spec| {
        let enis = &spec.instances[0].enis;
        enis.len() == 2 && enis[1].secondary_private_ips.len() == 3
    })
    .await;
    let generation = spec_of(&agent, &instance_id).enis[1].generation;
    for (request, expected) in [
        (assign(&eni_id, 0, &["10.1.9.9"]), "InvalidIp.IpAssigned"),
        (assign(&eni_id, 0, &[eni.private_ip_address.as_str()]), "InvalidIp.IpAssigned"),
        (assign(&eni_id, 0, &["10.1.0.0"]), "InvalidVSwitchId.IpInvalid"),
        (assign(&eni_id, 0, &["10.1.0.9", "10.1.0.9"]), "InvalidIp.IpRepeated"),
        (assign(&eni_id, 3, &[]), "InvalidOperation.Ipv4CountExceeded"),
        (assign(&eni_id, u32::MAX, &[]), "InvalidOperation.Ipv4CountExceeded"),
        (assign(&eni_id, 0, &[]), "MissingParameter"),
        (assign(&eni_id, 1, &["10.1.0.9"]), "InvalidParameter.Conflict"),
        (assign("eni-x", 1, &[]), "InvalidEniId.NotFound"),
    ] {
        let refused = service.assign_private_ip_addresses(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    // An address of another one.
    let other = create_eni(&cloud, new_eni(&site)).await;
    let theirs = assign(&eni_id, 0, &[other.private_ip_address.as_str()]);
    let refused = service.assign_private_ip_addresses(theirs).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidIp.IpAssigned");
    for gone in ["10.1.0.99", eni.private_ip_address.as_str()] {
        let refused = unassign(&cloud, &eni_id, &[gone]).await.unwrap_err();
        assert_eq!(code(&refused), "InvalidIp.IpUnassigned");
    }
    unassign(&cloud, &eni_id, &["10.1.9.9", &given.private_ip_set[0]]).await.unwrap();
    until_spec(&agent, |spec| spec.instances[0].enis[1].secondary_private_ips.len() == 1).await;
    assert!(spec_of(&agent, &instance_id).enis[1].generation > generation);
    // What was taken away is free for others, and the primary interface has secondary ones too.
    let primary = primary_of(&cloud, &instance_id).await.network_interface_id;
    let freed = assign(&primary, 0, &["10.1.9.9"]);
    service.assign_private_ip_addresses(freed).await.unwrap();
    let members = |spec: &api::host::HostSpec| spec.security_groups[0].member_ips.clone();
    until_spec(&agent, |spec| members(spec).contains(&text("10.1.9.9"))).await;
    assert_eq!(members(&agent.spec()).len(), 4, "and each of its addresses is a member");
}

#[tokio::test]
async fn attributes_are_changed_one_by_one() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let mut service = cloud.network_interfaces();
    let eni_id = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    let second = create_group(&cloud, &site.vpc_id, "").await;
    let advanced = create_group(&cloud, &site.vpc_id, "enterprise").await;
    let change = ModifyNetworkInterfaceAttributeRequest {
        network_interface_name: Some(text("web")),
        description: Some(text("text")),
        queue_number: Some(2),
        ..modify(&eni_id)
    };
    service.modify_network_interface_attribute(change).await.unwrap();
    attach_eni(&cloud, &eni_id, &instance_id).await.unwrap();
    until_eni_is(&cloud, &eni_id, "InUse").await;
    let spec = spec_of(&agent, &instance_id);
    assert_eq!((spec.enis[1].queues, spec.enis[1].no_source_check), (2, false));
    let change = ModifyNetworkInterfaceAttributeRequest {
        source_dest_check: Some(false),
        delete_on_release: Some(false),
        security_group_id: vec![second.clone(), site.security_group_id.clone()],
        ..modify(&eni_id)
    };
    service.modify_network_interface_attribute(change).await.unwrap();
    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    assert_eq!((eni.network_interface_name.as_str(), eni.description.as_str()), ("web", "text"));
    assert!(!eni.source_dest_check && !eni.delete_on_release);
    assert_eq!(eni.security_group_ids, [second.clone(), site.security_group_id.clone()]);
    until_spec(&agent, |spec| {
        let eni = &spec.instances[0].enis[1];
        eni.no_source_check
            && eni.security_group_ids.len() == 2
            && eni.generation > 3
            && spec.security_groups.len() == 2
    })
    .await;
    let primary = primary_of(&cloud, &instance_id).await.network_interface_id;
    for (change, expected) in [
        (modify(&eni_id), "MissingParameter"),
        (
            ModifyNetworkInterfaceAttributeRequest {
                security_group_id: vec![second.clone(), advanced.clone()],
                ..modify(&eni_id)
            },
            "EnterpriseGroupLimited.MutliGroupType",
        ),
        (
            ModifyNetworkInterfaceAttributeRequest {
                security_group_id: vec![text("sg-x")],
                ..modify(&eni_id)
            },
            "InvalidSecurityGroupId.NotFound",
        ),
        (
            ModifyNetworkInterfaceAttributeRequest { queue_number: Some(1), ..modify(&eni_id) },
            "InvalidOperation.InvalidEcsState",
        ),
        (
            ModifyNetworkInterfaceAttributeRequest { queue_number: Some(1), ..modify(&primary) },
            "InvalidOperation.InvalidEniType",
        ),
        (
            ModifyNetworkInterfaceAttributeRequest {
                delete_on_release: Some(false),
                ..modify(&primary)
            },
            "InvalidOperation.InvalidEniType",
        ),
    ] {
        let refused = service.modify_network_interface_attribute(change).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    // All of it or nothing.
    assert_eq!(find_eni(&cloud, &eni_id).await.unwrap().security_group_ids.len(), 2);
    let asked = DescribeNetworkInterfaceAttributeRequest {
        network_interface_id: eni_id.clone(),
        ..Default::default()
    };
    let one = service.describe_network_interface_attribute(asked).await.unwrap().into_inner();
    assert_eq!(one.network_interface.unwrap().network_interface_id, eni_id);
    // A group that an interface is in cannot go.
    let delete =
        DeleteSecurityGroupRequest { security_group_id: second.clone(), ..Default::default() };
    let refused = cloud.groups().delete_security_group(delete).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation");
    let delete =
        DeleteVSwitchRequest { v_switch_id: site.v_switch_id.clone(), ..Default::default() };
    let refused = cloud.vpcs().delete_v_switch(delete).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation");
}
