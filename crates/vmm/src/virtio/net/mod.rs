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

use super::{DeviceError, VirtioDevice, transport};
use crate::{
    config::{NicShape, check_nic, check_nic_shape, inherited},
    memory::GuestMemory,
    pci::{PciError, PciRoot, SlotInfo},
    plugged::Pluggable,
};
use api::vmm::{Nic, NicStats};
use device::{Link, NetDevice};
use stats::Counters;
use std::{
    fmt,
    fs::{File, OpenOptions},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tap::Tap;

const VHOST_NET: &str = "/dev/vhost-net";

/// A network interface in the machine.
pub struct NicHandle {
    eni_id: String,
    slot: SlotInfo,
    counters: Arc<Counters>,
    link: Arc<Link>,
    taps: Vec<Weak<Tap>>,
    tap_epoch: AtomicU64,
    function: Arc<transport::VirtioPci>,
}

impl NicHandle {
    /// What went through this process so far; with vhost-net that is nothing.
    pub fn stats(&self) -> NicStats {
        self.counters.snapshot(&self.eni_id)
    }

    /// What its taps were called when they were given.
    pub fn tap_epoch(&self) -> u64 {
        self.tap_epoch.load(Ordering::Acquire)
    }

    /// How many pairs of queues it has, and so taps.
    pub fn pairs(&self) -> usize {
        self.taps.len()
    }

    /// Goes on with other taps, one for each pair of queues, which are called `epoch` from then on. May
    /// take long.
    ///
    /// # Errors
    /// [`DeviceError::Host`]; asked again with taps that work, all of it is done again.
    pub fn switch_taps(&self, epoch: u64, files: Vec<File>) -> Result<(), DeviceError> {
        for (tap, file) in self.taps.iter().zip(files) {
            let gone = || DeviceError::Gone { disk: self.eni_id.clone() };
            let tap = tap.upgrade().ok_or_else(gone)?;
            tap.replace(file).map_err(DeviceError::host(&self.eni_id, "use its tap descriptor"))?;
        }
        self.function.renew().map_err(DeviceError::host(&self.eni_id, "go on with its taps"))?;
        self.tap_epoch.store(epoch, Ordering::Release);
        Ok(())
    }
}

impl Pluggable for NicHandle {
    fn slot(&self) -> SlotInfo {
        self.slot
    }

    fn in_use(&self) -> bool {
        self.function.in_use()
    }

    /// The driver sees the link go down; what it sends is lost, and nothing comes.
    fn abandon(&self) {
        self.function.abandon();
        self.function.change_config(|| self.link.set(false));
    }

    fn close(&self) {
        self.function.close();
    }

    fn stop(&self) {
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

/// Puts a network interface on the bus of a machine that does not run yet. Its descriptors are used
/// up.
///
/// # Errors
/// [`DeviceError`] if the configuration is not possible or the host refuses.
pub fn attach_nic(
    root: &PciRoot,
    memory: &GuestMemory,
    nic: &Nic,
) -> Result<NicHandle, DeviceError> {
    let shape = check_nic(&nic.eni_id, nic)?;
    let taps = open_taps(nic, shape.pairs)?;
    let vhost = open_vhost(nic, shape.pairs)?;
    put_on_bus(memory, nic, shape, taps, vhost, |device| {
        transport::attach(root, memory, nic.slot, device)
    })
}

/// Puts a network interface on these descriptors, one of each kind for a queue pair or no vhost at
/// all, on the bus of a running machine, whose guest does not know yet.
///
/// # Errors
/// As [`attach_nic`].
pub fn plug_nic(
    root: &PciRoot,
    memory: &GuestMemory,
    nic: &Nic,
    taps: Vec<File>,
    vhost: Vec<File>,
) -> Result<NicHandle, DeviceError> {
    let shape = check_nic_shape(&nic.eni_id, nic)?;
    let taps = taps.into_iter().map(Tap::from_file).collect::<Result<_, _>>();
    let taps = taps.map_err(DeviceError::host(&nic.eni_id, "use its tap descriptor"))?;
    put_on_bus(memory, nic, shape, taps, vhost, |device| {
        transport::plug(root, memory, nic.slot, device)
    })
}

fn put_on_bus(
    memory: &GuestMemory,
    nic: &Nic,
    shape: NicShape,
    taps: Vec<Tap>,
    vhost: Vec<File>,
    put: impl FnOnce(Box<dyn VirtioDevice>) -> Result<(Arc<transport::VirtioPci>, SlotInfo), PciError>,
) -> Result<NicHandle, DeviceError> {
    let id = nic.eni_id.as_str();
    let device = NetDevice::new(shape, taps, vhost, memory)
        .map_err(DeviceError::host(id, "set its queues up"))?;
    let (counters, link, taps) = (device.counters(), device.link(), device.taps());
    let (function, slot) = put(Box::new(device)).map_err(DeviceError::pci(id))?;
    let tap_epoch = AtomicU64::new(nic.tap_epoch);
    Ok(NicHandle { eni_id: id.to_owned(), slot, counters, link, taps, tap_epoch, function })
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
