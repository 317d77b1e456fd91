//! The part of a VPC's filter that is the same whatever groups say.

use super::compile::{DHCP_RATE_SET, chain, intervals, quoted, rates, set};
use crate::{
    METADATA_ADDRESS, METADATA_PORT, SERVICE_ADDRESS,
    edge::EDGE_LINK,
    names::{VXLAN_LINK, vxlan_mac},
    plan::{Vpc, mac_text},
    security_groups::ruleset::{Elements, GENERATION, Set, Table},
};
use std::collections::BTreeMap;

/// What every VPC has. Chains that a map leads to are entered by `goto`, so that the end of one is
/// the end of the packet: base chains drop by default.
pub(super) fn base() -> Table {
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
                    "meta nfproto ipv6 goto prerouting6",
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
        ("prerouting6".to_owned(), chain("", ["drop"])),
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
        elements: Elements::new(),
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

/// Who may speak ARP. A router may in the name of others, as it asks in the name of who it forwards
/// for; but every name costs a neighbour entry, of which all of the host have a common number.
pub(super) fn arp(vpc: &Vpc) -> Table {
    let mut arp = Table::default();
    let mut senders = set("ifname . ether_addr . ipv4_addr");
    let mut routers = set("ifname . ether_addr");
    for eni in &vpc.enis {
        let port = format!("{} . {}", quoted(&eni.tap), mac_text(eni.mac));
        let unset = std::net::Ipv4Addr::UNSPECIFIED;
        for address in eni.addresses.iter().copied().chain([unset]) {
            senders.insert(format!("{port} . {address}"), "");
        }
        if eni.is_router {
            routers.insert(port, "");
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

/// IPv6, where the VPC has it. Beside what ENIs send from their addresses, only talk with the host over
/// the tap passes: finding the gateway, and asking for addresses.
pub(super) fn admit_ipv6(inet: &mut Table, vpc: &Vpc) {
    if !vpc.ipv6 {
        return;
    }
    let mut sources = set("ifname . ether_addr . ipv6_addr");
    for eni in &vpc.enis {
        let port = format!("{} . {}", quoted(&eni.tap), mac_text(eni.mac));
        for address in &eni.addresses6 {
            sources.insert(format!("{port} . {address}"), "");
        }
    }
    for (host, peer) in &vpc.peers {
        let port = format!("{} . {}", quoted(VXLAN_LINK), mac_text(vxlan_mac(*host)));
        for address in &peer.addresses6 {
            sources.insert(format!("{port} . {address}"), "");
        }
    }
    inet.sets.insert("sources6".to_owned(), sources);
    inet.sets.insert("neighbour_rate".to_owned(), rates("ifname"));
    const TALK: &str = "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }";
    // Each new name costs a neighbour entry, of which all of the host have a common number.
    let limited = "update @neighbour_rate { iifname limit rate 20/second burst 40 packets }";
    let of_link = "iifname . ether saddr @ports ip6 saddr { fe80::/10, :: }";
    let ask = "udp sport 546 udp dport 547";
    inet.chains.insert(
        "prerouting6".to_owned(),
        chain(
            "",
            [
                // Only the host is a router and a DHCP server.
                "icmpv6 type { nd-router-advert, nd-redirect } drop",
                "udp sport 547 udp dport 546 drop",
                format!("{TALK} {limited} jump talk6").as_str(),
                format!("{TALK} drop").as_str(),
                "iifname . ether saddr . ip6 saddr @sources6 accept",
                format!("{of_link} {ask} accept").as_str(),
                "drop",
            ],
        ),
    );
    inet.chains.insert(
        "talk6".to_owned(),
        chain(
            "",
            [
                format!("{of_link} accept").as_str(),
                "iifname . ether saddr . ip6 saddr @sources6 iifname . ether saddr @ports accept",
            ],
        ),
    );
    if let Some(input) = inet.chains.get_mut("input") {
        let at = input.rules.len().min(1);
        let rules = [
            format!("{TALK} accept"),
            format!(
                "{ask} update @{DHCP_RATE_SET} {{ iifname limit rate over 10/second burst 20 packets }} \
                 drop"
            ),
            format!("{ask} accept"),
            "icmpv6 type echo-request ip6 daddr fe80::/10 accept".to_owned(),
        ];
        input.rules.splice(at..at, rules);
    }
    if let Some(output) = inet.chains.get_mut("output") {
        output.rules.extend([
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept"
                .to_owned(),
            "icmpv6 type packet-too-big accept".to_owned(),
            "udp sport 547 udp dport 546 accept".to_owned(),
            "icmpv6 type echo-reply ip6 saddr fe80::/10 accept".to_owned(),
        ]);
    }
}
