//! Disks: what is kept of them.

/// The data key of what is encrypted, as it is kept: wrapped by a master key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataKeyRecord {
    /// The master key.
    pub kms_key_id: String,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

/// A disk: what is wanted of it, and what its host last said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskRecord {
    /// `d-...`
    pub disk_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// `cloud_essd`, ...
    pub category: String,
    /// `PL0`..`PL3`, empty where the category has none.
    pub performance_level: String,
    /// Size.
    pub size_gib: u64,
    /// Limit.
    pub iops: u64,
    /// Limit in bytes per second.
    pub bytes_per_second: u64,
    /// IOPS beyond the baseline, of `cloud_auto` only.
    pub provisioned_iops: u64,
    /// Whether the limits are those of a burst, of `cloud_auto` only.
    pub bursting_enabled: bool,
    /// Zone.
    pub zone_id: String,
    /// Image it began as a copy-on-write copy of, empty: none.
    pub image_id: String,
    /// Snapshot it was made from, empty: none. The snapshot may be gone.
    pub source_snapshot_id: String,
    /// Of an encrypted disk; never changes.
    pub data_key: Option<DataKeyRecord>,
    /// Made as a system disk.
    pub system: bool,
    /// Goes with its instance.
    pub delete_with_instance: bool,
    /// Its automatic snapshots go with it.
    pub delete_auto_snapshot: bool,
    /// Policy by which snapshots of it are taken, empty: none.
    pub policy_id: String,
    /// No time point of the policy up to this one is due any more.
    pub policy_point_ms: i64,
    /// Tags, key and value; only lists fill them in.
    pub tags: Vec<(String, String)>,
    /// When it was made.
    pub created_ms: i64,

    /// The host its content is on; empty: it was never attached and has none.
    pub host_id: String,
    /// The storage pool its content is in; empty as long as `host_id` is.
    pub pool_id: String,
    /// In a shared pool: the disks and snapshots it has layers in common with, which are where it is.
    /// The store keeps it, and moves all of them when `host_id` changes.
    pub tree_id: String,
    /// Grows with each move; the store keeps it.
    pub home_epoch: u64,
    /// The instance it is wanted at, empty: none.
    pub instance_id: String,
    /// Its place among the instance's devices; 0 is the system disk.
    pub position: u32,
    /// When it was last wanted at an instance, 0: never.
    pub attached_ms: i64,
    /// When it was last no more wanted at an instance, 0: never.
    pub detached_ms: i64,
    /// Revision at which `instance_id` last changed.
    pub attachment_revision: u64,
    /// Grows with every change of size, limits and content that are wanted.
    pub generation: u64,
    /// Grows when the content is thrown away and made anew.
    pub content_epoch: u64,
    /// Snapshot the present content epoch begins with, empty: the image, or nothing.
    pub content_snapshot_id: String,
    /// Deleted; kept until the host has nothing left of it.
    pub releasing: bool,
    /// Revision at which `releasing` was set.
    pub released_revision: u64,

    /// What the host said.
    pub reported: ReportedDisk,
    /// Derived from all above; kept as a column so that it can be filtered on.
    pub status: String,
}

/// What a host said about a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedDisk {
    /// `ready failed`, empty before its first report.
    pub state: String,
    /// ECS-like reason, may be empty.
    pub code: String,
    /// Explanation, may be empty.
    pub message: String,
    /// Generation the host has acted on.
    pub generation: u64,
    /// The instance that has the disk or has a place for it, empty: none. Until the host has seen
    /// that a disk is to be taken from an instance, that instance counts as having it.
    pub instance_id: String,
    /// Size as the guest sees it.
    pub size_bytes: u64,
    /// Epoch of the content.
    pub content_epoch: u64,
}
