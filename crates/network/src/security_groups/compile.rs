//! One VPC's filter: who may send what through which tap.
//!
//! Groups judge the first packet of a flow, and every flow again after each change of the rules. A
//! flow that may pass is stamped (`ct mark`) with the generation of the rules that said so, and one
//! with the present generation passes without another look. Since a change brings a new generation,
//! all live flows are judged once by the rules of today, at their next packet, and go on or end. A
//! packet that answers is judged by the same rules, mirrored: it is its flow that is allowed or not.

use super::{
    policy::{BrokenRule, Direction, Match, Peers, Policy, PortSet, Protocol, Reference, Verdict},
    ruleset::{Chain, Family, GENERATION, Ruleset, Set, Table},
};
use crate::{
    METADATA_ADDRESS, METADATA_PORT, SERVICE_ADDRESS, TABLE_NAME,
    edge::{self, EDGE_LINK},
    names::{self, VXLAN_LINK, vxlan_mac},
    plan::{Eni, Vpc, mac_text},
    shaping::class_numbers,
};
use ipnet::Ipv4Net;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Its elements come from packets, not from us.
pub(crate) const DHCP_RATE_SET: &str = "dhcp_rate";

/// A VPC's rules, and what could not be expressed.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) ruleset: Ruleset,
    pub(crate) broken: BTreeSet<(String, String)>,
    /// ENIs with a group that is not in the desired state, and that group. They get no flow at all.
    pub(crate) without_group: Vec<(String, String)>,
}

pub(crate) fn compile(vpc: &Vpc) -> Compiled {
    let mut inet = base();
    let mut broken = BTreeSet::new();
    let mut without_group = Vec::new();
    let mut combinations: BTreeMap<&[String], String> = BTreeMap::new();
    for eni in &vpc.enis {
        admit(&mut inet, eni);
        if let Some(group) = eni.groups.iter().find(|id| !vpc.groups.contains_key(*id)) {
            without_group.push((eni.id.clone(), group.clone()));
            continue;
        }
        let name = match combinations.get(eni.groups.as_slice()) {
            Some(name) => name.clone(),
            None => {
                let name = short_hash(&eni.groups.join("\n"));
                for rule in add_chains(&mut inet, &name, &eni.groups, vpc) {
                    broken.insert((rule.group, rule.reason));
                }
                combinations.insert(&eni.groups, name.clone());
                name
            }
        };
        let tap = quoted(&eni.tap);
        for (map, chain) in [
            ("egress", "out"),
            ("ingress", "in"),
            ("egress_reply", "out_reply"),
            ("ingress_reply", "in_reply"),
        ] {
            element(&mut inet, map, tap.clone(), format!("goto {chain}_{name}"));
        }
    }
    for gateway in &vpc.gateways {
        element(&mut inet, "gateways", gateway.to_string(), String::new());
    }
    admit_peers(&mut inet, vpc);
    admit_world(&mut inet, vpc);
    edge::add_nat(&mut inet, vpc);
    add_limits(&mut inet, vpc);
    let arp = arp(vpc);
    let tables = BTreeMap::from([(Family::Inet, inet), (Family::Arp, arp)]);
    let ruleset = Ruleset { name: TABLE_NAME.to_owned(), tables };
    Compiled { ruleset, broken, without_group }
}

/// Who may speak ARP. A router may in the name of others, as it asks in the name of who it forwards
/// for; but every name costs a neighbour entry, of which all of the host have a common number.
fn arp(vpc: &Vpc) -> Table {
    let mut arp = Table::default();
    let mut senders = set("ifname . ether_addr . ipv4_addr");
    let mut routers = set("ifname . ether_addr");
    for eni in &vpc.enis {
        let port = format!("{} . {}", quoted(&eni.tap), mac_text(eni.mac));
        let unset = std::net::Ipv4Addr::UNSPECIFIED;
        for address in eni.addresses.iter().copied().chain([unset]) {
            senders.elements.insert(format!("{port} . {address}"), String::new());
        }
        if eni.is_router {
            routers.elements.insert(port, String::new());
        }
    }
    arp.sets.insert("senders".to_owned(), senders);
    arp.sets.insert("routers".to_owned(), routers);
    arp.sets.insert("router_rate".to_owned(), rates("ifname"));
    arp.chains.insert(
        "input".to_owned(),
        chain(
            "type filter hook input priority 0; policy drop",
            [
                "iifname . arp saddr ether . arp saddr ip @senders accept",
                "iifname . arp saddr ether @routers \
                 update @router_rate { iifname limit rate 5/second burst 10 packets } accept",
            ],
        ),
    );
    arp
}

