//! The rate of one disk over all its queues.
//!
//! Virtual time, twice. Each of the two dimensions, requests and bytes, has an instant up to which
//! its rate is spoken for: a request may start when neither instant is more than a burst ahead of
//! the clock, and moves both on by what it costs. And each queue has a tag, which a request moves on
//! by the larger of its two costs: of the requests that wait, the one with the least tag is next.
//! So queues that always have something to do get equal parts of the disk, whatever the sizes of
//! their requests: large ones of one queue do not crowd out small ones of another.
//!
//! All of it is integer arithmetic in nanoseconds. At most one request of a queue waits, and only
//! requests that start are charged, so who gives up or is late takes nothing from the others.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use vmm_sys_util::eventfd::EventFd;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How far ahead of its rate a disk may be at least: long enough for a queue's worth of requests at
/// once, too short to be seen in any second's figure.
pub const BURST_NANOS: u64 = 20_000_000;
/// Bytes a disk may be ahead: a few of the largest requests a guest makes, so that a disk that is
/// half busy with such ones hardly ever lets one wait.
pub const BURST_BYTES: u64 = 4 << 20;
/// How far ahead a disk may be at most, so that over 20 seconds no rate is off by more than 1%.
pub const BURST_NANOS_MOST: u64 = 150_000_000;
/// Nanoseconds a queue sleeps at least when the rate is used up. Fast disks so start several requests
/// each time they wake; none is lost, as the burst is longer.
pub const LEAST_SLEEP: u64 = 50_000;
/// How late a queue whose turn it is may wake up before others go first. Less than that is usual,
/// and would cost a queue of small requests most of its turns.
const GRACE_NANOS: u64 = 1_000_000;

/// Sustained rates; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests in a second.
    pub iops: u64,
    /// Bytes in a second.
    pub bytes_per_second: u64,
}

/// Who asks: a queue of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// Virtual time of one dimension.
#[derive(Clone, Copy, Debug, Default)]
struct Dimension {
    rate: u64,
    /// How many nanoseconds it may be ahead.
    burst: u64,
    /// Nanosecond up to which the rate is spoken for.
    until: u64,
}

impl Dimension {
    /// At a rate from the beginning, with the whole burst to spend.
    fn new(rate: u64, burst_units: u64) -> Self {
        let burst =
            Self { rate, ..Self::default() }.cost(burst_units).clamp(BURST_NANOS, BURST_NANOS_MOST);
        Self { rate, burst, until: 0 }
    }

    fn cost(&self, units: u64) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        match units.checked_mul(NANOS_PER_SECOND) {
            Some(product) => product.div_ceil(self.rate),
            None => {
                let product = u128::from(units) * u128::from(NANOS_PER_SECOND);
                u64::try_from(product.div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX)
            }
        }
    }

    /// When a request may start that lets `before` units go first.
    fn earliest(&self, now: u64, before: u64) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        let until = match before {
            0 => self.until,
            _ => self.until.max(now).saturating_add(self.cost(before)),
        };
        until.saturating_sub(self.burst)
    }

    fn take(&mut self, now: u64, cost: u64) {
        self.until = self.until.max(now).saturating_add(cost);
    }

    /// Continues at another rate. Nothing is left of the burst, so that the new rate is seen from the
    /// first second on. What one large request took beyond the burst is still to be paid.
    fn retune(&mut self, now: u64, rate: u64, burst_units: u64) {
        if rate == self.rate {
            return;
        }
        let beyond = self.until.saturating_sub(now).saturating_sub(self.burst);
        let owed =
            (u128::from(beyond) * u128::from(self.rate)).div_ceil(u128::from(NANOS_PER_SECOND));
        *self = Self::new(rate, burst_units);
        let debt = self.cost(u64::try_from(owed).unwrap_or(u64::MAX));
        self.until = now.saturating_add(self.burst).saturating_add(debt);
    }
}

/// What is known of one queue.
#[derive(Debug)]
struct Queue {
    /// Its tag: what it has had of the disk, in virtual nanoseconds.
    tag: u64,
    /// Bytes of the request that waits.
    waiting: Option<u64>,
    retuned: EventFd,
}

#[derive(Debug, Default)]
struct State {
    requests: Dimension,
    bytes: Dimension,
    /// Largest tag of a request that started: where a queue that had nothing to do joins.
    virtual_now: u64,
    queues: Vec<Queue>,
}

