//! Rings made ahead of time.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mailbox::Mailbox;
use super::ring::Ring;

/// io_urings for queues to come, for a process that gives up the right to make any: see
/// [`Image::io_queue_from`](crate::Image::io_queue_from). A queue gives its ring back as it goes.
#[derive(Debug)]
pub struct RingPool {
    depth: u32,
    spare: Mutex<Vec<Seat>>,
}

/// A ring and the event descriptor it is tied to.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) ring: Ring,
    pub(super) mailbox: Arc<Mailbox>,
}

impl RingPool {
    /// As many rings as the host gives, and at most `count`, for queues of at most `depth` requests.
    #[must_use]
    pub fn new(count: usize, depth: u32) -> Arc<Self> {
        let make = || {
            let mailbox = Arc::new(Mailbox::new().ok()?);
            Some(Seat { ring: Ring::new(depth, mailbox.as_fd())?, mailbox })
        };
        let spare = Mutex::new((0..count).map_while(|_| make()).collect());
        Arc::new(Self { depth, spare })
    }

    /// Rings nobody uses.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.seats().len()
    }

    pub(super) fn take(&self, depth: u32) -> Option<Seat> {
        if depth > self.depth {
            return None;
        }
        self.seats().pop()
    }

    /// Takes back what is at rest; anything else is closed.
    pub(super) fn put(&self, mut seat: Seat) {
        if seat.ring.is_idle() {
            seat.ring.set_telling(true);
            seat.mailbox.clear();
            self.seats().push(seat);
        }
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
