//! Changes of security groups and their rules, and who names whom.

use super::{
    Api, prefix_lists, request, security_group_rules as rules,
    security_groups::{check_group_rules, check_rule_count},
};
use crate::{
    ecs_error::{from_store, group_not_found, missing, refuse},
    validation,
};
use api::v1::*;
use store::{GroupPlan, GroupView, Refusal, SecurityGroupRecord};

/// Groups of one question about references.
const MOST_ASKED: usize = 10;

/// What is to be another of a rule; what is empty stays.
struct RuleChange {
    rule_id: String,
    given: Permission,
    description: Option<String>,
    egress: bool,
}

impl RuleChange {
    /// The permission the rule is to be.
    fn on(&self, old: Permission) -> Permission {
        let given = &self.given;
        let or = |new: &String, old: String| if new.is_empty() { old } else { new.clone() };
        let mut new = Permission {
            policy: or(&given.policy, old.policy),
            priority: or(&given.priority, old.priority),
            ip_protocol: or(&given.ip_protocol, old.ip_protocol),
            port_range: or(&given.port_range, old.port_range),
            source_port_range: or(&given.source_port_range, old.source_port_range),
            nic_type: or(&given.nic_type, old.nic_type),
            description: self.description.clone().unwrap_or(old.description),
            source_cidr_ip: given.source_cidr_ip.clone(),
            ipv6_source_cidr_ip: given.ipv6_source_cidr_ip.clone(),
            source_group_id: given.source_group_id.clone(),
            source_prefix_list_id: given.source_prefix_list_id.clone(),
            dest_cidr_ip: given.dest_cidr_ip.clone(),
            ipv6_dest_cidr_ip: given.ipv6_dest_cidr_ip.clone(),
            dest_group_id: given.dest_group_id.clone(),
            dest_prefix_list_id: given.dest_prefix_list_id.clone(),
            ..Default::default()
        };
        let [sources, dests] = self.sides();
        if sources.into_iter().all(String::is_empty) {
            new.source_cidr_ip = old.source_cidr_ip;
            new.ipv6_source_cidr_ip = old.ipv6_source_cidr_ip;
            new.source_group_id = old.source_group_id;
            new.source_prefix_list_id = old.source_prefix_list_id;
        }
        if dests.into_iter().all(String::is_empty) {
            new.dest_cidr_ip = old.dest_cidr_ip;
            new.ipv6_dest_cidr_ip = old.ipv6_dest_cidr_ip;
            new.dest_group_id = old.dest_group_id;
            new.dest_prefix_list_id = old.dest_prefix_list_id;
        }
        new
    }

    /// Sources and destinations.
    fn sides(&self) -> [[&String; 4]; 2] {
        let given = &self.given;
        [
            [
                &given.source_cidr_ip,
                &given.ipv6_source_cidr_ip,
                &given.source_group_id,
                &given.source_prefix_list_id,
            ],
            [
                &given.dest_cidr_ip,
                &given.ipv6_dest_cidr_ip,
                &given.dest_group_id,
                &given.dest_prefix_list_id,
            ],
        ]
    }

