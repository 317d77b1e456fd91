//! The chains of one combination of groups.

use super::{
    compile::{intervals, named_set, set},
    policy::{
        AddressFamily, BrokenRule, Direction, Match, Peers, Policy, PortSet, Protocol, Reference,
        Verdict,
    },
    ruleset::{Chain, Table},
};
use crate::plan::Vpc;
use compact_str::format_compact;
use std::net::IpAddr;

/// The chains of IPv6 are entered by those of IPv4, which maps lead to.
pub(super) fn add_chains_of(
    family: AddressFamily,
    inet: &mut Table,
    name: &str,
    groups: &[String],
    vpc: &Vpc,
) -> Vec<BrokenRule> {
    let specs: Vec<_> = groups.iter().filter_map(|id| vpc.groups.get(id)).collect();
    let known = |reference: Reference<'_>| match reference {
        Reference::Group(id) => vpc.groups.contains_key(id),
        Reference::PrefixList(id) => vpc.prefix_lists.contains_key(id),
    };
    let mut broken = Vec::new();
    for (direction, prefix) in [(Direction::Ingress, "in"), (Direction::Egress, "out")] {
        let (policy, some_broken) = Policy::merge_of(family, &specs, direction, known);
        broken.extend(some_broken);
        for clause in &policy.clauses {
            match &clause.matches.peers {
                Peers::Group(id) => members(inet, family, id, vpc),
                Peers::PrefixList(id) => prefixes(inet, family, id, vpc),
                Peers::Any | Peers::Blocks(_) => {}
            }
        }
        for (travel, suffix) in [(Travel::Original, ""), (Travel::Reply, "_reply")] {
            let first = match family {
                AddressFamily::V4 if vpc.ipv6 => {
                    Some(format!("meta nfproto ipv6 goto {prefix}{suffix}6_{name}"))
                }
                _ => None,
            };
            let rules = policy.clauses.iter().map(|clause| {
                let mut rule = conditions(&clause.matches, family, direction, travel);
                rule.push_str(verdict(clause.verdict, direction, travel));
                rule
            });
            let last = verdict(policy.default, direction, travel).to_owned();
            let rules = first.into_iter().chain(rules).chain([last]).collect();
            let chain = Chain { hook: String::new(), rules };
            let of_family = if family == AddressFamily::V6 { "6" } else { "" };
            inet.chains.insert(format!("{prefix}{suffix}{of_family}_{name}"), chain);
        }
    }
    broken
}

fn members(inet: &mut Table, family: AddressFamily, group: &str, vpc: &Vpc) {
    let (name, kind) = match family {
        AddressFamily::V4 => (named_set("members", group), "ipv4_addr"),
        AddressFamily::V6 => (named_set("members6", group), "ipv6_addr"),
    };
    if inet.sets.contains_key(&name) {
        return;
    }
    let mut members = set(kind);
    let addresses = vpc.groups.get(group).map(|g| g.member_ips.as_slice()).unwrap_or_default();
    for address in addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
        if address.is_ipv6() == (family == AddressFamily::V6) {
            members.insert(format_compact!("{address}"), "");
        }
    }
    inet.sets.insert(name, members);
}

fn prefixes(inet: &mut Table, family: AddressFamily, list: &str, vpc: &Vpc) {
    let Some(blocks) = vpc.prefix_lists.get(list) else { return };
    let (name, kind, blocks): (_, _, Vec<String>) = match family {
        AddressFamily::V4 => {
            let blocks = blocks.v4.iter().map(ToString::to_string);
            (named_set("prefixes", list), "ipv4_addr", blocks.collect())
        }
        AddressFamily::V6 => {
            let blocks = blocks.v6.iter().map(ToString::to_string);
            (named_set("prefixes6", list), "ipv6_addr", blocks.collect())
        }
    };
    let mut prefixes = intervals(kind);
    for block in blocks {
        prefixes.insert(block, "");
    }
    inet.sets.insert(name, prefixes);
}

/// Which way a packet goes in its flow. The direction of rules is that of the flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Travel {
    Original,
    Reply,
}

fn conditions(
    matches: &Match,
    family: AddressFamily,
    direction: Direction,
    travel: Travel,
) -> String {
    let (side, own_side) = match (direction, travel) {
        (Direction::Ingress, Travel::Original) | (Direction::Egress, Travel::Reply) => {
            ("saddr", "daddr")
        }
        (Direction::Egress, Travel::Original) | (Direction::Ingress, Travel::Reply) => {
            ("daddr", "saddr")
        }
    };
    let (header, six) = match family {
        AddressFamily::V4 => ("ip", ""),
        AddressFamily::V6 => ("ip6", "6"),
    };
    let field = format!("{header} {side}");
    let (source, destination) = match travel {
        Travel::Original => ("sport", "dport"),
        Travel::Reply => ("dport", "sport"),
    };
    let mut text = match &matches.peers {
        Peers::Any => String::new(),
        Peers::Group(group) => {
            format!("{field} @{} ", named_set(&format!("members{six}"), group))
        }
        Peers::PrefixList(list) => {
            format!("{field} @{} ", named_set(&format!("prefixes{six}"), list))
        }
        Peers::Blocks(blocks) => {
            let blocks: Vec<_> = blocks.iter().map(ToString::to_string).collect();
            format!("{field} {{ {} }} ", blocks.join(", "))
        }
    };
    if let Some(block) = matches.own {
        text.push_str(&format!("{header} {own_side} {block} "));
    }
    let protocol = match matches.protocol {
        Protocol::All => return text,
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp if family == AddressFamily::V6 => "58",
        Protocol::Icmp => "icmp",
        Protocol::Gre => "gre",
    };
    if matches.source_ports.is_all() && matches.destination_ports.is_all() {
        text.push_str(&format!("meta l4proto {protocol} "));
    }
    let sides = [(source, &matches.source_ports), (destination, &matches.destination_ports)];
    for (side, ports) in sides {
        if !ports.is_all() {
            text.push_str(&format!("{protocol} {side} {{ {} }} ", ranges(ports)));
        }
    }
    text
}

fn ranges(ports: &PortSet) -> String {
    let ranges: Vec<_> = ports
        .ranges()
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    ranges.join(", ")
}

fn verdict(verdict: Verdict, direction: Direction, travel: Travel) -> &'static str {
    match (verdict, direction, travel) {
        (Verdict::Drop, ..) => "drop",
        (Verdict::Accept, Direction::Ingress, _) => "goto pass",
        // The receiver's groups have their say too.
        (Verdict::Accept, Direction::Egress, Travel::Original) => "goto to_guest",
        (Verdict::Accept, Direction::Egress, Travel::Reply) => "goto from_guest",
    }
}
