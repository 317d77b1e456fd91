//! A split virtqueue from the device's side.
//!
//! `virtio_queue` walks the guest's rings; this adds what several buffers in one packet need: they
//! are published together, and the interrupt decision covers all of them.

use super::chain::Buffers;
use crate::memory::GuestMemory;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Avail ring flag: the driver does not want interrupts.
const NO_INTERRUPT: u16 = 1;
const AVAIL_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// The driver broke the ring; nothing more can be taken from it before a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken virtqueue: {0}")]
pub struct BrokenRing(pub &'static str);

/// A buffer to give back: head of its chain, and how many bytes were written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Index of the chain's first descriptor.
    pub head: u16,
    /// Bytes written.
    pub len: u32,
}

/// A queue in operation.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    memory: GuestMemory,
    /// Used index when the driver was last interrupted, or last found not to want it.
    signalled: u16,
}

impl Ring {
    /// Takes over a queue the driver has set up.
    ///
    /// # Errors
    /// If its rings are not in guest memory.
    pub fn new(queue: Queue, memory: GuestMemory) -> Result<Self, BrokenRing> {
        if !queue.is_valid(&memory) {
            return Err(BrokenRing("its addresses are outside guest memory"));
        }
        let signalled = queue.next_used();
        Ok(Self { queue, memory, signalled })
    }

    /// Entries the ring has.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Number, modulo 2^16, of the chain [`Self::pop`] gives next.
    pub fn position(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Number of the chain after the last one the driver claims to have made available.
    ///
    /// # Errors
    /// If the available ring cannot be read.
    pub fn available(&self) -> Result<u16, BrokenRing> {
        let index = self.queue.avail_idx(&self.memory, Ordering::Acquire);
        index.map(|index| index.0).map_err(|_| BrokenRing("available ring is not readable"))
    }

    /// The next chain the driver made available, checked.
    ///
    /// # Errors
    /// If the driver claims more chains than there can be, or one is not sound.
    pub fn pop(&mut self) -> Result<Option<Buffers>, BrokenRing> {
        let size = self.queue.size();
        let mut available =
            self.queue.iter(&self.memory).map_err(|_| BrokenRing("impossible available index"))?;
        match available.next() {
            None => Ok(None),
            Some(chain) if chain.head_index() < size => {
                Buffers::collect(chain, &self.memory).map(Some)
            }
            Some(_) => Err(BrokenRing("descriptor head out of range")),
        }
    }

    /// Gives buffers back, all at once.
    ///
    /// # Errors
    /// If the used ring cannot be written.
    pub fn publish(&mut self, used: &[Used]) -> Result<(), BrokenRing> {
        let unwritable = |_| BrokenRing("used ring is not writable");
        let size = self.queue.size();
        let mut next = self.queue.next_used();
        for &Used { head, len } in used {
            let offset = USED_HEADER + USED_ELEMENT * u64::from(next % size);
            let place = GuestAddress(self.queue.used_ring() + offset);
            let element = u64::from(len) << 32 | u64::from(head);
            self.memory.write_obj(element.to_le(), place).map_err(unwritable)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        let index = GuestAddress(self.queue.used_ring() + 2);
        self.memory.store(next.to_le(), index, Ordering::Release).map_err(unwritable)
    }

    /// Whether the driver wants to be interrupted for what was published since the last call.
    ///
    /// # Errors
    /// If the available ring cannot be read.
    pub fn should_interrupt(&mut self) -> Result<bool, BrokenRing> {
        let unreadable = |_| BrokenRing("available ring is not readable");
        // What was published must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.signalled, new);
        if new == old {
            return Ok(false);
        }
        let avail = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let offset = AVAIL_HEADER + AVAIL_ELEMENT * u64::from(self.queue.size());
            let wish = self
                .memory
                .load::<u16>(GuestAddress(avail + offset), Ordering::Relaxed)
                .map_err(unreadable)?;
            let event = u16::from_le(wish);
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        let flags =
            self.memory.load::<u16>(GuestAddress(avail), Ordering::Relaxed).map_err(unreadable)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the driver not to ring the doorbell.
    pub fn disable_doorbell(&mut self) {
        // The rings were found in memory, and a doorbell too many does no harm.
        let _ = self.queue.disable_notification(&self.memory);
    }

    /// Asks the driver to ring the doorbell for the next buffer. Returns whether there is one
    /// already, for which it will not ring.
    ///
    /// # Errors
    /// If the rings cannot be accessed.
    pub fn enable_doorbell(&mut self) -> Result<bool, BrokenRing> {
        self.queue.enable_notification(&self.memory).map_err(|_| BrokenRing("rings not accessible"))
    }
}
