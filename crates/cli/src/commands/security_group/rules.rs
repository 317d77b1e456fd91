//! Rules of a group.

use super::Context;
use crate::{
    client::client_token,
    error::{Error, Result},
};
use api::v1::{
    AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupRequest,
    ModifySecurityGroupEgressRuleRequest, ModifySecurityGroupRuleRequest, Permission,
    RevokeSecurityGroupEgressRequest, RevokeSecurityGroupRequest,
};
use clap::{Args, Parser};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub(super) const AUTHORIZE_EXAMPLES: &str = "Examples:
  ecsctl security-group authorize SG --port 22/22 --cidr 0.0.0.0/0
  ecsctl security-group authorize SG --protocol icmp --port -1/-1 --group OTHER-SG
  ecsctl security-group authorize SG --port 443/443 --cidr 2001:db8::/32
  ecsctl security-group authorize SG --egress --policy drop --port 25/25 --cidr 0.0.0.0/0
  ecsctl security-group authorize SG --file rules    # lines like: --port 22/22 --cidr 0.0.0.0/0";

#[derive(Debug, Args)]
pub(crate) struct AuthorizeArguments {
    id: String,
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true, required_unless_present = "file")]
    port: Option<String>,
    /// Rules of a file, one a line, written as on the command line; - is standard input. All for what
    /// comes in are one order, all for what leaves another
    #[arg(long, conflicts_with_all = OF_ONE_RULE)]
    file: Option<PathBuf>,
    #[command(flatten)]
    more: RuleDetails,
}

/// What says how one rule is.
const OF_ONE_RULE: [&str; 11] = [
    "port",
    "protocol",
    "cidr",
    "group",
    "prefix_list",
    "own_cidr",
    "egress",
    "policy",
    "priority",
    "source_port",
    "description",
];

#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    id: String,
    /// Rule ids (sgr-...)
    #[arg(long = "rule", conflicts_with_all = ["port", "cidr", "group", "prefix_list"])]
    rules: Vec<String>,
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true)]
    port: Option<String>,
    /// Rules of a file, one a line, as they were added; - is standard input
    #[arg(long, conflicts_with = "rules", conflicts_with_all = OF_ONE_RULE)]
    file: Option<PathBuf>,
    #[command(flatten)]
    more: RuleDetails,
}

/// One line of a file of rules.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct RuleLine {
    #[arg(long, allow_hyphen_values = true)]
    port: String,
    #[command(flatten)]
    more: RuleDetails,
}

/// Rules of both directions.
#[derive(Debug, Default)]
struct Rules {
    ingress: Vec<Permission>,
    egress: Vec<Permission>,
}

impl Rules {
    fn add(&mut self, port: String, more: RuleDetails) {
        let list = if more.egress { &mut self.egress } else { &mut self.ingress };
        list.push(more.permission(port));
    }

    fn read(path: &Path) -> Result<Self> {
        let (text, name) = if path == Path::new("-") {
            let text = io::read_to_string(io::stdin()).map_err(Error::io("cannot read rules"))?;
            (text, "standard input".to_owned())
        } else {
            let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
            (text, path.display().to_string())
        };
        let rules = Self::parse(&text)
            .map_err(|(line, reason)| Error::Local(format!("{name}, line {line}: {reason}")))?;
        if rules.ingress.is_empty() && rules.egress.is_empty() {
            return Err(Error::Local(format!("{name} has no rules")));
        }
        Ok(rules)
    }

