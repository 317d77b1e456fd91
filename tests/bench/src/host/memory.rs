//! Memory of the monitor's process beyond the guest's.

use super::{
    Options,
    machine::{Guest, MICROVM, Monitor, Running, USERLAND},
};
use crate::report::Row;
use anyhow::{Context as _, Result};
use std::{fs, thread, time::Duration};

const GUEST_MIB: u64 = 128;

/// Sums proportional set sizes (KiB) over every mapping smaller than guest memory.
fn overhead_kib(smaps: &str) -> u64 {
    let (mut size, mut total) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (name, value) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
        match (name, value) {
            (Some("Size:"), Some(kib)) => size = kib,
            (Some("Pss:"), Some(kib)) if size < GUEST_MIB << 10 => total += kib,
            _ => {}
        }
    }
    total
}

fn mebibytes(options: &Options, monitor: Monitor) -> Result<f64> {
    let guest = Guest {
        arguments: "bench=boot".to_owned(),
        memory_mib: GUEST_MIB,
        vcpus: 1,
        ..Guest::default()
    };
    let mut running = Running::start(options, monitor, &guest)?;
    running.wait_for(USERLAND, Duration::from_secs(120))?;
    thread::sleep(Duration::from_secs(2));
    let path = format!("/proc/{}/smaps", running.pid());
    let smaps = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(overhead_kib(&smaps) as f64 / 1024.0)
}

/// Alternates ours with QEMU's microvm, 1 vCPU and 128 MiB.
pub fn run(options: &Options) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..options.runs {
        pairs.push((mebibytes(options, Monitor::Ours)?, mebibytes(options, MICROVM)?));
    }
    Row::new("memory", "vmm_memory_mib", "MiB", "QEMU -M microvm", true, &pairs).print()
}

#[cfg(test)]
mod tests {
    #[test]
    fn guest_memory_does_not_count() {
        let smaps =
            "7f00-7f01 rw-p\nSize: 131072 kB\nPss: 90000 kB\nb-c r\nSize: 8 kB\nPss: 5 kB\n";
        assert_eq!(super::overhead_kib(smaps), 5);
    }
}
