//! `ecsctl security-group`.

mod members;
mod rules;

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
    CreateSecurityGroupRequest, DeleteSecurityGroupRequest, DescribeSecurityGroupAttributeRequest,
    DescribeSecurityGroupReferencesRequest, DescribeSecurityGroupsRequest,
    ModifySecurityGroupAttributeRequest, ModifySecurityGroupPolicyRequest, Permission,
    SecurityGroup, SecurityGroupReference, Tag,
};
use clap::{ArgGroup, Args, Subcommand};

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
        /// normal (basic) or enterprise (advanced)
        #[arg(long = "type", default_value = "", hide_default_value = true)]
        group_type: String,
        /// KEY=VALUE; several for more
        #[arg(long = "tag", value_parser = crate::commands::tag)]
        tags: Vec<Tag>,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists security groups
    #[command(after_help = "Examples:\n  ecsctl security-group list --vpc vpc-1\n  \
        ecsctl security-group list --name 'web*' --tag env=test")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        /// * stands for anything
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// normal or enterprise
        #[arg(long = "type", default_value = "", hide_default_value = true)]
        group_type: String,
        /// KEY=VALUE, or KEY= for any value; several for more
        #[arg(long = "tag", value_parser = crate::commands::tag)]
        tags: Vec<Tag>,
    },
    /// Shows a group's rules
    #[command(after_help = "Example:\n  ecsctl security-group show sg-1")]
    Show { id: String },
    /// Changes a group's name, description, and whether its members reach each other
    #[command(after_help = "Examples:\n  ecsctl security-group modify sg-1 --name web\n  \
        ecsctl security-group modify sg-1 --inner-access drop")]
    Modify(ModifyArguments),
    /// Adds an instance, or a secondary network interface, to a group
    #[command(after_help = "Examples:\n  ecsctl security-group join sg-1 i-1\n  \
        ecsctl security-group join sg-1 eni-1")]
    Join(members::MemberArguments),
    /// Takes an instance, or a secondary network interface, out of a group
    #[command(after_help = "Example:\n  ecsctl security-group leave sg-1 i-1")]
    Leave(members::MemberArguments),
    /// Shows which groups have rules that name a group
    #[command(after_help = "Example:\n  ecsctl security-group references sg-1")]
    References {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Adds a rule, or those of a file
    #[command(after_help = rules::AUTHORIZE_EXAMPLES)]
    Authorize(rules::AuthorizeArguments),
    /// Removes rules: named by their ids, or described as when they were added
    #[command(
        after_help = "Examples:\n  ecsctl security-group revoke sg-1 --rule sgr-1\n  ecsctl security-group revoke sg-1 --port 22/22 --cidr 0.0.0.0/0"
    )]
    Revoke(rules::RevokeArguments),
    /// Changes a rule; what is left out stays
    #[command(after_help = "Examples:\n  \
        ecsctl security-group modify-rule sg-1 sgr-1 --cidr 10.0.0.0/8\n  \
        ecsctl security-group modify-rule sg-1 sgr-2 --egress --policy drop --priority 5")]
    ModifyRule(rules::ModifyRuleArguments),
    /// Deletes a group that no instance is in
    #[command(after_help = "Example:\n  ecsctl security-group delete sg-1")]
    Delete { id: String },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("attribute").required(true).multiple(true).args([
    "name", "description", "inner_access",
]))]
pub(crate) struct ModifyArguments {
    id: String,
    #[arg(long)]
    name: Option<String>,
    /// Empty: none
    #[arg(long)]
    description: Option<String>,
    /// Whether members of a normal group reach each other: accept or drop
    #[arg(long)]
    inner_access: Option<String>,
}