/// What every VPC has. Chains that a map leads to are entered by `goto`, so that the end of one is
/// the end of the packet: base chains drop by default.
fn base() -> Table {
    let metadata = format!("ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} accept");
    let from_host = format!("ip saddr {SERVICE_ADDRESS} oifname vmap @ingress");
    let to_host = format!(
        "ct direction reply ct state established ip daddr {SERVICE_ADDRESS} \
         iifname vmap @ingress_reply"
    );
    // A source that is not its own earns no answer of the host.
    let router = format!(
        "iifname . ether saddr @routers ip daddr != {{ {METADATA_ADDRESS}, {SERVICE_ADDRESS} }} \
         ip daddr != @gateways accept"
    );
    let beyond =
        format!("iifname {VXLAN_LINK} ip saddr != @subnets ether saddr . ip saddr @beyond accept");
    // None of the VPC's own addresses comes from the world.
    let world = format!("iifname {EDGE_LINK} ip saddr != @blocks accept");
    let back = format!("iifname {VXLAN_LINK} oifname {VXLAN_LINK} drop");
    let live = format!("ct state established,related ct mark {GENERATION} accept");
    let pass = format!("ct mark set {GENERATION} accept");
    let chains = BTreeMap::from([
        (
            "prerouting".to_owned(),
            chain(
                "type filter hook prerouting priority -300; policy drop",
                [
                    "iifname lo accept",
                    "meta nfproto != ipv4 drop",
                    // Only the host is a DHCP server.
                    "udp sport 67 udp dport 68 drop",
                    "iifname . ether saddr . ip saddr @sources accept",
                    "iifname . ether saddr @ports ip saddr 0.0.0.0 ip daddr 255.255.255.255 \
                     udp sport 68 udp dport 67 accept",
                    router.as_str(),
                    beyond.as_str(),
                    world.as_str(),
                ],
            ),
        ),
        (
            "forward".to_owned(),
            chain(
                "type filter hook forward priority 0; policy drop",
                [
                    "ct state invalid drop",
                    // A host that is wrong about where an address is must not make a loop.
                    back.as_str(),
                    // Who does not know how long packets may be on the way learns it here.
                    "tcp flags syn tcp option maxseg size set rt mtu",
                    "jump live",
                    // An ICMP error of a flow that has to be judged anew: only its own packets tell
                    // whose it is.
                    "ct state related drop",
                    "ct direction reply oifname vmap @egress_reply",
                    "ct direction original iifname vmap @egress",
                ],
            ),
        ),
        ("live".to_owned(), chain("", [live.as_str()])),
        // Stamped where it is judged: a later hook might already see the next generation.
        ("pass".to_owned(), chain("", [pass.as_str()])),
        ("to_guest".to_owned(), chain("", ["oifname vmap @ingress", "drop"])),
        ("from_guest".to_owned(), chain("", ["iifname vmap @ingress_reply", "drop"])),
        (
            "input".to_owned(),
            chain(
                "type filter hook input priority 0; policy drop",
                [
                    "iifname lo accept",
                    // Before all that accepts: a guest that has its address renews it in a flow that
                    // is established.
                    "udp sport 68 udp dport 67 update @dhcp_rate \
                     { iifname limit rate over 10/second burst 20 packets } drop",
                    "udp sport 68 udp dport 67 accept",
                    "ct state invalid drop",
                    // What a guest asks of the host is no group's business.
                    "ct direction original ct state established,related accept",
                    "jump live",
                    to_host.as_str(),
                    metadata.as_str(),
                    "icmp type echo-request ip daddr @gateways accept",
                ],
            ),
        ),
        (
            "output".to_owned(),
            chain(
                "type filter hook output priority 0; policy drop",
                [
                    "oifname lo accept",
                    "ct direction reply ct state established,related accept",
                    "jump live",
                    // Of a packet too long to go on, whose flow there is not yet.
                    "icmp type destination-unreachable icmp code frag-needed accept",
                    "udp sport 67 udp dport 68 accept",
                    from_host.as_str(),
                ],
            ),
        ),
    ]);
    let verdicts = || Set {
        is_map: true,
        declaration: vec!["type ifname : verdict".to_owned()],
        elements: BTreeMap::new(),
    };
    let sets = BTreeMap::from([
        ("sources".to_owned(), set("ifname . ether_addr . ipv4_addr")),
        ("ports".to_owned(), set("ifname . ether_addr")),
        ("routers".to_owned(), set("ifname . ether_addr")),
        ("subnets".to_owned(), intervals("ipv4_addr")),
        ("blocks".to_owned(), intervals("ipv4_addr")),
        ("beyond".to_owned(), intervals("ether_addr . ipv4_addr")),
        ("gateways".to_owned(), set("ipv4_addr")),
        (DHCP_RATE_SET.to_owned(), rates("ifname")),
        ("ingress".to_owned(), verdicts()),
        ("egress".to_owned(), verdicts()),
        ("ingress_reply".to_owned(), verdicts()),
        ("egress_reply".to_owned(), verdicts()),
    ]);
    Table { sets, chains, ..Table::default() }
}

