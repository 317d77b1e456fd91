//! Hosts, their leases, reports and events.

use super::{
    disk_snapshots, disks, enis, instances, pools,
    query::{self, Conditions},
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};

/// Events that are kept of one resource.
const KEPT_OF_RESOURCE: i64 = 1000;

pub(super) fn all(conn: &Connection) -> Result<Vec<HostRecord>, StoreError> {
    let mut hosts: Vec<HostRecord> = query::all(conn, "SELECT * FROM hosts ORDER BY host_id", [])?;
    for host in &mut hosts {
        host.pools = pools::of_host(conn, &host.host_id)?;
    }
    Ok(hosts)
}

pub(super) fn host(conn: &Connection, host_id: &str) -> Result<Option<HostRecord>, StoreError> {
    let host: Option<HostRecord> =
        query::first(conn, "SELECT * FROM hosts WHERE host_id = ?1", [host_id])?;
    host.map(|host| Ok(HostRecord { pools: pools::of_host(conn, host_id)?, ..host })).transpose()
}

fn current(conn: &Connection, host_id: &str, session: u64) -> Result<HostRecord, StoreError> {
    host(conn, host_id)?
        .filter(|host| host.session == session)
        .ok_or_else(|| StoreError::StaleSession { host_id: host_id.to_owned(), session })
}

pub(super) fn register(
    tx: &mut Tx<'_>,
    registration: &HostRegistration,
) -> Result<u64, StoreError> {
    let host = &registration.host;
    let revision = tx.revision()?;
    let before: Vec<String> = query::column(
        tx.conn,
        "SELECT underlay_ip FROM hosts WHERE host_id = ?1",
        [&host.host_id],
    )?;
    let session: i64 = tx
        .conn
        .prepare_cached(
            "INSERT INTO hosts (host_id, revision, hostname, zone_id, access_endpoint, vcpus,
                 vcpu_limit, memory_mib, vcpus_used, memory_mib_used, kvm, version, session,
                 lease_until_ms, lost, last_seen_ms, observed_revision, underlay_ip)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10, 1, ?11, 0, ?12, 0, ?13)
             ON CONFLICT (host_id) DO UPDATE SET revision = ?2, hostname = ?3, zone_id = ?4,
                 access_endpoint = ?5, vcpus = ?6, vcpu_limit = ?7, memory_mib = ?8, kvm = ?9,
                 version = ?10, session = session + 1, lease_until_ms = ?11, lost = 0,
                 last_seen_ms = ?12, underlay_ip = ?13
             RETURNING session",
        )?
        .query_row(
            params![
                host.host_id,
                revision as i64,
                host.hostname,
                host.zone_id,
                host.access_endpoint,
                host.vcpus,
                host.vcpu_limit,
                host.memory_mib as i64,
                host.kvm,
                host.version,
                registration.lease_until_ms,
                registration.now_ms,
                host.underlay_ip
            ],
            |row| row.get(0),
        )?;
    pools::register(tx, &host.host_id, &host.pools)?;
    tx.change("host", &host.host_id, &host.host_id)?;
    if before.first() != Some(&host.underlay_ip) {
        let vpc_ids: Vec<String> = query::column(
            tx.conn,
            "SELECT DISTINCT vpc_id FROM enis WHERE host_id = ?1 AND instance_id != ''",
            [&host.host_id],
        )?;
        for vpc_id in vpc_ids {
            tx.change("vpc", &vpc_id, "")?;
        }
    }
    Ok(session as u64)
}

pub(super) fn renew(
    tx: &mut Tx<'_>,
    host_id: &str,
    session: u64,
    now_ms: i64,
    lease_until_ms: i64,
) -> Result<(), StoreError> {
    let host = current(tx.conn, host_id, session)?;
    if host.lost {
        // Only this is news to anyone; renewals alone stay out of the feed.
        tx.change("host", host_id, host_id)?;
    }
    tx.conn
        .prepare_cached(
            "UPDATE hosts SET lease_until_ms = max(lease_until_ms, ?2), last_seen_ms = ?3, lost = 0
             WHERE host_id = ?1",
        )?
        .execute(params![host_id, lease_until_ms, now_ms])?;
    Ok(())
}

pub(super) fn extend_leases(tx: &Tx<'_>, lease_until_ms: i64) -> Result<(), StoreError> {
    tx.conn
        .prepare_cached(
            "UPDATE hosts SET lease_until_ms = ?1 WHERE lost = 0 AND lease_until_ms < ?1",
        )?
        .execute([lease_until_ms])?;
    Ok(())
}

