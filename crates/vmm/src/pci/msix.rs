//! A device's MSI-X table and pending bits.

use super::{MsiMessage, MsiVector, PciError};
use std::sync::Arc;

/// Bytes of a table entry.
pub const ENTRY_SIZE: usize = 16;
/// Capability id.
pub const CAPABILITY_ID: u8 = 0x11;
/// Message control: all vectors masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message control: MSI-X on.
const ENABLE: u16 = 1 << 15;
/// Vector control: this vector masked.
const VECTOR_MASKED: u8 = 1;
/// Where vector control is in an entry.
const VECTOR_CONTROL: usize = 12;

/// The vectors of one device, and what the guest made of them.
#[derive(Debug)]
pub struct MsixTable {
    bytes: Vec<u8>,
    vectors: Vec<Arc<MsiVector>>,
    control: u16,
}

impl MsixTable {
    /// A table for `vectors`, all masked and MSI-X off, as after a reset.
    pub fn new(vectors: Vec<Arc<MsiVector>>) -> Self {
        let mut bytes = vec![0; vectors.len() * ENTRY_SIZE];
        for entry in bytes.chunks_exact_mut(ENTRY_SIZE) {
            entry[VECTOR_CONTROL] = VECTOR_MASKED;
        }
        Self { bytes, vectors, control: 0 }
    }

    /// Body of the capability, after id and next pointer: control, table, pending bits. Both lie
    /// in `bar`.
    pub fn capability(&self, bar: u8, table_offset: u32, pba_offset: u32) -> [u8; 10] {
        let mut body = [0; 10];
        let last = self.vectors.len().saturating_sub(1) as u16;
        body[..2].copy_from_slice(&last.to_le_bytes());
        body[2..6].copy_from_slice(&(table_offset | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pba_offset | u32::from(bar)).to_le_bytes());
        body
    }

    /// Bits of message control a guest may write.
    pub const CONTROL_WRITABLE: u16 = ENABLE | FUNCTION_MASK;

    /// The guest wrote message control.
    ///
    /// # Errors
    /// If KVM refuses to connect or disconnect a vector.
    pub fn set_control(&mut self, control: u16) -> Result<(), PciError> {
        let control = control & Self::CONTROL_WRITABLE;
        if control == self.control {
            return Ok(());
        }
        self.control = control;
        (0..self.vectors.len()).try_for_each(|vector| self.update(vector))
    }

    /// The guest reads the table.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        copy_out(&self.bytes, offset, data);
    }

    /// The guest writes the table.
    ///
    /// # Errors
    /// If KVM refuses to connect or disconnect a vector.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), PciError> {
        let Ok(start) = usize::try_from(offset) else { return Ok(()) };
        let end = start.saturating_add(data.len()).min(self.bytes.len());
        if start >= end {
            return Ok(());
        }
        self.bytes[start..end].copy_from_slice(&data[..end - start]);
        (start / ENTRY_SIZE..=(end - 1) / ENTRY_SIZE).try_for_each(|vector| self.update(vector))
    }

    /// The guest reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let mut bits = vec![0u8; self.vectors.len().div_ceil(64) * 8];
        for (number, vector) in self.vectors.iter().enumerate() {
            if vector.pending() {
                bits[number / 8] |= 1 << (number % 8);
            }
        }
        copy_out(&bits, offset, data);
    }

    fn update(&self, number: usize) -> Result<(), PciError> {
        let entry = &self.bytes[number * ENTRY_SIZE..][..ENTRY_SIZE];
        let masked = self.control & (ENABLE | FUNCTION_MASK) != ENABLE
            || entry[VECTOR_CONTROL] & VECTOR_MASKED != 0;
        let vector = &self.vectors[number];
        if masked {
            return vector.disconnect();
        }
        let word = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        let address = u64::from(word(4)) << 32 | u64::from(word(0));
        vector.connect(MsiMessage { address, data: word(8) })
    }
}

fn copy_out(from: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Ok(start) = usize::try_from(offset) else { return };
    if let Some(rest) = from.get(start..) {
        let len = rest.len().min(data.len());
        data[..len].copy_from_slice(&rest[..len]);
    }
}
