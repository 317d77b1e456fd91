//! pvpanic: the guest's kernel tells of its own panic.

use crate::{bus::BusDevice, events::Events};
use api::vmm::VmState;

const PANICKED: u8 = 1;
const CRASH_KERNEL_LOADED: u8 = 2;

/// The port. Reading tells which reports are understood.
#[derive(Debug)]
pub struct PanicPort {
    events: Events,
}

impl PanicPort {
    /// A port that reports to `events`.
    pub fn new(events: Events) -> Self {
        Self { events }
    }
}

impl BusDevice for PanicPort {
    fn read(&self, _base: u64, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_KERNEL_LOADED;
        }
    }

    fn write(&self, _base: u64, _offset: u64, data: &[u8]) {
        let Some(&report) = data.first() else { return };
        if report & PANICKED != 0 {
            self.events.publish(VmState::Panicked, "the guest's kernel panicked");
        } else if report & CRASH_KERNEL_LOADED != 0 {
            let message = "the guest's kernel panicked and runs its crash kernel";
            self.events.publish(VmState::Panicked, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reported_panic_changes_the_state() {
        let events = Events::new();
        let port = PanicPort::new(events.clone());
        let mut mask = [0xff];
        port.read(0x505, 0, &mut mask);
        assert_eq!(mask, [3]);
        port.write(0x505, 0, &[0]);
        assert_eq!(events.state(), VmState::Starting);
        port.write(0x505, 0, &[1]);
        assert_eq!(events.state(), VmState::Panicked);
    }
}
