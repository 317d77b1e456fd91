//! Random groups: the merged policy against a plain reading of the rules one by one.

use super::policy::{Direction, Packet, Policy, Verdict};
use api::host::{RuleSpec, SecurityGroupSpec};
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// What ECS says, written down without any thought of speed: all rules of all groups, sorted; the
/// first that fits decides; then the defaults.
fn reference(
    groups: &[SecurityGroupSpec],
    mine: &[usize],
    direction: Direction,
    packet: &Packet,
) -> Verdict {
    let member = |id: &str| {
        let group = groups.iter().find(|g| g.security_group_id == id);
        group.is_some_and(|g| g.member_ips.contains(&packet.peer.to_string()))
    };
    let mut rules: Vec<&RuleSpec> = mine.iter().flat_map(|i| &groups[*i].rules).collect();
    rules.sort_by_key(|rule| (rule.priority, !rule.drop));
    for rule in rules {
        if rule.egress != (direction == Direction::Egress) {
            continue;
        }
        let protocol = match rule.ip_protocol.as_str() {
            "tcp" => packet.protocol == 6,
            "udp" => packet.protocol == 17,
            "icmp" => packet.protocol == 1,
            "gre" => packet.protocol == 47,
            _ => true,
        };
        let within = |from: u32, to: u32, port: u16| {
            (from == 0 && to == 0) || (from..=to).contains(&u32::from(port))
        };
        let source = match rule.source_port_range.split_once('/') {
            None => true,
            Some((from, to)) => {
                within(from.parse().unwrap(), to.parse().unwrap(), packet.source_port)
            }
        };
        let peer = if rule.cidr.is_empty() {
            member(&rule.peer_group_id)
        } else {
            rule.cidr.parse::<Ipv4Net>().unwrap().contains(&packet.peer)
        };
        let own = rule.own_cidr.is_empty()
            || rule.own_cidr.parse::<Ipv4Net>().unwrap().contains(&packet.own);
        let port = within(rule.port_from, rule.port_to, packet.destination_port);
        if protocol && source && peer && own && port {
            return if rule.drop { Verdict::Drop } else { Verdict::Accept };
        }
    }
    let mut of_mine = mine.iter().map(|i| &groups[*i]);
    let accepted = match direction {
        Direction::Ingress => {
            of_mine.any(|g| !g.enterprise && g.inner_accept && member(&g.security_group_id))
        }
        Direction::Egress => !mine.is_empty() && of_mine.all(|g| !g.enterprise),
    };
    if accepted { Verdict::Accept } else { Verdict::Drop }
}

/// Few values, so that rules meet each other and packets meet rules.
fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0u8..4, 0u8..4).prop_map(|(net, host)| Ipv4Addr::new(10, 0, net, host))
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..6, Just(u16::MAX), Just(u16::MAX - 1)]
}

fn ports() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![
        Just((0, 0)),
        (port(), port()).prop_map(|(a, b)| (u32::from(a.min(b)), u32::from(a.max(b)))),
    ]
}

