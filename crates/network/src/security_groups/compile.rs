//! One VPC's filter: who may send what through which tap.
//!
//! Groups judge the first packet of a flow, and every flow again after each change of the rules. A
//! flow that may pass is stamped (`ct mark`) with the generation of the rules that said so, and one
//! with the present generation passes without another look. Since a change brings a new generation,
//! all live flows are judged once by the rules of today, at their next packet, and go on or end. A
//! packet that answers is judged by the same rules, mirrored: it is its flow that is allowed or not.

use super::{
    base::{admit_ipv6, arp, base},
    group_chains::add_chains_of,
    policy::{AddressFamily, BrokenRule},
    ruleset::{Chain, Elements, Family, Ruleset, Set, Table},
};
use crate::{
    TABLE_NAME,
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
    admit_ipv6(&mut inet, vpc);
    admit_peers(&mut inet, vpc);
    admit_world(&mut inet, vpc);
    edge::add_nat(&mut inet, vpc);
    add_limits(&mut inet, vpc);
    let arp = arp(vpc);
    let tables = BTreeMap::from([(Family::Inet, inet), (Family::Arp, arp)]);
    let ruleset = Ruleset { name: TABLE_NAME.to_owned(), tables };
    Compiled { ruleset, broken, without_group }
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
        elements: Elements::new(),
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
                    limits.insert(quoted(tap), quoted(&name));
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
            of_address.insert(address.to_string(), format!("1:{number:x}"));
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
    let mut broken = add_chains_of(AddressFamily::V4, inet, name, groups, vpc);
    if vpc.ipv6 {
        broken.extend(add_chains_of(AddressFamily::V6, inet, name, groups, vpc));
    }
    broken
}

/// The set of a group or a prefix list. Ids of ECS's form are kept readable.
pub(super) fn named_set(kind: &str, id: &str) -> String {
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

pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

pub(super) fn set(kind: &str) -> Set {
    Set { is_map: false, declaration: vec![format!("type {kind}")], elements: Elements::new() }
}

/// A limit per key, kept for as long as it is used.
pub(super) fn rates(kind: &str) -> Set {
    let mut set = set(kind);
    let options = ["size 65535", "flags dynamic,timeout", "timeout 1m"];
    set.declaration.extend(options.map(str::to_owned));
    set
}

pub(super) fn intervals(kind: &str) -> Set {
    let mut set = set(kind);
    set.declaration.push("flags interval".to_owned());
    set
}

pub(super) fn chain<'a>(hook: &str, rules: impl IntoIterator<Item = &'a str>) -> Chain {
    Chain { hook: hook.to_owned(), rules: rules.into_iter().map(str::to_owned).collect() }
}

fn element(table: &mut Table, set: &str, key: String, value: String) {
    if let Some(set) = table.sets.get_mut(set) {
        set.insert(key, value);
    }
}
