//! Snapshots of disks, and their policies.

use super::{
    images, pools,
    query::{self, Conditions},
    rows::{FromRow, data_key, key_columns},
    security_groups, trees,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, Row, params};

impl FromRow for SnapshotRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let num = |column: &str| row.get::<_, i64>(column).map(|value| value as u64);
        Ok(Self {
            snapshot_id: row.get("snapshot_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            disk_id: row.get("disk_id")?,
            disk_size_gib: num("disk_size_gib")?,
            disk_system: row.get("disk_system")?,
            category: row.get("category")?,
            image_id: row.get("image_id")?,
            data_key: data_key(row)?,
            host_id: row.get("host_id")?,
            pool_id: row.get("pool_id")?,
            tree_id: row.get("tree_id")?,
            home_epoch: num("home_epoch")?,
            automatic: row.get("automatic")?,
            point_ms: row.get("point_ms")?,
            retention_days: row.get("retention_days")?,
            expires_ms: row.get("expires_ms")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
            releasing: row.get("releasing")?,
            released_revision: num("released_revision")?,
            reported: ReportedSnapshot {
                state: row.get("reported_state")?,
                code: row.get("reported_code")?,
                message: row.get("reported_message")?,
                changed_bytes: num("changed_bytes")?,
                taken_ms: row.get("taken_ms")?,
            },
            status: row.get("status")?,
        })
    }
}

impl FromRow for PolicyRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let list = |column: &str| -> rusqlite::Result<Vec<u32>> {
            let text: String = row.get(column)?;
            Ok(text.split(',').filter_map(|number| number.parse().ok()).collect())
        };
        Ok(Self {
            policy_id: row.get("policy_id")?,
            name: row.get("name")?,
            time_points: list("time_points")?,
            weekdays: list("weekdays")?,
            retention_days: row.get("retention_days")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

fn joined(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn snapshot(
    conn: &Connection,
    snapshot_id: &str,
) -> Result<Option<SnapshotRecord>, StoreError> {
    query::first(conn, "SELECT * FROM snapshots WHERE snapshot_id = ?1", [snapshot_id])
}

pub(super) fn of_disk(conn: &Connection, disk_id: &str) -> Result<Vec<SnapshotRecord>, StoreError> {
    query::all(conn, "SELECT * FROM snapshots WHERE disk_id = ?1 ORDER BY seq", [disk_id])
}

/// Every snapshot of a host, also those it is to remove.
pub(super) fn on_host(conn: &Connection, host_id: &str) -> Result<Vec<SnapshotRecord>, StoreError> {
    query::all(conn, "SELECT * FROM snapshots WHERE host_id = ?1 ORDER BY seq", [host_id])
}

/// Adds a snapshot with its tags.
pub(super) fn insert(tx: &mut Tx<'_>, snapshot: &SnapshotRecord) -> Result<(), StoreError> {
    if snapshot.point_ms > 0 {
        let taken = query::count(
            tx.conn,
            "SELECT count(*) FROM snapshots WHERE disk_id = ?1 AND point_ms = ?2",
            params![snapshot.disk_id, snapshot.point_ms],
        )?;
        if taken > 0 {
            let what = format!("snapshot of {} for {}", snapshot.disk_id, snapshot.point_ms);
            return Err(StoreError::AlreadyExists { what });
        }
    }
    let mut snapshot = snapshot.clone();
    trees::graft(tx.conn, &mut snapshot)?;
    let snapshot = &snapshot;
    let revision = tx.revision()?;
    let (kms_key_id, data_key) = key_columns(snapshot.data_key.as_ref());
    tx.conn
        .prepare_cached(
            "INSERT INTO snapshots (snapshot_id, revision, name, description, disk_id,
                 disk_size_gib, disk_system, category, image_id, host_id, automatic, point_ms,
                 retention_days, expires_ms, created_ms, releasing, released_revision,
                 reported_state, reported_code, reported_message, changed_bytes, taken_ms, status,
                 pool_id, tree_id, home_epoch, kms_key_id, data_key)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0, 0, '', '',
                 '', 0, 0, '', ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            snapshot.snapshot_id,
            revision as i64,
            snapshot.name,
            snapshot.description,
            snapshot.disk_id,
            snapshot.disk_size_gib as i64,
            snapshot.disk_system,
            snapshot.category,
            snapshot.image_id,
            snapshot.host_id,
            snapshot.automatic,
            snapshot.point_ms,
            snapshot.retention_days,
            snapshot.expires_ms,
            snapshot.created_ms,
            snapshot.pool_id,
            snapshot.tree_id,
            snapshot.home_epoch as i64,
            kms_key_id,
            data_key
        ])?;
    pools::snapshots_grew(tx, &snapshot.pool_id, snapshot.reported.changed_bytes as i64)?;
    security_groups::insert_tags(tx, &snapshot.snapshot_id, &snapshot.tags)?;
    write(tx, snapshot)?;
    tx.change("snapshot", &snapshot.snapshot_id, &snapshot.host_id)
}

/// Writes what changes of a snapshot: that it is released, and what was reported.
pub(super) fn update(tx: &mut Tx<'_>, new: &SnapshotRecord) -> Result<(), StoreError> {
    let Some(old) = snapshot(tx.conn, &new.snapshot_id)? else {
        return Ok(());
    };
    let mut new = new.clone();
    let released = new.releasing && !old.releasing;
    if released {
        new.released_revision = tx.revision()?;
    }
    let grown = new.reported.changed_bytes as i64 - old.reported.changed_bytes as i64;
    pools::snapshots_grew(tx, &old.pool_id, grown)?;
    write(tx, &new)?;
    let kind = if released { "snapshot" } else { "snapshot_status" };
    tx.change(kind, &new.snapshot_id, &old.host_id)
}

fn write(tx: &mut Tx<'_>, snapshot: &SnapshotRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    let reported = &snapshot.reported;
    tx.conn
        .prepare_cached(
            "UPDATE snapshots SET revision = ?2, releasing = ?3, released_revision = ?4,
                 reported_state = ?5, reported_code = ?6, reported_message = ?7, changed_bytes = ?8,
                 taken_ms = ?9, status = ?10
             WHERE snapshot_id = ?1",
        )?
        .execute(params![
            snapshot.snapshot_id,
            revision as i64,
            snapshot.releasing,
            snapshot.released_revision as i64,
            reported.state,
            reported.code,
            reported.message,
            reported.changed_bytes as i64,
            reported.taken_ms,
            snapshot.status
        ])?;
    Ok(())
}

/// Removes a snapshot of which its host has nothing left.
pub(super) fn purge(tx: &mut Tx<'_>, snapshot_id: &str) -> Result<(), StoreError> {
    let Some(gone) = snapshot(tx.conn, snapshot_id)? else {
        return Ok(());
    };
    tx.conn
        .prepare_cached("DELETE FROM snapshots WHERE snapshot_id = ?1")?
        .execute([snapshot_id])?;
    pools::snapshots_grew(tx, &gone.pool_id, -(gone.reported.changed_bytes as i64))?;
    security_groups::delete_tags(tx, snapshot_id)?;
    images::drop_if_unused(tx, &gone.image_id)?;
    tx.change("snapshot", snapshot_id, &gone.host_id)
}

pub(super) fn list(
    conn: &Connection,
    filter: &SnapshotFilter,
    page: Page,
) -> Result<Listed<(SnapshotRecord, bool)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("snapshot_id", &filter.snapshot_ids);
    conditions.equal("disk_id", &filter.disk_id);
    if !filter.instance_id.is_empty() {
        conditions.and(
            "disk_id IN (SELECT disk_id FROM disks WHERE instance_id = ?)",
            [filter.instance_id.clone().into()],
        );
    }
    conditions.matches("name", &filter.name);
    conditions.equal("status", &filter.status);
    for (column, wanted) in [("automatic", filter.automatic), ("disk_system", filter.disk_system)] {
        if let Some(wanted) = wanted {
            conditions.and(format!("{column} = ?"), [i64::from(wanted).into()]);
        }
    }
    let used = "EXISTS (SELECT 1 FROM disks WHERE source_snapshot_id = snapshots.snapshot_id)";
    match filter.used {
        Some(true) => conditions.and(used, []),
        Some(false) => conditions.and(format!("NOT {used}"), []),
        None => {}
    }
    if let Some(now) = filter.expired_ms {
        conditions.and("expires_ms > 0 AND expires_ms <= ? AND releasing = 0", [now.into()]);
    }
    conditions.tags("snapshot_id", &filter.tags);
    let listed: Listed<SnapshotRecord> = query::list(conn, "snapshots", conditions, page)?;
    let mut items = Vec::with_capacity(listed.items.len());
    for mut snapshot in listed.items {
        snapshot.tags = security_groups::tags_of(conn, &snapshot.snapshot_id)?;
        let used = query::count(
            conn,
            "SELECT EXISTS (SELECT 1 FROM disks WHERE source_snapshot_id = ?1)",
            [&snapshot.snapshot_id],
        )?;
        items.push((snapshot, used > 0));
    }
    Ok(Listed { items, total: listed.total, next: listed.next })
}

