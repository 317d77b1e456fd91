//! What goes into and comes out of transactions about disks.

use crate::{disk_records::*, records::*, snapshot_records::*, transactions::*};

/// What a decision about disks wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisksLookup {
    /// Disks to read, with the instances they are wanted at, their snapshots, and the snapshots they
    /// were made from.
    pub disk_ids: Vec<String>,
    /// Instances to read, with the snapshots of their disks.
    pub instance_ids: Vec<String>,
    /// Snapshots to read, with the disks that were made from them.
    pub snapshot_ids: Vec<String>,
    /// Image to read; empty: none.
    pub image_id: String,
    /// Also read the images that the asked snapshots and the asked instances' disks lie on.
    pub images_below: bool,
    /// Key pair to read; empty: none.
    pub key_pair_name: String,
    /// Snapshot policy to read; empty: none.
    pub policy_id: String,
    /// Storage pool whose hosts are read, by its id, else its name; empty: none.
    pub pool_id: String,
}

/// What a decision about disks sees.
#[derive(Debug, Clone, Default)]
pub struct DisksView {
    /// Those of the asked ids that exist, in the order asked.
    pub disks: Vec<DiskRecord>,
    /// The asked instances and those of the disks, as far as they exist.
    pub instances: Vec<InstanceDetails>,
    /// Disks that these instances are still to give up.
    pub leaving: Vec<DiskRecord>,
    /// Snapshots of the disks and of the instances' disks, those the disks were made from, and the asked ones.
    pub snapshots: Vec<SnapshotRecord>,
    /// Every disk that has layers in common with the disks and snapshots, these disks too.
    pub mates: Vec<DiskRecord>,
    /// Disks made from, or last reset to, the asked snapshots.
    pub from_snapshots: Vec<DiskRecord>,
    /// The image, if asked for and existing.
    pub image: Option<ImageRecord>,
    /// Images made from the asked snapshots, or whose data disks are.
    pub made_images: Vec<ImageRecord>,
    /// Images that the asked snapshots and the asked instances' disks lie on, if asked for.
    pub images_below: Vec<ImageRecord>,
    /// The key pair, if asked for and existing.
    pub key_pair: Option<KeyPairRecord>,
    /// The policy, if asked for and existing.
    pub policy: Option<PolicyRecord>,
    /// Hosts of the disks, the instances, the snapshots and the pool, with their pools.
    pub hosts: Vec<HostRecord>,
}

/// What changes. A disk of a shared pool takes those it has layers in common with to its host. Claims on pools follow the disks' `pool_id` and `size_gib`; the store sets
/// `attachment_revision` and `released_revision`. A released disk that is on no host goes at once.
#[derive(Debug, Clone, Default)]
pub struct DisksPlan {
    /// New disks, with their tags.
    pub insert: Vec<DiskRecord>,
    /// Whole new records of disks in the view; their tags stay as they are.
    pub update: Vec<DiskRecord>,
    /// New snapshots, with their tags. Fails with `AlreadyExists` if the disk has one for that time
    /// point.
    pub insert_snapshots: Vec<SnapshotRecord>,
    /// Snapshots in the view: whether they are released, and what was reported.
    pub update_snapshots: Vec<SnapshotRecord>,
    /// New images, with their tags. Fails with `AlreadyExists` if a name is taken.
    pub insert_images: Vec<ImageRecord>,
    /// Images of the view: their names, descriptions, families and versions. Fails with
    /// `AlreadyExists` if a name is taken.
    pub update_images: Vec<ImageRecord>,
    /// Whole new records of instances in the view.
    pub update_instances: Vec<InstanceRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}
