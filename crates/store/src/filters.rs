//! What a list can be narrowed by.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Filters of a list of instances; empty ones match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InstanceFilter {
    pub instance_ids: Vec<String>,
    /// `*` is a wildcard.
    pub name: String,
    pub status: String,
    pub vpc_id: String,
    pub vswitch_id: String,
    pub security_group_id: String,
    pub image_id: String,
    pub instance_type: String,
    pub zone_id: String,
    pub key_pair_name: String,
    pub private_ips: Vec<Ipv4Addr>,
    pub ipv6_addresses: Vec<Ipv6Addr>,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of VPCs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct VpcFilter {
    pub vpc_ids: Vec<String>,
    pub name: String,
}

/// Filters of a list of VSwitches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct VSwitchFilter {
    pub vpc_id: String,
    pub vswitch_id: String,
    pub zone_id: String,
    pub route_table_id: String,
    /// `*` is a wildcard.
    pub name: String,
}

/// Filters of a list of security groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupFilter {
    pub group_ids: Vec<String>,
    pub vpc_id: String,
    /// `*` is a wildcard.
    pub name: String,
    pub enterprise: Option<bool>,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of key pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct KeyPairFilter {
    /// `*` is a wildcard.
    pub name: String,
    pub fingerprint: String,
}

/// Filters of a list of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ImageFilter {
    pub image_ids: Vec<String>,
    /// `*` is a wildcard.
    pub name: String,
    pub family: String,
    pub statuses: Vec<String>,
    pub architecture: String,
    /// Made from it, or with disks from it.
    pub snapshot_id: String,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DiskFilter {
    pub disk_ids: Vec<String>,
    /// The instance it is wanted at, or that it still leaves.
    pub instance_id: String,
    /// System disks only, or data disks only.
    pub system: Option<bool>,
    /// `*` is a wildcard.
    pub name: String,
    pub category: String,
    pub performance_level: String,
    pub status: String,
    pub zone_id: String,
    pub source_snapshot_id: String,
    pub delete_with_instance: Option<bool>,
    pub delete_auto_snapshot: Option<bool>,
    pub encrypted: Option<bool>,
    pub kms_key_id: String,
    pub policy_id: String,
    pub pool_id: String,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SnapshotFilter {
    pub snapshot_ids: Vec<String>,
    pub disk_id: String,
    /// Of disks that are at this instance.
    pub instance_id: String,
    /// `*` is a wildcard.
    pub name: String,
    pub status: String,
    /// Taken by a policy.
    pub automatic: Option<bool>,
    /// Of system disks.
    pub disk_system: Option<bool>,
    /// Disks were made from it.
    pub used: Option<bool>,
    /// Not released, and to go by this time.
    pub expired_ms: Option<i64>,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of snapshot policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PolicyFilter {
    pub policy_ids: Vec<String>,
    /// `*` is a wildcard.
    pub name: String,
}

/// Filters of a list of interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EniFilter {
    pub eni_ids: Vec<String>,
    /// The instance it is wanted at, or that it still leaves.
    pub instance_id: String,
    pub vswitch_id: String,
    pub vpc_id: String,
    pub security_group_id: String,
    /// `*` is a wildcard.
    pub name: String,
    pub status: String,
    pub primary: Option<bool>,
    pub primary_ip: Option<Ipv4Addr>,
    /// Primary or secondary ones.
    pub private_ips: Vec<Ipv4Addr>,
    pub ipv6_addresses: Vec<Ipv6Addr>,
    /// Key and value; an empty value matches any.
    pub tags: Vec<(String, String)>,
}

/// Filters of a list of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EventFilter {
    pub resource_id: String,
    pub event_types: Vec<String>,
}
