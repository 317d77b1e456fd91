//! Two guests that talk to each other: ours in a VPC, with security groups, on one host and on two,
//! against QEMU's on a plain Linux bridge and on two that are joined.

use super::{
    Options,
    machine::{Guest, Monitor, Q35, Running, alternate},
};
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use api::host::{EniSpec, RemoteHost, SecurityGroupSpec, VSwitchSpec, VpcSpec};
use network::{Desired, HostNetwork, Options as NetworkOptions, Underlay};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const VNI: u32 = 1;
/// The least share of a bridge's throughput, and its inverse for times.
const SHARE: f64 = 0.95;
const ADDRESSES: [&str; 2] = ["10.0.0.2", "10.0.0.3"];
const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("run ip")?;
    ensure!(status.success(), "ip {arguments} ended with {status}");
    Ok(())
}

/// Where a guest's interface is.
#[derive(Debug, Clone)]
struct Place {
    /// Namespace of the tap; none for this process's own.
    namespace: Option<PathBuf>,
    tap: String,
}

fn eni(number: usize) -> EniSpec {
    EniSpec {
        eni_id: format!("eni-bench{number}"),
        mac: mac(number),
        vpc_id: "vpc-bench".to_owned(),
        vswitch_id: "vsw-bench".to_owned(),
        vswitch_cidr: "10.0.0.0/24".to_owned(),
        vpc_cidr: "10.0.0.0/16".to_owned(),
        private_ip: ADDRESSES[number].to_owned(),
        gateway_ip: "10.0.0.253".to_owned(),
        security_group_ids: vec!["sg-bench".to_owned()],
        primary: true,
        ..EniSpec::default()
    }
}

fn mac(number: usize) -> String {
    format!("00:16:3e:00:00:{:02x}", number + 2)
}

/// A host of the VPC with these ENIs; the others are on `peer`.
fn desired(here: &[usize], peer: Option<&str>) -> Desired {
    let away = (0..ADDRESSES.len()).filter(|number| !here.contains(number));
    let remote_hosts = peer.map(|underlay| RemoteHost {
        underlay_ip: underlay.to_owned(),
        addresses: away.map(|number| ADDRESSES[number].to_owned()).collect(),
    });
    let vswitch = VSwitchSpec {
        vswitch_id: "vsw-bench".to_owned(),
        cidr: "10.0.0.0/24".to_owned(),
        gateway_ip: "10.0.0.253".to_owned(),
        ..VSwitchSpec::default()
    };
    let vpc = VpcSpec {
        vpc_id: "vpc-bench".to_owned(),
        cidr: "10.0.0.0/16".to_owned(),
        vni: VNI,
        vswitches: vec![vswitch],
        remote_hosts: remote_hosts.into_iter().collect(),
        ..VpcSpec::default()
    };
    let group = SecurityGroupSpec {
        security_group_id: "sg-bench".to_owned(),
        vpc_id: "vpc-bench".to_owned(),
        inner_accept: true,
        member_ips: ADDRESSES.iter().map(|&address| address.to_owned()).collect(),
        ..SecurityGroupSpec::default()
    };
    Desired {
        vpcs: vec![vpc],
        enis: here.iter().map(|&number| eni(number)).collect(),
        groups: vec![group],
        ..Desired::default()
    }
}

/// Our hosts, each with its networks.
struct Hosts {
    runtime: tokio::runtime::Runtime,
    networks: Vec<HostNetwork>,
    places: Vec<Place>,
}

impl Hosts {
    /// Both guests on one host, or each on its own.
    fn new(count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (mut networks, mut places) = (Vec::new(), Vec::new());
        for host in 0..count {
            let namespace_dir = PathBuf::from(format!("/run/bench-vpc{host}"));
            let mut options = NetworkOptions { namespace_dir, ..NetworkOptions::default() };
            let mut here = vec![0, 1];
            let mut peer = None;
            if count > 1 {
                options.host_namespace = Some(format!("/run/netns/bench-host{host}").into());
                let address = UNDERLAY[host].parse()?;
                options.underlay = Some(Underlay { address, port: Underlay::PORT });
                here = vec![host];
                peer = Some(UNDERLAY[1 - host]);
            }
            let network = runtime.block_on(HostNetwork::new(options.clone()))?;
            let desired = desired(&here, peer);
            let report = runtime.block_on(network.reconcile(&desired));
            ensure!(report.problems.is_empty(), "{:?}", report.problems);
            for eni in &desired.enis {
                // Made now; it stays when it is closed.
                drop(runtime.block_on(network.open_tap(eni, 1))?);
                let namespace = options.namespace_dir.join(network::namespace_name(VNI));
                let tap = network::tap_name(&eni.eni_id);
                places.push(Place { namespace: Some(namespace), tap });
            }
            networks.push(network);
        }
        Ok(Self { runtime, networks, places })
    }

    fn demolish(self) -> Result<()> {
        for network in &self.networks {
            let report = self.runtime.block_on(network.reconcile(&Desired::default()));
            ensure!(report.problems.is_empty(), "{:?}", report.problems);
        }
        Ok(())
    }
}

