//! What goes into and comes out of transactions about disks.

use crate::{disk_records::*, records::*, transactions::*};

/// What a decision about disks wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisksLookup {
    /// Disks to read, with the instances they are wanted at.
    pub disk_ids: Vec<String>,
    /// Instances to read.
    pub instance_ids: Vec<String>,
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
    /// Hosts of the disks and of the instances.
    pub hosts: Vec<HostRecord>,
}

/// What changes. Claims on hosts follow the disks' `host_id` and `size_gib`; the store sets
/// `attachment_revision` and `released_revision`. A released disk that is on no host goes at once.
#[derive(Debug, Clone, Default)]
pub struct DisksPlan {
    /// New disks, with their tags.
    pub insert: Vec<DiskRecord>,
    /// Whole new records of disks in the view; their tags stay as they are.
    pub update: Vec<DiskRecord>,
    /// Whole new records of instances in the view.
    pub update_instances: Vec<InstanceRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}
