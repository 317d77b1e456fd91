//! The generic event device: why the guest is interrupted by ACPI.

use crate::{bus::BusDevice, irq::LevelLine};
use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The register of causes, one bit each. The interrupt stays asserted until the guest has read them,
/// so that nothing is lost on a guest that has no driver for it yet.
#[derive(Debug)]
pub struct EventDevice {
    line: LevelLine,
    causes: Mutex<u8>,
}

impl EventDevice {
    /// A device that interrupts through `line`.
    pub fn new(line: LevelLine) -> Self {
        Self { line, causes: Mutex::new(0) }
    }

    /// Tells the guest of `cause`.
    ///
    /// # Errors
    /// If the guest cannot be interrupted.
    pub fn raise(&self, cause: u8) -> io::Result<()> {
        let mut causes = self.causes();
        *causes |= cause;
        self.line.set(true)
    }

    fn causes(&self) -> MutexGuard<'_, u8> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EventDevice {
    /// A device that interrupts nobody, for tests.
    fn default() -> Self {
        Self::new(LevelLine::unconnected())
    }
}

impl BusDevice for EventDevice {
    fn read(&self, _base: u64, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(first) = data.first_mut() else { return };
        let mut causes = self.causes();
        *first = std::mem::take(&mut *causes);
        if let Err(error) = self.line.set(false) {
            crate::say::report(format_args!("ACPI interrupt: {error}"));
        }
    }

    fn write(&self, _base: u64, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_asserted_until_all_causes_were_read() {
        let device = EventDevice::default();
        let read = || {
            let mut cause = [0xff; 2];
            device.read(0x604, 0, &mut cause);
            cause
        };
        assert_eq!(read(), [0, 0]);
        device.raise(1).unwrap();
        device.raise(2).unwrap();
        device.raise(2).unwrap();
        assert!(device.line.is_set());
        device.write(0x604, 0, &[0xff]);
        assert!(device.line.is_set(), "writing changes nothing");
        assert_eq!(read(), [3, 0]);
        assert!(!device.line.is_set());
        assert_eq!(read(), [0, 0]);
    }
}