/// Taps on one bridge, or on two that are joined by a pair of interfaces.
fn bridges(count: usize) -> Result<Vec<Place>> {
    for bridge in 0..count {
        ip(&format!("link add benchbr{bridge} type bridge"))?;
        ip(&format!("link set benchbr{bridge} up"))?;
    }
    if count > 1 {
        ip("link add benchve0 type veth peer name benchve1")?;
        for end in 0..2 {
            ip(&format!("link set benchve{end} master benchbr{end} up"))?;
        }
    }
    let mut places = Vec::new();
    for number in 0..ADDRESSES.len() {
        let (tap, bridge) = (format!("benchbrtap{number}"), number % count);
        ip(&format!("tuntap add {tap} mode tap vnet_hdr"))?;
        ip(&format!("link set {tap} master benchbr{bridge} up"))?;
        places.push(Place { namespace: None, tap });
    }
    Ok(places)
}

fn remove_bridges(count: usize) -> Result<()> {
    for number in 0..ADDRESSES.len() {
        ip(&format!("link delete benchbrtap{number}"))?;
    }
    if count > 1 {
        ip("link delete benchve0")?;
    }
    (0..count).try_for_each(|bridge| ip(&format!("link delete benchbr{bridge}")))
}

/// Two namespaces that are hosts to [`HostNetwork`], on one cable.
fn cable() -> Result<()> {
    for host in 0..2 {
        ip(&format!("netns add bench-host{host}"))?;
    }
    ip("link add benchul0 netns bench-host0 type veth peer name benchul1 netns bench-host1")?;
    for (host, address) in UNDERLAY.iter().enumerate() {
        ip(&format!("-n bench-host{host} addr add {address}/24 dev benchul{host}"))?;
        ip(&format!("-n bench-host{host} link set benchul{host} up"))?;
        ip(&format!("-n bench-host{host} link set lo up"))?;
    }
    Ok(())
}

fn remove_cable() -> Result<()> {
    (0..2).try_for_each(|host| ip(&format!("netns delete bench-host{host}")))
}

fn guest(number: usize, place: &Place, arguments: &str) -> Guest {
    Guest {
        arguments: format!("{arguments} bench_ip={}/24", ADDRESSES[number]),
        memory_mib: 192,
        vcpus: 1,
        tap: Some(place.tap.clone()),
        mac: Some(mac(number)),
        namespace: place.namespace.clone(),
        ..Guest::default()
    }
}

fn talk(options: &Options, monitor: Monitor, places: &[Place]) -> Result<BTreeMap<String, f64>> {
    let limit = Duration::from_secs(180 + 8 * options.seconds);
    let mut server = Running::start(options, monitor, &guest(1, &places[1], "bench=netserve"))?;
    server.wait_for(crate::guest::SERVES, limit)?;
    let load =
        format!("bench=net bench_peer={}:5201 bench_seconds={}", ADDRESSES[1], options.seconds);
    Running::start(options, monitor, &guest(0, &places[0], &load))?.figures(limit)
}

/// Runs the group.
pub fn run(options: &Options) -> Result<()> {
    for count in [1, 2] {
        if count > 1 {
            cable()?;
        }
        let (hosts, bridges) = (Hosts::new(count)?, bridges(count)?);
        let measured = alternate(options, Q35, |monitor| match monitor {
            Monitor::Ours => talk(options, monitor, &hosts.places),
            Monitor::Qemu(_) => talk(options, monitor, &bridges),
        });
        hosts.demolish()?;
        remove_bridges(count)?;
        if count > 1 {
            remove_cable()?;
        }
        print(count, &measured?)?;
    }
    Ok(())
}

type Figures = BTreeMap<String, f64>;

fn print(count: usize, measured: &[(Figures, Figures)]) -> Result<()> {
    let hosts = if count == 1 { "one_host" } else { "two_hosts" };
    let vhost = if Path::new("/dev/vhost-net").exists() { "with" } else { "no" };
    let bridge = if count == 1 { "a bridge" } else { "two bridges on a cable" };
    let against = format!("QEMU q35 on {bridge}, {vhost} vhost-net");
    for (figure, name, unit, goal) in [
        ("net_tx_mbit", "throughput", "Mbit/s", Goal::RatioAtLeast(SHARE)),
        ("net_rx_mbit", "rx_throughput", "Mbit/s", Goal::RatioAtLeast(SHARE)),
        ("net_round_trip_us", "latency", "us", Goal::RatioAtMost(1.0 / SHARE)),
    ] {
        let of = |figures: &Figures| {
            figures.get(figure).copied().with_context(|| format!("a guest gave no {figure}"))
        };
        let pairs = measured.iter().map(|(ours, peer)| Ok((of(ours)?, of(peer)?)));
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        let name = format!("vpc_{name}_{hosts}_vs_bridge");
        Row::new("vpc", &name, unit, &against, goal, &pairs).print()?;
    }
    Ok(())
}
