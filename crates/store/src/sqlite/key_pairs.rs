//! Key pairs.

use super::{
    query::{self, Conditions},
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};

pub(super) fn key_pair(conn: &Connection, name: &str) -> Result<Option<KeyPairRecord>, StoreError> {
    query::first(conn, "SELECT * FROM key_pairs WHERE name = ?1", [name])
}

pub(super) fn insert(tx: &mut Tx<'_>, key_pair: &KeyPairRecord) -> Result<(), StoreError> {
    if self::key_pair(tx.conn, &key_pair.name)?.is_some() {
        return Err(StoreError::AlreadyExists { what: format!("key pair {}", key_pair.name) });
    }
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO key_pairs (key_pair_id, revision, name, fingerprint, public_key,
                 created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            key_pair.key_pair_id,
            revision as i64,
            key_pair.name,
            key_pair.fingerprint,
            key_pair.public_key,
            key_pair.created_ms
        ])?;
    tx.change("key_pair", &key_pair.key_pair_id, "")
}

pub(super) fn delete(tx: &mut Tx<'_>, names: &[String]) -> Result<(), StoreError> {
    for name in names {
        if let Some(found) = key_pair(tx.conn, name)? {
            tx.conn.prepare_cached("DELETE FROM key_pairs WHERE name = ?1")?.execute([name])?;
            tx.change("key_pair", &found.key_pair_id, "")?;
        }
    }
    Ok(())
}

pub(super) fn list(
    conn: &Connection,
    filter: &KeyPairFilter,
    page: Page,
) -> Result<Listed<KeyPairRecord>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.matches("name", &filter.name);
    conditions.equal("fingerprint", &filter.fingerprint);
    query::list(conn, "key_pairs", conditions, page)
}
