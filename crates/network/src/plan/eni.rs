//! An ENI.

use super::{Vpc, gateway, invalid, subnet};
use crate::{DhcpOptions, Error, Options, names};
use api::host::EniSpec;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// One ENI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eni {
    pub(crate) id: String,
    pub(crate) tap: String,
    pub(crate) mac: [u8; 6],
    /// The primary one first.
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) subnet: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) vswitch: String,
    pub(crate) groups: Vec<String>,
    /// It may send from, and be sent, what is not its own.
    pub(crate) is_router: bool,
    pub(crate) dhcp: DhcpOptions,
}

pub(crate) fn eni(spec: &EniSpec, dhcp: DhcpOptions, options: &Options) -> Result<Eni, Error> {
    let id = &spec.eni_id;
    if id.is_empty() || id.len() > 255 {
        return Err(invalid("ENI", "eni_id", id, "an id of at most 255 bytes"));
    }
    let subnet = subnet(id, "vswitch_cidr", &spec.vswitch_cidr)?;
    let gateway = gateway(id, &spec.gateway_ip, subnet)?;
    let mut addresses = vec![address(id, "private_ip", &spec.private_ip, subnet, gateway)?];
    for text in &spec.secondary_private_ips {
        let address = address(id, "secondary_private_ips", text, subnet, gateway)?;
        if addresses.contains(&address) {
            let expected = "addresses that are each named once";
            return Err(invalid(id, "secondary_private_ips", text, expected));
        }
        addresses.push(address);
    }
    let mac = parse_mac(&spec.mac).filter(|mac| mac[0] & 1 == 0 && *mac != names::GATEWAY_MAC);
    let mac = mac.ok_or_else(|| invalid(id, "mac", &spec.mac, "a unicast MAC address"))?;
    let mut groups = spec.security_group_ids.clone();
    groups.sort_unstable();
    groups.dedup();
    let dns_servers =
        if dhcp.dns_servers.is_empty() { options.dns_servers.clone() } else { dhcp.dns_servers };
    Ok(Eni {
        id: id.clone(),
        tap: names::tap_name(id),
        mac,
        addresses,
        subnet,
        gateway,
        vswitch: spec.vswitch_id.clone(),
        groups,
        is_router: spec.no_source_check,
        dhcp: DhcpOptions { hostname: dhcp.hostname, dns_servers },
    })
}

impl Eni {
    /// The primary private address.
    pub(crate) fn primary(&self) -> Ipv4Addr {
        self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Nobody else in the VPC may have what this one has.
    pub(super) fn conflicts(&self, vpc: &Vpc) -> Result<(), Error> {
        let other = vpc.enis.iter().find_map(|other| {
            let both = self.addresses.iter().find(|address| other.addresses.contains(address));
            if other.id == self.id {
                Some((other, "the ENI id".to_owned()))
            } else if let Some(address) = both {
                Some((other, format!("address {address}")))
            } else if other.tap == self.tap {
                Some((other, format!("tap name {}", self.tap)))
            } else {
                None
            }
        });
        match other {
            None => Ok(()),
            Some((other, what)) => {
                Err(Error::Conflict { resource: self.id.clone(), what, other: other.id.clone() })
            }
        }
    }
}

fn address(
    id: &str,
    field: &'static str,
    text: &str,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
) -> Result<Ipv4Addr, Error> {
    let address: Ipv4Addr =
        text.parse().map_err(|_| invalid(id, field, text, "an IPv4 address"))?;
    if !subnet.contains(&address) || address == gateway {
        let expected = "an address of vswitch_cidr other than gateway_ip";
        return Err(invalid(id, field, text, expected));
    }
    Ok(address)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A MAC address as text, in the form nft uses.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
