//! Entries of route tables.

use super::{
    Api, paging, request,
    vpc_attributes::{check_reserved, overlap},
};
use crate::{
    ecs_error::{
        dry_run, missing, nat_gateway_not_found, refuse, route_entry_not_found,
        route_table_not_found,
    },
    ids,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use ipnet::Ipv4Net;
use prost::Message as _;
use std::net::Ipv4Addr;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EdgeView, NextHopKind, Page, Refusal, RouteEntryRecord,
    VpcNetwork,
};

const MOST_ENTRIES: usize = 200;
const DEFAULT_RESULTS: u32 = 50;

/// The name ECS gives a kind of next hop.
pub(super) fn kind_name(kind: NextHopKind) -> &'static str {
    match kind {
        NextHopKind::Instance => "Instance",
        NextHopKind::NetworkInterface => "NetworkInterface",
        NextHopKind::NatGateway => "NatGateway",
    }
}

/// What the API says about an entry whose next hop is there, or gone.
pub(super) fn status(entry: &RouteEntryRecord) -> &'static str {
    if entry.next_hop.is_some() { "Available" } else { "Blackhole" }
}

fn describe(entry: &RouteEntryRecord) -> RouteEntry {
    RouteEntry {
        route_entry_id: entry.route_entry_id.clone(),
        route_entry_name: entry.name.clone(),
        description: entry.description.clone(),
        route_table_id: entry.route_table_id.clone(),
        destination_cidr_block: entry.destination.to_string(),
        r#type: "Custom".to_owned(),
        ip_version: "IPv4".to_owned(),
        status: status(entry).to_owned(),
        next_hops: vec![NextHop {
            next_hop_id: entry.next_hop_id.clone(),
            next_hop_type: kind_name(entry.next_hop_kind).to_owned(),
            enabled: entry.next_hop.is_some(),
        }],
    }
}

/// Every entry of a table: one for each VSwitch, one for the cloud's services, then custom ones.
pub(super) fn of_table(network: &VpcNetwork, route_table_id: &str) -> Vec<RouteEntry> {
    let system = |destination: String, next_hop_type: &str| RouteEntry {
        route_table_id: route_table_id.to_owned(),
        destination_cidr_block: destination,
        r#type: "System".to_owned(),
        ip_version: "IPv4".to_owned(),
        status: "Available".to_owned(),
        next_hops: vec![NextHop {
            next_hop_id: String::new(),
            next_hop_type: next_hop_type.to_owned(),
            enabled: true,
        }],
        ..RouteEntry::default()
    };
    let mut entries: Vec<RouteEntry> =
        network.vswitches.iter().map(|v| system(v.cidr.to_string(), "local")).collect();
    entries.push(system("100.64.0.0/10".to_owned(), "service"));
    let custom = network.route_entries.iter().filter(|e| e.route_table_id == route_table_id);
    entries.extend(custom.map(describe));
    entries
}

/// A destination: a range, or an address.
fn destination(text: &str) -> Result<Ipv4Net, Refusal> {
    let net = match text.parse::<Ipv4Addr>() {
        Ok(address) => Ipv4Net::from(address),
        Err(_) => super::networks::parse_cidr(text)?,
    };
    if net.prefix_len() > 0 {
        check_reserved(&net)?;
    }
    Ok(net)
}

/// The destination of a new entry among what the VPC and the table have.
fn check_destination(
    net: Ipv4Net,
    network: &VpcNetwork,
    route_table_id: &str,
) -> Result<(), Refusal> {
    if let Some(vswitch) = network.vswitches.iter().find(|v| v.cidr.contains(&net)) {
        return Err(refuse(
            400,
            "InvalidCidrBlock",
            format!(
                "{net} lies in {} of VSwitch {}; what is in a VSwitch is reached directly",
                vswitch.cidr, vswitch.vswitch_id
            ),
        ));
    }
    let mut custom = network.route_entries.iter().filter(|e| e.route_table_id == route_table_id);
    if let Some(other) = custom.clone().find(|entry| entry.destination == net) {
        return Err(refuse(
            400,
            "InvalidCIDRBlock.Duplicate",
            format!(
                "route table {route_table_id} has entry {} for {net}; modify that one",
                other.route_entry_id
            ),
        ));
    }
    if custom.by_ref().count() >= MOST_ENTRIES {
        return Err(refuse(
            400,
            "QuotaExceeded",
            format!("route table {route_table_id} has {MOST_ENTRIES} custom entries, the most"),
        ));
    }
    Ok(())
}

