//! One thread's queue of requests.

mod direct;
mod mailbox;
mod pool;
mod ring;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::error::Error;
use crate::image::{Image, Op};
use crate::request::iovec::Iovecs;
use crate::request::locks::Wake;
use crate::request::{Job, Progress, Step, Transfers};
use direct::Direct;
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
    pub iovecs: Iovecs,
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
/// until there is nothing left. A thread that has other things to look at as well need not be told
/// of what it sees by itself: see [`watch`](Self::watch). Requests complete in any order; a flush covers the writes whose
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
    direct: Direct,
    /// The owner looks for completions by itself.
    watched: bool,
    /// Where the ring came from.
    pool: Option<Arc<RingPool>>,
}

/// A request. Boxed when it is under way in the ring: the host reads its transfers' iovecs.
#[derive(Debug)]
struct Slot {
    job: Job,
    tag: u64,
    transfers: Transfers,
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
        let direct = Direct::default();
        Self { image, mailbox, ring, slots, free, ready, depth, direct, watched: false, pool }
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
        let mut slot = Slot { job, tag, transfers: Transfers::new(), pending: 0, result: Ok(()) };
        if self.go_on(&mut slot, at) {
            self.free.push(at);
        } else {
            self.slots[at] = Some(Box::new(slot));
        }
        Ok(())
    }

    /// Hand what was pushed to the host.
    ///
    /// # Errors
    /// The host's error from `io_uring_enter`.
    pub fn submit(&mut self) -> Result<(), Error> {
        if !self.ready.is_empty() && !self.watched {
            self.mailbox.signal();
        }
        self.submit_ring()
    }

    /// From now on the caller looks for completions by itself, with
    /// [`has_completions`](Self::has_completions), until it [`rest`](Self::rest)s: the event
    /// descriptor is told of nothing but what other queues do.
    pub fn watch(&mut self) {
        if !std::mem::replace(&mut self.watched, true)
            && let Some(ring) = &mut self.ring
        {
            ring.set_telling(false);
        }
    }

    /// The end of [`watch`](Self::watch): from now on the event descriptor tells of completions.
    /// True when there is something to pop already, of which it does not.
    pub fn rest(&mut self) -> bool {
        if std::mem::replace(&mut self.watched, false)
            && let Some(ring) = &mut self.ring
        {
            ring.set_telling(true);
        }
        // What ends after this look finds that the descriptor is to be told.
        fence(Ordering::SeqCst);
        self.has_completions()
    }

    /// Make the event descriptor unreadable. While the queue is [`watch`](Self::watch)ed nothing
    /// else does.
    pub fn clear_event(&mut self) {
        self.mailbox.clear();
    }

    /// Readable when [`pop`](Self::pop) may give something. Not to be read by the caller.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.as_fd()
    }

    /// Does [`pop`](Self::pop) have something to give? Asks the host nothing.
    pub fn has_completions(&mut self) -> bool {
        !self.ready.is_empty()
            || self.mailbox.is_filled()
            || self.ring.as_mut().is_some_and(Ring::has_completions)
    }

    /// The next completion, in any order. Call until it gives `None`: the event descriptor is
    /// only sure to fire again after that.
    pub fn pop(&mut self) -> Option<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Some(completion);
        }
        if !self.watched {
            self.mailbox.clear();
        }
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

    /// Take a request of a slot as far as it goes without waiting.
    fn drive(&mut self, at: usize) {
        let Some(mut slot) = self.slots.get_mut(at).and_then(Option::take) else { return };
        if self.go_on(&mut slot, at) {
            self.free.push(at);
        } else {
            self.slots[at] = Some(slot);
        }
    }

    /// Take a request as far as it goes without waiting. True when it is finished; otherwise it has
    /// to be in slot `at` before the ring is next looked at.
    fn go_on(&mut self, slot: &mut Slot, at: usize) -> bool {
        loop {
            let result = std::mem::replace(&mut slot.result, Ok(()));
            let transfers = match slot.job.step(&self.image, result) {
                Step::Wait => return false,
                Step::Done(result) => {
                    self.ready.push_back(Completion { tag: slot.tag, result });
                    return true;
                }
                Step::Transfer(transfers) => transfers,
            };
            let Some(chain) = slot.job.chain() else { continue };
            let mut left = Transfers::new();
            for mut transfer in transfers {
                let done = match self.ring {
                    Some(_) => self.direct.run(&mut transfer, chain),
                    None => Some(transfer.run(chain)),
                };
                match done {
                    Some(done) if slot.result.is_ok() => slot.result = done,
                    Some(_) => {}
                    None => left.push(transfer),
                }
            }
            if let Some(ring) = &mut self.ring
                && !left.is_empty()
            {
                slot.pending = left.len();
                for index in 0..left.len() {
                    ring.enqueue(at, index);
                }
                slot.transfers = left;
                return false;
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

    /// Leave everything to the ring.
    pub(crate) fn use_ring_only(&mut self) {
        self.direct.off = true;
    }

    /// Try what the ring does not allow; the host's answer.
    pub(crate) fn try_forbidden(&mut self) -> Option<i64> {
        self.ring.as_mut().map(Ring::try_forbidden)
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        self.rest();
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