    fn plan(&self, group_id: &str, view: &GroupView) -> Result<GroupPlan, Refusal> {
        let group = view.group.as_ref().ok_or_else(|| group_not_found(group_id))?;
        let rule_id = &self.rule_id;
        let found =
            |rule: &&store::RuleRecord| rule.rule_id == *rule_id && rule.egress == self.egress;
        let old = view.rules.iter().find(found).ok_or_else(|| {
            let direction = if self.egress { "outbound" } else { "inbound" };
            refuse(
                404,
                "SecurityGroupRule.NotFound",
                format!(
                    "security group {group_id} has no {direction} rule {rule_id}; \
                     DescribeSecurityGroupAttribute lists its rules"
                ),
            )
        })?;
        let mut rule = rules::parse(group_id, &self.on(rules::describe(old)), self.egress)?;
        rule.rule_id.clone_from(rule_id);
        rule.created_ms = old.created_ms;
        // A peer that it had already was checked then.
        if rule.peer_group_id != old.peer_group_id {
            rules::check_peer(&rule, group, &view.peers)?;
        }
        prefix_lists::check_named(&rule, &view.prefix_lists)?;
        let others = || view.rules.iter().filter(|other| other.rule_id != *rule_id);
        if let Some(twin) = others().find(|other| rules::same(other, &rule)) {
            return Err(refuse(
                403,
                "InvalidParamter.Conflict",
                format!("rule {} of security group {group_id} is the same already", twin.rule_id),
            ));
        }
        let before = prefix_lists::weight(old, &view.prefix_lists);
        let more = prefix_lists::weight(&rule, &view.prefix_lists).saturating_sub(before);
        check_rule_count(group_id, view, more)?;
        check_group_rules(group_id, others().chain([&rule]))?;
        Ok(GroupPlan { update_rules: vec![rule], ..Default::default() })
    }
}