fn kind_of(name: &str) -> Result<NextHopKind, Refusal> {
    match name {
        "" | "Instance" => Ok(NextHopKind::Instance),
        "NetworkInterface" => Ok(NextHopKind::NetworkInterface),
        "NatGateway" => Ok(NextHopKind::NatGateway),
        other => Err(refuse(
            400,
            "InvalidNextHopType.ValueNotSupported",
            format!(
                "next_hop_type is {other:?}; it must be Instance, NetworkInterface or NatGateway"
            ),
        )),
    }
}

/// The next hop is there, and in the VPC.
fn check_next_hop(
    view: &EdgeView,
    vpc_id: &str,
    kind: NextHopKind,
    id: &str,
) -> Result<(), Refusal> {
    let vpc_of_it = match kind {
        NextHopKind::Instance => view
            .enis
            .iter()
            .find(|eni| eni.instance_id == id && eni.primary)
            .map(|eni| eni.vpc_id.as_str()),
        NextHopKind::NetworkInterface => {
            view.enis.iter().find(|eni| eni.eni_id == id).map(|eni| eni.vpc_id.as_str())
        }
        NextHopKind::NatGateway => {
            let found = view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?;
            Some(found.0.vpc.vpc_id.as_str())
        }
    };
    match vpc_of_it {
        Some(own) if own == vpc_id => Ok(()),
        Some(own) => Err(refuse(
            400,
            "OperationDenied.VpcMismatch",
            format!("next hop {id} is in VPC {own}, the route table in {vpc_id}"),
        )),
        None => Err(refuse(
            404,
            "InvalidNextHopId.NotFound",
            format!("next hop {id} does not exist; {} must", kind_name(kind)),
        )),
    }
}

