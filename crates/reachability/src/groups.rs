//! What the security groups of an interface say about a packet.

use crate::packet::{Packet, Protocol};
use api::host::{PrefixListSpec, RuleSpec, SecurityGroupSpec};
use ipnet::IpNet;
use std::net::IpAddr;

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule: the group's id and the rule's place in the group.
    Rule {
        /// The group.
        group_id: String,
        /// Place among the group's rules.
        index: usize,
    },
    /// Both are members of this basic group, whose members reach each other.
    InnerAccess {
        /// The group.
        group_id: String,
    },
    /// No rule matches, and this is what happens then.
    Default,
}

/// A verdict, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// It passes.
    pub accepted: bool,
    /// What decided.
    pub reason: Reason,
}

/// All rules of all the interface's groups, smaller priorities first, at equal priority drops first;
/// the first that matches decides. Then members of one basic group reach each other, and a basic group
/// lets everything out that no advanced group beside it holds back.
pub fn decide(
    groups: &[&SecurityGroupSpec],
    all_groups: &[SecurityGroupSpec],
    prefix_lists: &[PrefixListSpec],
    egress: bool,
    packet: &Packet,
) -> Decision {
    let peer = if egress { packet.destination } else { packet.source };
    let mut rules: Vec<(&str, usize, &RuleSpec)> = groups
        .iter()
        .flat_map(|group| {
            let id = group.security_group_id.as_str();
            group.rules.iter().enumerate().map(move |(index, rule)| (id, index, rule))
        })
        .filter(|(_, _, rule)| rule.egress == egress)
        .collect();
    rules.sort_by_key(|(_, _, rule)| (rule.priority, !rule.drop));
    for (group_id, index, rule) in rules {
        if fits(rule, all_groups, prefix_lists, peer, packet) {
            let group_id = group_id.to_owned();
            return Decision { accepted: !rule.drop, reason: Reason::Rule { group_id, index } };
        }
    }
    if egress {
        let accepted = !groups.is_empty() && groups.iter().all(|group| !group.enterprise);
        return Decision { accepted, reason: Reason::Default };
    }
    let together = groups
        .iter()
        .find(|group| !group.enterprise && group.inner_accept && is_member(group, peer));
    match together {
        Some(group) => Decision {
            accepted: true,
            reason: Reason::InnerAccess { group_id: group.security_group_id.clone() },
        },
        None => Decision { accepted: false, reason: Reason::Default },
    }
}

fn is_member(group: &SecurityGroupSpec, address: IpAddr) -> bool {
    group.member_ips.iter().any(|member| member.parse() == Ok(address))
}

fn fits(
    rule: &RuleSpec,
    all_groups: &[SecurityGroupSpec],
    prefix_lists: &[PrefixListSpec],
    peer: IpAddr,
    packet: &Packet,
) -> bool {
    let protocol = match rule.ip_protocol.to_ascii_lowercase().as_str() {
        "all" => true,
        "tcp" => packet.protocol == Protocol::Tcp,
        "udp" => packet.protocol == Protocol::Udp,
        "gre" => packet.protocol == Protocol::Gre,
        "icmp" => packet.protocol == Protocol::Icmp && packet.source.is_ipv4(),
        "icmpv6" => packet.protocol == Protocol::Icmp && packet.source.is_ipv6(),
        _ => rule.drop,
    };
    let within = |from: u32, to: u32, port: u16| {
        (from, to) == (0, 0) || (from..=to).contains(&u32::from(port))
    };
    let ports = within(rule.port_from, rule.port_to, packet.destination_port);
    let source_ports = match rule.source_port_range.split_once('/') {
        None => true,
        Some((from, to)) => match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => within(from, to, packet.source_port),
            _ => rule.source_port_range == "-1/-1" || rule.drop,
        },
    };
    protocol && ports && source_ports && fits_peer(rule, all_groups, prefix_lists, peer)
}

/// A rule that names what does not exist accepts nothing, and drops all it could have meant.
fn fits_peer(
    rule: &RuleSpec,
    all_groups: &[SecurityGroupSpec],
    prefix_lists: &[PrefixListSpec],
    peer: IpAddr,
) -> bool {
    if !rule.cidr.is_empty() {
        return contains(&rule.cidr, peer).unwrap_or(rule.drop);
    }
    if !rule.prefix_list_id.is_empty() {
        let list = prefix_lists.iter().find(|list| list.prefix_list_id == rule.prefix_list_id);
        return list.map_or(rule.drop, |list| {
            list.cidrs.iter().any(|cidr| contains(cidr, peer).unwrap_or(false))
        });
    }
    let group = all_groups.iter().find(|group| group.security_group_id == rule.peer_group_id);
    group.map_or(rule.drop, |group| is_member(group, peer))
}

/// Whether a range, or an address, has an address in it; none if the text is neither.
pub(crate) fn contains(cidr: &str, address: IpAddr) -> Option<bool> {
    let net = cidr.parse::<IpNet>().ok();
    let net = net.or_else(|| cidr.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(net.contains(&address))
}

/// A rule in words.
pub(crate) fn describe(rule: &RuleSpec) -> String {
    let ports = match (rule.port_from, rule.port_to) {
        (0, 0) => String::new(),
        (from, to) if from == to => format!(" port {from}"),
        (from, to) => format!(" ports {from} to {to}"),
    };
    let sources = match rule.source_port_range.as_str() {
        "" | "-1/-1" => String::new(),
        range => format!(" from ports {range}"),
    };
    let peer = [&rule.cidr, &rule.peer_group_id, &rule.prefix_list_id]
        .into_iter()
        .find(|text| !text.is_empty());
    format!(
        "{} {}{ports}{sources} {} {} {}, priority {}",
        if rule.egress { "egress" } else { "ingress" },
        rule.ip_protocol,
        if rule.egress { "to" } else { "from" },
        peer.map_or("nobody", String::as_str),
        if rule.drop { "drop" } else { "accept" },
        rule.priority
    )
}
