//! What the transport asks of a device.

use super::interrupt::{InterruptLines, QueueInterrupt};
use crate::memory::GuestMemory;
use std::sync::Arc;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// `VIRTIO_F_INDIRECT_DESC`.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// Ring features every device of ours has.
pub const RING_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// A queue the driver has enabled.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Which of the device's queues.
    pub index: usize,
    /// Its rings.
    pub queue: Queue,
    /// Signalled by the guest when it made buffers available.
    pub doorbell: EventFd,
    /// How to tell the driver of used buffers.
    pub interrupt: QueueInterrupt,
}

/// Everything a device needs to start working for a driver.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The features driver and device agreed on.
    pub features: u64,
    /// The queues the driver enabled, in order.
    pub queues: Vec<ActiveQueue>,
    /// For configuration changes.
    pub lines: Arc<InterruptLines>,
}

/// A device could not start; its driver is asked to reset it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ActivateError(pub String);

/// A virtio device, as its transport sees it.
pub trait VirtioDevice: Send {
    /// Device id of the virtio specification.
    fn device_type(&self) -> u16;
    /// PCI class, subclass and interface.
    fn pci_class(&self) -> u32;
    /// Most entries each queue may have; one element per queue.
    fn queue_sizes(&self) -> Vec<u16>;
    /// What the device can do.
    fn features(&self) -> u64;
    /// Device configuration from its first byte.
    fn config(&self) -> Vec<u8>;
    /// Starts working. Never called twice without [`Self::reset`] between.
    ///
    /// # Errors
    /// If it cannot.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Stops working. On return the device touches guest memory no more.
    fn reset(&mut self);
    /// Lets go of what the device works on, under its driver, which is told from then on that nothing
    /// works. Only for what can be taken out of a running machine.
    fn abandon(&mut self) {}
    /// What the device works on was exchanged for its like.
    ///
    /// # Errors
    /// If the host refuses to go on with it.
    fn renew(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    /// Gives up, after a reset, all the host gave: it is not activated any more. Only for what can be
    /// taken out of a running machine.
    fn close(&mut self) {}
    /// The interrupt of a queue goes elsewhere from now on.
    fn queue_vector_changed(&mut self, _queue: usize, _interrupt: &QueueInterrupt) {}
}
