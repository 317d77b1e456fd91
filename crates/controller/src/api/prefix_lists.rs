//! Prefix lists.

use super::{Api, paging, request, service};
use crate::{
    ecs_error::{from_store, invalid, missing, prefix_list_not_found, refuse},
    ids, timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{prefix_list_service_server::PrefixListService, *};
use ipnet::IpNet;
use prost::Message as _;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EdgeView, PrefixListFilter, PrefixListRecord, Refusal,
    RuleRecord,
};

const MOST_ENTRIES: u32 = 200;

service!(PrefixListService => Api {
    create_prefix_list: CreatePrefixListRequest => CreatePrefixListResponse;
    modify_prefix_list: ModifyPrefixListRequest => ModifyPrefixListResponse;
    delete_prefix_list: DeletePrefixListRequest => DeletePrefixListResponse;
    describe_prefix_lists: DescribePrefixListsRequest => DescribePrefixListsResponse;
    describe_prefix_list_attributes:
        DescribePrefixListAttributesRequest => DescribePrefixListAttributesResponse;
    describe_prefix_list_associations:
        DescribePrefixListAssociationsRequest => DescribePrefixListAssociationsResponse;
});

fn check_name(name: &str) -> Result<(), Refusal> {
    let lower = name.to_ascii_lowercase();
    if name.is_empty() {
        return Err(missing("prefix_list_name"));
    }
    if ["com.aliyun", "com.alibabacloud"].iter().any(|reserved| lower.starts_with(reserved)) {
        return Err(refuse(
            400,
            "InvalidPrefixListName.Malformed",
            format!("prefix list name {name:?} begins with a reserved name; choose another"),
        ));
    }
    validation::display_name("InvalidPrefixListName.Malformed", "prefix list name", name)
}

fn family(text: &str) -> Result<bool, Refusal> {
    match text {
        "IPv4" => Ok(false),
        "IPv6" => Ok(true),
        "" => Err(missing("address_family")),
        other => Err(refuse(
            400,
            "InvalidAddressFamily.ValueNotSupported",
            format!("address_family is {other:?}; it must be IPv4 or IPv6"),
        )),
    }
}

fn family_name(ipv6: bool) -> String {
    if ipv6 { "IPv6" } else { "IPv4" }.to_owned()
}

/// A range of the list's family, without host bits.
fn range(text: &str, ipv6: bool) -> Result<IpNet, Refusal> {
    let malformed =
        |hint: &str| refuse(400, "InvalidEntryCidr.Malformed", format!("entry {text:?} {hint}"));
    let net: IpNet = text.parse().map_err(|_| malformed("is no CIDR block"))?;
    if net.addr() != net.network() {
        return Err(malformed(&format!("has host bits set; did you mean {}?", net.trunc())));
    }
    if matches!(net, IpNet::V6(_)) != ipv6 {
        return Err(malformed(&format!("is not of family {}", family_name(ipv6))));
    }
    Ok(net)
}

/// Adds entries; one that is there already is given its new description.
fn add(list: &mut PrefixListRecord, entries: &[PrefixListEntry]) -> Result<(), Refusal> {
    for entry in entries {
        let net = range(&entry.cidr, list.ipv6)?;
        if entry.description.chars().count() > 32 {
            return Err(refuse(
                400,
                "InvalidEntryDescription.Malformed",
                format!("the description of entry {net} has more than 32 characters"),
            ));
        }
        match list.entries.iter_mut().find(|(known, _)| *known == net) {
            Some((_, description)) => description.clone_from(&entry.description),
            None => list.entries.push((net, entry.description.clone())),
        }
    }
    if list.entries.len() > list.max_entries as usize {
        return Err(refuse(
            400,
            "InvalidOperation.MaxEntriesExceed",
            format!(
                "the prefix list would have {} entries, its max_entries is {}",
                list.entries.len(),
                list.max_entries
            ),
        ));
    }
    Ok(())
}

/// How many rules a rule counts as: one that names a prefix list, as many as that may have entries.
pub(super) fn weight(rule: &RuleRecord, lists: &[PrefixListRecord]) -> usize {
    let named = lists.iter().find(|list| list.prefix_list_id == rule.prefix_list_id);
    named.map_or(1, |list| list.max_entries as usize)
}

/// The prefix list a rule names must be there.
pub(super) fn check_named(rule: &RuleRecord, lists: &[PrefixListRecord]) -> Result<(), Refusal> {
    let id = &rule.prefix_list_id;
    if id.is_empty() || lists.iter().any(|list| list.prefix_list_id == *id) {
        return Ok(());
    }
    Err(prefix_list_not_found(id))
}

fn found<'a>(view: &'a EdgeView, id: &str) -> Result<&'a PrefixListRecord, Refusal> {
    let mut lists = view.prefix_lists.iter();
    lists.find(|list| list.prefix_list_id == id).ok_or_else(|| prefix_list_not_found(id))
}

