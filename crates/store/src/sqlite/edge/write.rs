//! What transactions change, and whom it concerns: a change of anything in a VPC is a change of the
//! VPC, so that every host that has something in it gets a new spec.

use super::{
    super::{instances, networks, query, rows::joined, security_groups, writer::Tx},
    rows::kind_number,
};
use crate::*;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{collections::BTreeSet, net::Ipv4Addr};

pub(in super::super) fn apply(tx: &mut Tx<'_>, plan: &EdgePlan) -> Result<(), StoreError> {
    // First, while what they leave is still there.
    for record in &plan.put {
        if let EdgeRecord::Eip(eip) = record {
            put_eip(tx, eip)?;
        }
    }
    for record in &plan.delete {
        delete(tx, record)?;
    }
    for record in &plan.put {
        match record {
            EdgeRecord::Vpc(vpc) => networks::update_vpc(tx, vpc)?,
            EdgeRecord::VSwitch(vswitch) => networks::update_vswitch(tx, vswitch)?,
            EdgeRecord::RouteTable(table) => {
                write_route_table(tx, table)?;
                changed(tx, "route_table", &table.route_table_id, &table.vpc_id)?;
            }
            EdgeRecord::RouteEntry(entry) => put_route_entry(tx, entry)?,
            EdgeRecord::Eip(_) => {}
            EdgeRecord::NatGateway(gateway) => put_nat_gateway(tx, gateway)?,
            EdgeRecord::SnatEntry(entry) => put_snat_entry(tx, entry)?,
            EdgeRecord::ForwardEntry(entry) => put_forward_entry(tx, entry)?,
            EdgeRecord::PrefixList(list) => put_prefix_list(tx, list)?,
        }
    }
    for instance in &plan.update_instances {
        instances::update(tx, instance)?;
    }
    Ok(())
}

fn delete(tx: &mut Tx<'_>, record: &EdgeRecord) -> Result<(), StoreError> {
    let remove = |tx: &Tx<'_>, sql: &str, id: &str| -> Result<(), StoreError> {
        tx.conn.prepare_cached(sql)?.execute([id])?;
        Ok(())
    };
    match record {
        // They go by transactions of their own.
        EdgeRecord::Vpc(_) | EdgeRecord::VSwitch(_) => Ok(()),
        EdgeRecord::RouteTable(table) => {
            let id = &table.route_table_id;
            remove(tx, "DELETE FROM route_entries WHERE route_table_id = ?1", id)?;
            remove(tx, "DELETE FROM route_tables WHERE route_table_id = ?1", id)?;
            changed(tx, "route_table", id, &table.vpc_id)
        }
        EdgeRecord::RouteEntry(entry) => {
            let id = &entry.route_entry_id;
            remove(tx, "DELETE FROM route_entries WHERE route_entry_id = ?1", id)?;
            changed(tx, "route_table", &entry.route_table_id, &entry.vpc_id)
        }
        EdgeRecord::Eip(eip) => {
            let id = &eip.allocation_id;
            remove(tx, "DELETE FROM eips WHERE allocation_id = ?1", id)?;
            security_groups::delete_tags(tx, id)?;
            changed(tx, "eip", id, &eip.vpc_id)
        }
        EdgeRecord::NatGateway(gateway) => {
            let id = &gateway.nat_gateway_id;
            for table in ["snat_entries", "forward_entries", "nat_gateways"] {
                remove(tx, &format!("DELETE FROM {table} WHERE nat_gateway_id = ?1"), id)?;
            }
            tx.change("nat_gateway", id, &gateway.host_id)?;
            tx.change("vpc", &gateway.vpc_id, "")
        }
        EdgeRecord::SnatEntry(entry) => {
            remove(tx, "DELETE FROM snat_entries WHERE snat_entry_id = ?1", &entry.snat_entry_id)?;
            gateway_changed(tx, &entry.nat_gateway_id)
        }
        EdgeRecord::ForwardEntry(entry) => {
            let sql = "DELETE FROM forward_entries WHERE forward_entry_id = ?1";
            remove(tx, sql, &entry.forward_entry_id)?;
            gateway_changed(tx, &entry.nat_gateway_id)
        }
        EdgeRecord::PrefixList(list) => {
            let id = &list.prefix_list_id;
            remove(tx, "DELETE FROM prefix_lists WHERE prefix_list_id = ?1", id)?;
            tx.change("prefix_list", id, "")
        }
    }
}

