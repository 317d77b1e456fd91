//! Storage pools: what is kept of them.

const GIB: u64 = 1 << 30;

/// Whether a pool takes new disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PoolState {
    /// It does.
    #[default]
    Ready,
    /// Less is available than its reserve.
    Low,
    /// Its host cannot reach it, or does not name it any more.
    Unavailable,
}

/// One host's view of a shared pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolHost {
    /// The host.
    pub host_id: String,
    /// On it.
    pub path: String,
    /// As it last said.
    pub state: PoolState,
    /// Why it is not ready, and what to do.
    pub message: String,
}

/// A disk or snapshot in a shared pool that a host is to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// Its id.
    pub resource_id: String,
    /// The pool.
    pub pool_id: String,
    /// What it shares layers with.
    pub tree_id: String,
    /// Grows each time the tree gets another host.
    pub home_epoch: u64,
    /// A snapshot; else a disk.
    pub snapshot: bool,
}

/// A directory that disks lie in, of one host or shared by several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolRecord {
    /// Kept in the pool itself.
    pub pool_id: String,
    /// The host. Of a shared pool the one through which it is seen, if it is seen through one.
    pub host_id: String,
    /// Several hosts may name it.
    pub shared: bool,
    /// These, where it is not seen through one of them.
    pub hosts: Vec<PoolHost>,
    /// Name for people, unique on the host.
    pub name: String,
    /// On the host.
    pub path: String,
    /// GiB of disks offered per 100 GiB.
    pub overcommit_percent: u32,
    /// Offered to disks and their layers.
    pub capacity_bytes: u64,
    /// Of them still free, as the host last said.
    pub available_bytes: u64,
    /// With fewer available it takes no new disks.
    pub reserve_bytes: u64,
    /// GiB that may be claimed.
    pub limit_gib: u64,
    /// GiB claimed by the sizes of disks. The store keeps it.
    pub provisioned_gib: u64,
    /// What snapshots alone keep, which counts as claimed. The store keeps it.
    pub snapshot_bytes: u64,
    /// As the host last said.
    pub state: PoolState,
    /// Why it is not ready, and what to do.
    pub message: String,
}

impl PoolRecord {
    /// The id of the pool that every host has.
    pub fn default_id(host_id: &str) -> String {
        format!("pool-{host_id}")
    }

    /// GiB claimed by disks and snapshots.
    pub fn claimed_gib(&self) -> u64 {
        self.provisioned_gib.saturating_add(self.snapshot_bytes.div_ceil(GIB))
    }

    /// What may be claimed of a pool of this capacity.
    pub fn limit_of(capacity_bytes: u64, reserve_bytes: u64, overcommit_percent: u32) -> u64 {
        let usable = u128::from(capacity_bytes.saturating_sub(reserve_bytes));
        let gib = usable * u128::from(overcommit_percent) / (100 * u128::from(GIB));
        u64::try_from(gib).unwrap_or(u64::MAX).min(i64::MAX as u64)
    }
}