fn rule() -> impl Strategy<Value = RuleSpec> {
    let protocol = prop_oneof![Just("tcp"), Just("udp"), Just("icmp"), Just("gre"), Just("all")];
    let peer = prop_oneof![
        (address(), 21u8..=32).prop_map(|(a, length)| (format!("{a}/{length}"), String::new())),
        Just(("0.0.0.0/0".to_owned(), String::new())),
        (0usize..4).prop_map(|group| (String::new(), format!("sg-{group}"))),
    ];
    let own = prop_oneof![
        2 => Just(String::new()),
        1 => (address(), 22u8..=32).prop_map(|(a, length)| format!("{a}/{length}")),
        1 => Just("0.0.0.0/0".to_owned()),
    ];
    (any::<bool>(), protocol, (peer, own), ports(), ports(), 1u32..4, any::<bool>()).prop_map(
        |(
            egress,
            protocol,
            ((cidr, peer_group_id), own_cidr),
            (from, to),
            (source_from, source_to),
            priority,
            drop,
        )| {
            let has_ports = matches!(protocol, "tcp" | "udp");
            let source = has_ports && source_to != 0;
            RuleSpec {
                egress,
                ip_protocol: protocol.to_owned(),
                port_from: if has_ports { from } else { 0 },
                port_to: if has_ports { to } else { 0 },
                cidr,
                peer_group_id,
                own_cidr,
                priority,
                drop,
                source_port_range: if source {
                    format!("{source_from}/{source_to}")
                } else {
                    String::new()
                },
                ..RuleSpec::default()
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
    prop::collection::vec(group, 4).prop_map(|groups| {
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

fn packet() -> impl Strategy<Value = Packet> {
    let protocol = prop_oneof![Just(6u8), Just(17), Just(1), Just(47), Just(132)];
    let addresses = (address(), address());
    (protocol, addresses, port(), port()).prop_map(
        |(protocol, (peer, own), source, destination)| {
            let has_ports = matches!(protocol, 6 | 17);
            Packet {
                protocol,
                peer,
                own,
                source_port: if has_ports { source } else { 0 },
                destination_port: if has_ports { destination } else { 0 },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_merged_policy_decides_as_the_rules_do(
        groups in groups(),
        mine in prop::collection::btree_set(0usize..4, 0..4),
        packets in prop::collection::vec(packet(), 20),
    ) {
        let mine: Vec<usize> = mine.into_iter().collect();
        let specs: Vec<_> = mine.iter().map(|i| &groups[*i]).collect();
        for direction in [Direction::Ingress, Direction::Egress] {
            let (policy, broken) = Policy::merge(&specs, direction, |_| true);
            prop_assert!(broken.is_empty(), "{broken:?}");
            for packet in &packets {
                let is_member = |id: &str, peer: Ipv4Addr| groups.iter().any(|g| {
                    g.security_group_id == id && g.member_ips.contains(&peer.to_string())
                });
                let verdict = policy.evaluate(packet, is_member);
                let expected = reference(&groups, &mine, direction, packet);
                prop_assert_eq!(verdict, expected, "{:?} {:?} in {:?}", direction, packet, policy);
            }
        }
    }
}

fn group_with(rule: RuleSpec) -> SecurityGroupSpec {
    SecurityGroupSpec {
        security_group_id: "sg-x".to_owned(),
        rules: vec![rule],
        ..SecurityGroupSpec::default()
    }
}

/// A rule that cannot be understood accepts nothing, and drops all it might have meant.
#[test]
fn broken_rules_never_open_anything() {
    let good = RuleSpec {
        ip_protocol: "tcp".to_owned(),
        port_from: 22,
        port_to: 22,
        cidr: "10.0.0.0/24".to_owned(),
        priority: 1,
        ..RuleSpec::default()
    };
    let broken: &[fn(&mut RuleSpec)] = &[
        |rule| rule.ip_protocol = "sctp".to_owned(),
        |rule| rule.cidr = "10.0.0.0/40".to_owned(),
        |rule| rule.cidr.clear(),
        |rule| rule.own_cidr = "10.0.0.0/40".to_owned(),
        |rule| (rule.cidr, rule.peer_group_id) = (String::new(), "sg-gone".to_owned()),
        |rule| (rule.port_from, rule.port_to) = (30, 20),
        |rule| rule.port_to = 70_000,
        |rule| rule.source_port_range = "x".to_owned(),
        |rule| rule.ip_protocol = "icmp".to_owned(),
    ];
    let packet = Packet {
        protocol: 6,
        peer: Ipv4Addr::new(10, 0, 0, 1),
        own: Ipv4Addr::new(10, 0, 0, 9),
        source_port: 1000,
        destination_port: 22,
    };
    for spoil in broken {
        for drop in [false, true] {
            let mut rule = RuleSpec { drop, ..good.clone() };
            spoil(&mut rule);
            let group = group_with(rule.clone());
            let (policy, broken) = Policy::merge(&[&group], Direction::Ingress, |_| false);
            assert_eq!(broken.len(), 1, "{rule:?}");
            let count = usize::from(drop);
            assert_eq!(policy.clauses.len(), count, "{rule:?}");
            assert_eq!(policy.evaluate(&packet, |_, _| false), Verdict::Drop);
        }
    }
    for ipv6 in [
        RuleSpec { cidr: "::/0".to_owned(), ..good.clone() },
        RuleSpec { own_cidr: "fdec::/16".to_owned(), ..good },
    ] {
        let group = group_with(ipv6);
        let (policy, broken) = Policy::merge(&[&group], Direction::Ingress, |_| true);
        assert!(broken.is_empty() && policy.clauses.is_empty());
    }
}
