//! The embedded backend: SQLite in WAL mode with `synchronous=FULL`.

mod addresses;
mod claims;
mod disk_snapshots;
mod disks;
mod edge;
mod enis;
mod feed;
mod hosts;
mod images;
mod instances;
mod ipv6;
mod key_pairs;
mod networks;
mod pools;
mod query;
mod rows;
mod security_groups;
mod snapshot;
mod store;
mod tokens;
mod trees;
mod writer;

use crate::StoreError;
use rusqlite::{Connection, OpenFlags};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use writer::Writer;

/// Every step from an empty database to the present schema. Only ever appended to.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("disks.sql"),
    include_str!("snapshots.sql"),
    include_str!("images.sql"),
    include_str!("pools.sql"),
    include_str!("auto_disks.sql"),
    include_str!("enis.sql"),
    include_str!("edge.sql"),
    include_str!("shared_pools.sql"),
    include_str!("ipv6.sql"),
    include_str!("public_ips.sql"),
    include_str!("auto_start.sql"),
    include_str!("five_tuple.sql"),
    include_str!("encryption.sql"),
];

/// How to open a store.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file; made if it is not there.
    pub path: PathBuf,
    /// Readers that may work at once.
    pub readers: usize,
}

/// The embedded store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
    revisions: watch::Receiver<u64>,
}

impl SqliteStore {
    /// Opens the database, bringing its schema up to date.
    ///
    /// # Errors
    /// If the file cannot be opened, or was written by a newer version.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let mut conn = connect(&options.path)?;
        migrate(&mut conn)?;
        let latest: i64 =
            conn.query_row("SELECT value FROM counters WHERE name = 'revision'", [], |row| {
                row.get(0)
            })?;
        let (sender, revisions) = watch::channel(latest as u64);
        let writer = Writer::start(conn, sender)?;
        let count = options.readers.max(1);
        let idle = (0..count).map(|_| connect(&options.path)).collect::<Result<Vec<_>, _>>()?;
        let readers =
            Arc::new(Readers { idle: Mutex::new(idle), permits: Arc::new(Semaphore::new(count)) });
        Ok(Self { writer, readers, revisions })
    }

    /// Runs a read-only transaction: all of it sees one state of the database.
    async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.readers.permits)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Backend("the store is closed".to_owned()))?;
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || {
            let reader = Reader::take(readers, permit)?;
            let conn = reader.conn()?;
            let result =
                conn.execute_batch("BEGIN").map_err(StoreError::from).and_then(|()| query(conn));
            conn.execute_batch("ROLLBACK")?;
            result
        })
        .await
        .map_err(|error| StoreError::Backend(format!("a read was lost: {error}")))?
    }
}

#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// A connection in use. It goes back before its permit does, whatever becomes of the caller.
struct Reader {
    conn: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    fn take(readers: Arc<Readers>, permit: OwnedSemaphorePermit) -> Result<Self, StoreError> {
        let conn = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = Self { conn, readers, _permit: permit };
        reader.conn()?;
        Ok(reader)
    }

    fn conn(&self) -> Result<&Connection, StoreError> {
        self.conn.as_ref().ok_or_else(|| StoreError::Backend("no reader is free".to_owned()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if !conn.is_autocommit() {
            // A query that panicked. If this fails, the next BEGIN says so.
            let _ = conn.execute_batch("ROLLBACK");
        }
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)
        .map_err(|error| StoreError::Backend(format!("cannot open {}: {error}", path.display())))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(256);
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -16384;",
    )?;
    Ok(conn)
}

fn migrate(conn: &mut Connection) -> Result<(), StoreError> {
    let done: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    if done > MIGRATIONS.len() {
        return Err(StoreError::Backend(format!(
            "the database has schema {done}, this version knows {}; run the newer version",
            MIGRATIONS.len()
        )));
    }
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        let tx = conn.transaction()?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", (index + 1) as i64)?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn store() -> (tempfile::TempDir, SqliteStore) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ecs.db");
        let store = SqliteStore::open(&SqliteOptions { path, readers: 1 }).unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_free_a_reader_in_use() {
        let (_directory, store) = store();
        let slow = store.read(|_| {
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        });
        tokio::time::timeout(Duration::from_millis(20), slow).await.unwrap_err();
        store.read(|_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_gives_its_reader_back() {
        let (_directory, store) = store();
        let lost = store.read(|_| -> Result<(), StoreError> { panic!("on purpose") }).await;
        assert!(lost.unwrap_err().to_string().contains("a read was lost"));
        store.read(|_| Ok(())).await.unwrap();
    }
}
