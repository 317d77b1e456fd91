//! What guests may send through the host's own namespace.

use super::host::Uplink;
use crate::{
    names,
    plan::Vpc,
    security_groups::ruleset::{Chain, Elements, Set, Table},
    shaping::class_numbers,
};
use ipnet::Ipv4Net;
use std::path::Path;

/// Adds the guard of all edges to the host's table.
pub(crate) fn add_guard(
    table: &mut Table,
    vpcs: &[Vpc],
    namespace_dir: &Path,
    uplink: &Uplink,
    denied: &Vec<Ipv4Net>,
) {
    if !vpcs.iter().any(Vpc::has_edge) {
        return;
    }
    let any = format!("\"{}*\"", names::edge_prefix(namespace_dir));
    let set = |kind: &str, flags: &[&str]| Set {
        is_map: false,
        declaration: [format!("type {kind}")]
            .into_iter()
            .chain(flags.iter().map(|flag| (*flag).to_owned()))
            .collect(),
        elements: Elements::new(),
    };
    let mut edges = set("ifname . ipv4_addr", &[]);
    for vpc in vpcs {
        let link = names::edge_link(namespace_dir, vpc.vni);
        for eip in &vpc.eips {
            edges.insert(format!("\"{link}\" . {}", eip.address), "");
        }
    }
    let mut public = set("ipv4_addr", &[]);
    for eip in vpcs.iter().flat_map(|vpc| &vpc.eips) {
        public.insert(eip.address.to_string(), "");
    }
    let mut hosts = set("ipv4_addr", &["flags interval"]);
    for block in Ipv4Net::aggregate(denied) {
        hosts.insert(block.to_string(), "");
    }
    let mut classes = Set {
        is_map: true,
        declaration: vec!["type ipv4_addr : classid".to_owned()],
        elements: Elements::new(),
    };
    for vpc in vpcs {
        for (address, number) in class_numbers(&vpc.eips) {
            classes.insert(address.to_string(), format!("1:{number:x}"));
        }
    }
    if !classes.elements.is_empty() {
        let hook = "type filter hook postrouting priority 200; policy accept".to_owned();
        let rules = vec![format!("oifname {any} meta priority set ip daddr map @eip_class")];
        table.chains.insert("limits".to_owned(), Chain { hook, rules });
        table.sets.insert("eip_class".to_owned(), classes);
    }
    table.sets.insert("edges".to_owned(), edges);
    table.sets.insert("public".to_owned(), public);
    table.sets.insert("denied".to_owned(), hosts);

    let mut input = table.chains.remove("input").unwrap_or_else(|| Chain {
        hook: "type filter hook input priority -300; policy accept".to_owned(),
        rules: Vec::new(),
    });
    // What the host asked a guest for is answered; nothing else of a guest is for the host.
    input.rules.push(format!("iifname {any} jump to_host"));
    let answers = "ct direction reply ct state established,related accept".to_owned();
    let to_host = vec!["ct state established,related accept".to_owned(), "drop".to_owned()];
    let mut untracked = vec![format!(
        // Tenants' flows are tracked in their VPCs' namespaces. Here they would take the room of each
        // other's and of the host's own, but for what the host or its surroundings began themselves.
        "iifname {any} ip daddr != @denied fib daddr type != local notrack"
    )];
    let mut from_vpc = vec!["iifname . ip saddr != @edges drop".to_owned(), answers];
    from_vpc.push("ip daddr @denied drop".to_owned());
    let mut forward = vec![
        format!("iifname {any} jump from_vpc"),
        format!("oifname {any} oifname . ip daddr @edges accept"),
        format!("oifname {any} drop"),
    ];
    if let Some(name) = &uplink.name {
        untracked.push(format!("iifname \"{name}\" ip saddr != @denied ip daddr @public notrack"));
        from_vpc.push(format!("oifname \"{name}\" accept"));
        if !uplink.host_is_router {
            // It forwards for public addresses alone.
            forward.push(format!("iifname \"{name}\" drop"));
        }
    }
    from_vpc.push(format!("oifname != {any} drop"));
    table.add_untracked("prerouting", untracked);
    for (name, hook, rules) in [
        ("input", "type filter hook input priority -300; policy accept", input.rules),
        ("forward", "type filter hook forward priority 0; policy accept", forward),
        ("to_host", "", to_host),
        ("from_vpc", "", from_vpc),
    ] {
        table.chains.insert(name.to_owned(), Chain { hook: hook.to_owned(), rules });
    }
}
