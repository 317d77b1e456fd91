//! Snapshots and their policies: what is kept of them.

use crate::disk_records::DataKeyRecord;

/// A snapshot of a disk. It lies on the disk's host and may outlive the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// `s-...`
    pub snapshot_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The disk, which may be gone.
    pub disk_id: String,
    /// Size of the disk when it was asked for.
    pub disk_size_gib: u64,
    /// The disk is a system disk.
    pub disk_system: bool,
    /// Category of the disk.
    pub category: String,
    /// Image the disk's content lies on, empty: none.
    pub image_id: String,
    /// Its disk's.
    pub data_key: Option<DataKeyRecord>,
    /// Host it lies on.
    pub host_id: String,
    /// Its disk's storage pool.
    pub pool_id: String,
    /// In a shared pool, as its disk's. The store keeps this and the next.
    pub tree_id: String,
    /// As its disk's.
    pub home_epoch: u64,
    /// Taken by a policy.
    pub automatic: bool,
    /// The policy's time point it was taken for, 0: none. A disk has one for each.
    pub point_ms: i64,
    /// Days it is kept, 0: for ever.
    pub retention_days: u32,
    /// When it is to go, 0: never.
    pub expires_ms: i64,
    /// Tags, key and value; only lists fill them in.
    pub tags: Vec<(String, String)>,
    /// When it was asked for.
    pub created_ms: i64,
    /// Deleted; kept until the host has nothing left of it.
    pub releasing: bool,
    /// Revision at which `releasing` was set.
    pub released_revision: u64,
    /// What the host said.
    pub reported: ReportedSnapshot,
    /// `progressing accomplished failed`, derived from what the host said.
    pub status: String,
}

/// What a host said about a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedSnapshot {
    /// `progressing accomplished failed`, empty before its first report.
    pub state: String,
    /// ECS-like reason, may be empty.
    pub code: String,
    /// Explanation, may be empty.
    pub message: String,
    /// Bytes that it alone keeps.
    pub changed_bytes: u64,
    /// The moment whose content it has, 0: not taken yet.
    pub taken_ms: i64,
}

/// When snapshots are taken, and how long they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRecord {
    /// `sp-...`
    pub policy_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Hours of the day, UTC, ascending: 0 to 23.
    pub time_points: Vec<u32>,
    /// Days of the week, ascending: 1 is Monday, 7 Sunday.
    pub weekdays: Vec<u32>,
    /// Days a snapshot is kept, 0: for ever.
    pub retention_days: u32,
    /// When it was made.
    pub created_ms: i64,
}
