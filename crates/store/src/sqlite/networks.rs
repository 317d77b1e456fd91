//! VPCs and VSwitches.

use super::{
    addresses, edge,
    query::{self, Conditions},
    rows::joined,
    writer::{Tx, next_counter},
};
use crate::*;
use rusqlite::{Connection, params};

const LARGEST_VNI: u64 = (1 << 24) - 1;

pub(super) fn vpc(conn: &Connection, vpc_id: &str) -> Result<Option<VpcRecord>, StoreError> {
    query::first(conn, "SELECT * FROM vpcs WHERE vpc_id = ?1", [vpc_id])
}

pub(super) fn vswitch(
    conn: &Connection,
    vswitch_id: &str,
) -> Result<Option<VSwitchRecord>, StoreError> {
    query::first(conn, "SELECT * FROM vswitches WHERE vswitch_id = ?1", [vswitch_id])
}

pub(super) fn vswitches_of(
    conn: &Connection,
    vpc_id: &str,
) -> Result<Vec<VSwitchRecord>, StoreError> {
    query::all(conn, "SELECT * FROM vswitches WHERE vpc_id = ?1 ORDER BY seq", [vpc_id])
}

pub(super) fn vpc_view(conn: &Connection, vpc_id: &str) -> Result<VpcView, StoreError> {
    Ok(VpcView {
        vpc: vpc(conn, vpc_id)?,
        vswitches: vswitches_of(conn, vpc_id)?,
        security_groups: query::count(
            conn,
            "SELECT count(*) FROM security_groups WHERE vpc_id = ?1",
            [vpc_id],
        )?,
        route_tables: query::column(
            conn,
            "SELECT route_table_id FROM route_tables WHERE vpc_id = ?1 AND NOT system ORDER BY seq",
            [vpc_id],
        )?,
    })
}

pub(super) fn insert_vpc(tx: &mut Tx<'_>, vpc: &VpcRecord) -> Result<(), StoreError> {
    let vni = free_vni(tx.conn)?;
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO vpcs (vpc_id, revision, name, description, cidr, vni, created_ms,
                 secondary_cidrs, ipv6_cidr, system_route_table_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            vpc.vpc_id,
            revision as i64,
            vpc.name,
            vpc.description,
            vpc.cidr.to_string(),
            vni,
            vpc.created_ms,
            joined(&vpc.secondary_cidrs),
            vpc.ipv6_cidr.map(|_| VpcRecord::ipv6_range(vni).to_string()).unwrap_or_default(),
            vpc.system_route_table_id
        ])?;
    let table = RouteTableRecord {
        route_table_id: vpc.system_route_table_id.clone(),
        vpc_id: vpc.vpc_id.clone(),
        system: true,
        created_ms: vpc.created_ms,
        ..RouteTableRecord::default()
    };
    edge::write_route_table(tx, &table)?;
    tx.change("vpc", &vpc.vpc_id, "")
}

/// Writes what changes during a VPC's life.
pub(super) fn update_vpc(tx: &mut Tx<'_>, vpc: &VpcRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE vpcs SET revision = ?2, name = ?3, description = ?4, secondary_cidrs = ?5,
                 ipv6_cidr = ?6
             WHERE vpc_id = ?1",
        )?
        .execute(params![
            vpc.vpc_id,
            revision as i64,
            vpc.name,
            vpc.description,
            joined(&vpc.secondary_cidrs),
            vpc.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default()
        ])?;
    tx.change("vpc", &vpc.vpc_id, "")
}

/// Numbers are used round and round, so that one just freed is not soon used again.
fn free_vni(conn: &Connection) -> Result<u32, StoreError> {
    for _ in 0..=LARGEST_VNI {
        let vni = (next_counter(conn, "vni")? - 1) % LARGEST_VNI + 1;
        let vni = vni as u32;
        if query::count(conn, "SELECT count(*) FROM vpcs WHERE vni = ?1", [vni])? == 0 {
            return Ok(vni);
        }
    }
    Err(StoreError::Backend("every network identifier is in use; delete VPCs".to_owned()))
}

pub(super) fn delete_vpc(tx: &mut Tx<'_>, vpc_id: &str) -> Result<(), StoreError> {
    // With it goes its system route table, whatever it leads to.
    for sql in [
        "DELETE FROM route_entries WHERE route_table_id IN
             (SELECT route_table_id FROM route_tables WHERE vpc_id = ?1 AND system)",
        "DELETE FROM route_tables WHERE vpc_id = ?1 AND system",
        "DELETE FROM vpcs WHERE vpc_id = ?1",
    ] {
        tx.conn.prepare_cached(sql)?.execute([vpc_id])?;
    }
    tx.change("vpc", vpc_id, "")
}

