//! Other hosts that have ENIs of a VPC.

use super::{Plan, invalid};
use crate::{Error, Options, ResourceKind};
use api::host::VpcSpec;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What one other host has of a VPC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Of its ENIs.
    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    /// What routes lead to by way of it, so what may come from it beside its ENIs' addresses.
    pub(crate) beyond: BTreeSet<Ipv4Net>,
}

impl Plan {
    /// A host that cannot be reached keeps nobody here from starting, so it is the host's problem.
    pub(super) fn add_peers(&mut self, spec: &VpcSpec, index: usize, options: &Options) {
        if spec.remote_hosts.is_empty() {
            return;
        }
        let Some(underlay) = &options.underlay else {
            let e = Error::NoUnderlay(spec.vpc_id.clone());
            self.problem(ResourceKind::Host, "underlay", &e);
            return;
        };
        let mut peers: BTreeMap<Ipv4Addr, Peer> = BTreeMap::new();
        for host in &spec.remote_hosts {
            let address = host.underlay_ip.parse::<Ipv4Addr>().ok();
            let unicast = |ip: &Ipv4Addr| {
                *ip != underlay.address
                    && !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
            };
            let Some(address) = address.filter(unicast) else {
                let expected = "the IPv4 address of another host";
                let e = invalid(&spec.vpc_id, "underlay_ip", &host.underlay_ip, expected);
                self.problem(ResourceKind::Host, "underlay", &e);
                continue;
            };
            let peer = peers.entry(address).or_default();
            for text in host.addresses.iter().filter(|text| !text.contains(':')) {
                let Ok(address) = text.parse() else {
                    let e = invalid(&spec.vpc_id, "addresses", text, "an IP address");
                    self.problem(ResourceKind::Host, "underlay", &e);
                    continue;
                };
                // While an instance moves, both hosts may have its address: here it is near.
                if self.vpcs[index].eni_with(address).is_none()
                    && !self.vpcs[index].gateways.contains(&address)
                {
                    peer.addresses.insert(address);
                }
            }
        }
        // What two hosts claim is where the first says.
        let mut taken = BTreeSet::new();
        for peer in peers.values_mut() {
            peer.addresses.retain(|address| taken.insert(*address));
        }
        self.vpcs[index].peers = peers;
    }
}
