//! What a device needs to know of the machine it is attached to.

use crate::{bus::Bus, events::Events, memory::GuestMemory};
use kvm_ioctls::VmFd;
use std::{fmt, sync::Arc};

/// The machine as its devices see it. Cloning shares it.
#[derive(Clone)]
pub struct MachineContext {
    /// For irqfds, ioeventfds and interrupt routes.
    pub vm: Arc<VmFd>,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Memory-mapped I/O.
    pub mmio: Arc<Bus>,
    /// I/O ports.
    pub pio: Arc<Bus>,
    /// State of the machine, and the way to end it.
    pub events: Events,
    /// Number of vCPUs.
    pub vcpus: u32,
}

impl fmt::Debug for MachineContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineContext")
            .field("mmio", &self.mmio)
            .field("pio", &self.pio)
            .field("events", &self.events)
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}