    /// An error is a line's number and what is wrong with it.
    fn parse(text: &str) -> std::result::Result<Self, (usize, String)> {
        let mut rules = Self::default();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let RuleLine { port, more } = RuleLine::try_parse_from(line.split_whitespace())
                .map_err(|error| {
                    let text = error.to_string();
                    let reason = text.lines().next().unwrap_or_default();
                    (number + 1, reason.trim_start_matches("error: ").to_owned())
                })?;
            rules.add(port, more);
        }
        Ok(rules)
    }
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
    let AuthorizeArguments { id, port, file, more } = arguments;
    let is_file = file.is_some();
    let Rules { ingress, egress } = rules_of(port, file, more)?;
    let added = ingress.len() + egress.len();
    let sentence =
        if is_file { format!("{id}: {added} rules added") } else { format!("{id}: rule added") };
    let ids = [id.clone()];
    let mut service = context.cloud.security_groups();
    if !ingress.is_empty() {
        let request = AuthorizeSecurityGroupRequest {
            region_id: context.region.clone(),
            security_group_id: id.clone(),
            permissions: ingress,
            client_token: client_token(None),
        };
        let answer = service.authorize_security_group(request).await?.into_inner();
        if egress.is_empty() {
            context.done(&answer, &ids, &sentence);
        }
    }
    if !egress.is_empty() {
        let request = AuthorizeSecurityGroupEgressRequest {
            region_id: context.region.clone(),
            security_group_id: id,
            permissions: egress,
            client_token: client_token(None),
        };
        let answer = service.authorize_security_group_egress(request).await?.into_inner();
        context.done(&answer, &ids, &sentence);
    }
    Ok(())
}

/// The rules of a file, else the one of the command line, if there is one.
fn rules_of(port: Option<String>, file: Option<PathBuf>, more: RuleDetails) -> Result<Rules> {
    if let Some(file) = file {
        return Rules::read(&file);
    }
    let mut rules = Rules::default();
    if let Some(port) = port {
        rules.add(port, more);
    }
    Ok(rules)
}

pub(super) async fn revoke(context: &Context, arguments: RevokeArguments) -> Result<()> {
    let RevokeArguments { id, rules: rule_ids, port, file, more } = arguments;
    // Ids are of the direction that the command line has.
    let (in_ids, out_ids) =
        if more.egress { (Vec::new(), rule_ids) } else { (rule_ids, Vec::new()) };
    let is_egress = more.egress;
    let Rules { ingress, egress } = rules_of(port, file, more)?;
    let to_egress = !egress.is_empty() || is_egress;
    let sentence = format!("{id}: rules removed");
    let ids = [id.clone()];
    let mut service = context.cloud.security_groups();
    if !ingress.is_empty() || !is_egress && egress.is_empty() {
        let request = RevokeSecurityGroupRequest {
            region_id: context.region.clone(),
            security_group_id: id.clone(),
            permissions: ingress,
            security_group_rule_id: in_ids,
            client_token: client_token(None),
        };
        let answer = service.revoke_security_group(request).await?.into_inner();
        if !to_egress {
            context.done(&answer, &ids, &sentence);
        }
    }
    if to_egress {
        let request = RevokeSecurityGroupEgressRequest {
            region_id: context.region.clone(),
            security_group_id: id,
            permissions: egress,
            security_group_rule_id: out_ids,
            client_token: client_token(None),
        };
        let answer = service.revoke_security_group_egress(request).await?.into_inner();
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

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        rule: AuthorizeArguments,
    }

    fn permission(line: &str) -> Permission {
        let rule = Line::parse_from(line.split(' ')).rule;
        rule.more.permission(rule.port.unwrap())
    }

    #[test]
    fn a_file_has_one_rule_a_line() {
        let text =
            "--port 22/22 --cidr 10.0.0.0/8\n\n--port -1/-1 --protocol all --group sg-1 --egress\n";
        let rules = Rules::parse(text).unwrap();
        assert_eq!(rules.ingress[0].source_cidr_ip, "10.0.0.0/8");
        assert_eq!((rules.ingress.len(), rules.egress.len()), (1, 1));
        assert_eq!(rules.egress[0].dest_group_id, "sg-1");
        let (line, reason) = Rules::parse("--port 22/22 --cidr ::/0\n--prot tcp").unwrap_err();
        assert_eq!(line, 2);
        assert!(reason.contains("--prot"), "{reason}");
    }

    #[test]
    fn a_rule_is_of_the_command_line_or_of_a_file() {
        assert!(Line::try_parse_from(["x", "sg-1", "--file", "-"]).is_ok());
        assert!(Line::try_parse_from(["x", "sg-1"]).is_err());
        assert!(Line::try_parse_from(["x", "sg-1", "--file", "-", "--port", "1/2"]).is_err());
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
