//! Interrupt lines of the machine's fixed devices.

use kvm_ioctls::VmFd;
use std::io;
use vm_superio::Trigger;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An edge-triggered interrupt line, raised through an irqfd.
#[derive(Debug)]
pub struct IrqLine {
    event: EventFd,
}

impl IrqLine {
    /// Connects a line to pin `gsi` of the interrupt controllers KVM has.
    ///
    /// # Errors
    /// What the kernel refuses: a descriptor, or the pin.
    pub fn new(vm: &VmFd, gsi: u32) -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&event, gsi)?;
        Ok(Self { event })
    }

    /// A line that nothing listens to, for devices under test.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn unconnected() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Interrupts the guest once.
    ///
    /// # Errors
    /// If the event cannot be written, which for an open eventfd means the process is broken.
    pub fn raise(&self) -> io::Result<()> {
        self.event.write(1)
    }

    /// How often the line was raised since last asked; `None` if never. For devices under test.
    pub fn take(&self) -> Option<u64> {
        self.event.read().ok()
    }
}

impl Trigger for IrqLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.raise()
    }
}
