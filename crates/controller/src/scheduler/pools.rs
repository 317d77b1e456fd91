//! Which storage pool of a host a disk goes to.

use std::cmp::Reverse;
use store::{HostRecord, PoolRecord, PoolState};

/// A disk to be placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskNeed {
    /// GiB.
    pub gib: u64,
    /// The only pool it can be in, by its id or name; empty: any, one of the host's own if it can be.
    pub pool_id: String,
}

/// Why a pool has no room for so much more; none if it has.
fn unfit(pool: &PoolRecord, gib: u64) -> Option<String> {
    match pool.state {
        PoolState::Ready => {
            let (claimed, limit) = (pool.claimed_gib(), pool.limit_gib);
            let free = limit.saturating_sub(claimed);
            (gib > free).then(|| {
                format!(
                    "has {free} GiB of disk free of {limit} ({} GiB are promised to disks and \
                     {} bytes kept by snapshots), {gib} needed",
                    pool.provisioned_gib, pool.snapshot_bytes
                )
            })
        }
        PoolState::Low => Some(format!(
            "takes no new disks, as {} bytes are available and {} are its reserve",
            pool.available_bytes, pool.reserve_bytes
        )),
        PoolState::Unavailable => Some(format!("is unavailable: {}", pool.message)),
    }
}

/// The pool of a host for a disk.
///
/// # Errors
/// Why none of them can take it.
pub fn choose(host: &HostRecord, need: &DiskNeed) -> Result<String, String> {
    let mut why = Vec::new();
    let mut best: Option<((bool, u128), &PoolRecord)> = None;
    for pool in &host.pools {
        if !need.pool_id.is_empty() && ![&pool.pool_id, &pool.name].contains(&&need.pool_id) {
            continue;
        }
        if let Some(reason) = unfit(pool, need.gib) {
            why.push(format!("its pool {} ({}) {reason}", pool.name, pool.pool_id));
            continue;
        }
        let after = u128::from(pool.claimed_gib() + need.gib);
        let load = (pool.shared, after * 1_000_000 / u128::from(pool.limit_gib.max(1)));
        if best.is_none_or(|(least, _)| load < least) {
            best = Some((load, pool));
        }
    }
    match best {
        Some((_, pool)) => Ok(pool.pool_id.clone()),
        None if why.is_empty() && need.pool_id.is_empty() => Err("has no storage pool".to_owned()),
        None if why.is_empty() => Err(format!("does not have storage pool {}", need.pool_id)),
        None => Err(format!("has no room for a disk of {} GiB: {}", need.gib, why.join(", "))),
    }
}

/// Claims pools of the host for all of these, and gives them in their order.
///
/// # Errors
/// Why one of them has no place; the host is then as it was.
pub fn choose_all(host: &mut HostRecord, needs: &[DiskNeed]) -> Result<Vec<String>, String> {
    let mut rest = host.clone();
    // Those with one possible place first, then the largest, as the others find a place more easily.
    let mut order: Vec<(usize, &DiskNeed)> = needs.iter().enumerate().collect();
    order.sort_by_key(|(index, need)| (need.pool_id.is_empty(), Reverse(need.gib), *index));
    let mut chosen = vec![String::new(); needs.len()];
    for (index, need) in order {
        let pool_id = choose(&rest, need)?;
        if let Some(pool) = rest.pools.iter_mut().find(|pool| pool.pool_id == pool_id) {
            pool.provisioned_gib += need.gib;
        }
        if let Some(place) = chosen.get_mut(index) {
            *place = pool_id;
        }
    }
    *host = rest;
    Ok(chosen)
}

/// The host through which a disk gets its place in a pool that was named: of those that have the
/// pool and room in it one that is there, and the one with the least to do.
///
/// # Errors
/// Why none of them can take it.
pub fn choose_host<'a>(
    hosts: &'a [HostRecord],
    need: &DiskNeed,
    zone_id: &str,
    now_ms: i64,
) -> Result<(&'a HostRecord, String), String> {
    let mut why = Vec::new();
    let mut best: Option<((bool, u64), &HostRecord, String)> = None;
    for host in hosts.iter().filter(|host| zone_id.is_empty() || host.zone_id == zone_id) {
        match choose(host, need) {
            Ok(pool_id) => {
                let gone = host.lost || host.lease_until_ms < now_ms;
                let order = (gone, host.memory_mib_used);
                if best.as_ref().is_none_or(|(least, ..)| order < *least) {
                    best = Some((order, host, pool_id));
                }
            }
            Err(reason) => why.push(format!("host {} {reason}", host.host_id)),
        }
    }
    best.map(|(_, host, pool_id)| (host, pool_id)).ok_or_else(|| why.join("; "))
}

/// Why a disk cannot grow by so much in its pool; none if it can.
pub fn no_room_to_grow(host: &HostRecord, pool_id: &str, more_gib: u64) -> Option<String> {
    let need = DiskNeed { gib: more_gib, pool_id: pool_id.to_owned() };
    choose(host, &need).err().map(|reason| format!("host {} {reason}", host.host_id))
}
