//! One thread's queue of requests.

mod mailbox;
mod pool;
mod ring;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::image::{Image, Op};
use crate::request::locks::Wake;
use crate::request::{Job, Progress, Step, Transfer};
use mailbox::Mailbox;
pub use pool::RingPool;
use pool::Seat;
use ring::Ring;

/// One request to an [`IoQueue`].
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes; for reads and writes the sum of the iovecs.
    pub len: u64,
    /// Memory to read into or write from; empty for the other operations.
    pub iovecs: Vec<libc::iovec>,
    /// Returned unchanged in the completion.
    pub tag: u64,
}

/// The end of one request.
#[derive(Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// How it ended.
    pub result: Result<(), Error>,
}

/// The queue holds as many requests as its depth; pop completions first. Gives the request back.
#[derive(Debug)]
pub struct QueueFull(pub Request);

/// One thread's queue of requests to a shared [`Image`].
///
/// Push requests, submit them, wait for [`event_fd`](Self::event_fd) to become readable, then pop
/// until there is nothing left. Requests complete in any order; a flush covers the writes whose
/// completions were popped, on any queue, before it was pushed.
///
/// Requests that change the mapping of a cluster wait for requests on the same cluster in other
/// queues, so every queue with requests in flight has to be popped in time.
#[derive(Debug)]
pub struct IoQueue {
    image: Arc<Image>,
    mailbox: Arc<Mailbox>,
    ring: Option<Ring>,
    slots: Vec<Option<Box<Slot>>>,
    free: Vec<usize>,
    ready: VecDeque<Completion>,
    depth: usize,
    /// Where the ring came from.
    pool: Option<Arc<RingPool>>,
}

/// A request under way. Boxed: the host reads its transfers' iovecs.
#[derive(Debug)]
struct Slot {
    job: Job,
    tag: u64,
    transfers: Vec<Transfer>,
    pending: usize,
    result: Result<(), Error>,
}

impl IoQueue {
    pub(crate) fn new(image: Arc<Image>, depth: u32) -> Result<Self, Error> {
        let mailbox = Arc::new(Mailbox::new()?);
        let has_files = image.chain().layers.iter().all(|l| l.file.raw_fd().is_some());
        let ring = if has_files && !image.no_ring.load(Ordering::Relaxed) {
            Ring::new(depth, mailbox.as_fd())
        } else {
            None
        };
        Ok(Self::with(image, mailbox, ring, depth, None))
    }

    pub(crate) fn from_pool(
        image: Arc<Image>,
        depth: u32,
        pool: &Arc<RingPool>,
    ) -> Result<Self, Error> {
        match pool.take(depth) {
            Some(Seat { ring, mailbox }) => {
                Ok(Self::with(image, mailbox, Some(ring), depth, Some(Arc::clone(pool))))
            }
            None => Ok(Self::with(image, Arc::new(Mailbox::new()?), None, depth, None)),
        }
    }

    fn with(
        image: Arc<Image>,
        mailbox: Arc<Mailbox>,
        ring: Option<Ring>,
        depth: u32,
        pool: Option<Arc<RingPool>>,
    ) -> Self {
        let depth = depth.max(1) as usize;
        let (slots, free, ready) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { image, mailbox, ring, slots, free, ready, depth, pool }
    }

    /// Does this queue use io_uring?
    #[must_use]
    pub fn uses_io_uring(&self) -> bool {
        self.ring.is_some()
    }

    /// Take a request. It may run before [`submit`](Self::submit), and is only sure to run after.
    ///
    /// # Errors
    /// [`QueueFull`] with the request when as many are under way or unpopped as the queue is deep.
    ///
    /// # Safety
    /// The memory named by the iovecs stays valid, and for reads writable, until the request's
    /// completion has been popped or the queue has been dropped.
    pub unsafe fn push(&mut self, request: Request) -> Result<(), QueueFull> {
        let active = self.slots.len() - self.free.len();
        if active + self.ready.len() >= self.depth {
            return Err(QueueFull(request));
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let wake: Arc<dyn Wake> = self.mailbox.clone();
        let Request { op, offset, len, iovecs, tag } = request;
        let job = Job::new(op, offset, len, iovecs, wake, at as u64);
        let slot = Slot { job, tag, transfers: Vec::new(), pending: 0, result: Ok(()) };
        self.slots[at] = Some(Box::new(slot));
        self.drive(at);
        Ok(())
    }

    /// Hand what was pushed to the host.
    ///
    /// # Errors
    /// The host's error from `io_uring_enter`.
    pub fn submit(&mut self) -> Result<(), Error> {
        if !self.ready.is_empty() {
            self.mailbox.signal();
        }
        self.submit_ring()
    }

    /// Readable when [`pop`](Self::pop) may give something. Not to be read by the caller.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.as_fd()
    }

