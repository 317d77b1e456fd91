//! SNAT entries of NAT gateways, and what they have in common with DNAT entries.

use super::{Api, networks::parse_cidr, paging, request};
use crate::{
    ecs_error::{invalid, missing, nat_gateway_not_found, refuse, vswitch_not_found},
    ids,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use ipnet::Ipv4Net;
use prost::Message as _;
use std::{collections::BTreeSet, net::Ipv4Addr};
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EdgeView, ForwardEntryRecord, NatGatewayRecord, Page,
    Refusal, SnatEntryRecord, VpcNetwork,
};

const MOST_SNAT_ENTRIES: usize = 40;
/// Every protocol, or every port.
pub(super) const ANY: &str = "any";

/// The gateway a table belongs to.
pub(super) fn gateway_of<'a>(
    view: &'a EdgeView,
    table_id: &str,
    of: impl Fn(&NatGatewayRecord) -> &str,
    code: &'static str,
) -> Result<(&'a VpcNetwork, &'a NatGatewayRecord), Refusal> {
    view.find(|network| network.nat_gateways.iter().find(|gateway| of(gateway) == table_id))
        .ok_or_else(|| {
            let message = format!(
                "table {table_id} does not exist; DescribeNatGateways names those there are"
            );
            refuse(404, code, message)
        })
}

fn snat_gateway<'a>(
    view: &'a EdgeView,
    table_id: &str,
) -> Result<(&'a VpcNetwork, &'a NatGatewayRecord), Refusal> {
    gateway_of(view, table_id, |gateway| &gateway.snat_table_id, "InvalidSnatTableId.NotFound")
}

/// An EIP of the gateway.
pub(super) fn check_own(
    network: &VpcNetwork,
    gateway: &NatGatewayRecord,
    address: Ipv4Addr,
    code: &'static str,
) -> Result<(), Refusal> {
    let id = &gateway.nat_gateway_id;
    if network.eips_of(id).any(|eip| eip.address == address) {
        return Ok(());
    }
    Err(refuse(
        404,
        code,
        format!("{address} is no EIP of NAT gateway {id}; associate it with the gateway first"),
    ))
}

/// Whether an entry is for all of its public address.
pub(super) fn whole(entry: &ForwardEntryRecord) -> bool {
    entry.protocol == ANY
}

fn snat_ips(
    network: &VpcNetwork,
    gateway: &NatGatewayRecord,
    text: &str,
) -> Result<Vec<Ipv4Addr>, Refusal> {
    let mut addresses = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let address: Ipv4Addr = part.parse().map_err(|_| {
            refuse(400, "InvalidSnatIp.Malformed", format!("{part:?} is no IPv4 address"))
        })?;
        check_own(network, gateway, address, "InvalidSnatIp.NotFound")?;
        let mut entries = network.forward_entries.iter();
        if let Some(entry) = entries.find(|e| whole(e) && e.external_ip == address) {
            return Err(refuse(
                400,
                "Forbidden.SnatIp.UsedInForwardTable",
                format!(
                    "all of {address} leads to {} by DNAT entry {}; use another EIP",
                    entry.internal_ip, entry.forward_entry_id
                ),
            ));
        }
        addresses.insert(address);
    }
    if addresses.is_empty() {
        return Err(missing("snat_ip"));
    }
    Ok(addresses.into_iter().collect())
}

/// Part of a list.
pub(super) fn page_of<T>(items: Vec<T>, page: Page) -> (Vec<T>, u32) {
    let total = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let Page::Offset { offset, limit } = page else { return (items, total) };
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    (items.into_iter().skip(offset).take(limit as usize).collect(), total)
}

