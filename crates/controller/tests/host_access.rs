//! Calls that go on to the agent of an instance's host.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod fake_access;
mod fake_agent;

use api::{host::HostObject, v1::*};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cloud_process::{CloudProcess, code};
use fake_access::Objects;
use fake_agent::{client, registration};
use futures::stream;

/// A cloud with one instance on a host that can be called.
async fn cloud_with_instance() -> (CloudProcess, String, Objects) {
    let cloud = CloudProcess::start(&[]).await;
    let site = cloud.site().await;
    let objects = Objects::default();
    let mut host = registration("host-1", 8, 64 << 10);
    host.access_endpoint = fake_access::serve(&cloud.join_token(), objects.clone()).await;
    client(&cloud).register_host(host).await.unwrap();
    let made = cloud.instances().run_instances(site.run(1)).await.unwrap().into_inner();
    (cloud, made.instance_id_sets[0].clone(), objects)
}

#[tokio::test]
async fn console_output_is_base64() {
    let (cloud, id, _) = cloud_with_instance().await;
    let request = |remove_symbols| GetInstanceConsoleOutputRequest {
        instance_id: id.clone(),
        remove_symbols,
        ..Default::default()
    };
    let output = cloud.instances().get_instance_console_output(request(false)).await.unwrap();
    let output = output.into_inner();
    let text = String::from_utf8(STANDARD.decode(output.console_output).unwrap()).unwrap();
    assert_eq!(text, format!("\x1b[1m{id} of 65536\n"));
    assert_eq!(output.last_update_time, "2026-11-23T11:01:07Z");
    let output = cloud.instances().get_instance_console_output(request(true)).await.unwrap();
    let data = STANDARD.decode(output.into_inner().console_output).unwrap();
    assert!(!data.contains(&0x1b));
    let unknown = GetInstanceConsoleOutputRequest {
        instance_id: "i-unknown".to_owned(),
        ..Default::default()
    };
    let refused = cloud.instances().get_instance_console_output(unknown).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidInstanceId.NotFound");
}

#[tokio::test]
async fn the_console_and_tunnels_pass_both_ways() {
    let (cloud, id, _) = cloud_with_instance().await;
    let typed = vec![
        AttachConsoleRequest { instance_id: id.clone(), data: b":".to_vec() },
        AttachConsoleRequest { instance_id: String::new(), data: b"root\n".to_vec() },
    ];
    let answer = cloud.instances().attach_console(stream::iter(typed)).await.unwrap();
    let mut output = answer.into_inner();
    let mut seen = Vec::new();
    while let Some(message) = output.message().await.unwrap() {
        seen.extend(message.data);
    }
    assert_eq!(String::from_utf8(seen).unwrap(), format!("{id}:root\n"));

    let sent = |port| {
        let first = TunnelRequest { instance_id: id.clone(), port, ..Default::default() };
        let second = TunnelRequest { data: b"SSH-2.0".to_vec(), ..Default::default() };
        stream::iter(vec![first, second])
    };
    let mut answer = cloud.instances().tunnel(sent(22)).await.unwrap().into_inner();
    assert_eq!(answer.message().await.unwrap().unwrap().data, b"SSH-2.0");
    assert!(answer.message().await.unwrap().is_none());
    let refused = cloud.instances().tunnel(sent(23)).await.unwrap_err();
    assert!(refused.message().contains("host-1: connection refused"), "{refused}");
    let refused = cloud.instances().tunnel(sent(70_000)).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter");
}

#[tokio::test]
async fn leaks_are_what_no_resource_owns() {
    let (cloud, id, objects) = cloud_with_instance().await;
    let object = |kind: &str, name: &str, owner: &str| HostObject {
        kind: kind.to_owned(),
        name: name.to_owned(),
        owner: owner.to_owned(),
    };
    *objects.lock().unwrap() = vec![
        object("cgroup", "/sys/fs/cgroup/ecs/x", &id),
        object("tap", "tap1", ""),
        object("file", "old.qcow2", "d-gone"),
    ];
    let listed = cloud
        .operator()
        .list_host_objects(ListHostObjectsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let expected: Vec<bool> = listed.objects.iter().map(|object| object.expected).collect();
    assert_eq!(expected, [true, false, false]);
    // A host that does not answer hides nothing of the others, and does not pass for clean.
    client(&cloud).register_host(registration("host-2", 8, 64 << 10)).await.unwrap();
    let listed = cloud.operator().list_host_objects(ListHostObjectsRequest::default()).await;
    let objects = listed.unwrap().into_inner().objects;
    assert_eq!(objects.len(), 4);
    let silent = objects.iter().find(|object| object.host_id == "host-2").unwrap();
    assert_eq!((silent.kind.as_str(), silent.expected), ("unanswered", false));
    assert!(silent.name.contains("HostUnavailable"), "{silent:?}");
    let silent = ListHostObjectsRequest { host_id: "host-2".to_owned() };
    let refused = cloud.operator().list_host_objects(silent).await.unwrap_err();
    assert_eq!(code(&refused), "HostUnavailable");
    let nowhere = ListHostObjectsRequest { host_id: "host-9".to_owned() };
    let refused = cloud.operator().list_host_objects(nowhere).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidHostId.NotFound");
}

#[tokio::test]
async fn the_server_says_what_it_serves_and_how_it_is() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let cloud = CloudProcess::start(&[]).await;
    let health = HealthClient::new(cloud.channel())
        .check(HealthCheckRequest { service: String::new() })
        .await
        .unwrap();
    assert_eq!(health.into_inner().status, 1);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(cloud.channel())
        .server_reflection_info(stream::iter(vec![request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["ecs.v1.InstanceService", "ecs.v1.VpcService", "ecs.host.v1.HostRegistry"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
}