fn changed(tx: &mut Tx<'_>, kind: &str, id: &str, vpc_id: &str) -> Result<(), StoreError> {
    tx.change(kind, id, "")?;
    if !vpc_id.is_empty() {
        tx.change("vpc", vpc_id, "")?;
    }
    Ok(())
}

fn gateway_changed(tx: &mut Tx<'_>, nat_gateway_id: &str) -> Result<(), StoreError> {
    let vpc_ids: Vec<String> = query::column(
        tx.conn,
        "SELECT vpc_id FROM nat_gateways WHERE nat_gateway_id = ?1",
        [nat_gateway_id],
    )?;
    changed(tx, "nat_gateway", nat_gateway_id, vpc_ids.first().map_or("", String::as_str))
}

/// Writes a route table; that it changed is said by the caller.
pub(in super::super) fn write_route_table(
    tx: &mut Tx<'_>,
    table: &RouteTableRecord,
) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    tx.conn
        .prepare_cached(
            "INSERT INTO route_tables (route_table_id, revision, vpc_id, system, name, description,
                 created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (route_table_id) DO UPDATE SET revision = ?2, name = ?5, description = ?6",
        )?
        .execute(params![
            table.route_table_id,
            revision,
            table.vpc_id,
            table.system,
            table.name,
            table.description,
            table.created_ms
        ])?;
    Ok(())
}

fn put_route_entry(tx: &mut Tx<'_>, entry: &RouteEntryRecord) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    tx.conn
        .prepare_cached(
            "INSERT INTO route_entries (route_entry_id, revision, route_table_id, destination,
                 next_hop_kind, next_hop_id, automatic, name, description, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (route_entry_id) DO UPDATE SET revision = ?2, next_hop_kind = ?5,
                 next_hop_id = ?6, automatic = ?7, name = ?8, description = ?9",
        )?
        .execute(params![
            entry.route_entry_id,
            revision,
            entry.route_table_id,
            entry.destination.to_string(),
            kind_number(entry.next_hop_kind),
            entry.next_hop_id,
            entry.automatic,
            entry.name,
            entry.description,
            entry.created_ms
        ])?;
    changed(tx, "route_table", &entry.route_table_id, &entry.vpc_id)
}

/// The static public address of a new interface: it stands for the address the interface has got.
pub(in super::super) fn insert_fixed(tx: &mut Tx<'_>, eip: &EipRecord) -> Result<(), StoreError> {
    let mut eip = eip.clone();
    if let Some(EipTarget::Interface { eni_id, private_ip, .. }) = &mut eip.target {
        let own: Vec<u32> =
            query::column(tx.conn, "SELECT private_ip FROM enis WHERE eni_id = ?1", [&*eni_id])?;
        if let Some(own) = own.first() {
            *private_ip = (*own).into();
        }
    }
    put_eip(tx, &eip)
}

/// The host on which an address is in effect: that of its interface's instance or of its gateway.
fn host_of(conn: &Connection, allocation_id: &str) -> Result<String, StoreError> {
    let host: Option<String> = conn
        .prepare_cached(
            "SELECT coalesce(
                 (SELECT host_id FROM enis WHERE enis.eni_id = eips.eni_id),
                 (SELECT host_id FROM nat_gateways WHERE nat_gateway_id = target_id), '')
             FROM eips WHERE allocation_id = ?1",
        )?
        .query_row([allocation_id], |row| row.get(0))
        .optional()?;
    Ok(host.unwrap_or_default())
}

