//! What is kept of route tables, public addresses, NAT gateways and prefix lists.

use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;

/// A route table of a VPC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTableRecord {
    /// `vtb-...`
    pub route_table_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// The VPC's own, which VSwitches have that were given no other.
    pub system: bool,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// When it was made.
    pub created_ms: i64,
}

/// What a custom route entry leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextHopKind {
    /// An instance, by its primary interface.
    #[default]
    Instance,
    /// An interface, by its primary address.
    NetworkInterface,
    /// A NAT gateway.
    NatGateway,
}

/// Where packets of a route entry really go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHop {
    /// To the interface with this address.
    Interface(Ipv4Addr),
    /// To this NAT gateway.
    NatGateway(String),
}

/// A custom entry of a route table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteEntryRecord {
    /// `rte-...`
    pub route_entry_id: String,
    /// Its table.
    pub route_table_id: String,
    /// The VPC of the table.
    pub vpc_id: String,
    /// Where packets want to go.
    pub destination: Ipv4Net,
    /// What `next_hop_id` is.
    pub next_hop_kind: NextHopKind,
    /// What they are sent to. It may be gone.
    pub next_hop_id: String,
    /// Made with a NAT gateway, and goes with it.
    pub automatic: bool,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// When it was made.
    pub created_ms: i64,
    /// Where the next hop is; none when it is gone. The store fills it in.
    pub next_hop: Option<NextHop>,
}

/// What a public address is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EipTarget {
    /// Stands for a private address of an interface.
    Interface {
        /// The interface.
        eni_id: String,
        /// Its address.
        private_ip: Ipv4Addr,
        /// The instance it was associated with, if that was named rather than the interface.
        instance_id: String,
    },
    /// For a NAT gateway to use.
    NatGateway(String),
}

impl EipTarget {
    /// Id of what it was associated with, as the API names it.
    pub fn resource_id(&self) -> &str {
        match self {
            Self::Interface { eni_id, instance_id, .. } if instance_id.is_empty() => eni_id,
            Self::Interface { instance_id, .. } => instance_id,
            Self::NatGateway(id) => id,
        }
    }
}

/// A public address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EipRecord {
    /// `eip-...`
    pub allocation_id: String,
    /// The address, unique.
    pub address: Ipv4Addr,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Mbit/s each way.
    pub bandwidth_mbps: u32,
    /// `PayByBandwidth PayByTraffic`
    pub charge_type: String,
    /// The static public address of its instance: it goes with it, and is no EIP of the API.
    pub fixed: bool,
    /// What it is associated with.
    pub target: Option<EipTarget>,
    /// VPC of the target, empty: none.
    pub vpc_id: String,
    /// Tags, key and value.
    pub tags: Vec<(String, String)>,
    /// When it was made.
    pub created_ms: i64,
    /// Derived by the store from the target and from what its host has acted on.
    pub status: String,
}

/// An internet NAT gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatGatewayRecord {
    /// `ngw-...`
    pub nat_gateway_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its VSwitch.
    pub vswitch_id: String,
    /// Zone of the VSwitch.
    pub zone_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// `stb-...`
    pub snat_table_id: String,
    /// `ftb-...`
    pub forward_table_id: String,
    /// The host it works on; empty: none.
    pub host_id: String,
    /// When it was made.
    pub created_ms: i64,
    /// Its host has acted on it. The store fills it in.
    pub settled: bool,
    /// Its host has lost its lease. The store fills it in.
    pub host_lost: bool,
}

/// Which addresses a NAT gateway gives to what leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnatEntryRecord {
    /// `snat-...`
    pub snat_entry_id: String,
    /// Its gateway.
    pub nat_gateway_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// The VSwitch it was made for, empty: for a range.
    pub vswitch_id: String,
    /// Source range.
    pub source: Ipv4Net,
    /// EIPs of the gateway.
    pub snat_ips: Vec<Ipv4Addr>,
    /// When it was made.
    pub created_ms: i64,
}

/// Ports of a public address that lead inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardEntryRecord {
    /// `fwd-...`
    pub forward_entry_id: String,
    /// Its gateway.
    pub nat_gateway_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// An EIP of the gateway.
    pub external_ip: Ipv4Addr,
    /// First and last port; zeroes: every one.
    pub external_ports: (u16, u16),
    /// An address of the VPC.
    pub internal_ip: Ipv4Addr,
    /// First and last port, as many as external ones; zeroes: the same as outside.
    pub internal_ports: (u16, u16),
    /// `tcp udp any`
    pub protocol: String,
    /// When it was made.
    pub created_ms: i64,
}

/// Address ranges that rules name together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixListRecord {
    /// `pl-...`
    pub prefix_list_id: String,
    /// Display name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Of IPv6 ranges, not of IPv4 ones.
    pub ipv6: bool,
    /// Ranges it may have, and for how many rules a rule counts that names it.
    pub max_entries: u32,
    /// Ranges and what they are.
    pub entries: Vec<(IpNet, String)>,
    /// When it was made.
    pub created_ms: i64,
}
