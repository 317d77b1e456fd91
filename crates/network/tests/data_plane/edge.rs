//! Public addresses and NAT gateways.

use crate::{
    cloud::{Cloud, accept_tcp, address},
    fabric::{Fabric, Node, introduce, underlay},
    guest::{Guest, ask_name, tell_names},
};
use api::host::{
    EipSpec, EniSpec, ForwardEntrySpec, NatGatewaySpec, RouteEntrySpec, RouteTableSpec, RuleSpec,
    SnatEntrySpec, route_entry_spec::NextHop,
};
use network::{Desired, ResourceKind};
use std::net::{Ipv4Addr, TcpListener};

/// Somebody on the network that the hosts' uplinks are in.
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);

fn public(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, 100 + number)
}

fn eip(number: u8, private: Option<Ipv4Addr>) -> EipSpec {
    EipSpec {
        allocation_id: format!("eip-{number}"),
        address: public(number).to_string(),
        private_ip: private.map(|ip| ip.to_string()).unwrap_or_default(),
        bandwidth_mbps: 0,
    }
}

async fn cloud(fabric: &Fabric, number: u8) -> Cloud {
    let mut cloud = fabric.cloud_with(number, |options| options.uplink = Some("eth0".into())).await;
    cloud.add_vpc(7);
    let ping = RuleSpec {
        ip_protocol: "icmp".to_owned(),
        cidr: "0.0.0.0/0".to_owned(),
        priority: 1,
        ..RuleSpec::default()
    };
    cloud.add_group(7, "sg-a", vec![accept_tcp(80, "192.168.77.200/32"), ping]);
    cloud
}

fn bind(cloud: &mut Cloud, eni: &EniSpec, eips: Vec<EipSpec>) {
    let eni = cloud.desired.enis.iter_mut().find(|e| e.eni_id == eni.eni_id).expect("an ENI");
    eni.eips = eips;
}

fn world(fabric: &Fabric) -> Node {
    let world = fabric.node(&format!("{WORLD}/24"));
    for port in [80, 81] {
        world.tell_names(port);
    }
    world
}

fn names_of(guest: &Guest, port: u16) {
    tell_names(guest.run(move || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen in the guest")
    }));
}

fn asks(guest: &Guest, to: Ipv4Addr, port: u16) -> String {
    guest.run(move || ask_name(to, port))
}

