//! What is behind the queues of a disk that was taken from under its driver.

use super::backend::{BackendQueue, Outcome, Submission};
use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Fails every request.
pub struct Refuser {
    event: EventFd,
    tags: Vec<u64>,
}

impl Refuser {
    /// One for any queue.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?, tags: Vec::new() })
    }
}

impl BackendQueue for Refuser {
    unsafe fn push(&mut self, submission: Submission) -> bool {
        self.tags.push(submission.tag);
        true
    }

    fn submit(&mut self) -> io::Result<()> {
        self.event.write(1)
    }

    fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn pop(&mut self) -> Option<(u64, Outcome)> {
        let _ = self.event.read();
        let refused = || Outcome::Failed("the disk was taken away".to_owned());
        self.tags.pop().map(|tag| (tag, refused()))
    }
}
