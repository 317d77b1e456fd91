//! Static public addresses: of an instance, and gone with it unless they are made EIPs.

use super::{Api, request};
use crate::{
    ecs_error::{instance_not_found, missing, refuse},
    ids,
    instance_state::{RUNNING, STOPPED},
    public_addresses,
    timestamp::now_ms,
};
use api::v1::*;
use ipnet::Ipv4Net;
use prost::Message as _;
use std::net::Ipv4Addr;
use store::{
    CreateView, EdgeLookup, EdgePlan, EdgeRecord, EdgeView, EipRecord, EipTarget, EniRecord,
    InstanceDetails, InstanceRecord, NewInstance, Refusal,
};

/// Mbit/s.
const MOST_BANDWIDTH: u32 = 100;

/// Checks what an order says about public addresses.
pub(super) fn check(request: &RunInstancesRequest) -> Result<(), Refusal> {
    check_values(request.internet_max_bandwidth_out, &request.internet_charge_type)
}

fn check_values(bandwidth: u32, charge_type: &str) -> Result<(), Refusal> {
    if bandwidth > MOST_BANDWIDTH {
        return Err(refuse(
            400,
            "InvalidInternetMaxBandwidthOut.Malformed",
            format!(
                "internet_max_bandwidth_out is {bandwidth}; it must be 0 to {MOST_BANDWIDTH} Mbit/s"
            ),
        ));
    }
    if !["", "PayByTraffic", "PayByBandwidth"].contains(&charge_type) {
        return Err(refuse(
            400,
            "InvalidInternetChargeType.ValueNotSupported",
            format!(
                "the internet charge type is {charge_type:?}; it must be PayByTraffic or \
                 PayByBandwidth"
            ),
        ));
    }
    Ok(())
}

/// How the public address of a new instance is paid for.
pub(super) fn charge_type(request: &RunInstancesRequest) -> String {
    match request.internet_charge_type.as_str() {
        "" => "PayByTraffic",
        given => given,
    }
    .to_owned()
}

/// The static public address of an instance at its primary interface; the store fills in which
/// private address it stands for if that is not known yet.
fn fixed(instance: &InstanceRecord, eni: &EniRecord, address: Ipv4Addr) -> EipRecord {
    EipRecord {
        allocation_id: ids::eip(),
        address,
        name: String::new(),
        description: String::new(),
        bandwidth_mbps: instance.internet_max_bandwidth_out,
        charge_type: instance.internet_charge_type.clone(),
        fixed: true,
        target: Some(EipTarget::Interface {
            eni_id: eni.eni_id.clone(),
            private_ip: eni.private_ip,
            instance_id: instance.instance_id.clone(),
        }),
        vpc_id: eni.vpc_id.clone(),
        tags: Vec::new(),
        created_ms: now_ms(),
        status: String::new(),
    }
}

/// One address for the primary interface of each instance, if the order wants them.
pub(super) fn allocate(
    request: &RunInstancesRequest,
    view: &CreateView,
    ranges: &[Ipv4Net],
    instances: &[NewInstance],
) -> Result<Vec<EipRecord>, Refusal> {
    if request.internet_max_bandwidth_out == 0 {
        return Ok(Vec::new());
    }
    let addresses = public_addresses::choose(ranges, &view.public_addresses, instances.len())?;
    let primaries = instances.iter().filter_map(|new| {
        let eni = new.enis.iter().map(|new| &new.eni).find(|eni| eni.primary)?;
        Some((&new.instance, eni))
    });
    let placed = primaries.zip(addresses);
    Ok(placed.map(|((instance, eni), address)| fixed(instance, eni, address)).collect())
}

/// What an answer about an instance says: static addresses, the EIP, and the bandwidth of either.
pub(super) fn describe(details: &InstanceDetails) -> (Vec<String>, Option<InstanceEip>, u32) {
    let fixed: Vec<&EipRecord> = details.eips.iter().filter(|eip| eip.fixed).collect();
    let primary = details.enis.iter().find(|eni| eni.primary);
    let eip = details.eips.iter().filter(|eip| !eip.fixed).find(|eip| {
        matches!((&eip.target, primary), (Some(EipTarget::Interface { eni_id, private_ip, .. }), Some(eni))
            if *eni_id == eni.eni_id && *private_ip == eni.private_ip)
    });
    let may_have = details.instance.internet_max_bandwidth_out;
    let bandwidth = fixed.first().copied().or(eip).map_or(may_have, |eip| eip.bandwidth_mbps);
    let eip = eip.map(|eip| InstanceEip {
        allocation_id: eip.allocation_id.clone(),
        ip_address: eip.address.to_string(),
        bandwidth: eip.bandwidth_mbps,
        internet_charge_type: eip.charge_type.clone(),
    });
    (fixed.iter().map(|eip| eip.address.to_string()).collect(), eip, bandwidth)
}

