//! First UART (16550A). Its output goes to the console thread, input comes from there.

use crate::{bus::BusDevice, console::Output, irq::IrqLine};
use std::{
    fmt,
    sync::{Mutex, PoisonError, TryLockError},
};
use vm_superio::{Serial, serial::SerialEvents};

/// Lets the console thread know that the guest has read its input.
#[derive(Debug)]
struct Drained(Output);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.0.input_drained();
    }
}

/// The UART and its lock.
pub struct SerialPort {
    uart: Mutex<Serial<IrqLine, Drained, Output>>,
}

impl SerialPort {
    /// A UART that interrupts through `line` and writes to `output`.
    pub fn new(line: IrqLine, output: Output) -> Self {
        Self { uart: Mutex::new(Serial::with_events(line, Drained(output.clone()), output)) }
    }

    /// Types as much of `input` as the receive buffer takes; returns how much that was, or `None`
    /// if a vCPU is using the UART. That vCPU may be waiting for its output to be taken, so whoever
    /// takes output must not wait for it.
    pub fn type_in(&self, input: &[u8]) -> Option<usize> {
        let mut uart = match self.uart.try_lock() {
            Ok(uart) => uart,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let room = uart.fifo_capacity().min(input.len());
        if room > 0 {
            // In loop mode the UART takes nothing from outside; what was typed is lost, as on a
            // wire.
            let _ = uart.enqueue_raw_bytes(&input[..room]);
        }
        Some(room)
    }
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl BusDevice for SerialPort {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        if let (&[value], Ok(offset)) = (data, u8::try_from(offset)) {
            // Errors are those of the interrupt line and of a full loop buffer: nothing a UART
            // could tell its driver.
            let _ = self.uart.lock().unwrap_or_else(PoisonError::into_inner).write(offset, value);
        }
    }
}
