//! virtio-net over one tap: TCP both ways and round trips.

use super::{
    Options,
    machine::{Guest, Q35, pairs},
};
use crate::{
    guest::net::serve,
    report::{Goal, Row},
};
use anyhow::{Context as _, Result, ensure};
use std::{net::TcpListener, path::Path, process::Command, thread, time::Duration};

/// Name of the tap.
pub const TAP: &str = "benchtap0";

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("run ip")?;
    ensure!(status.success(), "ip {arguments} ended with {status}");
    Ok(())
}

/// The tap both use in turn; gone when dropped.
#[derive(Debug)]
pub struct Tap(());

impl Tap {
    /// Makes it.
    pub fn new() -> Result<Self> {
        ip(&format!("tuntap add {TAP} mode tap vnet_hdr"))?;
        Ok(Self(()))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("link delete {TAP}")) {
            eprintln!("{error:#}");
        }
    }
}

/// Ours against QEMU on the same tap, with vhost-net where the host has it.
pub fn run(options: &Options) -> Result<()> {
    let _tap = Tap::new()?;
    ip(&format!("addr add 10.99.0.1/24 dev {TAP}"))?;
    ip(&format!("link set {TAP} up"))?;
    let listener = TcpListener::bind("10.99.0.1:5201").context("listen for the guest")?;
    thread::spawn(move || serve(&listener));
    let guest = Guest {
        arguments: format!(
            "bench=net bench_ip=10.99.0.2/24 bench_peer=10.99.0.1:5201 bench_seconds={}",
            options.seconds
        ),
        memory_mib: 256,
        vcpus: 1,
        tap: Some(TAP.to_owned()),
        ..Guest::default()
    };
    let limit = Duration::from_secs(120 + 8 * options.seconds);
    let figures = pairs(options, Q35, &guest, limit)?;
    let vhost = if Path::new("/dev/vhost-net").exists() { "with" } else { "no" };
    let against = &format!("QEMU q35, same tap, {vhost} vhost-net");
    for (figure, pairs) in &figures {
        let (name, unit, goal) = match figure.as_str() {
            "net_tx_mbit" => ("net_throughput_vs_qemu", "Mbit/s", Goal::RatioAtLeast(1.0)),
            "net_rx_mbit" => ("net_rx_throughput_vs_qemu", "Mbit/s", Goal::RatioAtLeast(1.0)),
            _ => ("net_latency_vs_qemu", "us", Goal::RatioAtMost(1.0)),
        };
        Row::new("net", name, unit, against, goal, pairs).print()?;
    }
    Ok(())
}
