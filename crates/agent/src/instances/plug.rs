//! Disks of a running guest: what must be asked of its VMM so that they are as the spec wants them.
//! Pure; asked again until the VMM's own list says it is so.

use api::{
    host::DiskSpec,
    vmm::{AttachedDisk, DiskLimit},
};
use std::path::PathBuf;

/// Between two times that the guest is asked to let a disk go.
pub const ASK_AGAIN_MS: u64 = 30_000;
/// A guest that has not let a disk go for so long is told of.
pub const SLOW_MS: u64 = 10_000;
/// For so long people are told of a request that failed.
pub const FAILURE_SHOWN_MS: u64 = 600_000;
const GIB: u64 = 1 << 30;

/// One request to the VMM.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Plug the disk in.
    Attach {
        /// Which.
        disk_id: String,
    },
    /// Ask the guest to let the disk go.
    Detach {
        /// Which.
        disk_id: String,
    },
    /// Grow the disk.
    Resize {
        /// Which.
        disk_id: String,
        /// To so many bytes.
        size_bytes: u64,
    },
    /// Other rates.
    Limit {
        /// Which.
        disk_id: String,
        /// None: unlimited.
        limit: Option<DiskLimit>,
    },
}

/// The limit a disk's spec means; none: unlimited.
pub fn limit(disk: &DiskSpec) -> Option<DiskLimit> {
    let limit = DiskLimit { iops: disk.iops, bytes_per_second: disk.bytes_per_second };
    (limit != DiskLimit::default()).then_some(limit)
}

/// Whether a disk is in the VMM as its spec wants it.
pub fn is_settled(disk: &DiskSpec, has: &AttachedDisk) -> bool {
    has.size_bytes >= disk.size_gib.saturating_mul(GIB)
        && has.limit.unwrap_or_default() == limit(disk).unwrap_or_default()
}

/// What to ask. `wanted`: the instance's disks in device order; `has`: those of the VMM;
/// `system_disk`: the one it was started from, which stays until it ends; `asked_ms`: when the
/// guest was last asked for a disk.
pub fn plan(
    now_ms: u64,
    wanted: &[DiskSpec],
    has: &[AttachedDisk],
    system_disk: &str,
    asked_ms: impl Fn(&str) -> Option<u64>,
) -> Vec<Ask> {
    let mut asks = Vec::new();
    for disk in has {
        let id = &disk.disk_id;
        let Some(spec) = wanted.iter().find(|w| w.disk_id == *id) else {
            let due = asked_ms(id).is_none_or(|t| now_ms >= t.saturating_add(ASK_AGAIN_MS));
            if id != system_disk && (due || !disk.detaching) {
                asks.push(Ask::Detach { disk_id: id.clone() });
            }
            continue;
        };
        if disk.detaching {
            // Wanted again while it leaves: it comes back when it is out.
            continue;
        }
        let size_bytes = spec.size_gib.saturating_mul(GIB);
        if disk.size_bytes < size_bytes {
            asks.push(Ask::Resize { disk_id: id.clone(), size_bytes });
        }
        let limit = limit(spec);
        if disk.limit.unwrap_or_default() != limit.unwrap_or_default() {
            asks.push(Ask::Limit { disk_id: id.clone(), limit });
        }
    }
    // The first is the system disk: another one takes effect at the next start.
    for disk in wanted.iter().skip(1) {
        if !has.iter().any(|h| h.disk_id == disk.disk_id) {
            asks.push(Ask::Attach { disk_id: disk.disk_id.clone() });
        }
    }
    asks
}

/// What people are told of a guest that keeps a disk.
pub fn slow_guest(now_ms: u64, disk: &AttachedDisk) -> Option<(String, String)> {
    let since = disk.detach_asked_unix_ms;
    (disk.detaching && since > 0 && now_ms >= since.saturating_add(SLOW_MS)).then(|| {
        let message = format!(
            "the guest was asked {} s ago to let {} go and has not done so; unmount its file \
             systems in the guest, or stop the instance",
            now_ms.saturating_sub(since) / 10_000 * 10,
            disk.disk_id
        );
        ("DetachNotAnswered".to_owned(), message)
    })
}

