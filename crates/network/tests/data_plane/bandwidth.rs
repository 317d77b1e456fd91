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
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
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

/// Mbit/s of frames over 4 seconds after the first one; back with `-R`.
fn measure(from: &impl Place, to: &impl Place, address: Ipv4Addr, way: &str, mtu: f64) -> f64 {
    // Now and then iperf3 leaves the figure out.
    let figure = (0..3).find_map(|_| {
        let report = iperf3(from, to, address, &format!("-t 4 -O 1 {way}"));
        report["end"]["sum_received"]["bits_per_second"].as_f64()
    });
    // 52 bytes of a packet are headers, and a frame is 14 bytes longer.
    figure.expect("a figure") / 1e6 * (mtu + 14.0) / (mtu - 52.0)
}

fn within_5_percent(measured: f64, expected: f64) {
    let off = (measured - expected).abs() / expected;
    assert!(off <= 0.05, "{measured:.2} Mbit/s instead of {expected}");
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
    within_5_percent(measure(&one, &peer, address(3), "", 1500.0), 40.0);
    within_5_percent(measure(&one, &peer, address(3), "-R", 1500.0), 40.0);
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| measure(&two, &peer, address(3), "", 1500.0));
        (measure(&one, &peer, address(3), "", 1500.0), other.join().expect("measured"))
    });
    within_5_percent(a + b, 40.0);

    // A new limit is in effect at once, without a new interface.
    cloud.desired.limits = vec![limit(&[&first, &second], 15_000, 0, 0)];
    let report = cloud.reconcile().await;
    assert!(report.repairs.is_empty(), "{report:?}");
    within_5_percent(measure(&one, &peer, address(3), "", 1500.0), 15.0);
    within_5_percent(measure(&one, &peer, address(3), "-R", 1500.0), 15.0);

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
    within_5_percent(measure(&one, &peer, address(3), "", 1500.0), 15.0);

    // None, and nothing is in the way.
    cloud.desired.limits.clear();
    cloud.reconcile().await;
    assert!(measure(&one, &peer, address(3), "", 1500.0) > 60.0);
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
    // Credit for 10 s at 24 Mbit/s.
    within_5_percent(measure(&guest, &peer, address(3), "", 1500.0), 24.0);
    measure(&guest, &peer, address(3), "-t 6", 1500.0);
    within_5_percent(measure(&guest, &peer, address(3), "", 1500.0), 8.0);

    cloud.desired.limits = vec![limit(&[&eni], 0, 0, 1000)];
    cloud.reconcile().await;
    // Datagrams of 100 bytes at 3.2 Mbit/s are 4,000 a second.
    for way in ["", "-R"] {
        let options = format!("-u -b 3.2M -l 100 -t 5 {way}");
        let report = iperf3(&guest, &peer, address(3), &options);
        let intervals = report["intervals"].as_array().expect("intervals");
        let sum = &report["end"]["sum"];
        let figure = |key: &str| sum[key].as_f64().expect("a figure");
        let received = (figure("packets") - figure("lost_packets")) / 5.0;
        assert!(intervals.len() >= 4);
        // iperf3's own few packets count too.
        assert!((900.0..=1050.0).contains(&received), "{received} packets per second {way}");
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
    let (slow, fast) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| measure(&one, &world, to, "", 1450.0));
        (measure(&two, &world, to, "", 1450.0), slow.join().expect("measured"))
    });
    let (fast, slow) = (slow, fast);
    within_5_percent(slow, 10.0);
    within_5_percent(fast, 30.0);
    let (fast, slow) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| measure(&one, &world, to, "-R", 1450.0));
        (measure(&two, &world, to, "-R", 1450.0), slow.join().expect("measured"))
    });
    within_5_percent(slow, 10.0);
    within_5_percent(fast, 30.0);
    // Inside the VPC it says nothing.
    assert!(measure(&two, &one, address(1), "", 1500.0) > 60.0);

    cloud.desired.enis[0].eips[0].bandwidth_mbps = 20;
    cloud.desired.enis[1].eips[0].bandwidth_mbps = 0;
    cloud.reconcile().await;
    assert_eq!(cloud.reconcile().await.changes, 0);
    within_5_percent(measure(&one, &world, to, "", 1450.0), 20.0);
    assert!(measure(&two, &world, to, "", 1450.0) > 60.0);
    cloud.by_hand(7, "tc qdisc del dev edge0 root");
    assert!(!cloud.reconcile().await.repairs.is_empty());
    assert_eq!(cloud.reconcile().await.changes, 0);
    within_5_percent(measure(&one, &world, to, "", 1450.0), 20.0);
    cloud.desired.enis[0].eips[0].bandwidth_mbps = 0;
    cloud.reconcile().await;
    assert!(measure(&one, &world, to, "", 1450.0) > 60.0);
    drop((one, two));
    cloud.demolish().await;
}
