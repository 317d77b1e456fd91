//! What is done at once, by plain calls of the queue's own thread, and what is left to the ring.
//!
//! What the host has in its page cache costs a copy. Through a ring a write costs a worker of the
//! kernel as well, since file systems do not promise that a buffered write never waits: on ext4 that
//! is many times the write itself. So the thread writes as long as the host takes it at once.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::image::Chain;
use crate::request::{Direction, Transfer};

/// A write that takes longer waited for something: writeback, the journal, a busy host.
const SLOW: Duration = Duration::from_millis(5);
/// How many times as long as it waited the thread does not write then. So it waits no more than a
/// twentieth of the time, while reads and other requests of its queue stand still.
const REST: u32 = 20;
/// Reads handed to the ring untried, at most, after the host did not have one in memory.
const UNTRIED: u32 = 32;

#[derive(Debug, Default)]
pub(super) struct Direct {
    /// Until then writes are left to the ring.
    rest_until: Option<Instant>,
    /// Reads still to be left to the ring, and how many that were at first.
    untried: u32,
    misses: u32,
    /// Everything is left to the ring.
    #[cfg(test)]
    pub(super) off: bool,
}

impl Direct {
    /// Carry the transfer out. None when the ring has to do the rest of it.
    pub(super) fn run(
        &mut self,
        transfer: &mut Transfer,
        chain: &Chain,
    ) -> Option<Result<(), Error>> {
        #[cfg(test)]
        if self.off {
            return None;
        }
        match transfer.direction {
            Direction::Read => self.read(transfer, chain),
            Direction::Write => self.write(transfer, chain),
            Direction::Sync => None,
        }
    }

    fn read(&mut self, transfer: &mut Transfer, chain: &Chain) -> Option<Result<(), Error>> {
        if !self.is_read_due() {
            return None;
        }
        let done = transfer.read_cached(chain);
        self.note_read(done.is_some());
        done
    }

    fn write(&mut self, transfer: &mut Transfer, chain: &Chain) -> Option<Result<(), Error>> {
        let start = Instant::now();
        if self.rest_until.is_some_and(|until| start < until) {
            return None;
        }
        let done = transfer.run(chain);
        self.note_write(start, start.elapsed());
        Some(done)
    }

    /// Shall this read be tried?
    fn is_read_due(&mut self) -> bool {
        let due = self.untried == 0;
        self.untried = self.untried.saturating_sub(1);
        due
    }

    fn note_read(&mut self, in_memory: bool) {
        self.misses = if in_memory { 0 } else { (self.misses * 2).clamp(1, UNTRIED) };
        self.untried = self.misses;
    }

    fn note_write(&mut self, start: Instant, took: Duration) {
        self.rest_until = (took > SLOW).then(|| start + took * REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_tried_less_often_the_more_the_host_does_not_have() {
        let mut direct = Direct::default();
        let mut tries = |in_memory: bool| {
            let due = (0..1000).filter(|_| {
                let due = direct.is_read_due();
                if due {
                    direct.note_read(in_memory);
                }
                due
            });
            due.count()
        };
        assert!(tries(false) < 40);
        assert!(tries(true) > 960, "and always again when it has");
    }

    #[test]
    fn after_a_write_that_waited_the_ring_has_them_for_a_while() {
        let (mut direct, start) = (Direct::default(), Instant::now());
        direct.note_write(start, SLOW);
        assert_eq!(direct.rest_until, None);
        direct.note_write(start, SLOW * 10);
        assert_eq!(direct.rest_until, Some(start + SLOW * 200));
        direct.note_write(start + SLOW * 201, SLOW / 10);
        assert_eq!(direct.rest_until, None);
    }
}
