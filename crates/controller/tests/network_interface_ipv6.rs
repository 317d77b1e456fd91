//! IPv6 addresses of network interfaces, against the real process and fake agents.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod eni_calls;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, Site, code};
use disk_calls::{cloud_with_host, run, until_hosts};
use eni_calls::*;
use fake_agent::FakeAgent;
use std::net::Ipv6Addr;

fn text(value: &str) -> String {
    value.to_owned()
}

/// Gives the site's VSwitch the /64 that ends in 7. Gives the /64 without its `::/64`.
async fn with_ipv6(cloud: &CloudProcess, site: &Site) -> String {
    let vpc = ModifyVpcAttributeRequest {
        vpc_id: site.vpc_id.clone(),
        enable_ipv6: Some(true),
        ..Default::default()
    };
    cloud.vpcs().modify_vpc_attribute(vpc).await.unwrap();
    cloud.vpcs().modify_v_switch_attribute(ipv6_of(site, Some(true), Some(7))).await.unwrap();
    let asked = DescribeVSwitchAttributesRequest {
        v_switch_id: site.v_switch_id.clone(),
        ..Default::default()
    };
    let vswitch = cloud.vpcs().describe_v_switch_attributes(asked).await.unwrap().into_inner();
    vswitch.ipv6_cidr_block.strip_suffix("::/64").unwrap().to_owned()
}

fn ipv6_of(site: &Site, on: Option<bool>, byte: Option<u32>) -> ModifyVSwitchAttributeRequest {
    ModifyVSwitchAttributeRequest {
        v_switch_id: site.v_switch_id.clone(),
        enable_ipv6: on,
        ipv6_cidr_block: byte,
        ..Default::default()
    }
}

