//! From a device to its driver: queue interrupts, configuration changes, the status register.

use crate::pci::{MsiVector, PciError};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
};
use vmm_sys_util::eventfd::EventFd;

/// "No vector", as drivers write it.
pub const NO_VECTOR: u16 = 0xffff;
/// Interrupt status: a queue has been used.
const ISR_QUEUE: u8 = 1;
/// Interrupt status: the device's configuration or its need of a reset changed.
const ISR_CONFIG: u8 = 2;
/// Device status: the device is broken until the driver resets it.
pub const STATUS_NEEDS_RESET: u8 = 0x40;

/// The interrupts of one device.
#[derive(Debug)]
pub struct InterruptLines {
    vectors: Vec<Arc<MsiVector>>,
    unheard: EventFd,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    isr: AtomicU8,
    status: AtomicU8,
    generation: AtomicU8,
}

impl InterruptLines {
    /// Lines for a device with `queues` queues, none of them with a vector yet.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new(vectors: Vec<Arc<MsiVector>>, queues: usize) -> Result<Arc<Self>, PciError> {
        let unheard = crate::pci::unheard()
            .map_err(|source| PciError::Host { what: "make an event descriptor", source })?;
        Ok(Arc::new(Self {
            vectors,
            unheard,
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
        }))
    }

    /// Lines that lead nowhere, for queues under test.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn unconnected(queues: usize) -> Result<Arc<Self>, PciError> {
        Self::new(Vec::new(), queues)
    }

    /// Device status as the driver reads it.
    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Sets the bits the driver wrote; the device's own bit stays.
    pub fn set_status(&self, status: u8) {
        let keep = |old| Some(old & STATUS_NEEDS_RESET | status & !STATUS_NEEDS_RESET);
        let _ = self.status.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep);
    }

    /// Back to the state after a reset.
    pub fn reset(&self) {
        self.config.store(NO_VECTOR, Ordering::Release);
        for queue in &self.queues {
            queue.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.status.store(0, Ordering::Release);
        for vector in &self.vectors {
            vector.clear();
        }
    }

    /// Reads and clears the interrupt status register.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// Counts changes of the configuration, for drivers to see that what they read belongs
    /// together.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Vector of configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    /// Sets the vector of configuration changes; one the device has not means none.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    /// Vector of `queue`.
    pub fn queue_vector(&self, queue: usize) -> u16 {
        self.queues.get(queue).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Sets the vector of `queue`; one the device has not means none.
    pub fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(slot) = self.queues.get(queue) {
            slot.store(self.existing(vector), Ordering::Release);
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.vectors.len() { vector } else { NO_VECTOR }
    }

    /// The configuration changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(self.config_vector(), ISR_CONFIG);
    }

    /// The driver broke a rule the device cannot work without: ask for a reset.
    pub fn needs_reset(&self) {
        let before = self.status.fetch_or(STATUS_NEEDS_RESET, Ordering::AcqRel);
        if before & STATUS_NEEDS_RESET == 0 {
            self.raise(self.config_vector(), ISR_CONFIG);
        }
    }

    fn raise(&self, vector: u16, isr: u8) {
        match self.vectors.get(usize::from(vector)) {
            Some(vector) => vector.signal(),
            None => {
                self.isr.fetch_or(isr, Ordering::AcqRel);
            }
        }
    }

    fn event(&self, vector: u16) -> &EventFd {
        self.vectors.get(usize::from(vector)).map_or(&self.unheard, |vector| vector.event())
    }
}

/// How one queue interrupts.
#[derive(Clone, Debug)]
pub struct QueueInterrupt {
    lines: Arc<InterruptLines>,
    queue: usize,
}

impl QueueInterrupt {
    /// The interrupt of `queue`.
    pub fn new(lines: Arc<InterruptLines>, queue: usize) -> Self {
        Self { lines, queue }
    }

    /// Tells the driver that buffers have been used.
    pub fn signal(&self) {
        self.lines.raise(self.lines.queue_vector(self.queue), ISR_QUEUE);
    }

    /// A copy of the descriptor a signal goes to with the present vector, for somebody else to
    /// signal.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn event(&self) -> io::Result<EventFd> {
        self.lines.event(self.lines.queue_vector(self.queue)).try_clone()
    }

    /// The queue is broken: ask for a reset.
    pub fn needs_reset(&self) {
        self.lines.needs_reset();
    }
}
