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

/// Whether a rule is about a packet. What of it makes no sense, or names what does not exist, fits
/// nothing if the rule accepts, and everything if it drops.
fn fits(
    rule: &RuleSpec,
    all_groups: &[SecurityGroupSpec],
    prefix_lists: &[PrefixListSpec],
    peer: IpAddr,
    packet: &Packet,
) -> bool {
    let parts = [
        fits_protocol(rule, packet),
        fits_peer(rule, all_groups, prefix_lists, peer),
        fits_own(rule, packet),
        fits_ports(rule, Some((rule.port_from, rule.port_to)), packet.destination_port),
        fits_ports(rule, source_ports(&rule.source_port_range), packet.source_port),
    ];
    parts.into_iter().all(|part| part.unwrap_or(rule.drop))
}

fn fits_protocol(rule: &RuleSpec, packet: &Packet) -> Option<bool> {
    match rule.ip_protocol.to_ascii_lowercase().as_str() {
        "all" => Some(true),
        "icmp" => Some(packet.protocol == Protocol::Icmp && packet.source.is_ipv4()),
        "icmpv6" => Some(packet.protocol == Protocol::Icmp && packet.source.is_ipv6()),
        name => name.parse().ok().map(|protocol: Protocol| protocol == packet.protocol),
    }
}

/// The first and last port of `from/to`; none if the text is no such thing.
fn source_ports(text: &str) -> Option<(u32, u32)> {
    if ["", "-1/-1"].contains(&text) {
        return Some((0, 0));
    }
    let (from, to) = text.split_once('/')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// Only TCP and UDP have ports, and only their rules may name some.
fn fits_ports(rule: &RuleSpec, range: Option<(u32, u32)>, port: u16) -> Option<bool> {
    let (from, to) = range?;
    if [(0, 0), (1, 65535)].contains(&(from, to)) {
        return Some(true);
    }
    let has_ports = ["tcp", "udp"].contains(&rule.ip_protocol.to_ascii_lowercase().as_str());
    (has_ports && from <= to && to <= u32::from(u16::MAX))
        .then(|| (from..=to).contains(&u32::from(port)))
}

/// The interface's own side.
fn fits_own(rule: &RuleSpec, packet: &Packet) -> Option<bool> {
    let own = if rule.egress { packet.source } else { packet.destination };
    if rule.own_cidr.is_empty() { Some(true) } else { contains(&rule.own_cidr, own) }
}

fn fits_peer(
    rule: &RuleSpec,
    all_groups: &[SecurityGroupSpec],
    prefix_lists: &[PrefixListSpec],
    peer: IpAddr,
) -> Option<bool> {
    let named = [&rule.cidr, &rule.peer_group_id, &rule.prefix_list_id].map(String::as_str);
    match named {
        [cidr, _, _] if !cidr.is_empty() => contains(cidr, peer),
        ["", id, ""] => {
            let group = all_groups.iter().find(|group| group.security_group_id == id)?;
            Some(is_member(group, peer))
        }
        ["", "", id] => {
            let list = prefix_lists.iter().find(|list| list.prefix_list_id == id)?;
            Some(list.cidrs.iter().any(|cidr| contains(cidr, peer) == Some(true)))
        }
        _ => None,
    }
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
    let own = match (rule.own_cidr.as_str(), rule.egress) {
        ("", _) => String::new(),
        (own, true) => format!(" of {own}"),
        (own, false) => format!(" for {own}"),
    };
    format!(
        "{} {}{ports}{sources}{own} {} {} {}, priority {}",
        if rule.egress { "egress" } else { "ingress" },
        rule.ip_protocol,
        if rule.egress { "to" } else { "from" },
        peer.map_or("nobody", String::as_str),
        if rule.drop { "drop" } else { "accept" },
        rule.priority
    )
}
