//! Routes, rules and neighbours of one VPC's namespace: what they should be, and making them so.
//!
//! The main table has the VPC's own: a /32 per ENI address here and on other hosts, and its blocks as
//! unreachable. A VSwitch's custom routes are in a table of their own, asked before the main one by
//! what comes in by the taps of its ENIs, and from other hosts by what comes from its addresses. The
//! VPC's blocks are "throw" there, so that the longest prefix wins over both; a default route counts
//! only after the main table.

use crate::{
    Error,
    changes::Changes,
    edge,
    names::{VXLAN_LINK, vxlan_mac},
    netlink::{Hop, MAIN_TABLE, Netlink, Rule},
    overlay,
    plan::{NextHop, Vpc},
};
use ipnet::Ipv4Net;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// Before the main table, 32766: custom routes but for a default route.
const BEFORE_MAIN: u32 = 1000;
/// After it: the default route.
const AFTER_MAIN: u32 = 50_000;
/// What has a public address leaves by it, whatever the default route says.
const PUBLIC: u32 = 40_000;
/// What another host sent here and is not of the VPC is for this host's NAT gateway.
const FROM_PEERS: u32 = 60_000;
const EDGE_TABLE: u32 = 900;
const FIRST_TABLE: u32 = 1000;
const TABLES: u32 = 1 << 30;

/// The interfaces there are.
#[derive(Debug)]
pub(crate) struct Links<'a> {
    /// By tap name.
    pub(crate) taps: HashMap<&'a str, u32>,
    pub(crate) vxlan: Option<u32>,
    pub(crate) edge: Option<u32>,
    /// Taps whose routes and neighbours stay as they are.
    pub(crate) untouched: BTreeSet<u32>,
}

/// All of a namespace that is neither an interface nor a filter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wiring {
    routes: BTreeMap<(u32, Ipv4Net), Hop>,
    rules: BTreeSet<Rule>,
    neighbours: BTreeMap<(u32, Ipv4Addr), [u8; 6]>,
}

impl Wiring {
    pub(crate) fn of(vpc: &Vpc, links: &Links<'_>) -> Self {
        let mut wiring = Self::default();
        wiring.rules.extend(Rule::defaults());
        let hops = overlay::hops(vpc.peers.keys().copied());
        for block in &vpc.blocks {
            wiring.routes.insert((MAIN_TABLE, *block), Hop::Unreachable);
        }
        if let Some(link) = links.vxlan {
            for (host, peer) in &vpc.peers {
                let Some(via) = hops.get(host).copied() else { continue };
                wiring.neighbours.insert((link, via), vxlan_mac(*host));
                for address in &peer.addresses {
                    let hop = Hop::Link { link, via: Some(via) };
                    wiring.routes.insert((MAIN_TABLE, Ipv4Net::from(*address)), hop);
                }
            }
        }
        for eni in &vpc.enis {
            let Some(link) = links.taps.get(eni.tap.as_str()).copied() else { continue };
            for address in &eni.addresses {
                wiring.neighbours.insert((link, *address), eni.mac);
                let hop = Hop::Link { link, via: None };
                wiring.routes.insert((MAIN_TABLE, Ipv4Net::from(*address)), hop);
            }
        }
        wiring.add_custom(vpc, links, &hops);
        wiring.add_edge(vpc, links);
        wiring
    }

    fn add_edge(&mut self, vpc: &Vpc, links: &Links<'_>) {
        let Some(link) = links.edge else { return };
        self.neighbours.insert((link, edge::HOST_HOP), edge::HOST_MAC);
        self.routes.insert((EDGE_TABLE, Ipv4Net::default()), edge_hop(link));
        let mut ask = |priority, link: &str, from| {
            let link = Some(link.to_owned());
            self.rules.insert(Rule { priority, table: EDGE_TABLE, link, from, ignore_up_to: None });
        };
        for private in vpc.eips.iter().filter_map(|eip| eip.private) {
            if let Some(eni) = vpc.eni_with(private) {
                ask(PUBLIC, &eni.tap, Some(Ipv4Net::from(private)));
            }
        }
        if !vpc.nat_gateways.is_empty() && links.vxlan.is_some() {
            ask(FROM_PEERS, VXLAN_LINK, None);
        }
    }

