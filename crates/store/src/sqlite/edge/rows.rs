//! Records from rows, and what the store derives with them.

use super::super::rows::{FromRow, ip, list, parsed};
use crate::edge_records::*;
use rusqlite::{Result, Row};
use std::net::Ipv4Addr;

/// Route entries with where their next hop is.
pub(super) const ROUTE_ENTRIES: &str = "(SELECT route_entries.*, route_tables.vpc_id AS vpc_id,
        CASE next_hop_kind
            WHEN 0 THEN (SELECT private_ip FROM enis WHERE enis.instance_id = next_hop_id
                AND enis.is_primary AND enis.vpc_id = route_tables.vpc_id)
            WHEN 1 THEN (SELECT private_ip FROM enis WHERE enis.eni_id = next_hop_id
                AND enis.instance_id != '' AND enis.vpc_id = route_tables.vpc_id)
        END AS next_hop_ip,
        EXISTS (SELECT 1 FROM nat_gateways WHERE nat_gateway_id = next_hop_id) AS next_hop_nat
    FROM route_entries JOIN route_tables ON route_tables.route_table_id = route_entries.route_table_id)";

/// EIPs with their status. One is settled once the host that has it, or had it, has acted on a spec
/// that is no older than its association. A host that is lost keeps no address from others.
pub(super) const EIPS: &str = "(SELECT eips.*, CASE
        WHEN eni_id != '' THEN iif(EXISTS (SELECT 1 FROM enis
            JOIN hosts ON hosts.host_id = enis.host_id
            WHERE enis.eni_id = eips.eni_id AND hosts.observed_revision < bound_revision),
            'Associating', 'InUse')
        WHEN target_id != '' THEN iif(EXISTS (SELECT 1 FROM nat_gateways
            JOIN hosts ON hosts.host_id = nat_gateways.host_id
            WHERE nat_gateway_id = target_id AND hosts.observed_revision >= bound_revision),
            'InUse', 'Associating')
        ELSE iif(EXISTS (SELECT 1 FROM hosts WHERE hosts.host_id = leaving_host_id
            AND NOT lost AND observed_revision < bound_revision),
            'Unassociating', 'Available')
    END AS status FROM eips)";

/// NAT gateways with whether their host is there and has acted on them.
pub(super) const NAT_GATEWAYS: &str = "(SELECT nat_gateways.*,
        coalesce(hosts.lost, 0) AS host_lost,
        coalesce(hosts.observed_revision >= placed_revision, 0) AS settled
    FROM nat_gateways LEFT JOIN hosts ON hosts.host_id = nat_gateways.host_id)";

pub(super) fn kind_number(kind: NextHopKind) -> i64 {
    match kind {
        NextHopKind::Instance => 0,
        NextHopKind::NetworkInterface => 1,
        NextHopKind::NatGateway => 2,
    }
}

impl FromRow for RouteTableRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            route_table_id: row.get("route_table_id")?,
            vpc_id: row.get("vpc_id")?,
            system: row.get("system")?,
            name: row.get("name")?,
            description: row.get("description")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for RouteEntryRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        let next_hop_kind = match row.get::<_, i64>("next_hop_kind")? {
            0 => NextHopKind::Instance,
            1 => NextHopKind::NetworkInterface,
            2 => NextHopKind::NatGateway,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
        };
        let next_hop_id: String = row.get("next_hop_id")?;
        let next_hop = match next_hop_kind {
            NextHopKind::NatGateway => row
                .get::<_, bool>("next_hop_nat")?
                .then(|| NextHop::NatGateway(next_hop_id.clone())),
            _ => row
                .get::<_, Option<u32>>("next_hop_ip")?
                .map(|address| NextHop::Interface(address.into())),
        };
        Ok(Self {
            route_entry_id: row.get("route_entry_id")?,
            route_table_id: row.get("route_table_id")?,
            vpc_id: row.get("vpc_id")?,
            destination: parsed(&row.get::<_, String>("destination")?)?,
            next_hop_kind,
            next_hop_id,
            automatic: row.get("automatic")?,
            name: row.get("name")?,
            description: row.get("description")?,
            created_ms: row.get("created_ms")?,
            next_hop,
        })
    }
}

impl FromRow for EipRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        let target_id: String = row.get("target_id")?;
        let target = match row.get::<_, String>("target_type")?.as_str() {
            "Nat" => Some(EipTarget::NatGateway(target_id)),
            "" => None,
            kind => Some(EipTarget::Interface {
                eni_id: row.get("eni_id")?,
                private_ip: ip(row, "private_ip")?,
                instance_id: if kind == "EcsInstance" { target_id } else { String::new() },
            }),
        };
        Ok(Self {
            allocation_id: row.get("allocation_id")?,
            address: ip(row, "address")?,
            name: row.get("name")?,
            description: row.get("description")?,
            bandwidth_mbps: row.get("bandwidth_mbps")?,
            charge_type: row.get("charge_type")?,
            fixed: row.get("fixed")?,
            target,
            vpc_id: row.get("vpc_id")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
            status: row.get("status")?,
        })
    }
}

impl FromRow for NatGatewayRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            nat_gateway_id: row.get("nat_gateway_id")?,
            vpc_id: row.get("vpc_id")?,
            vswitch_id: row.get("vswitch_id")?,
            zone_id: row.get("zone_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            snat_table_id: row.get("snat_table_id")?,
            forward_table_id: row.get("forward_table_id")?,
            host_id: row.get("host_id")?,
            created_ms: row.get("created_ms")?,
            settled: row.get("settled")?,
            host_lost: row.get("host_lost")?,
        })
    }
}

impl FromRow for SnatEntryRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            snat_entry_id: row.get("snat_entry_id")?,
            nat_gateway_id: row.get("nat_gateway_id")?,
            name: row.get("name")?,
            vswitch_id: row.get("vswitch_id")?,
            source: parsed(&row.get::<_, String>("source")?)?,
            snat_ips: list::<Ipv4Addr>(&row.get::<_, String>("snat_ips")?)?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for ForwardEntryRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            forward_entry_id: row.get("forward_entry_id")?,
            nat_gateway_id: row.get("nat_gateway_id")?,
            name: row.get("name")?,
            external_ip: ip(row, "external_ip")?,
            external_ports: (row.get("external_from")?, row.get("external_to")?),
            internal_ip: ip(row, "internal_ip")?,
            internal_ports: (row.get("internal_from")?, row.get("internal_to")?),
            protocol: row.get("protocol")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for PrefixListRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            prefix_list_id: row.get("prefix_list_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            ipv6: row.get("ipv6")?,
            max_entries: row.get("max_entries")?,
            entries: Vec::new(),
            created_ms: row.get("created_ms")?,
        })
    }
}
