//! What an interface's security groups say about a packet, as one ordered list.
//!
//! All rules of all groups of the interface are merged. Smaller priorities come first; at equal
//! priority a drop beats an accept. What no rule decides is decided by the kind of the groups: a
//! basic group lets its members reach each other (unless told not to) and everything out, an
//! enterprise group does neither.

use super::rule::{self, Reading};
use api::host::SecurityGroupSpec;
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

/// Seen from the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To it; the peer is the source.
    Ingress,
    /// From it; the peer is the destination.
    Egress,
}

/// What happens to a packet. The order is that of rules with equal priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is thrown away without an answer.
    Drop,
    /// It passes.
    Accept,
}

/// A family of addresses. Rules that name a block are about its family, others about both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IP protocol a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Any.
    All,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, or ICMPv6 with IPv6.
    Icmp,
    /// GRE.
    Gre,
}

impl Protocol {
    pub(crate) fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    fn contains(self, number: u8) -> bool {
        match self {
            Self::All => true,
            Self::Tcp => number == 6,
            Self::Udp => number == 17,
            Self::Icmp => number == 1,
            Self::Gre => number == 47,
        }
    }
}

/// The other side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Anyone.
    Any,
    /// Addresses of these blocks, which do not overlap.
    Blocks(Vec<IpNet>),
    /// Members of the group with this id.
    Group(String),
    /// Addresses of the prefix list with this id.
    PrefixList(String),
}

/// What a rule may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A security group, by id.
    Group(&'a str),
    /// A prefix list, by id.
    PrefixList(&'a str),
}

/// Port numbers, as disjoint sorted ranges. Empty stands for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    pub(crate) const ALL: Self = Self(Vec::new());

    /// The union of ranges, none of which is empty.
    pub(crate) fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().map(RangeInclusive::into_inner).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (from, to) in sorted {
            match merged.last_mut() {
                Some((_, end)) if u32::from(from) <= u32::from(*end) + 1 => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    pub(crate) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    fn contains(&self, port: u16) -> bool {
        self.is_all() || self.0.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }

    fn union(&self, other: &Self) -> Self {
        if self.is_all() || other.is_all() {
            return Self::ALL;
        }
        Self::new(self.0.iter().chain(&other.0).map(|(from, to)| *from..=*to))
    }
}

/// Which packets a clause is about: all five must fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The protocol.
    pub protocol: Protocol,
    /// The other side.
    pub peers: Peers,
    /// The interface's own address; none: any of its addresses.
    pub own: Option<IpNet>,
    /// Source ports, of TCP and UDP.
    pub source_ports: PortSet,
    /// Destination ports, of TCP and UDP.
    pub destination_ports: PortSet,
}

/// One step of a [`Policy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Which packets.
    pub matches: Match,
    /// What happens to them.
    pub verdict: Verdict,
}

/// The first packet of a flow, as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol number.
    pub protocol: u8,
    /// Address of the other side.
    pub peer: Ipv4Addr,
    /// The interface's own address.
    pub own: Ipv4Addr,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
}

/// The clauses of one interface in one direction. The first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// In order.
    pub clauses: Vec<Clause>,
    /// When none matches.
    pub default: Verdict,
}