/// The addresses an ENI may send from.
fn admit(inet: &mut Table, eni: &Eni) {
    let port = format!("{} . {}", quoted(&eni.tap), mac_text(eni.mac));
    for address in &eni.addresses {
        element(inet, "sources", format!("{port} . {address}"), String::new());
    }
    if eni.is_router {
        element(inet, "routers", port.clone(), String::new());
    }
    element(inet, "ports", port, String::new());
}

/// What may come from and go to other hosts. Each judges by the groups of its own ENIs: the sender's
/// what leaves, the receiver's what arrives.
fn admit_peers(inet: &mut Table, vpc: &Vpc) {
    if vpc.peers.is_empty() {
        return;
    }
    let link = quoted(VXLAN_LINK);
    judge_nothing(inet, VXLAN_LINK);
    for (host, peer) in &vpc.peers {
        let mac = mac_text(vxlan_mac(*host));
        for address in &peer.addresses {
            element(inet, "sources", format!("{link} . {mac} . {address}"), String::new());
        }
        let beyond: Vec<_> = peer.beyond.iter().copied().collect();
        for block in Ipv4Net::aggregate(&beyond) {
            element(inet, "beyond", format!("{mac} . {block}"), String::new());
        }
    }
    let subnets = vpc.vswitches.values().map(|vswitch| vswitch.subnet);
    let subnets: Vec<_> = subnets.chain(vpc.enis.iter().map(|eni| eni.subnet)).collect();
    for subnet in Ipv4Net::aggregate(&subnets) {
        element(inet, "subnets", subnet.to_string(), String::new());
    }
}

/// What may come from the world, once it is for a private address.
fn admit_world(inet: &mut Table, vpc: &Vpc) {
    if !vpc.has_edge() {
        return;
    }
    judge_nothing(inet, EDGE_LINK);
    let blocks: Vec<_> = vpc.blocks.iter().copied().collect();
    for block in Ipv4Net::aggregate(&blocks) {
        element(inet, "blocks", block.to_string(), String::new());
    }
}

