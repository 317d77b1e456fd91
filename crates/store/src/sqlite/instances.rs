//! Instances, their disks and interfaces, and their claims on hosts.

use super::{
    claims::{Claim, claim},
    disk_snapshots, disks, edge, enis, hosts, images, key_pairs, networks,
    query::{self, Conditions},
    rows::state_number,
    security_groups,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

pub(super) fn instance(
    conn: &Connection,
    instance_id: &str,
) -> Result<Option<InstanceRecord>, StoreError> {
    let found: Option<InstanceRecord> =
        query::first(conn, "SELECT * FROM instances WHERE instance_id = ?1", [instance_id])?;
    found.map(|record| with_tags(conn, record)).transpose()
}

fn with_tags(conn: &Connection, mut record: InstanceRecord) -> Result<InstanceRecord, StoreError> {
    record.tags = security_groups::tags_of(conn, &record.instance_id)?;
    Ok(record)
}

pub(super) fn details(
    conn: &Connection,
    instance: InstanceRecord,
) -> Result<InstanceDetails, StoreError> {
    let lost: Vec<i64> = query::column(
        conn,
        "SELECT last_seen_ms FROM hosts WHERE host_id = ?1 AND lost",
        [&instance.host_id],
    )?;
    let enis = enis::of_instance(conn, &instance.instance_id)?;
    Ok(InstanceDetails {
        disks: disks::of_instance(conn, &instance.instance_id)?,
        eips: edge::eips_of(conn, &enis)?,
        enis,
        host_lost_since_ms: lost.first().copied(),
        instance: with_tags(conn, instance)?,
    })
}

pub(super) fn create_view(
    conn: &Connection,
    lookup: &CreateLookup,
) -> Result<CreateView, StoreError> {
    let mut view = CreateView {
        image: images::to_make_instances(conn, lookup)?,
        vswitches: Vec::new(),
        security_groups: Vec::new(),
        enis: enis::by_ids(conn, &lookup.eni_ids)?,
        key_pair: None,
        snapshots: Vec::new(),
        hosts: hosts::all(conn)?,
        public_addresses: BTreeSet::new(),
    };
    if lookup.public_addresses {
        view.public_addresses = edge::public_addresses(conn)?;
    }
    for vswitch_id in &lookup.vswitch_ids {
        view.vswitches.extend(networks::room(conn, vswitch_id)?);
    }
    let of_enis = view.enis.iter().flat_map(|eni| &eni.security_group_ids);
    let group_ids: BTreeSet<String> =
        lookup.security_group_ids.iter().chain(of_enis).cloned().collect();
    view.security_groups = security_groups::uses(conn, group_ids)?;
    let of_image = view.image.iter().flat_map(|image| &image.disks).skip(1);
    let of_image = of_image.map(|disk| &disk.snapshot_id).filter(|id| !id.is_empty());
    let snapshot_ids: BTreeSet<String> =
        lookup.snapshot_ids.iter().chain(of_image).cloned().collect();
    for snapshot_id in &snapshot_ids {
        view.snapshots.extend(disk_snapshots::snapshot(conn, snapshot_id)?);
    }
    if !lookup.key_pair_name.is_empty() {
        view.key_pair = key_pairs::key_pair(conn, &lookup.key_pair_name)?;
    }
    Ok(view)
}

pub(super) fn create(tx: &mut Tx<'_>, plan: &CreatePlan) -> Result<(), StoreError> {
    for new in &plan.instances {
        let instance = &new.instance;
        claim(tx, &instance.host_id, &Claim::of(instance), 1)?;
        insert(tx, instance)?;
        security_groups::insert_tags(tx, &instance.instance_id, &instance.tags)?;
        for disk in &new.disks {
            disks::insert(tx, disk)?;
        }
        for new_eni in &new.enis {
            enis::insert(tx, new_eni)?;
        }
        for eni in &new.attach {
            enis::update(tx, eni)?;
        }
        tx.change("instance", &instance.instance_id, &instance.host_id)?;
    }
    for eip in &plan.public_ips {
        edge::insert_fixed(tx, eip)?;
    }
    Ok(())
}

fn insert(tx: &mut Tx<'_>, instance: &InstanceRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO instances (instance_id, revision, name, description, host_name, image_id,
                 instance_type, vcpus, memory_mib, nic_queues, zone_id, vpc_id, vswitch_id,
                 key_pair_name, public_key, user_data, metadata_enabled, metadata_token_required,
                 deletion_protection, uuid, created_ms, host_id, claimed, power_on, generation,
                 power_generation, boot_epoch, force, stop_charging, releasing, released_revision,
                 reported_generation, reported_epoch, reported_code, reported_message, started_ms,
                 status, status_reason, internet_max_bandwidth_out, internet_charge_type)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18, ?19, ?20, ?21, ?22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', '', 0, '', '',
                 ?23, ?24)",
        )?
        .execute(params![
            instance.instance_id,
            revision as i64,
            instance.name,
            instance.description,
            instance.host_name,
            instance.image_id,
            instance.instance_type,
            instance.vcpus,
            instance.memory_mib as i64,
            instance.nic_queues,
            instance.zone_id,
            instance.vpc_id,
            instance.vswitch_id,
            instance.key_pair_name,
            instance.public_key,
            instance.user_data,
            instance.metadata_enabled,
            instance.metadata_token_required,
            instance.deletion_protection,
            instance.uuid,
            instance.created_ms,
            instance.host_id,
            instance.internet_max_bandwidth_out,
            instance.internet_charge_type,
        ])?;
    write_mutable(tx, instance)
}

