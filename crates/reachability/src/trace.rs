//! The way of a packet, step by step.

use crate::{
    groups::{Reason, contains, decide, describe},
    packet::Packet,
};
use api::host::{
    EniSpec, ForwardEntrySpec, NatGatewaySpec, PrefixListSpec, RouteEntrySpec, SecurityGroupSpec,
    VSwitchSpec, VpcSpec, route_entry_spec::NextHop,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// The cloud's services, of which the metadata service is one, are in it and answer on every host.
const SERVICES: &str = "100.64.0.0/10";

/// An interface and where it is.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// What its host is told.
    pub spec: EniSpec,
    /// Its instance; empty: none.
    pub instance_id: String,
    /// The instance runs.
    pub running: bool,
    /// Host of the instance.
    pub host_id: String,
}

impl Interface {
    fn owns(&self, address: IpAddr) -> bool {
        std::iter::once(&self.spec.private_ip)
            .chain(&self.spec.secondary_private_ips)
            .chain(&self.spec.ipv6_addresses)
            .any(|own| own.parse() == Ok(address))
    }
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// VPCs, with the entries of all their NAT gateways.
    pub vpcs: Vec<VpcSpec>,
    /// Every interface of them.
    pub interfaces: Vec<Interface>,
    /// Every group of them.
    pub groups: Vec<SecurityGroupSpec>,
    /// What rules name.
    pub prefix_lists: Vec<PrefixListSpec>,
    /// Hosts of NAT gateways, by the gateway's id.
    pub gateway_hosts: Vec<(String, String)>,
}

/// Where a packet starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// At the guest of this interface.
    Interface(String),
    /// Outside of the cloud.
    Internet,
}

/// What looks at a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    Guest,
    SourceCheck,
    EgressGroups,
    Route,
    HostToHost,
    Eip,
    NatGateway,
    IngressGroups,
    Service,
    Internet,
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// What looks at the packet.
    pub step: Step,
    /// It goes on.
    pub passed: bool,
    /// What decided; empty: nothing in particular.
    pub resource_id: String,
    /// With groups: what decided.
    pub reason: Option<Reason>,
    /// The deciding rule in words, may be empty.
    pub rule: String,
    /// What happened, for people.
    pub message: String,
    /// As it leaves the step.
    pub packet: Packet,
}

/// Where a packet ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// At the guest it was for, by this interface.
    Delivered(String),
    /// At the guest of a route's next hop, which may send it on.
    HandedOver(String),
    /// At a service of the cloud, on the sender's own host.
    Service,
    /// It leaves the cloud.
    Internet,
    /// Its last hop drops it.
    Dropped,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// In order.
    pub hops: Vec<Hop>,
    /// How it ends.
    pub outcome: Outcome,
}

/// Follows a packet.
pub fn trace(network: &Network, origin: &Origin, packet: Packet) -> Trace {
    let mut way = Way { network, packet, hops: Vec::new() };
    let outcome = match origin {
        Origin::Internet => way.from_internet(),
        Origin::Interface(eni_id) => {
            match network.interfaces.iter().find(|i| i.spec.eni_id == *eni_id) {
                Some(interface) => way.from_interface(interface),
                None => {
                    way.drop(Step::Guest, eni_id, format!("network interface {eni_id} is unknown"))
                }
            }
        }
    };
    Trace { hops: way.hops, outcome }
}

struct Way<'a> {
    network: &'a Network,
    packet: Packet,
    hops: Vec<Hop>,
}

