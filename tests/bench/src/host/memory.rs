//! Memory of the monitor's process beyond the guest's.

use super::{
    Options,
    block::image,
    machine::{Disk, Guest, IDLE, MICROVM, MICROVM_PCI, Monitor, Running, alternate},
    net::{TAP, Tap},
};
use crate::report::{Goal, Row};
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

fn mebibytes(options: &Options, monitor: Monitor, guest: &Guest) -> Result<f64> {
    let mut running = Running::start(options, monitor, guest)?;
    running.wait_for(IDLE, Duration::from_secs(120))?;
    thread::sleep(Duration::from_secs(2));
    let path = format!("/proc/{}/smaps", running.pid());
    let smaps = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(overhead_kib(&smaps) as f64 / 1024.0)
}

/// Ours against QEMU's microvm, 1 vCPU and 128 MiB: without devices, and with a disk and a network
/// interface whose drivers run.
pub fn run(options: &Options) -> Result<()> {
    let bare = Guest {
        arguments: "bench=boot".to_owned(),
        memory_mib: GUEST_MIB,
        vcpus: 1,
        ..Guest::default()
    };
    let pairs = alternate(options, MICROVM, |monitor| mebibytes(options, monitor, &bare))?;
    let against = "QEMU -M microvm without PCI; PSS of all but guest RAM, no devices";
    Row::new("memory", "vmm_memory_mib", "MiB", against, Goal::OursBelow(5.0), &pairs).print()?;

    let _tap = Tap::new()?;
    let disk = image(&options.work)?;
    let full = Guest {
        arguments: "bench=boot bench_modules=1".to_owned(),
        disk: Some(Disk::Plain(disk.clone())),
        tap: Some(TAP.to_owned()),
        ..bare
    };
    let pairs = alternate(options, MICROVM_PCI, |monitor| mebibytes(options, monitor, &full))?;
    std::fs::remove_file(disk)?;
    let against = "QEMU -M microvm with PCI; PSS of all but guest RAM, disk and NIC in use";
    let name = "vmm_memory_disk_nic_mib";
    Row::new("memory", name, "MiB", against, Goal::RatioAtMost(1.0), &pairs).print()
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
