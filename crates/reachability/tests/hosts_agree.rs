//! Random groups, rules and prefix lists: the plain reading of rules against the policy that hosts
//! compile into filters.

#![allow(clippy::unwrap_used)]

use api::host::{PrefixListSpec, RuleSpec, SecurityGroupSpec};
use network::security_groups::policy::{self, Direction, Policy, Reference, Verdict};
use proptest::prelude::*;
use reachability::{Packet, Protocol, decide};
use std::net::{IpAddr, Ipv4Addr};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Few values, so that rules meet each other and packets meet rules.
fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0u8..3, 0u8..4).prop_map(|(net, host)| Ipv4Addr::new(10, 0, net, host))
}

fn block() -> impl Strategy<Value = String> {
    (address(), 22u8..=32).prop_map(|(address, length)| format!("{address}/{length}"))
}

/// The other side: a range, a group or a prefix list. The fourth of each does not exist.
fn peer() -> impl Strategy<Value = [String; 3]> {
    let none = String::new;
    prop_oneof![
        block().prop_map(move |cidr| [cidr, none(), none()]),
        Just(["0.0.0.0/0".to_owned(), String::new(), String::new()]),
        Just(["::/0".to_owned(), String::new(), String::new()]),
        (0usize..4).prop_map(move |group| [none(), format!("sg-{group}"), none()]),
        (0usize..4).prop_map(move |list| [none(), none(), format!("pl-{list}")]),
    ]
}

fn rule() -> impl Strategy<Value = RuleSpec> {
    let protocol = prop_oneof![
        Just("tcp"),
        Just("udp"),
        Just("icmp"),
        Just("gre"),
        Just("all"),
        Just("icmpv6"),
        Just("sctp")
    ];
    let ports = prop_oneof![Just((0, 0)), (1u32..5, 1u32..5), Just((1, 65535)), Just((3, 70_000))];
    let sources = prop_oneof![Just(""), Just("-1/-1"), Just("2/3"), Just("x"), Just("3/2")];
    let own = prop_oneof![
        4 => Just(""),
        2 => Just("10.9.9.0/24"),
        2 => Just("10.9.0.0/24"),
        1 => Just("::/0"),
        1 => Just("x")
    ];
    (any::<bool>(), protocol, ports, sources, (peer(), own), 1u32..4, any::<bool>()).prop_map(
        |(
            egress,
            protocol,
            (port_from, port_to),
            sources,
            ([cidr, group, list], own),
            priority,
            drop,
        )| {
            RuleSpec {
                egress,
                ip_protocol: protocol.to_owned(),
                port_from,
                port_to,
                cidr,
                peer_group_id: group,
                priority,
                drop,
                source_port_range: sources.to_owned(),
                prefix_list_id: list,
                own_cidr: own.to_owned(),
            }
        },
    )
}

fn groups() -> impl Strategy<Value = Vec<SecurityGroupSpec>> {
    let group = (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(rule(), 0..8),
        prop::collection::vec(address(), 0..6),
    );
    prop::collection::vec(group, 3).prop_map(|groups| {
        let groups = groups.into_iter().enumerate();
        groups
            .map(|(index, (enterprise, inner_accept, rules, members))| SecurityGroupSpec {
                security_group_id: format!("sg-{index}"),
                vpc_id: "vpc-1".to_owned(),
                enterprise,
                inner_accept,
                rules,
                member_ips: members.iter().map(ToString::to_string).collect(),
            })
            .collect()
    })
}

fn lists() -> impl Strategy<Value = Vec<PrefixListSpec>> {
    prop::collection::vec(prop::collection::vec(block(), 0..3), 3).prop_map(|lists| {
        let lists = lists.into_iter().enumerate();
        lists
            .map(|(index, cidrs)| PrefixListSpec { prefix_list_id: format!("pl-{index}"), cidrs })
            .collect()
    })
}

fn flow() -> impl Strategy<Value = (Protocol, Ipv4Addr, u16, u16)> {
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Icmp),
        Just(Protocol::Gre)
    ];
    (protocol, address(), 1u16..5, 1u16..5).prop_map(|(protocol, peer, source, destination)| {
        let ports = if protocol.has_ports() { (source, destination) } else { (0, 0) };
        (protocol, peer, ports.0, ports.1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_reading_of_rules_is_what_hosts_do(
        groups in groups(),
        lists in lists(),
        mine in prop::collection::btree_set(0usize..3, 0..3),
        flows in prop::collection::vec(flow(), 20),
    ) {
        let specs: Vec<&SecurityGroupSpec> = mine.iter().map(|index| &groups[*index]).collect();
        let known = |reference: Reference<'_>| match reference {
            Reference::Group(id) => groups.iter().any(|g| g.security_group_id == id),
            Reference::PrefixList(id) => lists.iter().any(|list| list.prefix_list_id == id),
        };
        let is_member = |id: &str, peer: Ipv4Addr| {
            let of_group = groups.iter().find(|g| g.security_group_id == id);
            let of_list = lists.iter().find(|list| list.prefix_list_id == id);
            of_group.is_some_and(|group| group.member_ips.contains(&peer.to_string()))
                || of_list.is_some_and(|list| list.cidrs.iter().any(|cidr| {
                    cidr.parse::<ipnet::Ipv4Net>().unwrap().contains(&peer)
                }))
        };
        for egress in [false, true] {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            let (compiled, _) = Policy::merge(&specs, direction, known);
            for (protocol, peer, source_port, destination_port) in &flows {
                let (peer, source_port, destination_port) = (*peer, *source_port, *destination_port);
                let number = match protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    Protocol::Icmp => 1,
                    Protocol::Gre => 47,
                };
                let seen = policy::Packet {
                    protocol: number,
                    peer,
                    own: OWN,
                    source_port,
                    destination_port,
                };
                let (source, destination) = if egress { (OWN, peer) } else { (peer, OWN) };
                let packet = Packet {
                    protocol: *protocol,
                    source: IpAddr::from(source),
                    source_port,
                    destination: IpAddr::from(destination),
                    destination_port,
                };
                let read = decide(&specs, &groups, &lists, egress, &packet);
                let done = compiled.evaluate(&seen, is_member) == Verdict::Accept;
                prop_assert_eq!(read.accepted, done, "{} {:?} in {:?}", packet, read, compiled);
            }
        }
    }
}