impl Api {
    pub(super) async fn create_route_entry(
        &self,
        request: CreateRouteEntryRequest,
    ) -> Result<CreateRouteEntryResponse, Refusal> {
        let token = request::token("CreateRouteEntry", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in [
            ("route_table_id", &request.route_table_id),
            ("destination_cidr_block", &request.destination_cidr_block),
            ("next_hop_id", &request.next_hop_id),
        ] {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        let name = &request.route_entry_name;
        validation::display_name("InvalidRouteEntryName.Malformed", "route entry name", name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let net = destination(&request.destination_cidr_block)?;
        let kind = kind_of(&request.next_hop_type)?;
        let lookup = EdgeLookup::of([&request.route_table_id, &request.next_hop_id]);
        self.change_edge(token, lookup, move |view| {
            let id = &request.route_table_id;
            let (network, _) = view.route_table(id).ok_or_else(|| route_table_not_found(id))?;
            check_destination(net, network, id)?;
            check_next_hop(view, &network.vpc.vpc_id, kind, &request.next_hop_id)?;
            if request.dry_run {
                return Err(dry_run());
            }
            let entry = RouteEntryRecord {
                route_entry_id: ids::route_entry(),
                route_table_id: id.clone(),
                vpc_id: network.vpc.vpc_id.clone(),
                destination: net,
                next_hop_kind: kind,
                next_hop_id: request.next_hop_id.clone(),
                automatic: false,
                name: request.route_entry_name.clone(),
                description: request.description.clone(),
                created_ms: now_ms(),
                next_hop: None,
            };
            let answer = CreateRouteEntryResponse {
                request_id: String::new(),
                route_entry_id: entry.route_entry_id.clone(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::RouteEntry(entry)],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    pub(super) async fn modify_route_entry(
        &self,
        request: ModifyRouteEntryRequest,
    ) -> Result<ModifyRouteEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if let Some(name) = &request.route_entry_name {
            validation::display_name("InvalidRouteEntryName.Malformed", "route entry name", name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        let named = Named::new(
            &request.route_entry_id,
            &request.route_table_id,
            &request.destination_cidr_block,
        )?;
        let kind = kind_of(&request.new_next_hop_type)?;
        let lookup = EdgeLookup::of([
            &request.route_entry_id,
            &request.route_table_id,
            &request.new_next_hop_id,
        ]);
        self.change_edge(None, lookup, move |view| {
            let mut entry = named.find(view)?.clone();
            if let Some(name) = &request.route_entry_name {
                entry.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                entry.description.clone_from(description);
            }
            if !request.new_next_hop_id.is_empty() {
                check_next_hop(view, &entry.vpc_id, kind, &request.new_next_hop_id)?;
                entry.next_hop_kind = kind;
                entry.next_hop_id.clone_from(&request.new_next_hop_id);
                entry.automatic = false;
            }
            Ok(EdgePlan { put: vec![EdgeRecord::RouteEntry(entry)], ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn delete_route_entry(
        &self,
        request: DeleteRouteEntryRequest,
    ) -> Result<DeleteRouteEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let named = Named::new(
            &request.route_entry_id,
            &request.route_table_id,
            &request.destination_cidr_block,
        )?;
        let lookup = EdgeLookup::of([&request.route_entry_id, &request.route_table_id]);
        self.change_edge(None, lookup, move |view| {
            let entry = named.find(view)?;
            if !request.next_hop_id.is_empty() && request.next_hop_id != entry.next_hop_id {
                return Err(refuse(
                    404,
                    "InvalidNextHopId.NotFound",
                    format!(
                        "route entry {} leads to {}, not to {}",
                        entry.route_entry_id, entry.next_hop_id, request.next_hop_id
                    ),
                ));
            }
            let delete = vec![EdgeRecord::RouteEntry(entry.clone())];
            Ok(EdgePlan { delete, ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn describe_route_entry_list(
        &self,
        mut request: DescribeRouteEntryListRequest,
    ) -> Result<DescribeRouteEntryListResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let id = request.route_table_id.clone();
        if id.is_empty() {
            return Err(missing("route_table_id"));
        }
        let token = std::mem::take(&mut request.next_token);
        let most = match std::mem::take(&mut request.max_result) {
            0 => DEFAULT_RESULTS,
            given => given,
        };
        let page = paging::by_token(&token, most, 100, &request)?;
        let (start, limit) = match page {
            Page::After { position, limit } => (position.unwrap_or(0), limit),
            Page::Offset { limit, .. } => (0, limit),
        };
        let view = self.edge(EdgeLookup::of([&id])).await?;
        let (network, _) = view.route_table(&id).ok_or_else(|| route_table_not_found(&id))?;
        let wanted = |filter: &str, value: &str| filter.is_empty() || filter == value;
        let matching: Vec<RouteEntry> = of_table(network, &id)
            .into_iter()
            .filter(|entry| {
                let hop = entry.next_hops.first();
                wanted(&request.route_entry_id, &entry.route_entry_id)
                    && wanted(&request.destination_cidr_block, &entry.destination_cidr_block)
                    && wanted(&request.route_entry_name, &entry.route_entry_name)
                    && wanted(&request.route_entry_type, &entry.r#type)
                    && hop.is_some_and(|hop| {
                        wanted(&request.next_hop_id, &hop.next_hop_id)
                            && wanted(&request.next_hop_type, &hop.next_hop_type)
                    })
            })
            .collect();
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(limit as usize);
        let more = (end < matching.len()).then(|| i64::try_from(end).unwrap_or(i64::MAX));
        Ok(DescribeRouteEntryListResponse {
            request_id: String::new(),
            route_entrys: matching.into_iter().skip(start).take(limit as usize).collect(),
            next_token: paging::next_token(more, &request),
        })
    }
}

/// How a call names an entry.
enum Named {
    Id(String),
    Destination(String, Ipv4Net),
}

impl Named {
    fn new(id: &str, table_id: &str, text: &str) -> Result<Self, Refusal> {
        match (id, table_id, text) {
            ("", "", _) => Err(missing("route_entry_id")),
            ("", _, "") => Err(missing("destination_cidr_block")),
            ("", table_id, text) => Ok(Self::Destination(table_id.to_owned(), destination(text)?)),
            (id, ..) => Ok(Self::Id(id.to_owned())),
        }
    }

    fn find<'a>(&self, view: &'a EdgeView) -> Result<&'a RouteEntryRecord, Refusal> {
        let found = match self {
            Self::Id(id) => {
                view.find(|network| network.route_entries.iter().find(|e| e.route_entry_id == *id))
            }
            Self::Destination(table_id, net) => {
                view.route_table(table_id).ok_or_else(|| route_table_not_found(table_id))?;
                view.find(|network| {
                    network
                        .route_entries
                        .iter()
                        .find(|e| e.route_table_id == *table_id && e.destination == *net)
                })
            }
        };
        found.map(|(_, entry)| entry).ok_or_else(|| match self {
            Self::Id(id) => route_entry_not_found(id),
            Self::Destination(_, net) => route_entry_not_found(&format!("for {net}")),
        })
    }
}

/// Whether a range is the whole internet's.
pub(super) fn is_default(net: &Ipv4Net) -> bool {
    net.prefix_len() == 0 && overlap(net, &Ipv4Net::from(Ipv4Addr::UNSPECIFIED))
}