    /// Does [`pop`](Self::pop) have something to give? Asks the host nothing.
    pub fn has_completions(&mut self) -> bool {
        !self.ready.is_empty() || self.ring.as_mut().is_some_and(Ring::has_completions)
    }

    /// The next completion, in any order. Call until it gives `None`: the event descriptor is
    /// only sure to fire again after that.
    pub fn pop(&mut self) -> Option<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Some(completion);
        }
        self.mailbox.clear();
        self.process();
        self.ready.pop_front()
    }

    /// Requests under way, completions not popped yet included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.ready.len()
    }

    /// Account for what the host and other queues have done.
    fn process(&mut self) {
        loop {
            let mut busy = false;
            while let Some((at, index, result)) = self.ring.as_mut().and_then(Ring::reap) {
                busy = true;
                self.transferred(at, index, result);
            }
            for token in self.mailbox.take() {
                busy = true;
                self.drive(token as usize);
            }
            // An error here shows again at the caller's next submit.
            let _ = self.submit_ring();
            if !busy {
                return;
            }
        }
    }

    fn submit_ring(&mut self) -> Result<(), Error> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        while let Some((at, index)) = ring.next_waiting() {
            let slot = self.slots[at].as_ref();
            let found = slot.and_then(|s| Some((s.job.chain()?, s.transfers.get(index)?)));
            if let Some((chain, transfer)) = found {
                // SAFETY: the transfer stays in its slot until it completed, and its memory is
                // valid until then (see `push`).
                unsafe { ring.push(chain, transfer, at, index) };
            }
        }
        if !ring.submit()? {
            // Nothing else would wake the caller.
            self.mailbox.signal();
        }
        Ok(())
    }

    /// A host call of a transfer ended.
    fn transferred(&mut self, at: usize, index: usize, result: i64) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut) else { return };
        let Some(transfer) = slot.transfers.get_mut(index) else { return };
        let Some(chain) = slot.job.chain() else { return };
        match transfer.progress(chain, result) {
            Progress::Again => {
                if let Some(ring) = &mut self.ring {
                    ring.enqueue(at, index);
                }
                return;
            }
            Progress::Done => {}
            Progress::Failed(error) => {
                if slot.result.is_ok() {
                    slot.result = Err(error);
                }
            }
        }
        slot.pending -= 1;
        if slot.pending == 0 {
            self.drive(at);
        }
    }

    /// Take a request as far as it goes without waiting.
    fn drive(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut) else { return };
        loop {
            let result = std::mem::replace(&mut slot.result, Ok(()));
            match slot.job.step(&self.image, result) {
                Step::Wait => return,
                Step::Done(result) => {
                    self.ready.push_back(Completion { tag: slot.tag, result });
                    self.slots[at] = None;
                    self.free.push(at);
                    return;
                }
                Step::Transfer(transfers) if transfers.is_empty() => {}
                Step::Transfer(transfers) => {
                    if let Some(ring) = &mut self.ring {
                        slot.pending = transfers.len();
                        for index in 0..transfers.len() {
                            ring.enqueue(at, index);
                        }
                        slot.transfers = transfers;
                        return;
                    }
                    let Some(chain) = slot.job.chain() else { continue };
                    for transfer in transfers {
                        let done = transfer.run(chain);
                        if slot.result.is_ok() {
                            slot.result = done;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
impl IoQueue {
    /// Let so many submissions fail as if the host were short of memory.
    pub(crate) fn set_busy(&mut self, times: u32) {
        if let Some(ring) = &mut self.ring {
            ring.busy = times;
        }
    }

    /// Try what the ring does not allow; the host's answer.
    pub(crate) fn try_forbidden(&mut self) -> Option<i64> {
        self.ring.as_mut().map(Ring::try_forbidden)
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        while self.slots.len() > self.free.len() {
            self.process();
            if self.slots.len() > self.free.len() {
                self.mailbox.wait();
            }
        }
        self.slots.clear();
        // Nobody else may be left to wake: a token for this queue would be taken for the next one's.
        if let (Some(pool), Some(ring)) = (self.pool.take(), self.ring.take())
            && Arc::strong_count(&self.mailbox) == 1
        {
            pool.put(Seat { ring, mailbox: Arc::clone(&self.mailbox) });
        }
    }
}
