//! Network interfaces: virtio-net on taps, with the data path in the host's kernel where it has
//! vhost-net, and in this process otherwise.

mod config;
mod control;
mod device;
mod queue;
mod stats;
mod tap;
mod vhost;

#[cfg(test)]
mod tests;

pub(super) use control::pairs_wanted;
pub(super) use queue::Store;

use super::{DeviceError, transport};
use crate::{
    config::{check_nic, inherited},
    context::MachineContext,
    pci::{PciRoot, SlotInfo},
};
use api::vmm::{Nic, NicStats};
use device::NetDevice;
use stats::Counters;
use std::{
    fmt,
    fs::{File, OpenOptions},
    sync::Arc,
};
use tap::Tap;

const VHOST_NET: &str = "/dev/vhost-net";

/// A network interface in the machine.
pub struct NicHandle {
    eni_id: String,
    slot: SlotInfo,
    counters: Arc<Counters>,
    function: Arc<transport::VirtioPci>,
}

impl NicHandle {
    /// What went through this process so far; with vhost-net that is nothing.
    pub fn stats(&self) -> NicStats {
        self.counters.snapshot(&self.eni_id)
    }

    /// Serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        self.function.reset();
    }
}

impl fmt::Debug for NicHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NicHandle")
            .field("eni_id", &self.eni_id)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// Puts a network interface on the bus.
///
/// # Errors
/// [`DeviceError`] if the configuration is not possible or the host refuses.
pub fn attach_nic(
    root: &PciRoot,
    context: &MachineContext,
    nic: &Nic,
) -> Result<NicHandle, DeviceError> {
    let id = nic.eni_id.as_str();
    let shape = check_nic(id, nic)?;
    let taps = open_taps(nic, shape.pairs)?;
    let vhost = open_vhost(nic, shape.pairs)?;
    let device = NetDevice::new(shape, taps, vhost, &context.memory)
        .map_err(DeviceError::host(id, "set its queues up"))?;
    let counters = device.counters();
    let (function, slot) = transport::attach(root, &context.memory, nic.slot, Box::new(device))
        .map_err(DeviceError::pci(id))?;
    Ok(NicHandle { eni_id: id.to_owned(), slot, counters, function })
}

fn open_taps(nic: &Nic, pairs: u16) -> Result<Vec<Tap>, DeviceError> {
    let id = nic.eni_id.as_str();
    if nic.tap_fds.is_empty() {
        return (0..pairs)
            .map(|_| Tap::open(&nic.tap_name, pairs > 1))
            .collect::<Result<_, _>>()
            .map_err(DeviceError::host(id, "open its tap"));
    }
    nic.tap_fds
        .iter()
        .map(|&fd| Tap::from_file(inherited(fd)?))
        .collect::<Result<_, _>>()
        .map_err(DeviceError::host(id, "use its tap descriptor"))
}

fn open_vhost(nic: &Nic, pairs: u16) -> Result<Vec<File>, DeviceError> {
    let id = nic.eni_id.as_str();
    if nic.vhost_fds.is_empty() {
        if !nic.vhost {
            return Ok(Vec::new());
        }
        let open = |_| OpenOptions::new().read(true).write(true).open(VHOST_NET);
        // Without vhost-net on the host, this process moves the packets.
        return Ok((0..pairs).map(open).collect::<Result<_, _>>().unwrap_or_default());
    }
    nic.vhost_fds
        .iter()
        .map(|&fd| inherited(fd))
        .collect::<Result<_, _>>()
        .map_err(DeviceError::host(id, "use its vhost-net descriptor"))
}
