//! `ecsctl security-group`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::Result,
    output::{
        Format, json,
        table::{self, Row},
    },
};
use api::v1::{
    AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupRequest, CreateSecurityGroupRequest,
    DeleteSecurityGroupRequest, DescribeSecurityGroupAttributeRequest,
    DescribeSecurityGroupsRequest, Permission, RevokeSecurityGroupEgressRequest,
    RevokeSecurityGroupRequest, SecurityGroup,
};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SecurityGroupCommand {
    /// Creates a security group in a VPC
    #[command(after_help = "Example:\n  ecsctl security-group create --vpc vpc-1 --name web")]
    Create {
        #[arg(long)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// normal or enterprise
        #[arg(long = "type", default_value = "", hide_default_value = true)]
        group_type: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists security groups
    #[command(after_help = "Example:\n  ecsctl security-group list --vpc vpc-1")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Shows a group's rules
    #[command(after_help = "Example:\n  ecsctl security-group show sg-1")]
    Show { id: String },
    /// Adds a rule
    #[command(after_help = "Examples:\n  \
        ecsctl security-group authorize SG --port 22/22 --cidr 0.0.0.0/0\n  \
        ecsctl security-group authorize SG --protocol icmp --port -1/-1 --group OTHER-SG\n  \
        ecsctl security-group authorize SG --egress --policy drop --port 25/25 --cidr 0.0.0.0/0")]
    Authorize {
        id: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// Removes rules: named by their ids, or described as when they were added
    #[command(
        after_help = "Examples:\n  ecsctl security-group revoke sg-1 --rule sgr-1\n  ecsctl security-group revoke sg-1 --port 22/22 --cidr 0.0.0.0/0"
    )]
    Revoke {
        id: String,
        /// Rule ids (sgr-...)
        #[arg(long = "rule", conflicts_with_all = ["port", "cidr", "group"])]
        rules: Vec<String>,
        #[command(flatten)]
        rule: OptionalRule,
    },
    /// Deletes a group that no instance is in
    #[command(after_help = "Example:\n  ecsctl security-group delete sg-1")]
    Delete { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct Rule {
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true)]
    port: String,
    #[command(flatten)]
    more: RuleDetails,
}

#[derive(Debug, Args)]
pub(crate) struct OptionalRule {
    /// FROM/TO; -1/-1 for all
    #[arg(long, allow_hyphen_values = true)]
    port: Option<String>,
    #[command(flatten)]
    more: RuleDetails,
}

#[derive(Debug, Args)]
pub(crate) struct RuleDetails {
    /// tcp, udp, icmp, gre or all
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// The other side's addresses
    #[arg(long, default_value = "", hide_default_value = true)]
    cidr: String,
    /// The other side's security group
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
    /// A rule for what leaves, not for what comes in
    #[arg(long)]
    egress: bool,
    /// accept or drop
    #[arg(long, default_value = "accept")]
    policy: String,
    /// 1 to 100, smaller first
    #[arg(long, default_value_t = 1)]
    priority: u32,
    #[arg(long, default_value = "", hide_default_value = true)]
    source_port: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

impl RuleDetails {
    fn permission(self, port_range: String) -> Permission {
        let (source, destination) = if self.egress {
            (Default::default(), (self.cidr, self.group))
        } else {
            ((self.cidr, self.group), Default::default())
        };
        Permission {
            policy: self.policy,
            priority: self.priority.to_string(),
            ip_protocol: self.protocol,
            port_range,
            source_cidr_ip: source.0,
            source_group_id: source.1,
            dest_cidr_ip: destination.0,
            dest_group_id: destination.1,
            source_port_range: self.source_port,
            description: self.description,
            ..Default::default()
        }
    }
}

impl Row for SecurityGroup {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "VPC", "TYPE", "INSTANCES", "CREATED", "INNER ACCESS", "DESCRIPTION"];
    const WIDE: usize = 3;
    fn id(&self) -> String {
        self.security_group_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.security_group_id.clone(),
            self.security_group_name.clone(),
            self.vpc_id.clone(),
            self.security_group_type.clone(),
            self.ecs_count.to_string(),
            self.creation_time.clone(),
            self.inner_access_policy.clone(),
            self.description.clone(),
        ]
    }
}

