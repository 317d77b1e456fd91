//! Attributes of VPCs and VSwitches, secondary and IPv6 address ranges.

use super::{Api, networks::parse_cidr};
use crate::{
    ecs_error::{from_store, invalid, missing, refuse, vpc_not_found, vswitch_not_found},
    timestamp, validation,
};
use api::v1::*;
use ipnet::{Ipv4Net, Ipv6Net};
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EdgeView, Page, Refusal, VSwitchFilter, VSwitchRecord,
    VpcNetwork, VpcRecord,
};

const MOST_SECONDARY_CIDRS: usize = 5;
/// Ranges that no VPC has: shared address space, in which the metadata service is, multicast,
/// loopback and link-local addresses.
const RESERVED: [&str; 4] = ["100.64.0.0/10", "224.0.0.0/4", "127.0.0.0/8", "169.254.0.0/16"];

/// The id of a VPC's router. It has no life of its own.
pub(super) fn router_id(vpc_id: &str) -> String {
    format!("vrt-{}", vpc_id.strip_prefix("vpc-").unwrap_or(vpc_id))
}

/// Whether two ranges have addresses in common.
pub(super) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// Refuses a range that no VPC may have.
pub(super) fn check_reserved(net: &Ipv4Net) -> Result<(), Refusal> {
    let mut reserved = RESERVED.iter().filter_map(|range| range.parse::<Ipv4Net>().ok());
    match reserved.find(|range| overlap(range, net)) {
        None => Ok(()),
        Some(range) => Err(refuse(
            400,
            "InvalidCidrBlock",
            format!("{net} overlaps {range}, which is reserved; choose another range"),
        )),
    }
}

/// The /64 of a VSwitch: the VPC's /56 and a byte.
pub(super) fn ipv6_block(
    vpc: &VpcRecord,
    vswitches: &[VSwitchRecord],
    byte: u32,
) -> Result<Ipv6Net, Refusal> {
    let range = vpc.ipv6_cidr.ok_or_else(|| {
        refuse(
            400,
            "InvalidVpc.Ipv6NotTurnOn",
            format!("VPC {} has no IPv6; ModifyVpcAttribute with enable_ipv6 first", vpc.vpc_id),
        )
    })?;
    let byte = u8::try_from(byte)
        .map_err(|_| invalid(format!("ipv6_cidr_block is {byte}; it must be 0 to 255")))?;
    let mut octets = range.network().octets();
    octets[7] = byte;
    let block = Ipv6Net::new_assert(octets.into(), 64);
    match vswitches.iter().find(|other| other.ipv6_cidr == Some(block)) {
        None => Ok(block),
        Some(other) => Err(refuse(
            400,
            "InvalidIpv6CidrBlock.Duplicated",
            format!("{block} is that of VSwitch {}; choose another byte", other.vswitch_id),
        )),
    }
}

fn secondary_cidr(text: &str, network: &VpcNetwork) -> Result<Ipv4Net, Refusal> {
    let net = parse_cidr(text)?;
    if !(8..=28).contains(&net.prefix_len()) {
        return Err(refuse(
            400,
            "InvalidCidrBlock",
            format!("a secondary CIDR block is /8 to /28; {net} is not"),
        ));
    }
    check_reserved(&net)?;
    if let Some(other) = network.cidrs().find(|other| overlap(other, &net)) {
        return Err(refuse(
            400,
            "InvalidCidrBlock.Overlapped",
            format!("{net} overlaps {other} of VPC {}", network.vpc.vpc_id),
        ));
    }
    if network.vpc.secondary_cidrs.len() >= MOST_SECONDARY_CIDRS {
        return Err(refuse(
            400,
            "QuotaExceeded.SecondaryCidrBlock",
            format!(
                "VPC {} has {MOST_SECONDARY_CIDRS} secondary CIDR blocks, the most",
                network.vpc.vpc_id
            ),
        ));
    }
    Ok(net)
}

/// A VSwitch as answers have it.
pub(super) fn describe_vswitch(vswitch: VSwitchRecord, enis: u64, view: &EdgeView) -> VSwitch {
    let all = u64::from(u32::from(vswitch.last_ip) - u32::from(vswitch.first_ip));
    let custom = view.route_table(&vswitch.route_table_id).is_some_and(|(_, table)| !table.system);
    VSwitch {
        v_switch_id: vswitch.vswitch_id,
        v_switch_name: vswitch.name,
        description: vswitch.description,
        vpc_id: vswitch.vpc_id,
        zone_id: vswitch.zone_id,
        cidr_block: vswitch.cidr.to_string(),
        status: "Available".to_owned(),
        available_ip_address_count: (all + 1).saturating_sub(enis),
        creation_time: timestamp::second(vswitch.created_ms),
        route_table: Some(VSwitchRouteTable {
            route_table_id: vswitch.route_table_id,
            route_table_type: if custom { "Custom" } else { "System" }.to_owned(),
        }),
        enabled_ipv6: vswitch.ipv6_cidr.is_some(),
        ipv6_cidr_block: vswitch.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
        is_default: false,
    }
}

