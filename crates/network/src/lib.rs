//! The VPC networks of one host: namespaces, taps, routes, DHCP, security groups as nftables.
//!
//! [`HostNetwork`] is level-triggered: it is given all the host should have ([`Desired`]), looks at
//! what the kernel has, and changes the difference. Nothing it needs is kept only in memory, so an
//! agent may be killed at any moment and the next one goes on from what exists.
//!
//! The data plane of one VPC is a network namespace. Every ENI is a tap with a /32 route and a
//! permanent neighbour entry; there is no bridge, no learning and no flooding. The gateway of each
//! VSwitch, the metadata address and the service address answer locally. An `inet` and an `arp`
//! table, both called `ecs`, let through what [`security_groups`] compiled and nothing else.
//!
//! Between hosts, a VPC is a VXLAN with its VNI: one entry per host, one route per ENI address.

mod changes;
mod conntrack;
mod desired;
mod dhcp;
mod edge;
mod error;
mod filter;
mod host;
mod names;
mod namespace;
mod netlink;
mod nfnetlink;
mod overlay;
mod plan;
pub mod security_groups;
mod shaping;
mod sockets;
mod sysctl;
mod tap;
mod underlay;
mod vpc;
mod wiring;

pub use desired::{
    Desired, DhcpOptions, InstanceLimit, Object, ObjectKind, Options, Problem, Repair, Report,
    ResourceKind, Underlay,
};
pub use error::Error;
pub use host::HostNetwork;
pub use names::{
    GATEWAY_MAC, METADATA_ADDRESS, METADATA_PORT, SERVICE_ADDRESS, TABLE_NAME, namespace_name,
    tap_name, vxlan_mac,
};
