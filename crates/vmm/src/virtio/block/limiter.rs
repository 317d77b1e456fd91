//! The rate of one disk over all its queues.
//!
//! Virtual time: each of the two dimensions, requests and bytes, has an instant up to which its
//! rate is spoken for. A request starts when neither instant is more than the burst ahead of the
//! clock, and moves both on by what it costs. All of it is integer arithmetic in nanoseconds.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use vmm_sys_util::eventfd::EventFd;

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// How far ahead of its rate a disk may be: long enough for a queue's worth of requests at once,
/// too short to be seen in any second's figure.
pub const BURST_NANOS: u64 = 20_000_000;

/// Sustained rates; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests in a second.
    pub iops: u64,
    /// Bytes in a second.
    pub bytes_per_second: u64,
}

/// A place in the order of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    bytes: u64,
    start: u64,
    generation: u64,
}

/// Virtual time of one dimension.
#[derive(Clone, Copy, Debug, Default)]
struct Dimension {
    rate: u64,
    /// Nanosecond up to which the rate is spoken for.
    until: u64,
    /// Units spoken for by requests that have not started.
    waiting: u64,
}

impl Dimension {
    fn cost(&self, units: u64) -> u64 {
        match self.rate {
            0 => 0,
            rate => {
                let nanos = (u128::from(units) * NANOS_PER_SECOND).div_ceil(u128::from(rate));
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
        }
    }

    fn earliest(&self) -> u64 {
        if self.rate == 0 { 0 } else { self.until.saturating_sub(BURST_NANOS) }
    }

    fn take(&mut self, start: u64, units: u64) {
        self.until = self.until.max(start).saturating_add(self.cost(units));
        self.waiting = self.waiting.saturating_add(units);
    }

    /// Continues at another rate: what has started stays paid for, what waits is forgotten and
    /// must ask again.
    fn retune(&mut self, now: u64, rate: u64) {
        let ahead = u128::from(self.until.saturating_sub(now));
        let owed = (ahead * u128::from(self.rate) / NANOS_PER_SECOND)
            .saturating_sub(u128::from(self.waiting));
        self.rate = rate;
        self.waiting = 0;
        self.until = now.saturating_add(self.cost(u64::try_from(owed).unwrap_or(u64::MAX)));
    }
}

#[derive(Debug, Default)]
struct State {
    requests: Dimension,
    bytes: Dimension,
    generation: u64,
    waiters: Vec<EventFd>,
}

impl State {
    fn started(&mut self, bytes: u64) {
        self.requests.waiting = self.requests.waiting.saturating_sub(1);
        self.bytes.waiting = self.bytes.waiting.saturating_sub(bytes);
    }
}

/// The limit of a disk, shared by its queues.
#[derive(Debug)]
pub struct Limiter {
    epoch: Instant,
    state: Mutex<State>,
}

impl Limiter {
    /// A disk of these rates.
    pub fn new(rates: Rates) -> Self {
        let limiter = Self { epoch: Instant::now(), state: Mutex::default() };
        limiter.retune(0, rates);
        limiter
    }

    /// Nanoseconds since the limiter was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds somebody to wake up when the rates change.
    pub fn subscribe(&self, event: EventFd) {
        self.state().waiters.push(event);
    }

    /// Takes the next place for a request of `bytes`.
    pub fn reserve(&self, now: u64, bytes: u64) -> Reservation {
        let mut state = self.state();
        Self::reserve_in(&mut state, now, bytes)
    }

    fn reserve_in(state: &mut State, now: u64, bytes: u64) -> Reservation {
        let start = now.max(state.requests.earliest()).max(state.bytes.earliest());
        state.requests.take(start, 1);
        state.bytes.take(start, bytes);
        Reservation { bytes, start, generation: state.generation }
    }

    /// Starts the request if it is its time; otherwise says how many nanoseconds, at least one, it
    /// still has to wait. If the rates changed meanwhile, the reservation is a new one.
    pub fn claim(&self, now: u64, reservation: &mut Reservation) -> Result<(), u64> {
        let mut state = self.state();
        if reservation.generation != state.generation {
            *reservation = Self::reserve_in(&mut state, now, reservation.bytes);
        }
        match reservation.start.saturating_sub(now) {
            0 => {
                state.started(reservation.bytes);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    /// Gives a place up. Its time stays spoken for, which only errs towards the limit.
    pub fn cancel(&self, reservation: &Reservation) {
        let mut state = self.state();
        if reservation.generation == state.generation {
            state.started(reservation.bytes);
        }
    }

    /// Other rates from now on, for waiting requests too.
    pub fn set(&self, rates: Rates) {
        self.retune(self.now(), rates);
    }

    pub(super) fn retune(&self, now: u64, rates: Rates) {
        let mut state = self.state();
        state.requests.retune(now, rates.iops);
        state.bytes.retune(now, rates.bytes_per_second);
        state.generation += 1;
        for waiter in &state.waiters {
            let _ = waiter.write(1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
