//! One guest request as a state machine without I/O of its own: it says what to transfer, and an
//! executor does it and steps on. The same machine runs under io_uring and under plain calls.

mod clear;
mod flush;
pub(crate) mod iovec;
pub(crate) mod locks;
mod read;
mod transfer;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Error;
use crate::image::{Chain, Image, Kind, Op};
use crate::luks::SECTOR;
use clear::Part;
use flush::FlushState;
use iovec::Iovecs;
use locks::{LockId, Wake};
use read::Unpack;
pub(crate) use transfer::{Direction, Progress, Transfer, Transfers};
use write::WriteState;

/// What the executor does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Carry these out, in any order, then step on.
    Transfer(Transfers),
    /// Step on once the lock is granted (the waker is called).
    Wait,
    /// Finished.
    Done(Result<(), Error>),
}

/// A request under way. Buffers and iovecs stay where they are while transfers run.
#[derive(Debug)]
pub(crate) struct Job {
    op: Op,
    offset: u64,
    len: u64,
    iovecs: Iovecs,
    phase: Phase,
    chain: Option<Arc<Chain>>,
    /// Waits for the gate to open.
    held: bool,
    lock: Option<Lock>,
    /// The write under way, which is a part of the request for write-zeroes.
    current: (u64, u64),
    parts: VecDeque<Part>,
    buffers: Vec<Vec<u8>>,
    wake: Arc<dyn Wake>,
    token: u64,
    /// The range may lie beyond the end of the disk, which is about to grow.
    beyond_end: bool,
}

// SAFETY: the raw pointers inside iovecs name guest memory or the job's own buffers; the caller of
// `push` vouches that guest memory stays valid, and only one thread at a time works on a job.
unsafe impl Send for Job {}

#[derive(Debug)]
struct Lock {
    id: LockId,
    exclusive: bool,
}

#[derive(Debug)]
enum Phase {
    Start,
    ReadLocked,
    Reading(Vec<Unpack>),
    WriteLocked,
    Filling(WriteState),
    Writing(WriteState),
    RawTransfer,
    ClearLocked { first: u64, end: u64 },
    Flushing(FlushState),
    Finished,
}

impl Job {
    pub(crate) fn new(
        op: Op,
        offset: u64,
        len: u64,
        iovecs: Iovecs,
        wake: Arc<dyn Wake>,
        token: u64,
    ) -> Self {
        Self {
            op,
            offset,
            len,
            iovecs,
            phase: Phase::Start,
            chain: None,
            held: false,
            lock: None,
            current: (offset, len),
            parts: VecDeque::new(),
            buffers: Vec::new(),
            wake,
            token,
            beyond_end: false,
        }
    }

    /// Zeroes for a range a growing disk is about to take in.
    pub(crate) fn zeroes_beyond_end(offset: u64, len: u64, wake: Arc<dyn Wake>) -> Self {
        let op = Op::WriteZeroes { unmap: true };
        Self { beyond_end: true, ..Self::new(op, offset, len, Iovecs::new(), wake, 0) }
    }

    /// Go on as far as possible. `result` is that of the transfers the last step asked for.
    pub(crate) fn step(&mut self, image: &Image, result: Result<(), Error>) -> Step {
        let Some(chain) = self.enter(image) else { return Step::Wait };
        let step = self.advance(&chain, result).unwrap_or_else(|e| Step::Done(Err(e)));
        if matches!(step, Step::Done(_)) {
            self.unlock(&chain);
            self.phase = Phase::Finished;
            drop(chain);
            image.gate.leave();
        } else {
            self.chain = Some(chain);
        }
        step
    }

