//! Counters of one disk.

use super::backend::Operation;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the queues of a disk did.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    errors: AtomicU64,
    throttled_ns: AtomicU64,
}

impl Counters {
    /// A request was carried out, or failed.
    pub fn completed(&self, operation: Operation, bytes: u64, success: bool) {
        if !success {
            return self.error();
        }
        let (count, total) = match operation {
            Operation::Read => (&self.reads, Some(&self.read_bytes)),
            Operation::Write => (&self.writes, Some(&self.write_bytes)),
            Operation::Flush => (&self.flushes, None),
            Operation::Discard | Operation::WriteZeroes { .. } => (&self.discards, None),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(total) = total {
            total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A request was refused or failed.
    pub fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A request waited for its rate.
    pub fn throttled(&self, nanos: u64) {
        self.throttled_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// All counters, for `disk_id`.
    pub fn snapshot(&self, disk_id: &str) -> api::vmm::DiskStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        api::vmm::DiskStats {
            disk_id: disk_id.to_owned(),
            reads: get(&self.reads),
            writes: get(&self.writes),
            read_bytes: get(&self.read_bytes),
            write_bytes: get(&self.write_bytes),
            flushes: get(&self.flushes),
            discards: get(&self.discards),
            errors: get(&self.errors),
            throttled_ns: get(&self.throttled_ns),
            ..Default::default()
        }
    }
}
