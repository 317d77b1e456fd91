//! Where BARs lie: first fit, naturally aligned, in memory below 4 GiB, where all registers of all
//! devices fit, or at I/O ports.

use super::PciError;
use std::{collections::BTreeMap, ops::Range};

/// The address space BARs are given from.
#[derive(Debug)]
pub struct BarAllocator {
    window: Range<u64>,
    taken: BTreeMap<u64, u64>,
}

impl BarAllocator {
    /// All of the window is free.
    pub fn new(window: Range<u64>) -> Self {
        Self { window, taken: BTreeMap::new() }
    }

    /// Takes `size` bytes, a power of two.
    ///
    /// # Errors
    /// If the window has no room.
    pub fn allocate(&mut self, size: u64) -> Result<u64, PciError> {
        let base = self.gap(size).ok_or(PciError::NoSpace { size })?;
        self.taken.insert(base, size);
        Ok(base)
    }

    /// Takes exactly `base..base + size` if it lies inside the window, is aligned and is free. This
    /// is how a guest's own choice is checked.
    pub fn claim(&mut self, base: u64, size: u64) -> bool {
        let Some(end) = base.checked_add(size) else { return false };
        let inside = self.window.start <= base && end <= self.window.end;
        if !inside || !base.is_multiple_of(size) || self.overlap(base, end).is_some() {
            return false;
        }
        self.taken.insert(base, size);
        true
    }

    /// Gives back what was taken at `base`.
    pub fn release(&mut self, base: u64) {
        self.taken.remove(&base);
    }

    fn overlap(&self, base: u64, end: u64) -> Option<u64> {
        let (&start, &len) = self.taken.range(..end).next_back()?;
        (start + len > base).then_some(start + len)
    }

    fn gap(&self, size: u64) -> Option<u64> {
        let mut base = self.window.start.checked_next_multiple_of(size)?;
        loop {
            let end = base.checked_add(size).filter(|&end| end <= self.window.end)?;
            match self.overlap(base, end) {
                None => return Some(base),
                Some(after) => base = after.checked_next_multiple_of(size)?,
            }
        }
    }
}
