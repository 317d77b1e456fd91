//! Network interfaces, their addresses and their groups.

use super::{
    addresses, edge, instances, ipv6, networks,
    query::{self, Conditions},
    security_groups,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params, types::FromSql};
use std::collections::{BTreeSet, HashMap};

fn filled(conn: &Connection, mut enis: Vec<EniRecord>) -> Result<Vec<EniRecord>, StoreError> {
    for eni in &mut enis {
        eni.security_group_ids = query::column(
            conn,
            "SELECT group_id FROM eni_groups WHERE eni_id = ?1 ORDER BY position",
            [&eni.eni_id],
        )?;
        eni.secondary_private_ips = addresses::secondary(conn, &eni.eni_id)?;
        eni.ipv6_addresses = ipv6::of_eni(conn, &eni.eni_id)?;
    }
    Ok(enis)
}

fn eni(conn: &Connection, eni_id: &str) -> Result<Option<EniRecord>, StoreError> {
    let found = query::all(conn, "SELECT * FROM enis WHERE eni_id = ?1", [eni_id])?;
    Ok(filled(conn, found)?.pop())
}

/// Those of the interfaces that exist, in the order asked.
pub(super) fn by_ids(conn: &Connection, eni_ids: &[String]) -> Result<Vec<EniRecord>, StoreError> {
    let mut enis = Vec::new();
    for eni_id in eni_ids {
        enis.extend(eni(conn, eni_id)?);
    }
    Ok(enis)
}

/// Interfaces wanted at an instance, the primary one first.
pub(super) fn of_instance(
    conn: &Connection,
    instance_id: &str,
) -> Result<Vec<EniRecord>, StoreError> {
    let found = query::all(
        conn,
        "SELECT * FROM enis WHERE instance_id = ?1 ORDER BY position",
        [instance_id],
    )?;
    filled(conn, found)
}

/// Interfaces that are wanted at an instance of a host, or still leave one. Read with every report,
/// so by a few queries for all.
pub(super) fn on_host(conn: &Connection, host_id: &str) -> Result<Vec<EniRecord>, StoreError> {
    let mut enis: Vec<EniRecord> =
        query::all(conn, "SELECT * FROM enis WHERE host_id = ?1 ORDER BY seq", [host_id])?;
    let mut groups: HashMap<String, Vec<String>> = by_eni(
        conn,
        "SELECT eni_id, group_id FROM enis JOIN eni_groups AS part USING (eni_id)
         WHERE host_id = ?1 ORDER BY part.position",
        host_id,
    )?;
    let mut more: HashMap<String, Vec<u32>> = by_eni(
        conn,
        "SELECT eni_id, address FROM enis JOIN eni_addresses AS part USING (eni_id)
         WHERE host_id = ?1 AND part.position > 0 ORDER BY part.position",
        host_id,
    )?;
    let mut ipv6: HashMap<String, Vec<[u8; 16]>> = by_eni(
        conn,
        "SELECT eni_id, address FROM enis JOIN eni_ipv6_addresses AS part USING (eni_id)
         WHERE host_id = ?1 ORDER BY part.position",
        host_id,
    )?;
    for eni in &mut enis {
        eni.security_group_ids = groups.remove(&eni.eni_id).unwrap_or_default();
        let addresses = more.remove(&eni.eni_id).unwrap_or_default();
        eni.secondary_private_ips = addresses.into_iter().map(Into::into).collect();
        let addresses = ipv6.remove(&eni.eni_id).unwrap_or_default();
        eni.ipv6_addresses = addresses.into_iter().map(Into::into).collect();
    }
    Ok(enis)
}

