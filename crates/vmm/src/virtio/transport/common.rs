//! The common configuration registers: features, status, queue set-up.

use crate::virtio::{
    device::{F_EVENT_IDX, F_VERSION_1},
    interrupt::{InterruptLines, STATUS_NEEDS_RESET},
};
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};

/// Device status bits.
pub const STATUS_DRIVER_OK: u8 = 4;
pub const STATUS_FEATURES_OK: u8 = 8;

/// What the transport has to do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The driver is ready.
    Activate,
    /// The driver starts over.
    Reset,
    /// The driver gave a queue another vector.
    QueueVector(usize),
}

/// One queue as the driver sets it up.
#[derive(Clone, Copy, Debug)]
struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    desc: u64,
    avail: u64,
    used: u64,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, desc: 0, avail: 0, used: 0 }
    }
}

/// The registers.
#[derive(Debug)]
pub struct CommonConfig {
    lines: Arc<InterruptLines>,
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl CommonConfig {
    /// The state after a reset.
    pub fn new(lines: Arc<InterruptLines>, offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            lines,
            offered,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|&size| QueueSetup::new(size)).collect(),
        }
    }

    /// Back to the state after a reset.
    pub fn reset(&mut self) {
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(Arc::clone(&self.lines), self.offered, &sizes);
        self.lines.reset();
    }

    /// The agreed features.
    pub fn features(&self) -> u64 {
        self.accepted
    }

    /// The queues the driver enabled, with their numbers.
    pub fn enabled_queues(&self) -> Vec<(usize, Queue)> {
        let queues = self.queues.iter().enumerate().filter(|(_, setup)| setup.enabled);
        queues.filter_map(|(index, setup)| Some((index, self.queue(setup)?))).collect()
    }

    fn queue(&self, setup: &QueueSetup) -> Option<Queue> {
        let mut queue = Queue::new(setup.max_size).ok()?;
        let halves = |value: u64| (Some(value as u32), Some((value >> 32) as u32));
        queue.set_size(setup.size);
        let (low, high) = halves(setup.desc);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(setup.avail);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(setup.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(self.accepted & F_EVENT_IDX != 0);
        queue.set_ready(true);
        // A refused size or address means that the driver asked for an impossible queue.
        let as_asked = queue.size() == setup.size
            && queue.desc_table() == setup.desc
            && queue.avail_ring() == setup.avail
            && queue.used_ring() == setup.used;
        as_asked.then_some(queue)
    }

    /// Whether every enabled queue is one that can exist.
    pub fn queues_possible(&self) -> bool {
        self.queues.iter().filter(|setup| setup.enabled).all(|setup| self.queue(setup).is_some())
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Value and width of the register that starts at `offset`.
    fn register(&self, offset: u64) -> Option<(u64, usize)> {
        let queue = self.selected();
        let word = |value: u64, select: u32| match select {
            0 => value & 0xffff_ffff,
            1 => value >> 32,
            _ => 0,
        };
        let of = |field: fn(&QueueSetup) -> u64| queue.map_or(0, field);
        let select = usize::from(self.queue_select);
        Some(match offset {
            0x00 => (u64::from(self.device_feature_select), 4),
            0x04 => (word(self.offered, self.device_feature_select), 4),
            0x08 => (u64::from(self.driver_feature_select), 4),
            0x0c => (word(self.accepted, self.driver_feature_select), 4),
            0x10 => (u64::from(self.lines.config_vector()), 2),
            0x12 => (self.queues.len() as u64, 2),
            0x14 => (u64::from(self.lines.status()), 1),
            0x15 => (u64::from(self.lines.generation()), 1),
            0x16 => (u64::from(self.queue_select), 2),
            0x18 => (of(|queue| u64::from(queue.size)), 2),
            0x1a => (u64::from(self.lines.queue_vector(select)), 2),
            0x1c => (of(|queue| u64::from(queue.enabled)), 2),
            // Doorbells are one stride apart, so a queue's offset is its number.
            0x1e => (queue.map_or(0, |_| u64::from(self.queue_select)), 2),
            0x20 => (of(|queue| queue.desc & 0xffff_ffff), 4),
            0x24 => (of(|queue| queue.desc >> 32), 4),
            0x28 => (of(|queue| queue.avail & 0xffff_ffff), 4),
            0x2c => (of(|queue| queue.avail >> 32), 4),
            0x30 => (of(|queue| queue.used & 0xffff_ffff), 4),
            0x34 => (of(|queue| queue.used >> 32), 4),
            _ => return None,
        })
    }

    /// A driver's read of any width and place.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            // The register a byte belongs to starts at most three bytes before it.
            *byte = (at.saturating_sub(3)..=at)
                .rev()
                .find_map(|start| self.register(start).map(|found| (start, found)))
                .filter(|&(start, (_, width))| at - start < width as u64)
                .map_or(0, |(start, (value, _))| (value >> (8 * (at - start))) as u8);
        }
    }

    /// A driver's write. Registers are written whole; 64-bit addresses in one piece or in halves.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data.len()) {
            (0x20 | 0x28 | 0x30, 8) => {
                self.write_register(offset, le(&data[..4]));
                self.write_register(offset + 4, le(&data[4..]))
            }
            _ => match self.register(offset) {
                Some((_, width)) if width == data.len() => self.write_register(offset, le(data)),
                _ => Effect::None,
            },
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) -> Effect {
        let status = self.lines.status();
        match offset {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            0x0c => self.accept(value),
            0x10 => self.lines.set_config_vector(value as u16),
            0x14 => return self.write_status(value as u8),
            0x16 => self.queue_select = value as u16,
            0x1a => {
                let queue = usize::from(self.queue_select);
                self.lines.set_queue_vector(queue, value as u16);
                return Effect::QueueVector(queue);
            }
            // Once the driver runs, its queues stay as they are.
            _ if status & STATUS_DRIVER_OK != 0 => {}
            _ => self.write_queue(offset, value),
        }
        Effect::None
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x18 => queue.size = value as u16,
            0x1c => queue.enabled |= value == 1,
            0x20 => queue.desc = low(queue.desc),
            0x24 => queue.desc = high(queue.desc),
            0x28 => queue.avail = low(queue.avail),
            0x2c => queue.avail = high(queue.avail),
            0x30 => queue.used = low(queue.used),
            0x34 => queue.used = high(queue.used),
            _ => {}
        }
    }

    fn accept(&mut self, value: u32) {
        if self.lines.status() & STATUS_FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | value,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    fn write_status(&mut self, status: u8) -> Effect {
        if status == 0 {
            return Effect::Reset;
        }
        let before = self.lines.status();
        let mut status = status & !STATUS_NEEDS_RESET;
        let agreeable = self.accepted & !self.offered == 0 && self.accepted & F_VERSION_1 != 0;
        if before & STATUS_FEATURES_OK == 0 && !agreeable {
            status &= !(STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        }
        // Bits are only ever added; taking them back is what reset is for.
        self.lines.set_status(before | status);
        let ready = STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        let now = before | status;
        if now & ready == ready && before & STATUS_DRIVER_OK == 0 {
            Effect::Activate
        } else {
            Effect::None
        }
    }
}

fn le(data: &[u8]) -> u32 {
    data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
