//! Snapshots: their status, and when they may be taken and deleted.

use crate::{
    disk_state::{self, AVAILABLE, IN_USE},
    ecs_error::refuse,
    encryption, ids,
};
use store::{DiskRecord, ImageRecord, Refusal, SnapshotRecord};

/// Being taken.
pub const PROGRESSING: &str = "progressing";
/// Taken.
pub const ACCOMPLISHED: &str = "accomplished";
/// Cannot be taken.
pub const FAILED: &str = "failed";

/// Every status there is.
pub const ALL: [&str; 3] = [PROGRESSING, ACCOMPLISHED, FAILED];

/// Snapshots a disk may have that people asked for.
const MOST_OF_DISK: usize = 256;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The status that follows from what the host said.
pub fn derive(snapshot: &SnapshotRecord) -> &'static str {
    ALL.into_iter().find(|status| *status == snapshot.reported.state).unwrap_or(PROGRESSING)
}

/// Why the snapshot is in its state. Empty when there is nothing to say.
pub fn reason(snapshot: &SnapshotRecord) -> String {
    if snapshot.releasing {
        return format!(
            "being deleted; it goes when host {} has nothing left of it",
            snapshot.host_id
        );
    }
    match (snapshot.reported.code.as_str(), snapshot.reported.message.as_str()) {
        ("", "") if snapshot.reported.state.is_empty() => {
            format!("waiting for host {} to take it", snapshot.host_id)
        }
        ("", said) | (said, "") => said.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

/// When a snapshot of this age is to go; 0: never.
pub(crate) fn expiry(created_ms: i64, retention_days: u32) -> i64 {
    if retention_days == 0 { 0 } else { created_ms + i64::from(retention_days) * DAY_MS }
}

/// A snapshot of a disk, to be taken by its host. `snapshots` are those the disk has.
///
/// # Errors
/// `IncorrectDiskStatus.NeverAttached`, `IncorrectDiskStatus`,
/// `IncorrectDiskStatus.CreatingSnapshot`, `QuotaExceed.Snapshot`.
pub(crate) fn take(
    disk: &DiskRecord,
    snapshots: &[SnapshotRecord],
    retention_days: u32,
    now: i64,
) -> Result<SnapshotRecord, Refusal> {
    let disk_id = &disk.disk_id;
    if disk.host_id.is_empty() {
        return Err(refuse(
            403,
            "IncorrectDiskStatus.NeverAttached",
            format!("disk {disk_id} was never attached and has no data; attach it first"),
        ));
    }
    disk_state::expect(disk, &[IN_USE, AVAILABLE], "CreateSnapshot")?;
    check_none_in_progress(disk_id, snapshots, "IncorrectDiskStatus.CreatingSnapshot")?;
    let of_disk = snapshots.iter().filter(|s| s.disk_id == *disk_id && !s.automatic).count();
    if of_disk >= MOST_OF_DISK {
        return Err(refuse(
            403,
            "QuotaExceed.Snapshot",
            format!(
                "disk {disk_id} has {of_disk} snapshots of at most {MOST_OF_DISK}; delete some"
            ),
        ));
    }
    Ok(SnapshotRecord {
        snapshot_id: ids::snapshot(),
        disk_id: disk_id.clone(),
        disk_size_gib: disk.size_gib,
        disk_system: disk.system,
        category: disk.category.clone(),
        image_id: disk.image_id.clone(),
        data_key: disk.data_key.clone(),
        host_id: disk.host_id.clone(),
        pool_id: disk.pool_id.clone(),
        retention_days,
        expires_ms: expiry(now, retention_days),
        created_ms: now,
        status: PROGRESSING.to_owned(),
        ..Default::default()
    })
}

/// Refuses what must not happen to a disk while a snapshot of it is being taken.
pub(crate) fn check_none_in_progress(
    disk_id: &str,
    snapshots: &[SnapshotRecord],
    code: &'static str,
) -> Result<(), Refusal> {
    let busy =
        snapshots.iter().find(|s| s.disk_id == disk_id && s.status == PROGRESSING && !s.releasing);
    match busy {
        None => Ok(()),
        Some(snapshot) => Err(refuse(
            403,
            code,
            format!(
                "snapshot {} of disk {disk_id} is being taken; wait until it is accomplished",
                snapshot.snapshot_id
            ),
        )),
    }
}

/// The snapshot with this id, from which a disk can be made.
///
/// # Errors
/// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`.
pub(crate) fn ready<'a>(
    snapshots: &'a [SnapshotRecord],
    snapshot_id: &str,
) -> Result<&'a SnapshotRecord, Refusal> {
    let found = snapshots.iter().find(|s| s.snapshot_id == snapshot_id && !s.releasing);
    let snapshot = found.ok_or_else(|| crate::ecs_error::snapshot_not_found(snapshot_id))?;
    if snapshot.status != ACCOMPLISHED {
        return Err(refuse(
            403,
            "InvalidSnapshotId.NotReady",
            format!(
                "snapshot {snapshot_id} is {}; wait until it is accomplished, or use another",
                snapshot.status
            ),
        ));
    }
    Ok(snapshot)
}