pub(super) fn expire(tx: &mut Tx<'_>, now_ms: i64) -> Result<Vec<String>, StoreError> {
    let ids: Vec<String> = query::column(
        tx.conn,
        "SELECT host_id FROM hosts WHERE lost = 0 AND lease_until_ms < ?1",
        [now_ms],
    )?;
    for host_id in &ids {
        tx.conn
            .prepare_cached("UPDATE hosts SET lost = 1 WHERE host_id = ?1")?
            .execute([host_id])?;
        tx.change("host", host_id, host_id)?;
    }
    Ok(ids)
}

pub(super) fn report(tx: &mut Tx<'_>, report: &HostReport) -> Result<u64, StoreError> {
    let host = current(tx.conn, &report.host_id, report.session)?;
    renew(tx, &report.host_id, report.session, report.now_ms, report.lease_until_ms)?;
    pools::report(tx, &report.host_id, &report.pools)?;
    let view = HostView {
        instances: query::all(
            tx.conn,
            "SELECT * FROM instances WHERE host_id = ?1 ORDER BY seq",
            [&report.host_id],
        )?,
        disks: disks::on_host(tx.conn, &report.host_id)?,
        snapshots: disk_snapshots::on_host(tx.conn, &report.host_id)?,
        enis: enis::on_host(tx.conn, &report.host_id)?,
        host,
    };
    let plan = (report.decide)(&view)?;
    for instance in &plan.update {
        instances::update(tx, instance)?;
    }
    for disk in &plan.update_disks {
        disks::update(tx, disk)?;
    }
    for eni in &plan.update_enis {
        enis::update(tx, eni)?;
    }
    for snapshot in &plan.update_snapshots {
        disk_snapshots::update(tx, snapshot)?;
    }
    for snapshot_id in &plan.purge_snapshots {
        disk_snapshots::purge(tx, snapshot_id)?;
    }
    for disk_id in &plan.purge_disks {
        disks::purge(tx, disk_id)?;
    }
    for instance_id in &plan.purge {
        instances::purge(tx, instance_id)?;
    }
    if report.observed_revision > view.host.observed_revision {
        tx.conn
            .prepare_cached("UPDATE hosts SET observed_revision = ?2 WHERE host_id = ?1")?
            .execute(params![report.host_id, report.observed_revision as i64])?;
    }
    for event in &report.events {
        insert_event(tx, event)?;
    }
    let stored: Option<i64> = tx
        .conn
        .prepare_cached("SELECT max(sequence) FROM events WHERE host_id = ?1")?
        .query_row([&report.host_id], |row| row.get(0))?;
    Ok(stored.unwrap_or(0) as u64)
}

fn insert_event(tx: &mut Tx<'_>, event: &EventRecord) -> Result<(), StoreError> {
    let known = query::count(
        tx.conn,
        "SELECT count(*) FROM events WHERE host_id = ?1 AND sequence = ?2",
        params![event.host_id, event.sequence as i64],
    )?;
    if known > 0 {
        return Ok(());
    }
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO events (event_id, revision, host_id, sequence, resource_id, event_type,
                 message, occurred_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            event.event_id,
            revision as i64,
            event.host_id,
            event.sequence as i64,
            event.resource_id,
            event.event_type,
            event.message,
            event.occurred_ms
        ])?;
    tx.conn
        .prepare_cached(
            "DELETE FROM events WHERE resource_id = ?1 AND seq <= (SELECT seq FROM events
                 WHERE resource_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![event.resource_id, KEPT_OF_RESOURCE])?;
    tx.change("event", &event.event_id, "")
}

pub(super) fn list(conn: &Connection) -> Result<Vec<(HostRecord, u64)>, StoreError> {
    all(conn)?
        .into_iter()
        .map(|host| {
            let instances = query::count(
                conn,
                "SELECT count(*) FROM instances WHERE host_id = ?1",
                [&host.host_id],
            )?;
            Ok((host, instances))
        })
        .collect()
}

pub(super) fn list_events(
    conn: &Connection,
    filter: &EventFilter,
    page: Page,
) -> Result<Listed<EventRecord>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.equal("resource_id", &filter.resource_id);
    conditions.one_of("event_type", &filter.event_types);
    query::list(conn, "events", conditions, page)
}
