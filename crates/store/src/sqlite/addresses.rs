//! Private addresses of VSwitches, and MAC addresses.

use super::{
    query,
    writer::{Tx, next_counter},
};
use crate::*;
use rusqlite::{Connection, params};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Addresses of a VSwitch that are taken.
pub(super) fn used(conn: &Connection, vswitch_id: &str) -> Result<u64, StoreError> {
    query::count(
        conn,
        "SELECT coalesce(sum(addresses), 0) FROM vswitches WHERE vswitch_id = ?1",
        [vswitch_id],
    )
}

/// Why no address can be given.
pub(super) fn none_free(vswitch: &VSwitchRecord) -> StoreError {
    StoreError::NoFreeAddress { vswitch_id: vswitch.vswitch_id.clone() }
}

fn is_free(conn: &Connection, vswitch_id: &str, address: Ipv4Addr) -> Result<bool, StoreError> {
    let count = query::count(
        conn,
        "SELECT count(*) FROM eni_addresses WHERE vswitch_id = ?1 AND address = ?2",
        params![vswitch_id, u32::from(address)],
    )?;
    Ok(count == 0)
}

/// That addresses which were asked for are free.
pub(super) fn check_free(
    conn: &Connection,
    vswitch: &VSwitchRecord,
    addresses: impl IntoIterator<Item = Ipv4Addr>,
) -> Result<(), StoreError> {
    let vswitch_id = &vswitch.vswitch_id;
    for address in addresses {
        if !is_free(conn, vswitch_id, address)? {
            return Err(StoreError::AddressInUse {
                vswitch_id: vswitch_id.clone(),
                address: address.into(),
            });
        }
    }
    Ok(())
}

/// So many free addresses. They are still to be taken; what is offered next comes after them.
pub(super) fn offer(
    conn: &Connection,
    vswitch: &VSwitchRecord,
    count: u64,
) -> Result<Vec<Ipv4Addr>, StoreError> {
    offer_beside(conn, vswitch, count, &BTreeSet::new())
}

/// As [`offer`], and none of these, which are about to be taken.
pub(super) fn offer_beside(
    conn: &Connection,
    vswitch: &VSwitchRecord,
    count: u64,
    beside: &BTreeSet<Ipv4Addr>,
) -> Result<Vec<Ipv4Addr>, StoreError> {
    let mut offered = Vec::new();
    if count == 0 {
        return Ok(offered);
    }
    let (first, last) = (u32::from(vswitch.first_ip), u32::from(vswitch.last_ip));
    let room = (u64::from(last) - u64::from(first) + 1)
        .saturating_sub(used(conn, &vswitch.vswitch_id)? + beside.len() as u64);
    if room < count {
        return Err(none_free(vswitch));
    }
    let hint: u32 = conn
        .prepare_cached("SELECT next_ip FROM vswitches WHERE vswitch_id = ?1")?
        .query_row([&vswitch.vswitch_id], |row| row.get(0))?;
    let mut address = hint.clamp(first, last);
    for _ in first..=last {
        let following = if address == last { first } else { address + 1 };
        let candidate = Ipv4Addr::from(address);
        if !beside.contains(&candidate) && is_free(conn, &vswitch.vswitch_id, candidate)? {
            offered.push(candidate);
        }
        address = following;
        if offered.len() as u64 == count {
            conn.prepare_cached("UPDATE vswitches SET next_ip = ?2 WHERE vswitch_id = ?1")?
                .execute(params![vswitch.vswitch_id, following])?;
            return Ok(offered);
        }
    }
    Err(none_free(vswitch))
}

/// Takes a free address for an interface that has a row already.
pub(super) fn take(
    tx: &Tx<'_>,
    eni: &EniRecord,
    position: u32,
    address: Ipv4Addr,
) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached(
            "INSERT INTO eni_addresses (vswitch_id, address, eni_id, position)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![eni.vswitch_id, u32::from(address), eni.eni_id, position])?;
    count(tx, &eni.vswitch_id, 1)
}

/// Exchanges secondary addresses; those that stay are not free in between.
pub(super) fn replace_secondary(
    tx: &Tx<'_>,
    old: &EniRecord,
    new: &EniRecord,
) -> Result<(), StoreError> {
    let removed = tx
        .conn
        .prepare_cached("DELETE FROM eni_addresses WHERE eni_id = ?1 AND position > 0")?
        .execute([&old.eni_id])?;
    count(tx, &old.vswitch_id, -(removed as i64))?;
    for (address, position) in new.secondary_private_ips.iter().zip(1..) {
        if !is_free(tx.conn, &new.vswitch_id, *address)? {
            return Err(StoreError::AddressInUse {
                vswitch_id: new.vswitch_id.clone(),
                address: (*address).into(),
            });
        }
        take(tx, new, position, *address)?;
    }
    Ok(())
}

/// Frees every address of an interface.
pub(super) fn release_all(tx: &Tx<'_>, eni: &EniRecord) -> Result<(), StoreError> {
    let removed = tx
        .conn
        .prepare_cached("DELETE FROM eni_addresses WHERE eni_id = ?1")?
        .execute([&eni.eni_id])?;
    count(tx, &eni.vswitch_id, -(removed as i64))
}

fn count(tx: &Tx<'_>, vswitch_id: &str, change: i64) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached("UPDATE vswitches SET addresses = addresses + ?2 WHERE vswitch_id = ?1")?
        .execute(params![vswitch_id, change])?;
    Ok(())
}

/// Secondary addresses of an interface, in the order they were given.
pub(super) fn secondary(conn: &Connection, eni_id: &str) -> Result<Vec<Ipv4Addr>, StoreError> {
    let found: Vec<u32> = query::column(
        conn,
        "SELECT address FROM eni_addresses WHERE eni_id = ?1 AND position > 0 ORDER BY position",
        [eni_id],
    )?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// A free MAC address. Neighbouring ones are spread so that they do not look alike.
pub(super) fn mac(conn: &Connection) -> Result<String, StoreError> {
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