/// What a host does not let a disk do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Code of the disk's status and type of the event.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// Since when, milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// What people are told of a disk whose host has no room, or fails its requests. Its file is in
/// `pool`.
pub fn trouble(
    now_ms: u64,
    disk: &AttachedDisk,
    pool: impl FnOnce() -> PathBuf,
) -> Option<Trouble> {
    let id = &disk.disk_id;
    if disk.no_room_since_unix_ms > 0 {
        let pool = pool();
        let pool = pool.display();
        let message = format!(
            "the disk pool {pool} of the host has no room left, so the guest's writes to {id} wait; \
             they go on by themselves once there is room: delete disks or snapshots on the host, or \
             make the pool's file system larger"
        );
        let since_unix_ms = disk.no_room_since_unix_ms;
        return Some(Trouble { kind: "DiskOutOfSpace", message, since_unix_ms });
    }
    let shown_until = disk.last_failure_unix_ms.saturating_add(FAILURE_SHOWN_MS);
    (disk.failed_requests > 0 && now_ms < shown_until).then(|| {
        let pool = pool();
        let pool = pool.display();
        let message = format!(
            "{} requests of the guest to {id} have ended in I/O errors, the last one: {}; look at \
             the medium of the disk pool {pool} and the host's kernel log",
            disk.failed_requests, disk.last_failure
        );
        Trouble { kind: "DiskIoError", message, since_unix_ms: disk.last_failure_unix_ms }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str, size_gib: u64, iops: u64) -> DiskSpec {
        DiskSpec { disk_id: id.into(), size_gib, iops, ..DiskSpec::default() }
    }

    fn has(id: &str, size_gib: u64, iops: u64) -> AttachedDisk {
        let limit = DiskLimit { iops, bytes_per_second: 0 };
        AttachedDisk {
            disk_id: id.into(),
            size_bytes: size_gib * GIB,
            limit: Some(limit),
            ..AttachedDisk::default()
        }
    }

    fn never(_: &str) -> Option<u64> {
        None
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let wanted = [spec("d-s", 20, 100), spec("d-1", 1, 0)];
        // A disk of no limit may be told of with none or with zeroes.
        let mut unlimited = has("d-1", 1, 0);
        assert_eq!(plan(0, &wanted, &[has("d-s", 20, 100), unlimited.clone()], "d-s", never), []);
        unlimited.limit = None;
        assert_eq!(plan(0, &wanted, &[has("d-s", 20, 100), unlimited], "d-s", never), []);
    }

    #[test]
    fn differences_are_asked_for() {
        let wanted = [spec("d-s", 40, 100), spec("d-2", 1, 7)];
        let asks = plan(0, &wanted, &[has("d-s", 20, 50), has("d-1", 1, 0)], "d-s", never);
        let id = |s: &str| s.to_owned();
        let limit = Some(DiskLimit { iops: 100, bytes_per_second: 0 });
        assert_eq!(
            asks,
            [
                Ask::Resize { disk_id: id("d-s"), size_bytes: 40 * GIB },
                Ask::Limit { disk_id: id("d-s"), limit },
                Ask::Detach { disk_id: id("d-1") },
                Ask::Attach { disk_id: id("d-2") },
            ]
        );
        assert!(!is_settled(&wanted[0], &has("d-s", 40, 50)));
        assert!(!is_settled(&wanted[0], &has("d-s", 20, 100)));
        assert!(is_settled(&wanted[0], &has("d-s", 40, 100)));
    }

    #[test]
    fn the_system_disk_is_neither_taken_out_nor_put_in_while_the_guest_runs() {
        assert_eq!(plan(0, &[spec("d-new", 20, 0)], &[has("d-s", 20, 0)], "d-s", never), []);
    }

    #[test]
    fn a_host_that_fails_a_disk_is_told_of_with_what_to_do() {
        let pool = || PathBuf::from("/pool");
        let mut disk = has("d-1", 1, 0);
        assert_eq!(trouble(5_000, &disk, pool), None);
        disk.failed_requests = 3;
        disk.last_failure = "cannot write data at 0x50000: Input/output error".to_owned();
        disk.last_failure_unix_ms = 1_000;
        let told = trouble(5_000, &disk, pool).unwrap();
        assert_eq!((told.kind, told.since_unix_ms), ("DiskIoError", 1_000));
        assert!(["d-1", "/pool", "0x50000"].iter().all(|part| told.message.contains(part)));
        assert_eq!(trouble(1_000 + FAILURE_SHOWN_MS, &disk, pool), None);
        // What waits comes first: that can be helped.
        disk.no_room_since_unix_ms = 4_000;
        let told = trouble(5_000, &disk, pool).unwrap();
        assert_eq!((told.kind, told.since_unix_ms), ("DiskOutOfSpace", 4_000));
        assert!(["d-1", "/pool", "delete"].iter().all(|part| told.message.contains(part)));
    }

    #[test]
    fn a_guest_is_asked_again_and_told_of_but_not_pestered() {
        let mut leaving = has("d-1", 1, 0);
        leaving.detaching = true;
        leaving.detach_asked_unix_ms = 1_000;
        let wanted = [spec("d-s", 20, 0)];
        let ask = |now, asked| {
            plan(now, &wanted, &[has("d-s", 20, 0), leaving.clone()], "d-s", |_| asked).len()
        };
        assert_eq!(ask(2_000, Some(1_000)), 0);
        assert_eq!(ask(1_000 + ASK_AGAIN_MS, Some(1_000)), 1);
        // An agent that has just started does not know when it asked.
        assert_eq!(ask(2_000, None), 1);
        assert_eq!(slow_guest(1_000 + SLOW_MS - 1, &leaving), None);
        let (code, message) = slow_guest(1_000 + SLOW_MS, &leaving).unwrap();
        assert_eq!(code, "DetachNotAnswered");
        assert!(message.contains("d-1") && message.contains("stop the instance"), "{message}");
        // Wanted again: it must be out before it can come back.
        let both = [spec("d-s", 20, 0), spec("d-1", 5, 9)];
        assert_eq!(plan(0, &both, &[has("d-s", 20, 0), leaving], "d-s", never), []);
    }
}