impl Api {
    pub(super) async fn create_snat_entry(
        &self,
        request: CreateSnatEntryRequest,
    ) -> Result<CreateSnatEntryResponse, Refusal> {
        let token = request::token("CreateSnatEntry", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if request.snat_table_id.is_empty() {
            return Err(missing("snat_table_id"));
        }
        validation::display_name("InvalidName.Malformed", "entry name", &request.snat_entry_name)?;
        let cidr = match (request.source_v_switch_id.as_str(), request.source_cidr.as_str()) {
            ("", "") => return Err(missing("source_v_switch_id")),
            (_, "") => None,
            ("", text) => Some(parse_cidr(text)?),
            _ => return Err(invalid("give source_v_switch_id or source_cidr, not both")),
        };
        let lookup = EdgeLookup::of([&request.snat_table_id, &request.source_v_switch_id]);
        self.change_edge(token, lookup, move |view| {
            let (network, gateway) = snat_gateway(view, &request.snat_table_id)?;
            let id = &request.source_v_switch_id;
            let source: Ipv4Net = match cidr {
                Some(cidr) => cidr,
                None => {
                    let own = network.vswitches.iter().find(|v| v.vswitch_id == *id);
                    own.ok_or_else(|| vswitch_not_found(id))?.cidr
                }
            };
            let own = || {
                let id = &gateway.nat_gateway_id;
                network.snat_entries.iter().filter(move |entry| entry.nat_gateway_id == *id)
            };
            if let Some(other) = own().find(|entry| entry.source == source) {
                return Err(refuse(
                    400,
                    "Forbidden.SourceVSwitchId.Duplicated",
                    format!("SNAT entry {} is for {source} already", other.snat_entry_id),
                ));
            }
            if own().count() >= MOST_SNAT_ENTRIES {
                return Err(refuse(
                    400,
                    "QuotaExceeded.SnatEntry",
                    format!(
                        "NAT gateway {} has {MOST_SNAT_ENTRIES} SNAT entries, the most",
                        gateway.nat_gateway_id
                    ),
                ));
            }
            let entry = SnatEntryRecord {
                snat_entry_id: ids::snat_entry(),
                nat_gateway_id: gateway.nat_gateway_id.clone(),
                name: request.snat_entry_name.clone(),
                vswitch_id: id.clone(),
                source,
                snat_ips: snat_ips(network, gateway, &request.snat_ip)?,
                created_ms: now_ms(),
            };
            let answer = CreateSnatEntryResponse {
                request_id: String::new(),
                snat_entry_id: entry.snat_entry_id.clone(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::SnatEntry(entry)],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    pub(super) async fn modify_snat_entry(
        &self,
        request: ModifySnatEntryRequest,
    ) -> Result<ModifySnatEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if let Some(name) = &request.snat_entry_name {
            validation::display_name("InvalidName.Malformed", "entry name", name)?;
        }
        let lookup = EdgeLookup::of([&request.snat_table_id]);
        self.change_edge(None, lookup, move |view| {
            let (network, gateway) = snat_gateway(view, &request.snat_table_id)?;
            let mut entry = snat_entry(network, gateway, &request.snat_entry_id)?.clone();
            if !request.snat_ip.is_empty() {
                entry.snat_ips = snat_ips(network, gateway, &request.snat_ip)?;
            }
            if let Some(name) = &request.snat_entry_name {
                entry.name.clone_from(name);
            }
            Ok(EdgePlan { put: vec![EdgeRecord::SnatEntry(entry)], ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn delete_snat_entry(
        &self,
        request: DeleteSnatEntryRequest,
    ) -> Result<DeleteSnatEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let lookup = EdgeLookup::of([&request.snat_table_id]);
        self.change_edge(None, lookup, move |view| {
            let (network, gateway) = snat_gateway(view, &request.snat_table_id)?;
            let entry = snat_entry(network, gateway, &request.snat_entry_id)?.clone();
            Ok(EdgePlan { delete: vec![EdgeRecord::SnatEntry(entry)], ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn describe_snat_table_entries(
        &self,
        request: DescribeSnatTableEntriesRequest,
    ) -> Result<DescribeSnatTableEntriesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let (table_id, gateway_id) = (&request.snat_table_id, &request.nat_gateway_id);
        let view = self.edge(EdgeLookup::of([table_id, gateway_id])).await?;
        let (network, gateway) = match (table_id.as_str(), gateway_id.as_str()) {
            ("", "") => return Err(missing("snat_table_id")),
            ("", id) => view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?,
            (table_id, _) => snat_gateway(&view, table_id)?,
        };
        let id = &request.snat_entry_id;
        let matching: Vec<SnatTableEntry> = network
            .snat_entries
            .iter()
            .filter(|entry| entry.nat_gateway_id == gateway.nat_gateway_id)
            .filter(|entry| id.is_empty() || entry.snat_entry_id == *id)
            .map(|entry| SnatTableEntry {
                snat_entry_id: entry.snat_entry_id.clone(),
                snat_entry_name: entry.name.clone(),
                snat_table_id: gateway.snat_table_id.clone(),
                nat_gateway_id: gateway.nat_gateway_id.clone(),
                source_v_switch_id: entry.vswitch_id.clone(),
                source_cidr: entry.source.to_string(),
                snat_ip: entry
                    .snat_ips
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
                status: "Available".to_owned(),
            })
            .collect();
        let (snat_table_entries, total_count) = page_of(matching, page);
        Ok(DescribeSnatTableEntriesResponse {
            request_id: String::new(),
            snat_table_entries,
            total_count,
            page_number,
            page_size,
        })
    }
}

fn snat_entry<'a>(
    network: &'a VpcNetwork,
    gateway: &NatGatewayRecord,
    id: &str,
) -> Result<&'a SnatEntryRecord, Refusal> {
    let mut entries = network.snat_entries.iter();
    entries
        .find(|e| e.snat_entry_id == id && e.nat_gateway_id == gateway.nat_gateway_id)
        .ok_or_else(|| entry_not_found("InvalidSnatEntryId.NotFound", "SNAT", id, gateway))
}

/// 404 of an entry.
pub(super) fn entry_not_found(
    code: &'static str,
    what: &str,
    id: &str,
    gateway: &NatGatewayRecord,
) -> Refusal {
    let message = format!("NAT gateway {} has no {what} entry {id:?}", gateway.nat_gateway_id);
    refuse(404, code, message)
}
