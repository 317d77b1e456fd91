//! Static public addresses: made with an instance, gone with it.

use crate::{ecs_error::refuse, ids, public_addresses, timestamp::now_ms};
use api::v1::{InstanceEip, RunInstancesRequest};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use store::{CreateView, EipRecord, EipTarget, InstanceDetails, NewInstance, Refusal};

/// Mbit/s.
const MOST_BANDWIDTH: u32 = 100;

/// Checks what an order says about public addresses.
pub(super) fn check(request: &RunInstancesRequest) -> Result<(), Refusal> {
    if request.internet_max_bandwidth_out > MOST_BANDWIDTH {
        return Err(refuse(
            400,
            "InvalidInternetMaxBandwidthOut.Malformed",
            format!(
                "internet_max_bandwidth_out is {}; it must be 0 to {MOST_BANDWIDTH} Mbit/s",
                request.internet_max_bandwidth_out
            ),
        ));
    }
    if !["", "PayByTraffic", "PayByBandwidth"].contains(&request.internet_charge_type.as_str()) {
        return Err(refuse(
            400,
            "InvalidInternetChargeType.ValueNotSupported",
            format!(
                "internet_charge_type is {:?}; it must be PayByTraffic or PayByBandwidth",
                request.internet_charge_type
            ),
        ));
    }
    Ok(())
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
    let charge_type = match request.internet_charge_type.as_str() {
        "" => "PayByTraffic",
        given => given,
    };
    let primaries = instances
        .iter()
        .filter_map(|new| new.enis.iter().map(|new| &new.eni).find(|eni| eni.primary));
    Ok(primaries
        .zip(addresses)
        .map(|(eni, address)| EipRecord {
            allocation_id: ids::eip(),
            address,
            name: String::new(),
            description: String::new(),
            bandwidth_mbps: request.internet_max_bandwidth_out,
            charge_type: charge_type.to_owned(),
            fixed: true,
            target: Some(EipTarget::Interface {
                eni_id: eni.eni_id.clone(),
                private_ip: Ipv4Addr::UNSPECIFIED,
                instance_id: eni.instance_id.clone(),
            }),
            vpc_id: eni.vpc_id.clone(),
            tags: Vec::new(),
            created_ms: now_ms(),
            status: String::new(),
        })
        .collect())
}

/// What an answer about an instance says: static addresses, the EIP, and the bandwidth of either.
pub(super) fn describe(details: &InstanceDetails) -> (Vec<String>, Option<InstanceEip>, u32) {
    let fixed: Vec<&EipRecord> = details.eips.iter().filter(|eip| eip.fixed).collect();
    let primary = details.enis.iter().find(|eni| eni.primary);
    let eip = details.eips.iter().filter(|eip| !eip.fixed).find(|eip| {
        matches!((&eip.target, primary), (Some(EipTarget::Interface { eni_id, private_ip, .. }), Some(eni))
            if *eni_id == eni.eni_id && *private_ip == eni.private_ip)
    });
    let bandwidth = fixed.first().copied().or(eip).map_or(0, |eip| eip.bandwidth_mbps);
    let eip = eip.map(|eip| InstanceEip {
        allocation_id: eip.allocation_id.clone(),
        ip_address: eip.address.to_string(),
        bandwidth: eip.bandwidth_mbps,
        internet_charge_type: eip.charge_type.clone(),
    });
    (fixed.iter().map(|eip| eip.address.to_string()).collect(), eip, bandwidth)
}
