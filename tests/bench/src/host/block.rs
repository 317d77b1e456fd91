//! virtio-blk on qcow2 files which both use in turn: one that is fully allocated, and new overlays
//! over it. The host's page cache holds all of it: what is measured is the way there, not a disk.

use super::{
    Options,
    machine::{Disk, Guest, Q35, pairs},
};
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::Command,
    time::Duration,
};

const SIZE_MIB: u64 = 256;

/// A disk of random bytes.
pub fn image(work: &Path) -> Result<std::path::PathBuf> {
    let (raw, qcow2) = (work.join("bench.raw"), work.join("bench.qcow2"));
    let mut random = File::open("/dev/urandom")?.take(SIZE_MIB << 20);
    io::copy(&mut random, &mut File::create(&raw)?).context("write the source of the disk")?;
    let status = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &qcow2])
        .status()
        .context("run qemu-img")?;
    ensure!(status.success(), "qemu-img convert ended with {status}");
    std::fs::remove_file(&raw)?;
    Ok(qcow2)
}

/// Random 4 KiB operations at queue depths 1, 32 and 128, sequential 1 MiB transfers.
pub fn run(options: &Options) -> Result<()> {
    let disk = image(&options.work)?;
    let guest = |load: &str, disk| Guest {
        arguments: format!("bench=blk bench_load={load} bench_seconds={}", options.seconds),
        memory_mib: 512,
        vcpus: 1,
        disk: Some(disk),
        ..Guest::default()
    };
    let limit = Duration::from_secs(120 + 12 * options.seconds);
    let load = options.load.as_deref().unwrap_or("all");
    let plain = guest(load, Disk::Plain(disk.clone()));
    for (figure, pairs) in &pairs(options, Q35, &plain, limit)? {
        let (name, unit) = match figure.as_str() {
            "rand_read_qd32" => ("blk_rand_iops_vs_qemu".to_owned(), "IOPS"),
            "seq_read" => ("blk_seq_vs_qemu".to_owned(), "MiB/s"),
            other if other.starts_with("rand") => (format!("blk_{other}_vs_qemu"), "IOPS"),
            other => (format!("blk_{other}_vs_qemu"), "MiB/s"),
        };
        let against = "QEMU q35, iothread, io_uring, same file, cached";
        let goal = Goal::RatioAtLeast(if figure.starts_with("rand") { 1.2 } else { 1.0 });
        Row::new("block", &name, unit, against, goal, pairs).print()?;
    }
    if options.load.is_some() {
        return Ok(std::fs::remove_file(disk)?);
    }
    let overlay = guest("rand_write_qd32", Disk::Overlay(disk.clone()));
    for pairs in pairs(options, Q35, &overlay, limit)?.values() {
        let against = "QEMU q35, iothread, io_uring, new overlay over same file, cached";
        let name = "blk_overlay_rand_write_qd32_vs_qemu";
        Row::new("block", name, "IOPS", against, Goal::RatioAtLeast(1.0), pairs).print()?;
    }
    let _ = std::fs::remove_file(options.work.join("bench-overlay.qcow2"));
    std::fs::remove_file(disk)?;
    Ok(())
}
