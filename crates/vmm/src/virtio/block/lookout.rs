//! How long a queue's thread looks for more before it sleeps.
//!
//! A sleep costs the guest an exit for its doorbell, and the thread's wake-up comes on top of the next
//! request's time. So it is worth looking on for as long as that costs, if the next request tends to
//! come by then: at worst twice the cost is paid. How long that is depends on the host, and is measured.
//! On a host that has more to do than processors to do it, looking takes from others, perhaps from the
//! guest itself: who was interrupted while looking does without for a while.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Nanoseconds looked on at most, where a host is fast.
const LEAST: u64 = 30_000;
/// And where it is slow.
const MOST: u64 = 800_000;
/// A sleep and all that follows from it, in signals to an event descriptor and back.
const COST: u64 = 128;
/// Part of the limit that is waited for the next of many requests.
const GATHER: u64 = 8;
/// How well looks go: one point more for each time that the next request came within the limit, two
/// fewer for each that it did not, so that two of three have to come; from half the points on they
/// are worth it.
const BEST: u32 = 16;
/// Sleeps without a look after the host had others to run.
const CALM: u32 = 64;
/// Rounds of what is measured; the fastest counts, as others may have been interrupted.
const ROUNDS: u32 = 16;

/// How long to look on.
#[derive(Debug)]
pub struct Lookout {
    /// The limit.
    most: u64,
    /// Points.
    score: u32,
    /// Sleeps yet to be without a look.
    calm: u32,
    /// Since when there is nothing to do.
    idle: Option<Instant>,
}

impl Lookout {
    /// One that begins without looking.
    pub fn new() -> Self {
        static MOST_HERE: OnceLock<u64> = OnceLock::new();
        Self { most: *MOST_HERE.get_or_init(measure), score: 0, calm: 0, idle: None }
    }

    /// How long after a request the next one comes, of a guest that is about to put up many: what such a
    /// guest is told of together costs it one interrupt.
    pub fn gather(&self) -> Duration {
        Duration::from_nanos(self.most / GATHER)
    }

    /// There is nothing to do: how long to look on.
    pub fn begin(&mut self) -> Option<Duration> {
        self.idle = Some(Instant::now());
        (self.calm == 0 && self.score >= BEST / 2).then_some(Duration::from_nanos(self.most))
    }

    /// A look took `took`, and was to take `window` at most.
    pub fn looked(&mut self, took: Duration, window: Duration) {
        if took > window + Duration::from_nanos(self.most) {
            self.calm = CALM;
        }
    }

    /// There is something to do, after a look or a sleep.
    pub fn end(&mut self) {
        if let Some(idle) = self.idle.take() {
            self.learn(u64::try_from(idle.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// What came after `idle` nanoseconds would have been seen by a look of that length.
    fn learn(&mut self, idle: u64) {
        self.calm = self.calm.saturating_sub(1);
        let within = idle <= self.most;
        self.score = if within { (self.score + 1).min(BEST) } else { self.score.saturating_sub(2) };
    }
}

/// What a sleep costs on this host, in nanoseconds.
fn measure() -> u64 {
    let Ok(event) = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC) else { return LEAST };
    let round = || {
        let start = Instant::now();
        let _ = event.write(1);
        let _ = event.read();
        start.elapsed()
    };
    let fastest = (0..ROUNDS).map(|_| round()).min().unwrap_or_default();
    let cost = u64::try_from(fastest.as_nanos()).unwrap_or(u64::MAX).saturating_mul(COST);
    cost.clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookout() -> Lookout {
        Lookout { most: 50_000, score: 0, calm: 0, idle: None }
    }

    #[test]
    fn it_looks_on_only_where_more_comes_soon() {
        let mut lookout = lookout();
        assert_eq!(lookout.begin(), None);
        for n in 0..90 {
            lookout.learn(if n % 3 == 0 { 50_001 } else { 50_000 });
        }
        assert_eq!(lookout.begin(), None, "two of three only make up for the third");
        for n in 0..40 {
            lookout.learn(if n % 4 == 0 { 50_001 } else { 50_000 });
        }
        assert_eq!(lookout.begin(), Some(Duration::from_nanos(50_000)));
        for n in 0..40 {
            lookout.learn(if n % 2 == 0 { 50_001 } else { 50_000 });
        }
        assert_eq!(lookout.begin(), None, "half of the looks would be in vain");
    }

    #[test]
    fn who_was_interrupted_while_looking_does_without_for_a_while() {
        let mut lookout = Lookout { score: BEST, ..lookout() };
        let micros = Duration::from_micros;
        lookout.looked(micros(90), micros(50));
        assert_eq!(lookout.begin(), Some(micros(50)), "late, as clocks are");
        lookout.looked(micros(101), micros(50));
        for _ in 0..CALM {
            assert_eq!(lookout.begin(), None);
            lookout.learn(1_000);
        }
        assert!(lookout.begin().is_some());
    }

    #[test]
    fn the_limit_is_that_of_the_host() {
        assert!((LEAST..=MOST).contains(&Lookout::new().most));
    }
}
