//! Public addresses: of ENIs, and of NAT gateways that work on this host.

use super::{Eni, Plan, invalid};
use crate::{Error, ResourceKind};
use api::host::{EipSpec, EniSpec, ForwardEntrySpec, NatGatewaySpec, SnatEntrySpec, VpcSpec};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

/// A public address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eip {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    /// The private address it stands for; none with a NAT gateway.
    pub(crate) private: Option<Ipv4Addr>,
    /// Each way, in Mbit/s; 0 for no limit.
    pub(crate) mbps: u32,
}

/// A NAT gateway that works on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NatGateway {
    pub(crate) id: String,
    /// The longest prefix first.
    pub(crate) snat: Vec<Snat>,
    pub(crate) forwards: Vec<Forward>,
}

/// What comes from `source` leaves from one of `addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snat {
    pub(crate) source: Ipv4Net,
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// What arrives at `external` goes to `internal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) external: Ipv4Addr,
    pub(crate) internal: Ipv4Addr,
    /// None for all protocols; then there are no ports.
    pub(crate) protocols: Option<Vec<&'static str>>,
    /// First external and internal port, and how many; none for every port as it is.
    pub(crate) ports: Option<(u16, u16, u32)>,
}

impl Plan {
    /// A public address that makes no sense keeps no ENI from working.
    pub(super) fn add_public(&mut self, spec: &VpcSpec, index: usize, specs: &[EniSpec]) {
        for eni in specs.iter().filter(|eni| eni.vpc_id == spec.vpc_id) {
            for eip in &eni.eips {
                let Some(at) = self.vpcs[index].enis.iter().position(|e| e.id == eni.eni_id) else {
                    continue;
                };
                let checked = eip_of_eni(eip, &self.vpcs[index].enis[at]);
                self.take_eip(eip, checked, index);
            }
        }
        for gateway in spec.nat_gateways.iter().filter(|gateway| gateway.here) {
            for eip in &gateway.eips {
                let checked = address(eip).map(|address| Eip {
                    id: eip.allocation_id.clone(),
                    address,
                    private: None,
                    mbps: eip.bandwidth_mbps,
                });
                self.take_eip(eip, checked, index);
            }
            let gateway = self.nat_gateway(gateway);
            self.vpcs[index].nat_gateways.push(gateway);
        }
    }

    fn take_eip(&mut self, spec: &EipSpec, checked: Result<Eip, Error>, index: usize) {
        let id = &spec.allocation_id;
        let checked = checked.and_then(|eip| {
            let mut all = self.vpcs.iter().flat_map(|vpc| &vpc.eips);
            let other = all.find(|other| {
                other.address == eip.address
                    || (eip.private.is_some()
                        && other.private == eip.private
                        && self.vpcs[index].eips.contains(other))
            });
            match other {
                None => Ok(eip),
                Some(other) => Err(Error::Conflict {
                    resource: id.clone(),
                    what: format!("address {} or its private address", eip.address),
                    other: other.id.clone(),
                }),
            }
        });
        match checked {
            Ok(eip) => self.vpcs[index].eips.push(eip),
            Err(e) => self.problem(ResourceKind::Eip, id, &e),
        }
    }

    fn nat_gateway(&mut self, spec: &NatGatewaySpec) -> NatGateway {
        let id = spec.nat_gateway_id.clone();
        let own: BTreeSet<Ipv4Addr> =
            spec.eips.iter().filter_map(|eip| eip.address.parse().ok()).collect();
        let mut snat: BTreeMap<Ipv4Net, Vec<Ipv4Addr>> = BTreeMap::new();
        for entry in &spec.snat_entries {
            match self::snat(entry, &own) {
                Ok(entry) => snat.entry(entry.source).or_default().extend(entry.addresses),
                Err(e) => self.problem(ResourceKind::NatGateway, &id, &e),
            }
        }
        let mut snat: Vec<Snat> = snat
            .into_iter()
            .map(|(source, mut addresses)| {
                addresses.sort_unstable();
                addresses.dedup();
                Snat { source, addresses }
            })
            .collect();
        snat.sort_by_key(|entry| (u8::MAX - entry.source.prefix_len(), entry.source));
        let mut forwards: Vec<Forward> = Vec::new();
        for entry in &spec.forward_entries {
            match forward(entry, &own).and_then(|f| f.apart_from(&forwards, entry).map(|()| f)) {
                Ok(entry) => forwards.push(entry),
                Err(e) => self.problem(ResourceKind::NatGateway, &id, &e),
            }
        }
        NatGateway { id, snat, forwards }
    }
}

