use super::limiter::{BURST_NANOS, Limiter, Rates, Reservation};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// Starts requests as fast as allowed from one queue; returns when each started.
fn starts(limiter: &Limiter, mut now: u64, sizes: &[u64], idle: &[u64]) -> Vec<u64> {
    let mut all = Vec::new();
    for (number, &bytes) in sizes.iter().enumerate() {
        now += idle.get(number).copied().unwrap_or(0);
        let mut reservation = limiter.reserve(now, bytes);
        // One sleep of exactly the time named must do.
        if let Err(wait) = limiter.claim(now, &mut reservation) {
            assert!(wait > 0);
            now += wait;
            assert_eq!(limiter.claim(now, &mut reservation), Ok(()));
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
    assert_eq!(all[1], 4 * SECOND - BURST_NANOS);
}

#[test]
fn a_higher_rate_frees_those_who_wait() {
    let limiter = Limiter::new(Rates { iops: 1, bytes_per_second: 0 });
    let event = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
    limiter.subscribe(event.try_clone().unwrap());
    let mut first = limiter.reserve(0, 512);
    limiter.claim(0, &mut first).unwrap();
    let mut second = limiter.reserve(0, 512);
    let mut third = limiter.reserve(0, 512);
    assert!(limiter.claim(0, &mut second).unwrap_err() > SECOND / 2);
    assert!(limiter.claim(0, &mut third).unwrap_err() > SECOND);
    limiter.retune(1, Rates { iops: 1_000_000, bytes_per_second: 0 });
    assert_eq!(event.read().unwrap(), 1);
    assert_eq!(limiter.claim(1, &mut second), Ok(()));
    assert_eq!(limiter.claim(1, &mut third), Ok(()));
}

#[test]
fn a_lower_rate_holds_for_those_who_wait() {
    let limiter = Limiter::new(Rates { iops: 1000, bytes_per_second: 0 });
    starts(&limiter, 0, &[512; 21], &[]);
    let mut waiting = limiter.reserve(0, 512);
    assert!(limiter.claim(0, &mut waiting).unwrap_err() <= SECOND / 1000);
    limiter.retune(0, Rates { iops: 10, bytes_per_second: 0 });
    assert!(limiter.claim(0, &mut waiting).unwrap_err() > SECOND);
}

#[test]
fn extreme_numbers_neither_overflow_nor_stall() {
    let limiter = Limiter::new(Rates { iops: u64::MAX, bytes_per_second: 1 });
    let mut huge = limiter.reserve(u64::MAX - 1, u64::MAX);
    assert_eq!(limiter.claim(u64::MAX - 1, &mut huge), Ok(()));
    let mut next: Reservation = limiter.reserve(u64::MAX - 1, u64::MAX);
    let _ = limiter.claim(u64::MAX - 1, &mut next);
    limiter.retune(0, Rates { iops: 1, bytes_per_second: u64::MAX });
    limiter.retune(u64::MAX, Rates::default());
    assert_eq!(limiter.claim(u64::MAX, &mut next), Ok(()));
}

proptest! {
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
        for first in 0..all.len() {
            let mut bytes = 0u128;
            for last in first..all.len() {
                // The last request of a window may overdraw, so it does not count.
                if last > first {
                    bytes += u128::from(sizes[last - 1]);
                }
                let window = u128::from(all[last] - all[first] + BURST_NANOS);
                let requests = (last - first) as u128;
                prop_assert!(requests * u128::from(SECOND) <= window * u128::from(iops) + u128::from(SECOND));
                prop_assert!(bytes * u128::from(SECOND) <= window * u128::from(rate) + u128::from(SECOND));
            }
        }
    }

    /// Several queues that ask in turn, and a rate that changes, never leave one waiting for ever.
    #[test]
    fn everybody_wakes(
        rates in prop::collection::vec((0u64..10_000, 0u64..1 << 30), 1..10),
        sizes in prop::collection::vec(0u64..1 << 20, 8),
    ) {
        let limiter = Limiter::new(Rates { iops: 10, bytes_per_second: 1 << 20 });
        let mut waiting: Vec<_> = sizes.iter().map(|&bytes| limiter.reserve(0, bytes)).collect();
        let mut now = 0;
        for (iops, bytes_per_second) in rates {
            limiter.retune(now, Rates { iops, bytes_per_second });
            now += 1_000_000;
            waiting.retain_mut(|reservation| limiter.claim(now, reservation).is_err());
        }
        for mut reservation in waiting {
            if let Err(wait) = limiter.claim(now, &mut reservation) {
                prop_assert_eq!(limiter.claim(now + wait, &mut reservation), Ok(()));
            }
        }
    }
}
