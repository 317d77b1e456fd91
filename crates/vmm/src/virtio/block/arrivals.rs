//! When the guest put up requests that nobody could take at the time.

use super::config::QUEUE_SIZE;
use std::collections::VecDeque;

/// What was seen of a queue while nothing could be taken from it. Positions count chains modulo
/// 2^16, as rings do.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Up to which position the queue was filled, and when that was seen.
    seen: VecDeque<(u16, u64)>,
}

impl Arrivals {
    /// At `now` the queue was seen filled up to `end`.
    pub fn note(&mut self, end: u16, now: u64) {
        // The number is the guest's, which may write any.
        let known = self.seen.back().is_some_and(|&(last, _)| last == end);
        if !known && self.seen.len() < usize::from(QUEUE_SIZE) {
            self.seen.push_back((end, now));
        }
    }

    /// When the request at `position`, which is taken `now`, was there first.
    pub fn of(&mut self, position: u16, now: u64) -> u64 {
        let passed = |end: u16| position.wrapping_sub(end) < 1 << 15;
        while self.seen.front().is_some_and(|&(end, _)| passed(end)) {
            self.seen.pop_front();
        }
        self.seen.front().map_or(now, |&(_, since)| since.min(now))
    }

    /// Forgets a queue that is no more.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_from_when_it_was_seen_first() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.of(0xfffe, 5), 5, "never seen before it is taken");
        arrivals.note(1, 10);
        arrivals.note(1, 11);
        arrivals.note(3, 20);
        assert_eq!(arrivals.of(0xffff, 50), 10);
        assert_eq!(arrivals.of(0, 50), 10);
        assert_eq!(arrivals.of(1, 50), 20);
        assert_eq!(arrivals.of(2, 50), 20);
        assert_eq!(arrivals.of(3, 50), 50);
        arrivals.note(9, 60);
        arrivals.clear();
        assert_eq!(arrivals.of(4, 70), 70);
    }

    #[test]
    fn a_guest_that_plays_with_its_index_takes_no_more_than_a_queue_of_memory() {
        let mut arrivals = Arrivals::default();
        for round in 0..10_000u16 {
            arrivals.note(round % 2, round.into());
        }
        assert_eq!(arrivals.seen.len(), usize::from(QUEUE_SIZE));
    }
}
