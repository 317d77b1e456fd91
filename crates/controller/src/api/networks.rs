//! VPCs and VSwitches.

use super::{Api, paging, request, service, vpc_attributes};
use crate::{
    ecs_error::{dry_run, from_store, missing, refuse, vpc_not_found, vswitch_not_found},
    ids,
    timestamp::now_ms,
    validation,
};
use api::v1::{vpc_service_server::VpcService, *};
use ipnet::Ipv4Net;
use prost::Message as _;
use std::{collections::BTreeSet, net::Ipv4Addr};
use store::{
    EdgeLookup, Planned, Refusal, VSwitchFilter, VSwitchRecord, VSwitchView, VpcFilter, VpcRecord,
    VpcView,
};

const DEFAULT_VPC: &str = "172.16.0.0/12";
const PRIVATE_RANGES: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
const MOST_VSWITCHES: usize = 150;

service!(VpcService => Api {
    create_vpc: CreateVpcRequest => CreateVpcResponse;
    describe_vpcs: DescribeVpcsRequest => DescribeVpcsResponse;
    describe_vpc_attribute: DescribeVpcAttributeRequest => DescribeVpcAttributeResponse;
    modify_vpc_attribute: ModifyVpcAttributeRequest => ModifyVpcAttributeResponse;
    associate_vpc_cidr_block: AssociateVpcCidrBlockRequest => AssociateVpcCidrBlockResponse;
    unassociate_vpc_cidr_block: UnassociateVpcCidrBlockRequest => UnassociateVpcCidrBlockResponse;
    delete_vpc: DeleteVpcRequest => DeleteVpcResponse;
    create_v_switch: CreateVSwitchRequest => CreateVSwitchResponse;
    describe_v_switches: DescribeVSwitchesRequest => DescribeVSwitchesResponse;
    describe_v_switch_attributes:
        DescribeVSwitchAttributesRequest => DescribeVSwitchAttributesResponse;
    modify_v_switch_attribute: ModifyVSwitchAttributeRequest => ModifyVSwitchAttributeResponse;
    delete_v_switch: DeleteVSwitchRequest => DeleteVSwitchResponse;
});

/// A range written as its network address.
pub(super) fn parse_cidr(text: &str) -> Result<Ipv4Net, Refusal> {
    let malformed = |hint: String| {
        refuse(400, "InvalidCidrBlock.Malformed", format!("CIDR block {text:?} {hint}"))
    };
    let net: Ipv4Net =
        text.parse().map_err(|_| malformed("is not of the form 192.168.0.0/16".to_owned()))?;
    if net.addr() != net.network() {
        return Err(malformed(format!("has host bits set; did you mean {}?", net.trunc())));
    }
    Ok(net)
}

fn vpc_cidr(text: &str) -> Result<Ipv4Net, Refusal> {
    let net = parse_cidr(if text.is_empty() { DEFAULT_VPC } else { text })?;
    let private = PRIVATE_RANGES
        .iter()
        .filter_map(|range| range.parse::<Ipv4Net>().ok())
        .any(|range| range.contains(&net));
    if private && (8..=28).contains(&net.prefix_len()) {
        return Ok(net);
    }
    Err(refuse(
        400,
        "InvalidCidrBlock",
        format!(
            "a VPC's CIDR block lies in {} and is /8 to /28; {net} is not",
            PRIVATE_RANGES.join(", ")
        ),
    ))
}

/// First, last and gateway address: the first address of a VSwitch and its last three are not for
/// interfaces; the gateway is the first of these three.
fn usable(net: Ipv4Net) -> (Ipv4Addr, Ipv4Addr, Ipv4Addr) {
    let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
    ((network + 1).into(), (broadcast - 3).into(), (broadcast - 2).into())
}

fn vswitch_cidr(text: &str, vpc: &VpcRecord, others: &[VSwitchRecord]) -> Result<Ipv4Net, Refusal> {
    let net = parse_cidr(text)?;
    if !(16..=29).contains(&net.prefix_len()) {
        return Err(refuse(
            400,
            "InvalidCidrBlock",
            format!("a VSwitch's CIDR block is /16 to /29; {net} is not"),
        ));
    }
    let mut blocks = std::iter::once(&vpc.cidr).chain(&vpc.secondary_cidrs);
    if !blocks.any(|block| block.contains(&net)) {
        let secondary: String =
            vpc.secondary_cidrs.iter().map(|cidr| format!(", {cidr}")).collect();
        return Err(refuse(
            400,
            "InvalidCidrBlock",
            format!(
                "{net} does not lie in the block {}{secondary} of VPC {}",
                vpc.cidr, vpc.vpc_id
            ),
        ));
    }
    let overlap =
        others.iter().find(|other| other.cidr.contains(&net) || net.contains(&other.cidr));
    match overlap {
        None => Ok(net),
        Some(other) => Err(refuse(
            400,
            "InvalidCidrBlock.Overlapped",
            format!("{net} overlaps {} of VSwitch {}", other.cidr, other.vswitch_id),
        )),
    }
}

