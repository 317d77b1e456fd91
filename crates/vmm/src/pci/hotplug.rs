//! Hot-plug: how the guest is told of slots that were filled or are wanted back, and how it gives
//! them back.
//!
//! Three 32-bit registers, bit `n` for slot `n`. Two say what the guest has not been told yet, and
//! forget it as it is read; the ACPI tables make a notification of each bit. Writing the third
//! ejects.

use crate::{acpi::GED_PCI, bus::BusDevice, layout, legacy::ged::EventDevice};
use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Slots that were filled.
pub const PLUGGED: u64 = 0;
/// Slots that are wanted back.
pub const WANTED: u64 = 4;
/// Slots the guest lets go of.
pub const EJECT: u64 = 8;
const SLOTS: u8 = 32;

/// Who decides what a guest's ejection of a slot means.
pub trait Ejector: Send + Sync {
    /// The guest let go of `slot`, which may be another's, empty, or not wanted back at all: it writes
    /// what it likes. Called by a vCPU, so it must not take long.
    fn ejected(&self, slot: u8);
}

/// The registers.
pub struct HotplugController {
    notices: Arc<EventDevice>,
    plugged: AtomicU32,
    wanted: AtomicU32,
    ejectors: RwLock<Vec<Weak<dyn Ejector>>>,
}

impl HotplugController {
    /// First port.
    pub const BASE: u64 = layout::PCI_HOTPLUG;
    /// Ports.
    pub const LEN: u64 = EJECT + 4;

    /// Registers that interrupt the guest by `notices`.
    pub fn new(notices: Arc<EventDevice>) -> Self {
        Self {
            notices,
            plugged: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            ejectors: RwLock::default(),
        }
    }

    /// From now on `ejector` too hears of every ejection.
    pub fn eject_to(&self, ejector: Weak<dyn Ejector>) {
        self.ejectors.write().unwrap_or_else(PoisonError::into_inner).push(ejector);
    }

    /// Tells the guest that `slot` was filled.
    ///
    /// # Errors
    /// If the guest cannot be interrupted; it is told with the next interrupt.
    pub fn plugged(&self, slot: u8) -> io::Result<()> {
        self.tell(&self.plugged, slot)
    }

    /// Asks the guest to let go of `slot`, or tells it that what was there is gone.
    ///
    /// # Errors
    /// As for [`Self::plugged`].
    pub fn want_back(&self, slot: u8) -> io::Result<()> {
        self.tell(&self.wanted, slot)
    }

    fn tell(&self, register: &AtomicU32, slot: u8) -> io::Result<()> {
        register.fetch_or(bit(slot), Ordering::SeqCst);
        self.notices.raise(GED_PCI)
    }
}

fn bit(slot: u8) -> u32 {
    1u32.checked_shl(slot.into()).unwrap_or(0)
}

impl BusDevice for HotplugController {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // Only whole registers: a part of one would forget what was not read.
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            let slots = match offset {
                PLUGGED => self.plugged.swap(0, Ordering::SeqCst),
                WANTED => self.wanted.swap(0, Ordering::SeqCst),
                _ => 0,
            };
            *data = slots.to_le_bytes();
        }
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        if offset != EJECT {
            return;
        }
        let Ok(data) = <[u8; 4]>::try_from(data) else { return };
        let slots = u32::from_le_bytes(data);
        let ejectors = self.ejectors.read().unwrap_or_else(PoisonError::into_inner);
        for ejector in ejectors.iter().filter_map(Weak::upgrade) {
            for slot in (0..SLOTS).filter(|&slot| slots & bit(slot) != 0) {
                ejector.ejected(slot);
            }
        }
    }
}

impl std::fmt::Debug for HotplugController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotplugController")
            .field("plugged", &self.plugged)
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Ejected(Mutex<Vec<u8>>);

    impl Ejector for Ejected {
        fn ejected(&self, slot: u8) {
            self.0.lock().unwrap().push(slot);
        }
    }

    fn read<const N: usize>(controller: &HotplugController, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        controller.read(HotplugController::BASE, offset, &mut data);
        data
    }

    #[test]
    fn what_the_guest_has_not_been_told_stays_until_it_reads_the_whole_register() {
        let notices = Arc::new(EventDevice::default());
        let controller = HotplugController::new(Arc::clone(&notices));
        controller.plugged(3).unwrap();
        controller.plugged(31).unwrap();
        controller.want_back(3).unwrap();
        assert_eq!(read::<1>(&controller, PLUGGED), [0]);
        assert_eq!(read::<8>(&controller, PLUGGED), [0; 8]);
        assert_eq!(read::<4>(&controller, 2), [0; 4]);
        assert_eq!(read::<4>(&controller, PLUGGED), (1u32 << 31 | 1 << 3).to_le_bytes());
        assert_eq!(read::<4>(&controller, PLUGGED), [0; 4]);
        assert_eq!(read::<4>(&controller, WANTED), (1u32 << 3).to_le_bytes());
        let mut cause = [0];
        notices.read(layout::GED_EVENTS, 0, &mut cause);
        assert_eq!(cause, [GED_PCI]);
        controller.want_back(3).unwrap();
        notices.read(layout::GED_EVENTS, 0, &mut cause);
        assert_eq!(cause, [GED_PCI], "asked again, told again");
    }

    #[test]
    fn only_a_whole_write_to_the_right_register_ejects() {
        let controller = HotplugController::new(Arc::default());
        controller.write(HotplugController::BASE, EJECT, &[0xff; 4]);
        let ejected = Arc::new(Ejected::default());
        let ejector: Arc<dyn Ejector> = ejected.clone();
        controller.eject_to(Arc::downgrade(&ejector));
        for (offset, data) in
            [(EJECT, &[0xff; 2][..]), (EJECT, &[0xff; 8]), (WANTED, &[0xff; 4]), (9, &[0xff; 4])]
        {
            controller.write(HotplugController::BASE, offset, data);
        }
        assert!(ejected.0.lock().unwrap().is_empty());
        controller.write(HotplugController::BASE, EJECT, &[0x21, 0, 0, 0x80]);
        assert_eq!(*ejected.0.lock().unwrap(), [0, 5, 31]);
    }
}
