//! Locks on ranges of guest clusters, held while a request that uses their mappings is in flight.
//!
//! Reads and in-place writes share a range; a request that changes mappings has it alone. So no
//! host cluster is given back while I/O to it is under way, and a cluster is allocated once.
//! Waiting is first come, first served among requests that overlap.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

/// Whoever waits for a lock; called with no lock held by the caller's thread.
pub(crate) trait Wake: Send + Sync + Debug {
    /// The lock waited for under `token` is now held.
    fn wake(&self, token: u64);
}

/// A lock held or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockId(u64);

#[derive(Debug)]
struct Held {
    id: u64,
    start: u64,
    end: u64,
    exclusive: bool,
    /// Set while waiting.
    waiter: Option<(Arc<dyn Wake>, u64)>,
}

impl Held {
    fn conflicts(&self, start: u64, end: u64, exclusive: bool) -> bool {
        (self.exclusive || exclusive) && self.start < end && start < self.end
    }
}

/// All locks of one image, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: usize,
    /// Of all locks, those that are exclusive. Without one, who wants to share need not look around.
    exclusive: usize,
    /// In order of arrival, which is that of ids. Mostly few: what is done at once holds its lock for a
    /// moment.
    locks: Vec<Held>,
}

impl State {
    /// Those whose turn has come: that nobody who came before stands in the way of.
    fn grant(&mut self) -> Vec<(Arc<dyn Wake>, u64)> {
        let free = |(at, lock): &(usize, &Held)| {
            let mut before = self.locks[..*at].iter();
            lock.waiter.is_some()
                && !before.any(|l| l.conflicts(lock.start, lock.end, lock.exclusive))
        };
        let granted: Vec<usize> =
            self.locks.iter().enumerate().filter(free).map(|(at, _)| at).collect();
        self.waiting -= granted.len();
        granted.iter().filter_map(|at| self.locks.get_mut(*at)?.waiter.take()).collect()
    }
}

impl RangeLocks {
    /// Ask for clusters `[start, end)`. True with the id: the lock is held. False: `wake` is
    /// called with `token` once it is.
    pub(crate) fn acquire(
        &self,
        start: u64,
        end: u64,
        exclusive: bool,
        wake: &Arc<dyn Wake>,
        token: u64,
    ) -> (LockId, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = !exclusive && state.exclusive == 0;
        let free = alone || !state.locks.iter().any(|l| l.conflicts(start, end, exclusive));
        let id = state.next;
        state.next += 1;
        let waiter = (!free).then(|| (Arc::clone(wake), token));
        state.waiting += usize::from(!free);
        state.exclusive += usize::from(exclusive);
        state.locks.push(Held { id, start, end, exclusive, waiter });
        (LockId(id), free)
    }

    /// Let go, and wake those whose turn has come.
    pub(crate) fn release(&self, id: LockId) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(at) = state.locks.binary_search_by_key(&id.0, |lock| lock.id) {
                let gone = state.locks.remove(at);
                state.waiting -= usize::from(gone.waiter.is_some());
                state.exclusive -= usize::from(gone.exclusive);
            }
            if state.waiting > 0 {
                woken = state.grant();
            }
        }
        for (wake, token) in woken {
            wake.wake(token);
        }
    }
}
