//! virtio-rng.

use super::queue::RngQueue;
use crate::virtio::{
    device::{ActivateError, Activation, RING_FEATURES, VirtioDevice},
    worker::Worker,
};
use std::io;

const DEVICE_TYPE: u16 = 4;
/// No class of its own.
const PCI_CLASS: u32 = 0xff_0000;
const QUEUE_SIZE: u16 = 64;

/// The device as its transport sees it.
#[derive(Debug)]
pub struct RngDevice {
    worker: Worker,
}

impl RngDevice {
    /// A device with its thread.
    ///
    /// # Errors
    /// If the host has no descriptor or thread left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::spawn("rng", Box::new(RngQueue::default()))? })
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn pci_class(&self) -> u32 {
        PCI_CLASS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.start(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker.stop();
    }
}
