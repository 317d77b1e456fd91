//! How fast instances and public addresses are, measured with iperf3. Figures are bytes of Ethernet
//! frames, of which a stream of TCP has 66 per packet that iperf3 does not count.

use crate::{
    cloud::{Cloud, accept_tcp, address},
    fabric::{Fabric, Node},
    guest::Guest,
};
use api::host::{EipSpec, EniSpec, NetworkLimit, RuleSpec};
use network::InstanceLimit;
use std::{
    net::{Ipv4Addr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// Where something can be run.
trait Place {
    fn within<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R;
}

impl Place for Guest {
    fn within<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.run(work)
    }
}

impl Place for Node {
    fn within<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.run(work)
    }
}

/// A server for one measurement.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What iperf3 reports of a measurement from one place to another at this address.
fn iperf3(
    from: &impl Place,
    to: &impl Place,
    address: Ipv4Addr,
    options: &str,
) -> serde_json::Value {
    static PORTS: AtomicU16 = AtomicU16::new(5201);
    let port = PORTS.fetch_add(1, Ordering::Relaxed).to_string();
    let serve = ["-s", "-1", "-p", port.as_str()].map(str::to_owned);
    let server = to.within(move || {
        let command = &mut Command::new("iperf3");
        command.args(serve).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    });
    let _server = Server(server.expect("run iperf3 (package iperf3)"));
    let mut arguments: Vec<String> =
        ["-c", &address.to_string(), "-p", port.as_str(), "-J"].map(str::to_owned).into();
    arguments.extend(options.split_whitespace().map(str::to_owned));
    // The server may be a moment later than the client.
    let report = (0..20).find_map(|_| {
        let arguments = arguments.clone();
        let output = from.within(move || Command::new("iperf3").args(arguments).output());
        let output = output.expect("run iperf3");
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("a report of iperf3");
        if output.status.success() {
            return Some(report);
        }
        let refused = report["error"].to_string().contains("onnection refused");
        assert!(refused, "iperf3: {}", report["error"]);
        std::thread::sleep(Duration::from_millis(100));
        None
    });
    report.expect("iperf3's server does not answer")
}

/// Mbit/s of frames over 4 seconds after the first one; back with `-R`. 0 if iperf3 leaves the figure
/// out, as it does when its own talk was lost.
fn measure(from: &impl Place, to: &impl Place, address: Ipv4Addr, way: &str, mtu: f64) -> f64 {
    let report = iperf3(from, to, address, &format!("-t 4 -O 1 {way}"));
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
    // 52 bytes of a packet are headers, and a frame is 14 bytes longer.
    bits / 1e6 * (mtu + 14.0) / (mtu - 52.0)
}

/// Measures until the figure is right. A machine that has other things to do is slower than it may be
/// now and then, but never faster, and not every time.
fn expect(expected: f64, mut measure: impl FnMut() -> f64) {
    let mut seen = Vec::new();
    for _ in 0..4 {
        let measured = measure();
        assert!(measured <= expected * 1.05, "{measured:.2} instead of {expected}");
        if measured >= expected * 0.95 {
            return;
        }
        seen.push(measured);
    }
    assert!(seen.is_empty(), "{seen:.2?} instead of {expected}");
}

