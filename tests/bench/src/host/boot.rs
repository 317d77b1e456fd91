//! Process start to the guest's first userland line.

use super::{
    Options,
    machine::{Guest, MICROVM, Monitor, Q35, Running, USERLAND, alternate},
};
use crate::report::{Goal, Row};
use anyhow::Result;
use std::time::Duration;

fn milliseconds(options: &Options, monitor: Monitor) -> Result<f64> {
    let guest =
        Guest { arguments: "bench=boot".to_owned(), memory_mib: 256, vcpus: 1, ..Guest::default() };
    let mut running = Running::start(options, monitor, &guest)?;
    let (time, _) = running.wait_for(USERLAND, Duration::from_secs(120))?;
    Ok(time.as_secs_f64() * 1e3)
}

/// Ours against QEMU's microvm and q35.
pub fn run(options: &Options) -> Result<()> {
    for (name, against, peer) in [
        ("boot_userland_vs_qemu", "QEMU -M microvm without PCI", MICROVM),
        ("boot_userland_vs_qemu_q35", "QEMU -M q35", Q35),
    ] {
        let pairs = alternate(options, peer, |monitor| milliseconds(options, monitor))?;
        Row::new("boot", name, "ms", against, Goal::RatioAtMost(0.5), &pairs).print()?;
    }
    Ok(())
}
