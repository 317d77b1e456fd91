//! What a guest gets from a disk of each category and level, measured by fio in it, against the
//! formula. Levels that the guest cannot reach without a limit either are named and left out; the
//! limiter alone is proven for those in simulated time.

use super::{
    Options,
    block::image,
    machine::{Guest, Limited, Monitor, Running},
};
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use api::vmm::DiskLimit;
use catalog::{DiskCategory, Performance, PerformanceLevel, disk_performance, size_range};
use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Duration};

/// A load that is to be limited by the disk: what the guest could do at least, over its rate.
const HEADROOM: f64 = 1.3;
/// fio's word, block, and whether it is small.
const SHAPES: [(&str, &str, bool); 6] = [
    ("randread", "4k", true),
    ("randwrite", "4k", true),
    ("randrw", "4k", true),
    ("randrw", "64k", false),
    ("read", "1m", false),
    ("write", "1m", false),
];
const TOLERANCE: f64 = 0.02;

#[derive(Debug, Clone)]
struct Tier {
    name: String,
    rates: Performance,
}

/// Every category and level at its least size.
fn tiers() -> Result<Vec<Tier>> {
    let mut tiers = Vec::new();
    for category in DiskCategory::ALL {
        let levels: Vec<_> = match category.has_levels() {
            true => PerformanceLevel::ALL.into_iter().map(Some).collect(),
            false => vec![None],
        };
        for level in levels {
            let size = size_range(category, level)?.min_gib;
            let rates = disk_performance(category, level, size)?;
            let level = level.map_or(String::new(), |level| format!("_{}", level.as_str()));
            tiers.push(Tier { name: format!("{}{level}_{size}gib", category.as_str()), rates });
        }
    }
    Ok(tiers)
}

struct Bench {
    options: Options,
    base: PathBuf,
}

/// Loads of one start of a guest, in the words of its command line.
#[derive(Debug, Default)]
struct Loads {
    rates: Vec<String>,
    waits: Vec<String>,
}

impl Bench {
    /// Starts a guest with these disks, vda first, and gives its figures.
    fn figures(
        &self,
        vcpus: u32,
        limits: &[Option<DiskLimit>],
        loads: &Loads,
        seconds: u64,
    ) -> Result<BTreeMap<String, f64>> {
        let files: Vec<_> = (0..limits.len())
            .map(|n| self.options.work.join(format!("bench-tier{n}.qcow2")))
            .collect();
        let mut limited = Vec::new();
        for (file, limit) in files.iter().zip(limits) {
            fs::copy(&self.base, file).with_context(|| format!("write {}", file.display()))?;
            limited.push(Limited { file: file.clone(), limit: *limit });
        }
        let guest = Guest {
            arguments: format!(
                "bench=fio bench_seconds={seconds} bench_rates={} bench_waits={}",
                loads.rates.join(","),
                loads.waits.join(",")
            ),
            memory_mib: 768,
            vcpus,
            limited,
            ..Guest::default()
        };
        let count = u64::try_from(loads.rates.len() + loads.waits.len())?;
        let limit = Duration::from_secs(240 + count * (seconds + 20));
        let figures = Running::start(&self.options, Monitor::Ours, &guest)?.figures(limit);
        for file in files {
            let _ = fs::remove_file(file);
        }
        figures
    }
}

fn load(disk: usize, (pattern, block, small): (&str, &str, bool), jobs: u32) -> String {
    let letter = char::from(b'a' + u8::try_from(disk).unwrap_or_default());
    let depth = if small { 32 } else { 8 };
    format!("vd{letter}:{pattern}:{block}:{jobs}:{depth}")
}

fn limit(rates: Performance) -> DiskLimit {
    DiskLimit { iops: rates.iops, bytes_per_second: rates.bytes_per_second }
}

/// Rate of a load by whichever limit of its tier comes first: (formula, figure of fio).
fn goal(tier: &Tier, block: &str) -> (f64, &'static str) {
    let block: u64 = match block {
        "4k" => 4 << 10,
        "64k" => 64 << 10,
        _ => 1 << 20,
    };
    if tier.rates.iops * block < tier.rates.bytes_per_second {
        (tier.rates.iops as f64, "iops")
    } else {
        (tier.rates.bytes_per_second as f64, "bw_bytes")
    }
}

fn print_rate(
    tier: &Tier,
    shape: (&str, &str, bool),
    queues: u32,
    figures: &BTreeMap<String, f64>,
    load: &str,
) -> Result<()> {
    let (formula, figure) = goal(tier, shape.1);
    let found = *figures
        .get(&format!("{load}:{figure}"))
        .with_context(|| format!("the guest gave no figure of {load}"))?;
    let (unit, scale) =
        if figure == "iops" { ("IOPS", 1.0) } else { ("MiB/s", f64::from(1 << 20)) };
    let queues = if queues == 1 { String::new() } else { format!("_{queues}queues") };
    let name = format!("tier_{}_{}_{}{queues}", tier.name, shape.1, shape.0);
    let pair = (found / scale, formula / scale);
    Row::new("tiers", &name, unit, "the formula", Goal::RatioWithin(TOLERANCE), &[pair]).print()
}

