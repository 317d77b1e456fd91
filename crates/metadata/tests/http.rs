//! The service over real HTTP, asked as guests ask it.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use api::host::{EipSpec, EniSpec, InstanceMetadata, InstanceSpec, PublicKey};
use metadata::{Bandwidth, Directory, InstanceView, Service};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

const KEY: [u8; 32] = [1; 32];
const GUEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const OTHER_GUEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const USER_DATA: &[u8] = b"#cloud-config\nhostname: x\n\xff\x00";

#[derive(Default)]
struct Instances(Mutex<HashMap<Ipv4Addr, Arc<InstanceView>>>);

impl Directory for Instances {
    fn instance_by_ip(&self, address: Ipv4Addr) -> Option<Arc<InstanceView>> {
        self.0.lock().unwrap().get(&address).cloned()
    }
}

struct Cloud {
    at: SocketAddr,
    instances: Arc<Instances>,
    server: JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        instance_id: id.to_owned(),
        instance_type: "ecs.c7.large".to_owned(),
        disk_ids: vec!["d-bp1cikh4di1lf7p".to_owned()],
        enis: vec![EniSpec {
            eni_id: "eni-1".to_owned(),
            mac: "00:16:3E:00:00:0A".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            vswitch_id: "vsw-1".to_owned(),
            vswitch_cidr: "192.168.0.0/24".to_owned(),
            private_ip: "192.168.0.9".to_owned(),
            gateway_ip: "192.168.0.253".to_owned(),
            security_group_ids: vec![],
            primary: true,
            vpc_cidr: "192.168.0.0/16".to_owned(),
            ipv6_addresses: vec!["fdec:0:1:7::9".to_owned(), "fdec:0:1:7::a".to_owned()],
            vswitch_ipv6_cidr: "fdec:0:1:7::/64".to_owned(),
            vpc_ipv6_cidr: "fdec:0:1::/56".to_owned(),
            ..EniSpec::default()
        }],
        metadata: Some(InstanceMetadata {
            hostname: "web".to_owned(),
            instance_name: "web server".to_owned(),
            image_id: "debian-12".to_owned(),
            region_id: "cn-hangzhou".to_owned(),
            zone_id: "cn-hangzhou-i".to_owned(),
            owner_account_id: "1609".to_owned(),
            user_data: USER_DATA.to_vec(),
            public_keys: vec![
                PublicKey { name: "skp-1".to_owned(), openssh: "ssh-ed25519 AAAA a\n".to_owned() },
                PublicKey { name: "schlüssel".to_owned(), openssh: "ssh-rsa BBBB b".to_owned() },
                PublicKey { name: "a/b=".to_owned(), openssh: "ssh-rsa CCCC c".to_owned() },
            ],
            http_enabled: true,
            token_required: false,
            serial_number: "4acd2b47".to_owned(),
            dns_servers: vec!["100.100.2.136".to_owned(), "100.100.2.138".to_owned()],
            ntp_servers: vec!["ntp1.example".to_owned()],
            disk_names: [("d-bp1cikh4di1lf7p".to_owned(), "data".to_owned())].into(),
        }),
        ..InstanceSpec::default()
    }
}

impl Cloud {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let instances = Arc::new(Instances::default());
        let directory: Arc<dyn Directory> = Arc::clone(&instances) as _;
        let server =
            tokio::spawn(async move { Service::new(KEY).serve(listener, directory).await });
        let cloud = Self { at, instances, server };
        cloud.set(GUEST, &spec("i-1"));
        cloud.set(OTHER_GUEST, &spec("i-2"));
        cloud
    }

    fn set(&self, address: Ipv4Addr, spec: &InstanceSpec) {
        let bandwidth = Bandwidth { ingress_kbps: 1_000, egress_kbps: 2_000 };
        let view = Arc::new(InstanceView::new(spec).with_bandwidth(bandwidth));
        self.instances.0.lock().unwrap().insert(address, view);
    }

    fn change(&self, change: impl FnOnce(&mut InstanceMetadata)) {
        let mut spec = spec("i-1");
        change(spec.metadata.as_mut().unwrap());
        self.set(GUEST, &spec);
    }

    async fn ask(
        &self,
        from: Ipv4Addr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(self.at).await.unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap().to_lowercase();
        let status = head[9..12].parse().unwrap();
        Answer { status, head, body: bytes[split + 4..].to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(GUEST, "GET", path, &[]).await
    }

    async fn token(&self, from: Ipv4Addr, ttl: &str) -> Answer {
        let headers = [("X-aliyun-ecs-metadata-token-ttl-seconds", ttl)];
        self.ask(from, "PUT", "/latest/api/token", &headers).await
    }

    async fn get_with(&self, path: &str, token: &str) -> Answer {
        self.ask(GUEST, "GET", path, &[("X-aliyun-ecs-metadata-token", token)]).await
    }
}

