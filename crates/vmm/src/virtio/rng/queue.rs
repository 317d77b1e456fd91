//! The request queue: every buffer is filled with random bytes.

use crate::virtio::{
    chain::Pieces,
    device::Activation,
    interrupt::QueueInterrupt,
    ring::{BrokenRing, Ring, Used},
    worker::{Handler, Progress},
};
use std::os::fd::RawFd;

/// Bytes for one request at most; a guest that wants more asks again.
const MAX_REQUEST: usize = 4096;
/// Requests served before others of the process get their turn.
const BATCH: usize = 16;

/// Serves the queue.
#[derive(Debug, Default)]
pub struct RngQueue {
    active: Option<(Ring, QueueInterrupt)>,
}

/// Fills the front of `pieces` with random bytes. Returns how many.
pub fn fill(pieces: &Pieces) -> usize {
    let mut bytes = [0u8; MAX_REQUEST];
    let wanted = usize::try_from(pieces.len()).unwrap_or(MAX_REQUEST).min(MAX_REQUEST);
    // SAFETY: the buffer is writable and at least `wanted` bytes long.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), wanted, 0) };
    // Only an interruption by a signal before any byte fails; the driver then gets none this time.
    pieces.write(&bytes[..usize::try_from(got).unwrap_or(0)])
}

impl Handler for RngQueue {
    fn sources(&self) -> Vec<(RawFd, bool)> {
        Vec::new()
    }

    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing> {
        if let Some(queue) = activation.queues.into_iter().next() {
            self.active = Some((Ring::new(queue.queue, activation.memory)?, queue.interrupt));
        }
        Ok(())
    }

    fn doorbell(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        let Some((ring, interrupt)) = &mut self.active else { return Ok(Progress::Idle) };
        let mut used = Vec::with_capacity(BATCH);
        while used.len() < BATCH
            && let Some(buffers) = ring.pop()?
        {
            used.push(Used { head: buffers.head, len: fill(&buffers.writable) as u32 });
        }
        if !used.is_empty() {
            ring.publish(&used)?;
            if ring.should_interrupt()? {
                interrupt.signal();
            }
        }
        Ok(if used.len() == BATCH || ring.enable_doorbell()? {
            Progress::More
        } else {
            Progress::Idle
        })
    }

    fn ready(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        Ok(Progress::Idle)
    }

    fn stop(&mut self) {
        self.active = None;
    }
}