/// What a query gives of each interface: its first column is the interface's id.
fn by_eni<T: FromSql>(
    conn: &Connection,
    sql: &str,
    host_id: &str,
) -> Result<HashMap<String, Vec<T>>, StoreError> {
    let mut parts: HashMap<String, Vec<T>> = HashMap::new();
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([host_id])?;
    while let Some(row) = rows.next()? {
        parts.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    Ok(parts)
}

pub(super) fn view(conn: &Connection, lookup: &EnisLookup) -> Result<EnisView, StoreError> {
    let mut view = EnisView { enis: by_ids(conn, &lookup.eni_ids)?, ..Default::default() };
    let mut group_ids: BTreeSet<String> = lookup.security_group_ids.iter().cloned().collect();
    let mut instance_ids: BTreeSet<String> = lookup.instance_ids.iter().cloned().collect();
    for eni in &view.enis {
        group_ids.extend(eni.security_group_ids.iter().cloned());
        instance_ids.extend([eni.instance_id.clone(), eni.reported.instance_id.clone()]);
    }
    for instance_id in instance_ids {
        let Some(found) = instances::instance(conn, &instance_id)? else { continue };
        let details = instances::details(conn, found)?;
        if lookup.instance_ids.contains(&instance_id) {
            for eni in &details.enis {
                group_ids.extend(eni.security_group_ids.iter().cloned());
            }
        }
        view.instances.push(details);
        view.leaving.extend(filled(
            conn,
            query::all(
                conn,
                "SELECT * FROM enis WHERE instance_id = '' AND reported_instance_id = ?1",
                [&instance_id],
            )?,
        )?);
    }
    view.groups = security_groups::uses(conn, group_ids)?;
    let of_first = view.enis.first().map(|eni| eni.vswitch_id.as_str()).unwrap_or_default();
    let vswitch_id =
        if lookup.vswitch_id.is_empty() { of_first } else { lookup.vswitch_id.as_str() };
    view.vswitch = networks::room(conn, vswitch_id)?;
    if let Some(room) = &view.vswitch {
        let count = u64::from(lookup.addresses).min(room.free_addresses);
        view.offered = addresses::offer(conn, &room.vswitch, count)?;
        if room.vswitch.ipv6_cidr.is_some() {
            view.offered_ipv6 = ipv6::offer(conn, &room.vswitch, lookup.ipv6_addresses)?;
        }
    }
    Ok(view)
}

pub(super) fn apply(tx: &mut Tx<'_>, plan: &EnisPlan) -> Result<(), StoreError> {
    for eni_id in &plan.delete {
        if let Some(eni) = eni(tx.conn, eni_id)? {
            remove(tx, &eni)?;
        }
    }
    for eni in &plan.update {
        update(tx, eni)?;
    }
    for new in &plan.insert {
        insert(tx, new)?;
    }
    for instance in &plan.update_instances {
        instances::update(tx, instance)?;
    }
    Ok(())
}

/// Adds an interface with its tags, groups and addresses.
pub(super) fn insert(tx: &mut Tx<'_>, new: &NewEni) -> Result<(), StoreError> {
    let vswitch = networks::vswitch(tx.conn, &new.eni.vswitch_id)?
        .ok_or_else(|| StoreError::Backend(format!("VSwitch {} is gone", new.eni.vswitch_id)))?;
    let revision = tx.revision()?;
    let mut eni = EniRecord {
        attachment_revision: revision,
        mac: addresses::mac(tx.conn)?,
        ..new.eni.clone()
    };
    let wanted = new.address.iter().chain(&eni.secondary_private_ips);
    addresses::check_free(tx.conn, &vswitch, wanted.copied())?;
    // Those that are wanted must not be offered for the others.
    let any = new.more_addresses + u32::from(new.address.is_none());
    let taken: BTreeSet<_> =
        new.address.iter().chain(&eni.secondary_private_ips).copied().collect();
    let mut free = addresses::offer_beside(tx.conn, &vswitch, any.into(), &taken)?.into_iter();
    eni.private_ip = match new.address {
        Some(address) => address,
        None => free.next().ok_or_else(|| addresses::none_free(&vswitch))?,
    };
    eni.secondary_private_ips.extend(free);
    eni.ipv6_addresses.extend(ipv6::offer(tx.conn, &vswitch, new.more_ipv6_addresses)?);
    tx.conn
        .prepare_cached(
            "INSERT INTO enis (eni_id, revision, name, description, vpc_id, vswitch_id, zone_id, mac,
                 private_ip, is_primary, delete_on_release, source_dest_check, queues, created_ms,
                 instance_id, host_id, position, attached_ms, attachment_revision, generation,
                 reported_instance_id, reported_generation, reported_code, reported_message, status)
             VALUES (?1, ?2, '', '', ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, 0, ?9, '', '', 0, 0, 0, 0, '', 0,
                 '', '', '')",
        )?
        .execute(params![
            eni.eni_id,
            revision as i64,
            eni.vpc_id,
            eni.vswitch_id,
            eni.zone_id,
            eni.mac,
            u32::from(eni.private_ip),
            eni.primary,
            eni.created_ms
        ])?;
    addresses::take(tx, &eni, 0, eni.private_ip)?;
    for (address, position) in eni.secondary_private_ips.iter().zip(1..) {
        addresses::take(tx, &eni, position, *address)?;
    }
    ipv6::replace(tx, &eni)?;
    security_groups::insert_tags(tx, &eni.eni_id, &eni.tags)?;
    write(tx, &eni)?;
    write_groups(tx, &eni)?;
    tx.change("eni", &eni.eni_id, &eni.host_id)?;
    if eni.instance_id.is_empty() {
        return Ok(());
    }
    reach_others(tx, &eni.vpc_id, &eni.security_group_ids)
}

