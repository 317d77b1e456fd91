//! From a `Permission` to a rule and back.

use crate::{
    ecs_error::{invalid, refuse},
    timestamp,
    timestamp::now_ms,
};
use api::v1::Permission;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use store::{Refusal, RuleRecord, SecurityGroupRecord};

const PROTOCOLS: [&str; 6] = ["tcp", "udp", "icmp", "icmpv6", "gre", "all"];
const LONGEST_DESCRIPTION: usize = 512;

/// Checks a permission. The rule has no id yet.
pub(super) fn parse(
    group_id: &str,
    permission: &Permission,
    egress: bool,
) -> Result<RuleRecord, Refusal> {
    let protocol = permission.ip_protocol.to_ascii_lowercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        let code = if protocol.is_empty() {
            "MissingParameter"
        } else {
            "InvalidIpProtocol.ValueNotSupported"
        };
        return Err(refuse(
            400,
            code,
            format!(
                "ip_protocol is {:?}; it must be one of {}",
                permission.ip_protocol,
                PROTOCOLS.join(", ")
            ),
        ));
    }
    let (port_from, port_to) = port_range(&protocol, &permission.port_range)?;
    let source_ports = source_ports(&protocol, &permission.source_port_range)?;
    let drop = match permission.policy.to_ascii_lowercase().as_str() {
        "" | "accept" => false,
        "drop" => true,
        _ => {
            return Err(refuse(
                400,
                "InvalidPolicy.Malformed",
                format!("policy is {:?}; it must be accept or drop", permission.policy),
            ));
        }
    };
    let priority = match permission.priority.as_str() {
        "" => 1,
        text => {
            text.parse().ok().filter(|priority| (1..=100).contains(priority)).ok_or_else(|| {
                refuse(
                    400,
                    "InvalidPriority.ValueNotSupported",
                    format!("priority is {text:?}; it must be 1 to 100"),
                )
            })?
        }
    };
    if !["", "intranet"].contains(&permission.nic_type.as_str()) {
        return Err(refuse(
            400,
            "InvalidNicType.ValueNotSupported",
            format!("nic_type is {:?}; in a VPC it is intranet", permission.nic_type),
        ));
    }
    if permission.description.chars().count() > LONGEST_DESCRIPTION {
        return Err(refuse(
            400,
            "InvalidSecurityGroupDiscription.Malformed",
            format!("the description of a rule has at most {LONGEST_DESCRIPTION} characters"),
        ));
    }
    let peer = peer(permission, egress)?;
    check_family(&protocol, peer.cidr)?;
    check_family(&protocol, peer.own_cidr)?;
    Ok(RuleRecord {
        rule_id: String::new(),
        group_id: group_id.to_owned(),
        egress,
        protocol,
        port_from,
        port_to,
        source_ports,
        cidr: peer.cidr,
        peer_group_id: peer.group_id,
        prefix_list_id: peer.prefix_list_id,
        own_cidr: peer.own_cidr,
        priority,
        drop,
        description: permission.description.clone(),
        created_ms: now_ms(),
    })
}

/// Ranges are `from/to`; `-1/-1` is all, and the only one for protocols without ports.
fn port_range(protocol: &str, text: &str) -> Result<(u16, u16), Refusal> {
    let malformed = |hint: &str| {
        refuse(400, "InvalidPortRange.Malformed", format!("port_range is {text:?}; {hint}"))
    };
    if !["tcp", "udp"].contains(&protocol) {
        return match text {
            "" | "-1/-1" => Ok((0, 0)),
            _ => Err(malformed(&format!("for {protocol} it is -1/-1"))),
        };
    }
    if text.is_empty() {
        return Err(refuse(
            400,
            "MissingParameter",
            format!("port_range is missing; {protocol} needs one such as 22/22 or 1/65535"),
        ));
    }
    if text == "-1/-1" {
        return Ok((0, 0));
    }
    ports(text).ok_or_else(|| malformed("it must be from/to with 1 to 65535, such as 22/22"))
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('/')?;
    let (from, to) = (from.parse::<u16>().ok()?, to.parse::<u16>().ok()?);
    (1..=to).contains(&from).then_some((from, to))
}

