//! What goes into and comes out of transactions about networks.

use crate::{edge_records::*, eni_records::*, records::*, transactions::*};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A VPC and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcView {
    /// None if there is no such VPC.
    pub vpc: Option<VpcRecord>,
    /// Its VSwitches.
    pub vswitches: Vec<VSwitchRecord>,
    /// Its security groups.
    pub security_groups: u64,
    /// Its custom route tables.
    pub route_tables: Vec<String>,
}

/// A VSwitch and its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VSwitchView {
    /// None if there is no such VSwitch.
    pub vswitch: Option<VSwitchRecord>,
    /// Interfaces in it.
    pub enis: u64,
    /// NAT gateways in it.
    pub nat_gateways: Vec<String>,
    /// SNAT entries that are for it.
    pub snat_entries: Vec<String>,
}

/// A VSwitch that interfaces are to be made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VSwitchRoom {
    /// The VSwitch.
    pub vswitch: VSwitchRecord,
    /// Addresses left in it.
    pub free_addresses: u64,
}

/// A security group and what it has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// None if there is no such group.
    pub group: Option<SecurityGroupRecord>,
    /// Its rules.
    pub rules: Vec<RuleRecord>,
    /// Interfaces in it.
    pub members: u64,
    /// Most rules that any of its members has of all its groups together; counted only for members
    /// in more than [`GroupView::FEW_GROUPS`] groups, 0 without such.
    pub most_member_rules: u64,
    /// Other groups whose rules name it.
    pub named_by: Vec<String>,
    /// Those of the asked peers that exist.
    pub peers: Vec<SecurityGroupRecord>,
    /// Prefix lists that its rules name, and those of the asked peers that are prefix lists.
    pub prefix_lists: Vec<PrefixListRecord>,
}

impl GroupView {
    /// An interface in no more groups than this cannot have too many rules.
    pub const FEW_GROUPS: u32 = 5;
}

/// What changes of a security group.
#[derive(Debug, Clone, Default)]
pub struct GroupPlan {
    /// The group's new name, description and policy; none: as it is.
    pub update: Option<SecurityGroupRecord>,
    /// New rules.
    pub insert: Vec<RuleRecord>,
    /// Whole new records of rules in the view.
    pub update_rules: Vec<RuleRecord>,
    /// Ids of rules to remove.
    pub delete: Vec<String>,
    /// The answer.
    pub answer: Vec<u8>,
}

/// A security group that interfaces are in, or are to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupUse {
    /// The group.
    pub group: SecurityGroupRecord,
    /// Private addresses of its members.
    pub addresses: u64,
    /// Its rules; one that names a prefix list counts as many as that may have entries.
    pub rules: u64,
}

/// A security group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group.
    pub group: SecurityGroupRecord,
    /// Instances with an interface in it.
    pub instances: u64,
    /// Private addresses of its members.
    pub addresses: u64,
    /// Its rules.
    pub rules: u64,
    /// Those of its rules that name a group.
    pub group_rules: u64,
}

/// An interface in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniDetails {
    /// The interface.
    pub eni: EniRecord,
    /// Public addresses that stand for its private ones.
    pub eips: Vec<EipRecord>,
}

/// One interface to make.
#[derive(Debug, Clone, Default)]
pub struct NewEni {
    /// The interface, with its tags and the secondary and IPv6 addresses it must have; the store fills in
    /// `mac`, `private_ip` and `attachment_revision`.
    pub eni: EniRecord,
    /// Primary address it must have; none: any free one.
    pub address: Option<Ipv4Addr>,
    /// Any free addresses to add to its secondary ones.
    pub more_addresses: u32,
    /// Any free IPv6 addresses to add to those it must have.
    pub more_ipv6_addresses: u32,
}

/// What a decision about interfaces wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnisLookup {
    /// Interfaces to read, with the instances they are wanted at and their groups.
    pub eni_ids: Vec<String>,
    /// Instances to read, with the groups of their interfaces.
    pub instance_ids: Vec<String>,
    /// Groups to read.
    pub security_group_ids: Vec<String>,
    /// VSwitch to read; empty: that of the first interface.
    pub vswitch_id: String,
    /// Free addresses of the VSwitch to offer.
    pub addresses: u32,
    /// Free IPv6 addresses of the VSwitch to offer, if it has IPv6.
    pub ipv6_addresses: u32,
}

/// What a decision about interfaces sees.
#[derive(Debug, Clone, Default)]
pub struct EnisView {
    /// Those of the asked ids that exist, in the order asked.
    pub enis: Vec<EniRecord>,
    /// The asked instances and those of the interfaces, as far as they exist.
    pub instances: Vec<InstanceDetails>,
    /// Interfaces that these instances are still to give up.
    pub leaving: Vec<EniRecord>,
    /// The groups asked for and those of all the interfaces, as far as they exist.
    pub groups: Vec<GroupUse>,
    /// The VSwitch, if it exists.
    pub vswitch: Option<VSwitchRoom>,
    /// Free addresses of the VSwitch, at most as many as asked for.
    pub offered: Vec<Ipv4Addr>,
    /// As many free IPv6 addresses as asked for; none if the VSwitch has no IPv6.
    pub offered_ipv6: Vec<Ipv6Addr>,
}

/// What changes. The store sets `attachment_revision`.
#[derive(Debug, Clone, Default)]
pub struct EnisPlan {
    /// New interfaces.
    pub insert: Vec<NewEni>,
    /// Whole new records of interfaces in the view; their tags and primary addresses stay as they are.
    pub update: Vec<EniRecord>,
    /// Interfaces in the view that go.
    pub delete: Vec<String>,
    /// Whole new records of instances in the view.
    pub update_instances: Vec<InstanceRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}

/// A security group as a host needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMembers {
    /// The group.
    pub group: SecurityGroupRecord,
    /// Its rules.
    pub rules: Vec<RuleRecord>,
    /// Addresses of all its members that are at an instance, on any host, ascending, IPv4 first.
    pub member_ips: Vec<IpAddr>,
}

/// What another host has of a VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEnis {
    /// The VPC.
    pub vpc_id: String,
    /// Where the host takes packets for it.
    pub underlay_ip: String,
    /// Every address of the VPC's interfaces there, ascending, IPv4 first.
    pub addresses: Vec<IpAddr>,
}
