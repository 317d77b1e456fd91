//! What people reach an instance by.

use crate::{controller_double::TOKEN, fixture::Host};
use api::host::{ConsoleInput, ListHostObjectsRequest, ReadConsoleLogRequest};
use std::time::Duration;

pub async fn a_console_shows_history_then_answers() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let mut access = host.access().await;
    let (typed, stream) = tokio::sync::mpsc::channel(4);
    typed.send(ConsoleInput { instance_id: "i-1".into(), data: Vec::new() }).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut shown = access.attach_console(stream).await.unwrap().into_inner();
    let mut text = String::new();
    let mut typed_once = false;
    while !text.contains("echo me") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), shown.message()).await;
        let chunk = chunk.unwrap().unwrap().unwrap();
        text.push_str(&String::from_utf8(chunk.data).unwrap());
        if text.contains("guest i-1 epoch 1\n") && !typed_once {
            typed_once = true;
            let data = b"echo me".to_vec();
            typed.send(ConsoleInput { data, ..ConsoleInput::default() }).await.unwrap();
        }
    }
    let request = ReadConsoleLogRequest { instance_id: "i-1".into(), max_bytes: 7 };
    let log = access.read_console_log(request).await.unwrap().into_inner();
    assert_eq!(log.data, b"echo me");
    assert!(log.last_update_unix_ms > 0);
    let request = ReadConsoleLogRequest { instance_id: "../i-1".into(), max_bytes: 7 };
    let refused = access.read_console_log(request).await.unwrap_err();
    assert_eq!(api::error::ecs_code(&refused).as_deref(), Some("InvalidInstanceId.NotFound"));
}

pub async fn two_may_watch_a_console_through_a_restart() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let mut viewers = Vec::new();
    for _ in 0..2 {
        let mut access = host.access().await;
        let (typed, stream) = tokio::sync::mpsc::channel(4);
        typed.send(ConsoleInput { instance_id: "i-1".into(), data: Vec::new() }).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let shown = access.attach_console(stream).await.unwrap().into_inner();
        viewers.push((typed, shown, String::new()));
    }
    type Viewer = (
        tokio::sync::mpsc::Sender<ConsoleInput>,
        tonic::Streaming<api::host::ConsoleOutput>,
        String,
    );
    async fn see(viewers: &mut [Viewer], wanted: &str) {
        for (_, shown, text) in viewers {
            while !text.contains(wanted) {
                let chunk = tokio::time::timeout(Duration::from_secs(10), shown.message()).await;
                let chunk = chunk.unwrap_or_else(|_| panic!("no {wanted:?} in {text:?}"));
                text.push_str(&String::from_utf8(chunk.unwrap().unwrap().data).unwrap());
            }
        }
    }
    let type_in = |data: &str| ConsoleInput { data: data.into(), ..ConsoleInput::default() };
    see(&mut viewers, "guest i-1 epoch 1\n").await;
    viewers[0].0.send(type_in("from the first,")).await.unwrap();
    see(&mut viewers, "from the first,").await;
    viewers[1].0.send(type_in("from the second,")).await.unwrap();
    see(&mut viewers, "from the second,").await;
    host.change("i-1", |i| i.boot_epoch = 2);
    // Its first words, and what is typed to the new one.
    see(&mut viewers, "guest i-1 epoch 2\n").await;
    host.until_running("i-1", 2).await;
    viewers[0].0.send(type_in("after the restart")).await.unwrap();
    see(&mut viewers, "after the restart").await;
    for (_, _, text) in &viewers {
        assert_eq!(
            text,
            "guest i-1 epoch 1\nfrom the first,from the second,guest i-1 epoch 2\n\
             after the restart"
        );
    }
}

pub async fn access_needs_the_token() {
    let host = Host::started().await;
    host.until("registered", |h| h.seen(|s| (!s.registrations.is_empty()).then_some(()))).await;
    let endpoint = host.seen(|s| s.registrations[0].access_endpoint.clone());
    assert_eq!(TOKEN, "a-token");
    let mut access =
        api::host::host_access_client::HostAccessClient::connect(endpoint).await.unwrap();
    let refused = access.list_host_objects(ListHostObjectsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
