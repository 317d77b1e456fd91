use super::*;
use api::host::{
    EipSpec, EniSpec, ForwardEntrySpec, NatGatewaySpec, PrefixListSpec, RouteEntrySpec,
    RouteTableSpec, RuleSpec, SecurityGroupSpec, SnatEntrySpec, VSwitchSpec, VpcSpec,
    route_entry_spec::NextHop,
};

fn text(value: &str) -> String {
    value.to_owned()
}

fn interface(id: &str, address: &str, vswitch: &str, group: &str, host: &str) -> Interface {
    Interface {
        spec: EniSpec {
            eni_id: format!("eni-{id}"),
            vpc_id: text("vpc-1"),
            vswitch_id: text(vswitch),
            private_ip: text(address),
            security_group_ids: vec![text(group)],
            ..EniSpec::default()
        },
        instance_id: format!("i-{id}"),
        running: true,
        host_id: text(host),
    }
}

fn rule(port: u32, cidr: &str, drop: bool, priority: u32) -> RuleSpec {
    RuleSpec {
        ip_protocol: text("tcp"),
        port_from: port,
        port_to: port,
        cidr: text(cidr),
        priority,
        drop,
        ..RuleSpec::default()
    }
}

/// A web server with an EIP, a database behind a NAT gateway in a VSwitch with a table of its own,
/// and a router that looks at what it is sent.
fn network() -> Network {
    let vswitch = |id: &str, cidr: &str, table: &str| VSwitchSpec {
        vswitch_id: text(id),
        cidr: text(cidr),
        route_table_id: text(table),
        ..VSwitchSpec::default()
    };
    let entry = |id: &str, cidr: &str, next_hop| RouteEntrySpec {
        route_entry_id: text(id),
        destination_cidr: text(cidr),
        next_hop: Some(next_hop),
    };
    let eip = |id: &str, address: &str, private: &str| EipSpec {
        allocation_id: text(id),
        address: text(address),
        private_ip: text(private),
        bandwidth_mbps: 5,
    };
    let gateway = NatGatewaySpec {
        nat_gateway_id: text("ngw-1"),
        eips: vec![eip("eip-n", "203.0.113.9", "")],
        snat_entries: vec![SnatEntrySpec {
            snat_entry_id: text("snat-1"),
            source_cidr: text("10.0.2.0/24"),
            snat_ips: vec![text("203.0.113.9")],
        }],
        forward_entries: vec![ForwardEntrySpec {
            forward_entry_id: text("fwd-1"),
            external_ip: text("203.0.113.9"),
            external_port_from: 8000,
            external_port_to: 8010,
            internal_ip: text("10.0.2.4"),
            internal_port_from: 5430,
            internal_port_to: 5440,
            ip_protocol: text("tcp"),
        }],
        ..NatGatewaySpec::default()
    };
    let vpc = VpcSpec {
        vpc_id: text("vpc-1"),
        cidr: text("10.0.0.0/16"),
        vswitches: vec![
            vswitch("vsw-a", "10.0.1.0/24", "vtb-1"),
            vswitch("vsw-b", "10.0.2.0/24", "vtb-2"),
        ],
        route_tables: vec![
            RouteTableSpec {
                route_table_id: text("vtb-1"),
                entries: vec![entry("rte-1", "0.0.0.0/0", NextHop::NatGatewayId(text("ngw-1")))],
            },
            RouteTableSpec {
                route_table_id: text("vtb-2"),
                entries: vec![
                    entry("rte-2", "0.0.0.0/0", NextHop::NatGatewayId(text("ngw-1"))),
                    entry("rte-3", "192.168.0.0/16", NextHop::PrivateIp(text("10.0.1.9"))),
                    entry("rte-4", "192.168.7.0/24", NextHop::Blackhole(true)),
                ],
            },
        ],
        nat_gateways: vec![gateway],
        ..VpcSpec::default()
    };
    let group = |id: &str, rules, members: &[&str]| SecurityGroupSpec {
        security_group_id: text(id),
        vpc_id: text("vpc-1"),
        inner_accept: true,
        rules,
        member_ips: members.iter().map(|ip| text(ip)).collect(),
        ..SecurityGroupSpec::default()
    };
    let from_web = RuleSpec { peer_group_id: text("sg-web"), ..rule(5432, "", false, 5) };
    let from_list = RuleSpec { prefix_list_id: text("pl-1"), ..rule(5433, "", false, 5) };
    let mut web = interface("web", "10.0.1.4", "vsw-a", "sg-web", "h-1");
    web.spec.eips = vec![eip("eip-w", "203.0.113.4", "10.0.1.4")];
    Network {
        vpcs: vec![vpc],
        interfaces: vec![
            web,
            interface("db", "10.0.2.4", "vsw-b", "sg-db", "h-2"),
            interface("router", "10.0.1.9", "vsw-a", "sg-web", "h-1"),
        ],
        groups: vec![
            group(
                "sg-web",
                vec![rule(80, "0.0.0.0/0", false, 1), rule(80, "198.51.100.0/24", true, 1)],
                &["10.0.1.4", "10.0.1.9"],
            ),
            group("sg-db", vec![from_web, from_list], &["10.0.2.4"]),
        ],
        prefix_lists: vec![PrefixListSpec {
            prefix_list_id: text("pl-1"),
            cidrs: vec![text("198.51.100.0/25")],
        }],
        gateway_hosts: vec![(text("ngw-1"), text("h-3"))],
    }
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        protocol: Protocol::Tcp,
        source: source.parse().unwrap(),
        source_port: 49152,
        destination: destination.parse().unwrap(),
        destination_port: port,
    }
}

