//! One rule of a security group, read from its spec.

use super::policy::{AddressFamily, Match, Peers, PortSet, Protocol, Reference};
use api::host::RuleSpec;
use ipnet::IpNet;
use std::net::IpAddr;

/// A rule that was read, or what to do since it could not be.
#[derive(Debug)]
pub(crate) enum Reading {
    /// What the rule matches.
    Rule(Match),
    /// It is about the other family: it matches nothing.
    Nothing,
    /// It makes no sense. What is set matches at least all the rule could have meant.
    Broken { widest: Match, reason: String },
}

/// Reads a rule. `known` tells whether what it names is part of the desired state.
pub(crate) fn read(
    rule: &RuleSpec,
    family: AddressFamily,
    known: impl Fn(Reference<'_>) -> bool,
) -> Reading {
    let mut broken = Vec::new();
    let (protocol, only) = match rule.ip_protocol.to_ascii_lowercase().as_str() {
        "tcp" => (Protocol::Tcp, None),
        "udp" => (Protocol::Udp, None),
        "icmp" => (Protocol::Icmp, Some(AddressFamily::V4)),
        "gre" => (Protocol::Gre, None),
        "all" => (Protocol::All, None),
        "icmpv6" => (Protocol::Icmp, Some(AddressFamily::V6)),
        other => {
            broken.push(format!(
                "unknown protocol {other:?}, use tcp, udp, icmp, icmpv6, gre or all"
            ));
            (Protocol::All, None)
        }
    };
    let peers = match peers(rule, family, known) {
        Ok(Some(peers)) => peers,
        Ok(None) => return Reading::Nothing,
        Err(reason) => {
            broken.push(reason);
            Peers::Any
        }
    };
    let own = match block_of(&rule.own_cidr, family) {
        Ok(Some(block)) => (block.prefix_len() > 0).then_some(block),
        Ok(None) if rule.own_cidr.is_empty() => None,
        Ok(None) => return Reading::Nothing,
        Err(reason) => {
            broken.push(reason);
            None
        }
    };
    if only.is_some_and(|only| only != family) {
        return Reading::Nothing;
    }
    let mut ports = |what: &str, range: Result<PortSet, String>| match range {
        Ok(set) if set.is_all() || protocol.has_ports() => set,
        Ok(_) => {
            broken.push(format!("{what} needs protocol tcp or udp"));
            PortSet::ALL
        }
        Err(reason) => {
            broken.push(format!("{what}: {reason}"));
            PortSet::ALL
        }
    };
    let destination = ports("port range", port_range(rule.port_from, rule.port_to));
    let source = ports("source port range", source_ports(&rule.source_port_range));
    let matches =
        Match { protocol, peers, own, source_ports: source, destination_ports: destination };
    if broken.is_empty() {
        Reading::Rule(matches)
    } else {
        Reading::Broken { widest: matches, reason: broken.join("; ") }
    }
}

/// The other side of a rule; none if it is of the other family.
fn peers(
    rule: &RuleSpec,
    family: AddressFamily,
    known: impl Fn(Reference<'_>) -> bool,
) -> Result<Option<Peers>, String> {
    if rule.cidr.is_empty() {
        let (group, list) = (&rule.peer_group_id, &rule.prefix_list_id);
        return match (group.as_str(), list.as_str()) {
            ("", "") => Err("no CIDR block, group or prefix list is given".to_owned()),
            (id, "") if known(Reference::Group(id)) => Ok(Some(Peers::Group(group.clone()))),
            ("", id) if known(Reference::PrefixList(id)) => {
                Ok(Some(Peers::PrefixList(list.clone())))
            }
            (id, "") => Err(format!("group {id} is not known on this host")),
            ("", id) => Err(format!("prefix list {id} is not known on this host")),
            _ => Err(format!("both group {group} and prefix list {list} are given")),
        };
    }
    Ok(block_of(&rule.cidr, family)?.map(|block| match block.prefix_len() {
        0 => Peers::Any,
        _ => Peers::Blocks(vec![block]),
    }))
}

/// A block; none if there is none, or it is of the other family.
fn block_of(cidr: &str, family: AddressFamily) -> Result<Option<IpNet>, String> {
    if cidr.is_empty() {
        return Ok(None);
    }
    let block = cidr.parse::<IpNet>().or_else(|_| cidr.parse::<IpAddr>().map(IpNet::from));
    let block = block.map_err(|_| format!("{cidr:?} is no CIDR block"))?;
    let of_family = block.addr().is_ipv6() == (family == AddressFamily::V6);
    Ok(of_family.then(|| block.trunc()))
}

fn port_range(from: u32, to: u32) -> Result<PortSet, String> {
    if (from, to) == (0, 0) || (from, to) == (1, 65535) {
        return Ok(PortSet::ALL);
    }
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(from), Ok(to)) if from <= to => Ok(PortSet::new([from..=to])),
        _ => Err(format!("{from}/{to} is no port range")),
    }
}

fn source_ports(text: &str) -> Result<PortSet, String> {
    if text.is_empty() || text == "-1/-1" {
        return Ok(PortSet::ALL);
    }
    let fail = || format!("{text:?} is no port range, expected from/to");
    let (from, to) = text.split_once('/').ok_or_else(fail)?;
    port_range(from.parse().map_err(|_| fail())?, to.parse().map_err(|_| fail())?)
}
