//! Network interfaces of new instances.

use super::{
    network_interface_create::check_shape, network_interface_ips::not_enough,
    network_interface_ipv6::Wanted, network_interfaces::address,
};
use crate::{
    ecs_error::{eni_not_found, invalid, missing, refuse, vswitch_not_found},
    eni_state,
    group_membership::{self, NEW_INSTANCE},
    ids,
};
use api::v1::{InstanceNetworkInterfaceOrder, RunInstancesRequest};
use catalog::InstanceType;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use store::{CreateView, EniRecord, InstanceRecord, NewEni, Refusal, VSwitchRecord, VSwitchRoom};

/// An interface to make with each instance.
#[derive(Debug, Clone)]
struct New {
    vswitch_id: String,
    address: Option<Ipv4Addr>,
    more_addresses: u32,
    ipv6: Wanted,
    /// Without what is the instance's or the VSwitch's.
    template: EniRecord,
}

impl New {
    fn addresses(&self) -> u64 {
        1 + u64::from(self.more_addresses)
    }

    /// Of both families.
    fn all_addresses(&self) -> u64 {
        self.addresses() + self.ipv6.len() as u64
    }
}

/// An interface that is there already.
#[derive(Debug, Clone)]
struct Existing {
    eni_id: String,
    delete_on_release: Option<bool>,
}

/// The interfaces of every instance of an order.
#[derive(Debug, Clone)]
pub(super) struct Interfaces {
    primary: New,
    secondary: Vec<New>,
    existing: Vec<Existing>,
    kind: &'static InstanceType,
}

fn wrong(message: impl Into<String>) -> Refusal {
    refuse(400, "InvalidParam.NetworkInterface", message)
}

/// An address of an order that may be for one instance only.
fn one_address(parameter: &str, text: &str, amount: u32) -> Result<Option<Ipv4Addr>, Refusal> {
    match text {
        "" => Ok(None),
        text if amount > 1 => {
            Err(invalid(format!("{parameter} {text} is for one instance; set amount to 1")))
        }
        text => address(parameter, text).map(Some).map_err(|refusal| Refusal {
            code: "InvalidPrivateIpAddress.Malformed".into(),
            ..refusal
        }),
    }
}

fn new(order: &InstanceNetworkInterfaceOrder, amount: u32) -> Result<New, Refusal> {
    let (name, description) = (&order.network_interface_name, &order.description);
    check_shape(name, description, order.queue_number)?;
    let template = EniRecord {
        name: name.clone(),
        description: description.clone(),
        primary: order.instance_type == "Primary",
        security_group_ids: group_membership::asked(
            &order.security_group_id,
            &order.security_group_ids,
            &NEW_INSTANCE,
        )?,
        delete_on_release: order.delete_on_release.unwrap_or(true),
        source_dest_check: order.source_dest_check.unwrap_or(true),
        queues: order.queue_number,
        ..Default::default()
    };
    if template.primary && !template.delete_on_release {
        return Err(wrong(
            "a primary interface goes with its instance; leave delete_on_release out",
        ));
    }
    let ipv6 = Wanted::check(&order.ipv6_address, order.ipv6_address_count)?;
    if let Some(address) = ipv6.given.first()
        && amount > 1
    {
        return Err(invalid(format!(
            "ipv6_address {address} is for one instance; set amount to 1, or give \
             ipv6_address_count"
        )));
    }
    Ok(New {
        ipv6,
        vswitch_id: order.v_switch_id.clone(),
        address: one_address("primary_ip_address", &order.primary_ip_address, amount)?,
        more_addresses: order.secondary_private_ip_address_count,
        template,
    })
}

fn existing(order: &InstanceNetworkInterfaceOrder, amount: u32) -> Result<Existing, Refusal> {
    let eni_id = &order.network_interface_id;
    let only = InstanceNetworkInterfaceOrder {
        network_interface_id: eni_id.clone(),
        instance_type: order.instance_type.clone(),
        delete_on_release: order.delete_on_release,
        ..Default::default()
    };
    if only != *order || order.instance_type == "Primary" {
        return Err(wrong(format!(
            "with network_interface_id {eni_id}, a Secondary interface, only delete_on_release is \
             given; ModifyNetworkInterfaceAttribute changes the rest"
        )));
    }
    if amount > 1 {
        return Err(wrong(format!(
            "network interface {eni_id} can be at one instance only; set amount to 1"
        )));
    }
    Ok(Existing { eni_id: eni_id.clone(), delete_on_release: order.delete_on_release })
}