    fn add_custom(&mut self, vpc: &Vpc, links: &Links<'_>, hops: &BTreeMap<Ipv4Addr, Ipv4Addr>) {
        let tables = table_numbers(vpc.route_tables.keys().map(String::as_str));
        for (id, entries) in &vpc.route_tables {
            let Some(table) = tables.get(id.as_str()).copied() else { continue };
            for block in &vpc.blocks {
                self.routes.insert((table, *block), Hop::Throw);
            }
            for entry in entries {
                let hop = match entry.hop {
                    NextHop::Eni(address) => vpc
                        .eni_with(address)
                        .and_then(|eni| links.taps.get(eni.tap.as_str()))
                        .map(|link| Hop::Link { link: *link, via: Some(address) }),
                    NextHop::Peer(host) => links
                        .vxlan
                        .zip(hops.get(&host))
                        .map(|(link, via)| Hop::Link { link, via: Some(*via) }),
                    NextHop::Edge => links.edge.map(edge_hop),
                    NextHop::Nowhere => None,
                };
                self.routes.insert((table, entry.to), hop.unwrap_or(Hop::Blackhole));
            }
        }
        let mut ask = |link: &str, from: Option<Ipv4Net>, id: &str| {
            let Some(table) = tables.get(id).copied() else { return };
            for (priority, ignore_up_to) in [(BEFORE_MAIN, Some(0)), (AFTER_MAIN, None)] {
                let link = Some(link.to_owned());
                self.rules.insert(Rule { priority, table, link, from, ignore_up_to });
            }
        };
        for eni in &vpc.enis {
            if let Some(id) = vpc.route_table_of(eni) {
                ask(&eni.tap, None, id);
            }
        }
        if links.vxlan.is_some() {
            for vswitch in vpc.vswitches.values() {
                if let Some(id) = &vswitch.route_table {
                    ask(VXLAN_LINK, Some(vswitch.subnet), id);
                }
            }
        }
    }

    /// Makes the namespace as this says.
    pub(crate) async fn apply(
        &self,
        vpc: &Vpc,
        links: &Links<'_>,
        netlink: &Netlink,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        self.apply_neighbours(vpc, links, netlink, changes).await?;
        self.apply_routes(vpc, links, netlink, changes).await?;
        self.apply_rules(vpc, netlink, changes).await
    }

    async fn apply_neighbours(
        &self,
        vpc: &Vpc,
        links: &Links<'_>,
        netlink: &Netlink,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let mut missing = self.neighbours.clone();
        for found in netlink.neighbours().await? {
            let key = (found.link, found.address);
            match missing.get(&key) {
                Some(mac) if found.mac == mac => {
                    missing.remove(&key);
                }
                Some(_) => {}
                None if links.untouched.contains(&found.link) => {}
                None => {
                    let what = format!("neighbour {}", found.address);
                    netlink.delete_neighbour(found).await?;
                    changes.add(&vpc.id, what);
                }
            }
        }
        for ((link, address), mac) in missing {
            netlink.set_neighbour(link, address, mac).await?;
            changes.add(&vpc.id, format!("neighbour {address}"));
        }
        Ok(())
    }

    /// What is to be there comes first, so that a packet never finds less than it should.
    async fn apply_routes(
        &self,
        vpc: &Vpc,
        links: &Links<'_>,
        netlink: &Netlink,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let mut missing = self.routes.clone();
        let mut leftover = Vec::new();
        for found in netlink.routes().await? {
            let key = (found.table, found.to);
            match (missing.get(&key), found.hop) {
                (Some(wanted), Some(hop)) if *wanted == hop => {
                    missing.remove(&key);
                }
                // One in its place takes its place.
                (Some(_), Some(_)) => {}
                _ if found.link().is_some_and(|link| links.untouched.contains(&link)) => {}
                _ => leftover.push(found),
            }
        }
        for ((table, to), hop) in missing {
            netlink.set_route(table, to, hop).await?;
            changes.add(&vpc.id, format!("route to {to}"));
        }
        for route in leftover {
            let what = route.to_string();
            netlink.delete_route(route).await?;
            changes.add(&vpc.id, what);
        }
        Ok(())
    }

    async fn apply_rules(
        &self,
        vpc: &Vpc,
        netlink: &Netlink,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let mut missing = self.rules.clone();
        let mut leftover = Vec::new();
        for (found, message) in netlink.rules().await? {
            if !found.is_some_and(|rule| missing.remove(&rule)) {
                leftover.push(message);
            }
        }
        for rule in missing {
            netlink.add_rule(&rule).await?;
            changes.add(&vpc.id, format!("routing {rule}"));
        }
        for message in leftover {
            netlink.delete_rule(message).await?;
            changes.add(&vpc.id, "routing rule");
        }
        Ok(())
    }
}

fn edge_hop(link: u32) -> Hop {
    Hop::Link { link, via: Some(edge::HOST_HOP) }
}

/// A table for each id, which others do not change but by rare chance.
fn table_numbers<'a>(ids: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut taken = BTreeSet::new();
    ids.map(|id| {
        let digest = Sha256::digest(id.as_bytes());
        let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % TABLES;
        let free = (0..TABLES).map(|step| (start + step) % TABLES).find(|n| taken.insert(*n));
        (id, FIRST_TABLE + free.unwrap_or(start))
    })
    .collect()
}
