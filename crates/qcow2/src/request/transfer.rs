//! A transfer between memory and one layer's file, and its progress.

use std::io;

use libc::iovec;
use smallvec::SmallVec;

use super::iovec::{self as iov, Iovecs, MAX_IOVECS};
use crate::error::Error;
use crate::faults::{self, Call};
use crate::image::Chain;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
    Sync,
}

impl From<Direction> for Call {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Read => Self::Read,
            Direction::Write => Self::Write,
            Direction::Sync => Self::Sync,
        }
    }
}

/// What a step of a request asks for; mostly one.
pub(crate) type Transfers = SmallVec<[Transfer; 1]>;

/// One read, write or sync of a layer's file.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) direction: Direction,
    pub(crate) layer: usize,
    pub(crate) offset: u64,
    pub(crate) iovecs: Iovecs,
    /// The end of the file inside this transfer reads as zeroes; otherwise only inside a cluster.
    pub(crate) zero_past_end: bool,
}

// SAFETY: the pointers name guest memory or a job's buffers, which are valid wherever the job is (see
// `Job`); one thread at a time works on a transfer.
unsafe impl Send for Transfer {}

/// What a host call's result means for a transfer.
#[derive(Debug)]
pub(crate) enum Progress {
    Done,
    /// Issue it again: interrupted, or part of it is left.
    Again,
    Failed(Error),
}

impl Transfer {
    pub(crate) fn sync() -> Self {
        Self {
            direction: Direction::Sync,
            layer: 0,
            offset: 0,
            iovecs: Iovecs::new(),
            zero_past_end: false,
        }
    }

    /// The iovecs for the next host call.
    pub(crate) fn batch(&self) -> &[iovec] {
        &self.iovecs[..self.iovecs.len().min(MAX_IOVECS)]
    }

    /// Account for the result of a host call: bytes, or a negative errno.
    pub(crate) fn progress(&mut self, chain: &Chain, result: i64) -> Progress {
        let result = faults::result(self.direction.into(), result);
        if result < 0 {
            let error = io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO));
            if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
                return Progress::Again;
            }
            return Progress::Failed(self.error(error));
        }
        if self.direction == Direction::Sync {
            return Progress::Done;
        }
        if result == 0 {
            return self.at_end(chain);
        }
        self.offset += result as u64;
        iov::advance(&mut self.iovecs, usize::try_from(result).unwrap_or(usize::MAX));
        if self.iovecs.is_empty() { Progress::Done } else { Progress::Again }
    }

    /// The host transferred nothing: the file ends here.
    fn at_end(&mut self, chain: &Chain) -> Progress {
        if self.direction == Direction::Write {
            return Progress::Failed(self.error(io::ErrorKind::WriteZero.into()));
        }
        let is_cut = || {
            // Zeroes are nothing that was ever encrypted.
            chain.cipher(self.layer).is_some() || chain.is_truncated_at(self.layer, self.offset)
        };
        if !self.zero_past_end && is_cut() {
            return Progress::Failed(
                Error::invalid(
                    "data cluster",
                    format!("it lies at {:#x}, beyond the end of the file", self.offset),
                )
                .in_layer(self.layer),
            );
        }
        // SAFETY: a read transfer's iovecs name memory the request may write.
        unsafe { iov::fill_zero(&self.iovecs) };
        Progress::Done
    }

    fn error(&self, source: io::Error) -> Error {
        let error = match self.direction {
            Direction::Read => Error::io(format!("read data at {:#x}", self.offset), source),
            Direction::Write => Error::io(format!("write data at {:#x}", self.offset), source),
            Direction::Sync => Error::io("sync the image", source),
        };
        error.in_layer(self.layer)
    }

    /// Carry the transfer out with plain calls.
    pub(crate) fn run(&mut self, chain: &Chain) -> Result<(), Error> {
        loop {
            let result = self.call(chain);
            match self.progress(chain, result) {
                Progress::Done => return Ok(()),
                Progress::Again => {}
                Progress::Failed(error) => return Err(error),
            }
        }
    }

    /// Read what the host has in memory. None when the rest is not there, or the host cannot tell.
    pub(crate) fn read_cached(&mut self, chain: &Chain) -> Option<Result<(), Error>> {
        let fd = chain.file(self.layer).raw_fd()?;
        loop {
            let batch = self.batch();
            let (count, offset) = (batch.len() as libc::c_int, self.offset as libc::off_t);
            // SAFETY: the iovecs name memory that may be written for this request (see `Job`), and
            // the descriptor is open as long as the chain.
            let result =
                unsafe { libc::preadv2(fd, batch.as_ptr(), count, offset, libc::RWF_NOWAIT) };
            if result < 0 {
                return None;
            }
            match self.progress(chain, result as i64) {
                Progress::Done => return Some(Ok(())),
                Progress::Again => {}
                Progress::Failed(error) => return Some(Err(error)),
            }
        }
    }

    fn call(&self, chain: &Chain) -> i64 {
        let file = chain.file(self.layer);
        if self.direction == Direction::Sync {
            return file.sync().map_or_else(|e| errno(&e), |()| 0);
        }
        let batch = self.batch();
        let Some(fd) = file.raw_fd() else { return self.call_slices(chain) };
        let (count, offset) = (batch.len() as libc::c_int, self.offset as libc::off_t);
        // SAFETY: the iovecs name memory that is valid for this request (see `Job`), and the
        // descriptor is open as long as the chain.
        let result = unsafe {
            match self.direction {
                Direction::Read => libc::preadv(fd, batch.as_ptr(), count, offset),
                _ => libc::pwritev(fd, batch.as_ptr(), count, offset),
            }
        };
        if result < 0 { errno(&io::Error::last_os_error()) } else { result as i64 }
    }

    /// For storage without a descriptor: the first iovec alone.
    fn call_slices(&self, chain: &Chain) -> i64 {
        let file = chain.file(self.layer);
        let Some(first) = self.iovecs.first() else { return 0 };
        let base = first.iov_base.cast::<u8>();
        if self.direction == Direction::Write {
            // SAFETY: the iovec names readable memory, valid for this request.
            let bytes = unsafe { std::slice::from_raw_parts(base, first.iov_len) };
            return file
                .write_at(bytes, self.offset)
                .map_or_else(|e| errno(&e), |()| bytes.len() as i64);
        }
        // SAFETY: the iovec names writable memory, valid for this request.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base, first.iov_len) };
        file.read_at(bytes, self.offset).map_or_else(|e| errno(&e), |n| n as i64)
    }
}

fn errno(error: &io::Error) -> i64 {
    -i64::from(error.raw_os_error().unwrap_or(libc::EIO))
}
