//! Which host runs an instance: filters first, then scores. The claim itself is taken by the store
//! in the same transaction, so that no two decisions can sell the same capacity.

mod pools;

pub use pools::{DiskNeed, choose, choose_all, choose_host, no_room_to_grow};

use crate::ecs_error::refuse;
use store::{HostRecord, InstanceRecord, Refusal};

/// What an instance needs of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Zone it has to be in.
    pub zone_id: String,
    /// Instance type, for messages.
    pub instance_type: String,
    /// vCPUs.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u64,
    /// Its disks.
    pub disks: Vec<DiskNeed>,
}

impl Needs {
    /// Of one that has its disks and wants its vCPUs and memory back.
    pub fn of_instance(instance: &InstanceRecord) -> Self {
        Self {
            zone_id: instance.zone_id.clone(),
            instance_type: instance.instance_type.clone(),
            vcpus: instance.vcpus,
            memory_mib: instance.memory_mib,
            disks: Vec::new(),
        }
    }
}

/// Where an instance goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The host.
    pub host_id: String,
    /// Storage pools of its disks, in their order.
    pub pool_ids: Vec<String>,
}

/// Most hosts a refusal goes into.
const EXPLAINED_HOSTS: usize = 5;

/// Why a host cannot take it; none if it can.
fn unfit(host: &HostRecord, needs: &Needs, now_ms: i64) -> Option<String> {
    if host.zone_id != needs.zone_id {
        return Some(format!("is in zone {}", host.zone_id));
    }
    if host.lost || host.lease_until_ms < now_ms {
        return Some("has lost its lease".to_owned());
    }
    short("vCPUs", needs.vcpus.into(), host.vcpus_used.into(), host.vcpu_limit.into())
        .or_else(|| short("MiB", needs.memory_mib, host.memory_mib_used, host.memory_mib))
        .or_else(|| choose_all(&mut host.clone(), &needs.disks).err())
}

fn short(what: &str, need: u64, used: u64, limit: u64) -> Option<String> {
    let free = limit.saturating_sub(used);
    (need > free).then(|| format!("has {free} {what} free of {limit}, {need} needed"))
}

/// Share of its scarcer resource that would be in use, in parts per million: fewer is better.
fn load(host: &HostRecord, needs: &Needs) -> u64 {
    let share = |used: u64, limit: u64| used.saturating_mul(1_000_000) / limit.max(1);
    let vcpus = u64::from(host.vcpus_used) + u64::from(needs.vcpus);
    share(vcpus, host.vcpu_limit.into())
        .max(share(host.memory_mib_used + needs.memory_mib, host.memory_mib))
}

/// Places up to `amount` instances, spread over the hosts.
pub fn place(hosts: &[HostRecord], needs: &Needs, amount: u32, now_ms: i64) -> Vec<Placement> {
    let mut hosts: Vec<HostRecord> = hosts.to_vec();
    let mut placed = Vec::new();
    for _ in 0..amount {
        let best = hosts
            .iter_mut()
            .filter(|host| unfit(host, needs, now_ms).is_none())
            .min_by_key(|host| (load(host, needs), host.host_id.clone()));
        let Some(host) = best else { break };
        let Ok(pool_ids) = choose_all(host, &needs.disks) else { break };
        host.vcpus_used += needs.vcpus;
        host.memory_mib_used += needs.memory_mib;
        placed.push(Placement { host_id: host.host_id.clone(), pool_ids });
        // What is promised of a shared pool is promised for all of its hosts.
        let shared: Vec<(String, u64)> = host
            .pools
            .iter()
            .filter(|pool| pool.shared)
            .map(|pool| (pool.pool_id.clone(), pool.provisioned_gib))
            .collect();
        for pool in hosts.iter_mut().flat_map(|host| &mut host.pools) {
            if let Some((_, gib)) = shared.iter().find(|(id, _)| *id == pool.pool_id) {
                pool.provisioned_gib = pool.provisioned_gib.max(*gib);
            }
        }
    }
    placed
}

/// The refusal when too few could be placed: it says what is wrong with each host.
pub fn no_stock(
    hosts: &[HostRecord],
    needs: &Needs,
    wanted: u32,
    placed: usize,
    now_ms: i64,
) -> Refusal {
    let in_zone: Vec<&HostRecord> =
        hosts.iter().filter(|host| host.zone_id == needs.zone_id).collect();
    let mut why = if in_zone.is_empty() {
        format!("zone {} has no hosts; register one", needs.zone_id)
    } else {
        in_zone
            .iter()
            .take(EXPLAINED_HOSTS)
            .map(|host| {
                let reason = unfit(host, needs, now_ms)
                    .unwrap_or_else(|| format!("takes {placed} of {wanted} at most"));
                format!("host {} {reason}", host.host_id)
            })
            .collect::<Vec<_>>()
            .join("; ")
    };
    if in_zone.len() > EXPLAINED_HOSTS {
        why.push_str(&format!("; and {} more", in_zone.len() - EXPLAINED_HOSTS));
    }
    refuse(
        403,
        "OperationDenied.NoStock",
        format!(
            "no room for {wanted} x {} in zone {}, {placed} could be placed: {why}",
            needs.instance_type, needs.zone_id
        ),
    )
}

/// Why an instance cannot be started on the host its disks are on; none if it can.
pub fn cannot_resume(host: &HostRecord, needs: &Needs, now_ms: i64) -> Option<Refusal> {
    unfit(host, needs, now_ms).map(|reason| {
        refuse(
            403,
            "OperationDenied.NoStock",
            format!(
                "{} cannot start: its disks are on host {}, which {reason}",
                needs.instance_type, host.host_id
            ),
        )
    })
}
