//! The data path in this process: one thread for each pair of queues.

use super::{
    config::{
        ETHERNET_LEN, F_GUEST_TSO4, F_GUEST_TSO6, F_MRG_RXBUF, HEADER_LEN, LARGEST_PACKET,
        NUM_BUFFERS_OFFSET,
    },
    stats::Counters,
    tap::Tap,
};
use crate::virtio::{
    chain::{Buffers, MAX_PIECES, Pieces},
    device::Activation,
    interrupt::QueueInterrupt,
    ring::{BrokenRing, Ring, Used},
    worker::{Handler, Progress},
};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

/// Packets moved one way before the other way gets its turn.
const BATCH: usize = 64;
const RECEIVE: usize = 0;

#[derive(Debug)]
struct Direction {
    ring: Ring,
    interrupt: QueueInterrupt,
    used: Vec<Used>,
}

impl Direction {
    /// Gives the driver what is in `used`.
    fn publish(&mut self) -> Result<(), BrokenRing> {
        if !self.used.is_empty() {
            self.ring.publish(&self.used)?;
            self.used.clear();
            if self.ring.should_interrupt()? {
                self.interrupt.signal();
            }
        }
        Ok(())
    }
}

/// A buffer for received packets, taken from the driver and not used yet.
#[derive(Debug)]
struct Empty {
    head: u16,
    pieces: Pieces,
}

/// Buffers for received packets, in order.
#[derive(Debug)]
pub struct Store {
    buffers: VecDeque<Empty>,
    bytes: u64,
    /// Whether a packet may be spread over several buffers.
    mergeable: bool,
    /// Bytes the largest packet takes.
    largest: u64,
}

impl Store {
    /// An empty store for what driver and device agreed on.
    pub fn new(features: u64, mtu: u16) -> Self {
        let segmented = features & (F_GUEST_TSO4 | F_GUEST_TSO6) != 0;
        let packet = u64::from(mtu) + ETHERNET_LEN;
        Self {
            buffers: VecDeque::new(),
            bytes: 0,
            mergeable: features & F_MRG_RXBUF != 0,
            largest: HEADER_LEN as u64
                + if segmented { packet.max(LARGEST_PACKET) } else { packet },
        }
    }

    fn full(&self, ring_size: u16) -> bool {
        let enough =
            if self.mergeable { self.bytes >= self.largest } else { !self.buffers.is_empty() };
        enough || self.buffers.len() >= usize::from(ring_size)
    }

    /// Takes a buffer of the driver.
    ///
    /// # Errors
    /// If it has no room for a packet's header.
    pub fn add(&mut self, buffers: Buffers) -> Result<(), BrokenRing> {
        if buffers.writable.len() < HEADER_LEN as u64 {
            return Err(BrokenRing("a receive buffer is smaller than a packet header"));
        }
        self.bytes += buffers.writable.len();
        self.buffers.push_back(Empty { head: buffers.head, pieces: buffers.writable });
        Ok(())
    }

    /// The memory the next packet goes to.
    pub fn target(&self, target: &mut Vec<libc::iovec>) {
        target.clear();
        let buffers = if self.mergeable { self.buffers.len() } else { 1 };
        let mut bytes = 0;
        for buffer in self.buffers.iter().take(buffers) {
            let room = MAX_PIECES - target.len();
            target.extend(buffer.pieces.iovecs().iter().take(room));
            bytes += buffer.pieces.len();
            if bytes >= self.largest {
                break;
            }
        }
    }

    /// A packet of `len` bytes, its header included, is in the first buffers: completes the
    /// header, and adds the buffers to `used`.
    pub fn filled(&mut self, len: u64, used: &mut Vec<Used>) {
        let first = used.len();
        let mut left = len;
        let mut header: Option<Pieces> = None;
        while let Some(buffer) = self.buffers.pop_front() {
            let size = buffer.pieces.len();
            let here = left.min(size);
            self.bytes -= size;
            left -= here;
            used.push(Used { head: buffer.head, len: u32::try_from(here).unwrap_or(u32::MAX) });
            header.get_or_insert(buffer.pieces);
            if left == 0 {
                break;
            }
        }
        let count = (used.len() - first) as u16;
        if let Some(header) = header {
            header.write_at(NUM_BUFFERS_OFFSET, &count.to_le_bytes());
        }
    }
}

/// Serves a pair of queues.
pub struct PairQueue {
    /// None once it was taken away: what is sent is lost then.
    tap: Option<Arc<Tap>>,
    counters: Arc<Counters>,
    number: usize,
    mtu: u16,
    /// What driver and device agreed on, while there is a driver.
    features: Option<u64>,
    receive: Option<(Direction, Store)>,
    transmit: Option<Direction>,
    target: Vec<libc::iovec>,
}