fn from(id: &str) -> Origin {
    Origin::Interface(format!("eni-{id}"))
}

fn steps(trace: &Trace) -> Vec<Step> {
    trace.hops.iter().map(|hop| hop.step).collect()
}

#[test]
fn a_rule_that_names_a_group_lets_its_members_in() {
    let network = network();
    let trace = trace(&network, &from("web"), tcp("10.0.1.4", "10.0.2.4", 5432));
    assert_eq!(trace.outcome, Outcome::Delivered(text("eni-db")));
    use Step::*;
    let expected = [SourceCheck, EgressGroups, Route, HostToHost, IngressGroups, Guest];
    assert_eq!(steps(&trace), expected);
    let decided = &trace.hops[4];
    assert_eq!(decided.reason, Some(Reason::Rule { group_id: text("sg-db"), index: 0 }));
    assert_eq!(decided.rule, "ingress tcp port 5432 from sg-web accept, priority 5");
    // The other way nothing lets it in.
    let back = super::trace(&network, &from("db"), tcp("10.0.2.4", "10.0.1.4", 22));
    assert_eq!(back.outcome, Outcome::Dropped);
    assert_eq!(back.hops.last().unwrap().reason, Some(Reason::Default));
}

#[test]
fn nobody_sends_as_another() {
    let trace = trace(&network(), &from("web"), tcp("10.0.1.5", "10.0.2.4", 5432));
    assert_eq!((steps(&trace), trace.outcome), (vec![Step::SourceCheck], Outcome::Dropped));
}

#[test]
fn its_own_public_address_goes_before_the_gateway() {
    let network = network();
    let out = trace(&network, &from("web"), tcp("10.0.1.4", "8.8.8.8", 443));
    assert_eq!(out.outcome, Outcome::Internet);
    assert_eq!(out.hops.last().unwrap().packet.source.to_string(), "203.0.113.4");
    let out = trace(&network, &from("db"), tcp("10.0.2.4", "8.8.8.8", 443));
    assert_eq!(out.outcome, Outcome::Internet);
    let nat = out.hops.iter().find(|hop| hop.step == Step::NatGateway).unwrap();
    assert_eq!(
        (nat.resource_id.as_str(), nat.packet.source.to_string()),
        ("snat-1", text("203.0.113.9"))
    );
    // The router is in no range that an SNAT entry is for.
    let out = trace(&network, &from("router"), tcp("10.0.1.9", "8.8.8.8", 443));
    assert_eq!(out.outcome, Outcome::Dropped);
    assert!(out.hops.last().unwrap().message.contains("no SNAT entry"));
}

