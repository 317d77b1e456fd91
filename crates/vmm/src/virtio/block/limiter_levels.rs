//! Every disk there is to be had, in simulated time: that it does what its formula says.

use super::{
    limiter::Rates,
    limiter_model::{Guest, Load, Medium, SECOND, Simulation},
};
use catalog::{DiskCategory, PerformanceLevel, disk_performance, size_range};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZES: [u64; 3] = [4 * KIB, 64 * KIB, MIB];
/// Share of the formula a figure may be off by.
const TOLERANCE: f64 = 0.02;
/// Simulated time of a run, and the requests after which a quick one ends early.
const RUN: u64 = 20 * SECOND;
const QUICK: f64 = 20_000.0;

/// Queues, depth of each, percent of reads.
const SHAPES: [(usize, usize, u64); 12] = [
    (1, 128, 100),
    (4, 32, 0),
    (4, 128, 50),
    (1, 32, 50),
    (4, 8, 100),
    (1, 8, 0),
    (1, 1, 100),
    (4, 1, 50),
    (1, 2, 70),
    (4, 2, 0),
    (4, 64, 100),
    (1, 64, 0),
];

type Kind = (DiskCategory, Option<PerformanceLevel>);

/// Each category and level with its least size, the one at which both figures are at their caps,
/// and one between.
fn disks() -> Vec<(Kind, u32)> {
    let mut disks = Vec::new();
    for category in DiskCategory::ALL {
        let levels: Vec<_> = match category.has_levels() {
            true => PerformanceLevel::ALL.into_iter().map(Some).collect(),
            false => vec![None],
        };
        for level in levels {
            let kind = (category, level);
            let range = size_range(category, level).unwrap();
            let most = rates(kind, range.max_gib);
            let (mut low, mut high) = (range.min_gib, range.max_gib);
            while low < high {
                let middle = low.midpoint(high);
                if rates(kind, middle) == most { high = middle } else { low = middle + 1 }
            }
            let mut sizes = vec![range.min_gib, range.min_gib.midpoint(high), high];
            sizes.dedup();
            disks.extend(sizes.into_iter().map(|size| (kind, size)));
        }
    }
    disks
}

fn rates((category, level): Kind, size_gib: u32) -> Rates {
    let performance = disk_performance(category, level, size_gib).unwrap();
    Rates { iops: performance.iops, bytes_per_second: performance.bytes_per_second }
}

fn name((category, level): Kind) -> String {
    let level = level.map_or_else(String::new, |level| format!(" {}", level.as_str()));
    format!("{}{level}", category.as_str())
}

/// Requests in a second the formula lets through.
fn allowed(rates: Rates, bytes: u64) -> f64 {
    (rates.iops as f64).min(rates.bytes_per_second as f64 / bytes as f64)
}

fn load(bytes: u64, reads: u64, guest: Guest) -> Load {
    Load { bytes, reads, guest }
}

/// Runs every disk with every size of request and prints what came out. If `thorough`, in each of the
/// shapes, for 20 seconds; otherwise in two of them in turn, and for as long as it is cheap.
/// Returns the worst error of all.
fn run_all(thorough: bool) -> f64 {
    let mut turn = 0;
    println!(
        "{:<17} {:>6} {:>8} {:>6} | worst error and IOPS of it at 4 KiB, 64 KiB, 1 MiB",
        "disk", "GiB", "IOPS", "MiB/s"
    );
    let (mut runs, mut full, mut at_rate, mut worst_of_all) = (0, 0, 0, 0.0f64);
    for (kind, size) in disks() {
        let rates = rates(kind, size);
        let mut line = String::new();
        for bytes in SIZES {
            let mut worst = (0.0f64, 0.0f64);
            // Neighbours differ in shape, and each request size meets all of them.
            let chosen: Vec<_> = match thorough {
                true => SHAPES.to_vec(),
                false => vec![SHAPES[turn % SHAPES.len()], SHAPES[(turn + 7) % SHAPES.len()]],
            };
            turn += 1;
            for (queues, depth, reads) in chosen {
                let reach = Medium::FAST.reach(queues * depth, bytes, reads);
                let expected = allowed(rates, bytes).min(reach);
                let length = match thorough {
                    true => RUN,
                    false => RUN.min((QUICK / expected * SECOND as f64) as u64),
                };
                let loads = vec![load(bytes, reads, Guest::Depth(depth)); queues];
                let mut simulation = Simulation::new(rates, Medium::FAST, &loads);
                // A short run has no time for the burst to fade, so it begins without.
                if length < RUN {
                    simulation.retune(Rates::default());
                    simulation.retune(rates);
                    simulation.run(length / 10);
                }
                let first = simulation.completed();
                simulation.run(length);
                let measured =
                    (simulation.completed() - first) as f64 * SECOND as f64 / length as f64;
                let error = measured / expected - 1.0;
                let what = format!("{} {size} GiB, {bytes} bytes, {queues} x {depth}", name(kind));
                assert!(error.abs() <= TOLERANCE, "{what}: {measured} instead of {expected}");
                if error.abs() >= worst.0.abs() {
                    worst = (error, measured);
                }
                worst_of_all = worst_of_all.max(error.abs());
                runs += 1;
                full += usize::from(length == RUN);
                at_rate += usize::from(reach > allowed(rates, bytes));
            }
            line += &format!(" {:>+7.3}% {:>8.0}", worst.0 * 100.0, worst.1);
        }
        let mib = rates.bytes_per_second as f64 / MIB as f64;
        println!("{:<17} {size:>6} {:>8} {mib:>6.1} |{line}", name(kind), rates.iops);
    }
    println!("{runs} runs, {at_rate} of them held by the limit; {full} over 20 s");
    worst_of_all
}

