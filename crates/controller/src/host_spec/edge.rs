//! What of a spec leads through and out of a VPC.

use api::host::{
    EipSpec, ForwardEntrySpec, NatGatewaySpec, RouteEntrySpec, RouteTableSpec, SnatEntrySpec,
    VSwitchSpec, VpcSpec, route_entry_spec,
};
use std::collections::BTreeSet;
use store::{
    EipRecord, EipTarget, ForwardEntryRecord, NatGatewayRecord, NextHop, RouteEntryRecord,
    SnatEntryRecord, VpcNetwork,
};

/// A VPC as a host needs it. `here` tells whether a NAT gateway works on the host: only there its
/// addresses and entries are told. `underlay_ip` is where a gateway's host is.
pub(crate) fn vpc(
    network: &VpcNetwork,
    here: impl Fn(&NatGatewayRecord) -> bool,
    underlay_ip: impl Fn(&NatGatewayRecord) -> String,
) -> VpcSpec {
    let record = &network.vpc;
    let used: BTreeSet<&str> =
        network.vswitches.iter().map(|vswitch| vswitch.route_table_id.as_str()).collect();
    VpcSpec {
        vpc_id: record.vpc_id.clone(),
        cidr: record.cidr.to_string(),
        vni: record.vni,
        vswitches: network
            .vswitches
            .iter()
            .map(|vswitch| VSwitchSpec {
                vswitch_id: vswitch.vswitch_id.clone(),
                cidr: vswitch.cidr.to_string(),
                gateway_ip: vswitch.gateway_ip.to_string(),
                route_table_id: vswitch.route_table_id.clone(),
                ipv6_cidr: vswitch.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
            })
            .collect(),
        route_tables: network
            .route_tables
            .iter()
            .filter(|table| used.contains(table.route_table_id.as_str()))
            .map(|table| RouteTableSpec {
                route_table_id: table.route_table_id.clone(),
                entries: network
                    .route_entries
                    .iter()
                    .filter(|entry| entry.route_table_id == table.route_table_id)
                    .map(route_entry)
                    .collect(),
            })
            .collect(),
        nat_gateways: network
            .nat_gateways
            .iter()
            .map(|gateway| nat_gateway(network, gateway, here(gateway), underlay_ip(gateway)))
            .collect(),
        secondary_cidrs: record.secondary_cidrs.iter().map(ToString::to_string).collect(),
        ipv6_cidr: record.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
        ..VpcSpec::default()
    }
}

fn route_entry(entry: &RouteEntryRecord) -> RouteEntrySpec {
    RouteEntrySpec {
        route_entry_id: entry.route_entry_id.clone(),
        destination_cidr: entry.destination.to_string(),
        next_hop: Some(match &entry.next_hop {
            Some(NextHop::Interface(address)) => {
                route_entry_spec::NextHop::PrivateIp(address.to_string())
            }
            Some(NextHop::NatGateway(id)) => route_entry_spec::NextHop::NatGatewayId(id.clone()),
            None => route_entry_spec::NextHop::Blackhole(true),
        }),
    }
}

fn nat_gateway(
    network: &VpcNetwork,
    gateway: &NatGatewayRecord,
    here: bool,
    underlay_ip: String,
) -> NatGatewaySpec {
    let id = &gateway.nat_gateway_id;
    let mut spec = NatGatewaySpec {
        nat_gateway_id: id.clone(),
        underlay_ip,
        here,
        ..NatGatewaySpec::default()
    };
    if here {
        spec.eips = network.eips_of(id).map(eip).collect();
        let snat = network.snat_entries.iter().filter(|entry| entry.nat_gateway_id == *id);
        spec.snat_entries = snat.map(snat_entry).collect();
        let forward = network.forward_entries.iter().filter(|entry| entry.nat_gateway_id == *id);
        spec.forward_entries = forward.map(forward_entry).collect();
    }
    spec
}

fn snat_entry(entry: &SnatEntryRecord) -> SnatEntrySpec {
    SnatEntrySpec {
        snat_entry_id: entry.snat_entry_id.clone(),
        source_cidr: entry.source.to_string(),
        snat_ips: entry.snat_ips.iter().map(ToString::to_string).collect(),
    }
}

fn forward_entry(entry: &ForwardEntryRecord) -> ForwardEntrySpec {
    ForwardEntrySpec {
        forward_entry_id: entry.forward_entry_id.clone(),
        external_ip: entry.external_ip.to_string(),
        external_port_from: entry.external_ports.0.into(),
        external_port_to: entry.external_ports.1.into(),
        internal_ip: entry.internal_ip.to_string(),
        internal_port_from: entry.internal_ports.0.into(),
        internal_port_to: entry.internal_ports.1.into(),
        ip_protocol: entry.protocol.clone(),
    }
}

/// Public addresses of an interface.
pub(crate) fn eips_of_interface(
    networks: &[VpcNetwork],
    vpc_id: &str,
    eni_id: &str,
) -> Vec<EipSpec> {
    networks
        .iter()
        .filter(|network| network.vpc.vpc_id == vpc_id)
        .flat_map(|network| &network.eips)
        .filter(|eip| {
            matches!(&eip.target, Some(EipTarget::Interface { eni_id: own, .. }) if own == eni_id)
        })
        .map(eip)
        .collect()
}

fn eip(record: &EipRecord) -> EipSpec {
    EipSpec {
        allocation_id: record.allocation_id.clone(),
        address: record.address.to_string(),
        private_ip: match &record.target {
            Some(EipTarget::Interface { private_ip, .. }) => private_ip.to_string(),
            _ => String::new(),
        },
        bandwidth_mbps: record.bandwidth_mbps,
    }
}
