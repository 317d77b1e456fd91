//! The serial console's other end: a persistent log, one attached client, and stdio.
//!
//! The UART only appends to a buffer in memory. A thread moves the buffer to the log and to
//! whoever is attached, so a guest waits for the log's disk at most, and never for a client.

mod client;
mod log;
mod terminal;
#[cfg(test)]
mod tests;
mod thread;

pub use log::ConsoleLog;
pub use terminal::RawTerminal;
pub use thread::{Console, ConsoleThread};

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Output that may wait for the log before the guest does.
const BUFFER_LIMIT: usize = 64 << 10;
/// A guest waits this long for a full buffer to drain before its output is lost.
const BUFFER_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Shared {
    buffer: Mutex<VecDeque<u8>>,
    drained: Condvar,
    wake: EventFd,
    closing: AtomicBool,
}

/// What the guest has written and nobody has taken yet. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Output {
    shared: Arc<Shared>,
}

impl Output {
    /// An empty buffer.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn new() -> io::Result<Self> {
        let shared = Shared {
            buffer: Mutex::default(),
            drained: Condvar::new(),
            wake: EventFd::new(EFD_NONBLOCK)?,
            closing: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> VecDeque<u8> {
        // A full counter is as good as one: the wake-up is pending either way.
        let _ = self.shared.wake.read();
        let taken = mem::take(&mut *self.lock());
        self.shared.drained.notify_all();
        taken
    }

    fn wake(&self) {
        let _ = self.shared.wake.write(1);
    }

    /// The guest has read all that was typed.
    pub(crate) fn input_drained(&self) {
        self.wake();
    }

    fn closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.wake();
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.lock();
        if buffer.len() >= BUFFER_LIMIT {
            let full = |buffer: &mut VecDeque<u8>| buffer.len() >= BUFFER_LIMIT;
            (buffer, _) = self
                .shared
                .drained
                .wait_timeout_while(buffer, BUFFER_WAIT, full)
                .unwrap_or_else(PoisonError::into_inner);
            if buffer.len() >= BUFFER_LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let was_empty = buffer.is_empty();
        buffer.extend(bytes);
        drop(buffer);
        if was_empty {
            self.wake();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
