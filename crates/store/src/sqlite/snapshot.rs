//! Everything one host's spec is made from.

use super::{disk_snapshots, disks, edge, enis, hosts, images, instances, query, security_groups};
use crate::*;
use rusqlite::Connection;
use std::collections::BTreeSet;

pub(super) fn host(conn: &Connection, host_id: &str) -> Result<Option<HostSnapshot>, StoreError> {
    let Some(host) = hosts::host(conn, host_id)? else { return Ok(None) };
    let revision = query::count(conn, "SELECT value FROM counters WHERE name = 'revision'", [])?;
    let records: Vec<InstanceRecord> = query::all(
        conn,
        "SELECT * FROM instances WHERE host_id = ?1 AND releasing = 0 ORDER BY seq",
        [host_id],
    )?;
    let placed = records
        .into_iter()
        .map(|record| instances::details(conn, record))
        .collect::<Result<Vec<_>, _>>()?;

    let mut vpc_ids = BTreeSet::new();
    let mut group_ids = BTreeSet::new();
    let mut image_ids = BTreeSet::new();
    for details in &placed {
        for eni in &details.enis {
            vpc_ids.insert(eni.vpc_id.clone());
            group_ids.extend(eni.security_group_ids.iter().cloned());
        }
    }
    let disks = disks::wanted_on_host(conn, host_id)?;
    for disk in &disks {
        if !disk.image_id.is_empty() {
            image_ids.insert(disk.image_id.clone());
        }
    }
    let mut snapshots = disk_snapshots::on_host(conn, host_id)?;
    for snapshot in &snapshots {
        if !snapshot.image_id.is_empty() {
            image_ids.insert(snapshot.image_id.clone());
        }
    }
    snapshots.retain(|snapshot| !snapshot.releasing);
    let mut prefix_list_ids = BTreeSet::new();
    for group_id in group_ids.clone() {
        for rule in security_groups::rules_of(conn, &group_id)? {
            group_ids.extend(rule.peer_group_id);
            prefix_list_ids.insert(rule.prefix_list_id);
        }
    }
    let mut snapshot = HostSnapshot {
        revision,
        host,
        instances: placed,
        disks,
        snapshots,
        vpcs: Vec::new(),
        vswitches: Vec::new(),
        networks: Vec::new(),
        gateway_hosts: Vec::new(),
        prefix_lists: Vec::new(),
        remotes: Vec::new(),
        groups: security_groups::with_members(conn, group_ids)?,
        images: Vec::new(),
    };
    vpc_ids.extend(edge::vpcs_with_gateway_on(conn, host_id)?);
    let mut gateway_hosts = BTreeSet::new();
    for vpc_id in vpc_ids {
        let Some(network) = edge::network(conn, &vpc_id)? else { continue };
        gateway_hosts.extend(network.nat_gateways.iter().map(|gateway| gateway.host_id.clone()));
        snapshot.vpcs.push(network.vpc.clone());
        snapshot.vswitches.extend(network.vswitches.iter().cloned());
        snapshot.networks.push(network);
        snapshot.remotes.extend(enis::remotes(conn, &vpc_id, host_id)?);
    }
    for gateway_host in gateway_hosts {
        snapshot.gateway_hosts.extend(hosts::host(conn, &gateway_host)?);
    }
    for prefix_list_id in prefix_list_ids {
        snapshot.prefix_lists.extend(edge::prefix_list(conn, &prefix_list_id)?);
    }
    for image_id in image_ids {
        snapshot.images.extend(images::image(conn, &image_id)?);
    }
    Ok(Some(snapshot))
}
