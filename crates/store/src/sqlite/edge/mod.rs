//! Route tables, EIPs, NAT gateways and prefix lists: what a transaction sees of them.

mod lists;
mod rows;
mod write;

pub(super) use lists::{eips, nat_gateways, prefix_lists, route_tables};
pub(super) use write::{apply, forget_addresses, insert_fixed, write_route_table};

use super::{enis, hosts, instances, ipv6, networks, query, rows::FromRow, security_groups};
use crate::*;
use rows::{EIPS, NAT_GATEWAYS, ROUTE_ENTRIES};
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Where an id can be that is of a VPC: a query for the VPC's id for each kind.
const VPC_OF: &[&str] = &[
    "SELECT vpc_id FROM vpcs WHERE vpc_id = ?1",
    "SELECT vpc_id FROM vswitches WHERE vswitch_id = ?1",
    "SELECT vpc_id FROM route_tables WHERE route_table_id = ?1",
    "SELECT vpc_id FROM route_tables JOIN route_entries USING (route_table_id)
     WHERE route_entry_id = ?1",
    "SELECT vpc_id FROM nat_gateways
     WHERE nat_gateway_id = ?1 OR snat_table_id = ?1 OR forward_table_id = ?1",
    "SELECT vpc_id FROM nat_gateways JOIN snat_entries USING (nat_gateway_id)
     WHERE snat_entry_id = ?1",
    "SELECT vpc_id FROM nat_gateways JOIN forward_entries USING (nat_gateway_id)
     WHERE forward_entry_id = ?1",
    "SELECT vpc_id FROM enis WHERE eni_id = ?1 OR instance_id = ?1",
    "SELECT vpc_id FROM eips WHERE allocation_id = ?1 AND vpc_id != ''",
];

pub(super) fn view(conn: &Connection, lookup: &EdgeLookup) -> Result<EdgeView, StoreError> {
    let mut view = EdgeView::default();
    let mut vpc_ids = BTreeSet::new();
    let mut eni_ids = BTreeSet::new();
    let ids: BTreeSet<&String> = lookup.ids.iter().collect();
    for id in ids {
        for sql in VPC_OF {
            vpc_ids.extend(query::column::<String>(conn, sql, [id])?);
        }
        let sql = "SELECT eni_id FROM enis WHERE eni_id = ?1 OR instance_id = ?1 ORDER BY seq";
        eni_ids.extend(query::column::<String>(conn, sql, [id])?);
        view.instances.extend(instances::instance(conn, id)?);
        view.eips.extend(eip(conn, id)?);
        if let Some(list) = prefix_list(conn, id)? {
            let groups = named_by(conn, id)?;
            view.associations.extend(groups.into_iter().map(|group| (id.clone(), group)));
            view.prefix_lists.push(list);
        }
    }
    for vpc_id in &vpc_ids {
        view.vpcs.extend(network(conn, vpc_id)?);
        if lookup.interfaces {
            let sql = "SELECT eni_id FROM enis WHERE vpc_id = ?1";
            eni_ids.extend(query::column::<String>(conn, sql, [vpc_id])?);
            let sql = "SELECT group_id FROM security_groups WHERE vpc_id = ?1 ORDER BY seq";
            let groups = query::column::<String>(conn, sql, [vpc_id])?;
            view.groups.extend(security_groups::with_members(conn, groups)?);
        }
    }
    let eni_ids: Vec<String> = eni_ids.into_iter().collect();
    view.enis = enis::by_ids(conn, &eni_ids)?;
    if lookup.interfaces {
        let known: BTreeSet<String> =
            view.instances.iter().map(|instance| instance.instance_id.clone()).collect();
        let of_enis: BTreeSet<&String> = view.enis.iter().map(|eni| &eni.instance_id).collect();
        for instance_id in of_enis {
            if !known.contains(instance_id) {
                view.instances.extend(instances::instance(conn, instance_id)?);
            }
        }
    }
    if lookup.public_addresses {
        view.public_addresses = public_addresses(conn)?;
    }
    if lookup.hosts {
        let hosts_of: Vec<String> = query::column(conn, "SELECT host_id FROM nat_gateways", [])?;
        let mut gateways: BTreeMap<String, u64> = BTreeMap::new();
        for host_id in hosts_of {
            *gateways.entry(host_id).or_default() += 1;
        }
        view.hosts = hosts::all(conn)?
            .into_iter()
            .map(|host| {
                let count = gateways.get(&host.host_id).copied().unwrap_or(0);
                (host, count)
            })
            .collect();
    }
    Ok(view)
}