/// A new disk begins with a snapshot's content, and so lies in its pool and has its key. The request
/// names `kms_key_id`, or none.
pub(crate) fn begin_with(
    disk: &mut DiskRecord,
    snapshot: &SnapshotRecord,
    kms_key_id: &str,
) -> Result<(), Refusal> {
    let source = format!("snapshot {}", snapshot.snapshot_id);
    encryption::begin_with(disk, kms_key_id, snapshot.data_key.as_ref(), &source)?;
    disk.source_snapshot_id.clone_from(&snapshot.snapshot_id);
    disk.content_snapshot_id.clone_from(&snapshot.snapshot_id);
    disk.image_id.clone_from(&snapshot.image_id);
    disk.pool_id.clone_from(&snapshot.pool_id);
    Ok(())
}

/// Wants nothing left of a snapshot. `disks` are those made from it or reset to it, `images` those
/// made from it or with data disks that are. Asking twice is asking once.
///
/// # Errors
/// `SnapshotCreatedDisk` and `SnapshotCreatedImage` unless forced, `Operation.Conflict` while a disk
/// or image is still being made.
pub(crate) fn release(
    snapshot: &mut SnapshotRecord,
    disks: &[DiskRecord],
    images: &[ImageRecord],
    force: bool,
) -> Result<(), Refusal> {
    if snapshot.releasing {
        return Ok(());
    }
    let snapshot_id = &snapshot.snapshot_id;
    let begun = |disk: &&DiskRecord| {
        let made = disk.reported.state == "ready" || disk.reported.size_bytes > 0;
        !disk.releasing
            && disk.content_snapshot_id == *snapshot_id
            && (!made || disk.reported.content_epoch < disk.content_epoch)
    };
    if let Some(disk) = disks.iter().find(begun) {
        return Err(refuse(
            403,
            "Operation.Conflict",
            format!(
                "disk {} is being made from snapshot {snapshot_id}; wait until it is there",
                disk.disk_id
            ),
        ));
    }
    if let Some(image) = images.iter().find(|image| image.status == "Creating") {
        return Err(refuse(
            403,
            "Operation.Conflict",
            format!(
                "image {} is being made from snapshot {snapshot_id}; wait until it is Available, \
                 or delete it",
                image.image_id
            ),
        ));
    }
    if !images.is_empty() && !force {
        let images: Vec<&str> =
            images.iter().map(|image| image.image_id.as_str()).take(10).collect();
        return Err(refuse(
            403,
            "SnapshotCreatedImage",
            format!(
                "{} made from snapshot {snapshot_id}; delete the images first, or use force: \
                 system disks are made from them all the same, data disks no more",
                images.join(", ")
            ),
        ));
    }
    let made: Vec<&str> = disks
        .iter()
        .filter(|disk| disk.source_snapshot_id == *snapshot_id && !disk.releasing)
        .map(|disk| disk.disk_id.as_str())
        .take(10)
        .collect();
    if !made.is_empty() && !force {
        return Err(refuse(
            403,
            "SnapshotCreatedDisk",
            format!(
                "{} made from snapshot {snapshot_id}; use force to delete it all the same: they \
                 keep their content, but can no more be re-initialized",
                made.join(", ")
            ),
        ));
    }
    snapshot.releasing = true;
    Ok(())
}

/// Automatic snapshots that go with a disk.
pub(crate) fn going_with<'a>(
    disk: &'a DiskRecord,
    snapshots: &'a [SnapshotRecord],
) -> impl Iterator<Item = SnapshotRecord> + 'a {
    let goes = |snapshot: &&SnapshotRecord| {
        disk.delete_auto_snapshot
            && snapshot.automatic
            && !snapshot.releasing
            && snapshot.disk_id == disk.disk_id
    };
    snapshots
        .iter()
        .filter(goes)
        .map(|snapshot| SnapshotRecord { releasing: true, ..snapshot.clone() })
}
