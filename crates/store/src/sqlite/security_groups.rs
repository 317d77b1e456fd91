//! Security groups and their rules.

use super::{
    edge, ipv6,
    query::{self, Conditions},
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params, params_from_iter};
use std::collections::BTreeSet;

pub(super) fn group(
    conn: &Connection,
    group_id: &str,
) -> Result<Option<SecurityGroupRecord>, StoreError> {
    let found: Option<SecurityGroupRecord> =
        query::first(conn, "SELECT * FROM security_groups WHERE group_id = ?1", [group_id])?;
    found
        .map(|mut group| {
            group.tags = tags_of(conn, group_id)?;
            Ok(group)
        })
        .transpose()
}

/// Private addresses of a group's members.
fn addresses(conn: &Connection, group_id: &str) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(addresses), 0) FROM eni_groups WHERE group_id = ?1";
    query::count(conn, sql, [group_id])
}

fn rule_count(conn: &Connection, group_id: &str) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM security_group_rules WHERE group_id = ?1";
    query::count(conn, sql, [group_id])
}

/// How many rules a rule counts as: one that names a prefix list, as many as that may have entries.
const WEIGHT: &str = "coalesce((SELECT max_entries FROM prefix_lists
    WHERE prefix_lists.prefix_list_id = rule.prefix_list_id), 1)";

fn rule_weight(conn: &Connection, group_id: &str) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT coalesce(sum({WEIGHT}), 0) FROM security_group_rules AS rule WHERE group_id = ?1"
    );
    query::count(conn, &sql, [group_id])
}

/// Those of the groups that exist.
pub(super) fn uses(
    conn: &Connection,
    group_ids: impl IntoIterator<Item = String>,
) -> Result<Vec<GroupUse>, StoreError> {
    let mut uses = Vec::new();
    for group_id in group_ids {
        if let Some(group) = group(conn, &group_id)? {
            let addresses = addresses(conn, &group_id)?;
            uses.push(GroupUse { group, addresses, rules: rule_weight(conn, &group_id)? });
        }
    }
    Ok(uses)
}

/// Most rules of a member that is in more than [`GroupView::FEW_GROUPS`] groups.
fn most_member_rules(conn: &Connection, group_id: &str) -> Result<u64, StoreError> {
    // The index `eni_groups_many` has the few members that are in so many groups.
    const { assert!(GroupView::FEW_GROUPS == 5) };
    let sql = format!(
        "SELECT coalesce(max(rules), 0) FROM (
             SELECT sum({WEIGHT}) AS rules
             FROM eni_groups AS many
                 JOIN eni_groups AS mine ON mine.eni_id = many.eni_id AND mine.group_id = ?1
                 JOIN eni_groups AS each ON each.eni_id = many.eni_id
                 JOIN security_group_rules AS rule ON rule.group_id = each.group_id
             WHERE many.position = 5
             GROUP BY many.eni_id)"
    );
    query::count(conn, &sql, [group_id])
}

pub(super) fn rules_of(conn: &Connection, group_id: &str) -> Result<Vec<RuleRecord>, StoreError> {
    query::all(
        conn,
        "SELECT * FROM security_group_rules WHERE group_id = ?1 ORDER BY seq",
        [group_id],
    )
}

pub(super) fn view(
    conn: &Connection,
    group_id: &str,
    peers: &[String],
) -> Result<GroupView, StoreError> {
    let mut found = Vec::new();
    for peer in peers {
        found.extend(group(conn, peer)?);
    }
    let rules = rules_of(conn, group_id)?;
    let named = rules.iter().map(|rule| &rule.prefix_list_id).filter(|id| !id.is_empty());
    let list_ids: BTreeSet<&String> = named.chain(peers).collect();
    let mut prefix_lists = Vec::new();
    for list_id in list_ids {
        prefix_lists.extend(edge::prefix_list(conn, list_id)?);
    }
    Ok(GroupView {
        prefix_lists,
        group: group(conn, group_id)?,
        rules,
        members: query::count(
            conn,
            "SELECT count(*) FROM eni_groups WHERE group_id = ?1",
            [group_id],
        )?,
        most_member_rules: most_member_rules(conn, group_id)?,
        named_by: query::column(
            conn,
            "SELECT DISTINCT group_id FROM security_group_rules
             WHERE peer_group_id = ?1 AND group_id != ?1",
            [group_id],
        )?,
        peers: found,
    })
}

pub(super) fn insert(tx: &mut Tx<'_>, group: &SecurityGroupRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO security_groups (group_id, revision, vpc_id, name, description,
                 enterprise, inner_accept, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            group.group_id,
            revision as i64,
            group.vpc_id,
            group.name,
            group.description,
            group.enterprise,
            group.inner_accept,
            group.created_ms
        ])?;
    insert_tags(tx, &group.group_id, &group.tags)?;
    tx.change("security_group", &group.group_id, "")
}

