//! Where a disk's bytes come from.

use crate::virtio::chain::Pieces;
use std::{io, os::fd::RawFd};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill memory from the disk.
    Read,
    /// Take memory to the disk.
    Write,
    /// Make what was written last.
    Flush,
    /// The range's content is not needed any more.
    Discard,
    /// The range reads as zeroes.
    WriteZeroes {
        /// Whether its space may be given back.
        unmap: bool,
    },
}

/// One request of a queue.
#[derive(Debug)]
pub struct Submission {
    /// What to do.
    pub operation: Operation,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Memory to fill or take; as many bytes as `len` for reads and writes.
    pub data: Pieces,
    /// Comes back with the completion.
    pub tag: u64,
}

impl Submission {
    /// Makes what was written last.
    pub fn flush() -> Self {
        Self { operation: Operation::Flush, offset: 0, len: 0, data: Pieces::default(), tag: 0 }
    }

    /// The same once more, for what may find no room on the host.
    pub fn again(&self) -> Option<Self> {
        let Self { operation, offset, len, ref data, tag } = *self;
        (operation != Operation::Read).then(|| {
            let data = data.duplicate();
            Self { operation, offset, len, data, tag }
        })
    }
}

/// A disk.
pub trait Backend: Send + Sync {
    /// Bytes the guest sees.
    fn size(&self) -> u64;
    /// A queue of its own for at most `depth` requests at a time.
    ///
    /// # Errors
    /// If the host refuses.
    fn queue(&self, depth: u32) -> io::Result<Box<dyn BackendQueue>>;
}

/// Asynchronous requests of one thread.
pub trait BackendQueue: Send {
    /// Accepts a request. Refuses, and returns false, only when `depth` are under way.
    ///
    /// # Safety
    /// The memory of `data` must stay mapped until the request's completion was popped.
    unsafe fn push(&mut self, submission: Submission) -> bool;
    /// From now on the caller looks for completions by itself, with `has_completions`, until it rests:
    /// `event` need not tell of them.
    fn watch(&mut self) {}
    /// From now on `event` tells of completions. True if there is something to pop already.
    fn rest(&mut self) -> bool {
        self.has_completions()
    }
    /// Makes `event` unreadable, before completions are popped that it told of.
    fn clear_event(&mut self) {}
    /// Whether `pop` has something to give, as far as that is known without asking the host.
    fn has_completions(&mut self) -> bool {
        false
    }
    /// Starts what was accepted.
    ///
    /// # Errors
    /// If the host refuses; the requests are still under way then.
    fn submit(&mut self) -> io::Result<()>;
    /// Readable while there are completions.
    fn event(&self) -> RawFd;
    /// The next completion: its tag, and how it went.
    fn pop(&mut self) -> Option<(u64, Outcome)>;
}

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The host has no room for it now; nothing speaks against trying again.
    NoRoom(String),
    /// It failed, and the host said so.
    Failed(String),
}
