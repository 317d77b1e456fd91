//! The host's ends of all edges: routes to public addresses, and answering for them on the uplink.

use super::{HOST_MAC, VPC_HOP, VPC_MAC, announce};
use crate::{
    Error, Options,
    changes::Changes,
    names,
    namespace::Namespace,
    netlink::{Hop, Link, MAIN_TABLE, Netlink},
    plan::{Plan, Vpc},
    shaping::Classes,
    sysctl,
};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// The interface that public addresses are reached by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// None if there is no such interface.
    pub(crate) name: Option<String>,
    /// Somebody has made the host a router already; what else it forwards is not our business.
    pub(crate) host_is_router: bool,
    link: Option<Link>,
}

/// What was found out about the host before anything is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostEdge {
    pub(crate) uplink: Uplink,
    /// Networks that guests must not reach: what the operator says, other hosts, and the network that
    /// joins the hosts unless it is the uplink's.
    pub(crate) denied: Vec<Ipv4Net>,
}

impl HostEdge {
    pub(crate) async fn look(
        host: &Namespace,
        options: &Options,
        plan: &Plan,
    ) -> Result<Self, Error> {
        let netlink = Netlink::open(host).await?;
        let links = netlink.links().await?;
        let link = match &options.uplink {
            Some(name) => links.iter().find(|link| link.name == *name),
            None => {
                let default = netlink.default_link().await?;
                links.iter().find(|link| Some(link.index) == default)
            }
        };
        let host_is_router = host.run(sysctl::host_is_router).await??;
        let uplink = Uplink {
            name: link.map(|link| link.name.clone()),
            host_is_router,
            link: link.cloned(),
        };
        let mut denied = plan.denied.clone();
        denied.extend(
            plan.vpcs.iter().flat_map(|vpc| vpc.peers.keys()).map(|host| Ipv4Net::from(*host)),
        );
        if let Some(underlay) = options.underlay
            && let Some((of, network)) = netlink.network_of(underlay.address).await?
            && Some(of) != link.map(|link| link.index)
        {
            denied.push(network.trunc());
        }
        Ok(Self { uplink, denied })
    }
}

/// Makes the host's ends as the VPCs want them, and removes others.
pub(crate) async fn reconcile(
    host: &Namespace,
    options: &Options,
    vpcs: &[Vpc],
    edge: &HostEdge,
    classes: &mut BTreeMap<u32, Classes>,
    changes: &mut Changes,
) -> Result<(), Error> {
    let netlink = Netlink::open(host).await?;
    let links = netlink.links().await?;
    let mut ours: BTreeMap<String, Link> = links
        .into_iter()
        .filter(|link| names::is_edge_link(&options.namespace_dir, &link.name))
        .map(|link| (link.name.clone(), link))
        .collect();
    let mut wanted: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
    let mut kept: BTreeSet<u32> = BTreeSet::new();
    for vpc in vpcs.iter().filter(|vpc| vpc.has_edge()) {
        // One that could not be made is the VPC's problem.
        let name = names::edge_link(&options.namespace_dir, vpc.vni);
        let Some(link) = ours.remove(&name) else { continue };
        let is_set = link.up
            && link.alias == vpc.id
            && link.mac == HOST_MAC
            && link.mtu == u32::from(options.mtu);
        if !is_set {
            netlink.set_link(link.index, &vpc.id, Some((HOST_MAC, options.mtu))).await?;
            changes.add(&vpc.id, format!("settings of {name}"));
        }
        changes.add_all(&vpc.id, host.run(move || sysctl::set_host_edge(&name)).await??);
        let of_link = classes.entry(vpc.vni).or_default();
        of_link.ensure(&vpc.id, link.index, &vpc.eips, &netlink, changes).await?;
        kept.insert(link.index);
        wanted.extend(vpc.eips.iter().map(|eip| (eip.address, link.index)));
    }
    for link in ours.values() {
        netlink.delete_link(link).await?;
        changes.add(&link.alias, format!("interface {}", link.name));
    }
    classes.retain(|vni, _| vpcs.iter().any(|vpc| vpc.vni == *vni));
    neighbours(&netlink, &kept, changes).await?;
    let new = routes(&netlink, &kept, &wanted, changes).await?;
    answers(host, &netlink, options, edge, &wanted, &new, changes).await
}

