//! What disks do at the moment: the latest two samples of each, in memory only.

use api::host::{DiskMetrics, HostStatus};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Buckets of a latency histogram that are looked at: beyond them lies more than a year.
const BUCKETS: usize = 45;

/// The samples of one report.
#[derive(Debug)]
pub(crate) struct Samples {
    host_id: String,
    complete: bool,
    disks: Vec<(String, Option<DiskMetrics>)>,
}

impl Samples {
    pub fn of(report: &HostStatus) -> Self {
        Self {
            host_id: report.host_id.clone(),
            complete: report.complete,
            disks: report.disks.iter().map(|d| (d.disk_id.clone(), d.metrics.clone())).collect(),
        }
    }
}

#[derive(Debug)]
struct Pair {
    host_id: String,
    earlier: Option<DiskMetrics>,
    latest: DiskMetrics,
}

/// The latest two samples of every disk that a VMM has.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskMetricsBook {
    pairs: Arc<Mutex<HashMap<String, Pair>>>,
}

/// What a disk did between two samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Period {
    pub end_ms: u64,
    pub length_ms: u64,
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub errors: u64,
    pub throttled: u64,
    pub read_latency_us: u64,
    pub write_latency_us: u64,
}

impl Period {
    /// A count of the period as a rate.
    pub fn per_second(&self, count: u64) -> u64 {
        u64::try_from(u128::from(count) * 1000 / u128::from(self.length_ms.max(1)))
            .unwrap_or(u64::MAX)
    }
}

impl DiskMetricsBook {
    /// Keeps the samples of a report that was taken in.
    pub fn take(&self, samples: Samples) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.complete {
            let has: HashMap<&str, bool> =
                samples.disks.iter().map(|(id, m)| (id.as_str(), m.is_some())).collect();
            pairs.retain(|disk_id, pair| {
                pair.host_id != samples.host_id || has.get(disk_id.as_str()) == Some(&true)
            });
        }
        for (disk_id, metrics) in samples.disks {
            let Some(metrics) = metrics else { continue };
            let earlier = match pairs.remove(&disk_id) {
                // Read at the same time: the same sample told twice.
                Some(pair) if pair.latest.at_unix_ms >= metrics.at_unix_ms => {
                    pairs.insert(disk_id, pair);
                    continue;
                }
                Some(pair) => Some(pair.latest),
                None => None,
            };
            let host_id = samples.host_id.clone();
            pairs.insert(disk_id, Pair { host_id, earlier, latest: metrics });
        }
    }

    /// The period between the latest two samples; none while there are no two of one VMM.
    pub fn latest(&self, disk_id: &str) -> Option<Period> {
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = pairs.get(disk_id)?;
        between(pair.earlier.as_ref()?, &pair.latest)
    }
}

fn between(earlier: &DiskMetrics, latest: &DiskMetrics) -> Option<Period> {
    let length_ms = latest.at_unix_ms.checked_sub(earlier.at_unix_ms).filter(|ms| *ms > 0)?;
    if earlier.since_unix_ms != latest.since_unix_ms {
        return None;
    }
    // Counters only grow; a difference below zero is a report that makes no sense.
    let grown = |earlier: u64, latest: u64| latest.saturating_sub(earlier);
    Some(Period {
        end_ms: latest.at_unix_ms,
        length_ms,
        reads: grown(earlier.reads, latest.reads),
        writes: grown(earlier.writes, latest.writes),
        read_bytes: grown(earlier.read_bytes, latest.read_bytes),
        write_bytes: grown(earlier.write_bytes, latest.write_bytes),
        errors: grown(earlier.errors, latest.errors),
        throttled: grown(earlier.throttled, latest.throttled),
        read_latency_us: mean(&earlier.read_latency, &latest.read_latency),
        write_latency_us: mean(&earlier.write_latency, &latest.write_latency),
    })
}

/// Mean of what two histograms differ by: each bucket counts as three quarters of its upper end,
/// the middle between both ends.
fn mean(earlier: &[u64], latest: &[u64]) -> u64 {
    let (mut count, mut sum) = (0_u128, 0_u128);
    for (index, latest) in latest.iter().take(BUCKETS).enumerate() {
        let more = u128::from(latest.saturating_sub(earlier.get(index).copied().unwrap_or(0)));
        count += more;
        sum += more * ((3_u128 << index) / 4).max(1);
    }
    u64::try_from(sum.checked_div(count).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::host::DiskStatus;

    fn report(metrics: Option<DiskMetrics>) -> Samples {
        let disk_id = "d-1".to_owned();
        Samples::of(&HostStatus {
            host_id: "h-1".to_owned(),
            complete: true,
            disks: vec![DiskStatus { disk_id, metrics, ..Default::default() }],
            ..Default::default()
        })
    }

    fn at(at_unix_ms: u64, reads: u64) -> DiskMetrics {
        DiskMetrics {
            reads,
            read_bytes: reads << 12,
            read_latency: vec![0, 0, 0, 0, 0, 0, 0, 0, reads],
            since_unix_ms: 5,
            at_unix_ms,
            ..Default::default()
        }
    }

    #[test]
    fn a_period_is_what_lies_between_two_samples_of_one_vmm() {
        let book = DiskMetricsBook::default();
        book.take(report(Some(at(1_000, 100))));
        assert_eq!(book.latest("d-1"), None);
        book.take(report(Some(at(3_000, 700))));
        // The same sample once more says nothing new.
        book.take(report(Some(at(3_000, 700))));
        let period = book.latest("d-1").unwrap();
        assert_eq!((period.length_ms, period.per_second(period.reads)), (2_000, 300));
        assert_eq!(period.per_second(period.read_bytes), 300 << 12);
        assert_eq!(period.read_latency_us, 192, "between 128 and 256 microseconds");
        // Another VMM counts from the beginning.
        book.take(report(Some(DiskMetrics { since_unix_ms: 4_000, ..at(5_000, 1) })));
        assert_eq!(book.latest("d-1"), None);
        // No VMM has it any more.
        book.take(report(None));
        assert!(book.pairs.lock().unwrap().is_empty());
    }

    #[test]
    fn counters_that_make_no_sense_do_no_harm() {
        let mut odd = at(u64::MAX, 0);
        odd.read_latency = vec![u64::MAX; 100];
        let period = between(&at(1, 50), &odd).unwrap();
        assert_eq!(period.reads, 0);
        assert!(period.read_latency_us > 0);
        assert_eq!(between(&at(9, 1), &at(9, 2)), None);
    }
}
