//! `AssignPrivateIpAddresses` and `UnassignPrivateIpAddresses`.

use super::{
    Api,
    network_interface_modify::told,
    network_interfaces::{address, found, instance_in},
    request,
};
use crate::{
    ecs_error::{from_store, missing, refuse},
    eni_state::{self, AVAILABLE, IN_USE, MOST_LOOSE_SECONDARY},
    group_membership::{self, ENI},
};
use api::v1::*;
use prost::Message as _;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};
use store::{
    EniRecord, EnisLookup, EnisPlan, EnisView, Refusal, StoreError, VSwitchRecord, VSwitchRoom,
};

/// Addresses of one call: more than any interface has.
const MOST: usize = 50;

/// Addresses in text, each once.
pub(super) fn parsed(texts: &[String]) -> Result<Vec<Ipv4Addr>, Refusal> {
    if texts.len() > MOST {
        return Err(refuse(
            400,
            "InvalidParameter",
            format!("{} values of private_ip_address are given; give at most {MOST}", texts.len()),
        ));
    }
    let mut seen = BTreeSet::new();
    texts
        .iter()
        .map(|text| {
            let address = address("private_ip_address", text)?;
            if seen.insert(address) { Ok(address) } else { Err(repeated(text)) }
        })
        .collect()
}

/// Why an address that is given twice is refused.
pub(super) fn repeated(text: &str) -> Refusal {
    refuse(403, "InvalidIp.IpRepeated", format!("address {text} is given twice; give it once"))
}

/// That interfaces of the VSwitch may have an address.
pub(super) fn in_vswitch(vswitch: &VSwitchRecord, address: Ipv4Addr) -> Result<(), Refusal> {
    if (vswitch.first_ip..=vswitch.last_ip).contains(&address) {
        return Ok(());
    }
    Err(refuse(
        403,
        "InvalidVSwitchId.IpInvalid",
        format!(
            "{address} is not among the addresses {} to {} of VSwitch {}",
            vswitch.first_ip, vswitch.last_ip, vswitch.vswitch_id
        ),
    ))
}

/// Why a VSwitch cannot give so many addresses.
pub(super) fn not_enough(room: &VSwitchRoom, needed: u64) -> Refusal {
    refuse(
        403,
        "InvalidVSwitchId.IpNotEnough",
        format!(
            "VSwitch {} has {} free addresses, {needed} needed; use another VSwitch",
            room.vswitch.vswitch_id, room.free_addresses
        ),
    )
}

/// That an interface may have other addresses now, and as many.
fn check(eni: &EniRecord, count: usize, view: &EnisView, action: &str) -> Result<(), Refusal> {
    eni_state::expect(eni, &[AVAILABLE, IN_USE], action)?;
    if eni.instance_id.is_empty() {
        if count <= 1 + MOST_LOOSE_SECONDARY {
            return Ok(());
        }
        return Err(refuse(
            403,
            "InvalidOperation.Ipv4CountExceeded",
            format!(
                "network interface {} is at no instance and has at most {MOST_LOOSE_SECONDARY} \
                 secondary addresses; attach it first",
                eni.eni_id
            ),
        ));
    }
    let Some(details) = instance_in(view, &eni.instance_id) else { return Ok(()) };
    if eni.primary {
        eni_state::expect_steady(&details.instance, action)?;
    }
    eni_state::check_addresses(catalog::instance_type(&details.instance.instance_type), count)
}

/// What an order of addresses asks for.
struct Order {
    eni_id: String,
    given: Vec<Ipv4Addr>,
    count: u32,
}

impl Order {
    fn check(request: &AssignPrivateIpAddressesRequest) -> Result<Self, Refusal> {
        let eni_id = request.network_interface_id.clone();
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let given = parsed(&request.private_ip_address)?;
        let count = request.secondary_private_ip_address_count;
        match (given.is_empty(), count) {
            (true, 0) => {
                return Err(missing("private_ip_address or secondary_private_ip_address_count"));
            }
            (false, 1..) => {
                return Err(refuse(
                    400,
                    "InvalidParameter.Conflict",
                    "give private_ip_address or secondary_private_ip_address_count, not both",
                ));
            }
            _ => {}
        }
        if count as usize > MOST {
            return Err(refuse(
                403,
                "InvalidOperation.Ipv4CountExceeded",
                format!("secondary_private_ip_address_count is {count}; it is at most {MOST}"),
            ));
        }
        Ok(Self { eni_id, given, count })
    }