/// An instance as changes of its public address see it.
struct Site<'a> {
    instance: &'a InstanceRecord,
    primary: &'a EniRecord,
    /// The public address of its primary private one, static or an EIP.
    public: Option<&'a EipRecord>,
}

impl<'a> Site<'a> {
    /// # Errors
    /// `InvalidInstanceId.NotFound`, `IncorrectInstanceStatus` unless it is Running or Stopped.
    fn find(view: &'a EdgeView, instance_id: &str, action: &str) -> Result<Self, Refusal> {
        let instances = &mut view.instances.iter();
        let instance = instances
            .find(|instance| instance.instance_id == instance_id)
            .ok_or_else(|| instance_not_found(instance_id))?;
        let primary = view
            .enis
            .iter()
            .find(|eni| eni.instance_id == instance_id && eni.primary)
            .ok_or_else(|| instance_not_found(instance_id))?;
        if instance.releasing || ![RUNNING, STOPPED].contains(&instance.status.as_str()) {
            let state =
                if instance.releasing { "being released" } else { instance.status.as_str() };
            return Err(refuse(
                403,
                "IncorrectInstanceStatus",
                format!("instance {instance_id} is {state}; {action} needs Running or Stopped"),
            ));
        }
        let mut eips = view.vpc(&primary.vpc_id).into_iter().flat_map(|network| &network.eips);
        let public = eips.find(|eip| {
            matches!(&eip.target, Some(EipTarget::Interface { eni_id, private_ip, .. })
                if *eni_id == primary.eni_id && *private_ip == primary.private_ip)
        });
        Ok(Self { instance, primary, public })
    }

    /// Its static public address: the one it has, or a new one. `instance` is as it is to be.
    fn allocated(
        &self,
        instance: &InstanceRecord,
        wanted: Option<Ipv4Addr>,
        view: &EdgeView,
        ranges: &[Ipv4Net],
    ) -> Result<EipRecord, Refusal> {
        let id = &instance.instance_id;
        match self.public {
            Some(eip) if eip.fixed && wanted.is_none_or(|wanted| wanted == eip.address) => {
                return Ok(eip.clone());
            }
            Some(eip) if eip.fixed => {
                return Err(refuse(
                    403,
                    "AllocatedAlready",
                    format!("instance {id} has the static public address {} already", eip.address),
                ));
            }
            Some(eip) => {
                return Err(refuse(
                    400,
                    "OperationDenied",
                    format!(
                        "instance {id} has EIP {} ({}); unassociate it first",
                        eip.allocation_id, eip.address
                    ),
                ));
            }
            None => {}
        }
        if instance.internet_max_bandwidth_out == 0 {
            return Err(refuse(
                400,
                "AllocateIpInvalidInstanceBandwidth",
                format!(
                    "the public bandwidth of instance {id} is 0 Mbit/s; ModifyInstanceNetworkSpec \
                     with internet_max_bandwidth_out first"
                ),
            ));
        }
        let address = match wanted {
            Some(address) => check_wanted(ranges, view, address)?,
            None => public_addresses::choose(ranges, &view.public_addresses, 1)?[0],
        };
        Ok(fixed(instance, self.primary, address))
    }
}

fn check_wanted(
    ranges: &[Ipv4Net],
    view: &EdgeView,
    address: Ipv4Addr,
) -> Result<Ipv4Addr, Refusal> {
    if view.public_addresses.contains(&address) {
        let message = format!("public address {address} is in use; choose another");
        return Err(refuse(403, "IpInUse", message));
    }
    public_addresses::check(ranges, &view.public_addresses, address).map_err(|refusal| {
        match refusal.code.as_ref() {
            "InvalidParameter" => {
                Refusal { status: 404, code: "InvalidIpAddress.NotFound".into(), ..refusal }
            }
            _ => refusal,
        }
    })?;
    Ok(address)
}

