//! A machine whose disks can be asked for things.

use super::Disks;
use crate::{pci::hotplug::HotplugController, virtio::testing::Host};
use std::sync::Arc;

/// Disks of a machine that has none yet.
pub(crate) fn disks() -> Arc<Disks> {
    machine().1
}

/// The machine, its disks, and the guest's way to let go of one.
pub(crate) fn machine() -> (Host, Arc<Disks>, Arc<HotplugController>) {
    let host = Host::new();
    let hotplug = Arc::new(HotplugController::new(Arc::default()));
    let disks = Disks::new(&host.root, &host.memory, 2, &hotplug, true);
    (host, disks, hotplug)
}