    /// The chain this request works on, while it is under way.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        self.chain.as_deref()
    }

    /// None when the request is held back, and steps on once it is let in.
    fn enter(&mut self, image: &Image) -> Option<Arc<Chain>> {
        if self.chain.is_some() {
            return self.chain.take();
        }
        if std::mem::take(&mut self.held) {
            return Some(image.gate.chain());
        }
        let chain = image.gate.enter(&self.wake, self.token);
        self.held = chain.is_none();
        chain
    }

    fn advance(&mut self, chain: &Chain, result: Result<(), Error>) -> Result<Step, Error> {
        match std::mem::replace(&mut self.phase, Phase::Finished) {
            Phase::Start => self.start(chain),
            Phase::ReadLocked => self.read(chain),
            Phase::Reading(unpacks) => {
                result?;
                self.unpack(chain, &unpacks)?;
                Ok(Step::Done(Ok(())))
            }
            Phase::WriteLocked => self.write(chain),
            Phase::Filling(state) => self.filled(chain, state, result),
            Phase::Writing(state) => self.written(chain, state, result),
            Phase::RawTransfer => {
                result?;
                self.next_part(chain)
            }
            Phase::ClearLocked { first, end } => self.clear(chain, first, end),
            Phase::Flushing(state) => self.flush_on(chain, state, result),
            Phase::Finished => Ok(Step::Done(Ok(()))),
        }
    }

    fn start(&mut self, chain: &Chain) -> Result<Step, Error> {
        let size = chain.size();
        let inside = self.offset.checked_add(self.len).is_some_and(|end| end <= size);
        if self.op != Op::Flush && !inside && !self.beyond_end {
            return Err(Error::OutOfRange { offset: self.offset, len: self.len, size });
        }
        if matches!(self.op, Op::Read | Op::Write) && iovec::total(&self.iovecs) != Some(self.len) {
            return Err(Error::InvalidArgument(format!(
                "the iovecs of a request of {} bytes have another length",
                self.len
            )));
        }
        if !matches!(self.op, Op::Read | Op::Flush) && chain.is_read_only() {
            return Err(Error::ReadOnly);
        }
        if chain.is_encrypted {
            self.check_sectors(chain)?;
        }
        if self.len == 0 && self.op != Op::Flush {
            return Ok(Step::Done(Ok(())));
        }
        match self.op {
            Op::Read => {
                if self.lock_range(chain, false) {
                    self.read(chain)
                } else {
                    self.wait(Phase::ReadLocked)
                }
            }
            Op::Write => self.start_write(chain),
            Op::Discard | Op::WriteZeroes { .. } => {
                self.plan_parts(chain);
                self.next_part(chain)
            }
            Op::Flush => self.flush(chain),
        }
    }

    /// A part of a sector cannot be encrypted.
    fn check_sectors(&self, chain: &Chain) -> Result<(), Error> {
        let whole = (self.offset | self.len).is_multiple_of(SECTOR);
        if whole || chain.cipher(0).is_none() || matches!(self.op, Op::Read | Op::Flush) {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "an encrypted disk is written in whole sectors of {SECTOR} bytes, not {} bytes at {}",
            self.len, self.offset
        )))
    }

    fn wait(&mut self, then: Phase) -> Result<Step, Error> {
        self.phase = then;
        Ok(Step::Wait)
    }

    /// Lock the clusters of the current range; true when granted at once.
    fn lock_range(&mut self, chain: &Chain, exclusive: bool) -> bool {
        let Kind::Qcow2 { geometry, .. } = &chain.top().kind else { return true };
        let (offset, len) = self.current;
        let bits = geometry.cluster_bits;
        let (start, end) = (offset >> bits, ((offset + len - 1) >> bits) + 1);
        self.lock_clusters(chain, start, end, exclusive)
    }

    fn lock_clusters(&mut self, chain: &Chain, start: u64, end: u64, exclusive: bool) -> bool {
        let (id, granted) = chain.locks.acquire(start, end, exclusive, &self.wake, self.token);
        self.lock = Some(Lock { id, exclusive });
        granted
    }

    fn unlock(&mut self, chain: &Chain) {
        if let Some(lock) = self.lock.take() {
            chain.locks.release(lock.id);
        }
    }
}