/// Public addresses that are taken.
pub(super) fn public_addresses(conn: &Connection) -> Result<BTreeSet<Ipv4Addr>, StoreError> {
    let taken = query::column::<u32>(conn, "SELECT address FROM eips", [])?;
    Ok(taken.into_iter().map(Into::into).collect())
}

/// Public addresses of interfaces, in their order.
pub(super) fn eips_of(conn: &Connection, enis: &[EniRecord]) -> Result<Vec<EipRecord>, StoreError> {
    let sql = format!("SELECT * FROM {EIPS} WHERE eni_id = ?1 ORDER BY seq");
    let mut eips = Vec::new();
    for eni in enis {
        eips.extend(query::all(conn, &sql, [&eni.eni_id])?);
    }
    Ok(eips)
}

/// Everything of a VPC but its interfaces and groups.
pub(super) fn network(conn: &Connection, vpc_id: &str) -> Result<Option<VpcNetwork>, StoreError> {
    let Some(vpc) = networks::vpc(conn, vpc_id)? else { return Ok(None) };
    let mut eips: Vec<EipRecord> = of_vpc(conn, EIPS, vpc_id)?;
    for eip in &mut eips {
        eip.tags = security_groups::tags_of(conn, &eip.allocation_id)?;
    }
    let entries = |table: &str| {
        format!("(SELECT {table}.*, vpc_id FROM {table} JOIN nat_gateways USING (nat_gateway_id))")
    };
    Ok(Some(VpcNetwork {
        vpc,
        vswitches: networks::vswitches_of(conn, vpc_id)?,
        route_tables: of_vpc(conn, "route_tables", vpc_id)?,
        route_entries: of_vpc(conn, ROUTE_ENTRIES, vpc_id)?,
        nat_gateways: of_vpc(conn, NAT_GATEWAYS, vpc_id)?,
        snat_entries: of_vpc(conn, &entries("snat_entries"), vpc_id)?,
        forward_entries: of_vpc(conn, &entries("forward_entries"), vpc_id)?,
        eips,
        security_groups: query::count(
            conn,
            "SELECT count(*) FROM security_groups WHERE vpc_id = ?1",
            [vpc_id],
        )?,
        ipv6_in_use: ipv6::vswitches_in_use(conn, vpc_id)?,
    }))
}

fn of_vpc<T: FromRow>(conn: &Connection, table: &str, vpc_id: &str) -> Result<Vec<T>, StoreError> {
    query::all(conn, &format!("SELECT * FROM {table} WHERE vpc_id = ?1 ORDER BY seq"), [vpc_id])
}

/// VPCs with a NAT gateway on a host.
pub(super) fn vpcs_with_gateway_on(
    conn: &Connection,
    host_id: &str,
) -> Result<Vec<String>, StoreError> {
    query::column(conn, "SELECT DISTINCT vpc_id FROM nat_gateways WHERE host_id = ?1", [host_id])
}

fn eip(conn: &Connection, allocation_id: &str) -> Result<Option<EipRecord>, StoreError> {
    let sql = format!("SELECT * FROM {EIPS} WHERE allocation_id = ?1");
    let found: Option<EipRecord> = query::first(conn, &sql, [allocation_id])?;
    found
        .map(|eip| Ok(EipRecord { tags: security_groups::tags_of(conn, allocation_id)?, ..eip }))
        .transpose()
}

pub(super) fn prefix_list(
    conn: &Connection,
    id: &str,
) -> Result<Option<PrefixListRecord>, StoreError> {
    let found: Option<PrefixListRecord> =
        query::first(conn, "SELECT * FROM prefix_lists WHERE prefix_list_id = ?1", [id])?;
    found
        .map(|list| Ok(PrefixListRecord { entries: prefix_list_entries(conn, id)?, ..list }))
        .transpose()
}

/// Groups whose rules name a prefix list.
fn named_by(conn: &Connection, id: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT DISTINCT group_id FROM security_group_rules
        WHERE prefix_list_id = ?1 AND prefix_list_id != '' ORDER BY group_id";
    query::column(conn, sql, [id])
}

fn prefix_list_entries(
    conn: &Connection,
    id: &str,
) -> Result<Vec<(ipnet::IpNet, String)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT cidr, description FROM prefix_list_entries WHERE prefix_list_id = ?1
         ORDER BY position",
    )?;
    let rows = statement.query_map([id], |row| {
        Ok((super::rows::parsed(&row.get::<_, String>(0)?)?, row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
