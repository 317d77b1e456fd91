//! Virtio 1.x devices behind PCI: disks, network interfaces, entropy.
//!
//! `transport` is what the guest's driver talks to. Each device has a folder with the same files:
//! `device.rs` (features, activation, reset), `config.rs` (what the driver reads of it), the queue
//! handling, and `tests.rs`. `ring.rs` and `chain.rs` are how devices read what a guest put in a
//! queue, `worker.rs` is the thread a queue is served by.

mod chain;
mod device;
pub mod fuzz;
mod interrupt;
mod ring;
mod transport;
mod worker;

pub mod block;
pub mod net;
pub mod rng;

#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "some of it is for this crate's own tests"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub(crate) mod testing;

pub use block::{
    DiskHandle, QUEUE_DEPTH, Rings, attach_disk, default_queues, layer_format, plug_disk,
};
pub use device::{Activation, ActiveQueue, VirtioDevice};
pub use net::{NicHandle, attach_nic, plug_nic};
pub use rng::{RngHandle, attach_rng};

use crate::{config::ConfigError, pci::PciError};
use std::io;

/// Why a device could not be attached, or stopped working.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The description of the device is not possible.
    #[error("machine description refused: {0}")]
    Config(#[from] ConfigError),
    /// The host refused something the device needs.
    #[error("{resource}: cannot {what}: {source}")]
    Host {
        /// ECS id of the disk or network interface.
        resource: String,
        /// What was asked of the host.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The disk image is not usable.
    #[error("{disk}: {source}")]
    Image {
        /// ECS id of the disk.
        disk: String,
        /// What the image says.
        source: qcow2::Error,
    },
    /// The device is on its way out.
    #[error("{disk} is being taken out of the machine")]
    Gone {
        /// ECS id of the disk or network interface.
        disk: String,
    },
    /// There is no place on the bus.
    #[error("{resource}: {source}")]
    Pci {
        /// ECS id of the disk or network interface.
        resource: String,
        /// Why not.
        source: PciError,
    },
}

impl DeviceError {
    /// Whether a second try with the same description must fail in the same way.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Config(_) => true,
            Self::Host { .. } | Self::Gone { .. } => false,
            Self::Image { source, .. } => !source.is_of_the_host(),
            Self::Pci { source, .. } => !matches!(source, PciError::Host { .. }),
        }
    }

    pub(crate) fn host(resource: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let resource = resource.to_owned();
        move |source| Self::Host { resource, what, source }
    }

    pub(crate) fn pci(resource: &str) -> impl FnOnce(PciError) -> Self {
        let resource = resource.to_owned();
        move |source| Self::Pci { resource, source }
    }
}