/// Packets per second, and which class what leaves for the world is of.
fn add_limits(inet: &mut Table, vpc: &Vpc) {
    let map = |kind: &str| Set {
        is_map: true,
        declaration: vec![format!("type {kind}")],
        elements: BTreeMap::new(),
    };
    let mut rules = Vec::new();
    let packets: Vec<_> = vpc.limits.iter().filter(|limit| limit.packets > 0).collect();
    if !packets.is_empty() {
        for (way, side) in [("out", "iifname"), ("in", "oifname")] {
            let mut limits = map("ifname : limit");
            for limit in &packets {
                // Of another name when it is of another rate: one in use cannot be changed.
                let name = names::hashed(&format!("packets_{way}_"), &limit.instance);
                let name = format!("{name}_{}", limit.packets);
                let burst = (limit.packets / 10).clamp(64, 100_000);
                let text = format!("rate over {}/second burst {burst} packets", limit.packets);
                inet.limits.insert(name.clone(), text);
                for tap in &limit.taps {
                    limits.elements.insert(quoted(tap), quoted(&name));
                }
            }
            let set = format!("packets_{way}");
            let rule = format!("limit name {side} map @{set} drop");
            match way {
                "in" => rules.push(rule),
                _ => {
                    if let Some(chain) = inet.chains.get_mut("prerouting") {
                        chain.rules.insert(0, rule);
                    }
                }
            }
            inet.sets.insert(set, limits);
        }
    }
    let classes = class_numbers(&vpc.eips);
    if !classes.is_empty() {
        let mut of_address = map("ipv4_addr : classid");
        for (address, number) in classes {
            of_address.elements.insert(address.to_string(), format!("1:{number:x}"));
        }
        inet.sets.insert("eip_class".to_owned(), of_address);
        // Where addresses are public again.
        rules.push(format!("oifname {EDGE_LINK} meta priority set ip saddr map @eip_class"));
    }
    if !rules.is_empty() {
        let hook = "type filter hook postrouting priority 200; policy accept".to_owned();
        inet.chains.insert("limits".to_owned(), Chain { hook, rules });
    }
}

/// A link that no ENI is behind: only those at the other end judge.
fn judge_nothing(inet: &mut Table, link: &str) {
    for (map, verdict) in [
        ("egress", "goto to_guest"),
        ("ingress", "goto pass"),
        ("egress_reply", "goto from_guest"),
        ("ingress_reply", "goto pass"),
    ] {
        element(inet, map, quoted(link), verdict.to_owned());
    }
}

fn add_chains(inet: &mut Table, name: &str, groups: &[String], vpc: &Vpc) -> Vec<BrokenRule> {
    let specs: Vec<_> = groups.iter().filter_map(|id| vpc.groups.get(id)).collect();
    let known = |reference: Reference<'_>| match reference {
        Reference::Group(id) => vpc.groups.contains_key(id),
        Reference::PrefixList(id) => vpc.prefix_lists.contains_key(id),
    };
    let mut broken = Vec::new();
    for (direction, prefix) in [(Direction::Ingress, "in"), (Direction::Egress, "out")] {
        let (policy, some_broken) = Policy::merge(&specs, direction, known);
        broken.extend(some_broken);
        for clause in &policy.clauses {
            match &clause.matches.peers {
                Peers::Group(id) => members(inet, id, vpc),
                Peers::PrefixList(id) => prefixes(inet, id, vpc),
                Peers::Any | Peers::Blocks(_) => {}
            }
        }
        for (travel, suffix) in [(Travel::Original, ""), (Travel::Reply, "_reply")] {
            let rules = policy
                .clauses
                .iter()
                .map(|clause| {
                    let mut rule = conditions(&clause.matches, direction, travel);
                    rule.push_str(verdict(clause.verdict, direction, travel));
                    rule
                })
                .chain([verdict(policy.default, direction, travel).to_owned()])
                .collect();
            let chain = Chain { hook: String::new(), rules };
            inet.chains.insert(format!("{prefix}{suffix}_{name}"), chain);
        }
    }
    broken
}

fn members(inet: &mut Table, group: &str, vpc: &Vpc) {
    let name = named_set("members", group);
    if inet.sets.contains_key(&name) {
        return;
    }
    let mut members = set("ipv4_addr");
    let addresses = vpc.groups.get(group).map(|g| g.member_ips.as_slice()).unwrap_or_default();
    for address in addresses {
        if let Ok(address) = address.parse::<std::net::Ipv4Addr>() {
            members.elements.insert(address.to_string(), String::new());
        }
    }
    inet.sets.insert(name, members);
}

