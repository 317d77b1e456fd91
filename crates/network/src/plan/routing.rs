//! Custom routes of a VPC.

use super::{Plan, invalid};
use crate::ResourceKind;
use api::host::{RouteEntrySpec, VpcSpec, route_entry_spec::NextHop as Spec};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// One entry of a route table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) to: Ipv4Net,
    pub(crate) hop: NextHop,
}

/// Where an entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// To this host's ENI with the address.
    Eni(Ipv4Addr),
    /// To the host with this underlay address.
    Peer(Ipv4Addr),
    /// To the world, from this host.
    Edge,
    /// The next hop is gone.
    Nowhere,
}

impl Plan {
    /// Tables that VSwitches name. An entry that makes no sense leads nowhere: what it should have
    /// caught must not take another way.
    pub(super) fn add_route_tables(&mut self, spec: &VpcSpec, index: usize) {
        for table in &spec.route_tables {
            let id = &table.route_table_id;
            let vpc = &self.vpcs[index];
            let used = vpc.vswitches.values().any(|v| v.route_table.as_ref() == Some(id));
            if !used {
                continue;
            }
            let mut entries: Vec<Entry> = Vec::new();
            let ipv4 = table.entries.iter().filter(|entry| !entry.destination_cidr.contains(':'));
            for entry in ipv4 {
                let cidr = &entry.destination_cidr;
                let Ok(to) = cidr.parse::<Ipv4Net>().map(|net| net.trunc()) else {
                    let e = invalid(id, "destination_cidr", cidr, "a CIDR block");
                    self.problem(ResourceKind::RouteTable, id, &e);
                    continue;
                };
                if entries.iter().any(|other| other.to == to) {
                    let e = invalid(id, "destination_cidr", cidr, "a block that is named once");
                    self.problem(ResourceKind::RouteTable, id, &e);
                    continue;
                }
                let hop = self.next_hop(spec, index, entry);
                if let NextHop::Peer(host) = hop {
                    self.vpcs[index].peers.entry(host).or_default().beyond.insert(to);
                }
                entries.push(Entry { to, hop });
            }
            self.vpcs[index].route_tables.insert(id.clone(), entries);
        }
    }

    fn next_hop(&self, spec: &VpcSpec, index: usize, entry: &RouteEntrySpec) -> NextHop {
        let vpc = &self.vpcs[index];
        match &entry.next_hop {
            Some(Spec::PrivateIp(address)) => match address.parse::<Ipv4Addr>() {
                Ok(address) if vpc.eni_with(address).is_some() => NextHop::Eni(address),
                Ok(address) => vpc.peer_with(address).map_or(NextHop::Nowhere, NextHop::Peer),
                Err(_) => NextHop::Nowhere,
            },
            Some(Spec::NatGatewayId(id)) => {
                match spec.nat_gateways.iter().find(|gateway| gateway.nat_gateway_id == *id) {
                    Some(gateway) if gateway.here => NextHop::Edge,
                    Some(gateway) => {
                        gateway.underlay_ip.parse().map_or(NextHop::Nowhere, NextHop::Peer)
                    }
                    None => NextHop::Nowhere,
                }
            }
            Some(Spec::Blackhole(_)) | None => NextHop::Nowhere,
        }
    }
}