fn source_ports(protocol: &str, text: &str) -> Result<String, Refusal> {
    if ["", "-1/-1", "1/65535"].contains(&text) {
        return Ok(String::new());
    }
    let with_ports = ["tcp", "udp"].contains(&protocol);
    match ports(text) {
        Some((from, to)) if with_ports => Ok(format!("{from}/{to}")),
        _ => Err(refuse(
            400,
            "InvalidSourcePortRange.Malformed",
            format!("source_port_range is {text:?}; it must be from/to, for tcp and udp only"),
        )),
    }
}

/// Who is on the other side: one of the first three; and which of the members' own addresses.
#[derive(Debug, Default)]
struct Peer {
    cidr: Option<IpNet>,
    group_id: Option<String>,
    prefix_list_id: String,
    own_cidr: Option<IpNet>,
}

/// The block of one side, given as one of either family, or none.
fn block_of(what: &str, cidr: &str, ipv6_cidr: &str) -> Result<Option<IpNet>, Refusal> {
    let dest = what == "dest";
    if !cidr.is_empty() {
        let code =
            if dest { "InvalidDestCidrIp.Malformed" } else { "InvalidSourceCidrIp.Malformed" };
        let net = range::<Ipv4Net, Ipv4Addr>(cidr).ok_or_else(|| {
            let like = "10.0.0.0/8 or 10.0.0.1";
            refuse(400, code, format!("{what}_cidr_ip is {cidr:?}; it must be like {like}"))
        })?;
        return Ok(Some(IpNet::V4(net.trunc())));
    }
    if ipv6_cidr.is_empty() {
        return Ok(None);
    }
    let code = if dest { "InvalidParam.Ipv6DestCidrIp" } else { "InvalidParam.Ipv6SourceCidrIp" };
    let net = range::<Ipv6Net, Ipv6Addr>(ipv6_cidr).ok_or_else(|| {
        let like = "2001:db8::/32 or 2001:db8::1";
        refuse(400, code, format!("ipv6_{what}_cidr_ip is {ipv6_cidr:?}; it must be like {like}"))
    })?;
    Ok(Some(IpNet::V6(net.trunc())))
}

fn peer(permission: &Permission, egress: bool) -> Result<Peer, Refusal> {
    let p = permission;
    let source =
        [&p.source_cidr_ip, &p.ipv6_source_cidr_ip, &p.source_group_id, &p.source_prefix_list_id];
    let dest = [&p.dest_cidr_ip, &p.ipv6_dest_cidr_ip, &p.dest_group_id, &p.dest_prefix_list_id];
    let (mine, own, what, own_what) =
        if egress { (dest, source, "dest", "source") } else { (source, dest, "source", "dest") };
    let names =
        format!("{what}_cidr_ip, ipv6_{what}_cidr_ip, {what}_group_id or {what}_prefix_list_id");
    let [own_cidr, own_ipv6_cidr, own_group, own_list] = own;
    if !own_group.is_empty() || !own_list.is_empty() {
        return Err(invalid(format!(
            "the other side of this direction is given by {names}; of members' own addresses only \
             {own_what}_cidr_ip or ipv6_{own_what}_cidr_ip"
        )));
    }
    if !own_cidr.is_empty() && !own_ipv6_cidr.is_empty() {
        return Err(refuse(
            400,
            "InvalidParamter.Conflict",
            format!("give {own_what}_cidr_ip or ipv6_{own_what}_cidr_ip, not both"),
        ));
    }
    if mine.iter().filter(|text| !text.is_empty()).count() > 1 {
        return Err(refuse(
            400,
            "InvalidParamter.Conflict",
            format!("give one of {names}, not several"),
        ));
    }
    let [cidr, ipv6_cidr, group_id, prefix_list_id] = mine;
    let mut peer = Peer {
        cidr: block_of(what, cidr, ipv6_cidr)?,
        own_cidr: block_of(own_what, own_cidr, own_ipv6_cidr)?,
        ..Peer::default()
    };
    if let (Some(cidr), Some(own)) = (peer.cidr, peer.own_cidr)
        && cidr.addr().is_ipv4() != own.addr().is_ipv4()
    {
        return Err(refuse(
            400,
            "InvalidParamter.Conflict",
            format!("{cidr} and {own} are of different families; give both of one"),
        ));
    }
    if peer.cidr.is_some() {
        return Ok(peer);
    }
    if !group_id.is_empty() {
        peer.group_id = Some(group_id.clone());
    } else if !prefix_list_id.is_empty() {
        peer.prefix_list_id.clone_from(prefix_list_id);
    } else {
        let code = if egress { "MissingParameter.Dest" } else { "MissingParameter.Source" };
        return Err(refuse(400, code, format!("give {names}")));
    }
    Ok(peer)
}

