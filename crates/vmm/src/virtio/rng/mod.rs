//! Entropy: virtio-rng on the host's generator.

mod device;
mod queue;

#[cfg(test)]
mod tests;

pub(super) use device::RngDevice;
pub(super) use queue::fill;

use super::{DeviceError, transport};
use crate::{context::MachineContext, pci::PciRoot};
use std::sync::Arc;

const RESOURCE: &str = "virtio-rng";

/// The entropy device of the machine.
#[derive(Debug)]
pub struct RngHandle {
    function: Arc<transport::VirtioPci>,
}

impl RngHandle {
    /// Serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        self.function.reset();
    }
}

/// Puts an entropy device on the bus.
///
/// # Errors
/// [`DeviceError`] if the host refuses or the bus is full.
pub fn attach_rng(root: &PciRoot, context: &MachineContext) -> Result<RngHandle, DeviceError> {
    let device = RngDevice::new().map_err(DeviceError::host(RESOURCE, "set its queue up"))?;
    let (function, _) = transport::attach(root, &context.memory, 0, Box::new(device))
        .map_err(DeviceError::pci(RESOURCE))?;
    Ok(RngHandle { function })
}
