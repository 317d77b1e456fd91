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

use super::{DeviceError, files::inherited, transport};
use crate::{
    context::MachineContext,
    pci::{PciRoot, SlotInfo},
};
use api::vmm::{Nic, NicStats};
use config::{Properties, parse_mac};
use device::NetDevice;
use stats::Counters;
use std::{
    fmt,
    fs::{File, OpenOptions},
    sync::Arc,
};
use tap::Tap;

const VHOST_NET: &str = "/dev/vhost-net";
/// As many pairs as vCPUs of the largest machine would be more than a tap takes.
const MAX_PAIRS: u32 = 32;
const DEFAULT_MTU: u16 = 1500;
/// What IPv4 asks of every link, and the largest a tap takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_521;

/// A network interface in the machine.
pub struct NicHandle {
    eni_id: String,
    slot: SlotInfo,
    counters: Arc<Counters>,
    function: Arc<transport::VirtioPci>,
}

impl NicHandle {
    /// ECS id.
    pub fn eni_id(&self) -> &str {
        &self.eni_id
    }

    /// Where it is on the bus.
    pub fn slot(&self) -> SlotInfo {
        self.slot
    }

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
    let properties = properties(nic)?;
    let taps = open_taps(nic, properties.pairs)?;
    let vhost = open_vhost(nic, properties.pairs)?;
    let device = NetDevice::new(properties, taps, vhost, &context.memory)
        .map_err(DeviceError::host(id, "set its queues up"))?;
    let counters = device.counters();
    let (function, slot) = transport::attach(root, &context.memory, nic.slot, Box::new(device))
        .map_err(DeviceError::pci(id))?;
    Ok(NicHandle { eni_id: id.to_owned(), slot, counters, function })
}

fn properties(nic: &Nic) -> Result<Properties, DeviceError> {
    let id = nic.eni_id.as_str();
    let mac = parse_mac(&nic.mac).ok_or_else(|| {
        DeviceError::config(id, format!("{:?} is no unicast MAC like 00:16:3e:00:00:01", nic.mac))
    })?;
    let pairs = nic.queue_pairs.max(1);
    if pairs > MAX_PAIRS {
        return Err(DeviceError::config(id, format!("{pairs} queue pairs; at most {MAX_PAIRS}")));
    }
    let mtu = match nic.mtu {
        0 => DEFAULT_MTU,
        mtu if MTU_RANGE.contains(&mtu) => mtu as u16,
        mtu => return Err(DeviceError::config(id, format!("mtu {mtu} is not in {MTU_RANGE:?}"))),
    };
    Ok(Properties { mac, mtu, pairs: pairs as u16 })
}

fn open_taps(nic: &Nic, pairs: u16) -> Result<Vec<Tap>, DeviceError> {
    let id = nic.eni_id.as_str();
    if nic.tap_fds.is_empty() {
        return (0..pairs)
            .map(|_| Tap::open(&nic.tap_name, pairs > 1))
            .collect::<Result<_, _>>()
            .map_err(DeviceError::host(id, "open its tap"));
    }
    if nic.tap_fds.len() != usize::from(pairs) {
        let problem = format!("{} tap descriptors for {pairs} queue pairs", nic.tap_fds.len());
        return Err(DeviceError::config(id, problem));
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
    if nic.vhost_fds.len() != usize::from(pairs) {
        let problem = format!("{} vhost descriptors for {pairs} queue pairs", nic.vhost_fds.len());
        return Err(DeviceError::config(id, problem));
    }
    nic.vhost_fds
        .iter()
        .map(|&fd| inherited(fd))
        .collect::<Result<_, _>>()
        .map_err(DeviceError::host(id, "use its vhost-net descriptor"))
}