/// Writes the columns that change during an instance's life.
fn write_mutable(tx: &mut Tx<'_>, instance: &InstanceRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    let reported = instance.reported.as_ref();
    tx.conn
        .prepare_cached(
            "UPDATE instances SET revision = ?2, claimed = ?3, power_on = ?4, generation = ?5,
                 power_generation = ?6, boot_epoch = ?7, force = ?8, stop_charging = ?9,
                 releasing = ?10, released_revision = ?11, reported_state = ?12,
                 reported_generation = ?13, reported_epoch = ?14, reported_code = ?15,
                 reported_message = ?16, started_ms = ?17, status = ?18, status_reason = ?19,
                 start_when_ready = ?20
             WHERE instance_id = ?1",
        )?
        .execute(params![
            instance.instance_id,
            revision as i64,
            instance.claimed,
            instance.power_on,
            instance.generation as i64,
            instance.power_generation as i64,
            instance.boot_epoch as i64,
            instance.force,
            instance.stop_charging,
            instance.releasing,
            instance.released_revision as i64,
            reported.map(|reported| state_number(reported.state)),
            reported.map_or(0, |reported| reported.generation as i64),
            reported.map_or(0, |reported| reported.boot_epoch as i64),
            reported.map_or("", |reported| reported.code.as_str()),
            reported.map_or("", |reported| reported.message.as_str()),
            reported.map_or(0, |reported| reported.started_ms),
            instance.status,
            instance.status_reason,
            instance.start_when_ready,
        ])?;
    Ok(())
}

pub(super) fn instances_view(
    conn: &Connection,
    instance_ids: &[String],
) -> Result<InstancesView, StoreError> {
    let mut view = InstancesView { instances: Vec::new(), hosts: Vec::new() };
    let mut host_ids = BTreeSet::new();
    for instance_id in instance_ids {
        if let Some(found) = instance(conn, instance_id)? {
            host_ids.insert(found.host_id.clone());
            view.instances.push(details(conn, found)?);
        }
    }
    for host_id in host_ids {
        view.hosts.extend(hosts::host(conn, &host_id)?);
    }
    Ok(view)
}

/// Overwrites an instance; claims follow `claimed`.
pub(super) fn update(tx: &mut Tx<'_>, new: &InstanceRecord) -> Result<(), StoreError> {
    let Some(old) = instance(tx.conn, &new.instance_id)? else {
        return Ok(());
    };
    match (old.claimed, new.claimed) {
        (true, false) => claim(tx, &old.host_id, &Claim::of(&old), -1)?,
        (false, true) => claim(tx, &old.host_id, &Claim::of(new), 1)?,
        _ => {}
    }
    let mut new = new.clone();
    if new.releasing && !old.releasing {
        new.released_revision = tx.revision()?;
        // From now on its addresses are nowhere.
        for eni in enis::of_instance(tx.conn, &new.instance_id)? {
            enis::reach_others(tx, &eni.vpc_id, &eni.security_group_ids)?;
        }
    }
    write_mutable(tx, &new)?;
    let described = write_attributes(tx, &old, &new)?;
    let wanted_changed =
        described || new.generation != old.generation || new.releasing != old.releasing;
    let kind = if wanted_changed { "instance" } else { "instance_status" };
    tx.change(kind, &new.instance_id, &old.host_id)
}

