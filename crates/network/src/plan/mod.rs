//! The desired state, checked and sorted by VPC, in the types of the standard library.

mod eni;
mod peers;
mod public;
mod routing;
mod vpc;

pub(crate) use eni::{Eni, eni, mac_text};
pub(crate) use peers::Peer;
pub(crate) use public::{Eip, Forward, NatGateway};
pub(crate) use routing::{Entry, NextHop};

use crate::{Desired, Error, Options, Problem, ResourceKind, names};
use api::host::SecurityGroupSpec;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// One VPC as this host should have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Vpc {
    pub(crate) id: String,
    pub(crate) vni: u32,
    pub(crate) enis: Vec<Eni>,
    pub(crate) groups: BTreeMap<String, SecurityGroupSpec>,
    /// Addresses of prefix lists, by id; those of a list that makes no sense are not there.
    pub(crate) prefix_lists: BTreeMap<String, Vec<Ipv4Net>>,
    /// Addresses that answer locally besides the service addresses.
    pub(crate) gateways: BTreeSet<Ipv4Addr>,
    /// The VPC's own: an address of these that nobody has is nowhere.
    pub(crate) blocks: BTreeSet<Ipv4Net>,
    pub(crate) vswitches: BTreeMap<String, VSwitch>,
    pub(crate) route_tables: BTreeMap<String, Vec<Entry>>,
    /// Public addresses of ENIs and NAT gateways of this host.
    pub(crate) eips: Vec<Eip>,
    /// Those that work on this host.
    pub(crate) nat_gateways: Vec<NatGateway>,
    /// Of its instances that have any.
    pub(crate) limits: Vec<Limit>,
    /// Other hosts, by underlay address.
    pub(crate) peers: BTreeMap<Ipv4Addr, Peer>,
    /// Taps that stay as they are: those of ENIs whose spec is refused.
    pub(crate) untouched: BTreeSet<String>,
}

/// How fast an instance may be, over all its ENIs together, each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) instance: String,
    pub(crate) taps: Vec<String>,
    /// 0 for no limit.
    pub(crate) kbits: u64,
    pub(crate) burst_kbits: u64,
    /// Packets per second; 0 for no limit.
    pub(crate) packets: u64,
}

/// One VSwitch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VSwitch {
    pub(crate) subnet: Ipv4Net,
    /// One of [`Vpc::route_tables`], if it has entries.
    pub(crate) route_table: Option<String>,
}

impl Vpc {
    /// The route table of an ENI's VSwitch, if it has entries.
    pub(crate) fn route_table_of(&self, eni: &Eni) -> Option<&str> {
        self.vswitches.get(&eni.vswitch)?.route_table.as_deref()
    }

    /// Whether it meets the world on this host.
    pub(crate) fn has_edge(&self) -> bool {
        !self.eips.is_empty()
    }

    /// The ENI of this host that has the address.
    pub(crate) fn eni_with(&self, address: Ipv4Addr) -> Option<&Eni> {
        self.enis.iter().find(|eni| eni.addresses.contains(&address))
    }

    /// The host whose ENI has the address, by its underlay address.
    pub(crate) fn peer_with(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let mut peers = self.peers.iter();
        peers.find_map(|(host, peer)| peer.addresses.contains(&address).then_some(*host))
    }
}

/// All VPCs and what was wrong with the desired state.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) vpcs: Vec<Vpc>,
    /// VNIs that stay as they are: those of VPCs whose spec is refused.
    pub(crate) untouched: BTreeSet<u32>,
    /// Networks that guests must not reach from public addresses.
    pub(crate) denied: Vec<Ipv4Net>,
    pub(crate) problems: Vec<Problem>,
}