async fn reconcile(clouds: &mut [&mut Cloud]) {
    introduce(clouds);
    for cloud in clouds {
        cloud.reconcile().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_stands_for_a_private_one_both_ways() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (cloud(&fabric, 0).await, cloud(&fabric, 1).await);
    let world = world(&fabric);
    let (first, second) = (a.add_eni(7, 1, &["sg-a"]), a.add_eni(7, 2, &["sg-a"]));
    let far = b.add_eni(7, 3, &["sg-a"]);
    bind(&mut a, &first, vec![eip(1, Some(address(1)))]);
    reconcile(&mut [&mut a, &mut b]).await;
    let (one, two) = (a.boot(&first).await, a.boot(&second).await);
    let three = b.boot(&far).await;
    for guest in [&one, &two, &three] {
        names_of(guest, 80);
        names_of(guest, 82);
    }
    // The group judges who it is, and names the port of the private address.
    assert_eq!(world.ask_name(public(1), 80), WORLD.to_string());
    assert_eq!(world.ask_name(public(1), 82), "");
    assert_eq!(asks(&one, WORLD, 80), public(1).to_string());
    assert!(one.pings(WORLD));
    // Without a public address there is no way out.
    assert_eq!(asks(&two, WORLD, 80), "");
    // In the VPC nothing is different.
    assert_eq!(asks(&one, address(3), 80), "10.0.0.1");
    assert_eq!(asks(&three, address(1), 80), "10.0.0.3");
    assert_eq!(a.reconcile().await.changes, 0);

    // Neither host is reached, by whatever address.
    for host in &fabric.hosts {
        host.tell_names(83);
    }
    let hop = Ipv4Addr::new(169, 254, 100, 1);
    for target in [underlay(0), underlay(1), hop, Ipv4Addr::LOCALHOST] {
        assert_eq!(asks(&one, target, 83), "", "{target}");
    }
    assert!(!one.pings(underlay(0)) && !one.pings(underlay(1)));
    assert_eq!(world.ask_name(underlay(0), 83), WORLD.to_string(), "others reach it as before");
    // While the host itself may use a public address of its own guest.
    let from_host = fabric.hosts[0].ask_name(public(1), 80);
    assert_eq!(from_host, "", "no rule accepts the host");
    a.group("sg-a").rules.push(accept_tcp(80, "192.168.77.0/24"));
    b.group("sg-a").rules.push(accept_tcp(80, "192.168.77.0/24"));
    reconcile(&mut [&mut a, &mut b]).await;
    assert_eq!(fabric.hosts[0].ask_name(public(1), 80), underlay(0).to_string());

    // Public addresses of one host and of two reach each other.
    bind(&mut a, &second, vec![eip(2, Some(address(2)))]);
    bind(&mut b, &far, vec![eip(3, Some(address(3)))]);
    reconcile(&mut [&mut a, &mut b]).await;
    assert_eq!(asks(&one, public(3), 80), public(1).to_string());
    assert_eq!(asks(&three, public(1), 80), public(3).to_string());
    assert_eq!(asks(&one, public(2), 80), public(1).to_string());

    // One that moves to another host is found at once, one that moves to another ENI too.
    bind(&mut b, &far, vec![]);
    bind(&mut a, &first, vec![]);
    b.reconcile().await;
    bind(&mut a, &first, vec![eip(3, Some(address(1)))]);
    a.reconcile().await;
    assert_eq!(world.ask_name(public(3), 80), WORLD.to_string());
    assert_eq!(asks(&one, WORLD, 80), public(3).to_string());
    assert_eq!(asks(&three, WORLD, 80), "");
    assert_eq!(world.ask_name(public(1), 80), "");
    drop((one, two, three));
    for cloud in [a, b] {
        cloud.demolish().await;
    }
    for host in &fabric.hosts {
        assert_eq!(
            host.sh("nft list ruleset; ip neigh show proxy; ip -o link | grep ecs || true"),
            ""
        );
        assert!(!host.sh("ip route").contains("via"), "no route to a public address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_of_guests_take_no_room_of_the_host() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (cloud(&fabric, 0).await, cloud(&fabric, 1).await);
    let world = world(&fabric);
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    bind(&mut a, &near, vec![eip(1, Some(address(1)))]);
    reconcile(&mut [&mut a, &mut b]).await;
    let (one, two) = (a.boot(&near).await, b.boot(&far).await);
    for guest in [&one, &two] {
        names_of(guest, 80);
    }
    let tracked = || -> Vec<u32> {
        let count = "cat /proc/sys/net/netfilter/nf_conntrack_count";
        fabric.hosts.iter().map(|h| h.sh(count).trim().parse().expect("a count")).collect()
    };
    let before = tracked();
    for _ in 0..20 {
        assert_eq!(asks(&one, WORLD, 80), public(1).to_string());
        assert_eq!(world.ask_name(public(1), 80), WORLD.to_string());
        assert_eq!(asks(&one, address(2), 80), address(1).to_string());
    }
    let after = tracked();
    let more = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    assert!(more.max() < Some(10), "{before:?}, then {after:?}");
    drop((one, two));
    for cloud in [a, b] {
        cloud.demolish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_forges_no_address_at_the_edge_and_the_world_none_of_the_vpc() {
    let fabric = Fabric::new(1);
    let mut a = cloud(&fabric, 0).await;
    let world = world(&fabric);
    let (first, second) = (a.add_eni(7, 1, &["sg-a"]), a.add_eni(7, 2, &["sg-a"]));
    bind(&mut a, &first, vec![eip(1, Some(address(1)))]);
    let router = a.desired.enis.iter_mut().find(|e| e.eni_id == first.eni_id).expect("an ENI");
    router.no_source_check = true;
    a.reconcile().await;
    let (one, _two) = (a.boot(&first).await, a.boot(&second).await);
    names_of(&one, 82);
    // A router's forged source finds no way out.
    one.ip("addr add 192.168.77.150/32 dev lo");
    one.ip("route add 192.168.77.200/32 via 10.0.0.253 dev eth0 src 192.168.77.150");
    let seen = world.sh("cat /proc/net/netstat >/dev/null; ip neigh flush dev eth0; echo");
    assert!(seen.trim().is_empty());
    assert_eq!(asks(&one, WORLD, 80), "");
    one.ip("route del 192.168.77.200/32");
    assert_eq!(asks(&one, WORLD, 80), public(1).to_string());
    // Somebody in the world who says to be a member of the group.
    world.ip("addr add 10.0.0.2/32 dev lo");
    world.ip("route add 192.168.77.101/32 dev eth0 src 10.0.0.2");
    fabric.hosts[0].ip("route add 10.0.0.2/32 via 192.168.77.200 dev eth0");
    assert_eq!(world.ask_name(public(1), 82), "");
    drop((one, _two));
    a.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_denies_is_not_reached_and_specs_are_checked() {
    let fabric = Fabric::new(1);
    let denied = format!("{WORLD}/32").parse().expect("a block");
    let mut a = fabric
        .cloud_with(0, |options| {
            options.uplink = Some("eth0".into());
            options.edge_denied = vec![denied];
        })
        .await;
    a.add_vpc(7);
    a.add_group(7, "sg-a", vec![accept_tcp(80, "0.0.0.0/0")]);
    let eni = a.add_eni(7, 1, &["sg-a"]);
    bind(&mut a, &eni, vec![eip(1, Some(address(1)))]);
    a.reconcile().await;
    let world = world(&fabric);
    let other = fabric.node("192.168.77.201/24");
    other.tell_names(80);
    let guest = a.boot(&eni).await;
    names_of(&guest, 80);
    assert_eq!(asks(&guest, WORLD, 80), "");
    assert_eq!(asks(&guest, Ipv4Addr::new(192, 168, 77, 201), 80), public(1).to_string());
    // Nor is what serves the host by a link-local address.
    other.ip("addr add 169.254.169.254/16 dev eth0");
    fabric.hosts[0].ip("route add 169.254.0.0/16 dev eth0");
    let local = Ipv4Addr::new(169, 254, 169, 254);
    let own = fabric.hosts[0].ask_name(local, 80);
    assert_eq!(own, underlay(0).to_string());
    assert_eq!(asks(&guest, local, 80), "");
    a.desired.edge_denied = vec!["192.168.77.201/32".parse().expect("a block")];
    a.reconcile().await;
    assert_eq!(asks(&guest, Ipv4Addr::new(192, 168, 77, 201), 80), "");
    a.desired.edge_denied.clear();
    a.reconcile().await;
    // It may ask, though.
    assert_eq!(world.ask_name(public(1), 80), WORLD.to_string());

    let bad = |change: fn(&mut EipSpec)| {
        let mut spec = eip(2, Some(address(1)));
        change(&mut spec);
        spec
    };
    for spec in [
        bad(|spec| spec.address = "none".to_owned()),
        bad(|spec| spec.address = "127.0.0.1".to_owned()),
        bad(|spec| spec.private_ip = "10.0.0.9".to_owned()),
        bad(|_| {}),
    ] {
        bind(&mut a, &eni, vec![eip(1, Some(address(1))), spec.clone()]);
        let report = a.network.reconcile(&a.desired).await;
        assert_eq!(report.problems.len(), 1, "{spec:?}: {:?}", report.problems);
        assert_eq!(report.problems[0].kind, ResourceKind::Eip);
        assert!(report.problem_of(&eni).is_none());
        assert_eq!(asks(&guest, Ipv4Addr::new(192, 168, 77, 201), 80), public(1).to_string());
    }
    drop(guest);
    a.demolish().await;
}

fn nat(here: bool) -> NatGatewaySpec {
    let entry = |id: &str, cidr: &str, number: u8| SnatEntrySpec {
        snat_entry_id: id.to_owned(),
        source_cidr: cidr.to_owned(),
        snat_ips: vec![public(number).to_string()],
    };
    let forward =
        |id: &str, (from, to), (inside, until), internal: u8, protocol: &str| ForwardEntrySpec {
            forward_entry_id: id.to_owned(),
            external_ip: public(if protocol == "any" { 3 } else { 1 }).to_string(),
            external_port_from: from,
            external_port_to: to,
            internal_ip: address(internal).to_string(),
            internal_port_from: inside,
            internal_port_to: until,
            ip_protocol: protocol.to_owned(),
        };
    let mut gateway = NatGatewaySpec {
        nat_gateway_id: "ngw-1".to_owned(),
        underlay_ip: underlay(0).to_string(),
        here,
        ..NatGatewaySpec::default()
    };
    if here {
        gateway.eips = vec![eip(1, None), eip(2, None), eip(3, None)];
        gateway.snat_entries =
            vec![entry("snat-1", "10.0.0.0/24", 1), entry("snat-2", "10.0.0.2/32", 2)];
        gateway.forward_entries = vec![
            forward("fwd-1", (8080, 8080), (80, 80), 2, "tcp"),
            forward("fwd-2", (9000, 9009), (80, 89), 1, "tcp"),
            forward("fwd-3", (0, 0), (0, 0), 2, "any"),
        ];
    }
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nat_gateway_serves_instances_of_every_host() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (cloud(&fabric, 0).await, cloud(&fabric, 1).await);
    let world = world(&fabric);
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    for (cloud, here) in [(&mut a, true), (&mut b, false)] {
        let vpc = &mut cloud.desired.vpcs[0];
        vpc.nat_gateways = vec![nat(here)];
        let next_hop = Some(NextHop::NatGatewayId("ngw-1".to_owned()));
        vpc.route_tables = vec![RouteTableSpec {
            route_table_id: "vtb-1".to_owned(),
            entries: vec![RouteEntrySpec {
                route_entry_id: "rte-1".to_owned(),
                destination_cidr: "0.0.0.0/0".to_owned(),
                next_hop,
            }],
        }];
        vpc.vswitches[0].route_table_id = "vtb-1".to_owned();
    }
    reconcile(&mut [&mut a, &mut b]).await;
    let (near_guest, far_guest) = (a.boot(&near).await, b.boot(&far).await);
    for guest in [&near_guest, &far_guest] {
        names_of(guest, 80);
        names_of(guest, 82);
    }
    // Out, by the entry with the longest prefix.
    assert_eq!(asks(&near_guest, WORLD, 80), public(1).to_string());
    assert_eq!(asks(&far_guest, WORLD, 80), public(2).to_string());
    assert!(near_guest.pings(WORLD) && far_guest.pings(WORLD));
    // In, by port, by range, by address; groups judge private addresses and ports.
    assert_eq!(world.ask_name(public(1), 8080), WORLD.to_string());
    assert_eq!(world.ask_name(public(1), 9000), WORLD.to_string());
    assert_eq!(world.ask_name(public(1), 9002), "", "port 82 is not allowed");
    assert_eq!(world.ask_name(public(1), 80), "", "no entry");
    assert_eq!(world.ask_name(public(3), 80), WORLD.to_string());
    assert_eq!(world.ask_name(public(3), 82), "");
    // In the VPC nothing is different.
    assert_eq!(asks(&near_guest, address(2), 80), "10.0.0.1");
    assert_eq!(asks(&far_guest, address(1), 80), "10.0.0.2");
    // Nor are hosts reached by way of it.
    for host in &fabric.hosts {
        host.tell_names(83);
    }
    for target in [underlay(0), underlay(1)] {
        assert_eq!(asks(&far_guest, target, 83), "");
        assert_eq!(asks(&near_guest, target, 83), "");
    }
    assert_eq!(a.reconcile().await.changes, 0);

    // Its own public address comes before the gateway's.
    bind(&mut b, &far, vec![eip(4, Some(address(2)))]);
    reconcile(&mut [&mut a, &mut b]).await;
    assert_eq!(asks(&far_guest, WORLD, 80), public(4).to_string());
    bind(&mut b, &far, vec![]);

    // Without an entry for it, nobody gets out.
    a.desired.vpcs[0].nat_gateways[0].snat_entries.remove(0);
    reconcile(&mut [&mut a, &mut b]).await;
    assert_eq!(asks(&near_guest, WORLD, 80), "");
    assert_eq!(asks(&far_guest, WORLD, 80), public(2).to_string());

    // Two addresses share the work, each source keeping to one.
    a.desired.vpcs[0].nat_gateways[0].snat_entries = vec![SnatEntrySpec {
        snat_entry_id: "snat-3".to_owned(),
        source_cidr: "10.0.0.0/8".to_owned(),
        snat_ips: vec![public(1).to_string(), public(2).to_string()],
    }];
    // What makes no sense is said, and harms nobody.
    let gateway = &mut a.desired.vpcs[0].nat_gateways[0];
    let mut twice = gateway.forward_entries[0].clone();
    twice.internal_ip = address(1).to_string();
    gateway.forward_entries.push(twice);
    let report = a.network.reconcile(&a.desired).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].kind, ResourceKind::NatGateway);
    let first = asks(&near_guest, WORLD, 80);
    assert!([public(1).to_string(), public(2).to_string()].contains(&first), "{first}");
    assert_eq!(asks(&near_guest, WORLD, 80), first);
    assert_eq!(world.ask_name(public(1), 8080), WORLD.to_string());

    a.network.reconcile(&Desired::default()).await;
    assert_eq!(asks(&far_guest, WORLD, 80), "");
    drop((near_guest, far_guest));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_at_the_edge_is_put_right_and_named() {
    let fabric = Fabric::new(1);
    let mut a = cloud(&fabric, 0).await;
    let world = world(&fabric);
    let eni = a.add_eni(7, 1, &["sg-a"]);
    bind(&mut a, &eni, vec![eip(1, Some(address(1)))]);
    a.reconcile().await;
    let guest = a.boot(&eni).await;
    names_of(&guest, 80);
    let link = fabric.hosts[0].sh("ip -o link | grep -o 'ec[0-9a-f]*7@' | tr -d @");
    let link = link.trim();
    assert_eq!(world.ask_name(public(1), 80), WORLD.to_string());
    assert_eq!(a.reconcile().await.changes, 0);
    for (damage, named) in [
        (format!("ip link del {link}"), "edge"),
        (format!("ip link set {link} down"), link),
        ("ip route del 192.168.77.101/32".to_owned(), "192.168.77.101"),
        ("ip neigh del proxy 192.168.77.101 dev eth0".to_owned(), "192.168.77.101"),
        (format!("ip neigh flush nud permanent dev {link}"), "neighbour"),
        ("nft flush ruleset".to_owned(), "packet filter"),
        ("echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding".to_owned(), "forwarding"),
    ] {
        fabric.hosts[0].sh(&damage);
        let report = a.reconcile().await;
        let all = format!("{:?}", report.repairs);
        assert!(all.contains(named), "{damage}: {all}");
        assert_eq!(world.ask_name(public(1), 80), WORLD.to_string(), "{damage}");
        assert_eq!(asks(&guest, WORLD, 80), public(1).to_string(), "{damage}");
        assert_eq!(a.reconcile().await.changes, 0, "{damage}");
    }
    drop(guest);
    a.demolish().await;
}
