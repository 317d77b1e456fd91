//! Where a VPC meets the world: a pair of interfaces between its namespace and the host's.
//!
//! Addresses are translated in the VPC's namespace, so that security groups judge private ones. The
//! host's namespace routes each public address to its VPC, answers for it on the uplink, and lets
//! nothing of a guest through that is not from a public address of that VPC, or that is for the host
//! or for networks its guests must not reach.

mod announce;
mod guard;
mod host;
mod nat;

pub(crate) use guard::add_guard;
pub(crate) use host::{HostEdge, reconcile as reconcile_host};
pub(crate) use nat::add_nat;

use crate::{
    Error, Options,
    changes::Changes,
    names,
    namespace::Namespace,
    netlink::{Link, Netlink},
    plan::Vpc,
    sysctl,
};
use std::net::Ipv4Addr;

/// Name of the interface in the VPC's namespace.
pub(crate) const EDGE_LINK: &str = "edge0";
/// Next hops of the two ends. Nobody has these addresses: each end knows the other's MAC address.
pub(crate) const HOST_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 1);
pub(crate) const VPC_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 2);
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0xed, 0, 0, 0, 1];
pub(crate) const VPC_MAC: [u8; 6] = [0x02, 0xed, 0, 0, 0, 2];

/// Makes the pair of interfaces if the VPC needs one and removes it if not. Gives the index of the
/// VPC's end.
pub(crate) async fn ensure(
    vpc: &Vpc,
    namespace: &Namespace,
    host: &Namespace,
    netlink: &Netlink,
    links: &[Link],
    options: &Options,
    changes: &mut Changes,
) -> Result<Option<u32>, Error> {
    let found = links.iter().find(|link| link.name == EDGE_LINK).cloned();
    if !vpc.has_edge() {
        if let Some(link) = found {
            netlink.delete_link(&link).await?;
            changes.add(&vpc.id, EDGE_INTERFACES);
        }
        return Ok(None);
    }
    let link = match found {
        Some(link) => link,
        None => {
            let name = names::edge_link(&options.namespace_dir, vpc.vni);
            let of_host = Netlink::open(host).await?;
            // Of a namespace that is no longer the VPC's.
            for stale in of_host.links().await?.iter().filter(|link| link.name == name) {
                of_host.delete_link(stale).await?;
            }
            of_host.add_veth(&name, EDGE_LINK, namespace).await?;
            changes.add(&vpc.id, EDGE_INTERFACES);
            let links = netlink.links().await?;
            links.into_iter().find(|link| link.name == EDGE_LINK).ok_or_else(|| Error::Netlink {
                what: format!("find {EDGE_LINK} in {}", namespace.name),
                message: "it was removed as it was made".to_owned(),
            })?
        }
    };
    changes.add_all(&vpc.id, namespace.run(|| sysctl::set_routed(EDGE_LINK)).await??);
    let is_set = link.up
        && link.alias == vpc.id
        && link.mac == VPC_MAC
        && link.mtu == u32::from(options.mtu);
    if !is_set {
        netlink.set_link(link.index, &vpc.id, Some((VPC_MAC, options.mtu))).await?;
        changes.add(&vpc.id, "settings of the edge's interface");
    }
    Ok(Some(link.index))
}

const EDGE_INTERFACES: &str = "interfaces of the edge";