pub(super) fn apply(tx: &mut Tx<'_>, group_id: &str, plan: &GroupPlan) -> Result<(), StoreError> {
    let nothing = plan.update.is_none()
        && plan.insert.is_empty()
        && plan.update_rules.is_empty()
        && plan.delete.is_empty();
    if nothing {
        return Ok(());
    }
    if let Some(group) = &plan.update {
        tx.conn
            .prepare_cached(
                "UPDATE security_groups SET name = ?2, description = ?3, inner_accept = ?4
                 WHERE group_id = ?1",
            )?
            .execute(params![group_id, group.name, group.description, group.inner_accept])?;
    }
    for rule_id in &plan.delete {
        tx.conn
            .prepare_cached(
                "DELETE FROM security_group_rules WHERE group_id = ?1 AND rule_id = ?2",
            )?
            .execute([group_id, rule_id])?;
    }
    let revision = tx.revision()?;
    for rule in &plan.insert {
        tx.conn
            .prepare_cached(
                "INSERT INTO security_group_rules (rule_id, revision, group_id, egress, protocol,
                     port_from, port_to, source_ports, priority, drops, description, created_ms)
                 VALUES (?1, ?2, ?3, ?4, '', 0, 0, '', 0, 0, '', ?5)",
            )?
            .execute(params![
                rule.rule_id,
                revision as i64,
                group_id,
                rule.egress,
                rule.created_ms
            ])?;
    }
    for rule in plan.insert.iter().chain(&plan.update_rules) {
        write_rule(tx, group_id, rule)?;
    }
    tx.conn
        .prepare_cached("UPDATE security_groups SET revision = ?2 WHERE group_id = ?1")?
        .execute(params![group_id, revision as i64])?;
    tx.change("security_group", group_id, "")
}

/// Writes what can be modified of a rule.
fn write_rule(tx: &mut Tx<'_>, group_id: &str, rule: &RuleRecord) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE security_group_rules SET revision = ?3, protocol = ?4, port_from = ?5,
                 port_to = ?6, source_ports = ?7, cidr = ?8, peer_group_id = ?9,
                 prefix_list_id = ?10, priority = ?11, drops = ?12, description = ?13,
                 own_cidr = ?14
             WHERE rule_id = ?1 AND group_id = ?2",
        )?
        .execute(params![
            rule.rule_id,
            group_id,
            revision as i64,
            rule.protocol,
            rule.port_from,
            rule.port_to,
            rule.source_ports,
            rule.cidr.map(|cidr| cidr.to_string()),
            rule.peer_group_id,
            rule.prefix_list_id,
            rule.priority,
            rule.drop,
            rule.description,
            rule.own_cidr.map(|cidr| cidr.to_string())
        ])?;
    Ok(())
}

pub(super) fn delete(tx: &mut Tx<'_>, group_id: &str) -> Result<(), StoreError> {
    delete_tags(tx, group_id)?;
    // Rules first: one of them may name the group itself.
    tx.conn
        .prepare_cached("DELETE FROM security_group_rules WHERE group_id = ?1")?
        .execute([group_id])?;
    tx.conn
        .prepare_cached("DELETE FROM security_groups WHERE group_id = ?1")?
        .execute([group_id])?;
    tx.change("security_group", group_id, "")
}

pub(super) fn list(
    conn: &Connection,
    filter: &GroupFilter,
    page: Page,
) -> Result<Listed<GroupSummary>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("group_id", &filter.group_ids);
    conditions.equal("vpc_id", &filter.vpc_id);
    conditions.matches("name", &filter.name);
    if let Some(enterprise) = filter.enterprise {
        conditions.and("enterprise = ?", [enterprise.into()]);
    }
    conditions.tags("group_id", &filter.tags);
    let listed: Listed<SecurityGroupRecord> =
        query::list(conn, "security_groups", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|mut group| {
            group.tags = tags_of(conn, &group.group_id)?;
            let group_id = &group.group_id;
            Ok(GroupSummary {
                instances: query::count(
                    conn,
                    "SELECT count(DISTINCT instance_id) FROM eni_groups JOIN enis USING (eni_id)
                     WHERE group_id = ?1 AND instance_id != ''",
                    [group_id],
                )?,
                addresses: addresses(conn, group_id)?,
                rules: rule_count(conn, group_id)?,
                group_rules: query::count(
                    conn,
                    "SELECT count(*) FROM security_group_rules
                     WHERE group_id = ?1 AND peer_group_id IS NOT NULL",
                    [group_id],
                )?,
                group,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}

/// Groups with their rules and members' addresses.
pub(super) fn with_members(
    conn: &Connection,
    group_ids: impl IntoIterator<Item = String>,
) -> Result<Vec<GroupMembers>, StoreError> {
    let mut groups = Vec::new();
    for group_id in group_ids {
        let Some(group) = group(conn, &group_id)? else { continue };
        let ips: Vec<ipv6::Address> = query::column(
            conn,
            "WITH members AS (SELECT eni_id FROM eni_groups JOIN enis USING (eni_id)
                 JOIN instances USING (instance_id) WHERE group_id = ?1 AND releasing = 0)
             SELECT address FROM members JOIN eni_addresses USING (eni_id)
             UNION
             SELECT address FROM members JOIN eni_ipv6_addresses USING (eni_id)
             ORDER BY 1",
            params_from_iter([&group_id]),
        )?;
        groups.push(GroupMembers {
            group,
            rules: rules_of(conn, &group_id)?,
            member_ips: ips.into_iter().map(|ipv6::Address(ip)| ip).collect(),
        });
    }
    Ok(groups)
}

pub(super) fn tags_of(
    conn: &Connection,
    resource_id: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT key, value FROM tags WHERE resource_id = ?1 ORDER BY key")?;
    let rows = statement.query_map([resource_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn insert_tags(
    tx: &Tx<'_>,
    resource_id: &str,
    tags: &[(String, String)],
) -> Result<(), StoreError> {
    for (key, value) in tags {
        tx.conn
            .prepare_cached("INSERT INTO tags (resource_id, key, value) VALUES (?1, ?2, ?3)")?
            .execute([resource_id, key, value])?;
    }
    Ok(())
}

pub(super) fn delete_tags(tx: &Tx<'_>, resource_id: &str) -> Result<(), StoreError> {
    tx.conn.prepare_cached("DELETE FROM tags WHERE resource_id = ?1")?.execute([resource_id])?;
    Ok(())
}