#[test]
fn from_outside_a_drop_beats_an_accept_and_ports_are_moved() {
    let network = network();
    let come = |source: &str, destination: &str, port| {
        trace(&network, &Origin::Internet, tcp(source, destination, port))
    };
    assert_eq!(come("192.0.2.1", "203.0.113.4", 80).outcome, Outcome::Delivered(text("eni-web")));
    let dropped = come("198.51.100.1", "203.0.113.4", 80);
    assert_eq!(dropped.outcome, Outcome::Dropped);
    let reason = Some(Reason::Rule { group_id: text("sg-web"), index: 1 });
    assert_eq!(dropped.hops.last().unwrap().reason, reason);
    // 8003 is 5433 inside, which the prefix list lets in for half of its network.
    let inside = come("198.51.100.1", "203.0.113.9", 8003);
    assert_eq!(inside.outcome, Outcome::Delivered(text("eni-db")));
    assert_eq!(inside.hops.last().unwrap().packet.destination_port, 5433);
    assert_eq!(come("198.51.100.200", "203.0.113.9", 8003).outcome, Outcome::Dropped);
    assert_eq!(come("198.51.100.1", "203.0.113.9", 8011).outcome, Outcome::Dropped);
    assert_eq!(come("198.51.100.1", "203.0.113.77", 80).outcome, Outcome::Dropped);
}

#[test]
fn one_public_address_reaches_another_of_the_cloud() {
    let out = trace(&network(), &from("db"), tcp("10.0.2.4", "203.0.113.4", 80));
    assert_eq!(out.outcome, Outcome::Delivered(text("eni-web")));
    assert_eq!(out.hops.last().unwrap().packet.source.to_string(), "203.0.113.9");
}

#[test]
fn the_longest_prefix_decides_and_a_router_must_be_told_to_take_it() {
    let mut network = network();
    let go = |network: &Network, to: &str| trace(network, &from("db"), tcp("10.0.2.4", to, 80));
    let hole = go(&network, "192.168.7.1");
    assert_eq!(hole.outcome, Outcome::Dropped);
    assert_eq!(hole.hops.last().unwrap().resource_id, "rte-4");
    let checked = go(&network, "192.168.8.1");
    assert_eq!(checked.hops.last().unwrap().step, Step::SourceCheck);
    network.interfaces[2].spec.no_source_check = true;
    assert_eq!(go(&network, "192.168.8.1").outcome, Outcome::HandedOver(text("eni-router")));
    // What no VSwitch has does not leave the VPC.
    let nowhere = go(&network, "10.0.3.1");
    let last = nowhere.hops.last().unwrap();
    assert_eq!((nowhere.outcome, last.step), (Outcome::Dropped, Step::Route));
}

#[test]
fn a_stopped_guest_neither_sends_nor_gets_anything() {
    let mut network = network();
    network.interfaces[1].running = false;
    let to = trace(&network, &from("web"), tcp("10.0.1.4", "10.0.2.4", 5432));
    let last = to.hops.last().unwrap();
    assert_eq!((to.outcome, last.step), (Outcome::Dropped, Step::Guest));
    let of = trace(&network, &from("db"), tcp("10.0.2.4", "10.0.1.4", 80));
    assert_eq!(steps(&of), [Step::Guest]);
}

#[test]
fn advanced_groups_let_nothing_out_by_themselves() {
    let mut network = network();
    network.groups[0].enterprise = true;
    let out = trace(&network, &from("web"), tcp("10.0.1.4", "10.0.2.4", 5432));
    assert_eq!(steps(&out), [Step::SourceCheck, Step::EgressGroups]);
    network.groups[0].rules.push(RuleSpec { egress: true, ..rule(5432, "10.0.0.0/8", false, 1) });
    let out = trace(&network, &from("web"), tcp("10.0.1.4", "10.0.2.4", 5432));
    assert_eq!(out.outcome, Outcome::Delivered(text("eni-db")));
}
