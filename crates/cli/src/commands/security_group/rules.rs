//! Rules of a group.

use super::Context;
use crate::{client::client_token, error::Result};
use api::v1::{
    AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupRequest,
    ModifySecurityGroupEgressRuleRequest, ModifySecurityGroupRuleRequest, Permission,
    RevokeSecurityGroupEgressRequest, RevokeSecurityGroupRequest,
};
use clap::Args;

pub(super) const AUTHORIZE_EXAMPLES: &str = "Examples:
  ecsctl security-group authorize SG --port 22/22 --cidr 0.0.0.0/0
  ecsctl security-group authorize SG --protocol icmp --port -1/-1 --group OTHER-SG
  ecsctl security-group authorize SG --port 443/443 --cidr 2001:db8::/32
  ecsctl security-group authorize SG --egress --policy drop --port 25/25 --cidr 0.0.0.0/0";

#[derive(Debug, Args)]
pub(crate) struct AuthorizeArguments {
    id: String,
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true)]
    port: String,
    #[command(flatten)]
    more: RuleDetails,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    id: String,
    /// Rule ids (sgr-...)
    #[arg(long = "rule", conflicts_with_all = ["port", "cidr", "group", "prefix_list"])]
    rules: Vec<String>,
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true)]
    port: Option<String>,
    #[command(flatten)]
    more: RuleDetails,
}

#[derive(Debug, Args)]
pub(crate) struct RuleDetails {
    /// tcp, udp, icmp, icmpv6, gre or all
    #[arg(long, default_value = "tcp")]
    protocol: String,
    #[command(flatten)]
    other_side: OtherSide,
    /// A rule for what leaves, not for what comes in
    #[arg(long)]
    egress: bool,
    /// accept or drop
    #[arg(long, default_value = "accept")]
    policy: String,
    /// 1 to 100, smaller first
    #[arg(long, default_value_t = 1)]
    priority: u32,
    /// FROM/TO, of the sender
    #[arg(long, default_value = "", hide_default_value = true)]
    source_port: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

/// Who is on the other side of a rule.
#[derive(Debug, Args)]
struct OtherSide {
    /// The other side's addresses, IPv4 or IPv6
    #[arg(long, default_value = "", hide_default_value = true)]
    cidr: String,
    /// The other side's security group
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
    /// The other side's prefix list (pl-...)
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix_list: String,
    /// Only of members' own addresses in this block, IPv4 or IPv6
    #[arg(long, default_value = "", hide_default_value = true)]
    own_cidr: String,
}

/// A block as one of either family.
fn by_family(cidr: String) -> (String, String) {
    if cidr.contains(':') { (String::new(), cidr) } else { (cidr, String::new()) }
}

impl OtherSide {
    /// On the side that the direction has.
    fn put(self, egress: bool, permission: &mut Permission) {
        let ((ipv4, ipv6), (own, own_ipv6)) = (by_family(self.cidr), by_family(self.own_cidr));
        if egress {
            permission.source_cidr_ip = own;
            permission.ipv6_source_cidr_ip = own_ipv6;
            permission.dest_cidr_ip = ipv4;
            permission.ipv6_dest_cidr_ip = ipv6;
            permission.dest_group_id = self.group;
            permission.dest_prefix_list_id = self.prefix_list;
        } else {
            permission.dest_cidr_ip = own;
            permission.ipv6_dest_cidr_ip = own_ipv6;
            permission.source_cidr_ip = ipv4;
            permission.ipv6_source_cidr_ip = ipv6;
            permission.source_group_id = self.group;
            permission.source_prefix_list_id = self.prefix_list;
        }
    }
}

impl RuleDetails {
    fn permission(self, port_range: String) -> Permission {
        let mut permission = Permission {
            policy: self.policy,
            priority: self.priority.to_string(),
            ip_protocol: self.protocol,
            port_range,
            source_port_range: self.source_port,
            description: self.description,
            ..Default::default()
        };
        self.other_side.put(self.egress, &mut permission);
        permission
    }
}

#[derive(Debug, Args)]
pub(crate) struct ModifyRuleArguments {
    id: String,
    /// sgr-...
    rule: String,
    /// The rule is one for what leaves
    #[arg(long)]
    egress: bool,
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true, default_value = "", hide_default_value = true)]
    port: String,
    /// tcp, udp, icmp, icmpv6, gre or all
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    #[command(flatten)]
    other_side: OtherSide,
    /// accept or drop
    #[arg(long, default_value = "", hide_default_value = true)]
    policy: String,
    /// 1 to 100, smaller first
    #[arg(long)]
    priority: Option<u32>,
    /// FROM/TO, of the sender; -1/-1 for all
    #[arg(long, allow_hyphen_values = true, default_value = "", hide_default_value = true)]
    source_port: String,
    #[arg(long)]
    description: Option<String>,
}

