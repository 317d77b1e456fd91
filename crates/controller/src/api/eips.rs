//! Elastic IP addresses.

use super::{Api, paging, request, service};
use crate::{
    ecs_error::{
        eip_not_found, eni_not_found, from_store, instance_not_found, invalid, missing,
        nat_gateway_not_found, refuse,
    },
    ids,
    public_addresses::{self, AVAILABLE},
    timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{eip_service_server::EipService, *};
use prost::Message as _;
use std::net::Ipv4Addr;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EdgeView, EipFilter, EipRecord, EipTarget, EniRecord,
    Refusal, SnatEntryRecord,
};

const DEFAULT_BANDWIDTH: u32 = 5;
const MOST_ON_GATEWAY: usize = 20;
const STATUSES: [&str; 4] = ["Available", "Associating", "InUse", "Unassociating"];

service!(EipService => Api {
    allocate_eip_address: AllocateEipAddressRequest => AllocateEipAddressResponse;
    release_eip_address: ReleaseEipAddressRequest => ReleaseEipAddressResponse;
    associate_eip_address: AssociateEipAddressRequest => AssociateEipAddressResponse;
    unassociate_eip_address: UnassociateEipAddressRequest => UnassociateEipAddressResponse;
    modify_eip_address_attribute:
        ModifyEipAddressAttributeRequest => ModifyEipAddressAttributeResponse;
    describe_eip_addresses: DescribeEipAddressesRequest => DescribeEipAddressesResponse;
});

fn bandwidth(text: &str, charge_type: &str) -> Result<u32, Refusal> {
    let most = if charge_type == "PayByTraffic" { 200 } else { 500 };
    if text.is_empty() {
        return Ok(DEFAULT_BANDWIDTH);
    }
    text.parse().ok().filter(|mbps| (1..=most).contains(mbps)).ok_or_else(|| {
        refuse(
            400,
            "InvalidBandwidth.ValueNotSupported",
            format!("bandwidth is {text:?}; with {charge_type} it must be 1 to {most} Mbit/s"),
        )
    })
}

fn parse_address(parameter: &str, text: &str) -> Result<Option<Ipv4Addr>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| invalid(format!("{parameter} {text:?} is no IPv4 address")))
}

fn target_type(target: &EipTarget) -> &'static str {
    match target {
        EipTarget::NatGateway(_) => "Nat",
        EipTarget::Interface { instance_id, .. } if instance_id.is_empty() => "NetworkInterface",
        EipTarget::Interface { .. } => "EcsInstance",
    }
}

/// The EIP of an id. A static public address has none.
fn found<'a>(view: &'a EdgeView, id: &str) -> Result<&'a EipRecord, Refusal> {
    view.eips
        .iter()
        .find(|eip| eip.allocation_id == id && !eip.fixed)
        .ok_or_else(|| eip_not_found(id))
}

fn incorrect_status(eip: &EipRecord, hint: &str) -> Refusal {
    refuse(
        400,
        "IncorrectEipStatus",
        format!("EIP {} ({}) is {}; {hint}", eip.allocation_id, eip.address, eip.status),
    )
}

/// An address of an interface, checked to be free for an EIP.
fn interface_target(
    view: &EdgeView,
    eni: &EniRecord,
    private_ip: Option<Ipv4Addr>,
    instance_id: &str,
) -> Result<(EipTarget, String), Refusal> {
    let private_ip = private_ip.unwrap_or(eni.private_ip);
    if !eni.addresses().any(|own| own == private_ip) {
        return Err(refuse(
            400,
            "InvalidPrivateIpAddress.NotFound",
            format!("{private_ip} is no address of network interface {}", eni.eni_id),
        ));
    }
    let other = view.vpc(&eni.vpc_id).into_iter().flat_map(|network| &network.eips).find(|eip| {
        matches!(&eip.target, Some(EipTarget::Interface { eni_id, private_ip: used, .. })
            if *eni_id == eni.eni_id && *used == private_ip)
    });
    if let Some(other) = other {
        return Err(refuse(
            400,
            "BIND_INSTANCE_HAVE_PORTMAP_OR_BIND_EIP",
            format!(
                "{private_ip} of network interface {} has public address {}; unassociate that first",
                eni.eni_id, other.address
            ),
        ));
    }
    let target = EipTarget::Interface {
        eni_id: eni.eni_id.clone(),
        private_ip,
        instance_id: instance_id.to_owned(),
    };
    Ok((target, eni.vpc_id.clone()))
}

