//! Disks and their claims on storage pools.

use super::{
    disk_snapshots, hosts, images, instances, key_pairs, pools,
    query::{self, Conditions},
    rows, security_groups, trees,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

fn disk(conn: &Connection, disk_id: &str) -> Result<Option<DiskRecord>, StoreError> {
    query::first(conn, "SELECT * FROM disks WHERE disk_id = ?1", [disk_id])
}

/// Disks wanted at an instance, in device order.
pub(super) fn of_instance(
    conn: &Connection,
    instance_id: &str,
) -> Result<Vec<DiskRecord>, StoreError> {
    query::all(conn, "SELECT * FROM disks WHERE instance_id = ?1 ORDER BY position", [instance_id])
}

/// Every disk of a host, also those it is to remove.
pub(super) fn on_host(conn: &Connection, host_id: &str) -> Result<Vec<DiskRecord>, StoreError> {
    query::all(conn, "SELECT * FROM disks WHERE host_id = ?1 ORDER BY seq", [host_id])
}

/// The disks of a host's spec.
pub(super) fn wanted_on_host(
    conn: &Connection,
    host_id: &str,
) -> Result<Vec<DiskRecord>, StoreError> {
    query::all(
        conn,
        "SELECT disks.* FROM disks LEFT JOIN instances USING (instance_id)
         WHERE disks.host_id = ?1 AND disks.releasing = 0
             AND NOT (disks.delete_with_instance AND coalesce(instances.releasing, 0))
         ORDER BY disks.seq",
        [host_id],
    )
}

pub(super) fn view(conn: &Connection, lookup: &DisksLookup) -> Result<DisksView, StoreError> {
    let mut view = DisksView::default();
    let mut instance_ids: BTreeSet<String> = lookup.instance_ids.iter().cloned().collect();
    let mut host_ids = BTreeSet::new();
    for disk_id in &lookup.disk_ids {
        if let Some(found) = disk(conn, disk_id)? {
            instance_ids.insert(found.instance_id.clone());
            host_ids.insert(found.host_id.clone());
            view.disks.push(found);
        }
    }
    let mut snapshot_ids: BTreeSet<String> = lookup.snapshot_ids.iter().cloned().collect();
    for disk in &view.disks {
        snapshot_ids.insert(disk.source_snapshot_id.clone());
        view.snapshots.extend(disk_snapshots::of_disk(conn, &disk.disk_id)?);
    }
    for snapshot_id in snapshot_ids {
        if view.snapshots.iter().any(|known| known.snapshot_id == snapshot_id) {
            continue;
        }
        if let Some(found) = disk_snapshots::snapshot(conn, &snapshot_id)? {
            host_ids.insert(found.host_id.clone());
            view.snapshots.push(found);
        }
    }
    let mut tree_ids: BTreeSet<&String> = view.disks.iter().map(|disk| &disk.tree_id).collect();
    tree_ids.extend(view.snapshots.iter().map(|snapshot| &snapshot.tree_id));
    for tree_id in tree_ids.into_iter().filter(|id| !id.is_empty()) {
        view.mates.extend(trees::disks_of(conn, tree_id)?);
    }
    for snapshot_id in &lookup.snapshot_ids {
        view.from_snapshots.extend(query::all(
            conn,
            "SELECT * FROM disks WHERE source_snapshot_id = ?1 OR content_snapshot_id = ?1",
            [snapshot_id],
        )?);
    }
    if !lookup.image_id.is_empty() {
        view.image = images::image(conn, &lookup.image_id)?;
    }
    view.made_images = images::made_from(conn, &lookup.snapshot_ids)?;
    if !lookup.key_pair_name.is_empty() {
        view.key_pair = key_pairs::key_pair(conn, &lookup.key_pair_name)?;
    }
    if !lookup.policy_id.is_empty() {
        view.policy = disk_snapshots::policy(conn, &lookup.policy_id)?;
    }
    if !lookup.pool_id.is_empty() {
        host_ids.extend(pools::hosts_of(conn, &lookup.pool_id)?);
    }
    for instance_id in instance_ids {
        if let Some(found) = instances::instance(conn, &instance_id)? {
            host_ids.insert(found.host_id.clone());
            let details = instances::details(conn, found)?;
            if lookup.instance_ids.contains(&instance_id) {
                for disk in &details.disks {
                    if !lookup.disk_ids.contains(&disk.disk_id) {
                        view.snapshots.extend(disk_snapshots::of_disk(conn, &disk.disk_id)?);
                    }
                }
            }
            view.instances.push(details);
            view.leaving.extend(query::all(
                conn,
                "SELECT * FROM disks WHERE instance_id = '' AND reported_instance_id = ?1",
                [&instance_id],
            )?);
        }
    }
    for host_id in host_ids {
        view.hosts.extend(hosts::host(conn, &host_id)?);
    }
    if lookup.images_below {
        let of_snapshots = view.snapshots.iter().map(|snapshot| &snapshot.image_id);
        let disks = view.instances.iter().flat_map(|details| &details.disks);
        let image_ids: BTreeSet<&String> =
            of_snapshots.chain(disks.map(|disk| &disk.image_id)).collect();
        for image_id in image_ids {
            view.images_below.extend(images::image(conn, image_id)?);
        }
    }
    Ok(view)
}

pub(super) fn apply(tx: &mut Tx<'_>, plan: &DisksPlan) -> Result<(), StoreError> {
    // Updates first: a new disk may take the place of one that goes.
    for disk in &plan.update {
        update(tx, disk)?;
    }
    for disk in &plan.insert {
        insert(tx, disk)?;
    }
    for snapshot in &plan.update_snapshots {
        disk_snapshots::update(tx, snapshot)?;
    }
    for snapshot in &plan.insert_snapshots {
        disk_snapshots::insert(tx, snapshot)?;
    }
    for image in &plan.insert_images {
        images::begin(tx, image)?;
    }
    for image in &plan.update_images {
        images::describe(tx, image)?;
    }
    for instance in &plan.update_instances {
        instances::update(tx, instance)?;
    }
    Ok(())
}

/// Adds a disk with its tags; one that is in a pool claims its size there.
pub(super) fn insert(tx: &mut Tx<'_>, disk: &DiskRecord) -> Result<(), StoreError> {
    pools::claim(tx, &disk.pool_id, disk.size_gib as i64)?;
    let revision = tx.revision()?;
    let (kms_key_id, data_key) = rows::key_columns(disk.data_key.as_ref());
    tx.conn
        .prepare_cached(
            "INSERT INTO disks (disk_id, revision, name, description, category, performance_level,
                 size_gib, iops, bytes_per_second, zone_id, image_id, source_snapshot_id, system,
                 delete_with_instance, created_ms, host_id, instance_id, position, attached_ms,
                 attachment_revision, generation, reported_state, reported_message, status,
                 kms_key_id, data_key)
             VALUES (?1, ?2, '', '', '', '', 0, 0, 0, ?3, ?4, ?5, ?6, 0, ?7, '', '', 0, 0, ?2, 0,
                 '', '', '', ?8, ?9)",
        )?
        .execute(params![
            disk.disk_id,
            revision as i64,
            disk.zone_id,
            disk.image_id,
            disk.source_snapshot_id,
            disk.system,
            disk.created_ms,
            kms_key_id,
            data_key
        ])?;
    security_groups::insert_tags(tx, &disk.disk_id, &disk.tags)?;
    let mut disk = DiskRecord { attachment_revision: revision, ..disk.clone() };
    trees::plant(tx.conn, &mut disk)?;
    // Those it has layers in common with go where it is made.
    trees::transplant(tx, &disk.tree_id, &disk.host_id)?;
    if let Some(home) = trees::home(tx.conn, &disk.tree_id)? {
        disk.home_epoch = home.epoch;
    }
    write(tx, &disk)?;
    tx.change("disk", &disk.disk_id, &disk.host_id)
}

