//! fio on disks of the guest: what a guest gets from a disk that is kept to a rate.

use super::{ask, figure};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

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

/// Seconds of a load's beginning and end that are left out, and of what follows a change: the log
/// has one entry for each half.
const EDGE: f64 = 0.5;

/// One load, `DISK:PATTERN:BLOCK:JOBS:DEPTH`, that runs for twice `duration`; in the middle the host is
/// asked to give the disk another rate. Prints the operations per second before and after.
fn change(load: &str, duration: Duration) -> Result<()> {
    let [disk, pattern, block, _jobs, depth] = load.split(':').collect::<Vec<_>>()[..] else {
        bail!("{load:?} is no load");
    };
    let half = (depth.parse::<u32>()? / 2).max(1);
    let log = "/tmp/change";
    let options = [
        format!("--iodepth={depth}"),
        format!("--iodepth_batch_submit={half}"),
        format!("--iodepth_low={half}"),
        format!("--runtime={}", 2 * duration.as_secs()),
        format!("--write_iops_log={log}"),
        "--log_avg_msec=500".to_owned(),
    ];
    let (disk, pattern, block) = (disk.to_owned(), pattern.to_owned(), block.to_owned());
    let start = Instant::now();
    let load_runs = thread::spawn(move || fio(&disk, &pattern, &block, &options));
    // fio's own clock begins a moment later than this one, which EDGE is for.
    thread::sleep(duration.saturating_sub(start.elapsed()));
    ask(load);
    load_runs.join().map_err(|_| anyhow!("the load's thread ended"))??;
    let text = fs::read_to_string(format!("{log}_iops.1.log")).context("read fio's log")?;
    let middle = duration.as_secs_f64();
    figure(&format!("{load}:before"), mean(&text, EDGE, middle - EDGE)?);
    figure(&format!("{load}:after"), mean(&text, middle + EDGE, 2.0 * middle - EDGE)?);
    fs::remove_file(format!("{log}_iops.1.log")).context("remove fio's log")
}

/// Operations per second between two moments, of fio's log: `msec, value, direction, block, ...`; an
/// entry is about the half second before it.
fn mean(log: &str, from: f64, to: f64) -> Result<f64> {
    let mut by_time: BTreeMap<u64, f64> = BTreeMap::new();
    for line in log.lines() {
        let mut fields = line.split(',').map(str::trim);
        let (Some(msec), Some(value)) = (fields.next(), fields.next()) else { continue };
        // Both directions of one half second end within a few milliseconds.
        let half = (msec.parse::<u64>()? + 250) / 500;
        *by_time.entry(half).or_default() += value.parse::<f64>()?;
    }
    let within = by_time.iter().filter(|(half, _)| {
        let end = **half as f64 / 2.0;
        end - 0.5 >= from && end <= to
    });
    let values: Vec<f64> = within.map(|(_, value)| *value).collect();
    ensure!(!values.is_empty(), "nothing between {from} s and {to} s in fio's log: {log}");
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// All loads, one after the other.
pub fn run(rates: &str, waits: &str, changes: &str, duration: Duration) -> Result<()> {
    for load in changes.split(',').filter(|load| !load.is_empty()) {
        change(load, duration)?;
    }
    for load in rates.split(',').filter(|load| !load.is_empty()) {
        rate(load, duration)?;
    }
    for load in waits.split(',').filter(|load| !load.is_empty()) {
        wait(load, duration)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_the_half_seconds_that_lie_between() {
        let log = "500, 100, 0, 4096, 0\n1000, 200, 0, 4096, 0\n1001, 20, 1, 4096, 0\n\
                   1500, 300, 0, 4096, 0\n2000, 900, 0, 4096, 0\n";
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 0.01;
        assert!(close(mean(log, 0.5, 1.5).unwrap(), 260.0));
        assert!(close(mean(log, 1.5, 2.0).unwrap(), 900.0));
        assert!(mean(log, 3.0, 4.0).is_err());
    }
}