#[test]
fn every_disk_keeps_to_its_formula() {
    run_all(false);
}

/// Straight after a change under load, in the first second and the one after: from one to the other,
/// with what the first was at, in queues and depth.
#[test]
fn a_change_is_exact_from_the_first_second_on() {
    use DiskCategory::{CloudAuto, CloudEfficiency, CloudEssd, CloudEssdEntry, CloudSsd};
    use PerformanceLevel::{Pl0, Pl1, Pl2, Pl3};
    let essd = |level, size| rates((CloudEssd, Some(level)), size);
    let plain = |category, size| rates((category, None), size);
    let changes = [
        ("resize PL1 20 to 100 GiB", essd(Pl1, 20), essd(Pl1, 100)),
        ("PL0 to PL1, 40 GiB", essd(Pl0, 40), essd(Pl1, 40)),
        ("PL2 to PL0, 1000 GiB", essd(Pl2, 1000), essd(Pl0, 1000)),
        ("PL0 to PL2, 1000 GiB", essd(Pl0, 1000), essd(Pl2, 1000)),
        ("PL3 to PL0, 2000 GiB", essd(Pl3, 2000), essd(Pl0, 2000)),
        ("efficiency to ssd, 20 GiB", plain(CloudEfficiency, 20), plain(CloudSsd, 20)),
        ("ssd to entry, 500 GiB", plain(CloudSsd, 500), plain(CloudEssdEntry, 500)),
        ("auto to PL1, 20 GiB", plain(CloudAuto, 20), essd(Pl1, 20)),
        ("no limit to auto, 20 GiB", Rates::default(), plain(CloudAuto, 20)),
    ];
    println!("change: worst error over the first second and the one after");
    for (what, from, to) in changes {
        let mut worst = [0.0f64; 2];
        for bytes in SIZES {
            // With little under way, the disk was below its level before, and could be ahead.
            for (queues, depth, reads) in [(1, 1, 50), (1, 32, 100), (4, 32, 0)] {
                let reach = Medium::FAST.reach(queues * depth, bytes, reads);
                let expected = allowed(to, bytes).min(reach);
                let loads = vec![load(bytes, reads, Guest::Depth(depth)); queues];
                let mut simulation = Simulation::new(from, Medium::FAST, &loads);
                simulation.run(SECOND / 15 + 1_234_567);
                simulation.retune(to);
                for error in &mut worst {
                    let first = simulation.started();
                    simulation.run(SECOND);
                    let measured = (simulation.started() - first) as f64;
                    let off = measured / expected - 1.0;
                    let said = format!("{what}, {bytes} bytes, {queues} x {depth}");
                    assert!(off.abs() <= TOLERANCE, "{said}: {measured}, not {expected}");
                    if off.abs() > error.abs() {
                        *error = off;
                    }
                }
            }
        }
        println!("{what:<26} {:>+7.3}% {:>+7.3}%", worst[0] * 100.0, worst[1] * 100.0);
    }
}

/// A guest that asks for half of what the disk can do, at random times, does not wait for it.
#[test]
fn half_a_level_never_waits() {
    println!("half of the level, Poisson: p99 and largest wait, share that waits");
    for (kind, size) in disks() {
        let rates = rates(kind, size);
        for bytes in SIZES {
            for queues in [1, 4] {
                let rate = allowed(rates, bytes) / 2.0;
                let guest = Guest::Poisson(rate / queues as f64);
                let loads = vec![load(bytes, 50, guest); queues];
                let mut simulation = Simulation::new(rates, Medium::FAST, &loads);
                simulation.run((QUICK / 3.0 / rate * SECOND as f64) as u64);
                let mut waits = std::mem::take(&mut simulation.waits);
                waits.sort_unstable();
                let p99 = waits[waits.len() * 99 / 100];
                let what = format!("{} {size} GiB, {bytes} bytes, {queues} queues", name(kind));
                assert!(waits.len() > 5_000, "{what}");
                assert_eq!(p99, 0, "{what}");
                let waited = waits.iter().filter(|&&wait| wait > 0).count();
                if waited > 0 {
                    let largest = *waits.last().unwrap() as f64 / 1e6;
                    let share = waited as f64 * 100.0 / waits.len() as f64;
                    println!("{what}: {p99} ns, {largest:.1} ms, {share:.3}%");
                }
            }
        }
    }
}

/// All shapes, 20 simulated seconds each: for an optimised build. Prints the row of the benchmark.
#[test]
#[ignore = "hundreds of millions of simulated requests"]
fn every_disk_keeps_to_its_formula_in_every_shape() {
    let percent = run_all(true) * 100.0;
    let allowed = TOLERANCE * 100.0;
    let ratio = percent / allowed;
    // A line for `ecs-bench report`.
    let row = serde_json::json!({
        "group": "disk_limiter",
        "name": "disk_limiter_error_percent",
        "unit": "% (simulated)",
        "ours": percent,
        "peer": allowed,
        "ratio": ratio,
        "runs": 1,
        "min": ratio,
        "max": ratio,
        "against": "what a level may be off by",
        "goal": { "ours_below": allowed },
        "met": percent < allowed,
    });
    println!("ECS-BENCH-ROW {row}");
}