// SAFETY: `target` is scratch space whose pointers are only used within one call, on pieces the
// store owns.
unsafe impl Send for PairQueue {}

impl PairQueue {
    /// The `number`th pair of an interface, without a driver.
    pub fn new(tap: Arc<Tap>, number: usize, counters: Arc<Counters>, mtu: u16) -> Self {
        let tap = Some(tap);
        Self {
            tap,
            counters,
            number,
            mtu,
            features: None,
            receive: None,
            transmit: None,
            target: Vec::new(),
        }
    }

    fn receive(&mut self) -> Result<Progress, BrokenRing> {
        let (Some(tap), Some((direction, store))) = (&self.tap, &mut self.receive) else {
            return Ok(Progress::Idle);
        };
        let (mut packets, mut bytes) = (0, 0);
        // New buffers are only news when there are none.
        direction.ring.disable_doorbell();
        let progress = loop {
            if !refill(direction, store)? {
                if direction.ring.enable_doorbell()? {
                    continue;
                }
                break Progress::Idle;
            }
            if packets == BATCH {
                break Progress::More;
            }
            store.target(&mut self.target);
            // SAFETY: the pieces are guest memory, mapped as long as the ring exists.
            match unsafe { tap.receive(&self.target) } {
                Ok(len) if len >= HEADER_LEN => {
                    store.filled(len as u64, &mut direction.used);
                    packets += 1;
                    bytes += (len - HEADER_LEN) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing there, or the interface is down: the tap tells when that changes.
                Ok(_) | Err(_) => break Progress::Idle,
            }
        };
        direction.publish()?;
        self.counters.received(packets as u64, bytes);
        Ok(progress)
    }

    fn transmit(&mut self) -> Result<Progress, BrokenRing> {
        let Some(direction) = &mut self.transmit else { return Ok(Progress::Idle) };
        let (mut packets, mut bytes) = (0, 0);
        direction.ring.disable_doorbell();
        while direction.used.len() < BATCH {
            let Some(buffers) = direction.ring.pop()? else { break };
            let len = buffers.readable.len();
            if let Some(tap) = &self.tap
                && len > HEADER_LEN as u64
                && len <= LARGEST_PACKET + HEADER_LEN as u64
            {
                // SAFETY: the pieces are guest memory, mapped as long as the ring exists. What the
                // host does not take is lost, as on any network.
                if unsafe { tap.send(buffers.readable.iovecs()) }.is_ok() {
                    packets += 1;
                    bytes += len - HEADER_LEN as u64;
                }
            }
            direction.used.push(Used { head: buffers.head, len: 0 });
        }
        let full = direction.used.len() == BATCH;
        direction.publish()?;
        self.counters.sent(packets, bytes);
        Ok(if full || direction.ring.enable_doorbell()? { Progress::More } else { Progress::Idle })
    }
}

/// Takes buffers until the largest packet fits. Returns whether it does.
fn refill(direction: &mut Direction, store: &mut Store) -> Result<bool, BrokenRing> {
    while !store.full(direction.ring.size()) {
        let Some(buffers) = direction.ring.pop()? else { return Ok(false) };
        store.add(buffers)?;
    }
    Ok(true)
}

impl Handler for PairQueue {
    fn sources(&self) -> Vec<(RawFd, bool)> {
        self.tap.iter().map(|tap| (tap.as_raw_fd(), true)).collect()
    }

    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing> {
        let Activation { memory, features, queues, .. } = activation;
        if let Some(tap) = self.tap.as_ref().filter(|_| self.number == 0) {
            tap.set_offload(features).map_err(|error| {
                crate::say::report(format_args!("tap offloads: {error}"));
                BrokenRing("the tap refuses the features agreed on")
            })?;
        }
        self.features = Some(features);
        let mut directions = Vec::new();
        for queue in queues {
            let ring = Ring::new(queue.queue, memory.clone())?;
            directions.push(Direction { ring, interrupt: queue.interrupt, used: Vec::new() });
        }
        let mut directions = directions.into_iter();
        let store = Store::new(features, self.mtu);
        self.receive = directions.next().map(|direction| (direction, store));
        self.transmit = directions.next();
        Ok(())
    }

    fn doorbell(&mut self, number: usize) -> Result<Progress, BrokenRing> {
        if number == RECEIVE { self.receive() } else { self.transmit() }
    }

    fn ready(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        self.receive()
    }

    fn abandon(&mut self) {
        self.tap = None;
    }

    fn renew(&mut self) -> io::Result<()> {
        match (&self.tap, self.features) {
            (Some(tap), Some(features)) if self.number == 0 => tap.set_offload(features),
            _ => Ok(()),
        }
    }

    fn stop(&mut self) {
        self.features = None;
        self.receive = None;
        self.transmit = None;
        if let Some(tap) = &self.tap {
            tap.start_over(self.number);
        }
    }
}
