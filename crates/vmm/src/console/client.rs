//! The client attached to the console's socket.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// A client that is this far behind is let go.
const BACKLOG_LIMIT: usize = 256 << 10;

pub(super) struct Client {
    stream: UnixStream,
    backlog: VecDeque<u8>,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, backlog: VecDeque::new() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Queues `output`; `false` if the client is too far behind to be kept.
    pub(super) fn push(&mut self, output: &VecDeque<u8>) -> bool {
        self.backlog.extend(output);
        self.send() && self.backlog.len() <= BACKLOG_LIMIT
    }

    /// Sends what the client takes; `false` if it is gone.
    pub(super) fn send(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match self.stream.write(self.backlog.as_slices().0) {
                Ok(0) => return false,
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads what the client types; `None` if it is gone.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(0) => None,
            Ok(len) => Some(len),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Some(0)
            }
            Err(_) => None,
        }
    }
}
