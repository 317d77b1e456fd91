//! The desired state, checked and sorted by VPC, in the types of the standard library.

use crate::{Desired, DhcpOptions, Error, Options, Problem, ResourceKind, names};
use api::host::{EniSpec, SecurityGroupSpec, VpcSpec};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// VXLAN network identifiers have 24 bits.
const VNI_LIMIT: u32 = 1 << 24;

/// One ENI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eni {
    pub(crate) id: String,
    pub(crate) tap: String,
    pub(crate) mac: [u8; 6],
    pub(crate) address: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) groups: Vec<String>,
    pub(crate) dhcp: DhcpOptions,
}

/// One VPC as this host should have it.
#[derive(Debug, Default)]
pub(crate) struct Vpc {
    pub(crate) id: String,
    pub(crate) vni: u32,
    pub(crate) enis: Vec<Eni>,
    pub(crate) groups: BTreeMap<String, SecurityGroupSpec>,
    /// Addresses that answer locally besides the service addresses.
    pub(crate) gateways: BTreeSet<Ipv4Addr>,
    pub(crate) subnets: BTreeSet<Ipv4Net>,
    /// Taps that stay as they are: those of ENIs whose spec is refused.
    pub(crate) untouched: BTreeSet<String>,
}

/// All VPCs and what was wrong with the desired state.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) vpcs: Vec<Vpc>,
    /// VNIs that stay as they are: those of VPCs whose spec is refused.
    pub(crate) untouched: BTreeSet<u32>,
    pub(crate) problems: Vec<Problem>,
}

impl Plan {
    pub(crate) fn new(desired: &Desired, options: &Options) -> Self {
        let mut plan = Self::default();
        let mut index_of: HashMap<&str, usize> = HashMap::new();
        let mut vnis: HashMap<u32, &str> = HashMap::new();
        for spec in &desired.vpcs {
            match vpc(spec, &vnis) {
                Ok(vpc) => {
                    vnis.insert(vpc.vni, &spec.vpc_id);
                    index_of.insert(&spec.vpc_id, plan.vpcs.len());
                    plan.vpcs.push(vpc);
                }
                Err(e) => {
                    plan.untouched.insert(spec.vni);
                    plan.problem(ResourceKind::Vpc, &spec.vpc_id, &e);
                }
            }
        }
        for group in &desired.groups {
            if let Some(vpc) = index_of.get(group.vpc_id.as_str()) {
                plan.vpcs[*vpc].groups.insert(group.security_group_id.clone(), group.clone());
            }
        }
        for spec in &desired.enis {
            let Some(index) = index_of.get(spec.vpc_id.as_str()).copied() else {
                let e = Error::UnknownVpc(spec.vpc_id.clone());
                plan.problem(ResourceKind::Eni, &spec.eni_id, &e);
                continue;
            };
            let dhcp = desired.dhcp.get(&spec.eni_id).cloned().unwrap_or_default();
            let checked = eni(spec, dhcp, options).and_then(|eni| {
                conflict(&eni, &plan.vpcs[index])?;
                Ok(eni)
            });
            match checked {
                Ok(eni) => {
                    let vpc = &mut plan.vpcs[index];
                    vpc.gateways.insert(eni.gateway);
                    vpc.subnets.insert(eni.subnet);
                    vpc.enis.push(eni);
                }
                Err(e) => {
                    plan.vpcs[index].untouched.insert(names::tap_name(&spec.eni_id));
                    plan.problem(ResourceKind::Eni, &spec.eni_id, &e);
                }
            }
        }
        plan
    }

    fn problem(&mut self, kind: ResourceKind, id: &str, error: &Error) {
        self.problems.push(Problem { kind, id: id.to_owned(), message: error.to_string() });
    }
}

fn invalid(resource: &str, field: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Invalid { resource: resource.to_owned(), field, value: value.to_owned(), expected }
}

