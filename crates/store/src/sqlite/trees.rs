//! Disks and snapshots of shared pools. Those that have layers in common are a tree, which is one
//! host's at a time: where one of it goes, all go.

use super::{query, writer::Tx};
use crate::*;
use rusqlite::{Connection, params};

/// Where a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub tree_id: String,
    pub host_id: String,
    pub epoch: u64,
}

/// The home of a tree, if it has any member yet.
pub(super) fn home(conn: &Connection, tree_id: &str) -> Result<Option<Home>, StoreError> {
    let mut found = conn.prepare_cached(
        "SELECT host_id, home_epoch FROM disks WHERE tree_id = ?1 AND tree_id != ''
         UNION SELECT host_id, home_epoch FROM snapshots WHERE tree_id = ?1 AND tree_id != ''
         ORDER BY home_epoch DESC LIMIT 1",
    )?;
    let mut rows = found.query([tree_id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let epoch: i64 = row.get(1)?;
    Ok(Some(Home { tree_id: tree_id.to_owned(), host_id: row.get(0)?, epoch: epoch as u64 }))
}

fn is_shared(conn: &Connection, pool_id: &str) -> Result<bool, StoreError> {
    let found = "SELECT count(*) FROM pools WHERE pool_id = ?1 AND shared";
    Ok(query::count(conn, found, [pool_id])? > 0)
}

/// Gives a disk its tree when it has got a place in a shared pool: that of the snapshot it is made
/// from, or one of its own.
pub(super) fn plant(conn: &Connection, disk: &mut DiskRecord) -> Result<(), StoreError> {
    if !disk.tree_id.is_empty() || disk.host_id.is_empty() || !is_shared(conn, &disk.pool_id)? {
        return Ok(());
    }
    let of_snapshot: Vec<String> = query::column(
        conn,
        "SELECT tree_id FROM snapshots WHERE snapshot_id = ?1",
        [&disk.content_snapshot_id],
    )?;
    let tree_id = of_snapshot.into_iter().next().filter(|id| !id.is_empty());
    disk.tree_id = tree_id.unwrap_or_else(|| disk.disk_id.clone());
    disk.home_epoch = home(conn, &disk.tree_id)?.map_or(1, |home| home.epoch);
    Ok(())
}

/// A snapshot is in its disk's tree, and where that is.
pub(super) fn graft(conn: &Connection, snapshot: &mut SnapshotRecord) -> Result<(), StoreError> {
    let of_disk: Vec<String> =
        query::column(conn, "SELECT tree_id FROM disks WHERE disk_id = ?1", [&snapshot.disk_id])?;
    let Some(tree_id) = of_disk.into_iter().next() else { return Ok(()) };
    if let Some(home) = home(conn, &tree_id)? {
        (snapshot.tree_id, snapshot.host_id) = (home.tree_id, home.host_id);
        snapshot.home_epoch = home.epoch;
    }
    Ok(())
}

/// Gives a tree another host. Both hosts get new specs.
pub(super) fn transplant(tx: &mut Tx<'_>, tree_id: &str, to: &str) -> Result<(), StoreError> {
    let Some(old) = home(tx.conn, tree_id)?.filter(|home| home.host_id != to) else {
        return Ok(());
    };
    let revision = tx.revision()? as i64;
    let epoch = old.epoch as i64 + 1;
    let members: [(&str, &str); 2] = [("disk", "disks"), ("snapshot", "snapshots")];
    for (kind, table) in members {
        let ids: Vec<String> = query::column(
            tx.conn,
            &format!("SELECT {kind}_id FROM {table} WHERE tree_id = ?1"),
            [tree_id],
        )?;
        tx.conn
            .prepare_cached(&format!(
                // What is to go is to be seen to by the new host.
                "UPDATE {table} SET host_id = ?2, home_epoch = ?3, revision = ?4,
                     released_revision = iif(releasing, ?4, released_revision)
                 WHERE tree_id = ?1"
            ))?
            .execute(params![tree_id, to, epoch, revision])?;
        for id in ids {
            tx.change(kind, &id, &old.host_id)?;
            tx.change(kind, &id, to)?;
        }
    }
    Ok(())
}

/// What is to go and whose host is lost goes to another host of its pool, unless an instance is to
/// have a disk of the tree.
pub(super) fn rescue(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let stuck: Vec<String> = query::column(
        tx.conn,
        "SELECT DISTINCT tree_id FROM (
             SELECT tree_id, host_id FROM disks WHERE tree_id != '' AND releasing
             UNION SELECT tree_id, host_id FROM snapshots WHERE tree_id != '' AND releasing) AS going
         JOIN hosts USING (host_id)
         WHERE hosts.lost AND NOT EXISTS (SELECT 1 FROM disks
             WHERE disks.tree_id = going.tree_id AND disks.instance_id != '')",
        [],
    )?;
    for tree_id in stuck {
        let to: Vec<String> = query::column(
            tx.conn,
            "SELECT pool_hosts.host_id FROM pool_hosts JOIN hosts USING (host_id)
             WHERE pool_id IN (SELECT pool_id FROM disks WHERE tree_id = ?1
                     UNION SELECT pool_id FROM snapshots WHERE tree_id = ?1)
                 AND NOT hosts.lost AND pool_hosts.state != 3
             ORDER BY pool_hosts.host_id LIMIT 1",
            [&tree_id],
        )?;
        if let Some(to) = to.first() {
            transplant(tx, &tree_id, to)?;
        }
    }
    Ok(())
}

/// Disks and snapshots of shared pools that a host is to remove.
pub(super) fn removals(conn: &Connection, host_id: &str) -> Result<Vec<Removal>, StoreError> {
    let mut found = conn.prepare_cached(
        "SELECT disks.disk_id, disks.pool_id, disks.tree_id, disks.home_epoch, 0
         FROM disks LEFT JOIN instances USING (instance_id)
         WHERE disks.host_id = ?1 AND disks.tree_id != ''
             AND (disks.releasing OR (disks.delete_with_instance AND coalesce(instances.releasing, 0)))
         UNION ALL SELECT snapshot_id, pool_id, tree_id, home_epoch, 1 FROM snapshots
         WHERE host_id = ?1 AND tree_id != '' AND releasing",
    )?;
    let rows = found.query_map([host_id], |row| {
        Ok(Removal {
            resource_id: row.get(0)?,
            pool_id: row.get(1)?,
            tree_id: row.get(2)?,
            home_epoch: row.get::<_, i64>(3)? as u64,
            snapshot: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The disks of a tree.
pub(super) fn disks_of(conn: &Connection, tree_id: &str) -> Result<Vec<DiskRecord>, StoreError> {
    let of_tree = "SELECT * FROM disks WHERE tree_id = ?1 AND tree_id != '' ORDER BY seq";
    query::all(conn, of_tree, [tree_id])
}
