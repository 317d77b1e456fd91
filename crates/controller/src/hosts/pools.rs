//! What a host says of its storage pools.

use crate::ecs_error::invalid;
use api::host::{HostCapacity, StoragePool, StoragePoolState};
use store::{PoolRecord, PoolState, Refusal};

/// Most pools of a host.
const MOST_POOLS: usize = 64;
/// Over-commit of more than this is a mistake.
const MOST_PERCENT: f64 = 100_000.0;

/// The pools of a registration.
///
/// # Errors
/// `InvalidParameter` when one cannot be known by its id or name.
pub(super) fn registered(
    host_id: &str,
    said: &[StoragePool],
    capacity: &HostCapacity,
    overcommit: f64,
) -> Result<Vec<PoolRecord>, Refusal> {
    if said.is_empty() {
        let bytes = capacity.disk_gib.saturating_mul(1 << 30).min(i64::MAX as u64);
        let whole = StoragePool {
            pool_id: PoolRecord::default_id(host_id),
            name: "default".to_owned(),
            capacity_bytes: bytes,
            available_bytes: bytes,
            ..Default::default()
        };
        return Ok(vec![record(&whole, overcommit)]);
    }
    if said.len() > MOST_POOLS {
        return Err(invalid(format!(
            "host {host_id} names {} storage pools, of at most {MOST_POOLS}",
            said.len()
        )));
    }
    for (index, pool) in said.iter().enumerate() {
        let twice = said
            .iter()
            .take(index)
            .any(|other| other.pool_id == pool.pool_id || other.name == pool.name);
        if pool.pool_id.is_empty() || pool.name.is_empty() || twice {
            return Err(invalid(format!(
                "host {host_id}: storage pool {:?} ({}) needs an id and a name of its own",
                pool.name, pool.pool_id
            )));
        }
    }
    Ok(said.iter().map(|pool| record(pool, overcommit)).collect())
}

/// The pools of a report.
pub(super) fn reported(said: &[StoragePool], overcommit: f64) -> Vec<PoolRecord> {
    said.iter().take(MOST_POOLS).map(|pool| record(pool, overcommit)).collect()
}

fn record(said: &StoragePool, overcommit: f64) -> PoolRecord {
    let factor = if said.overcommit > 0.0 { said.overcommit } else { overcommit };
    let percent = (factor * 100.0).round().clamp(0.0, MOST_PERCENT) as u32;
    let within = |bytes: u64| bytes.min(i64::MAX as u64);
    let (capacity, reserve) = (within(said.capacity_bytes), within(said.reserve_bytes));
    PoolRecord {
        pool_id: said.pool_id.clone(),
        name: said.name.clone(),
        path: said.path.clone(),
        overcommit_percent: percent,
        capacity_bytes: capacity,
        available_bytes: within(said.available_bytes),
        reserve_bytes: reserve,
        limit_gib: PoolRecord::limit_of(capacity, reserve, percent),
        state: match said.state() {
            StoragePoolState::Unspecified | StoragePoolState::Ready => PoolState::Ready,
            StoragePoolState::Low => PoolState::Low,
            StoragePoolState::Unavailable => PoolState::Unavailable,
        },
        message: said.message.clone(),
        shared: said.shared,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn limits_follow_capacity_reserve_and_the_nearest_factor() {
        let capacity = HostCapacity { vcpus: 1, memory_mib: 1, disk_gib: 100 };
        let whole = registered("h-1", &[], &capacity, 10.0).unwrap();
        assert_eq!((whole[0].pool_id.as_str(), whole[0].limit_gib), ("pool-h-1", 1000));
        let own = StoragePool {
            pool_id: "pool-1".to_owned(),
            name: "fast".to_owned(),
            capacity_bytes: 110 * GIB,
            reserve_bytes: 10 * GIB,
            overcommit: 1.5,
            ..Default::default()
        };
        let pools = registered("h-1", std::slice::from_ref(&own), &capacity, 10.0).unwrap();
        assert_eq!(pools[0].limit_gib, 150);
        let full = StoragePool { reserve_bytes: 200 * GIB, ..own.clone() };
        assert_eq!(reported(&[full], 10.0)[0].limit_gib, 0);
        let twice = StoragePool { pool_id: "pool-2".to_owned(), ..own.clone() };
        assert!(registered("h-1", &[own.clone(), twice], &capacity, 10.0).is_err());
        let huge = StoragePool { capacity_bytes: u64::MAX, overcommit: f64::MAX, ..own };
        assert!(reported(&[huge], 10.0)[0].limit_gib > 0);
    }
}
