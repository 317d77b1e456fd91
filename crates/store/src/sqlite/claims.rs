//! What instances and disks take of their hosts.

use super::writer::Tx;
use crate::{InstanceRecord, StoreError};
use rusqlite::params;

/// A part of a host.
#[derive(Debug, Default)]
pub(super) struct Claim {
    vcpus: u32,
    memory_mib: u64,
    disk_gib: u64,
}

impl Claim {
    /// Of an instance, without its disks.
    pub fn of(instance: &InstanceRecord) -> Self {
        if instance.claimed {
            Self { vcpus: instance.vcpus, memory_mib: instance.memory_mib, disk_gib: 0 }
        } else {
            Self::default()
        }
    }

    /// Of disks.
    pub fn disk(disk_gib: u64) -> Self {
        Self { disk_gib, ..Self::default() }
    }
}

/// Takes (`sign` 1) or gives back (`sign` -1) a claim. Taking never goes over the host's limits.
pub(super) fn claim(
    tx: &Tx<'_>,
    host_id: &str,
    claim: &Claim,
    sign: i64,
) -> Result<(), StoreError> {
    if claim.vcpus == 0 && claim.memory_mib == 0 && claim.disk_gib == 0 {
        return Ok(());
    }
    let changed = tx
        .conn
        .prepare_cached(
            "UPDATE hosts SET vcpus_used = vcpus_used + ?2, memory_mib_used = memory_mib_used + ?3,
                 disk_gib_used = disk_gib_used + ?4
             WHERE host_id = ?1 AND (?5 < 0 OR (
                 (?2 = 0 OR vcpus_used + ?2 <= vcpu_limit)
                 AND (?3 = 0 OR memory_mib_used + ?3 <= memory_mib)
                 AND (?4 = 0 OR disk_gib_used + ?4 <= disk_gib)))",
        )?
        .execute(params![
            host_id,
            i64::from(claim.vcpus) * sign,
            claim.memory_mib as i64 * sign,
            claim.disk_gib as i64 * sign,
            sign
        ])?;
    if changed == 0 {
        return Err(StoreError::HostFull { host_id: host_id.to_owned() });
    }
    Ok(())
}
