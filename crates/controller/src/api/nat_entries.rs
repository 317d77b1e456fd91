//! SNAT and DNAT entries of NAT gateways.

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
const MOST_FORWARD_ENTRIES: usize = 100;
const ANY: &str = "any";

/// The gateway a table belongs to.
fn gateway_of<'a>(
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

fn forward_gateway<'a>(
    view: &'a EdgeView,
    table_id: &str,
) -> Result<(&'a VpcNetwork, &'a NatGatewayRecord), Refusal> {
    let code = "InvalidForwardTableId.NotFound";
    gateway_of(view, table_id, |gateway| &gateway.forward_table_id, code)
}

/// An EIP of the gateway.
fn check_own(
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

fn whole(entry: &ForwardEntryRecord) -> bool {
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

/// `80`, `8000/8010` or `any`.
fn ports(code: &'static str, text: &str) -> Result<(u16, u16), Refusal> {
    if text.eq_ignore_ascii_case(ANY) {
        return Ok((0, 0));
    }
    let (from, to) = text.split_once('/').unwrap_or((text, text));
    let range = from.parse::<u16>().ok().zip(to.parse::<u16>().ok());
    range.filter(|(from, to)| (1..=*to).contains(from)).ok_or_else(|| {
        let hint = "it must be a port such as 80, a range such as 8000/8010, or any";
        refuse(400, code, format!("port {text:?} is malformed; {hint}"))
    })
}

fn port_text((from, to): (u16, u16)) -> String {
    match (from, to) {
        (0, 0) => ANY.to_owned(),
        (from, to) if from == to => from.to_string(),
        (from, to) => format!("{from}/{to}"),
    }
}

fn ip(code: &'static str, text: &str) -> Result<Ipv4Addr, Refusal> {
    text.parse().map_err(|_| refuse(400, code, format!("{text:?} is no IPv4 address")))
}

/// What a DNAT entry says, as a call gives it.
struct Forward<'a> {
    external_ip: &'a str,
    external_port: &'a str,
    internal_ip: &'a str,
    internal_port: &'a str,
    protocol: &'a str,
}

impl Forward<'_> {
    /// The entry with what is given in place of what it has, checked against its gateway and its
    /// VPC.
    fn apply(
        &self,
        mut entry: ForwardEntryRecord,
        network: &VpcNetwork,
        gateway: &NatGatewayRecord,
    ) -> Result<ForwardEntryRecord, Refusal> {
        if !self.external_ip.is_empty() {
            entry.external_ip = ip("InvalidExternalIp.Malformed", self.external_ip)?;
        }
        if !self.internal_ip.is_empty() {
            entry.internal_ip = ip("InvalidInternalIp.Malformed", self.internal_ip)?;
        }
        if !self.external_port.is_empty() {
            entry.external_ports = ports("InvalidExternalPort.Malformed", self.external_port)?;
        }
        if !self.internal_port.is_empty() {
            entry.internal_ports = ports("InvalidInternalPort.Malformed", self.internal_port)?;
        }
        if !self.protocol.is_empty() {
            entry.protocol = self.protocol.to_ascii_lowercase();
        }
        if !["tcp", "udp", ANY].contains(&entry.protocol.as_str()) {
            return Err(refuse(
                400,
                "InvalidProtocal.ValueNotSupported",
                format!("ip_protocol is {:?}; it must be tcp, udp or any", entry.protocol),
            ));
        }
        let any_ports = entry.external_ports == (0, 0) && entry.internal_ports == (0, 0);
        let some_ports = entry.external_ports != (0, 0) && entry.internal_ports != (0, 0);
        if (whole(&entry) && !any_ports) || (!whole(&entry) && !some_ports) {
            return Err(invalid(
                "protocol and ports are any together, or none of them is; tcp and udp need ports",
            ));
        }
        let length = |(from, to): (u16, u16)| to - from;
        if length(entry.external_ports) != length(entry.internal_ports) {
            return Err(invalid(format!(
                "external ports {} and internal ports {} are not equally many",
                port_text(entry.external_ports),
                port_text(entry.internal_ports)
            )));
        }
        check_own(network, gateway, entry.external_ip, "InvalidExternalIp.NotExists")?;
        if !network.cidrs().any(|cidr| cidr.contains(&entry.internal_ip)) {
            return Err(refuse(
                400,
                "Forbidden.DestnationIpOutOfVpcCIDR",
                format!("{} is in no CIDR block of VPC {}", entry.internal_ip, network.vpc.vpc_id),
            ));
        }
        check_alone(&entry, network)?;
        Ok(entry)
    }
}

