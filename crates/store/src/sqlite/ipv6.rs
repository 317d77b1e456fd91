//! IPv6 addresses of VSwitches, and addresses of either family as the tables have them.

use super::{
    query,
    writer::{Tx, next_counter},
};
use crate::*;
use ipnet::Ipv6Net;
use rusqlite::{
    Connection, params,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};
use std::net::{IpAddr, Ipv6Addr};

/// An address of a query over both tables: IPv4 ones are integers, IPv6 ones 16 bytes.
pub(super) struct Address(pub(super) IpAddr);

impl FromSql for Address {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Integer(_) => {
                u32::column_result(value).map(|v4| Self(std::net::Ipv4Addr::from(v4).into()))
            }
            ValueRef::Blob(bytes) => {
                let octets = <[u8; 16]>::try_from(bytes).map_err(|_| {
                    FromSqlError::InvalidBlobSize { expected_size: 16, blob_size: bytes.len() }
                })?;
                Ok(Self(Ipv6Addr::from(octets).into()))
            }
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

fn is_free(conn: &Connection, vswitch_id: &str, address: Ipv6Addr) -> Result<bool, StoreError> {
    let count = query::count(
        conn,
        "SELECT count(*) FROM eni_ipv6_addresses WHERE vswitch_id = ?1 AND address = ?2",
        params![vswitch_id, address.octets()],
    )?;
    Ok(count == 0)
}

/// So many free addresses of a VSwitch. They are still to be taken. They look random and come once
/// each, so that one that was given back is not soon used again.
///
/// # Errors
/// `NoFreeAddress` if the VSwitch has no IPv6.
pub(super) fn offer(
    conn: &Connection,
    vswitch: &VSwitchRecord,
    count: u32,
) -> Result<Vec<Ipv6Addr>, StoreError> {
    let mut offered = Vec::new();
    if count == 0 {
        return Ok(offered);
    }
    let none = || StoreError::NoFreeAddress { vswitch_id: vswitch.vswitch_id.clone() };
    let block = vswitch.ipv6_cidr.ok_or_else(none)?;
    while offered.len() < count as usize {
        let address = spread(block, next_counter(conn, "ipv6")?);
        if VSwitchRecord::is_usable_ipv6(block, address)
            && is_free(conn, &vswitch.vswitch_id, address)?
        {
            offered.push(address);
        }
    }
    Ok(offered)
}

/// The address of a /64 for a number: a bijection (the mixer of SplitMix64), so that different
/// numbers have different addresses.
fn spread(block: Ipv6Net, number: u64) -> Ipv6Addr {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let network = u128::from(block.network()) & !u128::from(u64::MAX);
    Ipv6Addr::from(network | u128::from(mixed))
}

/// The addresses of an interface, in the order they were given.
pub(super) fn of_eni(conn: &Connection, eni_id: &str) -> Result<Vec<Ipv6Addr>, StoreError> {
    let found: Vec<[u8; 16]> = query::column(
        conn,
        "SELECT address FROM eni_ipv6_addresses WHERE eni_id = ?1 ORDER BY position",
        [eni_id],
    )?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// Gives an interface the addresses of its record in place of those it has; those that stay are not
/// free in between.
///
/// # Errors
/// `AddressInUse`.
pub(super) fn replace(tx: &Tx<'_>, eni: &EniRecord) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached("DELETE FROM eni_ipv6_addresses WHERE eni_id = ?1")?
        .execute([&eni.eni_id])?;
    for (address, position) in eni.ipv6_addresses.iter().zip(0_u32..) {
        if !is_free(tx.conn, &eni.vswitch_id, *address)? {
            return Err(StoreError::AddressInUse {
                vswitch_id: eni.vswitch_id.clone(),
                address: (*address).into(),
            });
        }
        tx.conn
            .prepare_cached(
                "INSERT INTO eni_ipv6_addresses (vswitch_id, address, eni_id, position)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![eni.vswitch_id, address.octets(), eni.eni_id, position])?;
    }
    Ok(())
}

/// VSwitches of a VPC in which interfaces have IPv6 addresses.
pub(super) fn vswitches_in_use(conn: &Connection, vpc_id: &str) -> Result<Vec<String>, StoreError> {
    query::column(
        conn,
        "SELECT vswitch_id FROM vswitches WHERE vpc_id = ?1 AND EXISTS
             (SELECT 1 FROM eni_ipv6_addresses AS taken
              WHERE taken.vswitch_id = vswitches.vswitch_id)
         ORDER BY seq",
        [vpc_id],
    )
}
