//! Counters of one disk.

use super::backend::Operation;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a histogram: up to a minute, and all that is longer.
pub const LATENCY_BUCKETS: usize = 28;

/// Requests by how long they took: element `i` counts those of less than 2^i microseconds that the
/// one before does not count, the last all longer ones.
#[derive(Debug, Default)]
struct Histogram([AtomicU64; LATENCY_BUCKETS]);

impl Histogram {
    fn add(&self, nanos: u64) {
        let micros = nanos / 1000;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.0[bucket.min(LATENCY_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Vec<u64> {
        self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }
}

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
    throttled: AtomicU64,
    read_latency: Histogram,
    write_latency: Histogram,
}

impl Counters {
    /// A request was carried out, or failed, `nanos` after the guest put it up.
    pub fn completed(&self, operation: Operation, bytes: u64, success: bool, nanos: u64) {
        if !success {
            return self.error();
        }
        let (count, total) = match operation {
            Operation::Read => {
                self.read_latency.add(nanos);
                (&self.reads, Some(&self.read_bytes))
            }
            Operation::Write => {
                self.write_latency.add(nanos);
                (&self.writes, Some(&self.write_bytes))
            }
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
        self.throttled.fetch_add(1, Ordering::Relaxed);
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
            throttled: get(&self.throttled),
            read_latency: self.read_latency.snapshot(),
            write_latency: self.write_latency.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_counted_in_the_bucket_of_its_power_of_two() {
        let counters = Counters::default();
        let buckets = [
            (0, 0),
            (999, 0),
            (1000, 1),
            (1999, 1),
            (2000, 2),
            (3999, 2),
            (1_000_000, 10),
            (1_024_000, 11),
            (60_000_000_000, 26),
            (u64::MAX, 27),
        ];
        for (nanos, bucket) in buckets {
            let before = counters.snapshot("d").write_latency[bucket];
            counters.completed(Operation::Write, 512, true, nanos);
            assert_eq!(counters.snapshot("d").write_latency[bucket], before + 1, "{nanos} ns");
        }
        counters.completed(Operation::Write, 512, false, 1);
        counters.completed(Operation::Flush, 0, true, 1);
        let stats = counters.snapshot("d");
        assert_eq!(stats.write_latency.iter().sum::<u64>(), stats.writes);
        assert_eq!(stats.read_latency, vec![0; LATENCY_BUCKETS]);
    }
}
