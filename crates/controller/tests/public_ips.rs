//! Static public addresses of instances, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod edge_calls;
mod fake_agent;

use api::v1::*;
use cloud_process::code;
use edge_calls::{Edge, text, until};

async fn allocate(edge: &Edge, id: &str, address: &str) -> Result<String, tonic::Status> {
    let request =
        AllocatePublicIpAddressRequest { instance_id: text(id), ip_address: text(address) };
    let answer = edge.cloud.instances().allocate_public_ip_address(request).await?;
    Ok(answer.into_inner().ip_address)
}

async fn modify(
    edge: &Edge,
    id: &str,
    change: ModifyInstanceNetworkSpecRequest,
) -> Result<(), tonic::Status> {
    let request = ModifyInstanceNetworkSpecRequest { instance_id: text(id), ..change };
    edge.cloud.instances().modify_instance_network_spec(request).await.map(drop)
}

async fn convert(edge: &Edge, id: &str) -> Result<(), tonic::Status> {
    let request = ConvertNatPublicIpToEipRequest { instance_id: text(id), ..Default::default() };
    edge.cloud.instances().convert_nat_public_ip_to_eip(request).await.map(drop)
}

/// The public addresses that the host was told of, with their Mbit/s.
fn told(edge: &Edge) -> Vec<(String, u32)> {
    let spec = edge.agent.spec();
    let eips = spec.instances.iter().flat_map(|one| &one.enis).flat_map(|eni| &eni.eips);
    eips.map(|eip| (eip.address.clone(), eip.bandwidth_mbps)).collect()
}

#[tokio::test]
async fn a_public_address_is_given_changed_and_made_an_eip() {
    let edge = Edge::start(&["--eip-range", "203.0.113.0/29"]).await;
    let id = edge.instance().await.instance_id;
    for (id, address, expected) in [
        (id.as_str(), "", "AllocateIpInvalidInstanceBandwidth"),
        (id.as_str(), "203.0.113", "InvalidIpAddress.Malformed"),
        ("i-x", "", "InvalidInstanceId.NotFound"),
    ] {
        assert_eq!(code(&allocate(&edge, id, address).await.unwrap_err()), expected);
    }
    assert_eq!(code(&convert(&edge, &id).await.unwrap_err()), "OperationDenied");
    let too_fast =
        ModifyInstanceNetworkSpecRequest { internet_max_bandwidth_out: Some(101), ..change() };
    let refused = modify(&edge, &id, too_fast).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInternetMaxBandwidthOut.Malformed");

    let ten = ModifyInstanceNetworkSpecRequest { internet_max_bandwidth_out: Some(10), ..change() };
    modify(&edge, &id, ten).await.unwrap();
    let described = edge.describe(&id).await.unwrap();
    assert_eq!((described.internet_max_bandwidth_out, described.public_ip_address.len()), (10, 0));
    for (address, expected) in [("198.51.100.1", "InvalidIpAddress.NotFound")] {
        assert_eq!(code(&allocate(&edge, &id, address).await.unwrap_err()), expected);
    }
    assert_eq!(allocate(&edge, &id, "203.0.113.3").await.unwrap(), "203.0.113.3");
    assert_eq!(allocate(&edge, &id, "").await.unwrap(), "203.0.113.3", "the one it has");
    let refused = allocate(&edge, &id, "203.0.113.4").await.unwrap_err();
    assert_eq!(code(&refused), "AllocatedAlready");
    assert_eq!(edge.describe(&id).await.unwrap().public_ip_address, ["203.0.113.3"]);
    until("the host is told", || told(&edge) == [(text("203.0.113.3"), 10)]).await;

    // Another instance cannot have it; one with an EIP has no other.
    let run = RunInstancesRequest { internet_max_bandwidth_out: 5, ..edge.site.run(1) };
    let other = edge.cloud.instances().run_instances(run).await.unwrap().into_inner();
    let other = other.instance_id_sets[0].clone();
    let other = edge.until_status(&other, "Running").await;
    assert_eq!(other.public_ip_address.len(), 1);
    let third = edge.instance().await.instance_id;
    let five = ModifyInstanceNetworkSpecRequest { internet_max_bandwidth_out: Some(5), ..change() };
    modify(&edge, &third, five).await.unwrap();
    assert_eq!(code(&allocate(&edge, &third, "203.0.113.3").await.unwrap_err()), "IpInUse");

    // Its bandwidth changes; it is 1 Mbit/s at least, as 0 would be no limit.
    let zero = ModifyInstanceNetworkSpecRequest { internet_max_bandwidth_out: Some(0), ..change() };
    let refused = modify(&edge, &id, zero).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInternetMaxBandwidthOut.Malformed");
    let faster = ModifyInstanceNetworkSpecRequest {
        internet_max_bandwidth_out: Some(20),
        network_charge_type: text("PayByBandwidth"),
        ..change()
    };
    modify(&edge, &id, faster).await.unwrap();
    until("the host is told", || told(&edge).contains(&(text("203.0.113.3"), 20))).await;
    let refused = convert(&edge, &id).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInternetChargeType.ValueNotSupported");
    let by_traffic =
        ModifyInstanceNetworkSpecRequest { network_charge_type: text("PayByTraffic"), ..change() };
    modify(&edge, &id, by_traffic).await.unwrap();

    convert(&edge, &id).await.unwrap();
    let described = edge.describe(&id).await.unwrap();
    let eip = described.eip_address.unwrap();
    assert_eq!((eip.ip_address.as_str(), eip.bandwidth), ("203.0.113.3", 20));
    assert!(described.public_ip_address.is_empty());
    let refused = allocate(&edge, &id, "").await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied");
    edge.delete_instance(&id).await;
    let all = edge.eips().describe_eip_addresses(DescribeEipAddressesRequest::default()).await;
    let all = all.unwrap().into_inner().eip_addresses;
    assert_eq!((all.len(), all[0].ip_address.as_str()), (1, "203.0.113.3"), "it outlives it");
}

fn change() -> ModifyInstanceNetworkSpecRequest {
    ModifyInstanceNetworkSpecRequest::default()
}

#[tokio::test]
async fn a_created_instance_gets_its_public_address_when_asked() {
    let edge = Edge::start(&["--eip-range", "203.0.113.0/30"]).await;
    let request = CreateInstanceRequest {
        image_id: edge.site.image_id.clone(),
        instance_type: text("ecs.c7.large"),
        v_switch_id: edge.site.v_switch_id.clone(),
        security_group_id: edge.site.security_group_id.clone(),
        internet_max_bandwidth_out: 7,
        ..Default::default()
    };
    let made = edge.cloud.instances().create_instance(request).await.unwrap().into_inner();
    let described = edge.until_status(&made.instance_id, "Stopped").await;
    assert_eq!((described.internet_max_bandwidth_out, described.public_ip_address.len()), (7, 0));
    let address = allocate(&edge, &made.instance_id, "").await.unwrap();
    assert_eq!(edge.describe(&made.instance_id).await.unwrap().public_ip_address, [address]);
    until("the host is told", || told(&edge).first().is_some_and(|one| one.1 == 7)).await;
    // It goes with the instance: the range has two addresses and no EIP.
    edge.delete_instance(&made.instance_id).await;
    let run = RunInstancesRequest { internet_max_bandwidth_out: 1, ..edge.site.run(2) };
    edge.cloud.instances().run_instances(run).await.unwrap();
}