/// Nothing else uses what the entry uses of its public address.
fn check_alone(entry: &ForwardEntryRecord, network: &VpcNetwork) -> Result<(), Refusal> {
    let meets = |a: (u16, u16), b: (u16, u16)| a.0 <= b.1 && b.0 <= a.1;
    let others = network
        .forward_entries
        .iter()
        .filter(|other| other.forward_entry_id != entry.forward_entry_id);
    for other in others.filter(|other| other.external_ip == entry.external_ip) {
        let same_ports =
            other.protocol == entry.protocol && meets(other.external_ports, entry.external_ports);
        if whole(other) || whole(entry) || same_ports {
            return Err(refuse(
                400,
                "OperationUnsupported.ForwardEntry",
                format!(
                    "DNAT entry {} has {} port {} of {}",
                    other.forward_entry_id,
                    other.protocol,
                    port_text(other.external_ports),
                    other.external_ip
                ),
            ));
        }
    }
    let snat = network.snat_entries.iter().find(|e| e.snat_ips.contains(&entry.external_ip));
    match snat {
        Some(snat) if whole(entry) => Err(refuse(
            400,
            "Forbidden.ExternalIp.UsedInSnatTable",
            format!(
                "SNAT entry {} uses {}; a DNAT entry of all of it needs an EIP of its own",
                snat.snat_entry_id, entry.external_ip
            ),
        )),
        _ => Ok(()),
    }
}