/// Overwrites an interface, except its tags and its primary address.
pub(super) fn update(tx: &mut Tx<'_>, new: &EniRecord) -> Result<(), StoreError> {
    let Some(old) = eni(tx.conn, &new.eni_id)? else {
        return Ok(());
    };
    let mut new = EniRecord { private_ip: old.private_ip, ..new.clone() };
    let moved = new.instance_id != old.instance_id;
    if moved {
        new.attachment_revision = tx.revision()?;
    }
    let other_ipv4 = new.secondary_private_ips != old.secondary_private_ips;
    let other_ipv6 = new.ipv6_addresses != old.ipv6_addresses;
    if other_ipv4 {
        edge::forget_addresses(tx, &old, &new.addresses().collect::<Vec<_>>())?;
        addresses::replace_secondary(tx, &old, &new)?;
    }
    if other_ipv6 {
        ipv6::replace(tx, &new)?;
    }
    let other_addresses = other_ipv4 || other_ipv6;
    let other_groups = new.security_group_ids != old.security_group_ids;
    if other_groups || other_addresses {
        write_groups(tx, &new)?;
    }
    write(tx, &new)?;
    let as_wanted = EniRecord {
        reported: old.reported.clone(),
        status: old.status.clone(),
        host_id: old.host_id.clone(),
        tags: Vec::new(),
        ..new.clone()
    };
    let kind = if as_wanted == old { "eni_status" } else { "eni" };
    let host_id = if new.host_id.is_empty() { &old.host_id } else { &new.host_id };
    tx.change(kind, &new.eni_id, host_id)?;
    let at_one = !new.instance_id.is_empty() || !old.instance_id.is_empty();
    if at_one && (moved || other_addresses || other_groups) {
        let groups = old.security_group_ids.iter().chain(&new.security_group_ids);
        return reach_others(tx, &new.vpc_id, groups);
    }
    Ok(())
}

/// Removes an interface and frees its addresses.
pub(super) fn remove(tx: &mut Tx<'_>, eni: &EniRecord) -> Result<(), StoreError> {
    edge::forget_addresses(tx, eni, &[])?;
    addresses::release_all(tx, eni)?;
    tx.conn.prepare_cached("DELETE FROM enis WHERE eni_id = ?1")?.execute([&eni.eni_id])?;
    security_groups::delete_tags(tx, &eni.eni_id)?;
    tx.change("eni", &eni.eni_id, &eni.host_id)?;
    if eni.instance_id.is_empty() {
        return Ok(());
    }
    reach_others(tx, &eni.vpc_id, &eni.security_group_ids)
}

/// What an interface at an instance has is known to every host that has something in its VPC, or
/// knows one of its groups.
pub(super) fn reach_others<'a>(
    tx: &mut Tx<'_>,
    vpc_id: &str,
    group_ids: impl IntoIterator<Item = &'a String>,
) -> Result<(), StoreError> {
    tx.change("vpc", vpc_id, "")?;
    for group_id in group_ids.into_iter().collect::<BTreeSet<_>>() {
        tx.change("security_group", group_id, "")?;
    }
    Ok(())
}

/// Writes the columns that change during an interface's life.
fn write(tx: &mut Tx<'_>, eni: &EniRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    let reported = &eni.reported;
    tx.conn
        .prepare_cached(
            "UPDATE enis SET revision = ?2, name = ?3, description = ?4, delete_on_release = ?5,
                 source_dest_check = ?6, queues = ?7, instance_id = ?8, host_id = ?9, position = ?10,
                 attached_ms = ?11, attachment_revision = ?12, generation = ?13,
                 reported_instance_id = ?14, reported_generation = ?15, reported_code = ?16,
                 reported_message = ?17, status = ?18
             WHERE eni_id = ?1",
        )?
        .execute(params![
            eni.eni_id,
            revision as i64,
            eni.name,
            eni.description,
            eni.delete_on_release,
            eni.source_dest_check,
            eni.queues,
            eni.instance_id,
            eni.host_id,
            eni.position,
            eni.attached_ms,
            eni.attachment_revision as i64,
            eni.generation as i64,
            reported.instance_id,
            reported.generation as i64,
            reported.code,
            reported.message,
            eni.status
        ])?;
    Ok(())
}

