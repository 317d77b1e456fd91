//! Translation between private and public addresses, in the VPC's tables.

use super::EDGE_LINK;
use crate::{
    plan::{Forward, Vpc},
    security_groups::ruleset::{Chain, Elements, Set, Table},
};

/// Adds what the VPC's edge needs. The maps of who may pass and the base chains are there.
pub(crate) fn add_nat(inet: &mut Table, vpc: &Vpc) {
    if !vpc.has_edge() {
        return;
    }
    let map = |kind: &str| Set {
        is_map: true,
        declaration: vec![format!("type {kind}")],
        elements: Elements::new(),
    };
    let (mut inbound, mut outbound) = (map("ipv4_addr : ipv4_addr"), map("ipv4_addr : ipv4_addr"));
    for eip in &vpc.eips {
        if let Some(private) = eip.private {
            inbound.insert(eip.address.to_string(), private.to_string());
            outbound.insert(private.to_string(), eip.address.to_string());
        }
    }
    let mut by_protocol = map("inet_proto . ipv4_addr : ipv4_addr");
    let mut by_port = map("inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service");
    let mut leaving = vec![format!("oifname {EDGE_LINK} snat ip to ip saddr map @eip_out")];
    for gateway in &vpc.nat_gateways {
        for forward in &gateway.forwards {
            add_forward(forward, &mut inbound, &mut by_protocol, &mut by_port);
        }
        for entry in &gateway.snat {
            let to = match entry.addresses.as_slice() {
                [one] => one.to_string(),
                many => {
                    let numbered = many.iter().enumerate();
                    let numbered: Vec<_> = numbered.map(|(n, ip)| format!("{n} : {ip}")).collect();
                    // One source always leaves from the same address.
                    let choices = numbered.join(", ");
                    format!("jhash ip saddr mod {} map {{ {choices} }}", many.len())
                }
            };
            leaving.push(format!("oifname {EDGE_LINK} ip saddr {} snat ip to {to}", entry.source));
        }
    }
    let arriving = vec![
        format!(
            "iifname {EDGE_LINK} dnat ip addr . port to meta l4proto . ip daddr . th dport map \
             @forward_port"
        ),
        format!("iifname {EDGE_LINK} dnat ip to meta l4proto . ip daddr map @forward_protocol"),
        format!("iifname {EDGE_LINK} dnat ip to ip daddr map @eip_in"),
    ];
    for (name, set) in [
        ("eip_in", inbound),
        ("eip_out", outbound),
        ("forward_port", by_port),
        ("forward_protocol", by_protocol),
    ] {
        inet.sets.insert(name.to_owned(), set);
    }
    for (name, hook, priority, rules) in
        [("arriving", "prerouting", -100, arriving), ("leaving", "postrouting", 100, leaving)]
    {
        let hook = format!("type nat hook {hook} priority {priority}; policy accept");
        inet.chains.insert(name.to_owned(), Chain { hook, rules });
    }
}

fn add_forward(forward: &Forward, all: &mut Set, by_protocol: &mut Set, by_port: &mut Set) {
    let Forward { external, internal, protocols, ports } = forward;
    let Some(protocols) = protocols else {
        all.insert(external.to_string(), internal.to_string());
        return;
    };
    for protocol in protocols {
        let key = format!("{protocol} . {external}");
        let Some((outside, inside, count)) = *ports else {
            by_protocol.insert(key, internal.to_string());
            continue;
        };
        for step in 0..count {
            let (outside, inside) = (u32::from(outside) + step, u32::from(inside) + step);
            by_port.insert(format!("{key} . {outside}"), format!("{internal} . {inside}"));
        }
    }
}