fn page_of<T>(items: Vec<T>, page: Page) -> (Vec<T>, u32) {
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

    pub(super) async fn create_forward_entry(
        &self,
        request: CreateForwardEntryRequest,
    ) -> Result<CreateForwardEntryResponse, Refusal> {
        let token = request::token("CreateForwardEntry", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in [
            ("forward_table_id", &request.forward_table_id),
            ("external_ip", &request.external_ip),
            ("external_port", &request.external_port),
            ("internal_ip", &request.internal_ip),
            ("internal_port", &request.internal_port),
            ("ip_protocol", &request.ip_protocol),
        ] {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        let name = &request.forward_entry_name;
        validation::display_name("InvalidName.Malformed", "entry name", name)?;
        let lookup = EdgeLookup::of([&request.forward_table_id]);
        self.change_edge(token, lookup, move |view| {
            let (network, gateway) = forward_gateway(view, &request.forward_table_id)?;
            let id = &gateway.nat_gateway_id;
            let count = network.forward_entries.iter().filter(|e| e.nat_gateway_id == *id).count();
            if count >= MOST_FORWARD_ENTRIES {
                return Err(refuse(
                    400,
                    "QuotaExceeded.ForwardEntry",
                    format!("NAT gateway {id} has {MOST_FORWARD_ENTRIES} DNAT entries, the most"),
                ));
            }
            let new = ForwardEntryRecord {
                forward_entry_id: ids::forward_entry(),
                nat_gateway_id: id.clone(),
                name: request.forward_entry_name.clone(),
                external_ip: Ipv4Addr::UNSPECIFIED,
                external_ports: (0, 0),
                internal_ip: Ipv4Addr::UNSPECIFIED,
                internal_ports: (0, 0),
                protocol: String::new(),
                created_ms: now_ms(),
            };
            let given = Forward {
                external_ip: &request.external_ip,
                external_port: &request.external_port,
                internal_ip: &request.internal_ip,
                internal_port: &request.internal_port,
                protocol: &request.ip_protocol,
            };
            let entry = given.apply(new, network, gateway)?;
            let answer = CreateForwardEntryResponse {
                request_id: String::new(),
                forward_entry_id: entry.forward_entry_id.clone(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::ForwardEntry(entry)],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    pub(super) async fn modify_forward_entry(
        &self,
        request: ModifyForwardEntryRequest,
    ) -> Result<ModifyForwardEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if let Some(name) = &request.forward_entry_name {
            validation::display_name("InvalidName.Malformed", "entry name", name)?;
        }
        let lookup = EdgeLookup::of([&request.forward_table_id]);
        self.change_edge(None, lookup, move |view| {
            let (network, gateway) = forward_gateway(view, &request.forward_table_id)?;
            let old = forward_entry(network, gateway, &request.forward_entry_id)?;
            let given = Forward {
                external_ip: &request.external_ip,
                external_port: &request.external_port,
                internal_ip: &request.internal_ip,
                internal_port: &request.internal_port,
                protocol: &request.ip_protocol,
            };
            let mut entry = given.apply(old.clone(), network, gateway)?;
            if let Some(name) = &request.forward_entry_name {
                entry.name.clone_from(name);
            }
            Ok(EdgePlan { put: vec![EdgeRecord::ForwardEntry(entry)], ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn delete_forward_entry(
        &self,
        request: DeleteForwardEntryRequest,
    ) -> Result<DeleteForwardEntryResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let lookup = EdgeLookup::of([&request.forward_table_id]);
        self.change_edge(None, lookup, move |view| {
            let (network, gateway) = forward_gateway(view, &request.forward_table_id)?;
            let entry = forward_entry(network, gateway, &request.forward_entry_id)?.clone();
            Ok(EdgePlan { delete: vec![EdgeRecord::ForwardEntry(entry)], ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn describe_forward_table_entries(
        &self,
        request: DescribeForwardTableEntriesRequest,
    ) -> Result<DescribeForwardTableEntriesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let (table_id, gateway_id) = (&request.forward_table_id, &request.nat_gateway_id);
        let view = self.edge(EdgeLookup::of([table_id, gateway_id])).await?;
        let (network, gateway) = match (table_id.as_str(), gateway_id.as_str()) {
            ("", "") => return Err(missing("forward_table_id")),
            ("", id) => view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?,
            (table_id, _) => forward_gateway(&view, table_id)?,
        };
        let id = &request.forward_entry_id;
        let matching: Vec<ForwardTableEntry> = network
            .forward_entries
            .iter()
            .filter(|entry| entry.nat_gateway_id == gateway.nat_gateway_id)
            .filter(|entry| id.is_empty() || entry.forward_entry_id == *id)
            .map(|entry| ForwardTableEntry {
                forward_entry_id: entry.forward_entry_id.clone(),
                forward_entry_name: entry.name.clone(),
                forward_table_id: gateway.forward_table_id.clone(),
                nat_gateway_id: gateway.nat_gateway_id.clone(),
                external_ip: entry.external_ip.to_string(),
                external_port: port_text(entry.external_ports),
                internal_ip: entry.internal_ip.to_string(),
                internal_port: port_text(entry.internal_ports),
                ip_protocol: entry.protocol.clone(),
                status: "Available".to_owned(),
            })
            .collect();
        let (forward_table_entries, total_count) = page_of(matching, page);
        Ok(DescribeForwardTableEntriesResponse {
            request_id: String::new(),
            forward_table_entries,
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

fn forward_entry<'a>(
    network: &'a VpcNetwork,
    gateway: &NatGatewayRecord,
    id: &str,
) -> Result<&'a ForwardEntryRecord, Refusal> {
    let mut entries = network.forward_entries.iter();
    entries
        .find(|e| e.forward_entry_id == id && e.nat_gateway_id == gateway.nat_gateway_id)
        .ok_or_else(|| entry_not_found("InvalidForwardEntryId.NotFound", "DNAT", id, gateway))
}

fn entry_not_found(
    code: &'static str,
    what: &str,
    id: &str,
    gateway: &NatGatewayRecord,
) -> Refusal {
    let message = format!("NAT gateway {} has no {what} entry {id:?}", gateway.nat_gateway_id);
    refuse(404, code, message)
}
