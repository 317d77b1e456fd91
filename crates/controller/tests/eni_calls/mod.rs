//! Calls about network interfaces, and waits for what they bring about.

#![allow(dead_code)]

use crate::{
    cloud_process::{CloudProcess, Site},
    fake_agent::FakeAgent,
};
use api::{
    host::{HostSpec, InstanceSpec},
    v1::*,
};
use std::time::{Duration, Instant};

pub async fn enis(
    cloud: &CloudProcess,
    request: DescribeNetworkInterfacesRequest,
) -> Vec<NetworkInterface> {
    let answer = cloud.network_interfaces().describe_network_interfaces(request).await.unwrap();
    answer.into_inner().network_interface_sets
}

pub async fn find_eni(cloud: &CloudProcess, id: &str) -> Option<NetworkInterface> {
    let request = DescribeNetworkInterfacesRequest {
        network_interface_id: vec![id.to_owned()],
        ..Default::default()
    };
    enis(cloud, request).await.into_iter().next()
}

/// The primary interface of an instance.
pub async fn primary_of(cloud: &CloudProcess, instance_id: &str) -> NetworkInterface {
    let request = DescribeNetworkInterfacesRequest {
        instance_id: instance_id.to_owned(),
        r#type: "Primary".to_owned(),
        ..Default::default()
    };
    enis(cloud, request).await.remove(0)
}

pub async fn until_eni(
    cloud: &CloudProcess,
    id: &str,
    so: impl Fn(&NetworkInterface) -> bool,
) -> NetworkInterface {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let eni = find_eni(cloud, id).await.unwrap();
        if so(&eni) {
            return eni;
        }
        assert!(Instant::now() < deadline, "{eni:?} is not as expected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_eni_is(cloud: &CloudProcess, id: &str, status: &str) -> NetworkInterface {
    until_eni(cloud, id, |eni| eni.status == status).await
}

pub fn new_eni(site: &Site) -> CreateNetworkInterfaceRequest {
    CreateNetworkInterfaceRequest {
        v_switch_id: site.v_switch_id.clone(),
        security_group_id: site.security_group_id.clone(),
        ..Default::default()
    }
}

pub async fn create_eni(
    cloud: &CloudProcess,
    request: CreateNetworkInterfaceRequest,
) -> CreateNetworkInterfaceResponse {
    cloud.network_interfaces().create_network_interface(request).await.unwrap().into_inner()
}

pub async fn attach_eni(
    cloud: &CloudProcess,
    eni_id: &str,
    instance_id: &str,
) -> Result<(), tonic::Status> {
    let request = AttachNetworkInterfaceRequest {
        network_interface_id: eni_id.to_owned(),
        instance_id: instance_id.to_owned(),
        ..Default::default()
    };
    cloud.network_interfaces().attach_network_interface(request).await.map(drop)
}

pub async fn detach_eni(
    cloud: &CloudProcess,
    eni_id: &str,
    instance_id: &str,
) -> Result<(), tonic::Status> {
    let request = DetachNetworkInterfaceRequest {
        network_interface_id: eni_id.to_owned(),
        instance_id: instance_id.to_owned(),
        ..Default::default()
    };
    cloud.network_interfaces().detach_network_interface(request).await.map(drop)
}

pub async fn delete_eni(cloud: &CloudProcess, eni_id: &str) -> Result<(), tonic::Status> {
    let request = DeleteNetworkInterfaceRequest {
        network_interface_id: eni_id.to_owned(),
        ..Default::default()
    };
    cloud.network_interfaces().delete_network_interface(request).await.map(drop)
}

pub fn assign(eni_id: &str, count: u32, given: &[&str]) -> AssignPrivateIpAddressesRequest {
    AssignPrivateIpAddressesRequest {
        network_interface_id: eni_id.to_owned(),
        secondary_private_ip_address_count: count,
        private_ip_address: given.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

pub async fn unassign(
    cloud: &CloudProcess,
    eni_id: &str,
    gone: &[&str],
) -> Result<(), tonic::Status> {
    let request = UnassignPrivateIpAddressesRequest {
        network_interface_id: eni_id.to_owned(),
        private_ip_address: gone.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    cloud.network_interfaces().unassign_private_ip_addresses(request).await.map(drop)
}

pub fn modify(eni_id: &str) -> ModifyNetworkInterfaceAttributeRequest {
    ModifyNetworkInterfaceAttributeRequest {
        network_interface_id: eni_id.to_owned(),
        ..Default::default()
    }
}

/// A group in the site's VPC.
pub async fn create_group(cloud: &CloudProcess, vpc_id: &str, kind: &str) -> String {
    let request = CreateSecurityGroupRequest {
        vpc_id: vpc_id.to_owned(),
        security_group_type: kind.to_owned(),
        ..Default::default()
    };
    cloud.groups().create_security_group(request).await.unwrap().into_inner().security_group_id
}

/// What a host was told of an instance.
pub fn spec_of(agent: &FakeAgent, instance_id: &str) -> InstanceSpec {
    let found = agent.spec().instances.into_iter().find(|spec| spec.instance_id == instance_id);
    found.unwrap_or_default()
}

/// Waits until the specs of a host say so.
pub async fn until_spec(agent: &FakeAgent, so: impl Fn(&HostSpec) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so(&agent.spec()) {
        assert!(Instant::now() < deadline, "{:#?}", agent.spec());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// That a host was told nothing that makes no sense.
pub fn no_faults(agent: &FakeAgent) {
    let faults = agent.behaviour.lock().unwrap().faults.clone();
    assert!(faults.is_empty(), "{faults:?}");
}