impl Plan {
    pub(crate) fn new(desired: &Desired, options: &Options) -> Self {
        let denied = options.edge_denied.iter().chain(&desired.edge_denied);
        let mut plan = Self { denied: denied.copied().collect(), ..Self::default() };
        let mut index_of: HashMap<&str, usize> = HashMap::new();
        let mut vnis: HashMap<u32, &str> = HashMap::new();
        for spec in &desired.vpcs {
            match vpc::vpc(spec, &vnis) {
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
        plan.add_enis(desired, &index_of, options);
        plan.add_limits(desired);
        plan.add_prefix_lists(desired);
        for spec in &desired.vpcs {
            if let Some(index) = index_of.get(spec.vpc_id.as_str()).copied() {
                plan.add_peers(spec, index, options);
                plan.add_public(spec, index, &desired.enis);
                plan.add_route_tables(spec, index);
            }
        }
        plan
    }

    fn add_enis(&mut self, desired: &Desired, index_of: &HashMap<&str, usize>, options: &Options) {
        for spec in &desired.enis {
            let Some(index) = index_of.get(spec.vpc_id.as_str()).copied() else {
                let e = Error::UnknownVpc(spec.vpc_id.clone());
                self.problem(ResourceKind::Eni, &spec.eni_id, &e);
                continue;
            };
            let dhcp = desired.dhcp.get(&spec.eni_id).cloned().unwrap_or_default();
            let checked = eni(spec, dhcp, options).and_then(|eni| {
                eni.conflicts(&self.vpcs[index])?;
                Ok(eni)
            });
            match checked {
                Ok(eni) => {
                    let vpc = &mut self.vpcs[index];
                    vpc.gateways.insert(eni.gateway);
                    vpc.blocks.insert(eni.subnet);
                    vpc.enis.push(eni);
                }
                Err(e) => {
                    self.vpcs[index].untouched.insert(names::tap_name(&spec.eni_id));
                    self.problem(ResourceKind::Eni, &spec.eni_id, &e);
                }
            }
        }
    }

    fn add_limits(&mut self, desired: &Desired) {
        for spec in &desired.limits {
            for vpc in &mut self.vpcs {
                let mine = vpc.enis.iter().filter(|eni| spec.eni_ids.contains(&eni.id));
                let taps: Vec<String> = mine.map(|eni| eni.tap.clone()).collect();
                if taps.is_empty() {
                    continue;
                }
                vpc.limits.push(Limit {
                    instance: spec.instance_id.clone(),
                    taps,
                    kbits: spec.limit.kbits_per_second,
                    burst_kbits: spec.limit.burst_kbits_per_second,
                    packets: spec.limit.packets_per_second,
                });
            }
        }
    }

    /// Every VPC gets those its groups name.
    fn add_prefix_lists(&mut self, desired: &Desired) {
        let mut lists: HashMap<&str, Vec<Ipv4Net>> = HashMap::new();
        for list in &desired.prefix_lists {
            let blocks = list.cidrs.iter().filter(|cidr| !cidr.contains(':'));
            let blocks: Result<Vec<Ipv4Net>, &String> = blocks
                .map(|cidr| {
                    let block = cidr.parse::<Ipv4Net>();
                    block.or_else(|_| cidr.parse::<Ipv4Addr>().map(Ipv4Net::from)).map_err(|_| cidr)
                })
                .collect();
            match blocks {
                Ok(blocks) => {
                    let blocks: Vec<_> = blocks.iter().map(Ipv4Net::trunc).collect();
                    lists.insert(&list.prefix_list_id, Ipv4Net::aggregate(&blocks));
                }
                Err(cidr) => {
                    let id = &list.prefix_list_id;
                    let e = invalid(id, "cidrs", cidr, "CIDR blocks");
                    self.problem(ResourceKind::PrefixList, id, &e);
                }
            }
        }
        for vpc in &mut self.vpcs {
            let rules = vpc.groups.values().flat_map(|group| &group.rules);
            let named = rules.map(|rule| &rule.prefix_list_id).filter(|id| !id.is_empty());
            vpc.prefix_lists = named
                .filter_map(|id| Some((id.clone(), lists.get(id.as_str())?.clone())))
                .collect();
        }
    }

    fn problem(&mut self, kind: ResourceKind, id: &str, error: &Error) {
        self.problems.push(Problem { kind, id: id.to_owned(), message: error.to_string() });
    }
}

fn invalid(resource: &str, field: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Invalid { resource: resource.to_owned(), field, value: value.to_owned(), expected }
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