fn put_eip(tx: &mut Tx<'_>, eip: &EipRecord) -> Result<(), StoreError> {
    let old = super::eip(tx.conn, &eip.allocation_id)?;
    let revision = tx.revision()? as i64;
    let (kind, target_id, eni_id, private_ip) = match &eip.target {
        None => ("", "", "", None),
        Some(EipTarget::NatGateway(id)) => ("Nat", id.as_str(), "", None),
        Some(target @ EipTarget::Interface { eni_id, private_ip, instance_id }) => {
            let kind = if instance_id.is_empty() { "NetworkInterface" } else { "EcsInstance" };
            (kind, target.resource_id(), eni_id.as_str(), Some(u32::from(*private_ip)))
        }
    };
    if old.is_none() {
        tx.conn
            .prepare_cached(
                "INSERT INTO eips (allocation_id, revision, address, name, description,
                     bandwidth_mbps, charge_type, fixed, target_type, target_id, eni_id, vpc_id,
                     bound_revision, leaving_host_id, created_ms)
                 VALUES (?1, ?2, ?3, '', '', 0, ?4, ?5, '', '', '', '', ?2, '', ?6)",
            )?
            .execute(params![
                eip.allocation_id,
                revision,
                u32::from(eip.address),
                eip.charge_type,
                eip.fixed,
                eip.created_ms
            ])?;
        security_groups::insert_tags(tx, &eip.allocation_id, &eip.tags)?;
    }
    let before = old.as_ref().and_then(|old| old.target.clone());
    if before != eip.target {
        let leaving = host_of(tx.conn, &eip.allocation_id)?;
        tx.conn
            .prepare_cached(
                "UPDATE eips SET bound_revision = ?2, leaving_host_id = ?3 WHERE allocation_id = ?1",
            )?
            .execute(params![eip.allocation_id, revision, leaving])?;
    }
    tx.conn
        .prepare_cached(
            "UPDATE eips SET revision = ?2, name = ?3, description = ?4, bandwidth_mbps = ?5,
                 target_type = ?6, target_id = ?7, eni_id = ?8, private_ip = ?9, vpc_id = ?10,
                 fixed = ?11, charge_type = ?12
             WHERE allocation_id = ?1",
        )?
        .execute(params![
            eip.allocation_id,
            revision,
            eip.name,
            eip.description,
            eip.bandwidth_mbps,
            kind,
            target_id,
            eni_id,
            private_ip,
            eip.vpc_id,
            eip.fixed,
            eip.charge_type
        ])?;
    let at = |target: &Option<EipTarget>| match target {
        Some(EipTarget::Interface { eni_id, .. }) => Some(eni_id.clone()),
        _ => None,
    };
    for eni_id in at(&before).into_iter().chain(at(&eip.target)).collect::<BTreeSet<_>>() {
        // Its host is told what it has now.
        tx.conn
            .prepare_cached("UPDATE enis SET generation = generation + 1 WHERE eni_id = ?1")?
            .execute([eni_id])?;
    }
    if let Some(old) = old.filter(|old| !old.vpc_id.is_empty() && old.vpc_id != eip.vpc_id) {
        tx.change("vpc", &old.vpc_id, "")?;
    }
    changed(tx, "eip", &eip.allocation_id, &eip.vpc_id)
}

fn put_nat_gateway(tx: &mut Tx<'_>, gateway: &NatGatewayRecord) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    let id = &gateway.nat_gateway_id;
    let before: Vec<String> =
        query::column(tx.conn, "SELECT host_id FROM nat_gateways WHERE nat_gateway_id = ?1", [id])?;
    tx.conn
        .prepare_cached(
            "INSERT INTO nat_gateways (nat_gateway_id, revision, vpc_id, vswitch_id, zone_id, name,
                 description, snat_table_id, forward_table_id, host_id, placed_revision, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?2, ?11)
             ON CONFLICT (nat_gateway_id) DO UPDATE SET revision = ?2, name = ?6, description = ?7,
                 placed_revision = iif(host_id = ?10, placed_revision, ?2), host_id = ?10",
        )?
        .execute(params![
            id,
            revision,
            gateway.vpc_id,
            gateway.vswitch_id,
            gateway.zone_id,
            gateway.name,
            gateway.description,
            gateway.snat_table_id,
            gateway.forward_table_id,
            gateway.host_id,
            gateway.created_ms
        ])?;
    for host_id in before.iter().filter(|host_id| **host_id != gateway.host_id) {
        tx.change("nat_gateway", id, host_id)?;
    }
    tx.change("nat_gateway", id, &gateway.host_id)?;
    tx.change("vpc", &gateway.vpc_id, "")
}