impl Api {
    async fn create_vpc(&self, request: CreateVpcRequest) -> Result<CreateVpcResponse, Refusal> {
        let token = request::token("CreateVpc", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        validation::display_name("InvalidVpcName.Malformed", "VPC name", &request.vpc_name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let cidr = vpc_cidr(&request.cidr_block)?;
        if request.dry_run {
            return Err(dry_run());
        }
        let record = VpcRecord {
            vpc_id: ids::vpc(),
            name: request.vpc_name,
            description: request.description,
            cidr,
            vni: 0,
            secondary_cidrs: Vec::new(),
            // The store puts the VPC's own in its place.
            ipv6_cidr: request.enable_ipv6.then(|| VpcRecord::ipv6_range(0)),
            system_route_table_id: ids::route_table(),
            created_ms: now_ms(),
        };
        let answer = CreateVpcResponse {
            request_id: String::new(),
            vpc_id: record.vpc_id.clone(),
            v_router_id: vpc_attributes::router_id(&record.vpc_id),
            route_table_id: record.system_route_table_id.clone(),
        };
        let planned = Planned { record, answer: answer.encode_to_vec() };
        request::response(self.cloud.store.create_vpc(token, planned).await)
    }

    async fn describe_vpcs(
        &self,
        request: DescribeVpcsRequest,
    ) -> Result<DescribeVpcsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let vpc_ids: Vec<String> = request
            .vpc_id
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect();
        request::at_most_100("vpc_id", vpc_ids.len())?;
        let filter = VpcFilter { vpc_ids, name: request.vpc_name };
        let listed = self.cloud.store.vpcs(filter, page).await.map_err(from_store)?;
        let lookup = EdgeLookup::of(listed.items.iter().map(|(vpc, _)| vpc.vpc_id.as_str()));
        let view = self.edge(lookup).await?;
        Ok(DescribeVpcsResponse {
            request_id: String::new(),
            vpcs: listed
                .items
                .iter()
                .filter_map(|(vpc, _)| view.vpc(&vpc.vpc_id))
                .map(|network| self.describe_vpc(network))
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn delete_vpc(&self, request: DeleteVpcRequest) -> Result<DeleteVpcResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        let vpc_id = request.vpc_id.clone();
        let decide = move |view: &VpcView| {
            if view.vpc.is_none() {
                return Err(vpc_not_found(&vpc_id));
            }
            let in_use = |code, what: String| {
                Err(refuse(403, code, format!("VPC {vpc_id} has {what}; delete them first")))
            };
            if !view.vswitches.is_empty() {
                let ids: Vec<&str> =
                    view.vswitches.iter().map(|vswitch| vswitch.vswitch_id.as_str()).collect();
                return in_use(
                    "DependencyViolation.VSwitch",
                    format!("VSwitches {}", ids.join(", ")),
                );
            }
            if view.security_groups > 0 {
                return in_use(
                    "DependencyViolation.SecurityGroup",
                    format!("{} security groups", view.security_groups),
                );
            }
            if !view.route_tables.is_empty() {
                return in_use(
                    "DependencyViolation.RouteTable",
                    format!("route tables {}", view.route_tables.join(", ")),
                );
            }
            Ok(())
        };
        self.cloud.store.delete_vpc(&request.vpc_id, Box::new(decide)).await.map_err(from_store)?;
        Ok(DeleteVpcResponse::default())
    }

    async fn create_v_switch(
        &self,
        request: CreateVSwitchRequest,
    ) -> Result<CreateVSwitchResponse, Refusal> {
        let token = request::token("CreateVSwitch", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in [
            ("vpc_id", &request.vpc_id),
            ("zone_id", &request.zone_id),
            ("cidr_block", &request.cidr_block),
        ] {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        self.cloud.check_zone(&request.zone_id)?;
        let name = &request.v_switch_name;
        validation::display_name("InvalidVSwitchName.Malformed", "VSwitch name", name)?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        let vpc_id = request.vpc_id.clone();
        let decide = move |view: &VpcView| {
            let vpc = view.vpc.as_ref().ok_or_else(|| vpc_not_found(&request.vpc_id))?;
            if view.vswitches.len() >= MOST_VSWITCHES {
                return Err(refuse(
                    403,
                    "QuotaExceeded.VSwitch",
                    format!("VPC {} has {MOST_VSWITCHES} VSwitches, the most", vpc.vpc_id),
                ));
            }
            let cidr = vswitch_cidr(&request.cidr_block, vpc, &view.vswitches)?;
            let (first_ip, last_ip, gateway_ip) = usable(cidr);
            let ipv6_cidr = request
                .ipv6_cidr_block
                .map(|byte| vpc_attributes::ipv6_block(vpc, &view.vswitches, byte))
                .transpose()?;
            let record = VSwitchRecord {
                vswitch_id: ids::vswitch(),
                vpc_id: vpc.vpc_id.clone(),
                zone_id: request.zone_id.clone(),
                cidr,
                name: request.v_switch_name.clone(),
                description: request.description.clone(),
                first_ip,
                last_ip,
                gateway_ip,
                route_table_id: vpc.system_route_table_id.clone(),
                ipv6_cidr,
                created_ms: now_ms(),
            };
            let v_switch_id = record.vswitch_id.clone();
            let answer = CreateVSwitchResponse { request_id: String::new(), v_switch_id };
            Ok(Planned { record, answer: answer.encode_to_vec() })
        };
        request::response(self.cloud.store.create_vswitch(token, &vpc_id, Box::new(decide)).await)
    }

    async fn describe_v_switches(
        &self,
        request: DescribeVSwitchesRequest,
    ) -> Result<DescribeVSwitchesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let filter = VSwitchFilter {
            vpc_id: request.vpc_id,
            vswitch_id: request.v_switch_id,
            zone_id: request.zone_id,
            route_table_id: request.route_table_id,
            name: request.v_switch_name,
        };
        let listed = self.cloud.store.vswitches(filter, page).await.map_err(from_store)?;
        let vpc_ids: BTreeSet<&str> =
            listed.items.iter().map(|(vswitch, _)| vswitch.vpc_id.as_str()).collect();
        let lookup = EdgeLookup::of(vpc_ids);
        let view = self.edge(lookup).await?;
        Ok(DescribeVSwitchesResponse {
            request_id: String::new(),
            v_switches: listed
                .items
                .into_iter()
                .map(|(vswitch, enis)| vpc_attributes::describe_vswitch(vswitch, enis, &view))
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn delete_v_switch(
        &self,
        request: DeleteVSwitchRequest,
    ) -> Result<DeleteVSwitchResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.v_switch_id.is_empty() {
            return Err(missing("v_switch_id"));
        }
        let id = request.v_switch_id.clone();
        let decide = move |view: &VSwitchView| {
            if view.vswitch.is_none() {
                return Err(vswitch_not_found(&id));
            }
            for (users, code, what) in [
                (&view.nat_gateways, "DependencyViolation.NatGateway", "NAT gateways"),
                (&view.snat_entries, "DependencyViolation.SnatEntry", "SNAT entries"),
            ] {
                if !users.is_empty() {
                    let users = users.join(", ");
                    let message = format!("VSwitch {id} has {what} {users}; delete them first");
                    return Err(refuse(403, code, message));
                }
            }
            if view.enis > 0 {
                return Err(refuse(
                    403,
                    "DependencyViolation",
                    format!(
                        "VSwitch {id} has {} network interfaces; delete them and their instances first",
                        view.enis
                    ),
                ));
            }
            Ok(())
        };
        self.cloud
            .store
            .delete_vswitch(&request.v_switch_id, Box::new(decide))
            .await
            .map_err(from_store)?;
        Ok(DeleteVSwitchResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vpc_blocks() {
        for good in ["", "10.0.0.0/8", "172.20.0.0/16", "192.168.1.0/28"] {
            assert!(vpc_cidr(good).is_ok(), "{good}");
        }
        for bad in ["11.0.0.0/8", "10.0.0.0/7", "192.168.0.0/29", "10.0.0.1/8", "10.0.0.0", "x"] {
            assert!(vpc_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn first_and_last_three_addresses_are_reserved() {
        let text = |cidr: &str| {
            let (first, last, gateway) = usable(cidr.parse().unwrap());
            (first.to_string(), last.to_string(), gateway.to_string())
        };
        let expect = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(text("192.168.1.0/24"), expect("192.168.1.1", "192.168.1.252", "192.168.1.253"));
        assert_eq!(text("10.0.0.8/29"), expect("10.0.0.9", "10.0.0.12", "10.0.0.13"));
    }
}