/// What an EIP is to be associated with, and the VPC that is in.
fn target(
    view: &EdgeView,
    kind: &str,
    id: &str,
    private_ip: Option<Ipv4Addr>,
) -> Result<(EipTarget, String), Refusal> {
    match kind {
        "" | "EcsInstance" => {
            let instance = view
                .instances
                .iter()
                .find(|instance| instance.instance_id == id)
                .ok_or_else(|| instance_not_found(id))?;
            if instance.releasing {
                return Err(refuse(
                    400,
                    "IncorrectInstanceStatus",
                    format!("instance {id} is being released"),
                ));
            }
            let eni = view
                .enis
                .iter()
                .find(|eni| eni.instance_id == id && eni.primary)
                .ok_or_else(|| instance_not_found(id))?;
            interface_target(view, eni, private_ip, id)
        }
        "NetworkInterface" => {
            let eni =
                view.enis.iter().find(|eni| eni.eni_id == id).ok_or_else(|| eni_not_found(id))?;
            interface_target(view, eni, private_ip, "")
        }
        "Nat" => {
            let (network, _) = view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?;
            if network.eips_of(id).count() >= MOST_ON_GATEWAY {
                return Err(refuse(
                    400,
                    "QuotaExceeded.EipOnNatGateway",
                    format!("NAT gateway {id} has {MOST_ON_GATEWAY} EIPs, the most"),
                ));
            }
            Ok((EipTarget::NatGateway(id.to_owned()), network.vpc.vpc_id.clone()))
        }
        other => Err(refuse(
            400,
            "InvalidInstanceType.ValueNotSupported",
            format!("instance_type is {other:?}; it must be EcsInstance, NetworkInterface or Nat"),
        )),
    }
}

/// Entries of NAT gateways that use an address: what is to go, and what stays with one fewer.
fn users_of(view: &EdgeView, eip: &EipRecord) -> (Vec<EdgeRecord>, Vec<EdgeRecord>) {
    let Some(EipTarget::NatGateway(gateway_id)) = &eip.target else { return Default::default() };
    let Some((network, _)) = view.nat_gateway(gateway_id) else { return Default::default() };
    let (mut gone, mut changed) = (Vec::new(), Vec::new());
    for entry in network.forward_entries.iter().filter(|e| e.external_ip == eip.address) {
        gone.push(EdgeRecord::ForwardEntry(entry.clone()));
    }
    for entry in network.snat_entries.iter().filter(|e| e.nat_gateway_id == *gateway_id) {
        if entry.snat_ips == [eip.address] {
            gone.push(EdgeRecord::SnatEntry(entry.clone()));
        } else if entry.snat_ips.contains(&eip.address) {
            let snat_ips =
                entry.snat_ips.iter().copied().filter(|address| *address != eip.address).collect();
            changed.push(EdgeRecord::SnatEntry(SnatEntryRecord { snat_ips, ..entry.clone() }));
        }
    }
    (gone, changed)
}

