//! IPv6 addresses of network interfaces: `AssignIpv6Addresses`, `UnassignIpv6Addresses`, and what is
//! checked of them elsewhere.

use super::{
    Api,
    network_interface_ips::{already_assigned, repeated},
    network_interface_modify::told,
    network_interfaces::{found, instance_in},
    request,
};
use crate::{
    ecs_error::{from_store, missing, refuse},
    eni_state::{self, AVAILABLE, IN_USE, MOST_LOOSE_IPV6},
    group_membership::{self, ENI},
};
use api::v1::*;
use prost::Message as _;
use std::{collections::BTreeSet, net::Ipv6Addr};
use store::{EniRecord, EnisLookup, EnisPlan, EnisView, Refusal, StoreError, VSwitchRecord};

/// Addresses of one call.
const MOST: usize = 10;

/// IPv6 addresses that an order asks for: these, or so many free ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) given: Vec<Ipv6Addr>,
    pub(super) count: u32,
}

impl Wanted {
    /// Checks what a request says.
    ///
    /// # Errors
    /// `InvalidParameter.Conflict` if both are given, `InvalidIp.Address`, `InvalidIp.IpRepeated`,
    /// `InvalidOperation.Ipv6CountExceeded`.
    pub(super) fn check(texts: &[String], count: u32) -> Result<Self, Refusal> {
        if !texts.is_empty() && count > 0 {
            return Err(refuse(
                400,
                "InvalidParameter.Conflict",
                "give ipv6_address or ipv6_address_count, not both",
            ));
        }
        if texts.len().max(count as usize) > MOST {
            return Err(refuse(
                403,
                "InvalidOperation.Ipv6CountExceeded",
                format!("one call gives a network interface at most {MOST} IPv6 addresses"),
            ));
        }
        let mut seen = BTreeSet::new();
        let given = texts
            .iter()
            .map(|text| {
                let address = address(text)?;
                if seen.insert(address) { Ok(address) } else { Err(repeated(text)) }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { given, count })
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.given.len() + self.count as usize
    }

    /// That the VSwitch has IPv6 and may have the given addresses.
    ///
    /// # Errors
    /// `InvalidVSwitch.Ipv6NotTurnOn`, `InvalidVSwitchId.IpInvalid`.
    pub(super) fn check_in(&self, vswitch: &VSwitchRecord) -> Result<(), Refusal> {
        if self.len() == 0 {
            return Ok(());
        }
        let id = &vswitch.vswitch_id;
        let block = vswitch.ipv6_cidr.ok_or_else(|| {
            refuse(
                403,
                "InvalidVSwitch.Ipv6NotTurnOn",
                format!("VSwitch {id} has no IPv6; ModifyVSwitchAttribute with enable_ipv6 first"),
            )
        })?;
        let outside = |address: &&Ipv6Addr| !VSwitchRecord::is_usable_ipv6(block, **address);
        match self.given.iter().find(outside) {
            None => Ok(()),
            Some(address) => Err(refuse(
                403,
                "InvalidVSwitchId.IpInvalid",
                format!(
                    "{address} is not in the IPv6 block {block} of VSwitch {id}, or is its first \
                     address or one of its last nine, which are reserved"
                ),
            )),
        }
    }
}

/// An IPv6 address in text.
pub(super) fn address(text: &str) -> Result<Ipv6Addr, Refusal> {
    text.parse().map_err(|_| {
        refuse(403, "InvalidIp.Address", format!("ipv6_address {text:?} is not an IPv6 address"))
    })
}

/// The addresses of an interface as answers have them.
pub(super) fn ipv6_sets(eni: &EniRecord) -> Vec<Ipv6Set> {
    let texts = eni.ipv6_addresses.iter().map(ToString::to_string);
    texts.map(|ipv6_address| Ipv6Set { ipv6_address }).collect()
}

/// That an interface may have other addresses now, and as many.
fn check(eni: &EniRecord, count: usize, view: &EnisView, action: &str) -> Result<(), Refusal> {
    eni_state::expect(eni, &[AVAILABLE, IN_USE], action)?;
    if eni.instance_id.is_empty() {
        if count <= MOST_LOOSE_IPV6 {
            return Ok(());
        }
        return Err(refuse(
            403,
            "InvalidOperation.Ipv6CountExceeded",
            format!(
                "network interface {} is at no instance and has at most {MOST_LOOSE_IPV6} IPv6 \
                 addresses; attach it first",
                eni.eni_id
            ),
        ));
    }
    let Some(details) = instance_in(view, &eni.instance_id) else { return Ok(()) };
    if eni.primary {
        eni_state::expect_steady(&details.instance, action)?;
    }
    eni_state::check_ipv6(catalog::instance_type(&details.instance.instance_type), count)
}

fn assigned(eni_id: &str, wanted: &Wanted, view: &EnisView) -> Result<EnisPlan, Refusal> {
    let mut eni = found(view, eni_id)?.clone();
    check(&eni, eni.ipv6_addresses.len() + wanted.len(), view, "AssignIpv6Addresses")?;
    let room = view.vswitch.as_ref().ok_or_else(|| {
        refuse(500, "InternalError", format!("the VSwitch of {eni_id} is not known"))
    })?;
    wanted.check_in(&room.vswitch)?;
    if let Some(own) = wanted.given.iter().find(|address| eni.ipv6_addresses.contains(address)) {
        return Err(already_assigned((*own).into()));
    }
    let groups = &eni.security_group_ids;
    group_membership::check(&ENI, &eni.vpc_id, groups, &view.groups, |_| wanted.len() as u64)?;
    let new = if wanted.count == 0 { &wanted.given } else { &view.offered_ipv6 };
    eni.ipv6_addresses.extend(new);
    eni.generation += 1;
    let answer = AssignIpv6AddressesResponse {
        request_id: String::new(),
        network_interface_id: eni_id.to_owned(),
        ipv6_sets: new.iter().map(ToString::to_string).collect(),
    };
    let update_instances = told(view, &eni);
    let answer = answer.encode_to_vec();
    Ok(EnisPlan { update: vec![eni], update_instances, answer, ..Default::default() })
}

fn unassigned(eni_id: &str, gone: &[Ipv6Addr], view: &EnisView) -> Result<EnisPlan, Refusal> {
    let mut eni = found(view, eni_id)?.clone();
    check(&eni, 0, view, "UnassignIpv6Addresses")?;
    if let Some(other) = gone.iter().find(|address| !eni.ipv6_addresses.contains(address)) {
        return Err(refuse(
            403,
            "InvalidIp.IpUnassigned",
            format!("{other} is no IPv6 address of network interface {eni_id}"),
        ));
    }
    eni.ipv6_addresses.retain(|address| !gone.contains(address));
    eni.generation += 1;
    let update_instances = told(view, &eni);
    Ok(EnisPlan { update: vec![eni], update_instances, ..Default::default() })
}

impl Api {
    pub(super) async fn assign_ipv6_addresses(
        &self,
        request: AssignIpv6AddressesRequest,
    ) -> Result<AssignIpv6AddressesResponse, Refusal> {
        let token = request::token("AssignIpv6Addresses", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let eni_id = request.network_interface_id.clone();
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let wanted = Wanted::check(&request.ipv6_address, request.ipv6_address_count)?;
        if wanted.len() == 0 {
            return Err(missing("ipv6_address or ipv6_address_count"));
        }
        let lookup = EnisLookup {
            eni_ids: vec![eni_id.clone()],
            ipv6_addresses: wanted.count,
            ..Default::default()
        };
        let decide = move |view: &EnisView| assigned(&eni_id, &wanted, view);
        match self.cloud.store.change_enis(token, lookup, Box::new(decide)).await {
            Err(StoreError::AddressInUse { address, .. }) => Err(already_assigned(address)),
            answer => request::response(answer),
        }
    }

    pub(super) async fn unassign_ipv6_addresses(
        &self,
        request: UnassignIpv6AddressesRequest,
    ) -> Result<UnassignIpv6AddressesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let eni_id = request.network_interface_id;
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let gone = Wanted::check(&request.ipv6_address, 0)?.given;
        if gone.is_empty() {
            return Err(missing("ipv6_address"));
        }
        let lookup = EnisLookup { eni_ids: vec![eni_id.clone()], ..Default::default() };
        let decide = move |view: &EnisView| unassigned(&eni_id, &gone, view);
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(UnassignIpv6AddressesResponse::default())
    }
}
