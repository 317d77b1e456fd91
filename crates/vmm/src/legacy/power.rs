//! ACPI registers: sleep control and status, and reset.

use super::ged::EventDevice;
use crate::{
    acpi::{GED_POWER_BUTTON, RESET_VALUE, SLEEP_TYPE_S5},
    bus::BusDevice,
    events::{Events, Exit},
    layout,
};
use std::{io, sync::Arc};

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// The register block, from the sleep control register on.
#[derive(Debug)]
pub struct PowerRegisters {
    events: Events,
    notices: Arc<EventDevice>,
}

impl PowerRegisters {
    /// First port of the block.
    pub const BASE: u64 = layout::SLEEP_CONTROL;
    /// Ports in the block.
    pub const LEN: u64 = layout::RESET + 1 - layout::SLEEP_CONTROL;

    /// Registers that end the machine through `events` and tell the guest things by `notices`.
    pub fn new(events: Events, notices: Arc<EventDevice>) -> Self {
        Self { events, notices }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// If the guest cannot be interrupted.
    pub fn press_power_button(&self) -> io::Result<()> {
        self.notices.raise(GED_POWER_BUTTON)
    }
}

impl BusDevice for PowerRegisters {
    fn read(&self, _base: u64, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, base: u64, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match base + offset {
            layout::SLEEP_CONTROL => {
                let off = SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
                if value == off {
                    self.events.exit(Exit::Shutdown);
                }
            }
            layout::RESET if value == RESET_VALUE => self.events.exit(Exit::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> (Events, PowerRegisters) {
        let events = Events::new();
        (events.clone(), PowerRegisters::new(events, Arc::default()))
    }

    #[test]
    fn s5_powers_off_and_other_sleep_states_do_nothing() {
        let (events, registers) = registers();
        registers.write(layout::SLEEP_CONTROL, 0, &[0x34 & !SLEEP_ENABLE]);
        registers.write(layout::SLEEP_CONTROL, 0, &[SLEEP_ENABLE]);
        assert_eq!(events.exiting(), None);
        registers.write(layout::SLEEP_CONTROL, 0, &[0x34]);
        assert_eq!(events.exiting(), Some(Exit::Shutdown));
    }

    #[test]
    fn the_reset_register_resets() {
        let (events, registers) = registers();
        let offset = layout::RESET - PowerRegisters::BASE;
        registers.write(PowerRegisters::BASE, offset, &[0]);
        assert_eq!(events.exiting(), None);
        registers.write(PowerRegisters::BASE, offset, &[RESET_VALUE]);
        assert_eq!(events.exiting(), Some(Exit::Reset));
    }

    #[test]
    fn the_power_button_interrupts_and_says_why() {
        let (_, registers) = registers();
        registers.press_power_button().unwrap();
        let mut cause = [0];
        registers.notices.read(layout::GED_EVENTS, 0, &mut cause);
        assert_eq!(cause, [GED_POWER_BUTTON]);
    }
}
