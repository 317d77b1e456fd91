//! Storage pools of hosts, and what disks and snapshots claim of them.

use super::{query, rows::FromRow, writer::Tx};
use crate::*;
use rusqlite::{Connection, Row, params};

const GIB: i64 = 1 << 30;

impl FromRow for PoolRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let num = |column: &str| row.get::<_, i64>(column).map(|value| value as u64);
        Ok(Self {
            pool_id: row.get("pool_id")?,
            host_id: row.get("host_id")?,
            name: row.get("name")?,
            path: row.get("path")?,
            overcommit_percent: row.get("overcommit_percent")?,
            capacity_bytes: num("capacity_bytes")?,
            available_bytes: num("available_bytes")?,
            reserve_bytes: num("reserve_bytes")?,
            limit_gib: num("limit_gib")?,
            provisioned_gib: num("provisioned_gib")?,
            snapshot_bytes: num("snapshot_bytes")?,
            state: match row.get::<_, i64>("state")? {
                1 => PoolState::Ready,
                2 => PoolState::Low,
                3 => PoolState::Unavailable,
                other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
            },
            message: row.get("message")?,
        })
    }
}

fn state_number(state: PoolState) -> i64 {
    match state {
        PoolState::Ready => 1,
        PoolState::Low => 2,
        PoolState::Unavailable => 3,
    }
}

fn pool(conn: &Connection, pool_id: &str) -> Result<Option<PoolRecord>, StoreError> {
    query::first(conn, "SELECT * FROM pools WHERE pool_id = ?1", [pool_id])
}

pub(super) fn of_host(conn: &Connection, host_id: &str) -> Result<Vec<PoolRecord>, StoreError> {
    query::all(conn, "SELECT * FROM pools WHERE host_id = ?1 ORDER BY name", [host_id])
}

/// The host of a pool.
pub(super) fn host_of(conn: &Connection, pool_id: &str) -> Result<Option<String>, StoreError> {
    Ok(pool(conn, pool_id)?.map(|pool| pool.host_id))
}

pub(super) fn list(conn: &Connection) -> Result<Vec<(PoolRecord, u64)>, StoreError> {
    let pools: Vec<PoolRecord> =
        query::all(conn, "SELECT * FROM pools ORDER BY host_id, name", [])?;
    let count = "SELECT count(*) FROM disks WHERE pool_id = ?1 AND pool_id != ''";
    pools
        .into_iter()
        .map(|pool| query::count(conn, count, [&pool.pool_id]).map(|disks| (pool, disks)))
        .collect()
}

/// The pools a host names are its pools; one it does not name any more goes if nothing lies in it.
pub(super) fn register(tx: &Tx<'_>, host_id: &str, named: &[PoolRecord]) -> Result<(), StoreError> {
    for new in named {
        if let Some(known) = pool(tx.conn, &new.pool_id)?.filter(|known| known.host_id != *host_id)
        {
            return Err(StoreError::AlreadyExists {
                what: format!(
                    "pool {} of host {}, which {host_id} names too: a pool is one host's, so it",
                    new.pool_id, known.host_id
                ),
            });
        }
        put(tx, host_id, new)?;
    }
    for old in of_host(tx.conn, host_id)? {
        if named.iter().any(|new| new.pool_id == old.pool_id) {
            continue;
        }
        let used = query::count(
            tx.conn,
            "SELECT EXISTS (SELECT 1 FROM disks WHERE pool_id = ?1 AND pool_id != '')
                 OR EXISTS (SELECT 1 FROM snapshots WHERE host_id = ?2 AND pool_id = ?1)",
            params![old.pool_id, host_id],
        )?;
        if used == 0 {
            tx.conn
                .prepare_cached("DELETE FROM pools WHERE pool_id = ?1")?
                .execute([&old.pool_id])?;
            continue;
        }
        let message = format!(
            "its host does not name it any more; start the agent with --pool name={},path={} again",
            old.name, old.path
        );
        put(tx, host_id, &PoolRecord { state: PoolState::Unavailable, message, ..old })?;
    }
    Ok(())
}

/// Takes in how the pools of a host are. One that was not registered is none.
pub(super) fn report(tx: &Tx<'_>, host_id: &str, said: &[PoolRecord]) -> Result<(), StoreError> {
    for new in said {
        let Some(old) = pool(tx.conn, &new.pool_id)?.filter(|old| old.host_id == *host_id) else {
            continue;
        };
        let (provisioned_gib, snapshot_bytes) = (old.provisioned_gib, old.snapshot_bytes);
        let host_id = host_id.to_owned();
        let new = PoolRecord { host_id, provisioned_gib, snapshot_bytes, ..new.clone() };
        if new != old {
            put(tx, &new.host_id, &new)?;
        }
    }
    Ok(())
}

/// Free space changes all the time, so none of this is in the feed.
fn put(tx: &Tx<'_>, host_id: &str, pool: &PoolRecord) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached(
            "INSERT INTO pools (pool_id, host_id, name, path, overcommit_percent, capacity_bytes,
                 available_bytes, reserve_bytes, limit_gib, provisioned_gib, snapshot_bytes, state,
                 message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0, ?10, ?11)
             ON CONFLICT (pool_id) DO UPDATE SET name = ?3, path = ?4, overcommit_percent = ?5,
                 capacity_bytes = ?6, available_bytes = ?7, reserve_bytes = ?8, limit_gib = ?9,
                 state = ?10, message = ?11",
        )?
        .execute(params![
            pool.pool_id,
            host_id,
            pool.name,
            pool.path,
            pool.overcommit_percent,
            pool.capacity_bytes as i64,
            pool.available_bytes as i64,
            pool.reserve_bytes as i64,
            pool.limit_gib as i64,
            state_number(pool.state),
            pool.message
        ])?;
    Ok(())
}

/// Claims more of a pool for disks, or gives some back. Taking never goes over its limit.
pub(super) fn claim(tx: &Tx<'_>, pool_id: &str, gib: i64) -> Result<(), StoreError> {
    if pool_id.is_empty() || gib == 0 {
        return Ok(());
    }
    let changed = tx
        .conn
        .prepare_cached(
            "UPDATE pools SET provisioned_gib = provisioned_gib + ?2
             WHERE pool_id = ?1 AND (?2 < 0
                 OR provisioned_gib + ?2 + (snapshot_bytes + ?3 - 1) / ?3 <= limit_gib)",
        )?
        .execute(params![pool_id, gib, GIB])?;
    if changed == 0 {
        return Err(StoreError::PoolFull { pool_id: pool_id.to_owned() });
    }
    Ok(())
}

/// Snapshots keep so much more, or less. What is there is there, whatever the limit.
pub(super) fn snapshots_grew(tx: &Tx<'_>, pool_id: &str, bytes: i64) -> Result<(), StoreError> {
    if bytes != 0 {
        tx.conn
            .prepare_cached(
                "UPDATE pools SET snapshot_bytes = snapshot_bytes + ?2 WHERE pool_id = ?1",
            )?
            .execute(params![pool_id, bytes])?;
    }
    Ok(())
}
