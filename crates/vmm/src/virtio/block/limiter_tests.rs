use super::{
    limiter::{BURST_BYTES, BURST_NANOS, BURST_NANOS_MOST, Limiter, Place, Rates},
    limiter_model::{Guest, Load, Medium, SECOND, Simulation},
};
use proptest::prelude::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

fn join(limiter: &Limiter) -> Place {
    limiter.join(EventFd::new(EFD_NONBLOCK).unwrap())
}

/// Starts requests as fast as allowed from one queue; returns when each started.
fn starts(limiter: &Limiter, mut now: u64, sizes: &[u64], idle: &[u64]) -> Vec<u64> {
    let place = join(limiter);
    let mut all = Vec::new();
    for (number, &bytes) in sizes.iter().enumerate() {
        now += idle.get(number).copied().unwrap_or(0);
        // One sleep of exactly the time named must do.
        if let Err(wait) = limiter.ask(place, now, bytes) {
            assert!(wait > 0);
            assert_eq!(limiter.again(place, now + wait - 1), Err(1));
            now += wait;
            assert_eq!(limiter.again(place, now), Ok(()));
        }
        all.push(now);
    }
    all
}

#[test]
fn without_a_rate_everything_starts_at_once() {
    let limiter = Limiter::new(Rates::default());
    assert!(starts(&limiter, 5, &[1 << 30; 100], &[]).iter().all(|&start| start == 5));
}

#[test]
fn a_rate_is_reached_exactly() {
    let limiter = Limiter::new(Rates { iops: 1000, bytes_per_second: 0 });
    let all = starts(&limiter, 0, &[4096; 2001], &[]);
    let burst = BURST_NANOS * 1000 / SECOND;
    assert_eq!(all.iter().filter(|&&start| start == 0).count() as u64, burst + 1);
    assert_eq!(*all.last().unwrap(), (2000 - burst) * SECOND / 1000);
}

#[test]
fn a_request_larger_than_the_burst_is_paid_off_afterwards() {
    let limiter = Limiter::new(Rates { iops: 0, bytes_per_second: 1 << 20 });
    let all = starts(&limiter, 0, &[4 << 20, 1, 1], &[]);
    assert_eq!(all[0], 0);
    assert_eq!(all[1], 4 * SECOND - BURST_NANOS_MOST);
}

#[test]
fn the_burst_is_a_few_of_the_largest_requests() {
    let limiter = Limiter::new(Rates { iops: 0, bytes_per_second: 128 << 20 });
    let all = starts(&limiter, 0, &[1 << 20; 10], &[]);
    let at_once = all.iter().filter(|&&start| start == 0).count() as u64;
    assert_eq!(at_once, (BURST_BYTES >> 20) + 1);
}

#[test]
fn a_higher_rate_frees_those_who_wait() {
    let limiter = Limiter::new(Rates { iops: 1, bytes_per_second: 0 });
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let second = limiter.join(event.try_clone().unwrap());
    let third = join(&limiter);
    limiter.ask(second, 0, 512).unwrap();
    assert!(limiter.ask(second, 0, 512).unwrap_err() > SECOND / 2);
    assert!(limiter.ask(third, 0, 512).unwrap_err() > SECOND / 2);
    limiter.retune(1, Rates { iops: 1_000_000, bytes_per_second: 0 });
    assert_eq!(event.read().unwrap(), 1);
    // One second of debt was one request, of which 20 ms were the burst.
    let wait = limiter.again(second, 1).unwrap_err();
    assert!(wait <= SECOND / 1_000_000, "{wait}");
    assert_eq!(limiter.again(second, 1 + wait), Ok(()));
    assert_eq!(limiter.again(third, 1 + wait + SECOND / 1_000_000), Ok(()));
}

#[test]
fn a_lower_rate_holds_for_those_who_wait() {
    let limiter = Limiter::new(Rates { iops: 1000, bytes_per_second: 0 });
    starts(&limiter, 0, &[512; 20], &[]);
    let place = join(&limiter);
    limiter.ask(place, 0, 512).unwrap();
    assert!(limiter.ask(place, 0, 512).unwrap_err() <= SECOND / 1000);
    limiter.retune(0, Rates { iops: 10, bytes_per_second: 0 });
    // What was within the burst of the old rate is no debt at the new one.
    assert!(limiter.again(place, 0).unwrap_err() <= SECOND / 10);
    assert_eq!(limiter.again(place, SECOND / 10), Ok(()));
    assert_eq!(limiter.ask(place, SECOND / 10, 512), Err(SECOND / 10));
}