fn put_snat_entry(tx: &mut Tx<'_>, entry: &SnatEntryRecord) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    tx.conn
        .prepare_cached(
            "INSERT INTO snat_entries (snat_entry_id, revision, nat_gateway_id, name, vswitch_id,
                 source, snat_ips, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (snat_entry_id) DO UPDATE SET revision = ?2, name = ?4, snat_ips = ?7",
        )?
        .execute(params![
            entry.snat_entry_id,
            revision,
            entry.nat_gateway_id,
            entry.name,
            entry.vswitch_id,
            entry.source.to_string(),
            joined(&entry.snat_ips),
            entry.created_ms
        ])?;
    gateway_changed(tx, &entry.nat_gateway_id)
}

fn put_forward_entry(tx: &mut Tx<'_>, entry: &ForwardEntryRecord) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    tx.conn
        .prepare_cached(
            "INSERT INTO forward_entries (forward_entry_id, revision, nat_gateway_id, name,
                 external_ip, external_from, external_to, internal_ip, internal_from, internal_to,
                 protocol, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (forward_entry_id) DO UPDATE SET revision = ?2, name = ?4,
                 external_ip = ?5, external_from = ?6, external_to = ?7, internal_ip = ?8,
                 internal_from = ?9, internal_to = ?10, protocol = ?11",
        )?
        .execute(params![
            entry.forward_entry_id,
            revision,
            entry.nat_gateway_id,
            entry.name,
            u32::from(entry.external_ip),
            entry.external_ports.0,
            entry.external_ports.1,
            u32::from(entry.internal_ip),
            entry.internal_ports.0,
            entry.internal_ports.1,
            entry.protocol,
            entry.created_ms
        ])?;
    gateway_changed(tx, &entry.nat_gateway_id)
}

fn put_prefix_list(tx: &mut Tx<'_>, list: &PrefixListRecord) -> Result<(), StoreError> {
    let revision = tx.revision()? as i64;
    let id = &list.prefix_list_id;
    tx.conn
        .prepare_cached(
            "INSERT INTO prefix_lists (prefix_list_id, revision, name, description, ipv6,
                 max_entries, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (prefix_list_id) DO UPDATE SET revision = ?2, name = ?3, description = ?4",
        )?
        .execute(params![
            id,
            revision,
            list.name,
            list.description,
            list.ipv6,
            list.max_entries,
            list.created_ms
        ])?;
    tx.conn
        .prepare_cached("DELETE FROM prefix_list_entries WHERE prefix_list_id = ?1")?
        .execute([id])?;
    for (position, (cidr, description)) in list.entries.iter().enumerate() {
        tx.conn
            .prepare_cached(
                "INSERT INTO prefix_list_entries (prefix_list_id, position, cidr, description)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, position as i64, cidr.to_string(), description])?;
    }
    tx.change("prefix_list", id, "")
}

/// What an interface takes with it that goes, or that keeps only some of its addresses: static public
/// addresses, and the associations of EIPs. Called while it still is what it was.
pub(in super::super) fn forget_addresses(
    tx: &mut Tx<'_>,
    eni: &EniRecord,
    kept: &[Ipv4Addr],
) -> Result<(), StoreError> {
    for eip in super::eips_of(tx.conn, std::slice::from_ref(eni))? {
        let stays = matches!(&eip.target, Some(EipTarget::Interface { private_ip, .. })
            if kept.contains(private_ip));
        if stays {
            continue;
        }
        if eip.fixed {
            delete(tx, &EdgeRecord::Eip(eip))?;
        } else {
            put_eip(tx, &EipRecord { target: None, vpc_id: String::new(), ..eip })?;
        }
    }
    // Routes that led to it lead nowhere.
    if kept.is_empty() {
        tx.change("vpc", &eni.vpc_id, "")?;
    }
    Ok(())
}