/// A range, or a single address as one.
fn range<N: FromStr + From<A>, A: FromStr>(text: &str) -> Option<N> {
    text.parse().ok().or_else(|| text.parse::<A>().ok().map(N::from))
}

/// ICMP is of one family of addresses.
fn check_family(protocol: &str, cidr: Option<IpNet>) -> Result<(), Refusal> {
    let (code, hint) = match (protocol, cidr) {
        ("icmp", Some(IpNet::V6(_))) => {
            ("InvalidParam.Ipv4ProtocolConflictWithIpv6Address", "icmpv6 is that of IPv6")
        }
        ("icmpv6", Some(IpNet::V4(_))) => {
            ("InvalidParam.Ipv6ProtocolConflictWithIpv4Address", "icmp is that of IPv4")
        }
        _ => return Ok(()),
    };
    Err(refuse(400, code, format!("ip_protocol {protocol} does not go with this address; {hint}")))
}

/// What a rule names: a group or a prefix list.
pub(super) fn peers(rule: &RuleRecord) -> impl Iterator<Item = String> {
    let list = Some(rule.prefix_list_id.clone()).filter(|id| !id.is_empty());
    rule.peer_group_id.clone().into_iter().chain(list)
}

/// The group a rule names must be in the same VPC; advanced groups name none and are named by none.
pub(super) fn check_peer(
    rule: &RuleRecord,
    group: &SecurityGroupRecord,
    peers: &[SecurityGroupRecord],
) -> Result<(), Refusal> {
    let Some(peer_id) = &rule.peer_group_id else { return Ok(()) };
    let peer = peers.iter().find(|peer| peer.group_id == *peer_id).ok_or_else(|| {
        let code = if rule.egress {
            "InvalidDestGroupId.NotFound"
        } else {
            "InvalidSourceGroupId.NotFound"
        };
        refuse(404, code, format!("security group {peer_id}, named by the rule, does not exist"))
    })?;
    if peer.vpc_id != group.vpc_id {
        return Err(refuse(
            400,
            if rule.egress {
                "InvalidDestGroupId.Mismatch"
            } else {
                "InvalidSourceGroupId.Mismatch"
            },
            format!(
                "security group {peer_id} is in VPC {}, {} in {}; a rule names groups of its VPC",
                peer.vpc_id, group.group_id, group.vpc_id
            ),
        ));
    }
    if let Some(advanced) = [group, peer].into_iter().find(|one| one.enterprise) {
        return Err(refuse(
            400,
            "InvalidOperation.SecurityGroupType",
            format!(
                "rules of advanced (enterprise) groups name no group, and are named by none: {} is \
                 one; give CIDR blocks",
                advanced.group_id
            ),
        ));
    }
    Ok(())
}

/// Whether two rules judge the same packets alike.
pub(super) fn same(a: &RuleRecord, b: &RuleRecord) -> bool {
    a.egress == b.egress
        && a.protocol == b.protocol
        && (a.port_from, a.port_to) == (b.port_from, b.port_to)
        && a.source_ports == b.source_ports
        && a.cidr == b.cidr
        && a.peer_group_id == b.peer_group_id
        && a.prefix_list_id == b.prefix_list_id
        && a.own_cidr == b.own_cidr
        && a.priority == b.priority
        && a.drop == b.drop
}