/// A disk that is given another level while fio is at it: before and after.
fn live_change(bench: &Bench, tiers: &[Tier], most_iops: f64) -> Result<()> {
    let tier = |name: &str| {
        let found = tiers.iter().find(|tier| tier.name.starts_with(name));
        found.cloned().with_context(|| format!("there is no {name}"))
    };
    let levels = [tier("cloud_essd_PL0")?, tier("cloud_essd_PL1")?];
    let shape = SHAPES[0];
    let control = bench.options.work.join("bench-control.sock");
    for (before, after) in [(&levels[0], &levels[1]), (&levels[1], &levels[0])] {
        if most_iops < HEADROOM * goal(&levels[1], shape.1).0 {
            eprintln!(
                "not measured: a change to {}: the guest does {most_iops:.0}",
                levels[1].name
            );
            return Ok(());
        }
        let file = bench.options.work.join("bench-change.qcow2");
        fs::copy(&bench.base, &file).with_context(|| format!("write {}", file.display()))?;
        let load = load(0, shape, 1);
        let guest = Guest {
            arguments: format!(
                "bench=fio bench_seconds={} bench_changes={load}",
                bench.options.seconds.max(3)
            ),
            memory_mib: 768,
            vcpus: 1,
            limited: vec![Limited { file: file.clone(), limit: Some(limit(before.rates)) }],
            control: Some(control.clone()),
            ..Guest::default()
        };
        let limit = Duration::from_secs(300 + 2 * bench.options.seconds);
        let mut running = Running::start(&bench.options, Monitor::Ours, &guest)?;
        let figures = running.figures_with(limit, |_| {
            let status = Command::new(&bench.options.vmm)
                .args(["ctl", "--socket"])
                .arg(&control)
                .args(["set-disk-limit", "d-bench0"])
                .args(["--iops", &after.rates.iops.to_string()])
                .args(["--bandwidth", &after.rates.bytes_per_second.to_string()])
                .status()
                .context("run ecs-vmm ctl")?;
            ensure!(status.success(), "set-disk-limit ended with {status}");
            Ok(())
        })?;
        drop(running);
        fs::remove_file(&file)?;
        for (when, tier) in [("before", before), ("after", after)] {
            let found = figures.get(&format!("{load}:{when}")).copied();
            let pair = (found.context("the guest gave no figure")?, goal(tier, shape.1).0);
            let name = format!("tier_change_{}_to_{}_{when}", before.name, after.name);
            let goal = Goal::RatioWithin(TOLERANCE);
            Row::new("tiers", &name, "IOPS", "the formula", goal, &[pair]).print()?;
        }
    }
    Ok(())
}

/// Runs the group.
pub fn run(options: &Options) -> Result<()> {
    let initrd = options.fio_initrd.clone().context("--fio-initrd is missing")?;
    let base = image(&options.work)?;
    let bench = Bench { options: Options { initrd, ..options.clone() }, base };

    let loads = Loads {
        rates: SHAPES.iter().map(|shape| load(0, *shape, 1)).collect(),
        ..Loads::default()
    };
    let unlimited = bench.figures(1, &[None], &loads, 5)?;
    let most = |tier: &Tier, shape: (&str, &str, bool)| {
        let (formula, figure) = goal(tier, shape.1);
        let found = unlimited.get(&format!("{}:{figure}", load(0, shape, 1))).copied();
        (formula, found.unwrap_or_default())
    };

    let tiers = tiers()?;
    let (mut limits, mut loads, mut rows) = (vec![None], Loads::default(), Vec::new());
    for tier in &tiers {
        let disk = limits.len();
        for shape in SHAPES {
            let (formula, found) = most(tier, shape);
            if found < HEADROOM * formula {
                eprintln!(
                    "not measured: {} {} {}: {formula:.0}, and the guest does {found:.0} without a limit",
                    tier.name, shape.1, shape.0
                );
                continue;
            }
            let load = load(disk, shape, 1);
            rows.push((tier.clone(), shape, load.clone()));
            loads.rates.push(load);
        }
        limits.push(Some(limit(tier.rates)));
    }
    // One at half its level, in turn with one without a level.
    let half = tiers.iter().position(|tier| tier.name.starts_with("cloud_essd_PL1"));
    let half = half.context("there is no PL1")?;
    let disks = [0, half + 1].map(|n| load(n, SHAPES[0], 1)[..3].to_owned());
    for round in 0..options.runs {
        for disk in &disks {
            loads.waits.push(format!("{disk}:{}:{round}", tiers[half].rates.iops / 2));
        }
    }
    let figures = bench.figures(1, &limits, &loads, options.seconds)?;
    for (tier, shape, load) in &rows {
        print_rate(tier, *shape, 1, &figures, load)?;
    }
    let mut pairs = Vec::new();
    for waits in loads.waits.chunks(2) {
        let p99 = |n: usize| figures.get(&format!("{}:p99", waits[n])).copied();
        pairs.push((p99(1).context("no p99")?, p99(0).context("no p99")?));
    }
    let against = "the same load on a disk without a level";
    Row::new("tiers", "tier_half_level_p99", "µs", against, Goal::RatioAtMost(1.1), &pairs)
        .print()?;

    live_change(&bench, &tiers, most(&tiers[half], SHAPES[0]).1)?;
    let tier = &tiers[half];
    let shapes: Vec<_> = [SHAPES[2], SHAPES[4]]
        .into_iter()
        .filter(|shape| most(tier, *shape).1 >= HEADROOM * most(tier, *shape).0)
        .collect();
    let rates: Vec<_> = shapes.iter().map(|shape| load(0, *shape, 4)).collect();
    if !rates.is_empty() {
        let loads = Loads { rates: rates.clone(), ..Loads::default() };
        let figures = bench.figures(4, &[Some(limit(tier.rates))], &loads, options.seconds)?;
        for (shape, load) in shapes.iter().zip(&rates) {
            print_rate(tier, *shape, 4, &figures, load)?;
        }
    }
    fs::remove_file(&bench.base)?;
    Ok(())
}