async fn neighbours(
    netlink: &Netlink,
    links: &BTreeSet<u32>,
    changes: &mut Changes,
) -> Result<(), Error> {
    let mut missing = links.clone();
    for found in netlink.neighbours().await? {
        if found.address == VPC_HOP && found.mac == VPC_MAC {
            missing.remove(&found.link);
        }
    }
    for link in missing {
        netlink.set_neighbour(link, VPC_HOP, VPC_MAC).await?;
        changes.add("", "neighbour of an edge");
    }
    Ok(())
}

/// Gives the addresses that were not routed here before.
async fn routes(
    netlink: &Netlink,
    links: &BTreeSet<u32>,
    wanted: &BTreeMap<Ipv4Addr, u32>,
    changes: &mut Changes,
) -> Result<Vec<Ipv4Addr>, Error> {
    let hop = |link: u32| Hop::Link { link, via: Some(VPC_HOP) };
    let mut missing = wanted.clone();
    let mut leftover = Vec::new();
    for found in netlink.routes().await? {
        if !found.link().is_some_and(|link| links.contains(&link)) {
            continue;
        }
        let address = found.to.addr();
        let is_host = found.to.prefix_len() == 32 && found.table == MAIN_TABLE;
        match missing.get(&address) {
            Some(link) if is_host && found.hop == Some(hop(*link)) => {
                missing.remove(&address);
            }
            Some(_) if is_host && found.hop.is_some() => {}
            _ => leftover.push(found),
        }
    }
    for (address, link) in &missing {
        netlink.set_route(MAIN_TABLE, Ipv4Net::from(*address), hop(*link)).await?;
        changes.add("", format!("route to public address {address}"));
    }
    for route in leftover {
        let what = format!("the host's {route}");
        netlink.delete_route(route).await?;
        changes.add("", what);
    }
    Ok(missing.into_keys().collect())
}

/// Answers ARP for public addresses on the uplink.
async fn answers(
    host: &Namespace,
    netlink: &Netlink,
    options: &Options,
    edge: &HostEdge,
    wanted: &BTreeMap<Ipv4Addr, u32>,
    new: &[Ipv4Addr],
    changes: &mut Changes,
) -> Result<(), Error> {
    let mark = names::edge_mark(&options.namespace_dir);
    let uplink = edge.uplink.link.as_ref();
    let mut missing: BTreeSet<(u32, Ipv4Addr)> = uplink
        .into_iter()
        .flat_map(|uplink| wanted.keys().map(|address| (uplink.index, *address)))
        .collect();
    for (link, address, message) in netlink.proxies(mark).await? {
        if !missing.remove(&(link, address)) {
            netlink.delete_proxy(message).await?;
            changes.add("", format!("answer for public address {address}"));
        }
    }
    for (link, address) in &missing {
        netlink.add_proxy(*link, *address, mark).await?;
        changes.add("", format!("answer for public address {address}"));
    }
    let Some(uplink) = uplink.filter(|_| !wanted.is_empty()) else {
        return match wanted.is_empty() {
            true => Ok(()),
            false => Err(Error::NoUplink),
        };
    };
    let name = uplink.name.clone();
    changes.add_all("", host.run(move || sysctl::set_uplink(&name)).await??);
    let added = missing.iter().map(|(_, address)| *address);
    let told: BTreeSet<Ipv4Addr> = new.iter().copied().chain(added).collect();
    if let (Ok(mac), false) = (<[u8; 6]>::try_from(uplink.mac.as_slice()), told.is_empty()) {
        let (link, told) = (uplink.index, told.into_iter().collect::<Vec<_>>());
        host.run(move || announce::announce(link, mac, &told)).await??;
    }
    Ok(())
}
