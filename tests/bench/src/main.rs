//! `ecs-bench`: ecs-vmm against QEMU, alternating on one host with the same kernel, initrd and
//! image, so that only ratios of one run are ever compared.
//!
//! Four roles in one binary: `host` drives the virtual machines, `guest` is the load inside them,
//! `networks` measures VPC networks without machines, `report` turns result lines into tables and files.

mod guest;
mod host;
mod networks;
mod report;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run every measurement on this host and print one result line each.
    Host(host::Options),
    /// The load inside a guest; what to do is in the kernel command line.
    Guest,
    /// Measure what VPC networks cost in this machine's kernel and print one result line each.
    Networks(networks::Options),
    /// Read result lines from a file, print a table, write one JSON file per group.
    Report {
        /// Output of `ecs-bench host`, other lines are ignored.
        input: PathBuf,
        /// Folder for the JSON files.
        #[arg(long, default_value = "target/bench")]
        out: PathBuf,
        /// Not everything was measured, as was asked for.
        #[arg(long)]
        partial: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().role {
        Role::Host(options) => host::run(&options),
        Role::Guest => guest::run(),
        Role::Networks(options) => networks::run(&options),
        Role::Report { input, out, partial } => report::run(&input, &out, partial),
    }
}
