//! What network interfaces there are and how they are.

use super::{Api, network_interface_ipv6, paging, request, service};
use crate::{
    ecs_error::{eni_not_found, from_store, invalid, missing},
    eni_state, timestamp,
};
use api::v1::{network_interface_service_server::NetworkInterfaceService, *};
use std::net::Ipv4Addr;
use store::{
    EipRecord, EipTarget, EniDetails, EniFilter, EniRecord, EnisView, InstanceDetails, Page,
    Refusal,
};

service!(NetworkInterfaceService => Api {
    create_network_interface: CreateNetworkInterfaceRequest => CreateNetworkInterfaceResponse;
    delete_network_interface: DeleteNetworkInterfaceRequest => DeleteNetworkInterfaceResponse;
    attach_network_interface: AttachNetworkInterfaceRequest => AttachNetworkInterfaceResponse;
    detach_network_interface: DetachNetworkInterfaceRequest => DetachNetworkInterfaceResponse;
    describe_network_interfaces:
        DescribeNetworkInterfacesRequest => DescribeNetworkInterfacesResponse;
    describe_network_interface_attribute:
        DescribeNetworkInterfaceAttributeRequest => DescribeNetworkInterfaceAttributeResponse;
    modify_network_interface_attribute:
        ModifyNetworkInterfaceAttributeRequest => ModifyNetworkInterfaceAttributeResponse;
    assign_private_ip_addresses:
        AssignPrivateIpAddressesRequest => AssignPrivateIpAddressesResponse;
    unassign_private_ip_addresses:
        UnassignPrivateIpAddressesRequest => UnassignPrivateIpAddressesResponse;
    assign_ipv6_addresses: AssignIpv6AddressesRequest => AssignIpv6AddressesResponse;
    unassign_ipv6_addresses: UnassignIpv6AddressesRequest => UnassignIpv6AddressesResponse;
});

/// The interface of a view that was asked for.
pub(super) fn found<'a>(view: &'a EnisView, eni_id: &str) -> Result<&'a EniRecord, Refusal> {
    view.enis.iter().find(|eni| eni.eni_id == eni_id).ok_or_else(|| eni_not_found(eni_id))
}

/// An instance of a view.
pub(super) fn instance_in<'a>(
    view: &'a EnisView,
    instance_id: &str,
) -> Option<&'a InstanceDetails> {
    view.instances.iter().find(|details| details.instance.instance_id == instance_id)
}

/// An address in text.
pub(super) fn address(parameter: &str, text: &str) -> Result<Ipv4Addr, Refusal> {
    text.parse().map_err(|_| invalid(format!("{parameter} {text:?} is not an IPv4 address")))
}

/// The addresses of an interface as answers have them, the primary one first.
pub(super) fn private_ips(details: &EniDetails) -> Vec<PrivateIp> {
    let public = |private: Ipv4Addr| {
        let stands_for = |eip: &&EipRecord| {
            matches!(&eip.target, Some(EipTarget::Interface { private_ip, .. })
                if *private_ip == private)
        };
        details.eips.iter().find(stands_for).map(|eip| AssociatedPublicIp {
            allocation_id: if eip.fixed { String::new() } else { eip.allocation_id.clone() },
            public_ip_address: eip.address.to_string(),
        })
    };
    details
        .eni
        .addresses()
        .enumerate()
        .map(|(position, address)| PrivateIp {
            private_ip_address: address.to_string(),
            primary: position == 0,
            associated_public_ip: public(address),
        })
        .collect()
}

/// Tags as answers have them.
pub(super) fn tags(tags: Vec<(String, String)>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag { key, value }).collect()
}