    fn plan(&self, view: &EnisView) -> Result<EnisPlan, Refusal> {
        let mut eni = found(view, &self.eni_id)?.clone();
        let more = self.given.len() + self.count as usize;
        check(&eni, 1 + eni.secondary_private_ips.len() + more, view, "AssignPrivateIpAddresses")?;
        let room = view.vswitch.as_ref().ok_or_else(|| {
            refuse(500, "InternalError", format!("the VSwitch of {} is not known", self.eni_id))
        })?;
        for address in &self.given {
            in_vswitch(&room.vswitch, *address)?;
            if eni.addresses().any(|own| own == *address) {
                return Err(already_assigned((*address).into()));
            }
        }
        if room.free_addresses < more as u64 {
            return Err(not_enough(room, more as u64));
        }
        let groups = &eni.security_group_ids;
        group_membership::check(&ENI, &eni.vpc_id, groups, &view.groups, |_| more as u64)?;
        let assigned = if self.count == 0 { &self.given } else { &view.offered };
        eni.secondary_private_ips.extend(assigned);
        eni.generation += 1;
        let answer = AssignPrivateIpAddressesResponse {
            request_id: String::new(),
            network_interface_id: self.eni_id.clone(),
            private_ip_set: assigned.iter().map(ToString::to_string).collect(),
        };
        let update_instances = told(view, &eni);
        let answer = answer.encode_to_vec();
        Ok(EnisPlan { update: vec![eni], update_instances, answer, ..Default::default() })
    }
}

/// Why an address that an interface has is refused.
pub(super) fn already_assigned(address: IpAddr) -> Refusal {
    refuse(
        403,
        "InvalidIp.IpAssigned",
        format!("address {address} is assigned already; choose another"),
    )
}

impl Api {
    pub(super) async fn assign_private_ip_addresses(
        &self,
        request: AssignPrivateIpAddressesRequest,
    ) -> Result<AssignPrivateIpAddressesResponse, Refusal> {
        let token = request::token("AssignPrivateIpAddresses", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let order = Order::check(&request)?;
        let lookup = EnisLookup {
            eni_ids: vec![order.eni_id.clone()],
            addresses: order.count,
            ..Default::default()
        };
        let decide = move |view: &EnisView| order.plan(view);
        match self.cloud.store.change_enis(token, lookup, Box::new(decide)).await {
            Err(StoreError::AddressInUse { address, .. }) => Err(already_assigned(address)),
            answer => request::response(answer),
        }
    }

    pub(super) async fn unassign_private_ip_addresses(
        &self,
        request: UnassignPrivateIpAddressesRequest,
    ) -> Result<UnassignPrivateIpAddressesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let eni_id = request.network_interface_id;
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let gone = parsed(&request.private_ip_address)?;
        if gone.is_empty() {
            return Err(missing("private_ip_address"));
        }
        let lookup = EnisLookup { eni_ids: vec![eni_id.clone()], ..Default::default() };
        let decide = move |view: &EnisView| {
            let mut eni = found(view, &eni_id)?.clone();
            check(&eni, 1, view, "UnassignPrivateIpAddresses")?;
            for address in &gone {
                if !eni.secondary_private_ips.contains(address) {
                    let hint =
                        if *address == eni.private_ip { ", but its primary one" } else { "" };
                    return Err(refuse(
                        403,
                        "InvalidIp.IpUnassigned",
                        format!(
                            "{address} is no secondary address of network interface {eni_id}{hint}"
                        ),
                    ));
                }
            }
            eni.secondary_private_ips.retain(|address| !gone.contains(address));
            eni.generation += 1;
            let update_instances = told(view, &eni);
            Ok(EnisPlan { update: vec![eni], update_instances, ..Default::default() })
        };
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(UnassignPrivateIpAddressesResponse::default())
    }
}