pub(super) async fn authorize(context: &Context, arguments: AuthorizeArguments) -> Result<()> {
    let AuthorizeArguments { id, port, more } = arguments;
    let egress = more.egress;
    let rule = more.permission(port);
    let mut service = context.cloud.security_groups();
    let region_id = context.region.clone();
    let token = client_token(None);
    let sentence = format!("{id}: rule added");
    let ids = [id.clone()];
    if egress {
        let request = AuthorizeSecurityGroupEgressRequest {
            region_id,
            security_group_id: id,
            permissions: vec![rule],
            client_token: token,
        };
        let answer = service.authorize_security_group_egress(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    } else {
        let request = AuthorizeSecurityGroupRequest {
            region_id,
            security_group_id: id,
            permissions: vec![rule],
            client_token: token,
        };
        let answer = service.authorize_security_group(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    }
    Ok(())
}

pub(super) async fn revoke(context: &Context, arguments: RevokeArguments) -> Result<()> {
    let RevokeArguments { id, rules: rule_ids, port, more } = arguments;
    let egress = more.egress;
    let permissions = port.map(|port| more.permission(port)).into_iter().collect();
    let mut service = context.cloud.security_groups();
    let region_id = context.region.clone();
    let token = client_token(None);
    let sentence = format!("{id}: rules removed");
    let ids = [id.clone()];
    if egress {
        let request = RevokeSecurityGroupEgressRequest {
            region_id,
            security_group_id: id,
            permissions,
            security_group_rule_id: rule_ids,
            client_token: token,
        };
        let answer = service.revoke_security_group_egress(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    } else {
        let request = RevokeSecurityGroupRequest {
            region_id,
            security_group_id: id,
            permissions,
            security_group_rule_id: rule_ids,
            client_token: token,
        };
        let answer = service.revoke_security_group(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    }
    Ok(())
}

pub(super) async fn modify(context: &Context, arguments: ModifyRuleArguments) -> Result<()> {
    let mut service = context.cloud.security_groups();
    let sentence = format!("{}: rule {} modified", arguments.id, arguments.rule);
    let ids = [arguments.rule.clone()];
    let mut new = Permission::default();
    arguments.other_side.put(arguments.egress, &mut new);
    let priority = arguments.priority.map(|priority| priority.to_string()).unwrap_or_default();
    if arguments.egress {
        let request = ModifySecurityGroupEgressRuleRequest {
            region_id: context.region.clone(),
            security_group_id: arguments.id,
            security_group_rule_id: arguments.rule,
            policy: arguments.policy,
            priority,
            ip_protocol: arguments.protocol,
            port_range: arguments.port,
            dest_cidr_ip: new.dest_cidr_ip,
            ipv6_dest_cidr_ip: new.ipv6_dest_cidr_ip,
            dest_group_id: new.dest_group_id,
            dest_prefix_list_id: new.dest_prefix_list_id,
            source_cidr_ip: new.source_cidr_ip,
            ipv6_source_cidr_ip: new.ipv6_source_cidr_ip,
            source_port_range: arguments.source_port,
            description: arguments.description,
            client_token: client_token(None),
            ..Default::default()
        };
        let answer = service.modify_security_group_egress_rule(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    } else {
        let request = ModifySecurityGroupRuleRequest {
            region_id: context.region.clone(),
            security_group_id: arguments.id,
            security_group_rule_id: arguments.rule,
            policy: arguments.policy,
            priority,
            ip_protocol: arguments.protocol,
            port_range: arguments.port,
            source_cidr_ip: new.source_cidr_ip,
            ipv6_source_cidr_ip: new.ipv6_source_cidr_ip,
            source_group_id: new.source_group_id,
            source_prefix_list_id: new.source_prefix_list_id,
            dest_cidr_ip: new.dest_cidr_ip,
            ipv6_dest_cidr_ip: new.ipv6_dest_cidr_ip,
            source_port_range: arguments.source_port,
            description: arguments.description,
            client_token: client_token(None),
            ..Default::default()
        };
        let answer = service.modify_security_group_rule(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        rule: AuthorizeArguments,
    }

    fn permission(line: &str) -> Permission {
        let rule = Line::parse_from(line.split(' ')).rule;
        rule.more.permission(rule.port)
    }

    #[test]
    fn a_rule_names_the_side_its_direction_has() {
        let ingress = permission("x sg-1 --port 22/22 --cidr 10.0.0.0/8");
        assert_eq!(
            (ingress.source_cidr_ip.as_str(), ingress.dest_cidr_ip.as_str()),
            ("10.0.0.0/8", "")
        );
        let both = permission("x sg-1 --port 22/22 --cidr 10.0.0.0/8 --own-cidr 10.1.0.7");
        assert_eq!(
            (both.source_cidr_ip.as_str(), both.dest_cidr_ip.as_str()),
            ("10.0.0.0/8", "10.1.0.7")
        );
        let egress = permission("x sg-1 --port -1/-1 --egress --group sg-1 --policy drop");
        assert_eq!((egress.dest_group_id.as_str(), egress.source_group_id.as_str()), ("sg-1", ""));
        assert_eq!((egress.port_range.as_str(), egress.policy.as_str()), ("-1/-1", "drop"));
    }

    #[test]
    fn an_address_family_is_told_by_its_colon() {
        let six = permission("x sg-1 --port 22/22 --cidr 2001:db8::/32");
        assert_eq!(six.ipv6_source_cidr_ip, "2001:db8::/32");
        let six = permission("x sg-1 --port 22/22 --cidr ::/0 --egress");
        assert_eq!((six.ipv6_dest_cidr_ip.as_str(), six.dest_cidr_ip.as_str()), ("::/0", ""));
    }
}