/// Overwrites a disk, except its tags; claims follow `pool_id` and `size_gib`. One that is released
/// and on no host goes at once.
pub(super) fn update(tx: &mut Tx<'_>, new: &DiskRecord) -> Result<(), StoreError> {
    let Some(old) = disk(tx.conn, &new.disk_id)? else {
        return Ok(());
    };
    if new.releasing && new.host_id.is_empty() {
        return remove(tx, &old);
    }
    if old.pool_id == new.pool_id {
        pools::claim(tx, &new.pool_id, new.size_gib as i64 - old.size_gib as i64)?;
    } else {
        pools::claim(tx, &old.pool_id, -(old.size_gib as i64))?;
        pools::claim(tx, &new.pool_id, new.size_gib as i64)?;
    }
    let mut new = new.clone();
    if new.instance_id != old.instance_id {
        new.attachment_revision = tx.revision()?;
    }
    if new.releasing && !old.releasing {
        new.released_revision = tx.revision()?;
    }
    if new.tree_id.is_empty() {
        trees::plant(tx.conn, &mut new)?;
    }
    if !new.tree_id.is_empty() && !old.tree_id.is_empty() && new.host_id != old.host_id {
        trees::transplant(tx, &new.tree_id, &new.host_id)?;
        if let Some(home) = trees::home(tx.conn, &new.tree_id)? {
            new.home_epoch = home.epoch;
        }
    }
    write(tx, &new)?;
    let as_wanted = DiskRecord {
        reported: old.reported.clone(),
        status: old.status.clone(),
        tags: Vec::new(),
        ..new.clone()
    };
    let kind = if as_wanted == old { "disk_status" } else { "disk" };
    tx.change(kind, &new.disk_id, &new.host_id)
}

