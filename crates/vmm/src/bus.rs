//! Address decoding: which device answers an access to a port or to a physical address.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

/// A device that answers accesses to address ranges it is registered for.
///
/// Any vCPU may call at any time, so a device locks what it must. `offset` and the length of
/// `data` come from the guest: an access may straddle registers or reach beyond the last one, but
/// `offset` always lies inside the registered range.
pub trait BusDevice: Send + Sync {
    /// Fills `data` with what the guest reads at `base + offset`.
    fn read(&self, base: u64, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes to `base + offset`.
    fn write(&self, base: u64, offset: u64, data: &[u8]);
}

/// Why a range could not be registered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or runs past the end of the address space.
    #[error("bus range {base:#x}+{len:#x} is empty or overflows the address space")]
    Range {
        /// First address asked for.
        base: u64,
        /// Length in bytes asked for.
        len: u64,
    },
    /// Another device answers part of the range.
    #[error("bus range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Length in bytes asked for.
        len: u64,
        /// First address of the range already there.
        other: u64,
    },
}

struct Range {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// One address space: I/O ports, or memory-mapped I/O.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Bus {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `device` answer `len` bytes from `base`.
    ///
    /// # Errors
    /// [`BusError`] if the range is not representable or not free.
    pub fn insert(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|span| base.checked_add(span))
            .ok_or(BusError::Range { base, len })?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((&other, range)) = ranges.range(..=last).next_back()
            && other + (range.len - 1) >= base
        {
            return Err(BusError::Overlap { base, len, other });
        }
        ranges.insert(base, Range { len, device });
        Ok(())
    }

    /// Takes the range that starts at `base` away. Returns whether there was one.
    ///
    /// An access another vCPU has already begun may still reach the device.
    pub fn remove(&self, base: u64) -> bool {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&base).is_some()
    }

    fn find(&self, addr: u64) -> Option<(u64, Arc<dyn BusDevice>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (&base, range) = ranges.range(..=addr).next_back()?;
        (addr - base < range.len).then(|| (base, Arc::clone(&range.device)))
    }

    /// A guest's read. What no device answers reads as all ones. Returns whether one answered.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        match self.find(addr) {
            Some((base, device)) => {
                device.read(base, addr - base, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// A guest's write. What no device answers is dropped. Returns whether one answered.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        match self.find(addr) {
            Some((base, device)) => {
                device.write(base, addr - base, data);
                true
            }
            None => false,
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_map().entries(ranges.iter().map(|(base, range)| (base, range.len))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, base: u64, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((base, offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_of_their_range_only() {
        let bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x10f, &mut data));
        assert_eq!(data, [0xf, 0xf]);
        assert!(!bus.read(0x110, &mut data));
        assert_eq!(data, [0xff, 0xff]);
        assert!(!bus.read(0xff, &mut data));
        assert!(bus.write(0x104, &[7]));
        assert!(!bus.write(0x110, &[7]));
        assert_eq!(*device.0.lock().unwrap(), vec![(0x100, 4, vec![7])]);
    }

    #[test]
    fn overlapping_and_impossible_ranges_are_refused() {
        let bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        for (base, len) in [(0x100, 1), (0x10f, 1), (0xf0, 0x11), (0xf0, 0x100)] {
            assert!(
                matches!(bus.insert(base, len, device.clone()), Err(BusError::Overlap { .. })),
                "{base:#x}+{len:#x}"
            );
        }
        assert!(matches!(bus.insert(5, 0, device.clone()), Err(BusError::Range { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, device.clone()), Err(BusError::Range { .. })));
        bus.insert(0xf0, 0x10, device.clone()).unwrap();
        bus.insert(0x110, 0x10, device.clone()).unwrap();
        bus.insert(u64::MAX, 1, device).unwrap();
    }

    #[test]
    fn a_removed_range_is_free_again() {
        let bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        assert!(bus.remove(0x100));
        assert!(!bus.remove(0x100));
        assert!(!bus.read(0x100, &mut [0]));
        bus.insert(0x108, 0x10, device).unwrap();
    }
}
