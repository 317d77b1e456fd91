//! Keyboard controller, as far as it resets the machine.

use crate::{
    bus::BusDevice,
    events::{Events, Exit},
};

const PULSE_RESET: u8 = 0xfe;

/// The controller's command port: always idle, and resets on the pulse command.
#[derive(Debug)]
pub struct KeyboardController {
    events: Events,
}

impl KeyboardController {
    /// A controller that ends the machine through `events`.
    pub fn new(events: Events) -> Self {
        Self { events }
    }
}

impl BusDevice for KeyboardController {
    fn read(&self, _base: u64, _offset: u64, data: &mut [u8]) {
        // Status: nothing to read, ready for commands.
        data.fill(0);
    }

    fn write(&self, _base: u64, _offset: u64, data: &[u8]) {
        if data.first() == Some(&PULSE_RESET) {
            self.events.exit(Exit::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulse_command_resets() {
        let events = Events::new();
        let device = KeyboardController::new(events.clone());
        device.write(0x64, 0, &[0xd1]);
        device.write(0x64, 0, &[]);
        assert_eq!(events.exiting(), None);
        device.write(0x64, 0, &[0xfe]);
        assert_eq!(events.exiting(), Some(Exit::Reset));
    }
}