#[test]
fn a_change_leaves_no_burst_and_none_where_nothing_changes() {
    let limiter = Limiter::new(Rates { iops: 1000, bytes_per_second: 0 });
    limiter.retune(SECOND, Rates { iops: 2000, bytes_per_second: 0 });
    let all = starts(&limiter, SECOND, &[512; 3], &[]);
    assert_eq!(all, [SECOND, SECOND + SECOND / 2000, SECOND + SECOND / 1000]);
    limiter.retune(2 * SECOND, Rates { iops: 2000, bytes_per_second: 0 });
    assert_eq!(starts(&limiter, 2 * SECOND, &[512; 40], &[]), [2 * SECOND; 40]);
}

#[test]
fn a_late_queue_holds_up_nobody_and_one_that_left_costs_nothing() {
    const TURN: u64 = SECOND / 100;
    let limiter = Limiter::new(Rates { iops: 100, bytes_per_second: 0 });
    let (late, other) = (join(&limiter), join(&limiter));
    while limiter.ask(late, 0, 0).is_ok() {}
    assert_eq!(limiter.ask(other, 0, 0), Err(TURN), "it had less so far");
    assert_eq!(limiter.again(other, TURN), Ok(()));
    // From here on it is `late`'s turn, which does not come. The other one looks a few times for that,
    // then it goes on, at the rate of the disk but for one request.
    let mut now = TURN;
    for turn in 3..10 {
        let mut wait = limiter.ask(other, now, 0).unwrap_err();
        let mut looked = 0;
        while let Err(more) = {
            now += wait;
            limiter.again(other, now)
        } {
            wait = more;
            looked += 1;
        }
        assert!(looked <= 21, "{looked}");
        assert_eq!(now, turn * TURN + SECOND / 1000);
    }
    limiter.cancel(late);
    let now = SECOND;
    assert_eq!(starts(&limiter, now, &[0; 4], &[]), [now, now, now, now + TURN]);
}

#[test]
fn extreme_numbers_neither_overflow_nor_stall() {
    let limiter = Limiter::new(Rates { iops: u64::MAX, bytes_per_second: 1 });
    let place = join(&limiter);
    assert_eq!(limiter.ask(place, u64::MAX - 1, u64::MAX), Ok(()));
    let _ = limiter.ask(place, u64::MAX - 1, u64::MAX);
    limiter.retune(0, Rates { iops: 1, bytes_per_second: u64::MAX });
    limiter.retune(u64::MAX, Rates::default());
    assert_eq!(limiter.again(place, u64::MAX), Ok(()));
}

fn any_rates() -> impl Strategy<Value = Rates> {
    (200u64..10_000, 20u64 << 20..400 << 20)
        .prop_map(|(iops, bytes_per_second)| Rates { iops, bytes_per_second })
}