fn write_groups(tx: &Tx<'_>, eni: &EniRecord) -> Result<(), StoreError> {
    tx.conn.prepare_cached("DELETE FROM eni_groups WHERE eni_id = ?1")?.execute([&eni.eni_id])?;
    for (position, group_id) in eni.security_group_ids.iter().enumerate() {
        tx.conn
            .prepare_cached(
                "INSERT INTO eni_groups (eni_id, position, group_id, addresses)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                eni.eni_id,
                position as i64,
                group_id,
                eni.all_addresses().count() as i64
            ])?;
    }
    Ok(())
}

pub(super) fn list(
    conn: &Connection,
    filter: &EniFilter,
    page: Page,
) -> Result<Listed<EniDetails>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("eni_id", &filter.eni_ids);
    if !filter.instance_id.is_empty() {
        // One that still leaves an instance is listed with it.
        conditions.and(
            "(instance_id = ? OR (instance_id = '' AND reported_instance_id = ?))",
            [filter.instance_id.clone().into(), filter.instance_id.clone().into()],
        );
    }
    conditions.equal("vswitch_id", &filter.vswitch_id);
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.matches("name", &filter.name);
    conditions.equal("status", &filter.status);
    if let Some(primary) = filter.primary {
        conditions.and("is_primary = ?", [i64::from(primary).into()]);
    }
    if let Some(address) = filter.primary_ip {
        conditions.and("private_ip = ?", [u32::from(address).into()]);
    }
    if !filter.private_ips.is_empty() {
        let marks = vec!["?"; filter.private_ips.len()].join(",");
        conditions.and(
            format!("eni_id IN (SELECT eni_id FROM eni_addresses WHERE address IN ({marks}))"),
            filter.private_ips.iter().map(|ip| u32::from(*ip).into()),
        );
    }
    if !filter.security_group_id.is_empty() {
        conditions.and(
            "eni_id IN (SELECT eni_id FROM eni_groups WHERE group_id = ?)",
            [filter.security_group_id.clone().into()],
        );
    }
    if !filter.ipv6_addresses.is_empty() {
        let marks = vec!["?"; filter.ipv6_addresses.len()].join(",");
        conditions.and(
            format!("eni_id IN (SELECT eni_id FROM eni_ipv6_addresses WHERE address IN ({marks}))"),
            filter.ipv6_addresses.iter().map(|ip| ip.octets().to_vec().into()),
        );
    }
    conditions.tags("eni_id", &filter.tags);
    let Listed { items, total, next } = query::list(conn, "enis", conditions, page)?;
    let items = filled(conn, items)?
        .into_iter()
        .map(|mut eni| {
            eni.tags = security_groups::tags_of(conn, &eni.eni_id)?;
            Ok(EniDetails { eips: edge::eips_of(conn, std::slice::from_ref(&eni))?, eni })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total, next })
}

/// What hosts other than this one have of a VPC.
pub(super) fn remotes(
    conn: &Connection,
    vpc_id: &str,
    host_id: &str,
) -> Result<Vec<RemoteEnis>, StoreError> {
    let mut statement = conn.prepare_cached(
        "WITH elsewhere AS (SELECT underlay_ip, eni_id FROM enis
             JOIN instances USING (instance_id)
             JOIN hosts ON hosts.host_id = instances.host_id
             WHERE enis.vpc_id = ?1 AND hosts.host_id != ?2 AND releasing = 0
                 AND underlay_ip != '')
         SELECT underlay_ip, address FROM elsewhere JOIN eni_addresses USING (eni_id)
         UNION ALL
         SELECT underlay_ip, address FROM elsewhere JOIN eni_ipv6_addresses USING (eni_id)
         ORDER BY underlay_ip, address",
    )?;
    let mut rows = statement.query([vpc_id, host_id])?;
    let mut remotes: Vec<RemoteEnis> = Vec::new();
    while let Some(row) = rows.next()? {
        let underlay_ip: String = row.get(0)?;
        let ipv6::Address(address) = row.get(1)?;
        match remotes.last_mut() {
            Some(last) if last.underlay_ip == underlay_ip => last.addresses.push(address),
            _ => remotes.push(RemoteEnis {
                vpc_id: vpc_id.to_owned(),
                underlay_ip,
                addresses: vec![address],
            }),
        }
    }
    Ok(remotes)
}