/// What the longest prefix leads to.
enum Route<'a> {
    Local(&'a VSwitchSpec),
    Custom(&'a RouteEntrySpec),
    /// Addresses of the VPC that no VSwitch has.
    Nowhere,
}

impl<'a> Way<'a> {
    fn hop(&mut self, step: Step, passed: bool, resource_id: &str, message: String) {
        self.hops.push(Hop {
            step,
            passed,
            resource_id: resource_id.to_owned(),
            reason: None,
            rule: String::new(),
            message,
            packet: self.packet,
        });
    }

    fn pass(&mut self, step: Step, resource_id: &str, message: String) {
        self.hop(step, true, resource_id, message);
    }

    fn drop(&mut self, step: Step, resource_id: &str, message: String) -> Outcome {
        self.hop(step, false, resource_id, message);
        Outcome::Dropped
    }

    fn from_interface(&mut self, interface: &'a Interface) -> Outcome {
        let spec = &interface.spec;
        if !interface.running {
            return self.not_running(interface);
        }
        if !spec.no_source_check && !interface.owns(self.packet.source) {
            let message = format!(
                "{} is no address of {}: packets with foreign addresses are dropped",
                self.packet.source, spec.eni_id
            );
            return self.drop(Step::SourceCheck, &spec.eni_id, message);
        }
        let message = format!("{} may send as {}", spec.eni_id, self.packet.source);
        self.pass(Step::SourceCheck, &spec.eni_id, message);
        if !self.groups(interface, true) {
            return Outcome::Dropped;
        }
        let Some(vpc) = self.network.vpcs.iter().find(|vpc| vpc.vpc_id == spec.vpc_id) else {
            return self.drop(Step::Route, &spec.vpc_id, format!("VPC {} is unknown", spec.vpc_id));
        };
        self.route(interface, vpc)
    }

    fn not_running(&mut self, interface: &Interface) -> Outcome {
        let message = match interface.instance_id.as_str() {
            "" => format!("{} is at no instance", interface.spec.eni_id),
            id => format!("instance {id} does not run"),
        };
        self.drop(Step::Guest, &interface.instance_id, message)
    }

    /// The groups of an interface, and whether they let the packet pass.
    fn groups(&mut self, interface: &Interface, egress: bool) -> bool {
        let network = self.network;
        let ids = &interface.spec.security_group_ids;
        let mine: Vec<&SecurityGroupSpec> = ids
            .iter()
            .filter_map(|id| network.groups.iter().find(|g| g.security_group_id == *id))
            .collect();
        let decision = decide(&mine, &network.groups, &network.prefix_lists, egress, &self.packet);
        let verdict = if decision.accepted { "accepts" } else { "drops" };
        let (resource_id, rule, message) = match &decision.reason {
            Reason::Rule { group_id, index } => {
                let group = mine.iter().find(|group| group.security_group_id == *group_id);
                let rule = group.and_then(|group| group.rules.get(*index)).map(describe);
                let rule = rule.unwrap_or_default();
                let message = format!("a rule of group {group_id} {verdict} it: {rule}");
                (group_id.clone(), rule, message)
            }
            Reason::InnerAccess { group_id } => {
                let message = format!("both are members of group {group_id}, which accepts that");
                (group_id.clone(), String::new(), message)
            }
            Reason::Default => {
                let what = match (egress, decision.accepted) {
                    (true, true) => "no rule matches, and basic groups let everything out",
                    (true, false) => {
                        "no rule matches, and advanced groups let nothing out by themselves"
                    }
                    (false, _) => "no rule matches, and nothing gets in by itself",
                };
                (String::new(), String::new(), format!("groups {}: {what}", ids.join(", ")))
            }
        };
        let step = if egress { Step::EgressGroups } else { Step::IngressGroups };
        self.hops.push(Hop {
            step,
            passed: decision.accepted,
            resource_id,
            reason: Some(decision.reason),
            rule,
            message,
            packet: self.packet,
        });
        decision.accepted
    }

    fn route(&mut self, from: &'a Interface, vpc: &'a VpcSpec) -> Outcome {
        let destination = self.packet.destination;
        match longest(vpc, &from.spec.vswitch_id, destination) {
            Some(Route::Local(vswitch)) => {
                let message = format!("{destination} is in VSwitch {}", vswitch.vswitch_id);
                self.pass(Step::Route, &vswitch.vswitch_id, message);
                self.deliver(&from.host_id, vpc)
            }
            Some(Route::Custom(entry)) => self.by_entry(from, vpc, entry),
            Some(Route::Nowhere) => {
                let message = format!("no VSwitch of VPC {} has {destination}", vpc.vpc_id);
                self.drop(Step::Route, &vpc.vpc_id, message)
            }
            None => {
                if contains(SERVICES, destination) == Some(true) {
                    let message = format!("{destination} is a service's address, or nobody's");
                    self.pass(Step::Service, "", message);
                    return Outcome::Service;
                }
                if self.by_eip(from) {
                    return self.to_internet();
                }
                let message = format!(
                    "no route of VSwitch {} leads to {destination}, and {} has no public address",
                    from.spec.vswitch_id, self.packet.source
                );
                self.drop(Step::Route, &from.spec.vswitch_id, message)
            }
        }
    }

    fn by_entry(
        &mut self,
        from: &'a Interface,
        vpc: &'a VpcSpec,
        entry: &RouteEntrySpec,
    ) -> Outcome {
        let id = &entry.route_entry_id;
        let says = |what: String| format!("entry for {} leads to {what}", entry.destination_cidr);
        match &entry.next_hop {
            Some(NextHop::PrivateIp(address)) => {
                self.pass(Step::Route, id, says(address.clone()));
                self.hand_over(&from.host_id, vpc, address)
            }
            // Its own public address is the shorter way out.
            Some(NextHop::NatGatewayId(gateway_id)) => {
                if self.by_eip(from) {
                    return self.to_internet();
                }
                self.pass(Step::Route, id, says(gateway_id.clone()));
                match vpc.nat_gateways.iter().find(|g| g.nat_gateway_id == *gateway_id) {
                    Some(gateway) => self.by_gateway(&from.host_id, gateway),
                    None => {
                        let message = format!("NAT gateway {gateway_id} is unknown");
                        self.drop(Step::NatGateway, gateway_id, message)
                    }
                }
            }
            Some(NextHop::Blackhole(_)) | None => {
                let message = says("a next hop that is gone: a black hole".to_owned());
                self.drop(Step::Route, id, message)
            }
        }
    }

    /// Gives the packet its sender's public address, if it has one.
    fn by_eip(&mut self, from: &Interface) -> bool {
        let source = self.packet.source;
        let own = from.spec.eips.iter().find(|eip| eip.private_ip.parse() == Ok(source));
        let Some((eip, address)) = own.and_then(|eip| Some((eip, eip.address.parse().ok()?)))
        else {
            return false;
        };
        self.packet.source = address;
        self.pass(Step::Eip, &eip.allocation_id, format!("{source} leaves as {address}"));
        true
    }

    fn by_gateway(&mut self, from_host: &str, gateway: &'a NatGatewaySpec) -> Outcome {
        let id = &gateway.nat_gateway_id;
        let Some(host_id) = self.host_of(gateway) else {
            return self.drop(Step::NatGateway, id, "it is on no host".to_owned());
        };
        self.between(from_host, &host_id);
        let source = self.packet.source;
        let entry = gateway
            .snat_entries
            .iter()
            .filter_map(|entry| Some((entry.source_cidr.parse::<IpNet>().ok()?, entry)))
            .filter(|(net, _)| net.contains(&source))
            .max_by_key(|(net, _)| net.prefix_len());
        let Some((net, entry)) = entry else {
            return self.drop(Step::NatGateway, id, format!("no SNAT entry is for {source}"));
        };
        let address = entry.snat_ips.iter().find_map(|address| address.parse().ok());
        let Some(address) = address else {
            let message = format!("the SNAT entry for {net} has no public address");
            return self.drop(Step::NatGateway, &entry.snat_entry_id, message);
        };
        self.packet.source = address;
        let message =
            format!("SNAT entry for {net}: {source} leaves as {}", entry.snat_ips.join(" or "));
        self.pass(Step::NatGateway, &entry.snat_entry_id, message);
        self.to_internet()
    }

    fn host_of(&self, gateway: &NatGatewaySpec) -> Option<String> {
        let mut hosts = self.network.gateway_hosts.iter();
        hosts
            .find(|(id, _)| *id == gateway.nat_gateway_id)
            .map(|(_, host_id)| host_id.clone())
            .filter(|host_id| !host_id.is_empty())
    }

    /// Out of the cloud, unless it is for a public address of the cloud itself.
    fn to_internet(&mut self) -> Outcome {
        if self.is_public_here(self.packet.destination) {
            return self.from_internet();
        }
        let message = format!("{} is not of this cloud", self.packet.destination);
        self.pass(Step::Internet, "", message);
        Outcome::Internet
    }

    fn is_public_here(&self, address: IpAddr) -> bool {
        let of_interfaces = self.network.interfaces.iter().flat_map(|i| &i.spec.eips);
        let gateways = self.network.vpcs.iter().flat_map(|vpc| &vpc.nat_gateways);
        of_interfaces
            .chain(gateways.flat_map(|gateway| &gateway.eips))
            .any(|eip| eip.address.parse() == Ok(address))
    }

    fn from_internet(&mut self) -> Outcome {
        let network = self.network;
        let public = self.packet.destination;
        for interface in &network.interfaces {
            let eip = interface.spec.eips.iter().find(|eip| eip.address.parse() == Ok(public));
            let Some((eip, private)) = eip.and_then(|e| Some((e, e.private_ip.parse().ok()?)))
            else {
                continue;
            };
            self.packet.destination = private;
            let message = format!("{public} stands for {private}");
            self.pass(Step::Eip, &eip.allocation_id, message);
            return self.arrive("", interface, true);
        }
        for vpc in &network.vpcs {
            for gateway in &vpc.nat_gateways {
                if gateway.eips.iter().any(|eip| eip.address.parse() == Ok(public)) {
                    return self.into_gateway(vpc, gateway);
                }
            }
        }
        self.drop(Step::Internet, "", format!("{public} leads to nothing in this cloud"))
    }

    fn into_gateway(&mut self, vpc: &'a VpcSpec, gateway: &'a NatGatewaySpec) -> Outcome {
        let id = &gateway.nat_gateway_id;
        let Some(host_id) = self.host_of(gateway) else {
            return self.drop(Step::NatGateway, id, "it is on no host".to_owned());
        };
        let packet = self.packet;
        let Some(entry) = gateway.forward_entries.iter().find(|entry| forwards(entry, &packet))
        else {
            let message = format!("no DNAT entry of {id} is for {packet}");
            return self.drop(Step::NatGateway, id, message);
        };
        let Ok(internal) = entry.internal_ip.parse() else {
            let message = format!("{:?} is no address", entry.internal_ip);
            return self.drop(Step::NatGateway, &entry.forward_entry_id, message);
        };
        self.packet.destination = internal;
        if entry.external_port_from > 0 {
            let offset =
                u32::from(packet.destination_port).saturating_sub(entry.external_port_from);
            let port = entry.internal_port_from.saturating_add(offset);
            self.packet.destination_port = u16::try_from(port).unwrap_or(u16::MAX);
        }
        let message = format!("DNAT entry: {} becomes {}", packet.destination, internal);
        self.pass(Step::NatGateway, &entry.forward_entry_id, message);
        self.deliver(&host_id, vpc)
    }

    fn between(&mut self, from_host: &str, to_host: &str) {
        if !from_host.is_empty() && !to_host.is_empty() && from_host != to_host {
            let message = format!("host {from_host} sends it to host {to_host}");
            self.pass(Step::HostToHost, to_host, message);
        }
    }

    /// To the interface of the VPC that has the packet's destination.
    fn deliver(&mut self, from_host: &str, vpc: &VpcSpec) -> Outcome {
        let destination = self.packet.destination;
        let mut interfaces = self.network.interfaces.iter();
        match interfaces.find(|i| i.spec.vpc_id == vpc.vpc_id && i.owns(destination)) {
            Some(interface) => self.arrive(from_host, interface, true),
            None => {
                let message = format!("nobody in VPC {} has {destination}", vpc.vpc_id);
                self.drop(Step::Route, &vpc.vpc_id, message)
            }
        }
    }

    /// To the interface that a route names, which need not have the packet's destination.
    fn hand_over(&mut self, from_host: &str, vpc: &VpcSpec, address: &str) -> Outcome {
        let next = address.parse::<IpAddr>().ok();
        let mut interfaces = self.network.interfaces.iter();
        let found = interfaces.find(|interface| {
            interface.spec.vpc_id == vpc.vpc_id && next.is_some_and(|next| interface.owns(next))
        });
        let Some(interface) = found else {
            let message = format!("nobody in VPC {} has {address}", vpc.vpc_id);
            return self.drop(Step::Route, &vpc.vpc_id, message);
        };
        let own = interface.owns(self.packet.destination);
        if !own && !interface.spec.no_source_check {
            let message = format!(
                "{} takes only packets for its own addresses: turn its source and destination \
                 check off",
                interface.spec.eni_id
            );
            return self.drop(Step::SourceCheck, &interface.spec.eni_id, message);
        }
        self.arrive(from_host, interface, own)
    }

    fn arrive(&mut self, from_host: &str, to: &'a Interface, own: bool) -> Outcome {
        self.between(from_host, &to.host_id);
        if !self.groups(to, false) {
            return Outcome::Dropped;
        }
        if !to.running {
            return self.not_running(to);
        }
        let eni_id = to.spec.eni_id.clone();
        if own {
            self.pass(Step::Guest, &to.instance_id, format!("instance {} gets it", to.instance_id));
            return Outcome::Delivered(eni_id);
        }
        let message =
            format!("instance {} gets it as a next hop; what it does is its own", to.instance_id);
        self.pass(Step::Guest, &to.instance_id, message);
        Outcome::HandedOver(eni_id)
    }
}

/// The longest prefix for an address, among the VPC's own ranges, its VSwitches and the entries of a
/// VSwitch's table.
fn longest<'a>(vpc: &'a VpcSpec, vswitch_id: &str, destination: IpAddr) -> Option<Route<'a>> {
    let vswitch = vpc.vswitches.iter().find(|vswitch| vswitch.vswitch_id == vswitch_id);
    let table_id = vswitch.map_or("", |vswitch| vswitch.route_table_id.as_str());
    let table = vpc.route_tables.iter().find(|table| table.route_table_id == table_id);
    let local = vpc.vswitches.iter().flat_map(|vswitch| {
        [&vswitch.cidr, &vswitch.ipv6_cidr].map(|cidr| (cidr, Route::Local(vswitch)))
    });
    let custom = table.into_iter().flat_map(|table| &table.entries);
    let custom = custom.map(|entry| (&entry.destination_cidr, Route::Custom(entry)));
    let own = std::iter::once(&vpc.cidr).chain(&vpc.secondary_cidrs);
    let own = own.chain(std::iter::once(&vpc.ipv6_cidr)).map(|cidr| (cidr, Route::Nowhere));
    // Of equal ones the last is taken.
    own.chain(local)
        .chain(custom)
        .filter_map(|(cidr, route)| Some((cidr.parse::<IpNet>().ok()?, route)))
        .filter(|(net, _)| net.contains(&destination))
        .max_by_key(|(net, _)| net.prefix_len())
        .map(|(_, route)| route)
}

fn forwards(entry: &ForwardEntrySpec, packet: &Packet) -> bool {
    let protocol = match entry.ip_protocol.to_ascii_lowercase().as_str() {
        "any" => true,
        name => packet.protocol.has_ports() && name == packet.protocol.to_string(),
    };
    let port = u32::from(packet.destination_port);
    let ports = (entry.external_port_from, entry.external_port_to) == (0, 0)
        || (entry.external_port_from..=entry.external_port_to).contains(&port);
    entry.external_ip.parse() == Ok(packet.destination) && protocol && ports
}
