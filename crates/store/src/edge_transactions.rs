//! What goes into and comes out of transactions about VPCs and what leads out of them.

use crate::{edge_records::*, eni_records::*, network_transactions::GroupMembers, records::*};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// What a decision about networks wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeLookup {
    /// Ids of anything: VPCs, what is in them, EIPs, prefix lists, instances.
    pub ids: Vec<String>,
    /// Every public address that is taken.
    pub public_addresses: bool,
    /// Every host, with its number of NAT gateways.
    pub hosts: bool,
    /// Every interface, group and rule of the VPCs, and the instances of the interfaces.
    pub interfaces: bool,
}

impl EdgeLookup {
    /// Reads what these ids are, and the VPCs they are in.
    pub fn of<I: Into<String>>(ids: impl IntoIterator<Item = I>) -> Self {
        let ids = ids.into_iter().map(Into::into).filter(|id| !id.is_empty()).collect();
        Self { ids, ..Self::default() }
    }
}

/// A VPC and what leads through and out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcNetwork {
    /// The VPC.
    pub vpc: VpcRecord,
    /// Its VSwitches.
    pub vswitches: Vec<VSwitchRecord>,
    /// Its route tables, the system one first.
    pub route_tables: Vec<RouteTableRecord>,
    /// Their custom entries.
    pub route_entries: Vec<RouteEntryRecord>,
    /// Its NAT gateways.
    pub nat_gateways: Vec<NatGatewayRecord>,
    /// Their SNAT entries.
    pub snat_entries: Vec<SnatEntryRecord>,
    /// Their DNAT entries.
    pub forward_entries: Vec<ForwardEntryRecord>,
    /// Public addresses that are associated with something in it.
    pub eips: Vec<EipRecord>,
    /// Number of its security groups.
    pub security_groups: u64,
    /// VSwitches in which interfaces have IPv6 addresses.
    pub ipv6_in_use: Vec<String>,
}

impl VpcNetwork {
    /// Every IPv4 range of the VPC.
    pub fn cidrs(&self) -> impl Iterator<Item = ipnet::Ipv4Net> + '_ {
        std::iter::once(self.vpc.cidr).chain(self.vpc.secondary_cidrs.iter().copied())
    }

    /// EIPs of one NAT gateway.
    pub fn eips_of(&self, nat_gateway_id: &str) -> impl Iterator<Item = &EipRecord> {
        self.eips.iter().filter(
            move |eip| matches!(&eip.target, Some(EipTarget::NatGateway(id)) if id == nat_gateway_id),
        )
    }
}

/// What a decision about networks sees: of what was asked for, all that exists.
#[derive(Debug, Clone, Default)]
pub struct EdgeView {
    /// The VPCs asked for, and those of everything else.
    pub vpcs: Vec<VpcNetwork>,
    /// The EIPs asked for.
    pub eips: Vec<EipRecord>,
    /// The interfaces asked for, those of the asked instances, and with `interfaces` all.
    pub enis: Vec<EniRecord>,
    /// The instances asked for, and with `interfaces` those of the interfaces.
    pub instances: Vec<InstanceRecord>,
    /// The prefix lists asked for.
    pub prefix_lists: Vec<PrefixListRecord>,
    /// Groups whose rules name them: the list's id and the group's.
    pub associations: Vec<(String, String)>,
    /// With `interfaces`: groups of the VPCs.
    pub groups: Vec<GroupMembers>,
    /// With `public_addresses`.
    pub public_addresses: BTreeSet<Ipv4Addr>,
    /// With `hosts`.
    pub hosts: Vec<(HostRecord, u64)>,
}

impl EdgeView {
    /// A VPC.
    pub fn vpc(&self, vpc_id: &str) -> Option<&VpcNetwork> {
        self.vpcs.iter().find(|network| network.vpc.vpc_id == vpc_id)
    }

    /// A VSwitch and its VPC.
    pub fn vswitch(&self, vswitch_id: &str) -> Option<(&VpcNetwork, &VSwitchRecord)> {
        self.find(|network| network.vswitches.iter().find(|v| v.vswitch_id == vswitch_id))
    }

    /// A route table and its VPC.
    pub fn route_table(&self, id: &str) -> Option<(&VpcNetwork, &RouteTableRecord)> {
        self.find(|network| network.route_tables.iter().find(|t| t.route_table_id == id))
    }

    /// A NAT gateway and its VPC.
    pub fn nat_gateway(&self, id: &str) -> Option<(&VpcNetwork, &NatGatewayRecord)> {
        self.find(|network| network.nat_gateways.iter().find(|n| n.nat_gateway_id == id))
    }

    /// What a VPC has, and the VPC.
    pub fn find<'a, T>(
        &'a self,
        look: impl Fn(&'a VpcNetwork) -> Option<&'a T>,
    ) -> Option<(&'a VpcNetwork, &'a T)> {
        self.vpcs.iter().find_map(|network| look(network).map(|found| (network, found)))
    }
}

/// A row that a transaction writes or removes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EdgeRecord {
    /// Only written: names, ranges.
    Vpc(VpcRecord),
    /// Only written: names, route table.
    VSwitch(VSwitchRecord),
    RouteTable(RouteTableRecord),
    RouteEntry(RouteEntryRecord),
    Eip(EipRecord),
    NatGateway(NatGatewayRecord),
    SnatEntry(SnatEntryRecord),
    ForwardEntry(ForwardEntryRecord),
    PrefixList(PrefixListRecord),
}

/// What a decision about networks changes. EIPs are written first, then rows are removed, then the
/// rest is written.
#[derive(Debug, Clone, Default)]
pub struct EdgePlan {
    /// Rows to remove.
    pub delete: Vec<EdgeRecord>,
    /// Rows to make or to overwrite.
    pub put: Vec<EdgeRecord>,
    /// Whole new records of instances in the view.
    pub update_instances: Vec<InstanceRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}

/// Filters of a list of route tables; empty ones match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RouteTableFilter {
    pub vpc_id: String,
    pub route_table_id: String,
    /// `*` is a wildcard.
    pub name: String,
    pub system: Option<bool>,
}

/// Filters of a list of EIPs; static public addresses are among them only if asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EipFilter {
    pub allocation_ids: Vec<String>,
    pub addresses: Vec<Ipv4Addr>,
    /// `*` is a wildcard.
    pub name: String,
    pub status: String,
    /// Id of what it is associated with.
    pub target_id: String,
    /// `EcsInstance NetworkInterface Nat`
    pub target_type: String,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
    /// Static public addresses too.
    pub fixed_too: bool,
}

/// Filters of a list of NAT gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NatGatewayFilter {
    pub nat_gateway_ids: Vec<String>,
    pub vpc_id: String,
    pub zone_id: String,
    /// `*` is a wildcard.
    pub name: String,
    /// On no host, or on one that is lost.
    pub misplaced: bool,
}

/// Filters of a list of prefix lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PrefixListFilter {
    pub prefix_list_ids: Vec<String>,
    /// `*` is a wildcard.
    pub name: String,
    pub ipv6: Option<bool>,
}
