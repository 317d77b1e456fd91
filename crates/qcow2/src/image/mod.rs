//! An open disk and the requests it takes.

mod below;
pub(crate) mod chain;
mod extents;
mod gate;
mod grow;
mod open;
mod switch;
mod walk;

use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use libc::iovec;
use smallvec::smallvec;

use crate::error::Error;
use crate::queue::{IoQueue, RingPool};
use crate::request::iovec::Iovecs;
use crate::request::locks::Wake;
use crate::request::{Job, Step};
pub(crate) use chain::{Chain, Kind, LayerState};
pub use extents::Extent;
use gate::Gate;
pub use switch::Switched;
pub(crate) use walk::Piece;

/// How the bytes of a layer's file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The file is the disk, byte for byte.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

/// One file of a backing chain.
#[derive(Debug)]
pub struct Layer {
    /// The open file; writable for the top layer of a writable image.
    pub file: File,
    /// Its format, as the caller knows it; never guessed from the content.
    pub format: Format,
}

/// How to open an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Never write to any layer, not even to the header.
    pub read_only: bool,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the iovecs from the disk.
    Read,
    /// Write the iovecs to the disk.
    Write,
    /// Make every write completed so far, on any queue, durable.
    Flush,
    /// The guest no longer needs this range. Whole clusters of it may be given back to the host
    /// and then read as zeroes; the rest, and all of it where the format cannot say so, stays.
    Discard,
    /// The range shall read as zeroes.
    WriteZeroes {
        /// The space may be given back to the host.
        unmap: bool,
    },
}

/// An open disk: a chain of layers seen as one. Shared by all queues.
///
/// The blocking calls wait for requests on the same clusters in queues, so a thread must not make
/// one while its own queue has requests in flight. Files are opened without `O_DIRECT`, and by one
/// writer at a time: the caller sees to that.
///
/// Dropping the last reference flushes. A process killed before that leaves at worst clusters that
/// are counted but unused; [`repair`](crate::repair) gives those back.
pub struct Image {
    pub(crate) gate: Gate,
    size: AtomicU64,
    read_only: bool,
    /// Held while the size or the chain changes.
    changing: Mutex<()>,
    /// Set when plain calls are to be used even where io_uring exists.
    pub(crate) no_ring: AtomicBool,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("virtual_size", &self.virtual_size())
            .field("layers", &self.chain().layers.len())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Size of the disk in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Was the image opened read-only?
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Space the top layer takes on the host, in bytes.
    ///
    /// # Errors
    /// The host's error from `fstat`.
    pub fn allocated_bytes(&self) -> Result<u64, Error> {
        self.chain().file(0).allocated().map_err(|e| Error::io("find the space the image takes", e))
    }

    /// Fill `buf` from `offset` bytes into the disk.
    ///
    /// # Errors
    /// A range outside the disk, broken metadata or compressed data, or the host's I/O error.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let target = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        self.run(Op::Read, offset, buf.len() as u64, smallvec![target])
    }

    /// Write `buf` at `offset` bytes into the disk.
    ///
    /// # Errors
    /// A range outside the disk, a read-only or broken image, or the host's I/O error; the
    /// content of the range is then old, new or mixed, as on a physical disk.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let source = iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        self.run(Op::Write, offset, buf.len() as u64, smallvec![source])
    }

    /// Make every write completed so far, on any queue, durable.
    ///
    /// # Errors
    /// The host's I/O error. After a failed sync the image takes no more writes.
    pub fn flush(&self) -> Result<(), Error> {
        self.run(Op::Flush, 0, 0, Iovecs::new())
    }

    /// Give whole clusters in `[offset, offset + len)` back to the host where the format allows.
    ///
    /// # Errors
    /// A range outside the disk, a read-only or broken image, or the host's I/O error.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.run(Op::Discard, offset, len, Iovecs::new())
    }

    /// Make `[offset, offset + len)` read as zeroes; with `unmap`, give space back to the host.
    ///
    /// # Errors
    /// A range outside the disk, a read-only or broken image, or the host's I/O error.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.run(Op::WriteZeroes { unmap }, offset, len, Iovecs::new())
    }

    /// A queue for one thread, with room for `depth` requests. Uses io_uring when the host has it
    /// and this process may, and plain calls otherwise.
    ///
    /// # Errors
    /// The host's error from creating an eventfd.
    pub fn io_queue(self: &Arc<Self>, depth: u32) -> Result<IoQueue, Error> {
        IoQueue::new(Arc::clone(self), depth)
    }

    /// Like [`io_queue`](Self::io_queue), with a ring of `pool`, and with plain calls if there is
    /// none left: a process that must not make a ring is not made to try.
    ///
    /// # Errors
    /// The host's error from creating an eventfd.
    pub fn io_queue_from(
        self: &Arc<Self>,
        pool: &Arc<RingPool>,
        depth: u32,
    ) -> Result<IoQueue, Error> {
        IoQueue::from_pool(Arc::clone(self), depth, pool)
    }

    /// The present chain.
    pub(crate) fn chain(&self) -> Arc<Chain> {
        self.gate.chain()
    }

    fn run(&self, op: Op, offset: u64, len: u64, iovecs: Iovecs) -> Result<(), Error> {
        let waiter = Arc::new(ThreadWaiter::default());
        let wake: Arc<dyn Wake> = waiter.clone();
        self.run_job(Job::new(op, offset, len, iovecs, wake, 0), &waiter)
    }

    /// Carry a job out on this thread.
    fn run_job(&self, mut job: Job, waiter: &ThreadWaiter) -> Result<(), Error> {
        let mut result = Ok(());
        loop {
            match job.step(self, std::mem::replace(&mut result, Ok(()))) {
                Step::Transfer(transfers) => {
                    let Some(chain) = job.chain() else { continue };
                    for mut transfer in transfers {
                        result = result.and(transfer.run(chain));
                    }
                }
                Step::Wait => waiter.wait(),
                Step::Done(result) => return result,
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let chain = self.chain();
        if self.read_only || !matches!(chain.top().kind, Kind::Qcow2 { .. }) {
            return;
        }
        if let Ok(mut metadata) = chain.metadata(0)
            && metadata.is_dirty()
        {
            // Nobody is left to tell; whoever needs durability has called `flush`.
            let _ = metadata.flush_all();
        }
    }
}

/// Parks a thread until the lock its request waits for is granted.
#[derive(Debug, Default)]
struct ThreadWaiter {
    granted: Mutex<bool>,
    condition: Condvar,
}

impl ThreadWaiter {
    fn wait(&self) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        while !*granted {
            granted = self.condition.wait(granted).unwrap_or_else(PoisonError::into_inner);
        }
        *granted = false;
    }
}

impl Wake for ThreadWaiter {
    fn wake(&self, _token: u64) {
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.condition.notify_one();
    }
}
