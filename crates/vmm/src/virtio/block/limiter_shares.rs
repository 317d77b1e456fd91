//! What each queue gets of a disk when all want more than there is, in simulated time.
//!
//! Fair is: each has the same dominant share, the larger of its parts of the disk's requests and of
//! its bytes. With requests of one size that is the same number of requests.

use super::{
    limiter::Rates,
    limiter_model::{Done, Guest, Load, Medium, SECOND, Simulation},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// A PL1 disk of 100 GiB.
const RATES: Rates = Rates { iops: 6_800, bytes_per_second: 170 * MIB };
/// How much the shares may differ.
const TOLERANCE: f64 = 0.05;

fn queue(bytes: u64, depth: usize) -> Load {
    Load { bytes, reads: 50, guest: Guest::Depth(depth) }
}

fn since(now: &[Done], before: &[Done]) -> Vec<(f64, f64)> {
    let differences = now.iter().zip(before).map(|(now, before)| {
        let requests = (now.started - before.started) as f64;
        (requests, (now.started_bytes - before.started_bytes) as f64)
    });
    differences.collect()
}

/// Dominant share of each queue, and how much of the disk was used, over some seconds.
fn shares(rates: Rates, parts: &[(f64, f64)], seconds: f64) -> (Vec<f64>, f64) {
    let requests = |part: f64| part / seconds / rates.iops as f64;
    let bytes = |part: f64| part / seconds / rates.bytes_per_second as f64;
    let shares = parts.iter().map(|part| requests(part.0).max(bytes(part.1))).collect();
    let used = requests(parts.iter().map(|part| part.0).sum())
        .max(bytes(parts.iter().map(|part| part.1).sum()));
    (shares, used)
}

fn assert_fair(what: &str, shares: &[f64], used: f64) {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let worst = shares.iter().map(|share| (share / mean - 1.0).abs()).fold(0.0, f64::max);
    println!("{what:<44} {:>6.2}% apart, {:>6.2}% of the disk used", worst * 100.0, used * 100.0);
    assert!(worst <= TOLERANCE, "{what}: {shares:?}");
    assert!((used - 1.0).abs() <= 0.02, "{what}: {used}");
}

#[test]
fn queues_that_always_want_more_get_equal_shares() {
    let pl3 = Rates { iops: 64_850, bytes_per_second: 750 * MIB };
    for (what, rates, loads) in [
        ("4 alike, 4 KiB", RATES, vec![queue(4 * KIB, 32); 4]),
        ("4 alike, 1 MiB", RATES, vec![queue(MIB, 32); 4]),
        ("4 KiB, depth 4 against 128", RATES, vec![queue(4 * KIB, 4), queue(4 * KIB, 128)]),
        ("4 KiB against 64 KiB", RATES, vec![queue(4 * KIB, 32), queue(64 * KIB, 32)]),
        ("4 KiB against 1 MiB", RATES, vec![queue(4 * KIB, 32), queue(MIB, 32)]),
        ("1 MiB against 4 KiB", RATES, vec![queue(MIB, 32), queue(4 * KIB, 32)]),
        (
            "4 KiB, 4 KiB, 64 KiB and 1 MiB",
            RATES,
            vec![queue(4 * KIB, 32), queue(4 * KIB, 32), queue(64 * KIB, 32), queue(MIB, 32)],
        ),
        ("1 MiB three times against 4 KiB", RATES, {
            vec![queue(MIB, 128), queue(MIB, 128), queue(MIB, 128), queue(4 * KIB, 32)]
        }),
        ("4 KiB against 1 MiB, PL3 1261 GiB", pl3, vec![queue(4 * KIB, 64), queue(MIB, 64)]),
    ] {
        let mut simulation = Simulation::new(rates, Medium::FAST, &loads);
        simulation.run(SECOND / 2);
        let before = simulation.done();
        simulation.run(5 * SECOND);
        let done = simulation.done();
        let (shares, used) = shares(rates, &since(&done, &before), 5.0);
        assert_fair(what, &shares, used);
        // Those that wait for others wake in vain now and then, but no more than requests start.
        let (woken, started) =
            done.iter().fold((0, 0), |sum, done| (sum.0 + done.woken, sum.1 + done.started));
        assert!(woken <= 2 * started, "{what}: {woken} wake-ups for {started} requests");
    }
}

/// Who comes later gets its share at once and no more: neither does it make up for the time before,
/// nor do the others for what they did not need.
#[test]
fn who_joins_gets_its_share_from_then_on() {
    let mut simulation = Simulation::new(RATES, Medium::FAST, &[queue(MIB, 32)]);
    simulation.run(3 * SECOND);
    simulation.add(queue(4 * KIB, 32));
    let before = simulation.done();
    simulation.run(SECOND);
    let (parts, used) = shares(RATES, &since(&simulation.done(), &before), 1.0);
    assert_fair("joined by 4 KiB", &parts, used);
    simulation.add(queue(64 * KIB, 32));
    let before = simulation.done();
    simulation.run(SECOND);
    let (parts, used) = shares(RATES, &since(&simulation.done(), &before), 1.0);
    assert_fair("joined by 64 KiB", &parts, used);
    // Shares are of the new level after a change, too.
    let other = Rates { iops: 26_800, bytes_per_second: 350 * MIB };
    simulation.retune(other);
    let before = simulation.done();
    simulation.run(SECOND);
    let (parts, used) = shares(other, &since(&simulation.done(), &before), 1.0);
    assert_fair("at a higher level", &parts, used);
}

/// A queue that wants less than its share gets all it wants, and the others the rest.
#[test]
fn what_one_leaves_the_others_get() {
    let modest = Load { bytes: 4 * KIB, reads: 50, guest: Guest::Poisson(1_000.0) };
    let loads = [modest, queue(4 * KIB, 32), queue(4 * KIB, 32)];
    let mut simulation = Simulation::new(RATES, Medium::FAST, &loads);
    simulation.run(SECOND / 2);
    simulation.waits.clear();
    let before = simulation.done();
    simulation.run(10 * SECOND);
    let parts = since(&simulation.done(), &before);
    assert!((parts[0].0 / 10_000.0 - 1.0).abs() < 0.05, "{parts:?}");
    let (rest, used) = shares(RATES, &parts, 10.0);
    assert_fair("beside one that is modest", &rest[1..], used);
    // Its own requests wait for no more than a turn of the others and a thread's wake-up.
    let mut waits = std::mem::take(&mut simulation.waits);
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    assert!(p99 < 2_000_000, "{p99} ns");
}