impl Row for SecurityGroup {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "VPC",
        "TYPE",
        "INSTANCES",
        "RULES",
        "INNER ACCESS",
        "ROOM",
        "CREATED",
        "DESCRIPTION",
    ];
    const WIDE: usize = 4;
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
            self.rule_count.to_string(),
            self.inner_access_policy.clone(),
            self.available_instance_amount.to_string(),
            self.creation_time.clone(),
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
        "OWN SIDE",
        "DESCRIPTION",
    ];
    fn id(&self) -> String {
        self.security_group_rule_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let source = [
            &self.source_cidr_ip,
            &self.ipv6_source_cidr_ip,
            &self.source_group_id,
            &self.source_prefix_list_id,
        ];
        let dest = [
            &self.dest_cidr_ip,
            &self.ipv6_dest_cidr_ip,
            &self.dest_group_id,
            &self.dest_prefix_list_id,
        ];
        let (other, own) = if self.direction == "egress" { (dest, source) } else { (source, dest) };
        let [other, own] =
            [other, own].map(|side| side.into_iter().find(|text| !text.is_empty()).cloned());
        let ports = match self.source_port_range.as_str() {
            "" => self.port_range.clone(),
            from => format!("{} from {from}", self.port_range),
        };
        vec![
            self.security_group_rule_id.clone(),
            self.direction.clone(),
            self.priority.clone(),
            self.policy.clone(),
            self.ip_protocol.clone(),
            ports,
            other.unwrap_or_default(),
            own.unwrap_or_default(),
            self.description.clone(),
        ]
    }
}

impl Row for SecurityGroupReference {
    const COLUMNS: &'static [&'static str] = &["ID", "NAMED BY"];
    fn id(&self) -> String {
        self.security_group_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![self.security_group_id.clone(), self.referencing_security_group_ids.join(" ")]
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
            tags,
            client_token: token,
        } => {
            let request = CreateSecurityGroupRequest {
                region_id,
                vpc_id: vpc,
                security_group_name: name,
                description,
                security_group_type: group_type,
                client_token: client_token(token),
                tag: tags,
            };
            let answer = service.create_security_group(request).await?.into_inner();
            let id = answer.security_group_id.clone();
            context.done(
                &answer,
                std::slice::from_ref(&id),
                &format!("security group {id} created"),
            );
        }
        SecurityGroupCommand::List { ids, vpc, name, group_type, tags } => {
            let groups = pages::all(async |page_number| {
                let request = DescribeSecurityGroupsRequest {
                    region_id: region_id.clone(),
                    vpc_id: vpc.clone(),
                    security_group_ids: ids.clone(),
                    security_group_name: name.clone(),
                    fuzzy_query: name.contains('*'),
                    security_group_type: group_type.clone(),
                    tag: tags.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
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
        SecurityGroupCommand::Modify(arguments) => modify(context, arguments).await?,
        SecurityGroupCommand::Join(arguments) => members::join(context, arguments).await?,
        SecurityGroupCommand::Leave(arguments) => members::leave(context, arguments).await?,
        SecurityGroupCommand::Authorize(arguments) => rules::authorize(context, arguments).await?,
        SecurityGroupCommand::Revoke(arguments) => rules::revoke(context, arguments).await?,
        SecurityGroupCommand::ModifyRule(arguments) => rules::modify(context, arguments).await?,
        SecurityGroupCommand::References { ids } => {
            let request =
                DescribeSecurityGroupReferencesRequest { region_id, security_group_id: ids };
            let answer = service.describe_security_group_references(request).await?.into_inner();
            table::print(context.format, &answer.security_group_references);
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

/// Name and description are one order, the policy is another.
async fn modify(context: &Context, arguments: ModifyArguments) -> Result<()> {
    let ModifyArguments { id, name, description, inner_access } = arguments;
    let mut service = context.cloud.security_groups();
    let region_id = context.region.clone();
    let ids = [id.clone()];
    let sentence = format!("security group {id} modified");
    if let Some(inner_access_policy) = inner_access {
        let request = ModifySecurityGroupPolicyRequest {
            region_id: region_id.clone(),
            security_group_id: id.clone(),
            inner_access_policy,
            client_token: client_token(None),
        };
        let answer = service.modify_security_group_policy(request).await?.into_inner();
        if name.is_none() && description.is_none() {
            context.done(&answer, &ids, &sentence);
            return Ok(());
        }
    }
    let request = ModifySecurityGroupAttributeRequest {
        region_id,
        security_group_id: id,
        security_group_name: name,
        description,
    };
    let answer = service.modify_security_group_attribute(request).await?.into_inner();
    context.done(&answer, &ids, &sentence);
    Ok(())
}
