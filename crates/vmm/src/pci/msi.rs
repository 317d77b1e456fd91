//! Interrupt routes: the legacy pins, and one GSI for each MSI-X vector of the machine.

use super::{Hypervisor, PciError};
use crate::layout::IOAPIC_PINS;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_IRQ_ROUTES, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Pins of the two cascaded legacy controllers.
const PIC_PINS: u32 = 16;
/// Pins of one of them.
const PINS_PER_PIC: u32 = 8;

/// What an MSI writes, and where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address of the write.
    pub address: u64,
    /// Value of the write.
    pub data: u32,
}

/// Owner of the machine's interrupt routing table, which KVM only replaces as a whole.
pub struct MsiRouter {
    hypervisor: Arc<dyn Hypervisor>,
    routes: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl MsiRouter {
    /// Takes the routing table over, with the legacy pins connected as KVM does by itself.
    ///
    /// # Errors
    /// If the kernel refuses the table.
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Result<Arc<Self>, PciError> {
        let router = Self { hypervisor, routes: Mutex::new(BTreeMap::new()) };
        router.apply(&router.routes())?;
        Ok(Arc::new(router))
    }

    /// The hypervisor the routes are in.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// A new vector, which interrupts nobody until it is connected.
    ///
    /// # Errors
    /// If no route or no descriptor is left.
    pub fn vector(self: &Arc<Self>) -> Result<MsiVector, PciError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| PciError::Host { what: "make an event descriptor", source })?;
        let mut routes = self.routes();
        let last = KVM_MAX_IRQ_ROUTES as u32 - (IOAPIC_PINS + PIC_PINS);
        let gsi =
            (IOAPIC_PINS..last).find(|gsi| !routes.contains_key(gsi)).ok_or(PciError::NoRoute)?;
        routes.insert(gsi, None);
        drop(routes);
        Ok(MsiVector { router: Arc::clone(self), gsi, event, connected: Mutex::new(false) })
    }

    /// Takes routes of vectors that are gone out of KVM's table. They do no harm there.
    pub fn refresh(&self) {
        if let Err(error) = self.apply(&self.routes()) {
            crate::say::report(format_args!("interrupt routes: {error}"));
        }
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<u32, Option<MsiMessage>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, gsi: u32, message: MsiMessage) -> Result<(), PciError> {
        let mut routes = self.routes();
        if routes.insert(gsi, Some(message)) == Some(Some(message)) {
            return Ok(());
        }
        self.apply(&routes)
    }

    fn apply(&self, routes: &BTreeMap<u32, Option<MsiMessage>>) -> Result<(), PciError> {
        let mut table: Vec<_> = legacy_routes().collect();
        table
            .extend(routes.iter().filter_map(|(&gsi, message)| message.map(|m| msi_route(gsi, m))));
        self.hypervisor
            .set_routes(&table)
            .map_err(|source| PciError::Host { what: "set interrupt routes", source })
    }
}

impl fmt::Debug for MsiRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsiRouter").field("routes", &*self.routes()).finish_non_exhaustive()
    }
}

fn legacy_routes() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let chip = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    };
    let pic = (0..PIC_PINS).map(move |gsi| {
        let irqchip =
            if gsi < PINS_PER_PIC { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        chip(gsi, irqchip, gsi % PINS_PER_PIC)
    });
    pic.chain((0..IOAPIC_PINS).map(move |gsi| chip(gsi, KVM_IRQCHIP_IOAPIC, gsi)))
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// One interrupt: an event descriptor that KVM turns into a message while connected. While it is
/// not, signals collect in the descriptor, which is what makes them pending.
pub struct MsiVector {
    router: Arc<MsiRouter>,
    gsi: u32,
    event: EventFd,
    connected: Mutex<bool>,
}

impl MsiVector {
    /// What to signal for an interrupt; stays the same for the life of the vector.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The route's number.
    #[cfg(test)]
    pub(super) fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Interrupts, or marks as pending.
    pub fn signal(&self) {
        // Can only fail when 2^64 - 2 signals are pending already.
        let _ = self.event.write(1);
    }

    /// Delivers from now on, what is pending included, as `message`.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn connect(&self, message: MsiMessage) -> Result<(), PciError> {
        let mut connected = self.connected();
        self.router.set(self.gsi, message)?;
        if !*connected {
            let pending = self.event.read().is_ok();
            self.router
                .hypervisor
                .connect_interrupt(&self.event, self.gsi)
                .map_err(|source| PciError::Host { what: "connect an interrupt", source })?;
            *connected = true;
            if pending {
                self.signal();
            }
        }
        Ok(())
    }

    /// Holds signals back from now on.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn disconnect(&self) -> Result<(), PciError> {
        let mut connected = self.connected();
        if std::mem::take(&mut *connected) {
            self.router
                .hypervisor
                .disconnect_interrupt(&self.event, self.gsi)
                .map_err(|source| PciError::Host { what: "disconnect an interrupt", source })?;
        }
        Ok(())
    }

    /// Whether signals are being held back.
    pub fn pending(&self) -> bool {
        let connected = self.connected();
        let pending = !*connected && self.event.read().is_ok();
        if pending {
            self.signal();
        }
        pending
    }

    /// Forgets signals held back.
    pub fn clear(&self) {
        let connected = self.connected();
        if !*connected {
            let _ = self.event.read();
        }
    }

    fn connected(&self) -> MutexGuard<'_, bool> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MsiVector {
    fn drop(&mut self) {
        let _ = self.disconnect();
        self.router.routes().remove(&self.gsi);
    }
}

impl fmt::Debug for MsiVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsiVector").field("gsi", &self.gsi).finish_non_exhaustive()
    }
}

/// An event descriptor that nobody listens to, for what has no vector.
pub(crate) fn unheard() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}
