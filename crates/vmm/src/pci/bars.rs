//! Where BARs lie: two windows, first fit, naturally aligned.

use super::PciError;
use std::{collections::BTreeMap, ops::Range};

/// What a BAR may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory that must lie below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two BAR registers.
    Memory64,
}

/// The address space BARs are given from.
#[derive(Debug)]
pub struct BarAllocator {
    low: Range<u64>,
    high: Range<u64>,
    taken: BTreeMap<u64, u64>,
}

impl BarAllocator {
    /// All of both windows is free. `high` may be empty.
    pub fn new(low: Range<u64>, high: Range<u64>) -> Self {
        Self { low, high, taken: BTreeMap::new() }
    }

    /// Takes `size` bytes, a power of two.
    ///
    /// # Errors
    /// If no window of that kind has room.
    pub fn allocate(&mut self, kind: BarKind, size: u64) -> Result<u64, PciError> {
        let windows: &[&Range<u64>] = match kind {
            BarKind::Memory32 => &[&self.low],
            BarKind::Memory64 => &[&self.high, &self.low],
        };
        let place = windows.iter().find_map(|window| self.gap(window, size));
        let base = place.ok_or(PciError::NoSpace { size })?;
        self.taken.insert(base, size);
        Ok(base)
    }

    /// Takes exactly `base..base + size` if it lies inside a window of that kind, is aligned and is
    /// free. This is how a guest's own choice is checked.
    pub fn claim(&mut self, kind: BarKind, base: u64, size: u64) -> bool {
        let Some(end) = base.checked_add(size) else { return false };
        let inside = |window: &Range<u64>| window.start <= base && end <= window.end;
        let allowed = inside(&self.low) || (kind == BarKind::Memory64 && inside(&self.high));
        if !allowed || !base.is_multiple_of(size) || self.overlap(base, end).is_some() {
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

    fn gap(&self, window: &Range<u64>, size: u64) -> Option<u64> {
        let mut base = window.start.checked_next_multiple_of(size)?;
        loop {
            let end = base.checked_add(size).filter(|&end| end <= window.end)?;
            match self.overlap(base, end) {
                None => return Some(base),
                Some(after) => base = after.checked_next_multiple_of(size)?,
            }
        }
    }
}
