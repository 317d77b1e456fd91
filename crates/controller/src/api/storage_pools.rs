//! Storage pools, for the people who run the cloud.

use super::Api;
use crate::ecs_error::{from_store, refuse};
use api::v1::{DescribeStoragePoolsRequest, DescribeStoragePoolsResponse, StoragePool};
use std::collections::HashMap;
use store::{HostRecord, PoolRecord, PoolState, Refusal};

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
                && (request.host_id.is_empty() || request.host_id == pool.host_id)
        });
        let pools = pools.into_iter().map(|(pool, disks)| {
            let host = hosts.get(&pool.host_id);
            shown(pool, disks, host)
        });
        Ok(DescribeStoragePoolsResponse { request_id: String::new(), pools: pools.collect() })
    }
}

fn shown(pool: PoolRecord, disks: u64, host: Option<&HostRecord>) -> StoragePool {
    let lost = host.is_none_or(|host| host.lost);
    let (status, reason) = match pool.state {
        _ if lost => ("Unavailable", format!("its host {} is lost", pool.host_id)),
        PoolState::Ready => ("Ready", String::new()),
        PoolState::Low => ("Low", pool.message.clone()),
        PoolState::Unavailable => ("Unavailable", pool.message.clone()),
    };
    StoragePool {
        zone_id: host.map(|host| host.zone_id.clone()).unwrap_or_default(),
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
