//! Where a queue hears of granted locks, and the event descriptor it shares with its ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::request::locks::Wake;

#[derive(Debug)]
pub(super) struct Mailbox {
    event: OwnedFd,
    tokens: Mutex<Vec<u64>>,
    /// Whether there are tokens, to be looked at without the lock.
    filled: AtomicBool,
}

impl Mailbox {
    pub(super) fn new() -> Result<Self, Error> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::io("create an eventfd", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { event, tokens: Mutex::default(), filled: AtomicBool::new(false) })
    }

    /// Make the event descriptor readable.
    pub(super) fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes 8 bytes from a valid buffer. A full counter is readable already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Make the event descriptor unreadable.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most 8 bytes into a valid buffer; EAGAIN means there was nothing.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// Block until the event descriptor is readable, and clear it.
    pub(super) fn wait(&self) {
        let mut poll =
            libc::pollfd { fd: self.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd. The time limit covers a host that lost an event.
        unsafe { libc::poll(&raw mut poll, 1, 1000) };
        self.clear();
    }

    /// Was a lock granted that [`take`](Self::take) has not told of?
    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// The requests whose locks were granted.
    pub(super) fn take(&self) -> Vec<u64> {
        if !self.is_filled() {
            return Vec::new();
        }
        // Before the tokens are taken: one that comes after sets it again.
        self.filled.store(false, Ordering::Release);
        std::mem::take(&mut *self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for Mailbox {
    fn wake(&self, token: u64) {
        {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.push(token);
            self.filled.store(true, Ordering::Release);
        }
        self.signal();
    }
}