/// How many of 4,000 packets a second, sent for three seconds, arrive.
fn blast(from: &Guest, to: &Guest, address: Ipv4Addr) -> u32 {
    let bind = |port| move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let (sender, receiver) = (from.run(bind(0)), to.run(bind(7000)));
    receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("set a timeout");
    let receiving = std::thread::spawn(move || {
        let mut packets = 0;
        while receiver.recv(&mut [0; 16]).is_ok() {
            packets += 1;
        }
        packets
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        for _ in 0..20 {
            sender.send_to(b"packet", (address, 7000)).expect("send");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    receiving.join().expect("received")
}

fn limit(enis: &[&EniSpec], kbits: u64, burst: u64, packets: u64) -> InstanceLimit {
    InstanceLimit {
        instance_id: "i-1".to_owned(),
        eni_ids: enis.iter().map(|eni| eni.eni_id.clone()).collect(),
        limit: NetworkLimit {
            kbits_per_second: kbits,
            burst_kbits_per_second: burst,
            packets_per_second: packets,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_as_fast_as_its_limit_each_way_over_all_its_interfaces() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-a", vec![]);
    let (first, second) = (cloud.add_eni(7, 1, &["sg-a"]), cloud.add_eni(7, 2, &["sg-a"]));
    let peer = cloud.add_eni(7, 3, &["sg-a"]);
    cloud.desired.limits = vec![limit(&[&first, &second], 40_000, 0, 0)];
    cloud.reconcile().await;
    let (one, two) = (cloud.boot(&first).await, cloud.boot(&second).await);
    let peer = cloud.boot(&peer).await;
    let report = cloud.reconcile().await;
    assert_eq!(report.changes, 0, "{report:?}");
    expect(40.0, || measure(&one, &peer, address(3), "", 1500.0));
    expect(40.0, || measure(&one, &peer, address(3), "-R", 1500.0));
    expect(40.0, || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| measure(&two, &peer, address(3), "", 1500.0));
            measure(&one, &peer, address(3), "", 1500.0) + other.join().expect("measured")
        })
    });

    // A new limit is in effect at once, without a new interface.
    cloud.desired.limits = vec![limit(&[&first, &second], 15_000, 0, 0)];
    let report = cloud.reconcile().await;
    assert!(report.repairs.is_empty(), "{report:?}");
    expect(15.0, || measure(&one, &peer, address(3), "", 1500.0));
    expect(15.0, || measure(&one, &peer, address(3), "-R", 1500.0));

    // An agent that was started again sets the same.
    cloud.restart().await;
    cloud.reconcile().await;
    assert_eq!(cloud.reconcile().await.changes, 0);
    // By hand it does not stay otherwise.
    for damage in [
        "for l in $(ip -o link | grep -o ' q[io][0-9a-f]*:' | tr -d :); do tc qdisc del dev $l root; done",
        "for l in $(ip -o link | grep -o ' qo[0-9a-f]*:' | tr -d :); do ip link del $l; done",
        "for l in $(ip -o link | grep -o ' qi[0-9a-f]*:' | tr -d :); do tc qdisc replace dev $l root handle 1: tbf rate 1gbit burst 1mb limit 1mb; done",
        "for l in $(ip -o link | grep -o ' tap[0-9a-f]*:' | tr -d :); do tc qdisc del dev $l clsact 2>/dev/null; done; true",
        "for l in $(ip -o link | grep -o ' tap[0-9a-f]*:' | tr -d :); do tc filter del dev $l ingress 2>/dev/null; done; true",
    ] {
        cloud.by_hand(7, damage);
        let report = cloud.reconcile().await;
        assert!(!report.repairs.is_empty(), "{damage}");
        assert_eq!(cloud.reconcile().await.changes, 0, "{damage}");
        assert!(one.pings(address(3)), "{damage}");
    }
    expect(15.0, || measure(&one, &peer, address(3), "", 1500.0));

    // None, and nothing is in the way.
    cloud.desired.limits.clear();
    cloud.reconcile().await;
    assert!((0..4).any(|_| measure(&one, &peer, address(3), "", 1500.0) > 45.0));
    assert!(!cloud.by_hand(7, "tc qdisc; ip -o link").contains("clsact"));
    assert_eq!(cloud.reconcile().await.changes, 0);
    drop((one, two, peer));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_bursts_for_a_while_and_sends_no_more_packets_than_it_may() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-a", vec![]);
    let (eni, peer) = (cloud.add_eni(7, 1, &["sg-a"]), cloud.add_eni(7, 3, &["sg-a"]));
    cloud.desired.limits = vec![limit(&[&eni], 8_000, 24_000, 0)];
    cloud.reconcile().await;
    let (guest, peer) = (cloud.boot(&eni).await, cloud.boot(&peer).await);
    // Credit for 10 s at 24 Mbit/s; a new bucket is full.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| *last < 24.0 * 0.95) {
        assert!(seen.len() < 4, "{seen:.2?} instead of 24");
        let limits = std::mem::take(&mut cloud.desired.limits);
        cloud.reconcile().await;
        cloud.desired.limits = limits;
        cloud.reconcile().await;
        seen.push(measure(&guest, &peer, address(3), "", 1500.0));
        assert!(seen.last().is_none_or(|last| *last <= 24.0 * 1.05), "{seen:.2?}");
    }
    // When it is spent, what is left is the sustained rate.
    let spent = (0..8).any(|_| {
        let measured = measure(&guest, &peer, address(3), "", 1500.0);
        (8.0 * 0.95..=8.0 * 1.05).contains(&measured)
    });
    assert!(spent, "the burst does not end, or not at the sustained rate");

    cloud.desired.limits = vec![limit(&[&eni], 0, 0, 1000)];
    cloud.reconcile().await;
    for (from, to, host) in [(&guest, &peer, 3), (&peer, &guest, 1)] {
        // A tenth of a second's packets may come at once.
        expect(1000.0, || (f64::from(blast(from, to, address(host))) - 100.0) / 3.0);
    }
    drop((guest, peer));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_is_as_fast_as_its_bandwidth_each_way() {
    let fabric = Fabric::new(1);
    let mut cloud = fabric.cloud_with(0, |options| options.uplink = Some("eth0".into())).await;
    cloud.add_vpc(7);
    let all = RuleSpec {
        ip_protocol: "all".to_owned(),
        port_from: 0,
        port_to: 0,
        ..accept_tcp(0, "0.0.0.0/0")
    };
    cloud.add_group(7, "sg-a", vec![all]);
    let (first, second) = (cloud.add_eni(7, 1, &["sg-a"]), cloud.add_eni(7, 2, &["sg-a"]));
    for (number, mbps) in [(0, 10), (1, 30)] {
        let eni = &mut cloud.desired.enis[number];
        eni.eips = vec![EipSpec {
            allocation_id: format!("eip-{number}"),
            address: format!("192.168.77.{}", 101 + number),
            private_ip: eni.private_ip.clone(),
            bandwidth_mbps: mbps,
        }];
    }
    cloud.reconcile().await;
    let world = fabric.node("192.168.77.200/24");
    let (one, two) = (cloud.boot(&first).await, cloud.boot(&second).await);
    assert_eq!(cloud.reconcile().await.changes, 0);
    let to = Ipv4Addr::new(192, 168, 77, 200);
    for way in ["", "-R"] {
        std::thread::scope(|scope| {
            scope.spawn(|| expect(10.0, || measure(&one, &world, to, way, 1450.0)));
            expect(30.0, || measure(&two, &world, to, way, 1450.0));
        });
    }
    // Inside the VPC it says nothing.
    assert!((0..4).any(|_| measure(&two, &one, address(1), "", 1500.0) > 45.0));

    cloud.desired.enis[0].eips[0].bandwidth_mbps = 20;
    cloud.desired.enis[1].eips[0].bandwidth_mbps = 0;
    cloud.reconcile().await;
    assert_eq!(cloud.reconcile().await.changes, 0);
    expect(20.0, || measure(&one, &world, to, "", 1450.0));
    assert!((0..4).any(|_| measure(&two, &world, to, "", 1450.0) > 45.0));
    cloud.by_hand(7, "tc qdisc del dev edge0 root");
    assert!(!cloud.reconcile().await.repairs.is_empty());
    assert_eq!(cloud.reconcile().await.changes, 0);
    expect(20.0, || measure(&one, &world, to, "", 1450.0));
    cloud.desired.enis[0].eips[0].bandwidth_mbps = 0;
    cloud.reconcile().await;
    assert!((0..4).any(|_| measure(&one, &world, to, "", 1450.0) > 45.0));
    drop((one, two));
    cloud.demolish().await;
}
