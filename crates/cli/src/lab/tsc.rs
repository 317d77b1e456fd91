//! How fast this machine's time-stamp counter counts. An emulated host sees this counter, and would
//! find out its rate from a timer that is emulated as well: on a busy machine it is then off by
//! several times, and with it every clock of the host and its guests.

use std::{
    arch::x86_64::_rdtsc,
    thread,
    time::{Duration, Instant},
};

/// Long enough that the moments themselves, known to a microsecond or so, do not matter.
const BETWEEN: Duration = Duration::from_millis(50);
const TRIES: usize = 20;

/// A moment, by both clocks.
fn moment() -> (Instant, u64) {
    let look = || {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has the instruction; it reads a register.
        let count = unsafe { _rdtsc() };
        (before.elapsed(), before, count)
    };
    // The one in which nothing came between.
    let best = (0..TRIES).map(|_| look()).min_by_key(|(took, ..)| *took);
    let (_, at, count) = best.unwrap_or_else(look);
    (at, count)
}

/// Thousands of counts per second.
pub(super) fn khz() -> u64 {
    let (start, first) = moment();
    thread::sleep(BETWEEN);
    let (end, last) = moment();
    let nanos = end.duration_since(start).as_nanos().max(1);
    let counts = u128::from(last.saturating_sub(first));
    u64::try_from(counts * 1_000_000 / nanos).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_within_a_thousandth() {
        let (one, two) = (khz(), khz());
        assert!(one.abs_diff(two) * 1000 <= one, "{one} and {two}");
        assert!(one > 100_000, "{one}");
    }
}
