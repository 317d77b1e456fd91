//! Storage pools, for the people who run the cloud.

use super::Api;
use crate::ecs_error::{from_store, refuse};
use api::v1::{
    DescribeStoragePoolsRequest, DescribeStoragePoolsResponse, StoragePool, StoragePoolHost,
};
use std::collections::HashMap;
use store::{HostRecord, PoolHost, PoolRecord, PoolState, Refusal};

impl Api {
    pub(super) async fn describe_storage_pools(
        &self,
        request: DescribeStoragePoolsRequest,
    ) -> Result<DescribeStoragePoolsResponse, Refusal> {
        let hosts = self.cloud.store.hosts().await.map_err(from_store)?;
        let hosts: HashMap<String, HostRecord> =
            hosts.into_iter().map(|(host, _)| (host.host_id.clone(), host)).collect();
        let mut pools = self.cloud.store.pools().await.map_err(from_store)?;
        let unknown =
            request.pool_ids.iter().find(|id| !pools.iter().any(|(pool, _)| pool.pool_id == **id));
        if let Some(pool_id) = unknown {
            return Err(refuse(
                404,
                "InvalidStoragePoolId.NotFound",
                format!("storage pool {pool_id} does not exist; DescribeStoragePools lists them"),
            ));
        }
        pools.retain(|(pool, _)| {
            (request.pool_ids.is_empty() || request.pool_ids.contains(&pool.pool_id))
                && (request.host_id.is_empty()
                    || request.host_id == pool.host_id
                    || pool.hosts.iter().any(|host| host.host_id == request.host_id))
        });
        let pools = pools.into_iter().map(|(pool, disks)| shown(pool, disks, &hosts));
        Ok(DescribeStoragePoolsResponse { request_id: String::new(), pools: pools.collect() })
    }
}

/// How a host has a pool.
fn status(
    state: PoolState,
    said: &str,
    host: Option<&HostRecord>,
    host_id: &str,
) -> (&'static str, String) {
    match state {
        _ if host.is_none_or(|host| host.lost) => {
            ("Unavailable", format!("its host {host_id} is lost"))
        }
        PoolState::Ready => ("Ready", String::new()),
        PoolState::Low => ("Low", said.to_owned()),
        PoolState::Unavailable => ("Unavailable", said.to_owned()),
    }
}

/// A shared pool is as the host that has it best.
fn overall(hosts: &[StoragePoolHost]) -> (&'static str, String) {
    for wanted in ["Ready", "Low"] {
        if let Some(host) = hosts.iter().find(|host| host.status == wanted) {
            return (wanted, host.status_reason.clone());
        }
    }
    let reasons: Vec<String> =
        hosts.iter().map(|host| format!("{}: {}", host.host_id, host.status_reason)).collect();
    ("Unavailable", reasons.join("; "))
}

fn shown(pool: PoolRecord, disks: u64, hosts: &HashMap<String, HostRecord>) -> StoragePool {
    let of_shared = |host: &PoolHost| {
        let record = hosts.get(&host.host_id);
        let (status, reason) = status(host.state, &host.message, record, &host.host_id);
        StoragePoolHost {
            host_id: host.host_id.clone(),
            path: host.path.clone(),
            zone_id: record.map(|host| host.zone_id.clone()).unwrap_or_default(),
            status: status.to_owned(),
            status_reason: reason,
        }
    };
    let of_shared: Vec<StoragePoolHost> = pool.hosts.iter().map(of_shared).collect();
    let host = hosts.get(&pool.host_id);
    let (status, reason) = if pool.shared {
        overall(&of_shared)
    } else {
        status(pool.state, &pool.message, host, &pool.host_id)
    };
    let mut zones: Vec<String> = of_shared.iter().map(|host| host.zone_id.clone()).collect();
    zones.extend(host.map(|host| host.zone_id.clone()));
    zones.sort();
    zones.dedup();
    StoragePool {
        zone_id: zones.join(" "),
        shared: pool.shared,
        hosts: of_shared,
        status: status.to_owned(),
        status_reason: reason,
        overcommit: f64::from(pool.overcommit_percent) / 100.0,
        pool_id: pool.pool_id,
        pool_name: pool.name,
        host_id: pool.host_id,
        path: pool.path,
        capacity_bytes: pool.capacity_bytes,
        available_bytes: pool.available_bytes,
        reserve_bytes: pool.reserve_bytes,
        limit_gib: pool.limit_gib,
        provisioned_gib: pool.provisioned_gib,
        snapshot_bytes: pool.snapshot_bytes,
        disks: u32::try_from(disks).unwrap_or(u32::MAX),
    }
}
