//! The image format crate as a disk's backend.

use super::backend::{Backend, BackendQueue, Operation, Outcome, Submission};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
};

/// An opened chain of image layers.
pub struct ImageBackend {
    /// The chain.
    pub image: Arc<qcow2::Image>,
    /// Where its queues' rings come from.
    pub rings: Rings,
}

/// Where a queue gets an io_uring.
#[derive(Clone, Debug)]
pub enum Rings {
    /// One is made: before the jail has closed.
    New,
    /// The pool's, and one is made if it has none left: before the jail has closed.
    Pooled(Arc<qcow2::RingPool>),
    /// Only the pool's: nothing else is allowed any more.
    OnlyPooled(Arc<qcow2::RingPool>),
}

struct ImageQueue(qcow2::IoQueue);

// SAFETY: what keeps the queue from being `Send` is the pointers of requests under way. They lead
// to guest memory, which is mapped for all threads alike; nothing in the queue belongs to a thread.
unsafe impl Send for ImageQueue {}

fn host(error: qcow2::Error) -> io::Error {
    io::Error::other(error)
}

impl Backend for ImageBackend {
    fn size(&self) -> u64 {
        self.image.virtual_size()
    }

    fn queue(&self, depth: u32) -> io::Result<Box<dyn BackendQueue>> {
        let queue = match &self.rings {
            Rings::OnlyPooled(pool) => self.image.io_queue_from(pool, depth),
            Rings::Pooled(pool) if pool.spare() > 0 => self.image.io_queue_from(pool, depth),
            Rings::Pooled(_) | Rings::New => self.image.io_queue(depth),
        };
        Ok(Box::new(ImageQueue(queue.map_err(host)?)))
    }
}

impl BackendQueue for ImageQueue {
    unsafe fn push(&mut self, submission: Submission) -> bool {
        let Submission { operation, offset, len, data, tag } = submission;
        let op = match operation {
            Operation::Read => qcow2::Op::Read,
            Operation::Write => qcow2::Op::Write,
            Operation::Flush => qcow2::Op::Flush,
            Operation::Discard => qcow2::Op::Discard,
            Operation::WriteZeroes { unmap } => qcow2::Op::WriteZeroes { unmap },
        };
        let request = qcow2::Request { op, offset, len, iovecs: data.into_iovecs(), tag };
        // SAFETY: the caller keeps the memory mapped until completion.
        unsafe { self.0.push(request) }.is_ok()
    }

    fn watch(&mut self) {
        self.0.watch();
    }

    fn rest(&mut self) -> bool {
        self.0.rest()
    }

    fn clear_event(&mut self) {
        self.0.clear_event();
    }

    fn has_completions(&mut self) -> bool {
        self.0.has_completions()
    }

    fn submit(&mut self) -> io::Result<()> {
        self.0.submit().map_err(host)
    }

    fn event(&self) -> RawFd {
        self.0.event_fd().as_fd().as_raw_fd()
    }

    fn pop(&mut self) -> Option<(u64, Outcome)> {
        let completion = self.0.pop()?;
        let outcome = match completion.result {
            Ok(()) => Outcome::Done,
            Err(error) if matches!(error.errno(), libc::ENOSPC | libc::EDQUOT) => {
                Outcome::NoRoom(error.to_string())
            }
            Err(error) => Outcome::Failed(error.to_string()),
        };
        Some((completion.tag, outcome))
    }
}