impl State {
    /// Starts `place`'s request, or says how long it waits.
    fn start(&mut self, place: Place, now: u64, bytes: u64) -> Result<(), u64> {
        let Place(own) = place;
        let key = (self.queues[own].tag, own);
        let (mut requests_before, mut bytes_before) = (0, 0u64);
        for (other, queue) in self.queues.iter().enumerate() {
            if let Some(bytes) = queue.waiting
                && (queue.tag, other) < key
            {
                requests_before += 1;
                bytes_before = bytes_before.saturating_add(bytes);
            }
        }
        let earliest = self
            .requests
            .earliest(now, requests_before)
            .max(self.bytes.earliest(now, bytes_before));
        let queue = &mut self.queues[own];
        if earliest > now {
            queue.waiting = Some(bytes);
            return Err(earliest - now);
        }
        // Those before are late. They do not hold the disk up for long: there is enough for them, too.
        let late = now - earliest;
        if requests_before > 0 && late < GRACE_NANOS && earliest > 0 {
            queue.waiting = Some(bytes);
            return Err(LEAST_SLEEP.min(GRACE_NANOS - late));
        }
        let costs = (self.requests.cost(1), self.bytes.cost(bytes));
        self.requests.take(now, costs.0);
        self.bytes.take(now, costs.1);
        self.virtual_now = self.virtual_now.max(queue.tag);
        queue.tag = queue.tag.saturating_add(costs.0.max(costs.1));
        queue.waiting = None;
        Ok(())
    }
}

/// The limit of a disk, shared by its queues.
#[derive(Debug)]
pub struct Limiter {
    epoch: Instant,
    /// Spares a disk without a limit the lock.
    unlimited: AtomicBool,
    state: Mutex<State>,
}

impl Limiter {
    /// A disk of these rates.
    pub fn new(rates: Rates) -> Self {
        let state = State {
            requests: Dimension::new(rates.iops, 0),
            bytes: Dimension::new(rates.bytes_per_second, BURST_BYTES),
            ..State::default()
        };
        Self {
            epoch: Instant::now(),
            unlimited: AtomicBool::new(rates == Rates::default()),
            state: Mutex::new(state),
        }
    }

    /// Whether nothing ever has to wait, as things stand.
    pub fn is_unlimited(&self) -> bool {
        self.unlimited.load(Ordering::Acquire)
    }

    /// Nanoseconds since the limiter was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a queue, which `retuned` wakes up when the rates change.
    pub fn join(&self, retuned: EventFd) -> Place {
        let mut state = self.state();
        state.queues.push(Queue { tag: 0, waiting: None, retuned });
        Place(state.queues.len() - 1)
    }

    /// Starts a request of `bytes` if it is its time; otherwise says how many nanoseconds, at least
    /// one, it has to wait before [`Self::again`]. A place has no more than one waiting request.
    ///
    /// The time is exact as things stand. Later requests of other queues may still come before this
    /// one, until those queues have had as much of the disk.
    pub fn ask(&self, place: Place, now: u64, bytes: u64) -> Result<(), u64> {
        if self.unlimited.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state();
        let joined = state.virtual_now;
        let queue = &mut state.queues[place.0];
        queue.tag = queue.tag.max(joined);
        state.start(place, now, bytes)
    }

    /// As [`Self::ask`], for the request that waits.
    pub fn again(&self, place: Place, now: u64) -> Result<(), u64> {
        let mut state = self.state();
        match state.queues[place.0].waiting {
            Some(bytes) => state.start(place, now, bytes),
            None => Ok(()),
        }
    }

    /// Forgets the request that waits.
    pub fn cancel(&self, place: Place) {
        self.state().queues[place.0].waiting = None;
    }

    /// Other rates from now on, for waiting requests too.
    pub fn set(&self, rates: Rates) {
        self.retune(self.now(), rates);
    }

    pub(super) fn retune(&self, now: u64, rates: Rates) {
        let mut state = self.state();
        state.requests.retune(now, rates.iops, 0);
        state.bytes.retune(now, rates.bytes_per_second, BURST_BYTES);
        self.unlimited.store(rates == Rates::default(), Ordering::Release);
        // Tags count time at the old rates: all begin again as equals.
        let begin = state.virtual_now;
        for queue in &mut state.queues {
            queue.tag = begin;
            let _ = queue.retuned.write(1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
