//! NAT gateways, prefix lists, and what becomes of a packet.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod edge_calls;
mod fake_agent;

use api::{host::NatGatewaySpec, v1::*};
use cloud_process::code;
use edge_calls::{Edge, text, until};
use fake_agent::FakeAgent;
use std::time::{Duration, Instant};

const RANGE: [&str; 2] = ["--eip-range", "203.0.113.0/28"];

async fn create(edge: &Edge, token: &str) -> CreateNatGatewayResponse {
    let request = CreateNatGatewayRequest {
        vpc_id: edge.site.vpc_id.clone(),
        v_switch_id: edge.site.v_switch_id.clone(),
        client_token: text(token),
        ..Default::default()
    };
    edge.gateways().create_nat_gateway(request).await.unwrap().into_inner()
}

async fn until_gateway(edge: &Edge, id: &str, status: &str, host_id: &str) -> NatGateway {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let gateway = edge.gateway(id).await.unwrap();
        if gateway.status == status && gateway.host_id == host_id {
            return gateway;
        }
        assert!(Instant::now() < deadline, "never {status} on {host_id}: {gateway:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a host is told of a gateway.
fn told(agent: &FakeAgent, id: &str) -> Option<NatGatewaySpec> {
    let spec = agent.spec();
    let mut gateways = spec.vpcs.iter().flat_map(|vpc| &vpc.nat_gateways);
    gateways.find(|gateway| gateway.nat_gateway_id == id).cloned()
}

/// Custom entries of the VPC's system table.
async fn routes(edge: &Edge) -> Vec<RouteEntry> {
    let vpc = DescribeVpcsRequest { vpc_id: edge.site.vpc_id.clone(), ..Default::default() };
    let vpc = edge.cloud.vpcs().describe_vpcs(vpc).await.unwrap().into_inner();
    let request = DescribeRouteEntryListRequest {
        route_table_id: vpc.vpcs[0].router_table_ids[0].clone(),
        route_entry_type: text("Custom"),
        ..Default::default()
    };
    edge.tables().describe_route_entry_list(request).await.unwrap().into_inner().route_entrys
}

#[tokio::test]
async fn a_gateway_has_entries_and_a_host_and_moves_when_that_is_lost() {
    let edge = Edge::start(&[RANGE[0], RANGE[1], "--lease-seconds", "1"]).await;
    let made = create(&edge, "t").await;
    assert_eq!(create(&edge, "t").await.nat_gateway_id, made.nat_gateway_id);
    let id = &made.nat_gateway_id;
    // No instance is on the host, and still it has the VPC.
    until_gateway(&edge, id, "Available", "host-1").await;
    let [route] = &routes(&edge).await[..] else { panic!("no default route") };
    assert_eq!(route.destination_cidr_block, "0.0.0.0/0");
    assert_eq!(route.next_hops[0].next_hop_id, *id);

    let (eip, other) = (edge.allocate().await, edge.allocate().await);
    edge.associate(&eip.allocation_id, "Nat", id).await;
    edge.until_eip(&eip.allocation_id, "InUse").await;
    let mut gateways = edge.gateways();
    let snat = CreateSnatEntryRequest {
        snat_table_id: made.snat_table_ids[0].clone(),
        source_v_switch_id: edge.site.v_switch_id.clone(),
        snat_ip: eip.eip_address.clone(),
        ..Default::default()
    };
    let entry = gateways.create_snat_entry(snat.clone()).await.unwrap().into_inner();
    let refused = gateways.create_snat_entry(snat.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "Forbidden.SourceVSwitchId.Duplicated");
    let foreign = CreateSnatEntryRequest {
        source_v_switch_id: String::new(),
        source_cidr: text("10.1.1.64/26"),
        snat_ip: other.eip_address.clone(),
        ..snat
    };
    let refused = gateways.create_snat_entry(foreign).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnatIp.NotFound");

    let forward =
        |external_port: &str, internal_port: &str, protocol: &str| CreateForwardEntryRequest {
            forward_table_id: made.forward_table_ids[0].clone(),
            external_ip: eip.eip_address.clone(),
            external_port: text(external_port),
            internal_ip: text("10.1.0.9"),
            internal_port: text(internal_port),
            ip_protocol: text(protocol),
            ..Default::default()
        };
    let good = forward("8000/8010", "80/90", "TCP");
    let dnat = gateways.create_forward_entry(good).await.unwrap().into_inner().forward_entry_id;
    gateways.create_forward_entry(forward("8000", "53", "udp")).await.unwrap();
    for (request, expected) in [
        (forward("8005", "22", "tcp"), "OperationUnsupported.ForwardEntry"),
        (forward("any", "any", "any"), "OperationUnsupported.ForwardEntry"),
        (forward("1/3", "1/2", "tcp"), "InvalidParameter"),
        (forward("any", "22", "tcp"), "InvalidParameter"),
        (forward("0", "22", "tcp"), "InvalidExternalPort.Malformed"),
        (forward("22", "22", "sctp"), "InvalidProtocal.ValueNotSupported"),
        (
            CreateForwardEntryRequest { internal_ip: text("8.8.8.8"), ..forward("9", "9", "tcp") },
            "Forbidden.DestnationIpOutOfVpcCIDR",
        ),
        (
            CreateForwardEntryRequest {
                external_ip: other.eip_address.clone(),
                ..forward("9", "9", "tcp")
            },
            "InvalidExternalIp.NotExists",
        ),
    ] {
        let refused = gateways.create_forward_entry(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let modify = ModifyForwardEntryRequest {
        forward_table_id: made.forward_table_ids[0].clone(),
        forward_entry_id: dnat,
        internal_ip: text("10.1.0.10"),
        ..Default::default()
    };
    gateways.modify_forward_entry(modify).await.unwrap();
    until("the host has the entries", || {
        told(&edge.agent, id).is_some_and(|gateway| {
            let forward = gateway.forward_entries.first().map(|e| e.internal_ip.clone());
            gateway.here
                && gateway.snat_entries.len() == 1
                && gateway.forward_entries.len() == 2
                && forward == Some(text("10.1.0.10"))
                && gateway.eips.len() == 1
        })
    })
    .await;

    // Its host goes silent; the other host of the zone takes it over.
    let second = FakeAgent::start(&edge.cloud, "host-2", 8, 8192);
    edge.until_hosts(2).await;
    edge.agent.behaviour.lock().unwrap().silent = true;
    until_gateway(&edge, id, "Available", "host-2").await;
    assert!(told(&second, id).is_some_and(|gateway| gateway.here && gateway.eips.len() == 1));
    edge.until_eip(&eip.allocation_id, "InUse").await;
    edge.agent.behaviour.lock().unwrap().silent = false;
    edge.until_hosts(2).await;
    until("the first host has let go of it", || {
        told(&edge.agent, id).is_none_or(|gateway| !gateway.here && gateway.eips.is_empty())
    })
    .await;

    let detach = UnassociateEipAddressRequest {
        allocation_id: eip.allocation_id.clone(),
        ..Default::default()
    };
    let refused = edge.eips().unassociate_eip_address(detach).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation");
    let in_vswitch =
        DeleteVSwitchRequest { v_switch_id: edge.site.v_switch_id.clone(), ..Default::default() };
    let refused = edge.cloud.vpcs().delete_v_switch(in_vswitch).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.NatGateway");
    let delete = DeleteNatGatewayRequest { nat_gateway_id: id.clone(), ..Default::default() };
    let refused = gateways.delete_nat_gateway(delete.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.SnatEntry");
    let remove = DeleteSnatEntryRequest {
        snat_table_id: made.snat_table_ids[0].clone(),
        snat_entry_id: entry.snat_entry_id,
        ..Default::default()
    };
    gateways.delete_snat_entry(remove.clone()).await.unwrap();
    let refused = gateways.delete_snat_entry(remove).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnatEntryId.NotFound");
    let force = DeleteNatGatewayRequest { force: true, ..delete };
    gateways.delete_nat_gateway(force.clone()).await.unwrap();
    let refused = gateways.delete_nat_gateway(force).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidNatGatewayId.NotFound");
    edge.until_eip(&eip.allocation_id, "Available").await;
    assert!(routes(&edge).await.is_empty(), "the route that came with it is gone");
    // A route that somebody made stays, leads nowhere, and goes with the VPC.
    let instance = edge.instance().await;
    let vpc_id = edge.site.vpc_id.clone();
    let vpc = DescribeVpcsRequest { vpc_id: vpc_id.clone(), ..Default::default() };
    let vpc = edge.cloud.vpcs().describe_vpcs(vpc).await.unwrap().into_inner();
    let route = CreateRouteEntryRequest {
        route_table_id: vpc.vpcs[0].router_table_ids[0].clone(),
        destination_cidr_block: text("192.168.0.0/16"),
        next_hop_id: instance.instance_id.clone(),
        ..Default::default()
    };
    edge.tables().create_route_entry(route).await.unwrap();
    edge.delete_instance(&instance.instance_id).await;
    assert_eq!(routes(&edge).await[0].status, "Blackhole");
    let group = DeleteSecurityGroupRequest {
        security_group_id: edge.site.security_group_id.clone(),
        ..Default::default()
    };
    edge.cloud.groups().delete_security_group(group).await.unwrap();
    let vswitch =
        DeleteVSwitchRequest { v_switch_id: edge.site.v_switch_id.clone(), ..Default::default() };
    edge.cloud.vpcs().delete_v_switch(vswitch).await.unwrap();
    let vpc = DeleteVpcRequest { vpc_id, ..Default::default() };
    edge.cloud.vpcs().delete_vpc(vpc).await.unwrap();
    until("no host has it", || told(&second, id).is_none()).await;
}

#[tokio::test]
async fn a_gateway_waits_for_a_host() {
    let edge = Edge::start(&["--lease-seconds", "1"]).await;
    edge.agent.behaviour.lock().unwrap().silent = true;
    edge.until_hosts(0).await;
    let made = create(&edge, "").await;
    let waiting = edge.gateway(&made.nat_gateway_id).await.unwrap();
    assert_eq!((waiting.status.as_str(), waiting.host_id.as_str()), ("Creating", ""));
    assert!(waiting.status_reason.contains("waits"), "{waiting:?}");
    edge.agent.behaviour.lock().unwrap().silent = false;
    until_gateway(&edge, &made.nat_gateway_id, "Available", "host-1").await;
}

#[tokio::test]
async fn prefix_lists_have_no_more_than_they_may() {
    let edge = Edge::start(&[]).await;
    let mut lists = edge.prefix_lists();
    let entry = |cidr: &str| PrefixListEntry { cidr: text(cidr), description: text("d") };
    let create = CreatePrefixListRequest {
        prefix_list_name: text("office"),
        address_family: text("IPv4"),
        max_entries: 2,
        entry: vec![entry("198.51.100.0/24")],
        client_token: text("t"),
        ..Default::default()
    };
    let id = lists.create_prefix_list(create.clone()).await.unwrap().into_inner().prefix_list_id;
    let again = lists.create_prefix_list(create.clone()).await.unwrap().into_inner();
    assert_eq!(again.prefix_list_id, id);
    for (request, expected) in [
        (
            CreatePrefixListRequest { max_entries: 201, ..create.clone() },
            "InvalidMaxEntries.Malformed",
        ),
        (
            CreatePrefixListRequest { entry: vec![entry("2001:db8::/32")], ..create.clone() },
            "InvalidEntryCidr.Malformed",
        ),
        (
            CreatePrefixListRequest { entry: vec![entry("10.0.0.1/8")], ..create.clone() },
            "InvalidEntryCidr.Malformed",
        ),
        (
            CreatePrefixListRequest { address_family: text("IPX"), ..create.clone() },
            "InvalidAddressFamily.ValueNotSupported",
        ),
    ] {
        let request = CreatePrefixListRequest { client_token: String::new(), ..request };
        let refused = lists.create_prefix_list(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let modify = ModifyPrefixListRequest {
        prefix_list_id: id.clone(),
        add_entry: vec![entry("10.0.0.0/8"), entry("172.16.0.0/12")],
        ..Default::default()
    };
    let refused = lists.modify_prefix_list(modify.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.MaxEntriesExceed");
    let swap = ModifyPrefixListRequest { remove_entry: vec![entry("198.51.100.0/24")], ..modify };
    lists.modify_prefix_list(swap).await.unwrap();
    let attributes =
        DescribePrefixListAttributesRequest { prefix_list_id: id.clone(), ..Default::default() };
    let shown = lists.describe_prefix_list_attributes(attributes.clone()).await.unwrap();
    let cidrs: Vec<String> =
        shown.into_inner().entries.into_iter().map(|entry| entry.cidr).collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "172.16.0.0/12"]);
    // A rule that names it counts as many as it may have entries, and hosts are told what it is.
    let name = |id: &str| AuthorizeSecurityGroupRequest {
        security_group_id: edge.site.security_group_id.clone(),
        permissions: vec![Permission {
            ip_protocol: text("tcp"),
            port_range: text("22/22"),
            source_prefix_list_id: text(id),
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused = edge.cloud.groups().authorize_security_group(name("pl-none")).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidPrefixListId.NotFound");
    let large = CreatePrefixListRequest { max_entries: 199, client_token: text("l"), ..create };
    let large = lists.create_prefix_list(large).await.unwrap().into_inner().prefix_list_id;
    edge.cloud.groups().authorize_security_group(name(&large)).await.unwrap();
    let refused = edge.cloud.groups().authorize_security_group(name(&id)).await.unwrap_err();
    assert_eq!(code(&refused), "AuthorizationLimitExceed");
    let instance = edge.instance().await;
    let told = |cidrs: &[&str]| {
        let spec = edge.agent.spec();
        let list = spec.prefix_lists.iter().find(|list| list.prefix_list_id == large).cloned();
        list.is_some_and(|list| list.cidrs == cidrs)
    };
    until("the host knows the list", || told(&["198.51.100.0/24"])).await;
    let more = ModifyPrefixListRequest {
        prefix_list_id: large.clone(),
        add_entry: vec![entry("192.0.2.0/24")],
        ..Default::default()
    };
    lists.modify_prefix_list(more).await.unwrap();
    until("the host knows the new entry", || told(&["198.51.100.0/24", "192.0.2.0/24"])).await;
    let trace = TracePathRequest {
        source: instance.instance_id.clone(),
        destination: instance.instance_id.clone(),
        ip_protocol: text("icmp"),
        ..Default::default()
    };
    assert!(edge.paths().trace_path(trace).await.unwrap().into_inner().reachable);
    let associations = DescribePrefixListAssociationsRequest {
        prefix_list_id: large.clone(),
        ..Default::default()
    };
    let found = lists.describe_prefix_list_associations(associations).await.unwrap().into_inner();
    assert_eq!(found.prefix_list_associations[0].resource_id, edge.site.security_group_id);
    let used = DeletePrefixListRequest { prefix_list_id: large, ..Default::default() };
    let refused = lists.delete_prefix_list(used).await.unwrap_err();
    assert_eq!(code(&refused), "DependencyViolation.SecurityGroup");
    let delete = DeletePrefixListRequest { prefix_list_id: id, ..Default::default() };
    lists.delete_prefix_list(delete).await.unwrap();
    let refused = lists.describe_prefix_list_attributes(attributes).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidPrefixListId.NotFound");
}

#[tokio::test]
async fn a_trace_names_the_rule_that_decides() {
    let edge = Edge::start(&RANGE).await;
    let (a, b) = (edge.instance().await, edge.instance().await);
    let trace = async |from: &str, to: &str, port: u32| {
        let request = TracePathRequest {
            source: text(from),
            destination: text(to),
            ip_protocol: text("tcp"),
            destination_port: port,
            ..Default::default()
        };
        edge.paths().trace_path(request).await.map(tonic::Response::into_inner)
    };
    // Members of one basic group reach each other.
    let path = trace(&a.instance_id, &b.instance_id, 5432).await.unwrap();
    assert!(path.reachable, "{path:?}");
    let last = path.hops.iter().find(|hop| hop.step == "IngressGroups").unwrap();
    assert_eq!(last.resource_id, edge.site.security_group_id);
    let drop = Permission {
        policy: text("drop"),
        ip_protocol: text("tcp"),
        port_range: text("5432/5432"),
        source_cidr_ip: text("10.0.0.0/8"),
        ..Default::default()
    };
    let authorize = AuthorizeSecurityGroupRequest {
        security_group_id: edge.site.security_group_id.clone(),
        permissions: vec![drop],
        ..Default::default()
    };
    edge.cloud.groups().authorize_security_group(authorize).await.unwrap();
    let path = trace(&a.instance_id, &b.instance_id, 5432).await.unwrap();
    assert!(!path.reachable && path.reason.contains("IngressGroups"), "{path:?}");
    let decided = path.hops.last().unwrap();
    assert!(decided.resource_id.starts_with("sgr-"), "{decided:?}");
    assert!(decided.rule.contains("tcp port 5432"), "{decided:?}");
    // No way out without a public address, and one with it.
    let path = trace(&a.instance_id, "8.8.8.8", 53).await.unwrap();
    assert_eq!((path.reachable, path.hops.last().unwrap().step.as_str()), (false, "Route"));
    let eip = edge.allocate().await;
    edge.associate(&eip.allocation_id, "EcsInstance", &a.instance_id).await;
    let path = trace(&a.instance_id, "8.8.8.8", 53).await.unwrap();
    assert!(path.reachable && path.hops.iter().any(|hop| hop.resource_id == eip.allocation_id));
    // From outside nothing gets in by itself.
    let path = trace("8.8.8.8", &eip.eip_address, 22).await.unwrap();
    assert_eq!(path.hops.last().unwrap().step, "IngressGroups");
    assert!(path.hops.iter().any(|hop| hop.step == "Eip"), "{path:?}");
    let refused = trace("i-none", "8.8.8.8", 22).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInstanceId.NotFound");
    let refused = trace("nobody", "8.8.8.8", 22).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");

    let request =
        DescribeVpcTopologyRequest { vpc_id: edge.site.vpc_id.clone(), ..Default::default() };
    let topology = edge.paths().describe_vpc_topology(request).await.unwrap().into_inner();
    let [vswitch] = topology.v_switches.as_slice() else { panic!("{topology:?}") };
    assert_eq!(vswitch.interfaces.len(), 2);
    let with_eip = vswitch.interfaces.iter().find(|i| i.instance_id == a.instance_id).unwrap();
    assert_eq!(with_eip.public_ip_addresses, [eip.eip_address]);
    assert_eq!(topology.security_groups[0].rules, 1);
}