/// Percent-encodes what an HTTP client would.
fn encoded(path: &str) -> String {
    path.bytes()
        .map(|b| if b.is_ascii_graphic() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Walks the tree as cloud-init 22.4 does: a listed entry that is not there ends the walk.
async fn walk(cloud: &Cloud, directory: &str) -> Value {
    let mut found = serde_json::Map::new();
    let listing = cloud.get(&encoded(directory)).await;
    assert_eq!(listing.status, 200, "{directory}");
    for line in listing.text().lines() {
        let path = format!("{directory}{line}");
        let value = match line.strip_suffix('/') {
            Some(_) => Box::pin(walk(cloud, &path)).await,
            None => {
                let (name, _) = line.split_once('=').unwrap_or((line, ""));
                assert_eq!(name, line, "an EC2 key listing");
                let leaf = cloud.get(&encoded(&path)).await;
                assert_eq!(leaf.status, 200, "{path}");
                Value::String(leaf.text().to_owned())
            }
        };
        found.insert(line.trim_end_matches('/').to_owned(), value);
    }
    Value::Object(found)
}

#[tokio::test]
async fn the_walk_of_old_cloud_init_finds_what_new_cloud_init_reads_at_once() {
    let cloud = Cloud::new().await;
    for version in ["2016-01-01", "latest"] {
        let id = cloud.get(&format!("/{version}/meta-data/instance-id")).await;
        assert_eq!((id.status, id.text()), (200, "i-1"));
        let walked = walk(&cloud, &format!("/{version}/meta-data/")).await;
        let all = cloud.get(&format!("/{version}/meta-data/all")).await;
        assert_eq!(all.status, 200);
        assert_eq!(walked, all.json());
    }
    let all = cloud.get("/latest/meta-data/all").await.json();
    assert_eq!(
        all["network"]["interfaces"]["macs"],
        json!({"00:16:3e:00:00:0a": {
            "gateway": "192.168.0.253",
            "ipv6s": "[fdec:0:1:7::9,fdec:0:1:7::a]",
            "netmask": "255.255.255.0",
            "network-interface-id": "eni-1",
            "primary-ip-address": "192.168.0.9",
            "private-ipv4s": "[\"192.168.0.9\"]",
            "vpc-cidr-block": "192.168.0.0/16",
            "vpc-id": "vpc-1",
            "vpc-ipv6-cidr-blocks": "[fdec:0:1::/56]",
            "vswitch-cidr-block": "192.168.0.0/24",
            "vswitch-id": "vsw-1",
            "vswitch-ipv6-cidr-block": "fdec:0:1:7::/64",
        }})
    );
    assert_eq!(
        all["public-keys"],
        json!({
            "skp-1": {"openssh-key": "ssh-ed25519 AAAA a"},
            "schlüssel": {"openssh-key": "ssh-rsa BBBB b"},
            "2": {"openssh-key": "ssh-rsa CCCC c"},
        })
    );
    for (item, value) in [
        ("hostname", "web"),
        ("image-id", "debian-12"),
        ("mac", "00:16:3e:00:00:0a"),
        ("network-type", "vpc"),
        ("owner-account-id", "1609"),
        ("private-ipv4", "192.168.0.9"),
        ("region-id", "cn-hangzhou"),
        ("serial-number", "4acd2b47"),
        ("vpc-cidr-block", "192.168.0.0/16"),
        ("vswitch-id", "vsw-1"),
        ("zone-id", "cn-hangzhou-i"),
    ] {
        assert_eq!(all[item], value, "{item}");
    }
    assert_eq!(all["dns-conf"]["nameservers"], "100.100.2.136\r\n100.100.2.138");
    assert_eq!(all["instance"]["instance-type"], "ecs.c7.large");
    assert_eq!(all["instance"]["max-netbw-egress"], "2000");
    assert_eq!(all["disks"]["bp1cikh4di1lf7p"]["id"], "d-bp1cikh4di1lf7p");
    assert_eq!(all["disks"]["bp1cikh4di1lf7p"]["name"], "data");
}

#[tokio::test]
async fn listings_end_directories_with_a_slash() {
    let cloud = Cloud::new().await;
    assert_eq!(cloud.get("/").await.text(), "2016-01-01\nlatest");
    let root = "dynamic/\nmaintenance/\nmeta-data/\nuser-data";
    assert_eq!(cloud.get("/latest/").await.text(), root);
    assert_eq!(cloud.get("/latest").await.text(), root);
    let macs = cloud.get("/latest/meta-data/network/interfaces/macs/").await;
    assert_eq!(macs.text(), "00:16:3e:00:00:0a/");
    let keys = cloud.get("/latest/meta-data/public-keys").await;
    assert_eq!(keys.text(), "2/\nschlüssel/\nskp-1/");
    assert_eq!(cloud.get("/latest/dynamic/instance-identity/").await.text(), "document");
}

#[tokio::test]
async fn user_data_is_bytes_and_may_be_absent() {
    let cloud = Cloud::new().await;
    for version in ["2016-01-01", "latest"] {
        let data = cloud.get(&format!("/{version}/user-data")).await;
        assert_eq!((data.status, data.body.as_slice()), (200, USER_DATA));
        let vendor = cloud.get(&format!("/{version}/vendor-data")).await;
        assert_eq!((vendor.status, vendor.body.as_slice()), (200, &b""[..]));
    }
    cloud.change(|about| about.user_data.clear());
    assert_eq!(cloud.get("/latest/user-data").await.status, 404);
    assert_eq!(cloud.get("/latest/").await.text(), "dynamic/\nmaintenance/\nmeta-data/");
}

#[tokio::test]
async fn other_trees_and_what_is_not_there() {
    let cloud = Cloud::new().await;
    let document = cloud.get("/latest/dynamic/instance-identity/document").await;
    assert!(document.head.contains("content-type: application/json"));
    assert_eq!(
        document.json(),
        json!({
            "instance-id": "i-1", "instance-type": "ecs.c7.large", "image-id": "debian-12",
            "region-id": "cn-hangzhou", "zone-id": "cn-hangzhou-i", "owner-account-id": "1609",
            "serial-number": "4acd2b47", "private-ipv4": "192.168.0.9",
            "mac": "00:16:3e:00:00:0a",
        })
    );
    let pkcs7 = cloud.get("/latest/dynamic/instance-identity/pkcs7").await;
    assert_eq!(pkcs7.status, 404);
    assert!(pkcs7.text().contains("sign"));
    assert_eq!(cloud.get("/latest/maintenance/active-system-events").await.text(), "[]");
    for path in [
        "/latest/meta-data/eipv4",
        "/latest/meta-data/instance/spot/termination-time",
        "/latest/meta-data/ram/security-credentials/",
        "/latest/meta-data/hostname/more",
        "/1.0/meta-data/instance-id",
        "/latest/meta-data/../user-data",
        "/favicon.ico",
    ] {
        assert_eq!(cloud.get(path).await.status, 404, "{path}");
    }
    assert_eq!(cloud.get("/latest/meta-data/%ff").await.status, 400);
    assert_eq!(cloud.ask(GUEST, "POST", "/latest/meta-data/", &[]).await.status, 405);
    let head = cloud.ask(GUEST, "HEAD", "/latest/meta-data/instance-id", &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_client_that_shuts_its_side_still_gets_the_answer() {
    let cloud = Cloud::new().await;
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((GUEST, 0).into()).unwrap();
        let mut stream = socket.connect(cloud.at).await.unwrap();
        let request = b"GET /latest/meta-data/instance-id HTTP/1.0\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.0 200") && text.ends_with("i-1"), "{text}");
    }
}

#[tokio::test]
async fn a_public_address_is_told_and_forgotten() {
    let cloud = Cloud::new().await;
    let mut with_eip = spec("i-1");
    let eip = |address: &str, private: &str| EipSpec {
        address: address.to_owned(),
        private_ip: private.to_owned(),
        ..EipSpec::default()
    };
    // One of a secondary address is not the instance's own.
    with_eip.enis[0].eips =
        vec![eip("203.0.113.8", "192.168.0.10"), eip("203.0.113.9", "192.168.0.9")];
    cloud.set(GUEST, &with_eip);
    for item in ["eipv4", "public-ipv4"] {
        let path = format!("/latest/meta-data/{item}");
        assert_eq!(cloud.get(&path).await.text(), "203.0.113.9");
    }
    cloud.set(GUEST, &spec("i-1"));
    assert_eq!(cloud.get("/latest/meta-data/eipv4").await.status, 404);
}

#[tokio::test]
async fn the_address_tells_who_asks() {
    let cloud = Cloud::new().await;
    let path = "/latest/meta-data/instance-id";
    assert_eq!(cloud.ask(OTHER_GUEST, "GET", path, &[]).await.text(), "i-2");
    let forged = [("X-Forwarded-For", "127.0.0.2"), ("Host", "i-2")];
    assert_eq!(cloud.ask(GUEST, "GET", path, &forged).await.text(), "i-1");
    assert_eq!(cloud.ask(STRANGER, "GET", path, &[]).await.status, 404);
    assert_eq!(cloud.token(STRANGER, "60").await.status, 404);
}

#[tokio::test]
async fn new_cloud_init_reads_everything_with_a_token() {
    let cloud = Cloud::new().await;
    cloud.change(|about| about.token_required = true);
    let token = cloud.token(GUEST, "21600").await;
    assert_eq!(token.status, 200);
    assert!(token.head.contains("x-aliyun-ecs-metadata-token-ttl-seconds: 21600"));
    let token = token.text();
    for (path, status) in [
        ("/2016-01-01/user-data", 200),
        ("/2016-01-01/vendor-data", 200),
        ("/2016-01-01/meta-data/all", 200),
    ] {
        assert_eq!(cloud.get_with(path, token).await.status, status, "{path}");
        assert_eq!(cloud.get(path).await.status, 403, "{path} without a token");
    }
}

#[tokio::test]
async fn tokens_are_checked_in_both_modes() {
    let cloud = Cloud::new().await;
    let path = "/latest/meta-data/instance-id";
    let others = cloud.token(OTHER_GUEST, "60").await;
    let short = cloud.token(GUEST, "1").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for required in [false, true] {
        cloud.change(|about| about.token_required = required);
        let mine = cloud.token(GUEST, "60").await;
        assert_eq!(cloud.get_with(path, mine.text()).await.status, 200);
        assert_eq!(cloud.get_with(path, others.text()).await.status, 401);
        assert_eq!(cloud.get_with(path, short.text()).await.status, 401);
        assert_eq!(cloud.get_with(path, "nonsense").await.status, 401);
        assert_eq!(cloud.get_with(path, "").await.status, 401);
    }
    for ttl in ["0", "21601", "-1", "x", ""] {
        assert_eq!(cloud.token(GUEST, ttl).await.status, 400, "{ttl}");
    }
    assert_eq!(cloud.ask(GUEST, "PUT", "/latest/api/token", &[]).await.status, 400);
    assert_eq!(cloud.get("/latest/api/token").await.status, 405);
    let proxied =
        [("X-aliyun-ecs-metadata-token-ttl-seconds", "60"), ("X-Forwarded-For", "10.0.0.1")];
    assert_eq!(cloud.ask(GUEST, "PUT", "/latest/api/token", &proxied).await.status, 403);

    // Another process with the same key accepts them.
    let again = Cloud::new().await;
    let token = cloud.token(GUEST, "60").await;
    assert_eq!(again.get_with(path, token.text()).await.status, 200);
}

#[tokio::test]
async fn a_disabled_service_answers_nothing() {
    let cloud = Cloud::new().await;
    cloud.change(|about| about.http_enabled = false);
    for path in ["/latest/meta-data/instance-id", "/latest/user-data", "/"] {
        assert_eq!(cloud.get(path).await.status, 403, "{path}");
    }
    assert_eq!(cloud.token(GUEST, "60").await.status, 403);
}

#[tokio::test]
async fn large_requests_and_many_connections_are_refused() {
    let cloud = Cloud::new().await;
    let long = "x".repeat(40_000);
    let refused = cloud.get(&format!("/latest/{long}")).await;
    assert!((400..500).contains(&refused.status), "{}", refused.status);
    let body = [("Content-Length", "1000000")];
    assert_eq!(cloud.ask(GUEST, "PUT", "/latest/api/token", &body).await.status, 413);

    let mut idle = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((GUEST, 0).into()).unwrap();
        idle.push(socket.connect(cloud.at).await.unwrap());
    }
    // Those beyond the limit are closed at once, and another instance is served all the same.
    let last = idle.last_mut().unwrap();
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_secs(2), last.read(&mut byte)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))));
    let other = cloud.ask(OTHER_GUEST, "GET", "/latest/meta-data/instance-id", &[]).await;
    assert_eq!(other.status, 200);
    drop(idle);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cloud.get("/latest/meta-data/instance-id").await.status, 200);
}

#[tokio::test]
async fn connections_end_with_the_service() {
    let cloud = Cloud::new().await;
    let mut stream = tokio::net::TcpStream::connect(cloud.at).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    cloud.server.abort();
    let end = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}
