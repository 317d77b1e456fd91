//! Interrupt lines of the machine's fixed devices.

use kvm_ioctls::VmFd;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
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

/// A level-triggered interrupt line: it stays as it is set, so a guest that starts to listen later
/// is interrupted then.
pub struct LevelLine {
    vm: Option<Arc<VmFd>>,
    gsi: u32,
    level: AtomicBool,
}

impl LevelLine {
    /// Pin `gsi` of the interrupt controllers KVM has.
    pub fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm: Some(vm), gsi, level: AtomicBool::new(false) }
    }

    /// A line that nothing listens to, for devices under test.
    pub fn unconnected() -> Self {
        Self { vm: None, gsi: 0, level: AtomicBool::new(false) }
    }

    /// Asserts the line or lets it go. Callers see to it that two do not do so at once.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn set(&self, active: bool) -> io::Result<()> {
        self.level.store(active, Ordering::SeqCst);
        match &self.vm {
            Some(vm) => Ok(vm.set_irq_line(self.gsi, active)?),
            None => Ok(()),
        }
    }

    /// Whether it is asserted.
    pub fn is_set(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for LevelLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LevelLine")
            .field("gsi", &self.gsi)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}
