//! The embedded backend passes the suite, and keeps what it acknowledged.

#![allow(clippy::unwrap_used, clippy::panic)]

mod conformance;

use conformance::Backend;
use std::sync::Arc;
use store::{SqliteOptions, SqliteStore, Store};
use tempfile::TempDir;

struct Sqlite {
    directory: TempDir,
}

impl Backend for Sqlite {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Arc<dyn Store> {
        let path = self.directory.path().join("ecs.db");
        Arc::new(SqliteStore::open(&SqliteOptions { path, readers: 2 }).unwrap())
    }
}

conformance::suite!(Sqlite);

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ecs.db");
    drop(SqliteStore::open(&SqliteOptions { path: path.clone(), readers: 1 }).unwrap());
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 1000).unwrap();
    drop(conn);
    let error = SqliteStore::open(&SqliteOptions { path, readers: 1 }).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn lists_of_instances_use_indexes() {
    let sqlite = Sqlite::new();
    drop(sqlite.open());
    let conn = rusqlite::Connection::open(sqlite.directory.path().join("ecs.db")).unwrap();
    for column in ["status", "vpc_id", "vswitch_id", "image_id", "instance_type", "name"] {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT * FROM instances WHERE {column} = 'x' AND seq < 5
             ORDER BY seq DESC LIMIT 10"
        );
        let plan: String = conn.query_row(&sql, [], |row| row.get("detail")).unwrap();
        assert!(plan.contains("USING INDEX instances_"), "{column}: {plan}");
    }
}