impl Interfaces {
    /// Checks a request as far as it can be without the store.
    pub(super) fn check(
        request: &RunInstancesRequest,
        kind: &'static InstanceType,
    ) -> Result<Self, Refusal> {
        let amount = request.amount;
        let (mut primary, mut secondary, mut others) = (None, Vec::new(), Vec::new());
        for order in &request.network_interface {
            match order.instance_type.as_str() {
                "" | "Primary" | "Secondary" => {}
                other => {
                    return Err(wrong(format!(
                        "network_interface.instance_type is {other:?}; it must be Primary or \
                         Secondary"
                    )));
                }
            }
            if !order.network_interface_id.is_empty() {
                others.push(existing(order, amount)?);
            } else if order.instance_type == "Primary" {
                if primary.replace(new(order, amount)?).is_some() {
                    return Err(wrong("two Primary interfaces are given; an instance has one"));
                }
            } else {
                secondary.push(new(order, amount)?);
            }
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = others.iter().find(|other| !seen.insert(other.eni_id.clone())) {
            return Err(wrong(format!("network interface {} is given twice", twice.eni_id)));
        }
        let of_request = InstanceNetworkInterfaceOrder {
            instance_type: "Primary".to_owned(),
            v_switch_id: request.v_switch_id.clone(),
            security_group_id: request.security_group_id.clone(),
            security_group_ids: request.security_group_ids.clone(),
            ipv6_address: request.ipv6_address.clone(),
            ipv6_address_count: request.ipv6_address_count,
            ..Default::default()
        };
        let given = !request.v_switch_id.is_empty()
            || !request.security_group_id.is_empty()
            || !request.security_group_ids.is_empty()
            || !request.private_ip_address.is_empty()
            || !request.ipv6_address.is_empty()
            || request.ipv6_address_count > 0;
        let primary = match primary {
            Some(_) if given => {
                return Err(wrong(
                    "v_switch_id, security groups or addresses are given both for the \
                     instance and for its Primary interface; leave the first out",
                ));
            }
            Some(primary) => primary,
            None => New {
                address: one_address("private_ip_address", &request.private_ip_address, amount)?,
                ..new(&of_request, amount)?
            },
        };
        if primary.vswitch_id.is_empty() {
            return Err(missing("v_switch_id"));
        }
        if primary.template.security_group_ids.is_empty() {
            return Err(missing("security_group_id"));
        }
        for one in &mut secondary {
            if one.vswitch_id.is_empty() {
                one.vswitch_id.clone_from(&primary.vswitch_id);
            }
            let groups = &mut one.template.security_group_ids;
            if groups.is_empty() {
                groups.clone_from(&primary.template.security_group_ids);
            }
        }
        let interfaces = Self { primary, secondary, existing: others, kind };
        eni_state::check_count(
            Some(kind),
            1 + interfaces.secondary.len() + interfaces.existing.len(),
        )?;
        for one in interfaces.each_new() {
            let count = usize::try_from(one.addresses()).unwrap_or(usize::MAX);
            eni_state::check_addresses(Some(kind), count)?;
            eni_state::check_ipv6(Some(kind), one.ipv6.len())?;
            eni_state::check_queues(Some(kind), &one.template)?;
        }
        Ok(interfaces)
    }

    fn each_new(&self) -> impl Iterator<Item = &New> {
        std::iter::once(&self.primary).chain(&self.secondary)
    }

    /// VSwitches to look up, that of the primary interface first.
    pub(super) fn vswitch_ids(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.each_new()
            .map(|one| one.vswitch_id.clone())
            .filter(|vswitch_id| seen.insert(vswitch_id.clone()))
            .collect()
    }

    /// Groups to look up.
    pub(super) fn group_ids(&self) -> Vec<String> {
        let all: BTreeSet<String> =
            self.each_new().flat_map(|one| one.template.security_group_ids.clone()).collect();
        all.into_iter().collect()
    }

    /// Interfaces to look up.
    pub(super) fn eni_ids(&self) -> Vec<String> {
        self.existing.iter().map(|one| one.eni_id.clone()).collect()
    }

    /// The VSwitch of the primary interface, if all VSwitches and addresses are as they have to be.
    pub(super) fn vswitch<'a>(
        &self,
        view: &'a CreateView,
        zone_id: &str,
    ) -> Result<&'a VSwitchRecord, Refusal> {
        let main = &room(view, &self.primary.vswitch_id)?.vswitch;
        if !zone_id.is_empty() && *zone_id != main.zone_id {
            return Err(refuse(
                400,
                "InvalidParameter.Mismatch",
                format!(
                    "VSwitch {} is in zone {}, not {zone_id}; leave zone_id out",
                    main.vswitch_id, main.zone_id
                ),
            ));
        }
        for one in self.each_new() {
            let vswitch = &room(view, &one.vswitch_id)?.vswitch;
            if (&vswitch.vpc_id, &vswitch.zone_id) != (&main.vpc_id, &main.zone_id) {
                return Err(refuse(
                    400,
                    "InvalidParameter.Mismatch",
                    format!(
                        "VSwitch {} is in VPC {} and zone {}, {} in VPC {} and zone {}; all \
                         interfaces of an instance are in one VPC and zone",
                        vswitch.vswitch_id,
                        vswitch.vpc_id,
                        vswitch.zone_id,
                        main.vswitch_id,
                        main.vpc_id,
                        main.zone_id
                    ),
                ));
            }
            if let Some(address) = one.address
                && !(vswitch.first_ip..=vswitch.last_ip).contains(&address)
            {
                return Err(refuse(
                    400,
                    "InvalidPrivateIpAddress",
                    format!(
                        "{address} is not among the addresses {} to {} of VSwitch {}",
                        vswitch.first_ip, vswitch.last_ip, vswitch.vswitch_id
                    ),
                ));
            }
        }
        for one in self.each_new() {
            one.ipv6.check_in(&room(view, &one.vswitch_id)?.vswitch)?;
        }
        self.check_existing(view, main)?;
        Ok(main)
    }

    fn check_existing(&self, view: &CreateView, main: &VSwitchRecord) -> Result<(), Refusal> {
        for one in &self.existing {
            let eni = found(view, &one.eni_id)?;
            eni_state::expect_loose(eni, "RunInstances")?;
            if (&eni.vpc_id, &eni.zone_id) != (&main.vpc_id, &main.zone_id) {
                return Err(refuse(
                    400,
                    "InvalidParameter.Mismatch",
                    format!(
                        "network interface {} is in VPC {} and zone {}, the instance in VPC {} and \
                         zone {}; use one of the same VPC and zone",
                        eni.eni_id, eni.vpc_id, eni.zone_id, main.vpc_id, main.zone_id
                    ),
                ));
            }
            eni_state::check_addresses(Some(self.kind), eni.addresses().count())?;
            eni_state::check_ipv6(Some(self.kind), eni.ipv6_addresses.len())?;
            eni_state::check_queues(Some(self.kind), eni)?;
        }
        Ok(())
    }

    /// That all interfaces of so many instances may be in their groups.
    pub(super) fn check_groups(
        &self,
        view: &CreateView,
        vpc_id: &str,
        amount: u32,
    ) -> Result<(), Refusal> {
        let mut joining: BTreeMap<&str, u64> = BTreeMap::new();
        for one in self.each_new() {
            for group_id in &one.template.security_group_ids {
                *joining.entry(group_id).or_default() += one.all_addresses() * u64::from(amount);
            }
        }
        self.each_new().try_for_each(|one| {
            let groups = &one.template.security_group_ids;
            group_membership::check(&NEW_INSTANCE, vpc_id, groups, &view.security_groups, |id| {
                joining.get(id).copied().unwrap_or(0)
            })
        })
    }

    /// That an instance may have its interfaces besides so many disks.
    pub(super) fn check_devices(&self, disks: usize) -> Result<(), Refusal> {
        eni_state::check_devices(disks, 1 + self.secondary.len() + self.existing.len())
    }

    /// For how many instances the VSwitches have addresses.
    ///
    /// # Errors
    /// `InvalidVSwitchId.IpNotEnough` if for fewer than `least`.
    pub(super) fn room(&self, view: &CreateView, least: u32) -> Result<usize, Refusal> {
        let mut most = u64::MAX;
        for vswitch_id in self.vswitch_ids() {
            let room = room(view, &vswitch_id)?;
            let here = self.each_new().filter(|one| one.vswitch_id == vswitch_id);
            let each: u64 = here.map(New::addresses).sum();
            if room.free_addresses < each * u64::from(least) {
                return Err(not_enough(room, each * u64::from(least)));
            }
            most = most.min(room.free_addresses / each.max(1));
        }
        Ok(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// The interfaces of one instance: those to make and those that come to it.
    pub(super) fn of(
        &self,
        instance: &InstanceRecord,
        view: &CreateView,
    ) -> Result<(Vec<NewEni>, Vec<EniRecord>), Refusal> {
        let mut made = Vec::new();
        for (one, position) in self.each_new().zip(0..) {
            let vswitch = &room(view, &one.vswitch_id)?.vswitch;
            let mut eni = EniRecord {
                eni_id: ids::eni(),
                vpc_id: vswitch.vpc_id.clone(),
                vswitch_id: vswitch.vswitch_id.clone(),
                zone_id: vswitch.zone_id.clone(),
                created_ms: instance.created_ms,
                generation: 0,
                ipv6_addresses: one.ipv6.given.clone(),
                ..one.template.clone()
            };
            eni.primary = position == 0;
            eni_state::place(&mut eni, instance, position, instance.created_ms);
            let (address, more_addresses) = (one.address, one.more_addresses);
            let more_ipv6_addresses = one.ipv6.count;
            made.push(NewEni { eni, address, more_addresses, more_ipv6_addresses });
        }
        let mut attached = Vec::new();
        for (one, position) in self.existing.iter().zip(made.len()..) {
            let mut eni = found(view, &one.eni_id)?.clone();
            if let Some(goes) = one.delete_on_release {
                eni.delete_on_release = goes;
            }
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            eni_state::place(&mut eni, instance, position, instance.created_ms);
            attached.push(eni);
        }
        Ok((made, attached))
    }
}

fn room<'a>(view: &'a CreateView, vswitch_id: &str) -> Result<&'a VSwitchRoom, Refusal> {
    view.vswitches
        .iter()
        .find(|room| room.vswitch.vswitch_id == vswitch_id)
        .ok_or_else(|| vswitch_not_found(vswitch_id))
}

fn found<'a>(view: &'a CreateView, eni_id: &str) -> Result<&'a EniRecord, Refusal> {
    view.enis.iter().find(|eni| eni.eni_id == eni_id).ok_or_else(|| eni_not_found(eni_id))
}
