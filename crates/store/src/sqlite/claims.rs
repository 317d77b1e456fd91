//! What instances take of their hosts. What disks take of pools is in `pools`.

use super::writer::Tx;
use crate::{InstanceRecord, StoreError};
use rusqlite::params;

/// A part of a host.
#[derive(Debug, Default)]
pub(super) struct Claim {
    vcpus: u32,
    memory_mib: u64,
}

impl Claim {
    /// Of an instance.
    pub fn of(instance: &InstanceRecord) -> Self {
        if instance.claimed {
            Self { vcpus: instance.vcpus, memory_mib: instance.memory_mib }
        } else {
            Self::default()
        }
    }
}

/// Takes (`sign` 1) or gives back (`sign` -1) a claim. Taking never goes over the host's limits.
pub(super) fn claim(
    tx: &Tx<'_>,
    host_id: &str,
    claim: &Claim,
    sign: i64,
) -> Result<(), StoreError> {
    if claim.vcpus == 0 && claim.memory_mib == 0 {
        return Ok(());
    }
    let changed = tx
        .conn
        .prepare_cached(
            "UPDATE hosts SET vcpus_used = vcpus_used + ?2, memory_mib_used = memory_mib_used + ?3
             WHERE host_id = ?1 AND (?4 < 0 OR (
                 (?2 = 0 OR vcpus_used + ?2 <= vcpu_limit)
                 AND (?3 = 0 OR memory_mib_used + ?3 <= memory_mib)))",
        )?
        .execute(params![
            host_id,
            i64::from(claim.vcpus) * sign,
            claim.memory_mib as i64 * sign,
            sign
        ])?;
    if changed == 0 {
        return Err(StoreError::HostFull { host_id: host_id.to_owned() });
    }
    Ok(())
}
