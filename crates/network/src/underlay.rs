//! What guards the host's own namespace while VPCs reach across hosts.
//!
//! Only hosts that have ENIs of a VPC may send into it, each with the MAC address that stands for it:
//! the VPC's filter goes by that to know whose addresses a packet may carry. VXLAN of a guest is
//! nothing but its payload, in a namespace of its own.

use crate::{
    Error, Options, Underlay,
    edge::{self, HostEdge},
    names::vxlan_mac,
    namespace::Namespace,
    netlink::Netlink,
    plan::Vpc,
    security_groups::ruleset::{Chain, Elements, Family, Ruleset, Set, Table},
};
use compact_str::{CompactString, format_compact};
use std::collections::BTreeMap;

/// ECS's, without jumbo frames.
const GUEST_MTU: u16 = 1500;
/// Ethernet, VXLAN, UDP and IPv4 headers around a guest's packet.
const OVERHEAD: u32 = 14 + 8 + 8 + 20;

/// The longest packet of a guest that reaches other hosts whole.
pub(crate) async fn guest_mtu(host: &Namespace, underlay: Option<Underlay>) -> Result<u16, Error> {
    let Some(underlay) = underlay else { return Ok(GUEST_MTU) };
    let invalid = |field, value: String, expected| Error::Invalid {
        resource: "this host".to_owned(),
        field,
        value,
        expected,
    };
    let link = Netlink::open(host).await?.link_with(underlay.address).await?;
    let link = link.ok_or_else(|| {
        let expected = "an address of one of its interfaces (agent's --underlay-ip)";
        invalid("underlay address", underlay.address.to_string(), expected)
    })?;
    let mtu = link.mtu.saturating_sub(OVERHEAD).min(u32::from(GUEST_MTU));
    // What every IPv4 host must take, RFC 791.
    u16::try_from(mtu).ok().filter(|mtu| *mtu >= 576).ok_or_else(|| {
        invalid("MTU of the underlay's interface", link.mtu.to_string(), "at least 626 bytes")
    })
}

/// The rules of the host's own namespace; without tables if nothing needs any.
pub(crate) fn ruleset(name: &str, options: &Options, vpcs: &[Vpc], edge: &HostEdge) -> Ruleset {
    let mut table = Table::default();
    if let Some(underlay) = options.underlay {
        add_tunnels(&mut table, underlay, vpcs);
    }
    edge::add_guard(&mut table, vpcs, &options.namespace_dir, &edge.uplink, &edge.denied);
    let tables = match table.chains.is_empty() {
        true => BTreeMap::new(),
        false => BTreeMap::from([(Family::Inet, table)]),
    };
    Ruleset { name: name.to_owned(), tables }
}

/// Lets other hosts send into the VPCs they have ENIs of.
fn add_tunnels(table: &mut Table, underlay: Underlay, vpcs: &[Vpc]) {
    let mut elements = Elements::new();
    for vpc in vpcs {
        for host in vpc.peers.keys() {
            let mac = vxlan_mac(*host).map(|byte| format!("{byte:02x}")).concat();
            let key = format_compact!("{host} . {:#x} . 0x{mac}", vpc.vni);
            elements.insert(key, CompactString::default());
        }
    }
    if elements.is_empty() {
        return;
    }
    // VNI and the inner frame's source, behind the UDP header.
    const KEY: &str = "ip saddr . @th,96,24 . @th,176,48";
    let tunnels = Set { is_map: false, declaration: vec![format!("typeof {KEY}")], elements };
    let port = underlay.port;
    // Where the kernel hands packets to sockets, they are whole again.
    let input = Chain {
        hook: "type filter hook input priority -300; policy accept".to_owned(),
        rules: vec![
            format!("udp dport {port} {KEY} @tunnels accept"),
            format!("udp dport {port} drop"),
        ],
    };
    // Each flow of a guest would be one of the host's own, which takes its room.
    for hook in ["prerouting", "output"] {
        table.add_untracked(hook, vec![format!("udp dport {port} notrack")]);
    }
    table.sets.insert("tunnels".to_owned(), tunnels);
    table.chains.insert("input".to_owned(), input);
}