/// Writes what people can modify, if any of it differs: user data is too long to write each time.
fn write_attributes(
    tx: &Tx<'_>,
    old: &InstanceRecord,
    new: &InstanceRecord,
) -> Result<bool, StoreError> {
    let same = old.name == new.name
        && old.description == new.description
        && old.host_name == new.host_name
        && old.image_id == new.image_id
        && old.user_data == new.user_data
        && old.key_pair_name == new.key_pair_name
        && old.public_key == new.public_key
        && old.internet_max_bandwidth_out == new.internet_max_bandwidth_out
        && old.internet_charge_type == new.internet_charge_type
        && old.deletion_protection == new.deletion_protection;
    if same {
        return Ok(false);
    }
    tx.conn
        .prepare_cached(
            "UPDATE instances SET name = ?2, description = ?3, host_name = ?4, user_data = ?5,
                 deletion_protection = ?6, image_id = ?7, key_pair_name = ?8, public_key = ?9,
                 internet_max_bandwidth_out = ?10, internet_charge_type = ?11
             WHERE instance_id = ?1",
        )?
        .execute(params![
            new.instance_id,
            new.name,
            new.description,
            new.host_name,
            new.user_data,
            new.deletion_protection,
            new.image_id,
            new.key_pair_name,
            new.public_key,
            new.internet_max_bandwidth_out,
            new.internet_charge_type
        ])?;
    Ok(true)
}

/// Removes an instance of which nothing is left on its host, with the disks that are still its own.
pub(super) fn purge(tx: &mut Tx<'_>, instance_id: &str) -> Result<(), StoreError> {
    let Some(instance) = instance(tx.conn, instance_id)? else {
        return Ok(());
    };
    claim(tx, &instance.host_id, &Claim::of(&instance), -1)?;
    for disk in disks::of_instance(tx.conn, instance_id)? {
        disks::remove(tx, &disk)?;
    }
    for eni in enis::of_instance(tx.conn, instance_id)? {
        enis::remove(tx, &eni)?;
    }
    tx.conn
        .prepare_cached("DELETE FROM instances WHERE instance_id = ?1")?
        .execute([instance_id])?;
    security_groups::delete_tags(tx, instance_id)?;
    tx.change("instance", instance_id, &instance.host_id)
}

pub(super) fn list(
    conn: &Connection,
    filter: &InstanceFilter,
    page: Page,
) -> Result<Listed<InstanceDetails>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("instance_id", &filter.instance_ids);
    conditions.matches("name", &filter.name);
    conditions.equal("status", &filter.status);
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.equal("vswitch_id", &filter.vswitch_id);
    conditions.equal("image_id", &filter.image_id);
    conditions.equal("instance_type", &filter.instance_type);
    conditions.equal("zone_id", &filter.zone_id);
    conditions.equal("key_pair_name", &filter.key_pair_name);
    if !filter.security_group_id.is_empty() {
        conditions.and(
            "instance_id IN (SELECT instance_id FROM enis JOIN eni_groups USING (eni_id)
                 WHERE group_id = ?)",
            [filter.security_group_id.clone().into()],
        );
    }
    if !filter.private_ips.is_empty() {
        let marks = vec!["?"; filter.private_ips.len()].join(",");
        conditions.and(
            format!(
                "instance_id IN (SELECT instance_id FROM enis JOIN eni_addresses USING (eni_id)
                     WHERE address IN ({marks}))"
            ),
            filter.private_ips.iter().map(|ip| u32::from(*ip).into()),
        );
    }
    if !filter.ipv6_addresses.is_empty() {
        let marks = vec!["?"; filter.ipv6_addresses.len()].join(",");
        conditions.and(
            format!(
                "instance_id IN (SELECT instance_id FROM enis JOIN eni_ipv6_addresses USING (eni_id)
                     WHERE address IN ({marks}))"
            ),
            filter.ipv6_addresses.iter().map(|ip| ip.octets().to_vec().into()),
        );
    }
    conditions.tags("instance_id", &filter.tags);
    let listed: Listed<InstanceRecord> = query::list(conn, "instances", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|instance| details(conn, instance))
        .collect::<Result<_, _>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
