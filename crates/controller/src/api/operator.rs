//! For the people who run the cloud.

use super::{Api, service};
use crate::{
    ecs_error::{from_store, refuse},
    hosts::ask,
    timestamp,
};
use api::v1::{
    DescribeHostsRequest, DescribeHostsResponse, DescribeStoragePoolsRequest,
    DescribeStoragePoolsResponse, Host, ListHostObjectsRequest, ListHostObjectsResponse,
    OwnedObject, operator_service_server::OperatorService,
};
use futures::future::join_all;
use std::collections::HashSet;
use store::{HostRecord, Refusal};

service!(OperatorService => Api {
    describe_hosts: DescribeHostsRequest => DescribeHostsResponse;
    describe_storage_pools: DescribeStoragePoolsRequest => DescribeStoragePoolsResponse;
    list_host_objects: ListHostObjectsRequest => ListHostObjectsResponse;
});

impl Api {
    async fn describe_hosts(
        &self,
        _request: DescribeHostsRequest,
    ) -> Result<DescribeHostsResponse, Refusal> {
        let hosts = self.cloud.store.hosts().await.map_err(from_store)?;
        Ok(DescribeHostsResponse {
            request_id: String::new(),
            hosts: hosts
                .into_iter()
                .map(|(host, instances)| Host {
                    status: if host.lost { "Lost" } else { "Ready" }.to_owned(),
                    last_seen: timestamp::second(host.last_seen_ms),
                    disk_gib: host.disk_gib(),
                    disk_gib_used: host.disk_gib_used(),
                    host_id: host.host_id,
                    hostname: host.hostname,
                    zone_id: host.zone_id,
                    kvm: host.kvm,
                    vcpus: host.vcpu_limit,
                    memory_mib: host.memory_mib,
                    vcpus_used: host.vcpus_used,
                    memory_mib_used: host.memory_mib_used,
                    instances: u32::try_from(instances).unwrap_or(u32::MAX),
                    version: host.version,
                    access_endpoint: host.access_endpoint,
                    underlay_ip: host.underlay_ip,
                })
                .collect(),
        })
    }

    async fn list_host_objects(
        &self,
        request: ListHostObjectsRequest,
    ) -> Result<ListHostObjectsResponse, Refusal> {
        let hosts = self.cloud.store.hosts().await.map_err(from_store)?;
        let hosts: Vec<HostRecord> = hosts
            .into_iter()
            .map(|(host, _)| host)
            .filter(|host| request.host_id.is_empty() || host.host_id == request.host_id)
            .collect();
        if hosts.is_empty() && !request.host_id.is_empty() {
            return Err(refuse(
                404,
                "InvalidHostId.NotFound",
                format!("host {} is not registered; DescribeHosts lists them", request.host_id),
            ));
        }
        // All at once: one that does not answer keeps nobody waiting for the others.
        let answers = join_all(hosts.iter().map(|host| self.objects_of(host))).await;
        let mut objects = Vec::new();
        for (host, answer) in hosts.iter().zip(answers) {
            match answer {
                Ok(found) => objects.extend(found),
                Err(refusal) if !request.host_id.is_empty() => return Err(refusal),
                // What is on it nobody knows, so a search for leaks must not pass.
                Err(refusal) => objects.push(OwnedObject {
                    host_id: host.host_id.clone(),
                    kind: "unanswered".to_owned(),
                    name: refusal.to_string(),
                    owner: String::new(),
                    expected: false,
                }),
            }
        }
        Ok(ListHostObjectsResponse { request_id: String::new(), objects })
    }

    async fn objects_of(&self, host: &HostRecord) -> Result<Vec<OwnedObject>, Refusal> {
        let mut agent = self.cloud.access.client(host)?;
        let list = agent.list_host_objects(api::host::ListHostObjectsRequest {});
        let found = ask(&host.host_id, list).await?.objects;
        // Read after the agent's answer: what is made meanwhile is then known here too.
        let snapshot = self.cloud.store.host_snapshot(&host.host_id).await.map_err(from_store)?;
        let mut owners = HashSet::from([host.host_id.clone()]);
        if let Some(snapshot) = snapshot {
            for details in snapshot.instances {
                owners.extend(details.disks.into_iter().map(|disk| disk.disk_id));
                owners.extend(details.enis.into_iter().map(|eni| eni.eni_id));
                owners.insert(details.instance.instance_id);
            }
            owners.extend(snapshot.disks.into_iter().map(|disk| disk.disk_id));
            owners.extend(snapshot.snapshots.into_iter().map(|one| one.snapshot_id));
            owners.extend(snapshot.vpcs.into_iter().map(|vpc| vpc.vpc_id));
            owners.extend(snapshot.groups.into_iter().map(|members| members.group.group_id));
            owners.extend(snapshot.images.into_iter().map(|image| image.image_id));
        }
        Ok(found
            .into_iter()
            .map(|object| OwnedObject {
                host_id: host.host_id.clone(),
                expected: owners.contains(&object.owner),
                kind: object.kind,
                name: object.name,
                owner: object.owner,
            })
            .collect())
    }
}