/// The VPC and the plan that starts with it.
fn changed_vpc(
    view: &EdgeView,
    vpc_id: &str,
    change: impl FnOnce(&mut VpcRecord, &VpcNetwork) -> Result<(), Refusal>,
) -> Result<EdgePlan, Refusal> {
    let network = view.vpc(vpc_id).ok_or_else(|| vpc_not_found(vpc_id))?;
    let mut vpc = network.vpc.clone();
    change(&mut vpc, network)?;
    Ok(EdgePlan { put: vec![EdgeRecord::Vpc(vpc)], ..EdgePlan::default() })
}

impl Api {
    /// A VPC as answers have it.
    pub(super) fn describe_vpc(&self, network: &VpcNetwork) -> Vpc {
        let vpc = &network.vpc;
        Vpc {
            vpc_id: vpc.vpc_id.clone(),
            vpc_name: vpc.name.clone(),
            description: vpc.description.clone(),
            region_id: self.cloud.options.region_id.clone(),
            cidr_block: vpc.cidr.to_string(),
            status: "Available".to_owned(),
            creation_time: timestamp::second(vpc.created_ms),
            v_switch_ids: network.vswitches.iter().map(|v| v.vswitch_id.clone()).collect(),
            is_default: false,
            secondary_cidr_blocks: vpc.secondary_cidrs.iter().map(ToString::to_string).collect(),
            v_router_id: router_id(&vpc.vpc_id),
            router_table_ids: network
                .route_tables
                .iter()
                .map(|table| table.route_table_id.clone())
                .collect(),
            nat_gateway_ids: network
                .nat_gateways
                .iter()
                .map(|gateway| gateway.nat_gateway_id.clone())
                .collect(),
            enabled_ipv6: vpc.ipv6_cidr.is_some(),
            ipv6_cidr_block: vpc.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
        }
    }

