//! Lists with filters and pages.

use super::rows::FromRow;
use crate::{Listed, Page, StoreError};
use rusqlite::{Connection, params_from_iter, types::Value};

/// Conditions of a list, and their values.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    sql: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    /// `sql` has one `?` per value.
    pub fn and(&mut self, sql: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.sql.push(sql.into());
        self.values.extend(values);
    }

    /// `column = value`, unless the value is empty.
    pub fn equal(&mut self, column: &str, value: &str) {
        if !value.is_empty() {
            self.and(format!("{column} = ?"), [Value::Text(value.to_owned())]);
        }
    }

    /// `column` is one of `values`, unless there are none.
    pub fn one_of<V: Into<Value> + Clone>(&mut self, column: &str, values: &[V]) {
        if !values.is_empty() {
            let marks = vec!["?"; values.len()].join(",");
            let values: Vec<Value> = values.iter().cloned().map(Into::into).collect();
            self.and(format!("{column} IN ({marks})"), values);
        }
    }

    /// `column` matches `pattern`, in which `*` stands for anything, unless it is empty.
    pub fn matches(&mut self, column: &str, pattern: &str) {
        if pattern.contains('*') {
            let mut glob = String::with_capacity(pattern.len());
            for character in pattern.chars() {
                match character {
                    '?' | '[' => glob.extend(['[', character, ']']),
                    other => glob.push(other),
                }
            }
            self.and(format!("{column} GLOB ?"), [Value::Text(glob)]);
        } else {
            self.equal(column, pattern);
        }
    }

    /// The resource has every one of these tags; an empty value matches any.
    pub fn tags(&mut self, id_column: &str, tags: &[(String, String)]) {
        for (key, value) in tags {
            let of_key = format!("{id_column} IN (SELECT resource_id FROM tags WHERE key = ?");
            if value.is_empty() {
                self.and(format!("{of_key})"), [key.clone().into()]);
            } else {
                self.and(
                    format!("{of_key} AND value = ?)"),
                    [key.clone().into(), value.clone().into()],
                );
            }
        }
    }

    fn clause(&self) -> String {
        if self.sql.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", self.sql.join(" AND "))
        }
    }
}

/// One page of a table that has a `seq`, newest first.
pub(super) fn list<T: FromRow>(
    conn: &Connection,
    table: &str,
    mut conditions: Conditions,
    page: Page,
) -> Result<Listed<T>, StoreError> {
    let total: i64 = conn
        .prepare_cached(&format!("SELECT count(*) FROM {table} {}", conditions.clause()))?
        .query_row(params_from_iter(&conditions.values), |row| row.get(0))?;
    let (offset, limit) = match page {
        Page::Offset { offset, limit } => (offset, limit),
        Page::After { position, limit } => {
            if let Some(position) = position {
                conditions.and("seq < ?", [Value::Integer(position)]);
            }
            (0, limit)
        }
    };
    let sql =
        format!("SELECT * FROM {table} {} ORDER BY seq DESC LIMIT ? OFFSET ?", conditions.clause());
    conditions.values.push(Value::Integer(i64::from(limit) + 1));
    conditions.values.push(Value::Integer(i64::try_from(offset).unwrap_or(i64::MAX)));
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(&conditions.values))?;
    let mut items = Vec::new();
    let mut last = None;
    let mut next = None;
    while let Some(row) = rows.next()? {
        if items.len() == limit as usize {
            next = last;
            break;
        }
        last = Some(row.get::<_, i64>("seq")?);
        items.push(T::from_row(row)?);
    }
    Ok(Listed { items, total: total as u64, next })
}

/// Every row a query gives.
pub(super) fn all<T: FromRow>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| T::from_row(row))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The first row a query gives.
pub(super) fn first<T: FromRow>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Option<T>, StoreError> {
    Ok(all(conn, sql, params)?.into_iter().next())
}

/// The first column of every row.
pub(super) fn column<T: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A number a query counts.
pub(super) fn count(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<u64, StoreError> {
    let value: i64 = conn.prepare_cached(sql)?.query_row(params, |row| row.get(0))?;
    Ok(value as u64)
}
