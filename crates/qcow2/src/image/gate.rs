//! The way of every request to the chain, which closes while the chain is switched.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chain::Chain;
use crate::request::locks::Wake;

/// Counts the requests under way and holds new ones back while it is closed.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    drained: Condvar,
}

#[derive(Debug)]
struct State {
    chain: Arc<Chain>,
    under_way: usize,
    closed: bool,
    held: Vec<(Arc<dyn Wake>, u64)>,
}

impl Gate {
    pub(super) fn new(chain: Chain) -> Self {
        let state = State { chain: Arc::new(chain), under_way: 0, closed: false, held: Vec::new() };
        Self { state: Mutex::new(state), drained: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present chain. A request has to [`enter`](Self::enter) instead.
    pub(crate) fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.state().chain)
    }

    /// Begin a request. None when it is held back: `wake` is called with `token` once it counts
    /// as under way, on the [`chain`](Self::chain) of that moment.
    pub(crate) fn enter(&self, wake: &Arc<dyn Wake>, token: u64) -> Option<Arc<Chain>> {
        let mut state = self.state();
        if state.closed {
            state.held.push((Arc::clone(wake), token));
            return None;
        }
        state.under_way += 1;
        Some(Arc::clone(&state.chain))
    }

    /// End a request, which has let go of its chain.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.under_way -= 1;
        if state.closed && state.under_way == 0 {
            self.drained.notify_all();
        }
    }

    /// Hold new requests back and wait until none is under way. None, with the gate open again,
    /// when that takes longer than `limit`. One caller at a time.
    pub(super) fn close(&self, limit: Duration) -> Option<Closed<'_>> {
        let since = Instant::now();
        let mut state = self.state();
        state.closed = true;
        let closed = Closed { gate: self, since };
        while state.under_way > 0 {
            let Some(left) = limit.checked_sub(since.elapsed()) else {
                drop(state);
                return None;
            };
            state =
                self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        Some(closed)
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn open(&self) {
        let held = {
            let mut state = self.state();
            state.closed = false;
            let held = std::mem::take(&mut state.held);
            // They are under way from now on, so that one switch after another starves nobody.
            state.under_way += held.len();
            held
        };
        for (wake, token) in held {
            wake.wake(token);
        }
    }
}

/// No request is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Closed<'a> {
    gate: &'a Gate,
    since: Instant,
}

impl Closed<'_> {
    /// Replace the chain and let the requests on. Gives the old chain, and for how long requests
    /// were held back.
    pub(super) fn switch(self, chain: Chain) -> (Arc<Chain>, Duration) {
        let old = std::mem::replace(&mut self.gate.state().chain, Arc::new(chain));
        let since = self.since;
        drop(self);
        (old, since.elapsed())
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.gate.open();
    }
}
