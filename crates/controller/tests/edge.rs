//! Route tables, EIPs and what VPCs have, against the real process and fake agents.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod edge_calls;
mod fake_agent;

use api::{
    host::route_entry_spec::NextHop as Hop,
    v1::{network_interface_service_client::NetworkInterfaceServiceClient, *},
};
use cloud_process::{CloudProcess, ZONE, code};
use edge_calls::{Edge, text, until};
use fake_agent::FakeAgent;

#[tokio::test]
async fn vpcs_and_vswitches_change() {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let mut vpcs = cloud.vpcs();
    let vpc_id = site.vpc_id.clone();
    let modify = ModifyVpcAttributeRequest {
        vpc_id: vpc_id.clone(),
        vpc_name: Some(text("prod")),
        enable_ipv6: Some(true),
        ..Default::default()
    };
    vpcs.modify_vpc_attribute(modify.clone()).await.unwrap();
    let secondary = |cidr: &str| AssociateVpcCidrBlockRequest {
        vpc_id: vpc_id.clone(),
        secondary_cidr_block: text(cidr),
        ..Default::default()
    };
    vpcs.associate_vpc_cidr_block(secondary("192.168.0.0/16")).await.unwrap();
    for (cidr, expected) in [
        ("192.168.4.0/24", "InvalidCidrBlock.Overlapped"),
        ("100.64.0.0/16", "InvalidCidrBlock"),
        ("169.254.0.0/16", "InvalidCidrBlock"),
        ("192.168.0.1/16", "InvalidCidrBlock.Malformed"),
        ("10.0.0.0/29", "InvalidCidrBlock"),
    ] {
        let refused = vpcs.associate_vpc_cidr_block(secondary(cidr)).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{cidr}: {refused}");
    }
    let vswitch = CreateVSwitchRequest {
        vpc_id: vpc_id.clone(),
        zone_id: text(ZONE),
        cidr_block: text("192.168.9.0/24"),
        ipv6_cidr_block: Some(7),
        ..Default::default()
    };
    let made = vpcs.create_v_switch(vswitch.clone()).await.unwrap().into_inner().v_switch_id;
    let twice = CreateVSwitchRequest { cidr_block: text("192.168.8.0/24"), ..vswitch };
    let refused = vpcs.create_v_switch(twice).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidIpv6CidrBlock.Duplicated");

    let attribute = DescribeVpcAttributeRequest { vpc_id: vpc_id.clone(), ..Default::default() };
    let vpc = vpcs.describe_vpc_attribute(attribute.clone()).await.unwrap().into_inner();
    assert_eq!(vpc.vpc_name, "prod");
    assert_eq!(vpc.secondary_cidr_blocks, ["192.168.0.0/16"]);
    assert!(vpc.enabled_ipv6 && vpc.ipv6_cidr_block.ends_with("/56"), "{vpc:?}");
    let count = |kind: &str| {
        let mut resources = vpc.cloud_resources.iter();
        resources.find(|r| r.resource_type == kind).map_or(0, |r| r.resource_count)
    };
    assert_eq!((count("VSwitch"), count("RouteTable"), count("SecurityGroup")), (2, 1, 1));
    let attributes =
        DescribeVSwitchAttributesRequest { v_switch_id: made.clone(), ..Default::default() };
    let described = vpcs.describe_v_switch_attributes(attributes.clone()).await.unwrap();
    let described = described.into_inner();
    assert!(described.ipv6_cidr_block.contains(":7::/64"), "{described:?}");
    assert_eq!(described.route_table.unwrap().route_table_type, "System");

    let off = ModifyVpcAttributeRequest { enable_ipv6: Some(false), ..modify };
    let refused = vpcs.modify_vpc_attribute(off.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.VSwitch");
    let away = UnassociateVpcCidrBlockRequest {
        vpc_id: vpc_id.clone(),
        secondary_cidr_block: text("192.168.0.0/16"),
        ..Default::default()
    };
    let refused = vpcs.unassociate_vpc_cidr_block(away.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.VSwitch");
    let change = ModifyVSwitchAttributeRequest {
        v_switch_id: made.clone(),
        v_switch_name: Some(text("front")),
        enable_ipv6: Some(false),
        ..Default::default()
    };
    vpcs.modify_v_switch_attribute(change).await.unwrap();
    let described = vpcs.describe_v_switch_attributes(attributes).await.unwrap().into_inner();
    assert_eq!((described.v_switch_name.as_str(), described.enabled_ipv6), ("front", false));
    vpcs.modify_vpc_attribute(off).await.unwrap();
    let delete = DeleteVSwitchRequest { v_switch_id: made, ..Default::default() };
    vpcs.delete_v_switch(delete).await.unwrap();
    vpcs.unassociate_vpc_cidr_block(away.clone()).await.unwrap();
    let refused = vpcs.unassociate_vpc_cidr_block(away).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidCidrBlock.NotFound");
    let vpc = vpcs.describe_vpc_attribute(attribute).await.unwrap().into_inner();
    assert!(vpc.secondary_cidr_blocks.is_empty() && !vpc.enabled_ipv6);
}

#[tokio::test]
async fn routes_lead_to_what_is_there_and_nowhere_when_it_is_gone() {
    let edge = Edge::start(&[]).await;
    let instance = edge.instance().await;
    let mut tables = edge.tables();
    let request = CreateRouteTableRequest {
        vpc_id: edge.site.vpc_id.clone(),
        route_table_name: text("inner"),
        client_token: text("t"),
        ..Default::default()
    };
    let table = tables.create_route_table(request.clone()).await.unwrap().into_inner();
    let again = tables.create_route_table(request).await.unwrap().into_inner();
    assert_eq!(table.route_table_id, again.route_table_id);
    let table_id = table.route_table_id;
    let entry = |cidr: &str, kind: &str, id: &str| CreateRouteEntryRequest {
        route_table_id: table_id.clone(),
        destination_cidr_block: text(cidr),
        next_hop_type: text(kind),
        next_hop_id: text(id),
        ..Default::default()
    };
    let good = entry("192.168.0.0/16", "Instance", &instance.instance_id);
    let made = tables.create_route_entry(good.clone()).await.unwrap().into_inner();
    for (request, expected) in [
        (good, "InvalidCIDRBlock.Duplicate"),
        (entry("10.1.1.0/25", "Instance", &instance.instance_id), "InvalidCidrBlock"),
        (entry("100.100.0.0/16", "Instance", &instance.instance_id), "InvalidCidrBlock"),
        (entry("10.0.0.1/8", "Instance", &instance.instance_id), "InvalidCidrBlock.Malformed"),
        (entry("10.0.0.0/8", "Instance", "i-none"), "InvalidNextHopId.NotFound"),
        (entry("10.0.0.0/8", "NatGateway", "ngw-none"), "InvalidNatGatewayId.NotFound"),
        (entry("10.0.0.0/8", "VpnGateway", "vpn-1"), "InvalidNextHopType.ValueNotSupported"),
    ] {
        let cidr = request.destination_cidr_block.clone();
        let refused = tables.create_route_entry(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{cidr}: {refused}");
    }
    let associate = AssociateRouteTableRequest {
        route_table_id: table_id.clone(),
        v_switch_id: edge.site.v_switch_id.clone(),
        ..Default::default()
    };
    tables.associate_route_table(associate).await.unwrap();
    let address = instance.vpc_attributes.clone().unwrap().private_ip_address[0].clone();
    until("the host has the route", || {
        let spec = edge.agent.spec();
        let table = spec.vpcs[0].route_tables.iter().find(|t| t.route_table_id == table_id);
        let uses = spec.vpcs[0].vswitches.iter().any(|v| v.route_table_id == table_id);
        let entry = table.and_then(|table| table.entries.first().cloned());
        uses && entry.is_some_and(|e| e.next_hop == Some(Hop::PrivateIp(address.clone())))
    })
    .await;

    let list = DescribeRouteEntryListRequest {
        route_table_id: table_id.clone(),
        max_result: 2,
        ..Default::default()
    };
    let first = tables.describe_route_entry_list(list.clone()).await.unwrap().into_inner();
    assert_eq!(first.route_entrys.len(), 2);
    assert!(first.route_entrys.iter().all(|entry| entry.r#type == "System"));
    let next = DescribeRouteEntryListRequest { next_token: first.next_token, ..list.clone() };
    let second = tables.describe_route_entry_list(next).await.unwrap().into_inner();
    let [custom] = second.route_entrys.as_slice() else { panic!("{second:?}") };
    assert_eq!((custom.status.as_str(), second.next_token.as_str()), ("Available", ""));
    assert_eq!(custom.next_hops[0].next_hop_id, instance.instance_id);

    let delete = DeleteRouteTableRequest { route_table_id: table_id.clone(), ..Default::default() };
    let refused = tables.delete_route_table(delete.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.VSwitch");
    let other = edge.instance().await;
    edge.delete_instance(&instance.instance_id).await;
    let named = DescribeRouteEntryListRequest {
        route_entry_id: made.route_entry_id.clone(),
        max_result: 0,
        ..list
    };
    let hole = tables.describe_route_entry_list(named.clone()).await.unwrap().into_inner();
    assert_eq!(hole.route_entrys[0].status, "Blackhole");
    assert!(!hole.route_entrys[0].next_hops[0].enabled);
    until("the host is told of the black hole", || {
        let spec = edge.agent.spec();
        let tables = spec.vpcs.iter().flat_map(|vpc| &vpc.route_tables);
        tables.flat_map(|table| &table.entries).any(|e| e.next_hop == Some(Hop::Blackhole(true)))
    })
    .await;
    let modify = ModifyRouteEntryRequest {
        route_entry_id: made.route_entry_id.clone(),
        new_next_hop_type: text("NetworkInterface"),
        new_next_hop_id: other.network_interfaces[0].network_interface_id.clone(),
        ..Default::default()
    };
    tables.modify_route_entry(modify).await.unwrap();
    let mended = tables.describe_route_entry_list(named).await.unwrap().into_inner();
    assert_eq!(mended.route_entrys[0].status, "Available");

    let unassociate = UnassociateRouteTableRequest {
        route_table_id: table_id.clone(),
        v_switch_id: edge.site.v_switch_id.clone(),
        ..Default::default()
    };
    tables.unassociate_route_table(unassociate.clone()).await.unwrap();
    let refused = tables.unassociate_route_table(unassociate).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidAssociation.NotFound");
    let by_destination = DeleteRouteEntryRequest {
        route_table_id: table_id.clone(),
        destination_cidr_block: text("192.168.0.0/16"),
        ..Default::default()
    };
    tables.delete_route_entry(by_destination.clone()).await.unwrap();
    let refused = tables.delete_route_entry(by_destination).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidRouteEntry.NotFound");
    let list =
        DescribeRouteTableListRequest { vpc_id: edge.site.vpc_id.clone(), ..Default::default() };
    let listed = tables.describe_route_table_list(list.clone()).await.unwrap().into_inner();
    assert_eq!(listed.total_count, 2);
    let system = listed.router_table_list.iter().find(|t| t.route_table_type == "System").unwrap();
    assert_eq!(system.v_switch_ids, [edge.site.v_switch_id.clone()]);
    let of_system =
        DeleteRouteTableRequest { route_table_id: system.route_table_id.clone(), ..delete.clone() };
    let refused = tables.delete_route_table(of_system).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.SystemRouteTable");
    tables.delete_route_table(delete).await.unwrap();
    for _ in 0..9 {
        let vpc_id = edge.site.vpc_id.clone();
        let request = CreateRouteTableRequest { vpc_id, ..Default::default() };
        tables.create_route_table(request).await.unwrap();
    }
    let request = CreateRouteTableRequest { vpc_id: list.vpc_id, ..Default::default() };
    let refused = tables.create_route_table(request).await.unwrap_err();
    assert_eq!(code(&refused), "QuotaExceeded.RouteTable");
}

#[tokio::test]
async fn without_a_range_there_are_no_eips() {
    let cloud = CloudProcess::start(&[]).await;
    let edge =
        Edge { site: cloud.site().await, agent: FakeAgent::start(&cloud, "h", 4, 8192), cloud };
    let refused = edge.eips().allocate_eip_address(AllocateEipAddressRequest::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(code(&refused), "InsufficientPublicIp");
    assert!(refused.message().contains("--eip-range"), "{refused}");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
}

#[tokio::test]
async fn an_eip_follows_what_its_host_has_done() {
    let edge = Edge::start(&["--eip-range", "203.0.113.0/29"]).await;
    let instance = edge.instance().await;
    let mut eips = edge.eips();
    let allocate = AllocateEipAddressRequest {
        bandwidth: text("20"),
        name: text("front"),
        client_token: text("t"),
        ..Default::default()
    };
    let eip = eips.allocate_eip_address(allocate.clone()).await.unwrap().into_inner();
    let again = eips.allocate_eip_address(allocate.clone()).await.unwrap().into_inner();
    assert_eq!(eip.allocation_id, again.allocation_id);
    let wrong = AllocateEipAddressRequest { bandwidth: text("900"), ..Default::default() };
    let refused = eips.allocate_eip_address(wrong).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidBandwidth.ValueNotSupported");
    let taken =
        AllocateEipAddressRequest { ip_address: eip.eip_address.clone(), ..Default::default() };
    let refused = eips.allocate_eip_address(taken).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidIpAddress.Duplicated");
    assert_eq!(edge.eip(&eip.allocation_id).await.status, "Available");

    edge.agent.behaviour.lock().unwrap().stuck = true;
    let associate = AssociateEipAddressRequest {
        allocation_id: eip.allocation_id.clone(),
        instance_id: instance.instance_id.clone(),
        ..Default::default()
    };
    eips.associate_eip_address(associate.clone()).await.unwrap();
    assert_eq!(edge.eip(&eip.allocation_id).await.status, "Associating");
    let refused = eips.associate_eip_address(associate.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectEipStatus");
    edge.agent.behaviour.lock().unwrap().stuck = false;
    let in_use = edge.until_eip(&eip.allocation_id, "InUse").await;
    let address = instance.vpc_attributes.clone().unwrap().private_ip_address[0].clone();
    assert_eq!((in_use.private_ip_address, in_use.bandwidth), (address.clone(), text("20")));
    assert_eq!(in_use.instance_id, instance.instance_id);
    let told = edge.agent.spec().instances[0].enis[0].eips.clone();
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].address, &told[0].private_ip), (&eip.eip_address, &address));
    let shown = edge.describe(&instance.instance_id).await.unwrap();
    assert_eq!(shown.eip_address.unwrap().ip_address, eip.eip_address);

    // One public address for a private one, and none is released while it stands for something.
    let second = eips.allocate_eip_address(AllocateEipAddressRequest::default()).await.unwrap();
    let second = second.into_inner();
    let other =
        AssociateEipAddressRequest { allocation_id: second.allocation_id, ..associate.clone() };
    let refused = eips.associate_eip_address(other).await.unwrap_err();
    assert_eq!(code(&refused), "BIND_INSTANCE_HAVE_PORTMAP_OR_BIND_EIP");
    let release =
        ReleaseEipAddressRequest { allocation_id: eip.allocation_id.clone(), ..Default::default() };
    let refused = eips.release_eip_address(release.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectEipStatus");
    let modify = ModifyEipAddressAttributeRequest {
        allocation_id: eip.allocation_id.clone(),
        bandwidth: text("50"),
        ..Default::default()
    };
    eips.modify_eip_address_attribute(modify).await.unwrap();
    until("the host knows the new bandwidth", || {
        let spec = edge.agent.spec();
        spec.instances[0].enis[0].eips.first().is_some_and(|eip| eip.bandwidth_mbps == 50)
    })
    .await;
    assert_eq!(edge.eip(&eip.allocation_id).await.status, "InUse");

    // A stopped instance keeps it.
    edge.stop(&instance.instance_id).await;
    assert_eq!(edge.eip(&eip.allocation_id).await.status, "InUse");

    edge.agent.behaviour.lock().unwrap().stuck = true;
    let unassociate = UnassociateEipAddressRequest {
        allocation_id: eip.allocation_id.clone(),
        instance_id: instance.instance_id.clone(),
        ..Default::default()
    };
    let elsewhere =
        UnassociateEipAddressRequest { instance_id: text("i-other"), ..unassociate.clone() };
    let refused = eips.unassociate_eip_address(elsewhere).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidAssociation.NotFound");
    eips.unassociate_eip_address(unassociate).await.unwrap();
    assert_eq!(edge.eip(&eip.allocation_id).await.status, "Unassociating");
    let refused = eips.release_eip_address(release.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "IncorrectEipStatus");
    edge.agent.behaviour.lock().unwrap().stuck = false;
    edge.until_eip(&eip.allocation_id, "Available").await;
    eips.associate_eip_address(associate).await.unwrap();
    edge.until_eip(&eip.allocation_id, "InUse").await;
    // It outlives its instance.
    edge.delete_instance(&instance.instance_id).await;
    edge.until_eip(&eip.allocation_id, "Available").await;
    eips.release_eip_address(release.clone()).await.unwrap();
    let refused = eips.release_eip_address(release).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidAllocationId.NotFound");
}

#[tokio::test]
async fn static_public_addresses_come_and_go_with_instances() {
    let edge = Edge::start(&["--eip-range", "203.0.113.0/30"]).await;
    let run = RunInstancesRequest { internet_max_bandwidth_out: 10, ..edge.site.run(2) };
    let too_many = RunInstancesRequest { amount: 3, ..run.clone() };
    let refused = edge.cloud.instances().run_instances(too_many).await.unwrap_err();
    assert_eq!(code(&refused), "InsufficientPublicIp");
    let ids = edge.cloud.instances().run_instances(run.clone()).await.unwrap().into_inner();
    let mut addresses = Vec::new();
    for id in &ids.instance_id_sets {
        let instance = edge.until_status(id, "Running").await;
        assert_eq!(instance.internet_max_bandwidth_out, 10);
        addresses.extend(instance.public_ip_address);
    }
    addresses.sort();
    assert_eq!(addresses, ["203.0.113.1", "203.0.113.2"]);
    let told = edge.agent.spec();
    let told = told.instances.iter().flat_map(|instance| &instance.enis[0].eips);
    assert_eq!(told.count(), 2);
    // They are no EIPs.
    let all = edge.eips().describe_eip_addresses(DescribeEipAddressesRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().total_count, 0);
    edge.delete_instance(&ids.instance_id_sets[0]).await;
    let one = RunInstancesRequest { amount: 1, ..run };
    edge.cloud.instances().run_instances(one).await.unwrap();
}

#[tokio::test]
async fn a_secondary_address_has_its_own_eip_and_loses_it_when_it_goes() {
    let edge = Edge::start(&["--eip-range", "203.0.113.0/29"]).await;
    let mut interfaces = NetworkInterfaceServiceClient::new(edge.cloud.channel());
    let request = CreateNetworkInterfaceRequest {
        v_switch_id: edge.site.v_switch_id.clone(),
        security_group_id: edge.site.security_group_id.clone(),
        secondary_private_ip_address_count: 1,
        ..Default::default()
    };
    let made = interfaces.create_network_interface(request).await.unwrap().into_inner();
    let eni_id = made.network_interface_id;
    let list = DescribeNetworkInterfacesRequest {
        network_interface_id: vec![eni_id.clone()],
        ..Default::default()
    };
    let listed = interfaces.describe_network_interfaces(list).await.unwrap().into_inner();
    let sets = &listed.network_interface_sets[0].private_ip_sets;
    let secondary = sets.iter().find(|set| !set.primary).unwrap().private_ip_address.clone();
    let (first, second) = (edge.allocate().await, edge.allocate().await);
    let associate = |allocation_id: &str, private: &str| AssociateEipAddressRequest {
        allocation_id: text(allocation_id),
        instance_id: eni_id.clone(),
        instance_type: text("NetworkInterface"),
        private_ip_address: text(private),
        ..Default::default()
    };
    let foreign = associate(&first.allocation_id, "10.1.200.1");
    let refused = edge.eips().associate_eip_address(foreign).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidPrivateIpAddress.NotFound");
    edge.eips().associate_eip_address(associate(&first.allocation_id, "")).await.unwrap();
    let of_secondary = associate(&second.allocation_id, &secondary);
    edge.eips().associate_eip_address(of_secondary).await.unwrap();
    // At no instance there is nothing to be done on a host.
    assert_eq!(edge.eip(&second.allocation_id).await.status, "InUse");
    let unassign = UnassignPrivateIpAddressesRequest {
        network_interface_id: eni_id.clone(),
        private_ip_address: vec![secondary],
        ..Default::default()
    };
    interfaces.unassign_private_ip_addresses(unassign).await.unwrap();
    assert_eq!(edge.eip(&second.allocation_id).await.status, "Available");
    assert_eq!(edge.eip(&first.allocation_id).await.status, "InUse");
    let delete =
        DeleteNetworkInterfaceRequest { network_interface_id: eni_id, ..Default::default() };
    interfaces.delete_network_interface(delete).await.unwrap();
    assert_eq!(edge.eip(&first.allocation_id).await.status, "Available");
}