fn address(spec: &EipSpec) -> Result<Ipv4Addr, Error> {
    let text = &spec.address;
    let usable = |ip: &Ipv4Addr| {
        !(ip.is_unspecified()
            || ip.is_loopback()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.is_link_local())
    };
    text.parse()
        .ok()
        .filter(usable)
        .ok_or_else(|| invalid(&spec.allocation_id, "address", text, "a unicast IPv4 address"))
}

fn eip_of_eni(spec: &EipSpec, eni: &Eni) -> Result<Eip, Error> {
    let id = &spec.allocation_id;
    let private = spec.private_ip.parse().ok().filter(|ip| eni.addresses.contains(ip));
    let private = private.ok_or_else(|| {
        invalid(id, "private_ip", &spec.private_ip, "a private address of the ENI")
    })?;
    Ok(Eip {
        id: id.clone(),
        address: address(spec)?,
        private: Some(private),
        mbps: spec.bandwidth_mbps,
    })
}

fn snat(spec: &SnatEntrySpec, own: &BTreeSet<Ipv4Addr>) -> Result<Snat, Error> {
    let id = &spec.snat_entry_id;
    let expected = "an IPv4 CIDR block";
    let source: Ipv4Net = spec
        .source_cidr
        .parse()
        .map_err(|_| invalid(id, "source_cidr", &spec.source_cidr, expected))?;
    let addresses = spec.snat_ips.iter().map(|text| external(id, "snat_ips", text, own));
    let addresses: Vec<_> = addresses.collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(invalid(id, "snat_ips", "", "at least one address"));
    }
    Ok(Snat { source: source.trunc(), addresses })
}

fn external(
    id: &str,
    field: &'static str,
    text: &str,
    own: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, Error> {
    let address = text.parse().ok().filter(|address| own.contains(address));
    address.ok_or_else(|| invalid(id, field, text, "an EIP of the NAT gateway"))
}

fn forward(spec: &ForwardEntrySpec, own: &BTreeSet<Ipv4Addr>) -> Result<Forward, Error> {
    let id = &spec.forward_entry_id;
    let external = external(id, "external_ip", &spec.external_ip, own)?;
    let internal = spec
        .internal_ip
        .parse()
        .map_err(|_| invalid(id, "internal_ip", &spec.internal_ip, "an IPv4 address"))?;
    let range = |from: u32, to: u32| -> Option<RangeInclusive<u16>> {
        let (from, to) = (u16::try_from(from).ok()?, u16::try_from(to).ok()?);
        (from > 0 && from <= to).then_some(from..=to)
    };
    let all = (spec.external_port_from, spec.external_port_to) == (0, 0);
    let ports = if all {
        None
    } else {
        let outside = range(spec.external_port_from, spec.external_port_to);
        let inside = range(spec.internal_port_from, spec.internal_port_to);
        let both = outside.zip(inside).filter(|(outside, inside)| outside.len() == inside.len());
        let text = format!(
            "{}-{} to {}-{}",
            spec.external_port_from,
            spec.external_port_to,
            spec.internal_port_from,
            spec.internal_port_to
        );
        let (outside, inside) =
            both.ok_or_else(|| invalid(id, "ports", &text, "two ranges of one length"))?;
        let count = u32::try_from(outside.len()).unwrap_or(u32::MAX);
        Some((*outside.start(), *inside.start(), count))
    };
    let protocols = match (spec.ip_protocol.to_ascii_lowercase().as_str(), all) {
        ("tcp", _) => Some(vec!["tcp"]),
        ("udp", _) => Some(vec!["udp"]),
        ("any", true) => None,
        ("any", false) => Some(vec!["tcp", "udp"]),
        (other, _) => return Err(invalid(id, "ip_protocol", other, "tcp, udp or any")),
    };
    Ok(Forward { external, internal, protocols, ports })
}

impl Forward {
    /// No packet may be another entry's too.
    fn apart_from(&self, others: &[Self], spec: &ForwardEntrySpec) -> Result<(), Error> {
        let meets = |other: &&Self| {
            let same_kind = match (&self.protocols, &other.protocols) {
                (Some(a), Some(b)) => a.iter().any(|protocol| b.contains(protocol)),
                (None, None) => true,
                _ => false,
            };
            let same_ports = match (self.ports, other.ports) {
                (Some((a, _, count)), Some((b, _, more))) => {
                    u32::from(a) < u32::from(b) + more && u32::from(b) < u32::from(a) + count
                }
                (None, None) => true,
                _ => false,
            };
            self.external == other.external && same_kind && same_ports
        };
        match others.iter().find(meets) {
            None => Ok(()),
            Some(_) => {
                let (id, text) = (&spec.forward_entry_id, &spec.external_ip);
                let expected = "an address, protocol and ports that no other entry has";
                Err(invalid(id, "external_ip", text, expected))
            }
        }
    }
}
