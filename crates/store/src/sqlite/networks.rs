//! VPCs and VSwitches.

use super::{
    edge,
    query::{self, Conditions},
    rows::joined,
    writer::{Tx, next_counter},
};
use crate::*;
use rusqlite::{Connection, params};
use std::net::Ipv4Addr;

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
    tx.conn
        .prepare_cached("DELETE FROM route_tables WHERE vpc_id = ?1 AND system")?
        .execute([vpc_id])?;
    tx.conn.prepare_cached("DELETE FROM vpcs WHERE vpc_id = ?1")?.execute([vpc_id])?;
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
        enis: eni_count(conn, vswitch_id)?,
        nat_gateways: query::column(
            conn,
            "SELECT nat_gateway_id FROM nat_gateways WHERE vswitch_id = ?1 ORDER BY seq",
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

pub(super) fn eni_count(conn: &Connection, vswitch_id: &str) -> Result<u64, StoreError> {
    query::count(
        conn,
        "SELECT coalesce(sum(enis), 0) FROM vswitches WHERE vswitch_id = ?1",
        [vswitch_id],
    )
}

/// A free address, or the wanted one if it is free. The row that takes it is still to be inserted.
pub(super) fn allocate_address(
    conn: &Connection,
    vswitch: &VSwitchRecord,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, StoreError> {
    let in_use = |address: u32| -> Result<bool, StoreError> {
        let count = query::count(
            conn,
            "SELECT count(*) FROM enis WHERE vswitch_id = ?1 AND private_ip = ?2",
            params![vswitch.vswitch_id, address],
        )?;
        Ok(count > 0)
    };
    if let Some(address) = wanted {
        if in_use(address.into())? {
            return Err(StoreError::AddressInUse {
                vswitch_id: vswitch.vswitch_id.clone(),
                address,
            });
        }
        return Ok(address);
    }
    let (first, last) = (u32::from(vswitch.first_ip), u32::from(vswitch.last_ip));
    let hint: u32 = conn
        .prepare_cached("SELECT next_ip FROM vswitches WHERE vswitch_id = ?1")?
        .query_row([&vswitch.vswitch_id], |row| row.get(0))?;
    let full = u64::from(last) - u64::from(first) < eni_count(conn, &vswitch.vswitch_id)?;
    let mut address = hint.clamp(first, last);
    for _ in first..=last {
        if full {
            break;
        }
        let following = if address == last { first } else { address + 1 };
        if !in_use(address)? {
            conn.prepare_cached("UPDATE vswitches SET next_ip = ?2 WHERE vswitch_id = ?1")?
                .execute(params![vswitch.vswitch_id, following])?;
            return Ok(address.into());
        }
        address = following;
    }
    Err(StoreError::NoFreeAddress { vswitch_id: vswitch.vswitch_id.clone() })
}

/// A free MAC address. Neighbouring ones are spread so that they do not look alike.
pub(super) fn allocate_mac(conn: &Connection) -> Result<String, StoreError> {
    const SPREAD: u64 = 0x9E_37_79 | 1;
    loop {
        let suffix = next_counter(conn, "mac")?.wrapping_mul(SPREAD) & 0xff_ff_ff;
        let mac = format!(
            "00:16:3e:{:02x}:{:02x}:{:02x}",
            suffix >> 16,
            (suffix >> 8) & 0xff,
            suffix & 0xff
        );
        if query::count(conn, "SELECT count(*) FROM enis WHERE mac = ?1", [&mac])? == 0 {
            return Ok(mac);
        }
    }
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
            let enis = eni_count(conn, &vswitch.vswitch_id)?;
            Ok((vswitch, enis))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}

pub(super) fn list_enis(
    conn: &Connection,
    filter: &EniFilter,
    page: Page,
) -> Result<Listed<EniRecord>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("eni_id", &filter.eni_ids);
    conditions.equal("instance_id", &filter.instance_id);
    conditions.equal("vswitch_id", &filter.vswitch_id);
    conditions.equal("vpc_id", &filter.vpc_id);
    if !filter.security_group_id.is_empty() {
        conditions.and(
            "eni_id IN (SELECT eni_id FROM eni_groups WHERE group_id = ?)",
            [filter.security_group_id.clone().into()],
        );
    }
    let mut listed: Listed<EniRecord> = query::list(conn, "enis", conditions, page)?;
    for eni in &mut listed.items {
        fill_groups(conn, eni)?;
    }
    Ok(listed)
}

pub(super) fn enis_of(conn: &Connection, instance_id: &str) -> Result<Vec<EniRecord>, StoreError> {
    let mut enis: Vec<EniRecord> = query::all(
        conn,
        "SELECT * FROM enis WHERE instance_id = ?1 ORDER BY is_primary DESC, seq",
        [instance_id],
    )?;
    for eni in &mut enis {
        fill_groups(conn, eni)?;
    }
    Ok(enis)
}

fn fill_groups(conn: &Connection, eni: &mut EniRecord) -> Result<(), StoreError> {
    eni.security_group_ids = query::column(
        conn,
        "SELECT group_id FROM eni_groups WHERE eni_id = ?1 ORDER BY position",
        [&eni.eni_id],
    )?;
    Ok(())
}
