//! A VPC between hosts: a VXLAN interface that is told everything and learns nothing.
//!
//! Its packets go through the host's namespace, while the interface itself is in the VPC's. Every
//! host has a MAC address made of its underlay address, and in each VPC's namespace a next hop that
//! stands for it. That next hop is never on the wire; it is of a range that no VPC may have.

use crate::{
    Error, Options, Underlay,
    changes::Changes,
    names::{VXLAN_LINK, vxlan_mac},
    namespace::Namespace,
    netlink::{Link, Netlink, Vxlan},
    plan::Vpc,
    sysctl,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// 100.64.0.0/11, of the range that ECS keeps for itself.
const FIRST_HOP: u32 = 0x6440_0000;
const HOPS: u32 = 1 << 21;

/// The next hop that stands for each host in one VPC's namespace.
pub(crate) fn hops(hosts: impl IntoIterator<Item = Ipv4Addr>) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let mut taken = BTreeSet::new();
    let hosts: BTreeSet<Ipv4Addr> = hosts.into_iter().collect();
    let hop = |host: Ipv4Addr| {
        let digest = Sha256::digest(host.octets());
        let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % HOPS;
        let free = (0..HOPS).map(|step| (start + step) % HOPS).find(|at| taken.insert(*at));
        (host, Ipv4Addr::from(FIRST_HOP + free.unwrap_or(start)))
    };
    hosts.into_iter().map(hop).collect()
}

/// Makes the VXLAN interface if the VPC needs one and removes it if not. Gives its index.
pub(crate) async fn ensure(
    vpc: &Vpc,
    namespace: &Namespace,
    host: &Namespace,
    netlink: &Netlink,
    links: &[Link],
    options: &Options,
    changes: &mut Changes,
) -> Result<Option<u32>, Error> {
    let mut found = links.iter().find(|link| link.name == VXLAN_LINK).cloned();
    let wanted = options.underlay.filter(|_| !vpc.peers.is_empty()).map(|u| vxlan(vpc.vni, u));
    if let Some(link) = &found
        && link.vxlan != wanted
    {
        netlink.delete_link(link).await?;
        changes.add(&vpc.id, VXLAN_INTERFACE);
        found = None;
    }
    let Some(wanted) = wanted else { return Ok(None) };
    let link = match found {
        Some(link) => link,
        None => {
            Netlink::open(host).await?.add_vxlan(VXLAN_LINK, wanted, namespace).await?;
            changes.add(&vpc.id, VXLAN_INTERFACE);
            let links = netlink.links().await?;
            links.into_iter().find(|link| link.name == VXLAN_LINK).ok_or_else(|| {
                Error::Netlink {
                    what: format!("find {VXLAN_LINK} in {}", namespace.name),
                    message: "it was removed as it was made".to_owned(),
                }
            })?
        }
    };
    changes.add_all(&vpc.id, namespace.run(|| sysctl::set_routed(VXLAN_LINK)).await??);
    let mac = vxlan_mac(wanted.local);
    let is_set =
        link.up && link.alias == vpc.id && link.mac == mac && link.mtu == u32::from(options.mtu);
    if !is_set {
        netlink.set_link(link.index, &vpc.id, Some((mac, options.mtu))).await?;
        changes.add(&vpc.id, "settings of the VXLAN interface");
    }
    forwarding(vpc, netlink, link.index, changes).await?;
    Ok(Some(link.index))
}

const VXLAN_INTERFACE: &str = "VXLAN interface";

fn vxlan(vni: u32, underlay: Underlay) -> Vxlan {
    Vxlan { vni, local: underlay.address, port: underlay.port, learning: false }
}

/// One entry per host, and none for what nobody knows.
async fn forwarding(
    vpc: &Vpc,
    netlink: &Netlink,
    link: u32,
    changes: &mut Changes,
) -> Result<(), Error> {
    let mut missing: BTreeMap<[u8; 6], Ipv4Addr> =
        vpc.peers.keys().map(|host| (vxlan_mac(*host), *host)).collect();
    for entry in netlink.forwarding(link).await? {
        let key = <[u8; 6]>::try_from(entry.mac.as_slice()).ok();
        match key.and_then(|mac| Some((mac, *missing.get(&mac)?))) {
            Some((mac, to)) if entry.to == Some(to) => {
                missing.remove(&mac);
            }
            Some(_) => {}
            None => {
                netlink.delete_forwarding(entry).await?;
                changes.add(&vpc.id, "entry of the VXLAN interface");
            }
        }
    }
    for (mac, to) in missing {
        netlink.set_forwarding(link, mac, to).await?;
        changes.add(&vpc.id, format!("entry of the VXLAN interface for host {to}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_hop_of_its_own_that_others_do_not_move() {
        let hosts: Vec<Ipv4Addr> = (0..500u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
        let all = hops(hosts.iter().copied());
        let distinct: BTreeSet<_> = all.values().collect();
        assert_eq!(distinct.len(), hosts.len());
        assert!(all.values().all(|hop| (64..96).contains(&hop.octets()[1])));
        let few = hops(hosts.iter().copied().take(10));
        assert!(few.iter().all(|(host, hop)| all[host] == *hop));
    }
}
