//! The load inside a guest. The kernel command line says which: `bench=blk`, `bench=fio` or `bench=net`.

mod block;
mod fio;
pub mod net;

use anyhow::{Context as _, Result, bail};
use std::{fs, time::Duration};

/// Marks a figure the guest prints on its console: `ECS-BENCH-GUEST name value`.
pub const MARK: &str = "ECS-BENCH-GUEST ";

fn argument(cmdline: &str, name: &str) -> Option<String> {
    cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
}

/// Runs the load named in the kernel command line and prints its figures.
pub fn run() -> Result<()> {
    let cmdline = fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    let seconds = argument(&cmdline, "bench_seconds").map_or(Ok(5), |s| s.parse())?;
    let duration = Duration::from_secs(seconds);
    match argument(&cmdline, "bench").as_deref() {
        Some("blk") => {
            let only = argument(&cmdline, "bench_load").filter(|load| load != "all");
            block::run("/dev/vda", only.as_deref(), duration)
        }
        Some("fio") => {
            let rates = argument(&cmdline, "bench_rates").unwrap_or_default();
            let waits = argument(&cmdline, "bench_waits").unwrap_or_default();
            let changes = argument(&cmdline, "bench_changes").unwrap_or_default();
            fio::run(&rates, &waits, &changes, duration)
        }
        Some("net") => {
            let peer = argument(&cmdline, "bench_peer").context("bench_peer= is missing")?;
            net::client(&peer, duration)
        }
        other => bail!("no such load: bench={other:?}"),
    }
}

/// Marks what the guest asks of the host on its console: `ECS-BENCH-ASK what`.
pub const ASK: &str = "ECS-BENCH-ASK ";

/// Asks the host for something.
pub fn ask(what: &str) {
    println!("{ASK}{what}");
}

/// Prints one figure for the host to read.
pub fn figure(name: &str, value: f64) {
    println!("{MARK}{name} {value}");
}