impl Api {
    pub(super) async fn allocate_public_ip_address(
        &self,
        request: AllocatePublicIpAddressRequest,
    ) -> Result<AllocatePublicIpAddressResponse, Refusal> {
        if request.instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        let wanted = match request.ip_address.as_str() {
            "" => None,
            text => Some(text.parse::<Ipv4Addr>().map_err(|_| {
                let message = format!("ip_address {text:?} is no IPv4 address");
                refuse(400, "InvalidIpAddress.Malformed", message)
            })?),
        };
        let ranges = self.cloud.options.eip_ranges.clone();
        let lookup =
            EdgeLookup { public_addresses: true, ..EdgeLookup::of([&request.instance_id]) };
        self.change_edge(None, lookup, move |view| {
            let site = Site::find(view, &request.instance_id, "AllocatePublicIpAddress")?;
            let eip = site.allocated(site.instance, wanted, view, &ranges)?;
            let answer = AllocatePublicIpAddressResponse {
                request_id: String::new(),
                ip_address: eip.address.to_string(),
            };
            // One that it has already stays as it is.
            let put = if site.public.is_none() { vec![EdgeRecord::Eip(eip)] } else { Vec::new() };
            Ok(EdgePlan { put, answer: answer.encode_to_vec(), ..EdgePlan::default() })
        })
        .await
    }

    pub(super) async fn convert_nat_public_ip_to_eip(
        &self,
        request: ConvertNatPublicIpToEipRequest,
    ) -> Result<ConvertNatPublicIpToEipResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        self.change_edge(None, EdgeLookup::of([&request.instance_id]), move |view| {
            let site = Site::find(view, &request.instance_id, "ConvertNatPublicIpToEip")?;
            let id = &request.instance_id;
            let eip = site.public.filter(|eip| eip.fixed).ok_or_else(|| {
                let message = format!("instance {id} has no static public address");
                refuse(403, "OperationDenied", message)
            })?;
            if eip.charge_type != "PayByTraffic" {
                return Err(refuse(
                    403,
                    "InvalidInternetChargeType.ValueNotSupported",
                    format!(
                        "the public address {} of instance {id} is {}; only PayByTraffic becomes an \
                         EIP, ModifyInstanceNetworkSpec changes it",
                        eip.address, eip.charge_type
                    ),
                ));
            }
            let instance = InstanceRecord { internet_max_bandwidth_out: 0, ..site.instance.clone() };
            let eip = EipRecord { fixed: false, ..eip.clone() };
            Ok(EdgePlan {
                put: vec![EdgeRecord::Eip(eip)],
                update_instances: vec![instance],
                ..EdgePlan::default()
            })
        })
        .await
    }

    pub(super) async fn modify_instance_network_spec(
        &self,
        request: ModifyInstanceNetworkSpecRequest,
    ) -> Result<ModifyInstanceNetworkSpecResponse, Refusal> {
        let token = request::token("ModifyInstanceNetworkSpec", &request.client_token, &request)?;
        if request.instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        let bandwidth = request.internet_max_bandwidth_out;
        check_values(bandwidth.unwrap_or(0), &request.network_charge_type)?;
        let ranges = self.cloud.options.eip_ranges.clone();
        let lookup =
            EdgeLookup { public_addresses: true, ..EdgeLookup::of([&request.instance_id]) };
        self.change_edge(token, lookup, move |view| {
            let site = Site::find(view, &request.instance_id, "ModifyInstanceNetworkSpec")?;
            let mut instance = site.instance.clone();
            if let Some(bandwidth) = bandwidth {
                instance.internet_max_bandwidth_out = bandwidth;
            }
            if !request.network_charge_type.is_empty() {
                instance.internet_charge_type.clone_from(&request.network_charge_type);
            }
            let mut public = site.public.filter(|eip| eip.fixed).cloned();
            if public.is_some() && instance.internet_max_bandwidth_out == 0 {
                return Err(refuse(
                    400,
                    "InvalidInternetMaxBandwidthOut.Malformed",
                    format!(
                        "instance {} has a static public address, whose bandwidth is 1 Mbit/s at \
                         least; ConvertNatPublicIpToEip makes it an EIP, which can be taken away",
                        instance.instance_id
                    ),
                ));
            }
            if request.allocate_public_ip {
                public = Some(site.allocated(&instance, None, view, &ranges)?);
            }
            let put = public.map(|eip| {
                EdgeRecord::Eip(EipRecord {
                    bandwidth_mbps: instance.internet_max_bandwidth_out,
                    charge_type: instance.internet_charge_type.clone(),
                    ..eip
                })
            });
            let put = put.into_iter().collect();
            Ok(EdgePlan { put, update_instances: vec![instance], ..EdgePlan::default() })
        })
        .await
    }
}
