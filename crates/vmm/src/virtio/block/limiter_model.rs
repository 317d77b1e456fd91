//! A disk that exists in simulated time only: guests that put up requests, queues that ask the
//! limiter as real ones do, and a medium that takes its time.

use super::{
    limiter::{LEAST_SLEEP, Limiter, Place, Rates},
    queue::DEPTH,
};
use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const SECOND: u64 = 1_000_000_000;
/// How late a thread wakes up at most.
const LATENESS: u64 = 60_000;

/// A medium that works on `lanes` requests at a time.
#[derive(Clone, Copy, Debug)]
pub struct Medium {
    pub lanes: usize,
    pub read: u64,
    pub write: u64,
    pub mebibyte: u64,
}

impl Medium {
    /// Faster than any disk there is.
    pub const FAST: Self = Self { lanes: 128, read: 50_000, write: 30_000, mebibyte: 2_000_000 };

    fn takes(&self, bytes: u64, read: bool) -> u64 {
        let base = if read { self.read } else { self.write };
        base + bytes * self.mebibyte / (1 << 20)
    }

    /// Requests in a second it can do for a guest that keeps `depth` under way.
    pub fn reach(&self, depth: usize, bytes: u64, reads: u64) -> f64 {
        let mean = reads * self.takes(bytes, true) + (100 - reads) * self.takes(bytes, false);
        self.lanes.min(depth) as f64 * 100.0 * SECOND as f64 / mean as f64
    }
}

/// What a guest does with one queue.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub bytes: u64,
    /// Percent of reads.
    pub reads: u64,
    pub guest: Guest,
}

#[derive(Clone, Copy, Debug)]
pub enum Guest {
    /// Keeps so many requests under way.
    Depth(usize),
    /// Puts up so many in a second, at random.
    Poisson(f64),
}

/// What one queue has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Let through by the limiter.
    pub started: u64,
    pub started_bytes: u64,
    pub completed: u64,
    pub woken: u64,
}

struct Queue {
    load: Load,
    place: Place,
    retuned: EventFd,
    /// When each request that nobody took yet was put up.
    offered: VecDeque<u64>,
    under_way: u32,
    stalled: Option<u64>,
    timer: Option<u64>,
    done: Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Completion,
    Wake,
}

pub struct Simulation {
    pub limiter: Limiter,
    pub now: u64,
    /// How long the limiter let each request wait; only for guests that do not wait themselves.
    pub waits: Vec<u64>,
    /// When each request started, and its bytes, if wanted.
    pub log: Option<Vec<(u64, u64)>>,
    medium: Medium,
    lanes: BinaryHeap<Reverse<u64>>,
    queues: Vec<Queue>,
    events: BinaryHeap<Reverse<(u64, Event, usize)>>,
    random: u64,
}