impl Api {
    async fn describe_network_interfaces(
        &self,
        mut request: DescribeNetworkInterfacesRequest,
    ) -> Result<DescribeNetworkInterfacesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        request::at_most_100("network_interface_id", request.network_interface_id.len())?;
        request::at_most_100("private_ip_address", request.private_ip_address.len())?;
        request::at_most_100("ipv6_address", request.ipv6_address.len())?;
        request::at_most_100("tag", request.tag.len())?;
        let (number, size) = (request.page_number, request.page_size);
        let (token, max_results) = (std::mem::take(&mut request.next_token), request.max_results);
        (request.page_number, request.page_size, request.max_results) = (0, 0, 0);
        let (page, page_number, page_size) =
            paging::either((number, size), (&token, max_results), 100, &request)?;
        let by_token = page_size == 0;
        if !request.status.is_empty() && !eni_state::ALL.contains(&request.status.as_str()) {
            return Err(invalid(format!(
                "status {:?} does not exist; choose one of {}",
                request.status,
                eni_state::ALL.join(", ")
            )));
        }
        let filter = EniFilter {
            eni_ids: request.network_interface_id.clone(),
            instance_id: request.instance_id.clone(),
            vswitch_id: request.v_switch_id.clone(),
            vpc_id: request.vpc_id.clone(),
            security_group_id: request.security_group_id.clone(),
            name: request.network_interface_name.clone(),
            status: request.status.clone(),
            primary: match request.r#type.as_str() {
                "" => None,
                "Primary" => Some(true),
                "Secondary" => Some(false),
                other => {
                    return Err(invalid(format!(
                        "type is {other:?}; it must be Primary or Secondary"
                    )));
                }
            },
            primary_ip: match request.primary_ip_address.as_str() {
                "" => None,
                text => Some(address("primary_ip_address", text)?),
            },
            private_ips: request
                .private_ip_address
                .iter()
                .map(|text| address("private_ip_address", text))
                .collect::<Result<_, _>>()?,
            ipv6_addresses: request
                .ipv6_address
                .iter()
                .map(|text| network_interface_ipv6::address(text))
                .collect::<Result<_, _>>()?,
            tags: request.tag.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        };
        let listed = self.cloud.store.enis(filter, page).await.map_err(from_store)?;
        Ok(DescribeNetworkInterfacesResponse {
            request_id: String::new(),
            network_interface_sets: listed.items.into_iter().map(describe).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
            next_token: paging::next_token(listed.next.filter(|_| by_token), &request),
        })
    }

    async fn describe_network_interface_attribute(
        &self,
        request: DescribeNetworkInterfaceAttributeRequest,
    ) -> Result<DescribeNetworkInterfaceAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let eni = self.find_eni(&request.network_interface_id).await?;
        Ok(DescribeNetworkInterfaceAttributeResponse {
            request_id: String::new(),
            network_interface: Some(describe(eni)),
        })
    }

    /// The interface with this id.
    pub(super) async fn find_eni(&self, eni_id: &str) -> Result<EniDetails, Refusal> {
        if eni_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let filter = EniFilter { eni_ids: vec![eni_id.to_owned()], ..Default::default() };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.enis(filter, page).await.map_err(from_store)?;
        listed.items.into_iter().next().ok_or_else(|| eni_not_found(eni_id))
    }
}

fn describe(details: EniDetails) -> NetworkInterface {
    let private_ip_sets = private_ips(&details);
    let ipv6_sets = network_interface_ipv6::ipv6_sets(&details.eni);
    let EniDetails { eni, .. } = details;
    let instance_id = eni_state::instance_of(&eni).to_owned();
    let attachment = (!instance_id.is_empty()).then(|| NetworkInterfaceAttachment {
        instance_id: instance_id.clone(),
        device_index: eni.position,
        attached_time: timestamp::second(eni.attached_ms),
    });
    NetworkInterface {
        r#type: eni_state::kind(&eni).to_owned(),
        status_reason: eni_state::reason(&eni),
        in_effect: eni_state::in_effect(&eni),
        associated_public_ip: private_ip_sets
            .first()
            .and_then(|primary| primary.associated_public_ip.clone()),
        private_ip_sets,
        ipv6_sets,
        network_interface_id: eni.eni_id,
        network_interface_name: eni.name,
        description: eni.description,
        mac_address: eni.mac,
        private_ip_address: eni.private_ip.to_string(),
        status: eni.status,
        instance_id,
        vpc_id: eni.vpc_id,
        v_switch_id: eni.vswitch_id,
        zone_id: eni.zone_id,
        security_group_ids: eni.security_group_ids,
        creation_time: timestamp::second(eni.created_ms),
        delete_on_release: eni.delete_on_release,
        source_dest_check: eni.source_dest_check,
        // How many a primary one has by default is its instance's affair.
        queue_number: if eni.primary { eni.queues } else { eni.queues.max(1) },
        tags: tags(eni.tags),
        attachment,
        host_id: eni.host_id,
    }
}