/// A rule that makes no sense. If it accepts, it is left out; if it drops, it drops all it could
/// have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRule {
    /// The rule's group.
    pub group: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Policy {
    /// Merges what groups say about IPv4. `known` tells whether what a rule names is part of the
    /// desired state.
    pub fn merge(
        groups: &[&SecurityGroupSpec],
        direction: Direction,
        known: impl Fn(Reference<'_>) -> bool,
    ) -> (Self, Vec<BrokenRule>) {
        Self::merge_of(AddressFamily::V4, groups, direction, known)
    }

    /// Merges what groups say about one family.
    pub fn merge_of(
        family: AddressFamily,
        groups: &[&SecurityGroupSpec],
        direction: Direction,
        known: impl Fn(Reference<'_>) -> bool,
    ) -> (Self, Vec<BrokenRule>) {
        let mut broken = Vec::new();
        let mut levels: BTreeMap<(u32, Verdict), Vec<Match>> = BTreeMap::new();
        for group in groups {
            let wanted = direction == Direction::Egress;
            for rule in group.rules.iter().filter(|rule| rule.egress == wanted) {
                let verdict = if rule.drop { Verdict::Drop } else { Verdict::Accept };
                let matches = match rule::read(rule, family, &known) {
                    Reading::Rule(matches) => Some(matches),
                    Reading::Nothing => None,
                    Reading::Broken { widest, reason } => {
                        let group = group.security_group_id.clone();
                        broken.push(BrokenRule { group, reason });
                        rule.drop.then_some(widest)
                    }
                };
                levels.entry((rule.priority, verdict)).or_default().extend(matches);
            }
        }
        let mut clauses: Vec<Clause> = levels
            .into_iter()
            .flat_map(|((_, verdict), level)| {
                combine(level).into_iter().map(move |matches| Clause { matches, verdict })
            })
            .collect();
        let default = match direction {
            Direction::Ingress => {
                for group in groups.iter().filter(|g| !g.enterprise && g.inner_accept) {
                    clauses.push(Clause {
                        matches: Match {
                            protocol: Protocol::All,
                            peers: Peers::Group(group.security_group_id.clone()),
                            own: None,
                            source_ports: PortSet::ALL,
                            destination_ports: PortSet::ALL,
                        },
                        verdict: Verdict::Accept,
                    });
                }
                Verdict::Drop
            }
            // An interface without any group, or with one that says no, gets nothing out.
            Direction::Egress if groups.is_empty() || groups.iter().any(|g| g.enterprise) => {
                Verdict::Drop
            }
            Direction::Egress => Verdict::Accept,
        };
        (Self { clauses, default }, broken)
    }

    /// The verdict on a packet. `is_member` tells whether an address belongs to a group or a prefix
    /// list, by its id.
    pub fn evaluate(&self, packet: &Packet, is_member: impl Fn(&str, Ipv4Addr) -> bool) -> Verdict {
        self.clauses
            .iter()
            .find(|clause| clause.matches.fits(packet, &is_member))
            .map_or(self.default, |clause| clause.verdict)
    }
}

impl Match {
    fn fits(&self, packet: &Packet, is_member: impl Fn(&str, Ipv4Addr) -> bool) -> bool {
        let peer = match &self.peers {
            Peers::Any => true,
            Peers::Blocks(blocks) => {
                blocks.iter().any(|block| block.contains(&IpAddr::V4(packet.peer)))
            }
            Peers::Group(id) | Peers::PrefixList(id) => is_member(id, packet.peer),
        };
        let own = self.own.is_none_or(|block| block.contains(&IpAddr::V4(packet.own)));
        peer && own
            && self.protocol.contains(packet.protocol)
            && self.source_ports.contains(packet.source_port)
            && self.destination_ports.contains(packet.destination_port)
    }
}

/// Fewer matches that together match the same. They share a priority and a verdict, so that their
/// order does not matter.
fn combine(level: Vec<Match>) -> Vec<Match> {
    type Rest = (Protocol, Option<IpNet>, PortSet);
    let mut by_ports: BTreeMap<(Rest, PortSet), Vec<Peers>> = BTreeMap::new();
    for m in level {
        let key = ((m.protocol, m.own, m.source_ports), m.destination_ports);
        by_ports.entry(key).or_default().push(m.peers);
    }
    let mut by_peers: BTreeMap<(Rest, Peers), PortSet> = BTreeMap::new();
    for ((rest, destination_ports), peers) in by_ports {
        for peers in combine_peers(peers) {
            by_peers
                .entry((rest.clone(), peers))
                .and_modify(|ports| *ports = ports.union(&destination_ports))
                .or_insert_with(|| destination_ports.clone());
        }
    }
    by_peers
        .into_iter()
        .map(|(((protocol, own, source_ports), peers), destination_ports)| Match {
            protocol,
            peers,
            own,
            source_ports,
            destination_ports,
        })
        .collect()
}

fn combine_peers(mut peers: Vec<Peers>) -> Vec<Peers> {
    if peers.contains(&Peers::Any) {
        return vec![Peers::Any];
    }
    peers.sort_unstable();
    peers.dedup();
    let mut blocks = Vec::new();
    let mut combined = Vec::new();
    for peer in peers {
        match peer {
            Peers::Blocks(some) => blocks.extend(some),
            other => combined.push(other),
        }
    }
    let blocks = IpNet::aggregate(&blocks);
    match blocks.first() {
        None => {}
        Some(all) if all.prefix_len() == 0 => return vec![Peers::Any],
        Some(_) => combined.push(Peers::Blocks(blocks)),
    }
    combined
}