/// Writes the columns that change during a disk's life.
fn write(tx: &mut Tx<'_>, disk: &DiskRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    let reported = &disk.reported;
    tx.conn
        .prepare_cached(
            "UPDATE disks SET revision = ?2, name = ?3, description = ?4, category = ?5,
                 performance_level = ?6, size_gib = ?7, iops = ?8, bytes_per_second = ?9,
                 delete_with_instance = ?10, delete_auto_snapshot = ?11, host_id = ?12,
                 instance_id = ?13, position = ?14, attached_ms = ?15, detached_ms = ?16,
                 attachment_revision = ?17, generation = ?18, content_epoch = ?19,
                 content_snapshot_id = ?20, releasing = ?21, released_revision = ?22,
                 reported_state = ?23, reported_code = ?24, reported_message = ?25,
                 reported_generation = ?26, reported_instance_id = ?27, reported_size_bytes = ?28,
                 reported_epoch = ?29, status = ?30,
                 policy_id = ?31, policy_point_ms = ?32, pool_id = ?33,
                 provisioned_iops = ?34, bursting_enabled = ?35, tree_id = ?36, home_epoch = ?37
             WHERE disk_id = ?1",
        )?
        .execute(params![
            disk.disk_id,
            revision as i64,
            disk.name,
            disk.description,
            disk.category,
            disk.performance_level,
            disk.size_gib as i64,
            disk.iops as i64,
            disk.bytes_per_second as i64,
            disk.delete_with_instance,
            disk.delete_auto_snapshot,
            disk.host_id,
            disk.instance_id,
            disk.position,
            disk.attached_ms,
            disk.detached_ms,
            disk.attachment_revision as i64,
            disk.generation as i64,
            disk.content_epoch as i64,
            disk.content_snapshot_id,
            disk.releasing,
            disk.released_revision as i64,
            reported.state,
            reported.code,
            reported.message,
            reported.generation as i64,
            reported.instance_id,
            reported.size_bytes as i64,
            reported.content_epoch as i64,
            disk.status,
            disk.policy_id,
            disk.policy_point_ms,
            disk.pool_id,
            disk.provisioned_iops as i64,
            disk.bursting_enabled,
            disk.tree_id,
            disk.home_epoch as i64
        ])?;
    Ok(())
}

/// Removes a disk of which its host has nothing left.
pub(super) fn purge(tx: &mut Tx<'_>, disk_id: &str) -> Result<(), StoreError> {
    match disk(tx.conn, disk_id)? {
        Some(disk) => remove(tx, &disk),
        None => Ok(()),
    }
}

pub(super) fn remove(tx: &mut Tx<'_>, disk: &DiskRecord) -> Result<(), StoreError> {
    pools::claim(tx, &disk.pool_id, -(disk.size_gib as i64))?;
    tx.conn.prepare_cached("DELETE FROM disks WHERE disk_id = ?1")?.execute([&disk.disk_id])?;
    security_groups::delete_tags(tx, &disk.disk_id)?;
    images::drop_if_unused(tx, &disk.image_id)?;
    tx.change("disk", &disk.disk_id, &disk.host_id)
}

pub(super) fn list(
    conn: &Connection,
    filter: &DiskFilter,
    page: Page,
) -> Result<Listed<DiskRecord>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("disk_id", &filter.disk_ids);
    if !filter.instance_id.is_empty() {
        // One that still leaves an instance is listed with it.
        conditions.and(
            "(instance_id = ? OR (instance_id = '' AND reported_instance_id = ?))",
            [filter.instance_id.clone().into(), filter.instance_id.clone().into()],
        );
    }
    conditions.matches("name", &filter.name);
    conditions.equal("category", &filter.category);
    conditions.equal("performance_level", &filter.performance_level);
    conditions.equal("status", &filter.status);
    conditions.equal("zone_id", &filter.zone_id);
    conditions.equal("source_snapshot_id", &filter.source_snapshot_id);
    for (column, wanted) in [
        ("system", filter.system),
        ("delete_with_instance", filter.delete_with_instance),
        ("delete_auto_snapshot", filter.delete_auto_snapshot),
    ] {
        if let Some(wanted) = wanted {
            conditions.and(format!("{column} = ?"), [i64::from(wanted).into()]);
        }
    }
    conditions.equal("kms_key_id", &filter.kms_key_id);
    if let Some(encrypted) = filter.encrypted {
        conditions.and("(kms_key_id != '') = ?", [i64::from(encrypted).into()]);
    }
    conditions.equal("policy_id", &filter.policy_id);
    conditions.equal("pool_id", &filter.pool_id);
    conditions.tags("disk_id", &filter.tags);
    let mut listed: Listed<DiskRecord> = query::list(conn, "disks", conditions, page)?;
    for disk in &mut listed.items {
        disk.tags = security_groups::tags_of(conn, &disk.disk_id)?;
    }
    Ok(listed)
}
