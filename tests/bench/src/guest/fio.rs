//! fio on disks of the guest: what a guest gets from a disk that is kept to a rate.

use super::figure;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{process::Command, time::Duration};

/// `randread` and the others are fio's own words.
fn fio(disk: &str, pattern: &str, block: &str, more: &[String]) -> Result<Value> {
    let output = Command::new("fio")
        .args(["--name=load", "--direct=1", "--time_based", "--group_reporting", "--thread"])
        .args(["--ioengine=io_uring", "--output-format=json", "--norandommap"])
        .args([
            format!("--filename=/dev/{disk}"),
            format!("--rw={pattern}"),
            format!("--bs={block}"),
        ])
        .args(more)
        .output()
        .context("run fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fio ended with {}: {text} {errors}", output.status);
    // Warnings may come first.
    let json = text.find('{').map(|start| &text[start..]);
    serde_json::from_str(json.with_context(|| format!("fio said nothing: {errors}"))?)
        .with_context(|| format!("fio said {text}"))
}

fn number(of: &Value, name: &str) -> Result<f64> {
    of[name].as_f64().with_context(|| format!("fio gave no {name}"))
}

/// One load: `DISK:PATTERN:BLOCK:JOBS:DEPTH`. Prints its operations and bytes per second, a
/// second of it left out.
fn rate(load: &str, duration: Duration) -> Result<()> {
    let [disk, pattern, block, jobs, depth] = load.split(':').collect::<Vec<_>>()[..] else {
        bail!("{load:?} is no load");
    };
    let half = (depth.parse::<u32>()? / 2).max(1);
    let options = [
        format!("--numjobs={jobs}"),
        format!("--iodepth={depth}"),
        // One notification for several requests, as each is an exit: half the depth at a time.
        format!("--iodepth_batch_submit={half}"),
        format!("--iodepth_low={half}"),
        format!("--runtime={}", duration.as_secs()),
        "--ramp_time=1".to_owned(),
    ];
    let said = fio(disk, pattern, block, &options)?;
    let job = &said["jobs"][0];
    for name in ["iops", "bw_bytes"] {
        let both = number(&job["read"], name)? + number(&job["write"], name)?;
        figure(&format!("{load}:{name}"), both);
    }
    Ok(())
}

/// One load below its rate: `DISK:IOPS:ROUND`. Prints the 99th percentile of its waits, in µs.
fn wait(load: &str, duration: Duration) -> Result<()> {
    let [disk, iops, _round] = load.split(':').collect::<Vec<_>>()[..] else {
        bail!("{load:?} is no load");
    };
    let options = [
        format!("--rate_iops={iops}"),
        "--iodepth=4".to_owned(),
        format!("--runtime={}", duration.as_secs()),
    ];
    let said = fio(disk, "randread", "4k", &options)?;
    let p99 = number(&said["jobs"][0]["read"]["clat_ns"]["percentile"], "99.000000")?;
    figure(&format!("{load}:p99"), p99 / 1000.0);
    Ok(())
}

/// All loads, one after the other.
pub fn run(rates: &str, waits: &str, duration: Duration) -> Result<()> {
    for load in rates.split(',').filter(|load| !load.is_empty()) {
        rate(load, duration)?;
    }
    for load in waits.split(',').filter(|load| !load.is_empty()) {
        wait(load, duration)?;
    }
    Ok(())
}
