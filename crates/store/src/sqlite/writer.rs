//! One thread writes. Transactions that wait together are committed together, with one fsync.

use crate::StoreError;
use rusqlite::{Connection, params};
use std::{fmt, thread};
use tokio::sync::{mpsc, oneshot, watch};

/// Most transactions of one commit.
const GROUP: usize = 256;

type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>, &mut u64) -> Reply + Send>;

/// A transaction under way.
pub(super) struct Tx<'a> {
    pub conn: &'a Connection,
    revision: Option<u64>,
}

impl Tx<'_> {
    /// The revision of everything this transaction writes.
    pub fn revision(&mut self) -> Result<u64, StoreError> {
        if let Some(revision) = self.revision {
            return Ok(revision);
        }
        let revision = next_counter(self.conn, "revision")?;
        self.revision = Some(revision);
        Ok(revision)
    }

    /// Adds to the change feed.
    pub fn change(&mut self, kind: &str, id: &str, host_id: &str) -> Result<(), StoreError> {
        let revision = self.revision()?;
        self.conn
            .prepare_cached(
                "INSERT INTO changes (revision, kind, id, host_id) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![revision as i64, kind, id, host_id])?;
        Ok(())
    }
}

/// Counts a counter up and answers its new value.
pub(super) fn next_counter(conn: &Connection, name: &str) -> Result<u64, StoreError> {
    let value: i64 = conn
        .prepare_cached("UPDATE counters SET value = value + 1 WHERE name = ?1 RETURNING value")?
        .query_row([name], |row| row.get(0))?;
    Ok(value as u64)
}

/// Handle of the writing thread.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Starts the thread. It ends, and closes the connection, when every handle is gone.
    pub fn start(conn: Connection, revisions: watch::Sender<u64>) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(&conn, queue, &revisions))
            .map_err(|error| StoreError::Backend(format!("cannot start the writer: {error}")))?;
        Ok(Self { jobs })
    }

    /// Runs a transaction. The answer comes after its commit is on disk.
    pub async fn run<T, F>(&self, transaction: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |conn, latest| {
            let result = conn.and_then(|conn| in_savepoint(conn, latest, transaction));
            Box::new(move |committed| {
                // The caller may have gone away; the transaction stands all the same.
                let _ = sender.send(committed.and(result));
            })
        });
        self.jobs.send(job).map_err(|_| StoreError::Backend("the store is closed".to_owned()))?;
        receiver.await.map_err(|_| StoreError::Backend("the writer has ended".to_owned()))?
    }
}

fn in_savepoint<T>(
    conn: &Connection,
    latest: &mut u64,
    transaction: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    conn.prepare_cached("SAVEPOINT job")?.execute([])?;
    let mut tx = Tx { conn, revision: None };
    let result = transaction(&mut tx);
    let revision = tx.revision;
    if result.is_err() {
        conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    conn.prepare_cached("RELEASE job")?.execute([])?;
    if let (Ok(_), Some(revision)) = (&result, revision) {
        *latest = revision;
    }
    result
}

fn write_all(
    conn: &Connection,
    mut queue: mpsc::UnboundedReceiver<Job>,
    revisions: &watch::Sender<u64>,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut replies = Vec::new();
        let before = *revisions.borrow();
        let mut latest = before;
        let mut committed = conn.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
        let mut next = Some(first);
        while let Some(job) = next {
            replies.push(job(committed.clone().map(|()| conn), &mut latest));
            next = if replies.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        if committed.is_ok() {
            committed = conn.execute_batch("COMMIT").map_err(StoreError::from);
        }
        if committed.is_err() && !conn.is_autocommit() {
            // Nothing more can be done if this fails too: the next BEGIN will say so.
            let _ = conn.execute_batch("ROLLBACK");
        }
        if committed.is_ok() && latest > before {
            revisions.send_replace(latest);
        }
        for reply in replies {
            reply(committed.clone());
        }
    }
}
