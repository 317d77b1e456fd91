//! From a `Permission` to a rule and back.

use crate::{
    ecs_error::{invalid, refuse},
    timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::Permission;
use ipnet::Ipv4Net;
use store::{Refusal, RuleRecord, SecurityGroupRecord};

/// Checks a permission. The rule has no id yet.
pub(super) fn parse(
    group_id: &str,
    permission: &Permission,
    egress: bool,
) -> Result<RuleRecord, Refusal> {
    let protocol = permission.ip_protocol.to_ascii_lowercase();
    if !["tcp", "udp", "icmp", "gre", "all"].contains(&protocol.as_str()) {
        let code = if protocol.is_empty() {
            "MissingParameter"
        } else {
            "InvalidIpProtocol.ValueNotSupported"
        };
        return Err(refuse(
            400,
            code,
            format!(
                "ip_protocol is {:?}; it must be tcp, udp, icmp, gre or all",
                permission.ip_protocol
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
    validation::description("InvalidSecurityGroupDiscription.Malformed", &permission.description)?;
    let (cidr, peer_group_id) = peer(permission, egress)?;
    Ok(RuleRecord {
        rule_id: String::new(),
        group_id: group_id.to_owned(),
        egress,
        protocol,
        port_from,
        port_to,
        source_ports,
        cidr,
        peer_group_id,
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

fn peer(
    permission: &Permission,
    egress: bool,
) -> Result<(Option<Ipv4Net>, Option<String>), Refusal> {
    let (cidr, group, other_cidr, other_group, what) = if egress {
        let p = permission;
        (&p.dest_cidr_ip, &p.dest_group_id, &p.source_cidr_ip, &p.source_group_id, "dest")
    } else {
        let p = permission;
        (&p.source_cidr_ip, &p.source_group_id, &p.dest_cidr_ip, &p.dest_group_id, "source")
    };
    if !other_cidr.is_empty() || !other_group.is_empty() {
        return Err(invalid(format!(
            "this direction is judged by {what}_cidr_ip or {what}_group_id only"
        )));
    }
    match (cidr.as_str(), group.as_str()) {
        ("", "") => Err(refuse(
            400,
            "MissingParameter.Source",
            format!("give {what}_cidr_ip or {what}_group_id"),
        )),
        ("", group) => Ok((None, Some(group.to_owned()))),
        (text, "") => {
            let code = if egress {
                "InvalidDestCidrIp.Malformed"
            } else {
                "InvalidSourceCidrIp.Malformed"
            };
            let net = if text.contains('/') {
                text.parse::<Ipv4Net>().ok()
            } else {
                text.parse::<std::net::Ipv4Addr>().ok().map(Ipv4Net::from)
            };
            let net = net.ok_or_else(|| {
                refuse(
                    400,
                    code,
                    format!("{what}_cidr_ip is {text:?}; it must be like 10.0.0.0/8 or 10.0.0.1"),
                )
            })?;
            Ok((Some(net.trunc()), None))
        }
        _ => Err(refuse(
            400,
            "InvalidParamter.Conflict",
            format!("give {what}_cidr_ip or {what}_group_id, not both"),
        )),
    }
}

/// The group a rule names must be in the same VPC; enterprise groups cannot name groups.
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
            403,
            "InvalidNetworkType.Conflict",
            format!(
                "security group {peer_id} is in VPC {}, {} in {}; a rule names groups of its VPC",
                peer.vpc_id, group.group_id, group.vpc_id
            ),
        ));
    }
    if group.enterprise {
        return Err(refuse(
            400,
            "InvalidOperation.SecurityGroupType",
            format!(
                "rules of enterprise group {} cannot name a group; give CIDR blocks",
                group.group_id
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
        && a.priority == b.priority
        && a.drop == b.drop
}

/// A rule as answers have it.
pub(super) fn describe(rule: &RuleRecord) -> Permission {
    let cidr = rule.cidr.map(|cidr| cidr.to_string()).unwrap_or_default();
    let group = rule.peer_group_id.clone().unwrap_or_default();
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
        (permission.dest_cidr_ip, permission.dest_group_id) = (cidr, group);
    } else {
        (permission.source_cidr_ip, permission.source_group_id) = (cidr, group);
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
        let mut late = permission("tcp", "22/22", "10.0.0.0/8");
        late.priority = "101".to_owned();
        assert_eq!(code(&late), "InvalidPriority.ValueNotSupported");
    }
}