/// A rule as answers have it.
pub(super) fn describe(rule: &RuleRecord) -> Permission {
    let texts = |block: Option<IpNet>| match block {
        Some(IpNet::V4(net)) => (net.to_string(), String::new()),
        Some(IpNet::V6(net)) => (String::new(), net.to_string()),
        None => Default::default(),
    };
    let ((cidr, ipv6_cidr), (own, own_ipv6)) = (texts(rule.cidr), texts(rule.own_cidr));
    let group = rule.peer_group_id.clone().unwrap_or_default();
    let prefix_list = rule.prefix_list_id.clone();
    let mut permission = Permission {
        policy: if rule.drop { "Drop" } else { "Accept" }.to_owned(),
        priority: rule.priority.to_string(),
        ip_protocol: rule.protocol.to_ascii_uppercase(),
        port_range: match (rule.port_from, rule.port_to) {
            (0, 0) => "-1/-1".to_owned(),
            (from, to) => format!("{from}/{to}"),
        },
        source_port_range: rule.source_ports.clone(),
        description: rule.description.clone(),
        nic_type: "intranet".to_owned(),
        direction: if rule.egress { "egress" } else { "ingress" }.to_owned(),
        create_time: timestamp::second(rule.created_ms),
        security_group_rule_id: rule.rule_id.clone(),
        ..Default::default()
    };
    if rule.egress {
        (permission.dest_cidr_ip, permission.ipv6_dest_cidr_ip) = (cidr, ipv6_cidr);
        (permission.dest_group_id, permission.dest_prefix_list_id) = (group, prefix_list);
        (permission.source_cidr_ip, permission.ipv6_source_cidr_ip) = (own, own_ipv6);
    } else {
        (permission.source_cidr_ip, permission.ipv6_source_cidr_ip) = (cidr, ipv6_cidr);
        (permission.source_group_id, permission.source_prefix_list_id) = (group, prefix_list);
        (permission.dest_cidr_ip, permission.ipv6_dest_cidr_ip) = (own, own_ipv6);
    }
    permission
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(protocol: &str, ports: &str, cidr: &str) -> Permission {
        Permission {
            ip_protocol: protocol.to_owned(),
            port_range: ports.to_owned(),
            source_cidr_ip: cidr.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_rule_survives_the_way_there_and_back() {
        let rule = parse("sg-1", &permission("TCP", "22/80", "10.1.2.3/8"), false).unwrap();
        assert_eq!((rule.port_from, rule.port_to), (22, 80));
        assert_eq!(rule.cidr.unwrap().to_string(), "10.0.0.0/8");
        let described = describe(&rule);
        assert_eq!(described.port_range, "22/80");
        assert_eq!(described.ip_protocol, "TCP");
        assert_eq!(described.priority, "1");
        let again = parse("sg-1", &Permission { create_time: String::new(), ..described }, false);
        assert!(same(&rule, &again.unwrap()));
    }

    #[test]
    fn every_kind_of_peer_survives_the_way_there_and_back() {
        let on = |change: fn(&mut Permission)| {
            let mut one = Permission { ip_protocol: "all".to_owned(), ..Default::default() };
            change(&mut one);
            one
        };
        let ingress = [
            on(|one| one.source_cidr_ip = "10.0.0.1".to_owned()),
            on(|one| one.ipv6_source_cidr_ip = "2001:db8::1/32".to_owned()),
            on(|one| one.source_group_id = "sg-2".to_owned()),
            on(|one| one.source_prefix_list_id = "pl-1".to_owned()),
        ];
        let egress = [
            on(|one| one.dest_cidr_ip = "0.0.0.0/0".to_owned()),
            on(|one| one.ipv6_dest_cidr_ip = "::/0".to_owned()),
            on(|one| one.dest_group_id = "sg-2".to_owned()),
            on(|one| one.dest_prefix_list_id = "pl-1".to_owned()),
        ];
        for (permissions, out) in [(ingress, false), (egress, true)] {
            let mut rules = Vec::new();
            for permission in permissions {
                let rule = parse("sg-1", &permission, out).unwrap();
                assert!(same(&rule, &parse("sg-1", &describe(&rule), out).unwrap()));
                assert!(rules.iter().all(|other| !same(other, &rule)), "{rules:?}");
                // The other way it names nobody, and own addresses are not of a group or list.
                let other_way = parse("sg-1", &permission, !out).unwrap_err();
                let missing = ["MissingParameter.Source", "MissingParameter.Dest"];
                let expected = if rule.cidr.is_some() {
                    missing[usize::from(!out)]
                } else {
                    "InvalidParameter"
                };
                assert_eq!(other_way.code, expected);
                let both = [("10.0.0.7/32", ""), ("", "2001:db8::7/128")].map(|(own, own_ipv6)| {
                    let mut both = describe(&rule);
                    if out {
                        (both.source_cidr_ip, both.ipv6_source_cidr_ip) =
                            (own.into(), own_ipv6.into());
                    } else {
                        (both.dest_cidr_ip, both.ipv6_dest_cidr_ip) = (own.into(), own_ipv6.into());
                    }
                    parse("sg-1", &both, out)
                });
                let family = rule.cidr.map(|cidr| cidr.addr().is_ipv4());
                for (five, is_ipv4) in both.into_iter().zip([true, false]) {
                    if family.is_some_and(|of_peer| of_peer != is_ipv4) {
                        assert_eq!(five.unwrap_err().code, "InvalidParamter.Conflict");
                        continue;
                    }
                    let five = five.unwrap();
                    assert_eq!(five.own_cidr.unwrap().addr().is_ipv4(), is_ipv4);
                    assert!(same(&five, &parse("sg-1", &describe(&five), out).unwrap()));
                    assert!(!same(&five, &rule));
                }
                rules.push(rule);
            }
            assert_eq!(rules[1].cidr.unwrap().prefix_len(), if out { 0 } else { 32 });
        }
    }

    #[test]
    fn mistakes_have_their_codes() {
        let code = |permission: &Permission| parse("sg-1", permission, false).unwrap_err().code;
        assert_eq!(code(&permission("ip", "", "0.0.0.0/0")), "InvalidIpProtocol.ValueNotSupported");
        assert_eq!(code(&permission("tcp", "", "0.0.0.0/0")), "MissingParameter");
        assert_eq!(code(&permission("tcp", "80/22", "0.0.0.0/0")), "InvalidPortRange.Malformed");
        assert_eq!(code(&permission("tcp", "0/22", "0.0.0.0/0")), "InvalidPortRange.Malformed");
        assert_eq!(code(&permission("icmp", "1/2", "0.0.0.0/0")), "InvalidPortRange.Malformed");
        assert_eq!(code(&permission("tcp", "22/22", "")), "MissingParameter.Source");
        assert_eq!(
            code(&permission("tcp", "22/22", "10.0.0.0/33")),
            "InvalidSourceCidrIp.Malformed"
        );
        let mut both = permission("tcp", "22/22", "10.0.0.0/8");
        both.source_group_id = "sg-2".to_owned();
        assert_eq!(code(&both), "InvalidParamter.Conflict");
        assert_eq!(
            code(&permission("icmpv6", "", "10.0.0.0/8")),
            "InvalidParam.Ipv6ProtocolConflictWithIpv4Address"
        );
        let mut six = permission("icmp", "", "");
        six.ipv6_source_cidr_ip = "2001:db8::/32".to_owned();
        assert_eq!(code(&six), "InvalidParam.Ipv4ProtocolConflictWithIpv6Address");
        six.ipv6_source_cidr_ip = "10.0.0.0/8".to_owned();
        assert_eq!(code(&six), "InvalidParam.Ipv6SourceCidrIp");
        let mut wordy = permission("tcp", "22/22", "10.0.0.0/8");
        wordy.description = "x".repeat(513);
        assert_eq!(code(&wordy), "InvalidSecurityGroupDiscription.Malformed");
        let mut late = permission("tcp", "22/22", "10.0.0.0/8");
        late.priority = "101".to_owned();
        assert_eq!(code(&late), "InvalidPriority.ValueNotSupported");
    }
}
