//! The change feed, and leases.

use super::{query, writer::Tx};
use crate::*;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Most revisions of one stretch.
const STRETCH: u64 = 1000;
/// Events that are kept, of all resources together.
const KEPT_EVENTS: i64 = 100_000;

pub(super) fn changes_after(conn: &Connection, revision: u64) -> Result<Changes, StoreError> {
    let latest = query::count(conn, "SELECT value FROM counters WHERE name = 'revision'", [])?;
    let oldest = query::count(
        conn,
        "SELECT coalesce(max(value), 0) FROM counters WHERE name = 'compacted'",
        [],
    )?;
    if revision < oldest {
        return Err(StoreError::Compacted { asked: revision, oldest });
    }
    let through = latest.min(revision.saturating_add(STRETCH));
    let mut statement = conn.prepare_cached(
        "SELECT revision, kind, id, host_id FROM changes
         WHERE revision > ?1 AND revision <= ?2 ORDER BY position",
    )?;
    let rows = statement.query_map([revision as i64, through as i64], |row| {
        Ok(Change {
            revision: row.get::<_, i64>(0)? as u64,
            kind: row.get(1)?,
            id: row.get(2)?,
            host_id: row.get(3)?,
        })
    })?;
    Ok(Changes { changes: rows.collect::<Result<_, _>>()?, through })
}

pub(super) fn compact(tx: &Tx<'_>, keep: u64, tokens_before_ms: i64) -> Result<(), StoreError> {
    let latest = query::count(tx.conn, "SELECT value FROM counters WHERE name = 'revision'", [])?;
    let oldest = latest.saturating_sub(keep) as i64;
    tx.conn.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?.execute([oldest])?;
    tx.conn
        .prepare_cached(
            "INSERT INTO counters VALUES ('compacted', ?1)
             ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)",
        )?
        .execute([oldest])?;
    tx.conn
        .prepare_cached("DELETE FROM client_tokens WHERE created_ms < ?1")?
        .execute([tokens_before_ms])?;
    tx.conn
        .prepare_cached(
            "DELETE FROM events WHERE seq <= (SELECT seq FROM events ORDER BY seq DESC
                 LIMIT 1 OFFSET ?1)",
        )?
        .execute([KEPT_EVENTS])?;
    Ok(())
}

pub(super) fn acquire(
    tx: &Tx<'_>,
    name: &str,
    holder: &str,
    now_ms: i64,
    until_ms: i64,
) -> Result<Option<u64>, StoreError> {
    let epoch: Option<i64> = tx
        .conn
        .prepare_cached(
            "INSERT INTO leases (name, holder, epoch, until_ms) VALUES (?1, ?2, 1, ?4)
             ON CONFLICT (name) DO UPDATE SET
                 epoch = epoch + (holder != ?2), holder = ?2, until_ms = ?4
             WHERE holder = ?2 OR until_ms < ?3
             RETURNING epoch",
        )?
        .query_row(params![name, holder, now_ms, until_ms], |row| row.get(0))
        .optional()?;
    Ok(epoch.map(|epoch| epoch as u64))
}
