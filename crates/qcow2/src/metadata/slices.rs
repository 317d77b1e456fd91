//! A bounded cache of table slices: the parts of L2 tables and refcount blocks in use.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// A slice is at most this long; larger tables are cached in pieces.
pub(crate) const MAX_SLICE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) bytes: Box<[u8]>,
    /// Number of the last change; grows over the whole image.
    pub(crate) version: u64,
    pub(crate) dirty: bool,
    used: u64,
}

/// Slices by their offset in the file.
#[derive(Debug)]
pub(crate) struct SliceCache {
    slices: HashMap<u64, Slice, RandomState>,
    capacity: usize,
    clock: u64,
}

impl SliceCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slices: HashMap::default(), capacity: capacity.max(2), clock: 0 }
    }

    /// Hold fewer or more slices, all of which are clean.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(2);
        while self.slices.len() > self.capacity && self.make_room() {}
    }

    pub(crate) fn get(&mut self, offset: u64) -> Option<&mut Slice> {
        self.clock += 1;
        let slice = self.slices.get_mut(&offset)?;
        slice.used = self.clock;
        Some(slice)
    }

    /// Make room for one more slice; false when every slice is dirty and must be written first.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.slices.len() < self.capacity {
            return true;
        }
        let oldest =
            self.slices.iter().filter(|(_, s)| !s.dirty).min_by_key(|(_, s)| s.used).map(|s| *s.0);
        oldest.is_some_and(|offset| self.slices.remove(&offset).is_some())
    }

    pub(crate) fn insert(&mut self, offset: u64, bytes: Box<[u8]>) {
        self.clock += 1;
        let slice = Slice { bytes, version: 0, dirty: false, used: self.clock };
        self.slices.insert(offset, slice);
    }

    /// Forget the slices inside a range of the file (a table that is gone or new).
    pub(crate) fn forget(&mut self, start: u64, len: u64) {
        self.slices.retain(|offset, _| !(start..start + len).contains(offset));
    }

    /// Offsets of the dirty slices in ascending order.
    pub(crate) fn dirty(&self) -> Vec<u64> {
        let mut dirty: Vec<u64> =
            self.slices.iter().filter(|(_, s)| s.dirty).map(|s| *s.0).collect();
        dirty.sort_unstable();
        dirty
    }

    pub(crate) fn has_dirty(&self) -> bool {
        self.slices.values().any(|s| s.dirty)
    }
}