fn any_load() -> impl Strategy<Value = Load> {
    let guest = prop_oneof![
        (1usize..129).prop_map(Guest::Depth),
        (10.0..20_000.0).prop_map(Guest::Poisson),
    ];
    (9u32..21, guest).prop_map(|(log, guest)| Load { bytes: 1 << log, reads: 50, guest })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In any window, no more is started than the rate allows for its length, the burst and the
    /// one request that may overdraw.
    #[test]
    fn never_faster_than_the_rate(
        iops in 1u64..100_000,
        rate in 1u64..1 << 32,
        sizes in prop::collection::vec(0u64..1 << 22, 2..200),
        idle in prop::collection::vec(0u64..SECOND / 50, 200),
    ) {
        let limiter = Limiter::new(Rates { iops, bytes_per_second: rate });
        let all = starts(&limiter, 0, &sizes, &idle);
        let ahead = (u128::from(BURST_BYTES) * u128::from(SECOND) / u128::from(rate) + 1)
            .clamp(BURST_NANOS.into(), BURST_NANOS_MOST.into());
        for first in 0..all.len() {
            let mut bytes = 0u128;
            for last in first + 1..all.len() {
                // The last request of a window may overdraw, so it does not count.
                bytes += u128::from(sizes[last - 1]);
                let window = u128::from(all[last] - all[first]);
                let requests = (last - first) as u128;
                let second = u128::from(SECOND);
                let burst = u128::from(BURST_NANOS);
                prop_assert!(requests * second <= (window + burst) * u128::from(iops) + second);
                prop_assert!(bytes * second <= (window + ahead) * u128::from(rate) + second);
            }
        }
    }

    /// The same for several queues at once under rates that change: the bound is what the rates
    /// allow together, the largest burst, and a request that may overdraw.
    #[test]
    fn never_faster_over_all_queues_and_changes(
        loads in prop::collection::vec(any_load(), 1..5),
        changes in prop::collection::vec((any_rates(), 1u64..60_000_000), 1..6),
    ) {
        let mut simulation = Simulation::new(changes[0].0, Medium::FAST, &loads);
        simulation.log = Some(Vec::new());
        let mut spans = Vec::new();
        for &(rates, length) in &changes {
            simulation.retune(rates);
            spans.push((simulation.now, simulation.now + length, rates));
            simulation.run(length);
        }
        let log = simulation.log.take().unwrap();
        let allowed = |from: u64, to: u64, of: fn(Rates) -> u64| -> u128 {
            let parts = spans.iter().map(|&(begin, end, rates)| {
                u128::from(to.min(end).saturating_sub(from.max(begin))) * u128::from(of(rates))
            });
            parts.sum::<u128>() / u128::from(SECOND)
        };
        let most = |of: fn(Rates) -> u64| changes.iter().map(|(rates, _)| of(*rates)).max().unwrap();
        let iops: fn(Rates) -> u64 = |rates| rates.iops;
        let rate: fn(Rates) -> u64 = |rates| rates.bytes_per_second;
        let burst = u128::from(BURST_NANOS);
        let requests_ahead = u128::from(most(iops)) * burst / u128::from(SECOND) + 2;
        // A slow disk's time ahead is at most what makes up 4 MiB of it, a fast one's 20 ms.
        let bytes_ahead = (u128::from(most(rate)) * burst / u128::from(SECOND))
            .max(BURST_BYTES.into()) + 2;
        // Windows that begin anywhere; some of them are enough.
        for first in (0..log.len()).step_by(1 + log.len() / 30) {
            let mut bytes = 0u128;
            for (number, &(at, size)) in log[first..].iter().enumerate() {
                let from = log[first].0;
                prop_assert!(number as u128 <= allowed(from, at, iops) + requests_ahead);
                prop_assert!(bytes <= allowed(from, at, rate) + bytes_ahead);
                bytes += u128::from(size);
            }
        }
    }

    /// Nobody sleeps for ever: whatever the queues do and however often the rates change, each
    /// request that waits has a time, and starts at the latest when all have had as much.
    #[test]
    fn everybody_wakes(
        sizes in prop::collection::vec(0u64..1 << 20, 1..8),
        steps in prop::collection::vec((0u8..8, any_rates(), 0u64..3_000_000), 1..300),
    ) {
        let limiter = Limiter::new(steps[0].1);
        let places: Vec<_> = sizes.iter().map(|_| join(&limiter)).collect();
        // When each queue wakes up.
        let mut timers: Vec<Option<u64>> = vec![None; sizes.len()];
        let mut now = 0;
        let wake = |timers: &mut [Option<u64>], number: usize, now: u64| {
            timers[number] = limiter.again(places[number], now).err().map(|wait| now + wait);
        };
        for (what, rates, later) in steps {
            now += later;
            for number in 0..timers.len() {
                if timers[number].is_some_and(|at| at <= now) {
                    wake(&mut timers, number, now);
                }
            }
            let number = usize::from(what) % timers.len();
            match what {
                7 => {
                    limiter.retune(now, rates);
                    (0..timers.len()).for_each(|number| wake(&mut timers, number, now));
                }
                6 if timers[number].is_some() => {
                    limiter.cancel(places[number]);
                    timers[number] = None;
                }
                _ if timers[number].is_none() => {
                    let asked = limiter.ask(places[number], now, sizes[number]);
                    timers[number] = asked.err().map(|wait| now + wait);
                }
                _ => {}
            }
        }
        // From here on all only wake up when their timers say so, and want nothing new: each time
        // one wakes in vain it is because another went first.
        let mut turns = 0;
        while let Some((at, number)) =
            timers.iter().enumerate().filter_map(|(number, at)| Some(((*at)?, number))).min()
        {
            prop_assert!(at <= now + 20 * SECOND, "{} s", (at - now) / SECOND);
            wake(&mut timers, number, at.max(now));
            turns += 1;
            prop_assert!(turns <= sizes.len() * (sizes.len() + 1), "{timers:?}");
        }
    }

    /// No guest can keep another queue from its turn: with `depth` in each of them, every queue is
    /// served while the disk could do a request of each.
    #[test]
    fn nobody_starves(loads in prop::collection::vec((9u32..21, 1usize..64), 2..6), rates in any_rates()) {
        let loads: Vec<_> = loads
            .into_iter()
            .map(|(log, depth)| Load { bytes: 1 << log, reads: 50, guest: Guest::Depth(depth) })
            .collect();
        let mut simulation = Simulation::new(rates, Medium::FAST, &loads);
        for _ in 0..2 {
            let before = simulation.done();
            simulation.run(SECOND * 2 / 5);
            for (now, before) in simulation.done().iter().zip(&before) {
                prop_assert!(now.started > before.started);
            }
        }
    }
}