fn prefixes(inet: &mut Table, list: &str, vpc: &Vpc) {
    let mut prefixes = intervals("ipv4_addr");
    for block in vpc.prefix_lists.get(list).into_iter().flatten() {
        prefixes.elements.insert(block.to_string(), String::new());
    }
    inet.sets.insert(named_set("prefixes", list), prefixes);
}

/// Which way a packet goes in its flow. The direction of rules is that of the flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Travel {
    Original,
    Reply,
}

fn conditions(matches: &Match, direction: Direction, travel: Travel) -> String {
    let field = match (direction, travel) {
        (Direction::Ingress, Travel::Original) | (Direction::Egress, Travel::Reply) => "ip saddr",
        (Direction::Egress, Travel::Original) | (Direction::Ingress, Travel::Reply) => "ip daddr",
    };
    let (source, destination) = match travel {
        Travel::Original => ("sport", "dport"),
        Travel::Reply => ("dport", "sport"),
    };
    let mut text = match &matches.peers {
        Peers::Any => String::new(),
        Peers::Group(group) => format!("{field} @{} ", named_set("members", group)),
        Peers::PrefixList(list) => format!("{field} @{} ", named_set("prefixes", list)),
        Peers::Blocks(blocks) => {
            let blocks: Vec<_> = blocks.iter().map(ToString::to_string).collect();
            format!("{field} {{ {} }} ", blocks.join(", "))
        }
    };
    let protocol = match matches.protocol {
        Protocol::All => return text,
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Gre => "gre",
    };
    if matches.source_ports.is_all() && matches.destination_ports.is_all() {
        text.push_str(&format!("meta l4proto {protocol} "));
    }
    let sides = [(source, &matches.source_ports), (destination, &matches.destination_ports)];
    for (side, ports) in sides {
        if !ports.is_all() {
            text.push_str(&format!("{protocol} {side} {{ {} }} ", ranges(ports)));
        }
    }
    text
}

fn ranges(ports: &PortSet) -> String {
    let ranges: Vec<_> = ports
        .ranges()
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    ranges.join(", ")
}

fn verdict(verdict: Verdict, direction: Direction, travel: Travel) -> &'static str {
    match (verdict, direction, travel) {
        (Verdict::Drop, ..) => "drop",
        (Verdict::Accept, Direction::Ingress, _) => "goto pass",
        // The receiver's groups have their say too.
        (Verdict::Accept, Direction::Egress, Travel::Original) => "goto to_guest",
        (Verdict::Accept, Direction::Egress, Travel::Reply) => "goto from_guest",
    }
}

/// The set of a group or a prefix list. Ids of ECS's form are kept readable.
fn named_set(kind: &str, id: &str) -> String {
    let plain = id.len() <= 40 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain {
        format!("{kind}_{}", id.replace('-', "_"))
    } else {
        format!("{kind}_of_{}", short_hash(id))
    }
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn set(kind: &str) -> Set {
    Set { is_map: false, declaration: vec![format!("type {kind}")], elements: BTreeMap::new() }
}

/// A limit per key, kept for as long as it is used.
fn rates(kind: &str) -> Set {
    let mut set = set(kind);
    let options = ["size 65535", "flags dynamic,timeout", "timeout 1m"];
    set.declaration.extend(options.map(str::to_owned));
    set
}

fn intervals(kind: &str) -> Set {
    let mut set = set(kind);
    set.declaration.push("flags interval".to_owned());
    set
}

fn chain<'a>(hook: &str, rules: impl IntoIterator<Item = &'a str>) -> Chain {
    Chain { hook: hook.to_owned(), rules: rules.into_iter().map(str::to_owned).collect() }
}

fn element(table: &mut Table, set: &str, key: String, value: String) {
    if let Some(set) = table.sets.get_mut(set) {
        set.elements.insert(key, value);
    }
}