impl Api {
    async fn allocate_eip_address(
        &self,
        request: AllocateEipAddressRequest,
    ) -> Result<AllocateEipAddressResponse, Refusal> {
        let token = request::token("AllocateEipAddress", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let charge_type = match request.internet_charge_type.as_str() {
            "" => "PayByBandwidth",
            known @ ("PayByBandwidth" | "PayByTraffic") => known,
            other => {
                return Err(refuse(
                    400,
                    "InvalidInternetChargeType.ValueNotSupported",
                    format!(
                        "internet_charge_type is {other:?}; it must be PayByBandwidth or \
                         PayByTraffic"
                    ),
                ));
            }
        }
        .to_owned();
        let bandwidth_mbps = bandwidth(&request.bandwidth, &charge_type)?;
        validation::display_name("InvalidName.Malformed", "EIP name", &request.name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let tags = validation::tags(&request.tag)?;
        let wanted = parse_address("ip_address", &request.ip_address)?;
        let ranges = self.cloud.options.eip_ranges.clone();
        let lookup = EdgeLookup { public_addresses: true, ..EdgeLookup::default() };
        self.change_edge(token, lookup, move |view| {
            let address = match wanted {
                Some(address) => {
                    public_addresses::check(&ranges, &view.public_addresses, address)?;
                    address
                }
                None => public_addresses::choose(&ranges, &view.public_addresses, 1)?[0],
            };
            let eip = EipRecord {
                allocation_id: ids::eip(),
                address,
                name: request.name.clone(),
                description: request.description.clone(),
                bandwidth_mbps,
                charge_type: charge_type.clone(),
                fixed: false,
                target: None,
                vpc_id: String::new(),
                tags: tags.clone(),
                created_ms: now_ms(),
                status: String::new(),
            };
            let answer = AllocateEipAddressResponse {
                request_id: String::new(),
                allocation_id: eip.allocation_id.clone(),
                eip_address: eip.address.to_string(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::Eip(eip)],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    async fn release_eip_address(
        &self,
        request: ReleaseEipAddressRequest,
    ) -> Result<ReleaseEipAddressResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let id = request.allocation_id;
        if id.is_empty() {
            return Err(missing("allocation_id"));
        }
        self.change_edge(None, EdgeLookup::of([&id]), move |view| {
            let eip = found(view, &id)?;
            if eip.status != AVAILABLE {
                return Err(incorrect_status(eip, "unassociate it first"));
            }
            Ok(EdgePlan { delete: vec![EdgeRecord::Eip(eip.clone())], ..EdgePlan::default() })
        })
        .await
    }

    async fn associate_eip_address(
        &self,
        request: AssociateEipAddressRequest,
    ) -> Result<AssociateEipAddressResponse, Refusal> {
        let token = request::token("AssociateEipAddress", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in
            [("allocation_id", &request.allocation_id), ("instance_id", &request.instance_id)]
        {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        let private_ip = parse_address("private_ip_address", &request.private_ip_address)?;
        let lookup = EdgeLookup::of([&request.allocation_id, &request.instance_id]);
        self.change_edge(token, lookup, move |view| {
            let eip = found(view, &request.allocation_id)?;
            if eip.status != AVAILABLE {
                return Err(incorrect_status(eip, "only an Available one can be associated"));
            }
            let (kind, id) = (&request.instance_type, &request.instance_id);
            let (target, vpc_id) = target(view, kind, id, private_ip)?;
            let eip = EipRecord { target: Some(target), vpc_id, ..eip.clone() };
            Ok(EdgePlan { put: vec![EdgeRecord::Eip(eip)], ..EdgePlan::default() })
        })
        .await
    }

    async fn unassociate_eip_address(
        &self,
        request: UnassociateEipAddressRequest,
    ) -> Result<UnassociateEipAddressResponse, Refusal> {
        let token = request::token("UnassociateEipAddress", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if request.allocation_id.is_empty() {
            return Err(missing("allocation_id"));
        }
        let lookup = EdgeLookup::of([&request.allocation_id]);
        self.change_edge(token, lookup, move |view| {
            let eip = found(view, &request.allocation_id)?;
            let Some(target) = &eip.target else {
                return Err(incorrect_status(eip, "it is associated with nothing"));
            };
            let other = |given: &str, own: &str| !given.is_empty() && given != own;
            if other(&request.instance_id, target.resource_id())
                || other(&request.instance_type, target_type(target))
            {
                return Err(refuse(
                    404,
                    "InvalidAssociation.NotFound",
                    format!(
                        "EIP {} is associated with {} {}",
                        eip.allocation_id,
                        target_type(target),
                        target.resource_id()
                    ),
                ));
            }
            let (gone, changed) = users_of(view, eip);
            if !request.force && !(gone.is_empty() && changed.is_empty()) {
                return Err(refuse(
                    400,
                    "DependencyViolation",
                    format!(
                        "{} entries of NAT gateway {} use EIP {}; delete them first, or set force",
                        gone.len() + changed.len(),
                        target.resource_id(),
                        eip.allocation_id
                    ),
                ));
            }
            let mut put = changed;
            let free = EipRecord { target: None, vpc_id: String::new(), ..eip.clone() };
            put.push(EdgeRecord::Eip(free));
            Ok(EdgePlan { delete: gone, put, ..EdgePlan::default() })
        })
        .await
    }

    async fn modify_eip_address_attribute(
        &self,
        request: ModifyEipAddressAttributeRequest,
    ) -> Result<ModifyEipAddressAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.allocation_id.is_empty() {
            return Err(missing("allocation_id"));
        }
        if let Some(name) = &request.name {
            validation::display_name("InvalidName.Malformed", "EIP name", name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        let lookup = EdgeLookup::of([&request.allocation_id]);
        self.change_edge(None, lookup, move |view| {
            let mut eip = found(view, &request.allocation_id)?.clone();
            if !request.bandwidth.is_empty() {
                eip.bandwidth_mbps = bandwidth(&request.bandwidth, &eip.charge_type)?;
            }
            if let Some(name) = &request.name {
                eip.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                eip.description.clone_from(description);
            }
            Ok(EdgePlan { put: vec![EdgeRecord::Eip(eip)], ..EdgePlan::default() })
        })
        .await
    }

    async fn describe_eip_addresses(
        &self,
        request: DescribeEipAddressesRequest,
    ) -> Result<DescribeEipAddressesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 100)?;
        if !request.status.is_empty() && !STATUSES.contains(&request.status.as_str()) {
            return Err(invalid(format!(
                "status is {:?}; it must be one of {}",
                request.status,
                STATUSES.join(", ")
            )));
        }
        let parts = |text: &str| -> Vec<String> {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let allocation_ids = parts(&request.allocation_id);
        let addresses = parts(&request.eip_address)
            .iter()
            .filter_map(|text| parse_address("eip_address", text).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        request::at_most_100("allocation_id", allocation_ids.len())?;
        request::at_most_100("eip_address", addresses.len())?;
        let filter = EipFilter {
            allocation_ids,
            addresses,
            name: request.eip_name,
            status: request.status,
            target_id: request.associated_instance_id,
            target_type: request.associated_instance_type,
            tags: request.tag.into_iter().map(|tag| (tag.key, tag.value)).collect(),
            fixed_too: false,
        };
        let listed = self.cloud.store.eips(filter, page).await.map_err(from_store)?;
        Ok(DescribeEipAddressesResponse {
            request_id: String::new(),
            eip_addresses: listed.items.into_iter().map(|eip| self.describe_eip(eip)).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    fn describe_eip(&self, eip: EipRecord) -> EipAddress {
        let target = eip.target.as_ref();
        EipAddress {
            instance_id: target.map(|t| t.resource_id().to_owned()).unwrap_or_default(),
            instance_type: target.map(|t| target_type(t).to_owned()).unwrap_or_default(),
            private_ip_address: match target {
                Some(EipTarget::Interface { private_ip, .. }) => private_ip.to_string(),
                _ => String::new(),
            },
            allocation_id: eip.allocation_id,
            ip_address: eip.address.to_string(),
            name: eip.name,
            description: eip.description,
            region_id: self.cloud.options.region_id.clone(),
            status: eip.status,
            bandwidth: eip.bandwidth_mbps.to_string(),
            internet_charge_type: eip.charge_type,
            charge_type: "PostPaid".to_owned(),
            vpc_id: eip.vpc_id,
            mode: "NAT".to_owned(),
            allocation_time: timestamp::second(eip.created_ms),
            tags: eip.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
        }
    }
}