fn vpc(spec: &VpcSpec, vnis: &HashMap<u32, &str>) -> Result<Vpc, Error> {
    let id = &spec.vpc_id;
    if id.is_empty() {
        return Err(invalid("VPC", "vpc_id", id, "an id"));
    }
    if spec.vni == 0 || spec.vni >= VNI_LIMIT {
        return Err(invalid(id, "vni", &spec.vni.to_string(), "1 to 16777215"));
    }
    if let Some(other) = vnis.get(&spec.vni) {
        return Err(Error::Conflict {
            resource: id.clone(),
            what: format!("VNI {}", spec.vni),
            other: (*other).to_owned(),
        });
    }
    let mut vpc = Vpc { id: id.clone(), vni: spec.vni, ..Vpc::default() };
    for vswitch in &spec.vswitches {
        let subnet = subnet(&vswitch.vswitch_id, "cidr", &vswitch.cidr)?;
        vpc.gateways.insert(gateway(&vswitch.vswitch_id, &vswitch.gateway_ip, subnet)?);
        vpc.subnets.insert(subnet);
    }
    Ok(vpc)
}

pub(crate) fn eni(spec: &EniSpec, dhcp: DhcpOptions, options: &Options) -> Result<Eni, Error> {
    let id = &spec.eni_id;
    if id.is_empty() || id.len() > 255 {
        return Err(invalid("ENI", "eni_id", id, "an id of at most 255 bytes"));
    }
    let subnet = subnet(id, "vswitch_cidr", &spec.vswitch_cidr)?;
    let gateway = gateway(id, &spec.gateway_ip, subnet)?;
    let address: Ipv4Addr = spec
        .private_ip
        .parse()
        .map_err(|_| invalid(id, "private_ip", &spec.private_ip, "an IPv4 address"))?;
    if !subnet.contains(&address) || address == gateway {
        let expected = "an address of vswitch_cidr other than gateway_ip";
        return Err(invalid(id, "private_ip", &spec.private_ip, expected));
    }
    let mac = parse_mac(&spec.mac).filter(|mac| mac[0] & 1 == 0 && *mac != names::GATEWAY_MAC);
    let mac = mac.ok_or_else(|| invalid(id, "mac", &spec.mac, "a unicast MAC address"))?;
    let mut groups = spec.security_group_ids.clone();
    groups.sort_unstable();
    groups.dedup();
    let dns_servers =
        if dhcp.dns_servers.is_empty() { options.dns_servers.clone() } else { dhcp.dns_servers };
    let dhcp = DhcpOptions { hostname: dhcp.hostname, dns_servers };
    let tap = names::tap_name(id);
    Ok(Eni { id: id.clone(), tap, mac, address, subnet, gateway, groups, dhcp })
}

fn conflict(eni: &Eni, vpc: &Vpc) -> Result<(), Error> {
    let other = vpc.enis.iter().find_map(|other| {
        if other.id == eni.id {
            Some((other, "the ENI id".to_owned()))
        } else if other.address == eni.address {
            Some((other, format!("address {}", eni.address)))
        } else if other.tap == eni.tap {
            Some((other, format!("tap name {}", eni.tap)))
        } else {
            None
        }
    });
    match other {
        None => Ok(()),
        Some((other, what)) => {
            Err(Error::Conflict { resource: eni.id.clone(), what, other: other.id.clone() })
        }
    }
}

fn subnet(resource: &str, field: &'static str, cidr: &str) -> Result<Ipv4Net, Error> {
    cidr.parse::<Ipv4Net>()
        .ok()
        .filter(|net| net.prefix_len() >= 8 && net.prefix_len() <= 30)
        .map(|net| net.trunc())
        .ok_or_else(|| invalid(resource, field, cidr, "an IPv4 CIDR block of /8 to /30"))
}

fn gateway(resource: &str, address: &str, subnet: Ipv4Net) -> Result<Ipv4Addr, Error> {
    address
        .parse::<Ipv4Addr>()
        .ok()
        .filter(|gateway| subnet.contains(gateway))
        .ok_or_else(|| invalid(resource, "gateway_ip", address, "an IPv4 address of the VSwitch"))
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