impl Api {
    async fn create_prefix_list(
        &self,
        request: CreatePrefixListRequest,
    ) -> Result<CreatePrefixListResponse, Refusal> {
        let token = request::token("CreatePrefixList", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        check_name(&request.prefix_list_name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let ipv6 = family(&request.address_family)?;
        if !(1..=MOST_ENTRIES).contains(&request.max_entries) {
            return Err(refuse(
                400,
                "InvalidMaxEntries.Malformed",
                format!("max_entries is {}; it must be 1 to {MOST_ENTRIES}", request.max_entries),
            ));
        }
        let mut list = PrefixListRecord {
            prefix_list_id: ids::prefix_list(),
            name: request.prefix_list_name,
            description: request.description,
            ipv6,
            max_entries: request.max_entries,
            entries: Vec::new(),
            created_ms: now_ms(),
        };
        add(&mut list, &request.entry)?;
        self.change_edge(token, EdgeLookup::default(), move |_| {
            let answer = CreatePrefixListResponse {
                request_id: String::new(),
                prefix_list_id: list.prefix_list_id.clone(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::PrefixList(list.clone())],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    async fn modify_prefix_list(
        &self,
        request: ModifyPrefixListRequest,
    ) -> Result<ModifyPrefixListResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.prefix_list_id.is_empty() {
            return Err(missing("prefix_list_id"));
        }
        if let Some(name) = &request.prefix_list_name {
            check_name(name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        let lookup = EdgeLookup::of([&request.prefix_list_id]);
        self.change_edge(None, lookup, move |view| {
            let mut list = found(view, &request.prefix_list_id)?.clone();
            if let Some(name) = &request.prefix_list_name {
                list.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                list.description.clone_from(description);
            }
            for entry in &request.remove_entry {
                let net = range(&entry.cidr, list.ipv6)?;
                if request.add_entry.iter().any(|added| added.cidr == entry.cidr) {
                    return Err(invalid(format!("entry {net} is added and removed at once")));
                }
                if !list.entries.iter().any(|(known, _)| *known == net) {
                    return Err(refuse(
                        404,
                        "InvalidEntryCidr.NotFound",
                        format!("prefix list {} has no entry {net}", list.prefix_list_id),
                    ));
                }
                list.entries.retain(|(known, _)| *known != net);
            }
            add(&mut list, &request.add_entry)?;
            Ok(EdgePlan { put: vec![EdgeRecord::PrefixList(list)], ..EdgePlan::default() })
        })
        .await
    }

    async fn delete_prefix_list(
        &self,
        request: DeletePrefixListRequest,
    ) -> Result<DeletePrefixListResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let id = request.prefix_list_id;
        if id.is_empty() {
            return Err(missing("prefix_list_id"));
        }
        self.change_edge(None, EdgeLookup::of([&id]), move |view| {
            let list = found(view, &id)?;
            let groups: Vec<&str> =
                view.associations.iter().map(|(_, group_id)| group_id.as_str()).collect();
            if !groups.is_empty() {
                return Err(refuse(
                    403,
                    "DependencyViolation.SecurityGroup",
                    format!(
                        "rules of security groups {} name prefix list {id}; revoke them first",
                        groups.join(", ")
                    ),
                ));
            }
            Ok(EdgePlan {
                delete: vec![EdgeRecord::PrefixList(list.clone())],
                ..EdgePlan::default()
            })
        })
        .await
    }

    async fn describe_prefix_lists(
        &self,
        mut request: DescribePrefixListsRequest,
    ) -> Result<DescribePrefixListsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        request::at_most_100("prefix_list_id", request.prefix_list_id.len())?;
        let token = std::mem::take(&mut request.next_token);
        let most = std::mem::take(&mut request.max_results);
        let page = paging::by_token(&token, most, 100, &request)?;
        let ipv6 = match request.address_family.as_str() {
            "" => None,
            text => Some(family(text)?),
        };
        let filter = PrefixListFilter {
            prefix_list_ids: request.prefix_list_id.clone(),
            name: request.prefix_list_name.clone(),
            ipv6,
        };
        let listed = self.cloud.store.prefix_lists(filter, page).await.map_err(from_store)?;
        Ok(DescribePrefixListsResponse {
            request_id: String::new(),
            prefix_lists: listed
                .items
                .into_iter()
                .map(|(list, groups)| PrefixList {
                    prefix_list_id: list.prefix_list_id,
                    prefix_list_name: list.name,
                    description: list.description,
                    address_family: family_name(list.ipv6),
                    max_entries: list.max_entries,
                    association_count: paging::total(groups),
                    creation_time: timestamp::second(list.created_ms),
                })
                .collect(),
            next_token: paging::next_token(listed.next, &request),
        })
    }

    async fn describe_prefix_list_attributes(
        &self,
        request: DescribePrefixListAttributesRequest,
    ) -> Result<DescribePrefixListAttributesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let id = request.prefix_list_id;
        if id.is_empty() {
            return Err(missing("prefix_list_id"));
        }
        let view = self.edge(EdgeLookup::of([&id])).await?;
        let list = found(&view, &id)?;
        Ok(DescribePrefixListAttributesResponse {
            request_id: String::new(),
            prefix_list_id: list.prefix_list_id.clone(),
            prefix_list_name: list.name.clone(),
            description: list.description.clone(),
            address_family: family_name(list.ipv6),
            max_entries: list.max_entries,
            creation_time: timestamp::second(list.created_ms),
            entries: list
                .entries
                .iter()
                .map(|(cidr, description)| PrefixListEntry {
                    cidr: cidr.to_string(),
                    description: description.clone(),
                })
                .collect(),
        })
    }

    async fn describe_prefix_list_associations(
        &self,
        request: DescribePrefixListAssociationsRequest,
    ) -> Result<DescribePrefixListAssociationsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let id = request.prefix_list_id;
        if id.is_empty() {
            return Err(missing("prefix_list_id"));
        }
        let view = self.edge(EdgeLookup::of([&id])).await?;
        found(&view, &id)?;
        Ok(DescribePrefixListAssociationsResponse {
            request_id: String::new(),
            prefix_list_associations: view
                .associations
                .into_iter()
                .map(|(_, resource_id)| PrefixListAssociation {
                    resource_id,
                    resource_type: "securitygroup".to_owned(),
                })
                .collect(),
        })
    }
}