impl Api {
    pub(super) async fn modify_security_group_rule(
        &self,
        request: ModifySecurityGroupRuleRequest,
    ) -> Result<ModifySecurityGroupRuleResponse, Refusal> {
        let token = request::token("ModifySecurityGroupRule", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let change = RuleChange {
            rule_id: request.security_group_rule_id,
            given: Permission {
                policy: request.policy,
                priority: request.priority,
                ip_protocol: request.ip_protocol,
                port_range: request.port_range,
                source_cidr_ip: request.source_cidr_ip,
                ipv6_source_cidr_ip: request.ipv6_source_cidr_ip,
                source_group_id: request.source_group_id,
                source_prefix_list_id: request.source_prefix_list_id,
                dest_cidr_ip: request.dest_cidr_ip,
                ipv6_dest_cidr_ip: request.ipv6_dest_cidr_ip,
                source_port_range: request.source_port_range,
                nic_type: request.nic_type,
                ..Default::default()
            },
            description: request.description,
            egress: false,
        };
        self.change_rule(token, request.security_group_id, change).await?;
        Ok(ModifySecurityGroupRuleResponse::default())
    }

    pub(super) async fn modify_security_group_egress_rule(
        &self,
        request: ModifySecurityGroupEgressRuleRequest,
    ) -> Result<ModifySecurityGroupEgressRuleResponse, Refusal> {
        let token =
            request::token("ModifySecurityGroupEgressRule", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let change = RuleChange {
            rule_id: request.security_group_rule_id,
            given: Permission {
                policy: request.policy,
                priority: request.priority,
                ip_protocol: request.ip_protocol,
                port_range: request.port_range,
                dest_cidr_ip: request.dest_cidr_ip,
                ipv6_dest_cidr_ip: request.ipv6_dest_cidr_ip,
                dest_group_id: request.dest_group_id,
                dest_prefix_list_id: request.dest_prefix_list_id,
                source_cidr_ip: request.source_cidr_ip,
                ipv6_source_cidr_ip: request.ipv6_source_cidr_ip,
                source_port_range: request.source_port_range,
                nic_type: request.nic_type,
                ..Default::default()
            },
            description: request.description,
            egress: true,
        };
        self.change_rule(token, request.security_group_id, change).await?;
        Ok(ModifySecurityGroupEgressRuleResponse::default())
    }

    async fn change_rule(
        &self,
        token: Option<store::ClientToken>,
        group_id: String,
        change: RuleChange,
    ) -> Result<(), Refusal> {
        for (name, value) in
            [("security_group_id", &group_id), ("security_group_rule_id", &change.rule_id)]
        {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        let given = &change.given;
        let peers = if change.egress {
            [given.dest_group_id.clone(), given.dest_prefix_list_id.clone()]
        } else {
            [given.source_group_id.clone(), given.source_prefix_list_id.clone()]
        };
        let peers = peers.into_iter().filter(|id| !id.is_empty()).collect();
        let id = group_id.clone();
        let decide = move |view: &GroupView| change.plan(&id, view);
        let changed =
            self.cloud.store.change_security_group(token, &group_id, peers, Box::new(decide)).await;
        changed.map(drop).map_err(from_store)
    }

    pub(super) async fn modify_security_group_attribute(
        &self,
        request: ModifySecurityGroupAttributeRequest,
    ) -> Result<ModifySecurityGroupAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (name, description) = (request.security_group_name, request.description);
        if name.is_none() && description.is_none() {
            return Err(missing("security_group_name or description"));
        }
        if let Some(name) = &name {
            validation::display_name("InvalidSecurityGroupName.Malformed", "group name", name)?;
        }
        if let Some(description) = &description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        self.change_group(None, request.security_group_id, move |group| {
            if let Some(name) = &name {
                group.name.clone_from(name);
            }
            if let Some(description) = &description {
                group.description.clone_from(description);
            }
            Ok(())
        })
        .await?;
        Ok(ModifySecurityGroupAttributeResponse::default())
    }

    pub(super) async fn modify_security_group_policy(
        &self,
        request: ModifySecurityGroupPolicyRequest,
    ) -> Result<ModifySecurityGroupPolicyResponse, Refusal> {
        let token = request::token("ModifySecurityGroupPolicy", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let accept = match request.inner_access_policy.to_ascii_lowercase().as_str() {
            "accept" => true,
            "drop" => false,
            _ => {
                return Err(refuse(
                    400,
                    "InvalidPolicy.Malformed",
                    format!(
                        "inner_access_policy is {:?}; it must be Accept or Drop",
                        request.inner_access_policy
                    ),
                ));
            }
        };
        self.change_group(token, request.security_group_id, move |group| {
            if group.enterprise && accept {
                return Err(refuse(
                    400,
                    "InvalidOperation.SecurityGroupType",
                    format!(
                        "security group {} is an advanced (enterprise) one, whose members reach \
                         each other by its rules only",
                        group.group_id
                    ),
                ));
            }
            group.inner_accept = accept;
            Ok(())
        })
        .await?;
        Ok(ModifySecurityGroupPolicyResponse::default())
    }

    async fn change_group(
        &self,
        token: Option<store::ClientToken>,
        group_id: String,
        change: impl Fn(&mut SecurityGroupRecord) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Result<(), Refusal> {
        if group_id.is_empty() {
            return Err(missing("security_group_id"));
        }
        let id = group_id.clone();
        let decide = move |view: &GroupView| {
            let mut group = view.group.clone().ok_or_else(|| group_not_found(&id))?;
            change(&mut group)?;
            Ok(GroupPlan { update: Some(group), ..Default::default() })
        };
        let changed = self
            .cloud
            .store
            .change_security_group(token, &group_id, Vec::new(), Box::new(decide))
            .await;
        changed.map(drop).map_err(from_store)
    }

    pub(super) async fn describe_security_group_references(
        &self,
        request: DescribeSecurityGroupReferencesRequest,
    ) -> Result<DescribeSecurityGroupReferencesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let asked = request.security_group_id;
        if asked.is_empty() || asked.len() > MOST_ASKED {
            return Err(refuse(
                400,
                "InvalidSecurityGroupId.Malformed",
                format!("{} security groups are given; give 1 to {MOST_ASKED}", asked.len()),
            ));
        }
        let mut security_group_references = Vec::new();
        for security_group_id in asked {
            let view = self.cloud.store.security_group(&security_group_id).await;
            let view = view.map_err(from_store)?;
            if view.group.is_none() {
                return Err(group_not_found(&security_group_id));
            }
            if !view.named_by.is_empty() {
                security_group_references.push(SecurityGroupReference {
                    security_group_id,
                    referencing_security_group_ids: view.named_by,
                });
            }
        }
        Ok(DescribeSecurityGroupReferencesResponse {
            request_id: String::new(),
            security_group_references,
        })
    }
}
