//! Regions, zones, instance families and types.

use super::{Api, service};
use crate::{
    ecs_error::{from_store, invalid},
    scheduler::{self, Needs},
    timestamp::now_ms,
};
use api::v1::{catalog_service_server::CatalogService, *};
use catalog::DiskCategory;
use store::{HostRecord, Refusal};

const MOST: u32 = 1600;

service!(CatalogService => Api {
    describe_regions: DescribeRegionsRequest => DescribeRegionsResponse;
    describe_zones: DescribeZonesRequest => DescribeZonesResponse;
    describe_instance_types: DescribeInstanceTypesRequest => DescribeInstanceTypesResponse;
    describe_instance_type_families:
        DescribeInstanceTypeFamiliesRequest => DescribeInstanceTypeFamiliesResponse;
});

/// Why no host can run a type now; none if one can.
fn unavailable(
    kind: &catalog::InstanceType,
    zone_ids: &[String],
    hosts: &[HostRecord],
) -> Option<String> {
    if let Some(reason) = kind.family().requires.missing_on_kvm_x86() {
        return Some(format!("{} {reason}", kind.id));
    }
    if kind.memory_mib == 0 {
        return Some(format!("the memory size of {} is not published", kind.id));
    }
    let now = now_ms();
    let mut needs = Needs {
        zone_id: String::new(),
        instance_type: kind.id.clone(),
        vcpus: kind.vcpus,
        memory_mib: kind.memory_mib,
        disks: Vec::new(),
    };
    let mut why = String::new();
    for zone_id in zone_ids {
        needs.zone_id.clone_from(zone_id);
        if !scheduler::place(hosts, &needs, 1, now).is_empty() {
            return None;
        }
        if why.is_empty() || hosts.iter().any(|host| host.zone_id == *zone_id) {
            why = scheduler::no_stock(hosts, &needs, 1, 0, now).message;
        }
    }
    Some(why)
}

impl Api {
    async fn live_hosts(&self) -> Result<Vec<HostRecord>, Refusal> {
        let hosts = self.cloud.store.hosts().await.map_err(from_store)?;
        Ok(hosts.into_iter().map(|(host, _)| host).collect())
    }

    async fn describe_regions(
        &self,
        _request: DescribeRegionsRequest,
    ) -> Result<DescribeRegionsResponse, Refusal> {
        let region_id = self.cloud.options.region_id.clone();
        Ok(DescribeRegionsResponse {
            request_id: String::new(),
            regions: vec![Region {
                local_name: region_id.clone(),
                region_id,
                region_endpoint: String::new(),
                status: "available".to_owned(),
            }],
        })
    }

    async fn describe_zones(
        &self,
        request: DescribeZonesRequest,
    ) -> Result<DescribeZonesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let hosts = self.live_hosts().await?;
        let zones = self.cloud.options.zone_ids.iter().map(|zone_id| Zone {
            zone_id: zone_id.clone(),
            local_name: zone_id.clone(),
            available_instance_types: catalog::instance_types()
                .iter()
                .filter(|kind| unavailable(kind, std::slice::from_ref(zone_id), &hosts).is_none())
                .map(|kind| kind.id.clone())
                .collect(),
            available_disk_categories: DiskCategory::ALL
                .iter()
                .map(|category| category.as_str().to_owned())
                .collect(),
        });
        Ok(DescribeZonesResponse { request_id: String::new(), zones: zones.collect() })
    }

    async fn describe_instance_types(
        &self,
        request: DescribeInstanceTypesRequest,
    ) -> Result<DescribeInstanceTypesResponse, Refusal> {
        let limit = if request.max_results == 0 { MOST } else { request.max_results };
        if limit > MOST {
            return Err(invalid(format!("max_results is {limit}; it must be 1 to {MOST}")));
        }
        let start: usize = match request.next_token.as_str() {
            "" => 0,
            token => token
                .parse()
                .map_err(|_| invalid("next_token is not one this query gave; leave it out"))?,
        };
        let hosts = self.live_hosts().await?;
        let matching: Vec<&catalog::InstanceType> =
            catalog::instance_types().iter().filter(|kind| matches(kind, &request)).collect();
        let end = start.saturating_add(limit as usize);
        let zones = &self.cloud.options.zone_ids;
        Ok(DescribeInstanceTypesResponse {
            request_id: String::new(),
            instance_types: matching
                .iter()
                .skip(start)
                .take(limit as usize)
                .map(|kind| describe(kind, unavailable(kind, zones, &hosts)))
                .collect(),
            next_token: if end < matching.len() { end.to_string() } else { String::new() },
        })
    }

    async fn describe_instance_type_families(
        &self,
        request: DescribeInstanceTypeFamiliesRequest,
    ) -> Result<DescribeInstanceTypeFamiliesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        Ok(DescribeInstanceTypeFamiliesResponse {
            request_id: String::new(),
            instance_type_families: catalog::families()
                .iter()
                .filter(|family| {
                    request.generation.is_empty() || family.generation == request.generation
                })
                .map(|family| InstanceTypeFamily {
                    instance_type_family_id: family.id.to_owned(),
                    generation: family.generation.to_owned(),
                    category: family.category.to_owned(),
                })
                .collect(),
        })
    }
}

