//! `CreateNetworkInterface` and `DeleteNetworkInterface`.

use super::{
    Api,
    network_interface_ips::{self, in_vswitch},
    network_interface_ipv6::{Wanted, ipv6_sets},
    network_interfaces::{address, found, private_ips, tags},
    request,
};
use crate::{
    ecs_error::{from_store, invalid, missing, refuse, vswitch_not_found},
    eni_state::{self, MOST_LOOSE_SECONDARY},
    group_membership::{self, ENI},
    ids,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use prost::Message as _;
use store::{EniRecord, EnisLookup, EnisPlan, EnisView, NewEni, Refusal};

/// Most queues ECS takes for any interface.
const MOST_QUEUES: u32 = 2048;

/// Names and numbers of a new interface.
pub(super) fn check_shape(name: &str, description: &str, queues: u32) -> Result<(), Refusal> {
    validation::display_name("InvalidParameter", "network interface name", name)?;
    validation::description("InvalidParameter", description)?;
    if queues > MOST_QUEUES {
        return Err(refuse(
            403,
            "InvalidParameter.InvalidEniQueueNumber",
            format!("queue_number is {queues}; it must be 1 to {MOST_QUEUES}"),
        ));
    }
    Ok(())
}

/// The interface that a request describes, without what only the store knows.
fn template(request: &CreateNetworkInterfaceRequest) -> Result<NewEni, Refusal> {
    if request.v_switch_id.is_empty() {
        return Err(missing("v_switch_id"));
    }
    if !["", "Secondary"].contains(&request.instance_type.as_str()) {
        return Err(invalid(format!(
            "instance_type is {:?}; only Secondary interfaces are made on their own",
            request.instance_type
        )));
    }
    check_shape(&request.network_interface_name, &request.description, request.queue_number)?;
    let security_group_ids =
        group_membership::asked(&request.security_group_id, &request.security_group_ids, &ENI)?;
    if security_group_ids.is_empty() {
        return Err(missing("security_group_id"));
    }
    let (given, count) = (&request.private_ip_address, request.secondary_private_ip_address_count);
    if !given.is_empty() && count > 0 {
        return Err(refuse(
            400,
            "InvalidParameter.Conflict",
            "give private_ip_address or secondary_private_ip_address_count, not both",
        ));
    }
    let secondary_private_ips = network_interface_ips::parsed(given)?;
    if secondary_private_ips.len().max(count as usize) > MOST_LOOSE_SECONDARY {
        return Err(refuse(
            403,
            "InvalidOperation.Ipv4CountExceeded",
            format!(
                "an interface that is at no instance has at most {MOST_LOOSE_SECONDARY} secondary \
                 addresses; assign more when it is at one"
            ),
        ));
    }
    let primary = match request.primary_ip_address.as_str() {
        "" => None,
        text => Some(address("primary_ip_address", text)?),
    };
    if primary.is_some_and(|primary| secondary_private_ips.contains(&primary)) {
        return Err(network_interface_ips::repeated(&request.primary_ip_address));
    }
    let ipv6 = Wanted::check(&request.ipv6_address, request.ipv6_address_count)?;
    let eni = EniRecord {
        name: request.network_interface_name.clone(),
        description: request.description.clone(),
        secondary_private_ips,
        ipv6_addresses: ipv6.given,
        security_group_ids,
        delete_on_release: request.delete_on_release.unwrap_or(true),
        source_dest_check: request.source_dest_check.unwrap_or(true),
        queues: request.queue_number,
        tags: validation::tags(&request.tag)?,
        ..Default::default()
    };
    Ok(NewEni { eni, address: primary, more_addresses: count, more_ipv6_addresses: ipv6.count })
}

fn plan(new: &NewEni, vswitch_id: &str, view: &EnisView) -> Result<EnisPlan, Refusal> {
    let room = view.vswitch.as_ref().ok_or_else(|| vswitch_not_found(vswitch_id))?;
    let mut new = new.clone();
    let wanted = new.address.iter().chain(&new.eni.secondary_private_ips);
    wanted.copied().try_for_each(|address| in_vswitch(&room.vswitch, address))?;
    let secondary = new.eni.secondary_private_ips.len() as u64 + u64::from(new.more_addresses);
    if room.free_addresses < 1 + secondary {
        return Err(network_interface_ips::not_enough(room, 1 + secondary));
    }
    let ipv6 = Wanted { given: new.eni.ipv6_addresses.clone(), count: new.more_ipv6_addresses };
    ipv6.check_in(&room.vswitch)?;
    let eni = &mut new.eni;
    group_membership::check(
        &ENI,
        &room.vswitch.vpc_id,
        &eni.security_group_ids,
        &view.groups,
        |_| 1 + secondary + ipv6.len() as u64,
    )?;
    eni.eni_id = ids::eni();
    eni.vpc_id.clone_from(&room.vswitch.vpc_id);
    eni.vswitch_id.clone_from(&room.vswitch.vswitch_id);
    eni.zone_id.clone_from(&room.vswitch.zone_id);
    eni.created_ms = now_ms();
    eni_state::refresh(eni);
    // The rest of the answer is read afterwards: the store chooses the addresses.
    let answer = CreateNetworkInterfaceResponse {
        network_interface_id: eni.eni_id.clone(),
        ..Default::default()
    };
    Ok(EnisPlan { insert: vec![new], answer: answer.encode_to_vec(), ..Default::default() })
}

impl Api {
    pub(super) async fn create_network_interface(
        &self,
        request: CreateNetworkInterfaceRequest,
    ) -> Result<CreateNetworkInterfaceResponse, Refusal> {
        let token = request::token("CreateNetworkInterface", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let new = template(&request)?;
        let lookup = EnisLookup {
            vswitch_id: request.v_switch_id.clone(),
            security_group_ids: new.eni.security_group_ids.clone(),
            ..Default::default()
        };
        let decide = move |view: &EnisView| plan(&new, &request.v_switch_id, view);
        let made = self.cloud.store.change_enis(token, lookup, Box::new(decide)).await;
        let made: CreateNetworkInterfaceResponse = request::response(made)?;
        let details = match self.find_eni(&made.network_interface_id).await {
            Ok(details) => details,
            // A repeated order of one that has been deleted since.
            Err(refusal) if refusal.status == 404 => return Ok(made),
            Err(refusal) => return Err(refusal),
        };
        let private_ip_sets = private_ips(&details);
        let ipv6_sets = ipv6_sets(&details.eni);
        let eni = details.eni;
        Ok(CreateNetworkInterfaceResponse {
            request_id: String::new(),
            r#type: eni_state::kind(&eni).to_owned(),
            private_ip_sets,
            ipv6_sets,
            network_interface_id: eni.eni_id,
            network_interface_name: eni.name,
            description: eni.description,
            mac_address: eni.mac,
            private_ip_address: eni.private_ip.to_string(),
            security_group_ids: eni.security_group_ids,
            source_dest_check: eni.source_dest_check,
            status: eni.status,
            tags: tags(eni.tags),
            v_switch_id: eni.vswitch_id,
            vpc_id: eni.vpc_id,
            zone_id: eni.zone_id,
        })
    }

    pub(super) async fn delete_network_interface(
        &self,
        request: DeleteNetworkInterfaceRequest,
    ) -> Result<DeleteNetworkInterfaceResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let eni_id = request.network_interface_id;
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let lookup = EnisLookup { eni_ids: vec![eni_id.clone()], ..Default::default() };
        let decide = move |view: &EnisView| {
            let eni = found(view, &eni_id)?;
            eni_state::expect_loose(eni, "DeleteNetworkInterface")?;
            Ok(EnisPlan { delete: vec![eni_id.clone()], ..Default::default() })
        };
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DeleteNetworkInterfaceResponse::default())
    }
}