    pub(super) async fn describe_vpc_attribute(
        &self,
        request: DescribeVpcAttributeRequest,
    ) -> Result<DescribeVpcAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        let view = self.edge(EdgeLookup::of([&request.vpc_id])).await?;
        let network = view.vpc(&request.vpc_id).ok_or_else(|| vpc_not_found(&request.vpc_id))?;
        let vpc = self.describe_vpc(network);
        let counts = [
            ("VSwitch", network.vswitches.len()),
            ("VRouter", 1),
            ("RouteTable", network.route_tables.len()),
            ("NatGateway", network.nat_gateways.len()),
            ("SecurityGroup", usize::try_from(network.security_groups).unwrap_or(usize::MAX)),
            ("Eip", network.eips.iter().filter(|eip| !eip.fixed).count()),
        ];
        Ok(DescribeVpcAttributeResponse {
            request_id: String::new(),
            vpc_id: vpc.vpc_id,
            vpc_name: vpc.vpc_name,
            description: vpc.description,
            region_id: vpc.region_id,
            cidr_block: vpc.cidr_block,
            status: vpc.status,
            creation_time: vpc.creation_time,
            v_switch_ids: vpc.v_switch_ids,
            is_default: vpc.is_default,
            secondary_cidr_blocks: vpc.secondary_cidr_blocks,
            v_router_id: vpc.v_router_id,
            enabled_ipv6: vpc.enabled_ipv6,
            ipv6_cidr_block: vpc.ipv6_cidr_block,
            cloud_resources: counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(resource_type, count)| CloudResource {
                    resource_type: resource_type.to_owned(),
                    resource_count: u32::try_from(count).unwrap_or(u32::MAX),
                })
                .collect(),
        })
    }

    pub(super) async fn modify_vpc_attribute(
        &self,
        request: ModifyVpcAttributeRequest,
    ) -> Result<ModifyVpcAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        if let Some(name) = &request.vpc_name {
            validation::display_name("InvalidVpcName.Malformed", "VPC name", name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        let lookup = EdgeLookup::of([&request.vpc_id]);
        self.change_edge(None, lookup, move |view| {
            changed_vpc(view, &request.vpc_id, |vpc, network| {
                if let Some(name) = &request.vpc_name {
                    vpc.name.clone_from(name);
                }
                if let Some(description) = &request.description {
                    vpc.description.clone_from(description);
                }
                match request.enable_ipv6 {
                    Some(true) => vpc.ipv6_cidr = Some(VpcRecord::ipv6_range(vpc.vni)),
                    Some(false) => {
                        let user = network.vswitches.iter().find(|v| v.ipv6_cidr.is_some());
                        if let Some(vswitch) = user {
                            return Err(refuse(
                                400,
                                "DependencyViolation.VSwitch",
                                format!(
                                    "VSwitch {} has IPv6; turn it off there first",
                                    vswitch.vswitch_id
                                ),
                            ));
                        }
                        vpc.ipv6_cidr = None;
                    }
                    None => {}
                }
                Ok(())
            })
        })
        .await
    }

    pub(super) async fn associate_vpc_cidr_block(
        &self,
        request: AssociateVpcCidrBlockRequest,
    ) -> Result<AssociateVpcCidrBlockResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        if request.secondary_cidr_block.is_empty() {
            return Err(missing("secondary_cidr_block"));
        }
        let lookup = EdgeLookup::of([&request.vpc_id]);
        self.change_edge(None, lookup, move |view| {
            changed_vpc(view, &request.vpc_id, |vpc, network| {
                vpc.secondary_cidrs.push(secondary_cidr(&request.secondary_cidr_block, network)?);
                Ok(())
            })
        })
        .await
    }

    pub(super) async fn unassociate_vpc_cidr_block(
        &self,
        request: UnassociateVpcCidrBlockRequest,
    ) -> Result<UnassociateVpcCidrBlockResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        let net = parse_cidr(&request.secondary_cidr_block)?;
        let lookup = EdgeLookup::of([&request.vpc_id]);
        self.change_edge(None, lookup, move |view| {
            changed_vpc(view, &request.vpc_id, |vpc, network| {
                if !vpc.secondary_cidrs.contains(&net) {
                    return Err(refuse(
                        404,
                        "InvalidCidrBlock.NotFound",
                        format!("{net} is no secondary CIDR block of VPC {}", vpc.vpc_id),
                    ));
                }
                let inside = network.vswitches.iter().find(|v| net.contains(&v.cidr));
                if let Some(vswitch) = inside {
                    return Err(refuse(
                        400,
                        "DependencyViolation.VSwitch",
                        format!("VSwitch {} is in {net}; delete it first", vswitch.vswitch_id),
                    ));
                }
                vpc.secondary_cidrs.retain(|cidr| *cidr != net);
                Ok(())
            })
        })
        .await
    }

    pub(super) async fn describe_v_switch_attributes(
        &self,
        request: DescribeVSwitchAttributesRequest,
    ) -> Result<DescribeVSwitchAttributesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.v_switch_id.is_empty() {
            return Err(missing("v_switch_id"));
        }
        let filter =
            VSwitchFilter { vswitch_id: request.v_switch_id.clone(), ..VSwitchFilter::default() };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.vswitches(filter, page).await.map_err(from_store)?;
        let view = self.edge(EdgeLookup::of([&request.v_switch_id])).await?;
        let (vswitch, enis) = listed
            .items
            .into_iter()
            .next()
            .ok_or_else(|| vswitch_not_found(&request.v_switch_id))?;
        let vswitch = describe_vswitch(vswitch, enis, &view);
        Ok(DescribeVSwitchAttributesResponse {
            request_id: String::new(),
            v_switch_id: vswitch.v_switch_id,
            v_switch_name: vswitch.v_switch_name,
            description: vswitch.description,
            vpc_id: vswitch.vpc_id,
            zone_id: vswitch.zone_id,
            cidr_block: vswitch.cidr_block,
            status: vswitch.status,
            available_ip_address_count: vswitch.available_ip_address_count,
            creation_time: vswitch.creation_time,
            route_table: vswitch.route_table,
            enabled_ipv6: vswitch.enabled_ipv6,
            ipv6_cidr_block: vswitch.ipv6_cidr_block,
            is_default: vswitch.is_default,
        })
    }

    pub(super) async fn modify_v_switch_attribute(
        &self,
        request: ModifyVSwitchAttributeRequest,
    ) -> Result<ModifyVSwitchAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.v_switch_id.is_empty() {
            return Err(missing("v_switch_id"));
        }
        if let Some(name) = &request.v_switch_name {
            validation::display_name("InvalidVSwitchName.Malformed", "VSwitch name", name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        let lookup = EdgeLookup::of([&request.v_switch_id]);
        self.change_edge(None, lookup, move |view| {
            let (network, vswitch) = view
                .vswitch(&request.v_switch_id)
                .ok_or_else(|| vswitch_not_found(&request.v_switch_id))?;
            let mut vswitch = vswitch.clone();
            if let Some(name) = &request.v_switch_name {
                vswitch.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                vswitch.description.clone_from(description);
            }
            let before = vswitch.ipv6_cidr;
            match (request.enable_ipv6, request.ipv6_cidr_block) {
                (Some(false), _) => vswitch.ipv6_cidr = None,
                (Some(true), None) => return Err(missing("ipv6_cidr_block")),
                (_, Some(byte)) => {
                    let others: Vec<VSwitchRecord> = network
                        .vswitches
                        .iter()
                        .filter(|other| other.vswitch_id != vswitch.vswitch_id)
                        .cloned()
                        .collect();
                    vswitch.ipv6_cidr = Some(ipv6_block(&network.vpc, &others, byte)?);
                }
                (None, None) => {}
            }
            if before != vswitch.ipv6_cidr && network.ipv6_in_use.contains(&vswitch.vswitch_id) {
                return Err(refuse(
                    400,
                    "DependencyViolation.NetworkInterface",
                    format!(
                        "network interfaces in VSwitch {} have addresses of its IPv6 block; \
                         UnassignIpv6Addresses first",
                        vswitch.vswitch_id
                    ),
                ));
            }
            Ok(EdgePlan { put: vec![EdgeRecord::VSwitch(vswitch)], ..EdgePlan::default() })
        })
        .await
    }
}
