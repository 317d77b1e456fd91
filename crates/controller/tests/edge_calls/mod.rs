//! A cloud with one host, and calls about networks.

#![allow(dead_code)]

use crate::{
    cloud_process::{CloudProcess, Site},
    fake_agent::FakeAgent,
};
use api::v1::{
    eip_service_client::EipServiceClient, nat_gateway_service_client::NatGatewayServiceClient,
    prefix_list_service_client::PrefixListServiceClient,
    reachability_service_client::ReachabilityServiceClient,
    route_table_service_client::RouteTableServiceClient, *,
};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

pub fn text(value: &str) -> String {
    value.to_owned()
}

/// Waits until something is so.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub struct Edge {
    pub site: Site,
    pub agent: FakeAgent,
    pub cloud: CloudProcess,
}

impl Edge {
    pub async fn start(arguments: &[&str]) -> Self {
        let cloud = CloudProcess::start(arguments).await;
        let site = cloud.site().await;
        let agent = FakeAgent::start(&cloud, "host-1", 64, 256 << 10);
        let edge = Self { site, agent, cloud };
        edge.until_hosts(1).await;
        edge
    }

    pub async fn until_hosts(&self, ready: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let hosts = self.cloud.operator().describe_hosts(DescribeHostsRequest {}).await;
            let hosts = hosts.unwrap().into_inner().hosts;
            if hosts.iter().filter(|host| host.status == "Ready").count() == ready {
                return;
            }
            assert!(Instant::now() < deadline, "{ready} hosts are not ready: {hosts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn eips(&self) -> EipServiceClient<Channel> {
        EipServiceClient::new(self.cloud.channel())
    }

    pub fn tables(&self) -> RouteTableServiceClient<Channel> {
        RouteTableServiceClient::new(self.cloud.channel())
    }

    pub fn gateways(&self) -> NatGatewayServiceClient<Channel> {
        NatGatewayServiceClient::new(self.cloud.channel())
    }

    pub fn prefix_lists(&self) -> PrefixListServiceClient<Channel> {
        PrefixListServiceClient::new(self.cloud.channel())
    }

    pub fn paths(&self) -> ReachabilityServiceClient<Channel> {
        ReachabilityServiceClient::new(self.cloud.channel())
    }

    /// A running instance.
    pub async fn instance(&self) -> Instance {
        let ids = self.cloud.instances().run_instances(self.site.run(1)).await.unwrap();
        let ids = ids.into_inner().instance_id_sets;
        self.until_status(&ids[0], "Running").await
    }

    pub async fn describe(&self, id: &str) -> Option<Instance> {
        let request =
            DescribeInstancesRequest { instance_ids: vec![text(id)], ..Default::default() };
        let answer = self.cloud.instances().describe_instances(request).await.unwrap();
        answer.into_inner().instances.into_iter().next()
    }

    pub async fn until_status(&self, id: &str, status: &str) -> Instance {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.describe(id).await;
            if let Some(instance) = found.clone().filter(|instance| instance.status == status) {
                return instance;
            }
            assert!(Instant::now() < deadline, "{id} is not {status}: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(&self, id: &str) {
        let request = StopInstanceRequest { instance_id: text(id), ..Default::default() };
        self.cloud.instances().stop_instance(request).await.unwrap();
        self.until_status(id, "Stopped").await;
    }

    /// Deletes an instance and waits until it is gone.
    pub async fn delete_instance(&self, id: &str) {
        let request =
            DeleteInstanceRequest { instance_id: text(id), force: true, ..Default::default() };
        self.cloud.instances().delete_instance(request).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.describe(id).await.is_some() {
            assert!(Instant::now() < deadline, "{id} does not go");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn allocate(&self) -> AllocateEipAddressResponse {
        let request = AllocateEipAddressRequest::default();
        self.eips().allocate_eip_address(request).await.unwrap().into_inner()
    }

    pub async fn associate(&self, allocation_id: &str, instance_type: &str, instance_id: &str) {
        let request = AssociateEipAddressRequest {
            allocation_id: text(allocation_id),
            instance_id: text(instance_id),
            instance_type: text(instance_type),
            ..Default::default()
        };
        self.eips().associate_eip_address(request).await.unwrap();
    }

    pub async fn eip(&self, allocation_id: &str) -> EipAddress {
        let request = DescribeEipAddressesRequest {
            allocation_id: text(allocation_id),
            ..Default::default()
        };
        let answer = self.eips().describe_eip_addresses(request).await.unwrap().into_inner();
        answer.eip_addresses.into_iter().next().unwrap()
    }

    pub async fn until_eip(&self, allocation_id: &str, status: &str) -> EipAddress {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let eip = self.eip(allocation_id).await;
            if eip.status == status {
                return eip;
            }
            assert!(Instant::now() < deadline, "never {status}: {eip:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn gateway(&self, id: &str) -> Option<NatGateway> {
        let request = DescribeNatGatewaysRequest { nat_gateway_id: text(id), ..Default::default() };
        let answer = self.gateways().describe_nat_gateways(request).await.unwrap().into_inner();
        answer.nat_gateways.into_iter().next()
    }
}