pub(super) fn policy(
    conn: &Connection,
    policy_id: &str,
) -> Result<Option<PolicyRecord>, StoreError> {
    query::first(conn, "SELECT * FROM snapshot_policies WHERE policy_id = ?1", [policy_id])
}

/// Adds a policy, or overwrites it.
pub(super) fn put_policy(tx: &mut Tx<'_>, policy: &PolicyRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO snapshot_policies (policy_id, revision, name, time_points, weekdays,
                 retention_days, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (policy_id) DO UPDATE SET revision = ?2, name = ?3, time_points = ?4,
                 weekdays = ?5, retention_days = ?6",
        )?
        .execute(params![
            policy.policy_id,
            revision as i64,
            policy.name,
            joined(&policy.time_points),
            joined(&policy.weekdays),
            policy.retention_days,
            policy.created_ms
        ])?;
    tx.change("snapshot_policy", &policy.policy_id, "")
}

/// Removes a policy from all its disks and then itself. Its snapshots stay.
pub(super) fn delete_policy(tx: &mut Tx<'_>, policy_id: &str) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached("UPDATE disks SET policy_id = '' WHERE policy_id = ?1")?
        .execute([policy_id])?;
    tx.conn
        .prepare_cached("DELETE FROM snapshot_policies WHERE policy_id = ?1")?
        .execute([policy_id])?;
    tx.change("snapshot_policy", policy_id, "")
}

pub(super) fn list_policies(
    conn: &Connection,
    filter: &PolicyFilter,
    page: Page,
) -> Result<Listed<(PolicyRecord, u64)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("policy_id", &filter.policy_ids);
    conditions.matches("name", &filter.name);
    let listed: Listed<PolicyRecord> = query::list(conn, "snapshot_policies", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|policy| {
            let disks = query::count(
                conn,
                "SELECT count(*) FROM disks WHERE policy_id = ?1 AND policy_id != ''",
                [&policy.policy_id],
            )?;
            Ok((policy, disks))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