impl Row for Permission {
    const COLUMNS: &'static [&'static str] = &[
        "RULE",
        "DIRECTION",
        "PRIORITY",
        "POLICY",
        "PROTOCOL",
        "PORTS",
        "OTHER SIDE",
        "DESCRIPTION",
    ];
    fn id(&self) -> String {
        self.security_group_rule_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let other =
            [&self.source_cidr_ip, &self.source_group_id, &self.dest_cidr_ip, &self.dest_group_id]
                .into_iter()
                .find(|text| !text.is_empty());
        vec![
            self.security_group_rule_id.clone(),
            self.direction.clone(),
            self.priority.clone(),
            self.policy.clone(),
            self.ip_protocol.clone(),
            self.port_range.clone(),
            other.cloned().unwrap_or_default(),
            self.description.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: SecurityGroupCommand) -> Result<()> {
    let mut service = context.cloud.security_groups();
    let region_id = context.region.clone();
    match command {
        SecurityGroupCommand::Create {
            vpc,
            name,
            description,
            group_type,
            client_token: token,
        } => {
            let request = CreateSecurityGroupRequest {
                region_id,
                vpc_id: vpc,
                security_group_name: name,
                description,
                security_group_type: group_type,
                client_token: client_token(token),
                tag: Vec::new(),
            };
            let answer = service.create_security_group(request).await?.into_inner();
            let id = answer.security_group_id.clone();
            context.done(
                &answer,
                std::slice::from_ref(&id),
                &format!("security group {id} created"),
            );
        }
        SecurityGroupCommand::List { ids, vpc, name } => {
            let groups = pages::all(async |page_number| {
                let request = DescribeSecurityGroupsRequest {
                    region_id: region_id.clone(),
                    vpc_id: vpc.clone(),
                    security_group_ids: ids.clone(),
                    security_group_name: name.clone(),
                    security_group_type: String::new(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                };
                let answer = service.describe_security_groups(request).await?.into_inner();
                Ok((answer.security_groups, answer.total_count))
            })
            .await?;
            table::print(context.format, &groups);
        }
        SecurityGroupCommand::Show { id } => {
            let request = DescribeSecurityGroupAttributeRequest {
                region_id,
                security_group_id: id,
                direction: String::new(),
            };
            let answer = service.describe_security_group_attribute(request).await?.into_inner();
            match context.format {
                Format::Json => json::print(&answer),
                format => table::print(format, &answer.permissions),
            }
        }
        SecurityGroupCommand::Authorize { id, rule } => {
            let egress = rule.more.egress;
            authorize(context, id, egress, rule.more.permission(rule.port)).await?;
        }
        SecurityGroupCommand::Revoke { id, rules, rule } => {
            let egress = rule.more.egress;
            let permissions =
                rule.port.map(|port| rule.more.permission(port)).into_iter().collect();
            revoke(context, id, egress, permissions, rules).await?;
        }
        SecurityGroupCommand::Delete { id } => {
            let request = DeleteSecurityGroupRequest { region_id, security_group_id: id.clone() };
            let answer = service.delete_security_group(request).await?.into_inner();
            context.done(
                &answer,
                std::slice::from_ref(&id),
                &format!("security group {id} deleted"),
            );
        }
    }
    Ok(())
}

async fn authorize(context: &Context, id: String, egress: bool, rule: Permission) -> Result<()> {
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

async fn revoke(
    context: &Context,
    id: String,
    egress: bool,
    permissions: Vec<Permission>,
    rule_ids: Vec<String>,
) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        rule: Rule,
    }

    fn permission(line: &str) -> Permission {
        let rule = Line::parse_from(line.split(' ')).rule;
        rule.more.permission(rule.port)
    }

    #[test]
    fn a_rule_names_the_side_its_direction_has() {
        let ingress = permission("x --port 22/22 --cidr 10.0.0.0/8");
        assert_eq!(
            (ingress.source_cidr_ip.as_str(), ingress.dest_cidr_ip.as_str()),
            ("10.0.0.0/8", "")
        );
        let egress = permission("x --port -1/-1 --egress --group sg-1 --policy drop");
        assert_eq!((egress.dest_group_id.as_str(), egress.source_group_id.as_str()), ("sg-1", ""));
        assert_eq!((egress.port_range.as_str(), egress.policy.as_str()), ("-1/-1", "drop"));
    }
}
