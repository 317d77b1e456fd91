//! Security groups.

use super::{Api, paging, prefix_lists, request, security_group_rules as rules, service};
use crate::{
    ecs_error::{dry_run, from_store, group_not_found, invalid, missing, refuse, vpc_not_found},
    group_membership::{self, MOST_ENI_RULES},
    ids, timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{security_group_service_server::SecurityGroupService, *};
use prost::Message as _;
use store::{
    GroupFilter, GroupPlan, GroupSummary, GroupView, Planned, Refusal, RuleRecord,
    SecurityGroupRecord, VpcView,
};

/// Rules of one group, both directions together.
const MOST_RULES: usize = 200;
/// Rules of one group that name a group.
const MOST_GROUP_RULES: usize = 20;
const MOST_PERMISSIONS: usize = 100;

service!(SecurityGroupService => Api {
    create_security_group: CreateSecurityGroupRequest => CreateSecurityGroupResponse;
    delete_security_group: DeleteSecurityGroupRequest => DeleteSecurityGroupResponse;
    describe_security_groups: DescribeSecurityGroupsRequest => DescribeSecurityGroupsResponse;
    describe_security_group_attribute:
        DescribeSecurityGroupAttributeRequest => DescribeSecurityGroupAttributeResponse;
    authorize_security_group: AuthorizeSecurityGroupRequest => AuthorizeSecurityGroupResponse;
    authorize_security_group_egress:
        AuthorizeSecurityGroupEgressRequest => AuthorizeSecurityGroupEgressResponse;
    revoke_security_group: RevokeSecurityGroupRequest => RevokeSecurityGroupResponse;
    revoke_security_group_egress:
        RevokeSecurityGroupEgressRequest => RevokeSecurityGroupEgressResponse;
    modify_security_group_rule:
        ModifySecurityGroupRuleRequest => ModifySecurityGroupRuleResponse;
    modify_security_group_egress_rule:
        ModifySecurityGroupEgressRuleRequest => ModifySecurityGroupEgressRuleResponse;
    modify_security_group_attribute:
        ModifySecurityGroupAttributeRequest => ModifySecurityGroupAttributeResponse;
    modify_security_group_policy:
        ModifySecurityGroupPolicyRequest => ModifySecurityGroupPolicyResponse;
    join_security_group: JoinSecurityGroupRequest => JoinSecurityGroupResponse;
    leave_security_group: LeaveSecurityGroupRequest => LeaveSecurityGroupResponse;
    describe_security_group_references:
        DescribeSecurityGroupReferencesRequest => DescribeSecurityGroupReferencesResponse;
});

impl Api {
    async fn create_security_group(
        &self,
        request: CreateSecurityGroupRequest,
    ) -> Result<CreateSecurityGroupResponse, Refusal> {
        let token = request::token("CreateSecurityGroup", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        let name = &request.security_group_name;
        validation::display_name("InvalidSecurityGroupName.Malformed", "group name", name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let enterprise = match request.security_group_type.as_str() {
            "" | "normal" => false,
            "enterprise" => true,
            other => {
                return Err(invalid(format!(
                    "security_group_type is {other:?}; it must be normal or enterprise"
                )));
            }
        };
        let tags = validation::tags(&request.tag)?;
        let vpc_id = request.vpc_id.clone();
        let decide = move |view: &VpcView| {
            if view.vpc.is_none() {
                return Err(vpc_not_found(&request.vpc_id));
            }
            let record = SecurityGroupRecord {
                group_id: ids::security_group(),
                vpc_id: request.vpc_id.clone(),
                name: request.security_group_name.clone(),
                description: request.description.clone(),
                enterprise,
                inner_accept: !enterprise,
                tags: tags.clone(),
                created_ms: now_ms(),
            };
            let security_group_id = record.group_id.clone();
            let answer =
                CreateSecurityGroupResponse { request_id: String::new(), security_group_id };
            Ok(Planned { record, answer: answer.encode_to_vec() })
        };
        request::response(
            self.cloud.store.create_security_group(token, &vpc_id, Box::new(decide)).await,
        )
    }

    async fn delete_security_group(
        &self,
        request: DeleteSecurityGroupRequest,
    ) -> Result<DeleteSecurityGroupResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let group_id = request.security_group_id.clone();
        let decide = move |view: &GroupView| {
            if view.group.is_none() {
                return Err(group_not_found(&group_id));
            }
            if view.members > 0 {
                return Err(refuse(
                    403,
                    "DependencyViolation",
                    format!(
                        "security group {group_id} has {} network interfaces in it; take them out or \
                         delete them and their instances first",
                        view.members
                    ),
                ));
            }
            if !view.named_by.is_empty() {
                return Err(refuse(
                    403,
                    "DependencyViolation",
                    format!(
                        "rules of {} name security group {group_id}; revoke them first",
                        view.named_by.join(", ")
                    ),
                ));
            }
            Ok(())
        };
        self.cloud
            .store
            .delete_security_group(&request.security_group_id, Box::new(decide))
            .await
            .map_err(from_store)?;
        Ok(DeleteSecurityGroupResponse::default())
    }

    async fn describe_security_groups(
        &self,
        mut request: DescribeSecurityGroupsRequest,
    ) -> Result<DescribeSecurityGroupsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (number, size) = (request.page_number, request.page_size);
        let (token, max_results) = (std::mem::take(&mut request.next_token), request.max_results);
        (request.page_number, request.page_size, request.max_results) = (0, 0, 0);
        let (page, page_number, page_size) =
            paging::either((number, size), (&token, max_results), 100, &request)?;
        let by_token = page_size == 0;
        request::at_most_100("security_group_ids", request.security_group_ids.len())?;
        if !["", "vpc"].contains(&request.network_type.as_str()) {
            return Err(invalid(format!(
                "network_type is {:?}; every security group is of vpc",
                request.network_type
            )));
        }
        let mut group_ids = request.security_group_ids.clone();
        if !request.security_group_id.is_empty() {
            if !group_ids.is_empty() {
                return Err(refuse(
                    400,
                    "InvalidParameter.Conflict",
                    "give security_group_id or security_group_ids, not both",
                ));
            }
            group_ids.push(request.security_group_id.clone());
        }
        let name = &request.security_group_name;
        if name.contains('*') && !request.fuzzy_query {
            return Err(invalid(format!(
                "security_group_name {name:?} has a wildcard; set fuzzy_query for one"
            )));
        }
        if request.dry_run {
            return Err(dry_run());
        }
        let filter = GroupFilter {
            group_ids,
            vpc_id: request.vpc_id.clone(),
            name: name.clone(),
            enterprise: match request.security_group_type.as_str() {
                "" => None,
                "normal" => Some(false),
                "enterprise" => Some(true),
                other => {
                    return Err(invalid(format!(
                        "security_group_type is {other:?}; it must be normal or enterprise"
                    )));
                }
            },
            tags: request.tag.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        };
        let listed = self.cloud.store.security_groups(filter, page).await.map_err(from_store)?;
        Ok(DescribeSecurityGroupsResponse {
            request_id: String::new(),
            region_id: self.cloud.options.region_id.clone(),
            security_groups: listed.items.into_iter().map(describe).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
            next_token: paging::next_token(listed.next.filter(|_| by_token), &request),
        })
    }

    async fn describe_security_group_attribute(
        &self,
        request: DescribeSecurityGroupAttributeRequest,
    ) -> Result<DescribeSecurityGroupAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let egress = match request.direction.as_str() {
            "" | "all" => None,
            "ingress" => Some(false),
            "egress" => Some(true),
            other => {
                return Err(invalid(format!(
                    "direction is {other:?}; it must be ingress, egress or all"
                )));
            }
        };
        let view = self
            .cloud
            .store
            .security_group(&request.security_group_id)
            .await
            .map_err(from_store)?;
        let group = view.group.ok_or_else(|| group_not_found(&request.security_group_id))?;
        Ok(DescribeSecurityGroupAttributeResponse {
            request_id: String::new(),
            region_id: self.cloud.options.region_id.clone(),
            inner_access_policy: inner_access_policy(&group),
            security_group_id: group.group_id,
            security_group_name: group.name,
            description: group.description,
            vpc_id: group.vpc_id,
            permissions: view
                .rules
                .iter()
                .filter(|rule| egress.is_none_or(|egress| rule.egress == egress))
                .map(rules::describe)
                .collect(),
        })
    }

    async fn authorize_security_group(
        &self,
        request: AuthorizeSecurityGroupRequest,
    ) -> Result<AuthorizeSecurityGroupResponse, Refusal> {
        let token = request::token("AuthorizeSecurityGroup", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let group_id = request.security_group_id;
        self.authorize(token, group_id, request.permissions, false).await?;
        Ok(AuthorizeSecurityGroupResponse::default())
    }

    async fn authorize_security_group_egress(
        &self,
        request: AuthorizeSecurityGroupEgressRequest,
    ) -> Result<AuthorizeSecurityGroupEgressResponse, Refusal> {
        let token =
            request::token("AuthorizeSecurityGroupEgress", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let group_id = request.security_group_id;
        self.authorize(token, group_id, request.permissions, true).await?;
        Ok(AuthorizeSecurityGroupEgressResponse::default())
    }

    async fn revoke_security_group(
        &self,
        request: RevokeSecurityGroupRequest,
    ) -> Result<RevokeSecurityGroupResponse, Refusal> {
        let token = request::token("RevokeSecurityGroup", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let named = request.security_group_rule_id;
        self.revoke(token, request.security_group_id, request.permissions, named, false).await?;
        Ok(RevokeSecurityGroupResponse::default())
    }

    async fn revoke_security_group_egress(
        &self,
        request: RevokeSecurityGroupEgressRequest,
    ) -> Result<RevokeSecurityGroupEgressResponse, Refusal> {
        let token = request::token("RevokeSecurityGroupEgress", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let named = request.security_group_rule_id;
        self.revoke(token, request.security_group_id, request.permissions, named, true).await?;
        Ok(RevokeSecurityGroupEgressResponse::default())
    }

    async fn authorize(
        &self,
        token: Option<store::ClientToken>,
        group_id: String,
        permissions: Vec<Permission>,
        egress: bool,
    ) -> Result<(), Refusal> {
        let wanted = checked(&group_id, &permissions, egress)?;
        if wanted.is_empty() {
            return Err(missing("permissions"));
        }
        let peers = wanted.iter().flat_map(rules::peers).collect();
        let id = group_id.clone();
        let decide = move |view: &GroupView| {
            let group = view.group.as_ref().ok_or_else(|| group_not_found(&id))?;
            for rule in &wanted {
                rules::check_peer(rule, group, &view.peers)?;
                prefix_lists::check_named(rule, &view.prefix_lists)?;
            }
            let mut insert: Vec<RuleRecord> = Vec::new();
            for rule in &wanted {
                // A rule that is there already is not added again, as ECS has it.
                if !view.rules.iter().chain(&insert).any(|old| rules::same(old, rule)) {
                    insert.push(RuleRecord { rule_id: ids::rule(), ..rule.clone() });
                }
            }
            check_limits(&id, view, &insert)?;
            Ok(GroupPlan { insert, ..Default::default() })
        };
        self.cloud
            .store
            .change_security_group(token, &group_id, peers, Box::new(decide))
            .await
            .map_err(from_store)?;
        Ok(())
    }

    async fn revoke(
        &self,
        token: Option<store::ClientToken>,
        group_id: String,
        permissions: Vec<Permission>,
        named: Vec<String>,
        egress: bool,
    ) -> Result<(), Refusal> {
        let by_id: Vec<String> = permissions
            .iter()
            .map(|permission| permission.security_group_rule_id.clone())
            .filter(|id| !id.is_empty())
            .chain(named)
            .collect();
        let by_content: Vec<Permission> = permissions
            .into_iter()
            .filter(|permission| permission.security_group_rule_id.is_empty())
            .collect();
        let wanted = checked(&group_id, &by_content, egress)?;
        if wanted.is_empty() && by_id.is_empty() {
            return Err(missing("permissions"));
        }
        let id = group_id.clone();
        let decide = move |view: &GroupView| {
            if view.group.is_none() {
                return Err(group_not_found(&id));
            }
            // Revoking what is not there succeeds: the wish is fulfilled.
            let delete = view
                .rules
                .iter()
                .filter(|rule| rule.egress == egress)
                .filter(|rule| {
                    by_id.contains(&rule.rule_id)
                        || wanted.iter().any(|gone| rules::same(rule, gone))
                })
                .map(|rule| rule.rule_id.clone())
                .collect();
            Ok(GroupPlan { delete, ..Default::default() })
        };
        self.cloud
            .store
            .change_security_group(token, &group_id, Vec::new(), Box::new(decide))
            .await
            .map_err(from_store)?;
        Ok(())
    }
}

/// That a group and each of its members may have these rules more.
fn check_limits(group_id: &str, view: &GroupView, insert: &[RuleRecord]) -> Result<(), Refusal> {
    let more = insert.iter().map(|rule| prefix_lists::weight(rule, &view.prefix_lists)).sum();
    check_rule_count(group_id, view, more)?;
    check_group_rules(group_id, view.rules.iter().chain(insert))
}

/// That a group and each of its members may have so many rules more. A rule that names a prefix list
/// counts as many as that may have entries.
pub(super) fn check_rule_count(
    group_id: &str,
    view: &GroupView,
    more: usize,
) -> Result<(), Refusal> {
    let exceeded = |message: String| Err(refuse(403, "AuthorizationLimitExceed", message));
    let has: usize =
        view.rules.iter().map(|rule| prefix_lists::weight(rule, &view.prefix_lists)).sum();
    if more > 0 && has + more > MOST_RULES {
        return exceeded(format!(
            "security group {group_id} has {has} rules and would get {more} more; at most \
             {MOST_RULES} are allowed"
        ));
    }
    let of_members = view.most_member_rules + more as u64;
    if more > 0 && of_members > MOST_ENI_RULES {
        return exceeded(format!(
            "a network interface in security group {group_id} would have {of_members} rules of all \
             its groups; at most {MOST_ENI_RULES} are allowed"
        ));
    }
    Ok(())
}

/// That of all the rules a group is to have, not too many name groups.
pub(super) fn check_group_rules<'a>(
    group_id: &str,
    rules: impl Iterator<Item = &'a RuleRecord>,
) -> Result<(), Refusal> {
    let naming = rules.filter(|rule| rule.peer_group_id.is_some()).count();
    if naming <= MOST_GROUP_RULES {
        return Ok(());
    }
    Err(refuse(
        403,
        "AuthorizationLimitExceed",
        format!(
            "{naming} rules of security group {group_id} would name groups; at most \
             {MOST_GROUP_RULES} may"
        ),
    ))
}

fn describe(summary: GroupSummary) -> SecurityGroup {
    let GroupSummary { group, instances, addresses, rules, group_rules } = summary;
    let room = group_membership::capacity(group.enterprise).saturating_sub(addresses);
    SecurityGroup {
        inner_access_policy: inner_access_policy(&group),
        security_group_id: group.group_id,
        security_group_name: group.name,
        description: group.description,
        vpc_id: group.vpc_id,
        security_group_type: if group.enterprise { "enterprise" } else { "normal" }.to_owned(),
        creation_time: timestamp::second(group.created_ms),
        ecs_count: paging::total(instances),
        tags: group.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
        available_instance_amount: paging::total(room),
        rule_count: paging::total(rules),
        group_to_group_rule_count: paging::total(group_rules),
    }
}

fn checked(
    group_id: &str,
    permissions: &[Permission],
    egress: bool,
) -> Result<Vec<RuleRecord>, Refusal> {
    if group_id.is_empty() {
        return Err(missing("security_group_id"));
    }
    if permissions.len() > MOST_PERMISSIONS {
        return Err(invalid(format!(
            "{} permissions given; a call takes at most {MOST_PERMISSIONS}",
            permissions.len()
        )));
    }
    permissions.iter().map(|permission| rules::parse(group_id, permission, egress)).collect()
}

fn inner_access_policy(group: &SecurityGroupRecord) -> String {
    if group.inner_accept { "Accept" } else { "Drop" }.to_owned()
}
