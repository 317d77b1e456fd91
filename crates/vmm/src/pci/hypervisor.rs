//! What interrupts and doorbells need of the hypervisor.

use kvm_bindings::{KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::io;
use vmm_sys_util::eventfd::EventFd;

/// Where a guest writes to ring a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// A physical address.
    Memory(u64),
    /// An I/O port.
    Port(u64),
}

impl From<Doorbell> for IoEventAddress {
    fn from(doorbell: Doorbell) -> Self {
        match doorbell {
            Doorbell::Memory(address) => Self::Mmio(address),
            Doorbell::Port(port) => Self::Pio(port),
        }
    }
}

/// The in-kernel shortcuts between event descriptors and the guest.
pub trait Hypervisor: Send + Sync {
    /// Replaces the whole interrupt routing table.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn set_routes(&self, routes: &[kvm_irq_routing_entry]) -> io::Result<()>;
    /// From now on a write to `event` raises `gsi`.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()>;
    /// Undoes [`Self::connect_interrupt`].
    ///
    /// # Errors
    /// The kernel's refusal.
    fn disconnect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()>;
    /// From now on a guest's write of any width to `at` signals `event` without an exit.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn connect_doorbell(&self, event: &EventFd, at: Doorbell) -> io::Result<()>;
    /// Undoes [`Self::connect_doorbell`].
    ///
    /// # Errors
    /// The kernel's refusal.
    fn disconnect_doorbell(&self, event: &EventFd, at: Doorbell) -> io::Result<()>;
}

impl Hypervisor for VmFd {
    fn set_routes(&self, routes: &[kvm_irq_routing_entry]) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(routes).map_err(io::Error::other)?;
        Ok(self.set_gsi_routing(&table)?)
    }

    fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
        Ok(self.register_irqfd(event, gsi)?)
    }

    fn disconnect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
        Ok(self.unregister_irqfd(event, gsi)?)
    }

    fn connect_doorbell(&self, event: &EventFd, at: Doorbell) -> io::Result<()> {
        Ok(self.register_ioevent(event, &at.into(), NoDatamatch)?)
    }

    fn disconnect_doorbell(&self, event: &EventFd, at: Doorbell) -> io::Result<()> {
        Ok(self.unregister_ioevent(event, &at.into(), NoDatamatch)?)
    }
}

#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "some of it is for this crate's own tests"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub(crate) mod fake {
    use super::*;
    use std::{
        collections::BTreeMap,
        sync::{Mutex, MutexGuard},
    };

    /// Remembers what a kernel would have been asked for.
    #[derive(Default)]
    pub(crate) struct FakeHypervisor {
        state: Mutex<State>,
    }

    #[derive(Default)]
    pub(crate) struct State {
        pub(crate) routes: Vec<kvm_irq_routing_entry>,
        pub(crate) interrupts: BTreeMap<u32, EventFd>,
        /// By address or port; no two are the same number.
        pub(crate) doorbells: BTreeMap<u64, EventFd>,
    }

    impl FakeHypervisor {
        pub(crate) fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap()
        }

        /// Address and data of the message `gsi` is routed to.
        pub(crate) fn message(&self, gsi: u32) -> Option<(u64, u32)> {
            let state = self.state();
            let route = state
                .routes
                .iter()
                .find(|r| r.gsi == gsi && r.type_ == kvm_bindings::KVM_IRQ_ROUTING_MSI)?;
            // SAFETY: the type says which field of the union is in use.
            let msi = unsafe { route.u.msi };
            Some((u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo), msi.data))
        }
    }

    impl Hypervisor for FakeHypervisor {
        fn set_routes(&self, routes: &[kvm_irq_routing_entry]) -> io::Result<()> {
            self.state().routes = routes.to_vec();
            Ok(())
        }

        fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
            match self.state().interrupts.insert(gsi, event.try_clone()?) {
                None => Ok(()),
                Some(_) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
            }
        }

        fn disconnect_interrupt(&self, _event: &EventFd, gsi: u32) -> io::Result<()> {
            self.state().interrupts.remove(&gsi);
            Ok(())
        }

        fn connect_doorbell(&self, event: &EventFd, at: Doorbell) -> io::Result<()> {
            let (Doorbell::Memory(at) | Doorbell::Port(at)) = at;
            match self.state().doorbells.insert(at, event.try_clone()?) {
                None => Ok(()),
                Some(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            }
        }

        fn disconnect_doorbell(&self, _event: &EventFd, at: Doorbell) -> io::Result<()> {
            let (Doorbell::Memory(at) | Doorbell::Port(at)) = at;
            match self.state().doorbells.remove(&at) {
                Some(_) => Ok(()),
                None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            }
        }
    }
}