fn assign6(eni_id: &str, count: u32, given: &[&str]) -> AssignIpv6AddressesRequest {
    AssignIpv6AddressesRequest {
        network_interface_id: text(eni_id),
        ipv6_address_count: count,
        ipv6_address: given.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

async fn unassign6(cloud: &CloudProcess, eni_id: &str, gone: &[&str]) -> Result<(), tonic::Status> {
    let request = UnassignIpv6AddressesRequest {
        network_interface_id: text(eni_id),
        ipv6_address: gone.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    cloud.network_interfaces().unassign_ipv6_addresses(request).await.map(drop)
}

fn texts(eni: &NetworkInterface) -> Vec<&str> {
    eni.ipv6_sets.iter().map(|set| set.ipv6_address.as_str()).collect()
}

#[tokio::test]
async fn addresses_of_ipv6_come_and_go() {
    let (cloud, site, agent) = cloud_with_host().await;
    let mut service = cloud.network_interfaces();
    let none = CreateNetworkInterfaceRequest { ipv6_address_count: 1, ..new_eni(&site) };
    let refused = service.create_network_interface(none.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidVSwitch.Ipv6NotTurnOn");
    let block = with_ipv6(&cloud, &site).await;
    let at = |host: &str| format!("{block}::{host}");

    let request = CreateNetworkInterfaceRequest {
        ipv6_address: vec![at("10"), at("11")],
        client_token: text("once"),
        ..new_eni(&site)
    };
    let made = create_eni(&cloud, request.clone()).await;
    let given: Vec<_> = made.ipv6_sets.iter().map(|set| set.ipv6_address.clone()).collect();
    assert_eq!(given, [at("10"), at("11")]);
    let again = create_eni(&cloud, request).await;
    assert_eq!(again.network_interface_id, made.network_interface_id);
    let eni_id = made.network_interface_id;
    let any = create_eni(&cloud, none).await;
    let any_id = any.network_interface_id;
    let free: Ipv6Addr = any.ipv6_sets[0].ipv6_address.parse().unwrap();
    assert!(free.to_string().starts_with(&block), "{free}");

    let instance_id = run(&cloud, site.run(1)).await;
    attach_eni(&cloud, &eni_id, &instance_id).await.unwrap();
    until_eni_is(&cloud, &eni_id, "InUse").await;
    let spec = spec_of(&agent, &instance_id).enis.remove(1);
    assert_eq!(spec.ipv6_addresses, given, "they come with it");
    assert_eq!(spec.vswitch_ipv6_cidr, format!("{block}::/64"));
    assert!(spec.vpc_ipv6_cidr.ends_with("/56"), "{spec:?}");

    let once = AssignIpv6AddressesRequest { client_token: text("2"), ..assign6(&eni_id, 2, &[]) };
    let two = service.assign_ipv6_addresses(once.clone()).await.unwrap().into_inner();
    let again = service.assign_ipv6_addresses(once).await.unwrap().into_inner();
    assert_eq!((two.ipv6_sets.len(), &two.ipv6_sets), (2, &again.ipv6_sets));
    let one = service.assign_ipv6_addresses(assign6(&eni_id, 0, &[&at("12")])).await.unwrap();
    assert_eq!(one.into_inner().ipv6_sets, [at("12")]);
    until_spec(&agent, |spec| spec.instances[0].enis[1].ipv6_addresses.len() == 5).await;
    until_spec(&agent, |spec| spec.security_groups[0].member_ips.contains(&at("12"))).await;
    for (request, expected) in [
        (assign6(&eni_id, 0, &[&at("12")]), "InvalidIp.IpAssigned"),
        (assign6(&any_id, 0, &[&at("12")]), "InvalidIp.IpAssigned"),
        (assign6(&eni_id, 0, &["fdec::1"]), "InvalidVSwitchId.IpInvalid"),
        (assign6(&eni_id, 0, &[&at("")]), "InvalidVSwitchId.IpInvalid"),
        (
            assign6(&eni_id, 0, &[&format!("{block}:ffff:ffff:ffff:fff7")]),
            "InvalidVSwitchId.IpInvalid",
        ),
        (assign6(&eni_id, 0, &["10.1.0.1"]), "InvalidIp.Address"),
        (assign6(&eni_id, 0, &[&at("20"), &at("0:20")]), "InvalidIp.IpRepeated"),
        // ecs.c7.large has six.
        (assign6(&eni_id, 2, &[]), "InvalidOperation.Ipv6CountExceeded"),
        (assign6(&any_id, 10, &[]), "InvalidOperation.Ipv6CountExceeded"),
        (assign6(&eni_id, u32::MAX, &[]), "InvalidOperation.Ipv6CountExceeded"),
        (assign6(&eni_id, 1, &[&at("20")]), "InvalidParameter.Conflict"),
        (assign6(&eni_id, 0, &[]), "MissingParameter"),
        (assign6("eni-x", 1, &[]), "InvalidEniId.NotFound"),
    ] {
        let refused = service.assign_ipv6_addresses(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let by_address =
        DescribeNetworkInterfacesRequest { ipv6_address: vec![at("12")], ..Default::default() };
    let found = enis(&cloud, by_address).await;
    assert_eq!((found.len(), texts(&found[0]).len()), (1, 5));
    let by_address =
        DescribeInstancesRequest { ipv6_address: vec![at("10")], ..Default::default() };
    let found = cloud.instances().describe_instances(by_address).await.unwrap().into_inner();
    assert_eq!(found.instances[0].network_interfaces[1].ipv6_address.len(), 5);

    // The block stays while interfaces have addresses of it.
    for change in [ipv6_of(&site, Some(false), None), ipv6_of(&site, None, Some(8))] {
        let refused = cloud.vpcs().modify_v_switch_attribute(change).await.unwrap_err();
        assert_eq!(code(&refused), "DependencyViolation.NetworkInterface");
    }
    let refused = unassign6(&cloud, &eni_id, &[&at("99")]).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidIp.IpUnassigned");
    let eni = find_eni(&cloud, &eni_id).await.unwrap();
    unassign6(&cloud, &eni_id, &texts(&eni)).await.unwrap();
    until_spec(&agent, |spec| {
        let eni = &spec.instances[0].enis[1];
        eni.ipv6_addresses.is_empty() && eni.vswitch_ipv6_cidr.is_empty()
    })
    .await;
    delete_eni(&cloud, &any_id).await.unwrap();
    cloud.vpcs().modify_v_switch_attribute(ipv6_of(&site, Some(false), None)).await.unwrap();
    no_faults(&agent);
}

#[tokio::test]
async fn new_instances_have_ipv6() {
    let cloud = CloudProcess::start(&["--cpu-overcommit", "10"]).await;
    let site = cloud.site().await;
    let first = FakeAgent::start(&cloud, "host-1", 16, 64 << 10);
    until_hosts(&cloud, 1).await;
    let block = with_ipv6(&cloud, &site).await;
    let request = RunInstancesRequest { ipv6_address_count: 2, ..site.run(2) };
    let made = cloud.instances().run_instances(request).await.unwrap().into_inner();
    let instance_id = made.instance_id_sets[0].clone();
    let eni = primary_of(&cloud, &instance_id).await;
    let address = texts(&eni)[0].to_owned();
    assert_eq!(texts(&eni).len(), 2);
    until_spec(&first, |spec| {
        let complete = |one: &api::host::InstanceSpec| one.enis[0].ipv6_addresses.len() == 2;
        spec.instances.len() == 2 && spec.instances.iter().all(complete)
    })
    .await;
    assert_eq!(first.spec().security_groups[0].member_ips.len(), 6);
    assert!(first.spec().security_groups[0].member_ips.contains(&address));

    let secondary = InstanceNetworkInterfaceOrder {
        ipv6_address: vec![format!("{block}::77")],
        ..Default::default()
    };
    let request = CreateInstanceRequest {
        image_id: site.image_id.clone(),
        instance_type: text("ecs.c7.large"),
        v_switch_id: site.v_switch_id.clone(),
        security_group_id: site.security_group_id.clone(),
        ipv6_address: vec![format!("{block}::76")],
        network_interface: vec![secondary],
        ..Default::default()
    };
    let made = cloud.instances().create_instance(request.clone()).await.unwrap().into_inner();
    let by_id =
        DescribeInstancesRequest { instance_ids: vec![made.instance_id], ..Default::default() };
    let described = cloud.instances().describe_instances(by_id).await.unwrap().into_inner();
    let all: Vec<_> = described.instances[0]
        .network_interfaces
        .iter()
        .flat_map(|eni| eni.ipv6_address.clone())
        .collect();
    assert_eq!(all, [format!("{block}::76"), format!("{block}::77")]);
    let refused = cloud.instances().create_instance(request).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidPrivateIpAddress.Duplicated", "{refused}");

    let with = |instance_type: &str, amount, given: &[&str], count| RunInstancesRequest {
        instance_type: text(instance_type),
        ipv6_address: given.iter().map(ToString::to_string).collect(),
        ipv6_address_count: count,
        ..site.run(amount)
    };
    let free = format!("{block}::90");
    for (request, expected) in [
        (with("ecs.c7.large", 1, &[], 7), "InvalidOperation.Ipv6CountExceeded"),
        (with("ecs.xn4.small", 1, &[], 1), "InvalidOperation.Ipv6NotSupport"),
        (with("ecs.c7.large", 2, &[&free], 0), "InvalidParameter"),
        (with("ecs.c7.large", 1, &[&free], 1), "InvalidParameter.Conflict"),
        (with("ecs.c7.large", 1, &["::1"], 0), "InvalidVSwitchId.IpInvalid"),
    ] {
        let refused = cloud.instances().run_instances(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    no_faults(&first);
}
