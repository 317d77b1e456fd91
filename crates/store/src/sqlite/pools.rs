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
            shared: row.get("shared")?,
            hosts: Vec::new(),
            name: row.get("name")?,
            path: row.get("path")?,
            overcommit_percent: row.get("overcommit_percent")?,
            capacity_bytes: num("capacity_bytes")?,
            available_bytes: num("available_bytes")?,
            reserve_bytes: num("reserve_bytes")?,
            limit_gib: num("limit_gib")?,
            provisioned_gib: num("provisioned_gib")?,
            snapshot_bytes: num("snapshot_bytes")?,
            state: state(row)?,
            message: row.get("message")?,
        })
    }
}

impl FromRow for PoolHost {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            host_id: row.get("host_id")?,
            path: row.get("path")?,
            state: state(row)?,
            message: row.get("message")?,
        })
    }
}

fn state(row: &Row<'_>) -> rusqlite::Result<PoolState> {
    match row.get::<_, i64>("state")? {
        1 => Ok(PoolState::Ready),
        2 => Ok(PoolState::Low),
        3 => Ok(PoolState::Unavailable),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
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

/// Hosts that name a shared pool.
fn hosts_of_shared(conn: &Connection, pool_id: &str) -> Result<Vec<PoolHost>, StoreError> {
    query::all(conn, "SELECT * FROM pool_hosts WHERE pool_id = ?1 ORDER BY host_id", [pool_id])
}

/// The host's own pools, then the shared ones as it sees them.
pub(super) fn of_host(conn: &Connection, host_id: &str) -> Result<Vec<PoolRecord>, StoreError> {
    let own = "SELECT * FROM pools WHERE host_id = ?1 AND NOT shared ORDER BY name";
    let mut pools: Vec<PoolRecord> = query::all(conn, own, [host_id])?;
    let shared: Vec<PoolRecord> = query::all(
        conn,
        "SELECT * FROM pools WHERE pool_id IN (SELECT pool_id FROM pool_hosts WHERE host_id = ?1)
         ORDER BY name",
        [host_id],
    )?;
    for pool in shared {
        let hosts = hosts_of_shared(conn, &pool.pool_id)?;
        pools.extend(hosts.into_iter().find(|host| host.host_id == host_id).map(|host| {
            let PoolHost { host_id, path, state, message } = host;
            PoolRecord { host_id, path, state, message, ..pool }
        }));
    }
    Ok(pools)
}

/// The hosts of a pool, by its id, else of all pools of that name.
pub(super) fn hosts_of(conn: &Connection, id_or_name: &str) -> Result<Vec<String>, StoreError> {
    let mut pools: Vec<PoolRecord> = pool(conn, id_or_name)?.into_iter().collect();
    if pools.is_empty() {
        pools = query::all(conn, "SELECT * FROM pools WHERE name = ?1", [id_or_name])?;
    }
    let mut hosts = Vec::new();
    for pool in pools {
        if pool.shared {
            let of_it = hosts_of_shared(conn, &pool.pool_id)?;
            hosts.extend(of_it.into_iter().map(|host| host.host_id));
        } else {
            hosts.push(pool.host_id);
        }
    }
    Ok(hosts)
}

pub(super) fn list(conn: &Connection) -> Result<Vec<(PoolRecord, u64)>, StoreError> {
    let mut pools: Vec<PoolRecord> =
        query::all(conn, "SELECT * FROM pools ORDER BY shared, host_id, name", [])?;
    for pool in pools.iter_mut().filter(|pool| pool.shared) {
        pool.hosts = hosts_of_shared(conn, &pool.pool_id)?;
        pool.host_id.clear();
        pool.path.clear();
    }
    let count = "SELECT count(*) FROM disks WHERE pool_id = ?1 AND pool_id != ''";
    pools
        .into_iter()
        .map(|pool| query::count(conn, count, [&pool.pool_id]).map(|disks| (pool, disks)))
        .collect()
}

/// The pools a host names are its pools; one it does not name any more goes if nothing lies in it.
pub(super) fn register(tx: &Tx<'_>, host_id: &str, named: &[PoolRecord]) -> Result<(), StoreError> {
    for new in named {
        let known = pool(tx.conn, &new.pool_id)?;
        let other = known.filter(|known| {
            known.shared != new.shared || (!known.shared && known.host_id != *host_id)
        });
        if let Some(known) = other {
            return Err(StoreError::AlreadyExists {
                what: format!(
                    "pool {} of host {}, which {host_id} names too: unless it is shared, a pool is \
                     one host's, so it",
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
            "SELECT EXISTS (SELECT 1 FROM disks WHERE pool_id = ?1 AND pool_id != ''
                     AND host_id = ?2)
                 OR EXISTS (SELECT 1 FROM snapshots WHERE host_id = ?2 AND pool_id = ?1)",
            params![old.pool_id, host_id],
        )?;
        if used == 0 {
            tx.conn
                .prepare_cached("DELETE FROM pool_hosts WHERE pool_id = ?1 AND host_id = ?2")?
                .execute([&old.pool_id, host_id])?;
            tx.conn
                .prepare_cached(
                    "DELETE FROM pools WHERE pool_id = ?1
                         AND NOT EXISTS (SELECT 1 FROM pool_hosts WHERE pool_id = ?1)",
                )?
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
    let known = of_host(tx.conn, host_id)?;
    for new in said {
        let same = |old: &&PoolRecord| old.pool_id == new.pool_id && old.shared == new.shared;
        let Some(old) = known.iter().find(same) else { continue };
        let (provisioned_gib, snapshot_bytes) = (old.provisioned_gib, old.snapshot_bytes);
        let host_id = host_id.to_owned();
        let new = PoolRecord { host_id, provisioned_gib, snapshot_bytes, ..new.clone() };
        if new != *old {
            put(tx, &new.host_id, &new)?;
        }
    }
    Ok(())
}

/// Free space changes all the time, so none of this is in the feed.
fn put(tx: &Tx<'_>, host_id: &str, pool: &PoolRecord) -> Result<(), StoreError> {
    put_pool(tx, host_id, pool)?;
    if pool.shared {
        tx.conn
            .prepare_cached(
                "INSERT INTO pool_hosts (pool_id, host_id, path, state, message)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (pool_id, host_id) DO UPDATE SET path = ?3, state = ?4, message = ?5",
            )?
            .execute(params![
                pool.pool_id,
                host_id,
                pool.path,
                state_number(pool.state),
                pool.message
            ])?;
    }
    Ok(())
}

/// A host that cannot reach a shared pool knows nothing new of it.
fn put_pool(tx: &Tx<'_>, host_id: &str, pool: &PoolRecord) -> Result<(), StoreError> {
    let blind = pool.shared && pool.state == PoolState::Unavailable;
    if blind && self::pool(tx.conn, &pool.pool_id)?.is_some() {
        return Ok(());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO pools (pool_id, host_id, name, path, overcommit_percent, capacity_bytes,
                 available_bytes, reserve_bytes, limit_gib, provisioned_gib, snapshot_bytes, state,
                 message, shared)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0, ?10, ?11, ?12)
             ON CONFLICT (pool_id) DO UPDATE SET name = iif(shared, name, ?3), path = ?4, overcommit_percent = ?5,
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
            pool.message,
            pool.shared
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