pub(super) fn insert_vswitch(tx: &mut Tx<'_>, vswitch: &VSwitchRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO vswitches (vswitch_id, revision, vpc_id, zone_id, cidr, name,
                 description, first_ip, last_ip, gateway_ip, next_ip, created_ms, route_table_id,
                 ipv6_cidr)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?8, ?11, ?12, ?13)",
        )?
        .execute(params![
            vswitch.vswitch_id,
            revision as i64,
            vswitch.vpc_id,
            vswitch.zone_id,
            vswitch.cidr.to_string(),
            vswitch.name,
            vswitch.description,
            u32::from(vswitch.first_ip),
            u32::from(vswitch.last_ip),
            u32::from(vswitch.gateway_ip),
            vswitch.created_ms,
            vswitch.route_table_id,
            vswitch.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default()
        ])?;
    tx.change("vpc", &vswitch.vpc_id, "")?;
    tx.change("vswitch", &vswitch.vswitch_id, "")
}

/// Writes what changes during a VSwitch's life.
pub(super) fn update_vswitch(tx: &mut Tx<'_>, vswitch: &VSwitchRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE vswitches SET revision = ?2, name = ?3, description = ?4, route_table_id = ?5,
                 ipv6_cidr = ?6
             WHERE vswitch_id = ?1",
        )?
        .execute(params![
            vswitch.vswitch_id,
            revision as i64,
            vswitch.name,
            vswitch.description,
            vswitch.route_table_id,
            vswitch.ipv6_cidr.map(|cidr| cidr.to_string()).unwrap_or_default()
        ])?;
    tx.change("vpc", &vswitch.vpc_id, "")?;
    tx.change("vswitch", &vswitch.vswitch_id, "")
}

pub(super) fn vswitch_view(conn: &Connection, vswitch_id: &str) -> Result<VSwitchView, StoreError> {
    Ok(VSwitchView {
        vswitch: vswitch(conn, vswitch_id)?,
        enis: query::count(conn, "SELECT count(*) FROM enis WHERE vswitch_id = ?1", [vswitch_id])?,
        nat_gateways: query::column(
            conn,
            "SELECT nat_gateway_id FROM nat_gateways WHERE vswitch_id = ?1 ORDER BY seq",
            [vswitch_id],
        )?,
        snat_entries: query::column(
            conn,
            "SELECT snat_entry_id FROM snat_entries WHERE vswitch_id = ?1 ORDER BY seq",
            [vswitch_id],
        )?,
    })
}

pub(super) fn delete_vswitch(tx: &mut Tx<'_>, vswitch: &VSwitchRecord) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached("DELETE FROM vswitches WHERE vswitch_id = ?1")?
        .execute([&vswitch.vswitch_id])?;
    tx.change("vpc", &vswitch.vpc_id, "")?;
    tx.change("vswitch", &vswitch.vswitch_id, "")
}

/// A VSwitch with what is left in it.
pub(super) fn room(conn: &Connection, vswitch_id: &str) -> Result<Option<VSwitchRoom>, StoreError> {
    let Some(vswitch) = vswitch(conn, vswitch_id)? else { return Ok(None) };
    let all = u64::from(u32::from(vswitch.last_ip) - u32::from(vswitch.first_ip)) + 1;
    let free_addresses = all.saturating_sub(addresses::used(conn, vswitch_id)?);
    Ok(Some(VSwitchRoom { vswitch, free_addresses }))
}

pub(super) fn list_vpcs(
    conn: &Connection,
    filter: &VpcFilter,
    page: Page,
) -> Result<Listed<(VpcRecord, Vec<String>)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("vpc_id", &filter.vpc_ids);
    conditions.matches("name", &filter.name);
    let listed: Listed<VpcRecord> = query::list(conn, "vpcs", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|vpc| {
            let ids = query::column(
                conn,
                "SELECT vswitch_id FROM vswitches WHERE vpc_id = ?1 ORDER BY seq",
                [&vpc.vpc_id],
            )?;
            Ok((vpc, ids))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}

pub(super) fn list_vswitches(
    conn: &Connection,
    filter: &VSwitchFilter,
    page: Page,
) -> Result<Listed<(VSwitchRecord, u64)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.equal("vswitch_id", &filter.vswitch_id);
    conditions.equal("zone_id", &filter.zone_id);
    conditions.equal("route_table_id", &filter.route_table_id);
    conditions.matches("name", &filter.name);
    let listed: Listed<VSwitchRecord> = query::list(conn, "vswitches", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|vswitch| {
            let used = addresses::used(conn, &vswitch.vswitch_id)?;
            Ok((vswitch, used))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
