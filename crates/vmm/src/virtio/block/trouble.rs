//! What the host does not let a disk do, for those who can help: requests that wait for room, and
//! the last that failed.

use crate::events::unix_ms;
use api::vmm::AttachedDisk;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    since_unix_ms: u64,
    failed: u64,
    failure: String,
    failed_unix_ms: u64,
}

/// Of all queues of a disk.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<State>);

impl Trouble {
    /// One more request waits for room.
    pub fn waits(&self) {
        let mut state = self.state();
        state.waiting += 1;
        if state.waiting == 1 {
            state.since_unix_ms = unix_ms();
        }
    }

    /// So many wait no more, whatever became of them.
    pub fn waited(&self, count: usize) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(count);
        if state.waiting == 0 {
            state.since_unix_ms = 0;
        }
    }

    /// The host failed a request.
    pub fn failed(&self, why: String) {
        let mut state = self.state();
        state.failed += 1;
        state.failure = why;
        state.failed_unix_ms = unix_ms();
    }

    /// Tells of it.
    pub fn describe(&self, disk: &mut AttachedDisk) {
        let state = self.state();
        disk.no_room_since_unix_ms = state.since_unix_ms;
        disk.failed_requests = state.failed;
        disk.last_failure.clone_from(&state.failure);
        disk.last_failure_unix_ms = state.failed_unix_ms;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
