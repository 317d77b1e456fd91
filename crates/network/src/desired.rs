//! What goes in and what comes out of a reconciliation.

use api::host::{EniSpec, NetworkLimit, PrefixListSpec, SecurityGroupSpec, VpcSpec};
use ipnet::Ipv4Net;
use std::{collections::HashMap, fmt, net::Ipv4Addr, path::PathBuf, time::Duration};

/// Settings of a host's networks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where namespaces are mounted. `ip netns` knows `/run/netns` only; tests use another one so
    /// that they do not remove each other's.
    pub namespace_dir: PathBuf,
    /// MTU of taps, in bytes, and what DHCP tells guests. 0: ECS's 1500, or as much less as fits
    /// between hosts, where a packet is 50 bytes longer.
    pub mtu: u16,
    /// How this host reaches others; without it, VPCs end at this host.
    pub underlay: Option<Underlay>,
    /// The interface by which public addresses are reached; none for that of the default route.
    pub uplink: Option<String>,
    /// Networks that guests must not reach from their public addresses, beside what is known of other
    /// hosts: those of management.
    pub edge_denied: Vec<Ipv4Net>,
    /// The namespace with the host's own interfaces; none for that of this process.
    pub host_namespace: Option<PathBuf>,
    /// DNS servers DHCP tells guests whose [`DhcpOptions`] name none. May be empty.
    pub dns_servers: Vec<Ipv4Addr>,
    /// How long a DHCP lease lasts. An address never changes while its ENI exists, so it may be long.
    pub lease: Duration,
    /// The `nft` program.
    pub nft: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace_dir: PathBuf::from("/run/netns"),
            mtu: 0,
            underlay: None,
            uplink: None,
            edge_denied: Vec::new(),
            host_namespace: None,
            dns_servers: Vec::new(),
            lease: Duration::from_secs(10 * 365 * 24 * 3600),
            nft: PathBuf::from("nft"),
        }
    }
}

/// How a host reaches others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The host's own address, where others send what is for its ENIs.
    pub address: Ipv4Addr,
    /// UDP port of VXLAN, the same on every host.
    pub port: u16,
}

impl Underlay {
    /// IANA's port of VXLAN.
    pub const PORT: u16 = 4789;
}

/// Everything the host should have. What is not in it is removed.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// VPCs with something on this host.
    pub vpcs: Vec<VpcSpec>,
    /// The ENIs of this host's instances. Each one's VPC is in `vpcs`.
    pub enis: Vec<EniSpec>,
    /// The groups of those ENIs and the groups their rules refer to.
    pub groups: Vec<SecurityGroupSpec>,
    /// The prefix lists that rules of those groups name.
    pub prefix_lists: Vec<PrefixListSpec>,
    /// Networks that guests must not reach from their public addresses, beside
    /// [`Options::edge_denied`]: those of other hosts.
    pub edge_denied: Vec<Ipv4Net>,
    /// How fast instances may be. Those without a limit may be missing.
    pub limits: Vec<InstanceLimit>,
    /// What DHCP tells beyond the ENI itself, by ENI id. May lack any of them.
    pub dhcp: HashMap<String, DhcpOptions>,
}

/// How fast one instance may be, over all its ENIs together.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceLimit {
    /// The instance.
    pub instance_id: String,
    /// Its ENIs, of one VPC.
    pub eni_ids: Vec<String>,
    /// The limit, each way.
    pub limit: NetworkLimit,
}

/// What DHCP tells one guest beyond what its ENI says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DhcpOptions {
    /// Host name; empty for none.
    pub hostname: String,
    /// DNS servers; empty for those in [`Options`].
    pub dns_servers: Vec<Ipv4Addr>,
}

/// Which kind of resource a [`Problem`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// A VPC, thus all its ENIs on this host.
    Vpc,
    /// One ENI.
    Eni,
    /// One security group.
    SecurityGroup,
    /// One prefix list; rules that name it are as rules that make no sense.
    PrefixList,
    /// One route table; what it says wrongly leads nowhere.
    RouteTable,
    /// One public address, which does not work then.
    Eip,
    /// One NAT gateway, some entry of which does not work then.
    NatGateway,
    /// The host itself.
    Host,
}

/// One thing that could not be made as desired. What was there before is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Its ECS id; for [`ResourceKind::Host`] what could not be done.
    pub id: String,
    /// What went wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.kind, self.id, self.message)
    }
}

/// The outcome of a reconciliation.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What differs from the desired state still. Empty: everything is as desired.
    pub problems: Vec<Problem>,
    /// How many things were created, changed or removed. Zero: everything was there already.
    pub changes: usize,
    /// Those of the changes that were not asked for: somebody or something else had changed what
    /// an earlier reconciliation had made.
    pub repairs: Vec<Repair>,
    /// Nothing that is not desired is left: no namespace and no tap.
    pub removals_done: bool,
}

/// One thing that was put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// ECS id of what it belongs to: a VPC's, an ENI's or an instance's; empty for the host itself.
    pub resource: String,
    /// What was missing or wrong, e.g. `route to 10.0.0.2/32`.
    pub what: String,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resource.as_str() {
            "" => write!(f, "{}", self.what),
            resource => write!(f, "{} of {resource}", self.what),
        }
    }
}

impl Report {
    /// The first problem that keeps this ENI from working: its own, or its VPC's.
    #[must_use]
    pub fn problem_of(&self, eni: &EniSpec) -> Option<&Problem> {
        self.problems.iter().find(|p| match p.kind {
            ResourceKind::Eni => p.id == eni.eni_id,
            ResourceKind::Vpc => p.id == eni.vpc_id,
            ResourceKind::SecurityGroup => eni.security_group_ids.contains(&p.id),
            ResourceKind::PrefixList
            | ResourceKind::RouteTable
            | ResourceKind::Eip
            | ResourceKind::NatGateway
            | ResourceKind::Host => false,
        })
    }
}

/// Kinds of kernel objects this crate makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A network namespace.
    Namespace,
    /// A tap interface.
    Tap,
    /// An nftables table.
    Table,
    /// A VXLAN interface.
    Vxlan,
    /// The host's end of a VPC's edge.
    Edge,
    /// An interface that all packets of an instance go by, one way.
    Queue,
}

impl ObjectKind {
    /// The name used in `HostObject.kind`: `netns`, `tap`, `table`, `vxlan`, `edge` or `queue`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "netns",
            Self::Tap => "tap",
            Self::Table => "table",
            Self::Vxlan => "vxlan",
            Self::Edge => "edge",
            Self::Queue => "queue",
        }
    }
}

/// A kernel object of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name; taps and tables are prefixed with their namespace and a slash.
    pub name: String,
    /// The ECS id it was made for: a VPC's or an ENI's. Empty if unknown.
    pub owner: String,
}