fn matches(kind: &catalog::InstanceType, request: &DescribeInstanceTypesRequest) -> bool {
    let family = &request.instance_type_family;
    let at_most = |limit: u32, value: u32| limit == 0 || value <= limit;
    (request.instance_types.is_empty() || request.instance_types.contains(&kind.id))
        && (family.is_empty() || *family == kind.family)
        && kind.vcpus >= request.minimum_cpu_core_count
        && at_most(request.maximum_cpu_core_count, kind.vcpus)
        && kind.memory_gib() >= request.minimum_memory_size
        && (request.maximum_memory_size == 0.0 || kind.memory_gib() <= request.maximum_memory_size)
        && (request.cpu_architecture.is_empty()
            || request.cpu_architecture.eq_ignore_ascii_case(kind.architecture.as_str()))
}

fn describe(kind: &catalog::InstanceType, unavailable: Option<String>) -> InstanceType {
    let network = &kind.network;
    InstanceType {
        instance_type_id: kind.id.clone(),
        instance_type_family: kind.family.to_owned(),
        instance_family_level: kind.level.as_str().to_owned(),
        cpu_core_count: kind.vcpus,
        memory_size: kind.memory_gib(),
        cpu_architecture: kind.architecture.as_str().to_owned(),
        physical_processor_model: kind.processor.to_owned(),
        gpu_amount: kind.gpu.map_or(0, |gpu| gpu.amount),
        gpu_spec: kind.gpu_spec().to_owned(),
        eni_quantity: kind.enis.unwrap_or(0),
        eni_private_ip_address_quantity: kind.ips_per_eni.unwrap_or(0),
        eni_ipv6_address_quantity: kind.ipv6s_per_eni.unwrap_or(0),
        nic_queues: kind.nic_queues.unwrap_or(0),
        instance_bandwidth_rx: network.base_kbps.unwrap_or(0),
        instance_bandwidth_tx: network.base_kbps.unwrap_or(0),
        instance_pps_rx: network.pps.unwrap_or(0),
        instance_pps_tx: network.pps.unwrap_or(0),
        baseline_credit: kind.credits.map_or(0, |credits| credits.baseline_percent),
        initial_credit: kind.credits.map_or(0, |credits| credits.initial),
        disk_quantity: kind.max_data_disks + 1,
        instance_bandwidth_burst: network.burst_kbps.unwrap_or(0),
        disk_iops: kind.disk.base_iops.unwrap_or(0),
        disk_bandwidth: kind.disk.base_kbps.unwrap_or(0),
        available: unavailable.is_none(),
        unavailable_reason: unavailable.unwrap_or_default(),
    }
}
