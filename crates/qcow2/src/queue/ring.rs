//! The io_uring of one queue.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use crate::error::Error;
use crate::image::Chain;
use crate::request::{Direction, Transfer};

pub(super) struct Ring {
    ring: IoUring,
    /// Transfers not handed to the ring yet, as (slot, index).
    waiting: VecDeque<(usize, usize)>,
    in_ring: usize,
    entries: usize,
    /// Submissions that tests let fail.
    #[cfg(test)]
    pub(super) busy: u32,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("waiting", &self.waiting.len())
            .field("in_ring", &self.in_ring)
            .finish_non_exhaustive()
    }
}

fn open(entries: u32, event: BorrowedFd<'_>) -> io::Result<IoUring> {
    let ring = IoUring::new(entries)?;
    ring.submitter().register_eventfd(event.as_raw_fd())?;
    Ok(ring)
}

/// A ring that can do nothing but what [`Ring::push`] asks for, so that whoever takes this process
/// over has no way around its system call filter. Needs Linux 5.10.
fn restricted(entries: u32, event: BorrowedFd<'_>) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_r_disabled().build(entries)?;
    let submitter = ring.submitter();
    submitter.register_eventfd(event.as_raw_fd())?;
    let mut allowed =
        [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE].map(Restriction::sqe_op);
    submitter.register_restrictions(&mut allowed)?;
    submitter.register_enable_rings()?;
    Ok(ring)
}

impl Ring {
    /// None when the host has no io_uring or does not let this process use it.
    pub(super) fn new(depth: u32, event: BorrowedFd<'_>) -> Option<Self> {
        let entries = depth.clamp(2, 1024).next_power_of_two();
        let ring = restricted(entries, event).or_else(|_| open(entries, event)).ok()?;
        Some(Self {
            ring,
            waiting: VecDeque::new(),
            in_ring: 0,
            entries: entries as usize,
            #[cfg(test)]
            busy: 0,
        })
    }

    /// Is nothing waiting or under way?
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_ring == 0
    }

    /// Line a transfer up.
    pub(super) fn enqueue(&mut self, slot: usize, index: usize) {
        self.waiting.push_back((slot, index));
    }

    /// The next transfer to push, when the ring has room for it.
    pub(super) fn next_waiting(&mut self) -> Option<(usize, usize)> {
        if self.in_ring >= self.entries {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Put a transfer into the ring.
    ///
    /// # Safety
    /// The transfer does not move or change, and its memory is valid, until it is reaped.
    pub(super) unsafe fn push(
        &mut self,
        chain: &Chain,
        transfer: &Transfer,
        slot: usize,
        index: usize,
    ) {
        let Some(fd) = chain.file(transfer.layer).raw_fd() else { return };
        let fd = types::Fd(fd);
        let batch = transfer.batch();
        let len = batch.len() as u32;
        let entry = match transfer.direction {
            Direction::Read => {
                opcode::Readv::new(fd, batch.as_ptr(), len).offset(transfer.offset).build()
            }
            Direction::Write => {
                opcode::Writev::new(fd, batch.as_ptr(), len).offset(transfer.offset).build()
            }
            Direction::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let entry = entry.user_data((slot as u64) << 32 | index as u64);
        // SAFETY: the caller vouches for the transfer; at most `entries` are in the ring.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            self.in_ring += 1;
        } else {
            self.waiting.push_front((slot, index));
        }
    }

    /// Hand the entries to the host. False when it takes none now and nothing is under way whose
    /// end would be a reason to try again.
    pub(super) fn submit(&mut self) -> Result<bool, Error> {
        while !self.ring.submission().is_empty() {
            match self.enter() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The host is short of memory or completions wait: the next call tries again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    return Ok(self.in_ring > self.ring.submission().len());
                }
                Err(e) => return Err(Error::io("submit to io_uring", e)),
            }
        }
        Ok(true)
    }

    fn enter(&mut self) -> io::Result<usize> {
        #[cfg(test)]
        if self.busy > 0 {
            self.busy -= 1;
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        self.ring.submit()
    }

    /// Whether the event descriptor is told of transfers that end.
    pub(super) fn set_telling(&mut self, telling: bool) {
        // The flag came with Linux 5.8; without it the descriptor is always told.
        if !self.ring.params().is_feature_poll_32bits() {
            return;
        }
        let completions = self.ring.completion();
        if telling {
            completions.enable_eventfd();
        } else {
            completions.disable_eventfd();
        }
    }

    /// Has a transfer ended that was not reaped yet?
    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// The next ended transfer: slot, index, result.
    pub(super) fn reap(&mut self) -> Option<(usize, usize, i64)> {
        let entry = self.ring.completion().next()?;
        self.in_ring -= 1;
        let data = entry.user_data();
        Some(((data >> 32) as usize, (data & 0xffff_ffff) as usize, i64::from(entry.result())))
    }

    #[cfg(test)]
    pub(super) fn try_forbidden(&mut self) -> i64 {
        let entry = opcode::Nop::new().build();
        // SAFETY: the operation has no memory.
        unsafe { self.ring.submission().push(&entry) }.unwrap();
        self.ring.submit_and_wait(1).unwrap();
        self.ring.completion().next().unwrap().result().into()
    }
}
