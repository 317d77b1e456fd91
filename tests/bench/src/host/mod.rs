//! Drives both virtual machine monitors, one after the other, pair by pair.

mod block;
mod boot;
mod disks;
mod machine;
mod memory;
mod net;
mod patched;
mod tiers;
mod vpc;

use anyhow::Result;
use clap::Args;
use patched::KeptPatched;
use std::path::PathBuf;

/// What to measure with.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The ecs-vmm binary.
    #[arg(long, default_value = "ecs-vmm")]
    vmm: PathBuf,
    /// The QEMU binary.
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Kernel of both guests.
    #[arg(long)]
    kernel: PathBuf,
    /// Initrd of both guests, with `ecs-bench guest` inside.
    #[arg(long)]
    initrd: PathBuf,
    /// Initrd of guests that run fio.
    #[arg(long)]
    fio_initrd: Option<PathBuf>,
    /// Folder on a real file system for disk images.
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
    /// Pairs per figure.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds per load.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only these: boot, memory, block, disks, net, vpc, tiers.
    #[arg(long, value_delimiter = ',', default_value = "boot,memory,block,disks,net,vpc,tiers")]
    only: Vec<String>,
    /// Only this load of block: rand_read_qd1, seq_write, ...; without overlays.
    #[arg(long)]
    load: Option<String>,
}

/// Runs every group that was asked for.
pub fn run(options: &Options) -> Result<()> {
    let _patched = KeptPatched::new()?;
    for (name, group) in [
        ("boot", boot::run as fn(&Options) -> Result<()>),
        ("memory", memory::run),
        ("block", block::run),
        ("disks", disks::run),
        ("net", net::run),
        ("vpc", vpc::run),
        ("tiers", tiers::run),
    ] {
        if options.only.iter().any(|only| only == name) {
            eprintln!("measuring {name}, {} pairs", options.runs);
            group(options)?;
        }
    }
    Ok(())
}
