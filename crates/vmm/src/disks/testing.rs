//! A machine whose devices can be asked for things.

use super::Disks;
use crate::{devices::Devices, nics::Nics, pci::hotplug::HotplugController, virtio::testing::Host};
use std::sync::Arc;

/// Devices of a machine that has none yet.
pub(crate) fn devices() -> Devices {
    let (host, disks, hotplug) = machine();
    let nics = Nics::new(&host.root, &host.memory, 2, &hotplug);
    Devices::only(&host.root, disks, nics)
}

/// The machine, its disks, and the guest's way to let go of one.
pub(crate) fn machine() -> (Host, Arc<Disks>, Arc<HotplugController>) {
    let host = Host::new();
    let hotplug = Arc::new(HotplugController::new(Arc::default()));
    let disks = Disks::new(&host.root, &host.memory, 2, &hotplug, true);
    (host, disks, hotplug)
}
