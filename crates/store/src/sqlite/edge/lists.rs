//! Lists with filters and pages.

use super::{
    super::{
        query::{self, Conditions},
        security_groups,
    },
    named_by, prefix_list_entries,
    rows::{EIPS, NAT_GATEWAYS},
};
use crate::*;
use rusqlite::Connection;

pub(in super::super) fn route_tables(
    conn: &Connection,
    filter: &RouteTableFilter,
    page: Page,
) -> Result<Listed<(RouteTableRecord, Vec<String>)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.equal("route_table_id", &filter.route_table_id);
    conditions.matches("name", &filter.name);
    if let Some(system) = filter.system {
        conditions.and("system = ?", [system.into()]);
    }
    let listed: Listed<RouteTableRecord> = query::list(conn, "route_tables", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|table| {
            let vswitches = query::column(
                conn,
                "SELECT vswitch_id FROM vswitches WHERE route_table_id = ?1 ORDER BY seq",
                [&table.route_table_id],
            )?;
            Ok((table, vswitches))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}

pub(in super::super) fn eips(
    conn: &Connection,
    filter: &EipFilter,
    page: Page,
) -> Result<Listed<EipRecord>, StoreError> {
    let mut conditions = Conditions::default();
    if !filter.fixed_too {
        conditions.and("fixed = 0", []);
    }
    conditions.one_of("allocation_id", &filter.allocation_ids);
    let addresses: Vec<u32> = filter.addresses.iter().map(|address| (*address).into()).collect();
    conditions.one_of("address", &addresses);
    conditions.matches("name", &filter.name);
    conditions.equal("status", &filter.status);
    conditions.equal("target_id", &filter.target_id);
    conditions.equal("target_type", &filter.target_type);
    conditions.tags("allocation_id", &filter.tags);
    let mut listed: Listed<EipRecord> = query::list(conn, EIPS, conditions, page)?;
    for eip in &mut listed.items {
        eip.tags = security_groups::tags_of(conn, &eip.allocation_id)?;
    }
    Ok(listed)
}

pub(in super::super) fn nat_gateways(
    conn: &Connection,
    filter: &NatGatewayFilter,
    page: Page,
) -> Result<Listed<NatGatewayRecord>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("nat_gateway_id", &filter.nat_gateway_ids);
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.equal("zone_id", &filter.zone_id);
    conditions.matches("name", &filter.name);
    if filter.misplaced {
        conditions.and("(host_id = '' OR host_lost)", []);
    }
    query::list(conn, NAT_GATEWAYS, conditions, page)
}

pub(in super::super) fn prefix_lists(
    conn: &Connection,
    filter: &PrefixListFilter,
    page: Page,
) -> Result<Listed<(PrefixListRecord, u64)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("prefix_list_id", &filter.prefix_list_ids);
    conditions.matches("name", &filter.name);
    if let Some(ipv6) = filter.ipv6 {
        conditions.and("ipv6 = ?", [ipv6.into()]);
    }
    let listed: Listed<PrefixListRecord> = query::list(conn, "prefix_lists", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|list| {
            let groups = named_by(conn, &list.prefix_list_id)?.len() as u64;
            let entries = prefix_list_entries(conn, &list.prefix_list_id)?;
            Ok((PrefixListRecord { entries, ..list }, groups))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