impl Simulation {
    pub fn new(rates: Rates, medium: Medium, loads: &[Load]) -> Self {
        let mut simulation = Self {
            limiter: Limiter::new(rates),
            now: 0,
            waits: Vec::new(),
            log: None,
            medium,
            lanes: (0..medium.lanes).map(|_| Reverse(0)).collect(),
            queues: Vec::new(),
            events: BinaryHeap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for &load in loads {
            simulation.add(load);
        }
        simulation
    }

    /// A queue that comes to life now.
    pub fn add(&mut self, load: Load) {
        let number = self.queues.len();
        let retuned = EventFd::new(EFD_NONBLOCK).unwrap();
        let place = self.limiter.join(retuned.try_clone().unwrap());
        self.queues.push(Queue {
            load,
            place,
            retuned,
            offered: VecDeque::new(),
            under_way: 0,
            stalled: None,
            timer: None,
            done: Done::default(),
        });
        let first = match load.guest {
            Guest::Depth(depth) => depth,
            Guest::Poisson(_) => 1,
        };
        for _ in 0..first {
            self.events.push(Reverse((self.now, Event::Arrival, number)));
        }
    }

    pub fn done(&self) -> Vec<Done> {
        self.queues.iter().map(|queue| queue.done).collect()
    }

    /// Requests started in all.
    pub fn started(&self) -> u64 {
        self.queues.iter().map(|queue| queue.done.started).sum()
    }

    pub fn completed(&self) -> u64 {
        self.queues.iter().map(|queue| queue.done.completed).sum()
    }

    /// Changes the rates; queues that are told of it wake up.
    pub fn retune(&mut self, rates: Rates) {
        self.limiter.retune(self.now, rates);
        for number in 0..self.queues.len() {
            if self.queues[number].retuned.read().is_ok() {
                let late = self.below(LATENESS);
                self.wake_at(number, self.now + late);
            }
        }
    }

    /// Lets `nanos` pass.
    pub fn run(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while let Some(&Reverse((at, event, number))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            match event {
                Event::Arrival => self.arrive(number),
                Event::Completion => {
                    let queue = &mut self.queues[number];
                    queue.under_way -= 1;
                    queue.done.completed += 1;
                    if matches!(queue.load.guest, Guest::Depth(_)) {
                        queue.offered.push_back(at);
                    }
                    self.take(number);
                }
                // Only the last time a timer was set to counts.
                Event::Wake if self.queues[number].timer == Some(at) => self.retry(number),
                Event::Wake => {}
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, number: usize) {
        let queue = &mut self.queues[number];
        queue.offered.push_back(self.now);
        if let Guest::Poisson(rate) = queue.load.guest {
            let uniform = (self.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
            let gap = (-uniform.ln() / rate * SECOND as f64) as u64;
            self.events.push(Reverse((self.now + gap, Event::Arrival, number)));
        }
        self.take(number);
    }

    /// As `BlockQueue::take`.
    fn take(&mut self, number: usize) {
        loop {
            let queue = &mut self.queues[number];
            if queue.stalled.is_some() || queue.under_way == DEPTH {
                return;
            }
            let Some(arrived) = queue.offered.pop_front() else { return };
            match self.limiter.ask(queue.place, self.now, queue.load.bytes) {
                Ok(()) => self.launch(number, arrived),
                Err(wait) => self.stall(number, arrived, wait),
            }
        }
    }

    /// As `BlockQueue::retry`.
    fn retry(&mut self, number: usize) {
        let queue = &mut self.queues[number];
        queue.timer = None;
        queue.done.woken += 1;
        if let Some(arrived) = queue.stalled.take() {
            match self.limiter.again(queue.place, self.now) {
                Ok(()) => self.launch(number, arrived),
                Err(wait) => self.stall(number, arrived, wait),
            }
        }
        self.take(number);
    }

    fn stall(&mut self, number: usize, arrived: u64, wait: u64) {
        assert!(wait > 0);
        self.queues[number].stalled = Some(arrived);
        let late = self.below(LATENESS);
        self.wake_at(number, self.now.saturating_add(wait.max(LEAST_SLEEP) + late));
    }

    fn wake_at(&mut self, number: usize, at: u64) {
        self.queues[number].timer = Some(at);
        self.events.push(Reverse((at, Event::Wake, number)));
    }

    fn launch(&mut self, number: usize, arrived: u64) {
        let percent = self.below(100);
        let queue = &mut self.queues[number];
        let Load { bytes, reads, guest } = queue.load;
        queue.under_way += 1;
        queue.done.started += 1;
        queue.done.started_bytes += bytes;
        if matches!(guest, Guest::Poisson(_)) {
            self.waits.push(self.now - arrived);
        }
        if let Some(log) = &mut self.log {
            log.push((self.now, bytes));
        }
        // The lane that is free first. There always is one.
        let mut lane = self.lanes.peek_mut().unwrap();
        let end = lane.0.max(self.now) + self.medium.takes(bytes, percent < reads);
        *lane = Reverse(end);
        drop(lane);
        self.events.push(Reverse((end, Event::Completion, number)));
    }

    /// A number below `limit`, by xorshift.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}
