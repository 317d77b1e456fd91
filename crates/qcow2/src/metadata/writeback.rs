//! Bringing changed metadata to the file, in the order that keeps it consistent at every point.

use super::Metadata;
use crate::error::Error;

/// What one flush has to write after its first sync: copies taken when it began, so that later
/// changes, whose data is not durable yet, do not slip in.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    /// L2 slices as (offset, version, bytes).
    l2: Vec<(u64, u64, Box<[u8]>)>,
    /// L1 entries as (index, value).
    l1: Vec<(usize, u64)>,
    /// Clusters whose last reference is gone once the copies are durable.
    dropped: Vec<(u64, u64)>,
    /// Clusters whose count of zero is durable after the first sync.
    cleared: Vec<(u64, u64)>,
}

impl Flush {
    /// Is there nothing to write after the data itself is durable?
    pub(crate) fn is_empty(&self) -> bool {
        self.l2.is_empty() && self.l1.is_empty() && self.dropped.is_empty()
    }
}

impl Metadata {
    /// First step: refcounts go to the file. The caller syncs next.
    pub(crate) fn flush_begin(&mut self) -> Result<Flush, Error> {
        self.check_writable()?;
        self.write_refcounts()?;
        // Only a flush that began alone may end a quarantine: a cluster could otherwise leave and
        // re-enter it between another flush's begin and end.
        let cleared = if self.flushes == 0 { self.quarantine.iter().collect() } else { Vec::new() };
        self.flushes += 1;
        let mut flush = Flush {
            l1: self.l1_dirty.iter().map(|i| (*i, self.l1[*i])).collect(),
            dropped: std::mem::take(&mut self.dropped),
            cleared,
            ..Flush::default()
        };
        for offset in self.l2.dirty() {
            if let Some(slice) = self.l2.get(offset) {
                flush.l2.push((offset, slice.version, slice.bytes.clone()));
            }
        }
        Ok(flush)
    }

    /// Second step, after the first sync: L2 slices and L1 entries go to the file, in any order. A
    /// new L2 table was written as zeroes or as a copy before the sync, so that an L1 entry may
    /// name it before its slices arrive. The caller syncs next.
    pub(crate) fn flush_tables(&mut self, flush: &Flush) -> Result<(), Error> {
        self.check_writable()?;
        // The sync has made the counts of these clusters durable.
        for (start, end) in &flush.cleared {
            self.quarantine.remove(*start, *end);
            self.note_free(*start, *end);
        }
        for (offset, version, bytes) in &flush.l2 {
            if self.written.get(offset).is_some_and(|written| written >= version) {
                continue;
            }
            self.write("L2 table", bytes, *offset)?;
            self.written.insert(*offset, *version);
            if let Some(slice) = self.l2.get(*offset)
                && slice.version == *version
            {
                slice.dirty = false;
            }
        }
        for (index, value) in &flush.l1 {
            let at = self.header.l1_offset + *index as u64 * 8;
            self.write("L1 entry", &value.to_be_bytes(), at)?;
            if self.l1[*index] == *value {
                self.l1_dirty.remove(index);
            }
        }
        Ok(())
    }

    /// Last step, after everything above is durable: dropped clusters are given back.
    pub(crate) fn flush_end(&mut self, flush: &mut Flush) -> Result<(), Error> {
        let dropped = std::mem::take(&mut flush.dropped);
        self.end_of_flush();
        self.check_writable()?;
        if dropped.is_empty() {
            return Ok(());
        }
        let bits = self.geometry.cluster_bits;
        let mut hole: Option<(u64, u64)> = None;
        for (first, count) in dropped {
            for cluster in first..first + count {
                if !self.drop_refcount(cluster)? {
                    continue;
                }
                self.taken.remove(&cluster);
                self.quarantine.insert(cluster, cluster + 1);
                hole = match hole {
                    Some((start, end)) if end == cluster => Some((start, cluster + 1)),
                    Some((start, end)) => {
                        self.punch(start << bits, (end - start) << bits);
                        Some((cluster, cluster + 1))
                    }
                    None => Some((cluster, cluster + 1)),
                };
            }
        }
        if let Some((start, end)) = hole {
            self.punch(start << bits, (end - start) << bits);
        }
        // Not needed for consistency, but a process that ends here leaves no leak behind.
        self.write_refcounts()
    }

    /// A flush that failed: nothing it has not written is lost, nothing is given back.
    pub(crate) fn flush_abort(&mut self, flush: &mut Flush) {
        self.dropped.append(&mut flush.dropped);
        self.end_of_flush();
    }

    fn end_of_flush(&mut self) {
        self.flushes = self.flushes.saturating_sub(1);
        if self.flushes == 0 {
            self.written.clear();
        }
    }

    fn punch(&mut self, offset: u64, len: u64) {
        self.l2.forget(offset, len);
        // A host that cannot punch keeps the space allocated: the cluster is reusable all the same.
        let _ = self.file.punch(offset, len);
    }

    /// Every step at once, for callers that hold the lock anyway.
    pub(crate) fn flush_all(&mut self) -> Result<(), Error> {
        let mut flush = self.flush_begin()?;
        let written = self.flush_steps(&flush);
        if let Err(error) = written {
            self.flush_abort(&mut flush);
            return Err(error);
        }
        self.flush_end(&mut flush)
    }

    fn flush_steps(&mut self, flush: &Flush) -> Result<(), Error> {
        self.sync()?;
        self.flush_tables(flush)?;
        if flush.is_empty() { Ok(()) } else { self.sync() }
    }

    /// Is there anything a flush would write?
    pub(crate) fn is_dirty(&self) -> bool {
        self.l2.has_dirty()
            || self.refcounts.has_dirty()
            || !self.l1_dirty.is_empty()
            || !self.dropped.is_empty()
            || !self.refcount_table_dirty.is_empty()
            || self.refcount_table_moved.is_some()
    }

    /// Write the dirty L2 slices when the cache is full of them.
    pub(super) fn write_back_l2(&mut self) -> Result<(), Error> {
        self.check_writable()?;
        self.write_refcounts()?;
        self.sync()?;
        for offset in self.l2.dirty() {
            let Some((version, bytes)) = self.l2.get(offset).map(|s| (s.version, s.bytes.clone()))
            else {
                continue;
            };
            self.write("L2 table", &bytes, offset)?;
            if self.flushes > 0 {
                self.written.insert(offset, version);
            }
            if let Some(slice) = self.l2.get(offset) {
                slice.dirty = false;
            }
        }
        Ok(())
    }

    /// Write dirty refcount slices: always allowed, as no count in memory is below what the
    /// durable tables refer to.
    pub(super) fn write_refcount_slices(&mut self) -> Result<(), Error> {
        for offset in self.refcounts.dirty() {
            let Some(bytes) = self.refcounts.get(offset).map(|s| s.bytes.clone()) else {
                continue;
            };
            self.write("refcount block", &bytes, offset)?;
            if let Some(slice) = self.refcounts.get(offset) {
                slice.dirty = false;
            }
        }
        Ok(())
    }

    /// Write refcount blocks and, once the blocks are durable, the table that names them.
    fn write_refcounts(&mut self) -> Result<(), Error> {
        self.settle()?;
        self.write_refcount_slices()?;
        if self.refcount_table_dirty.is_empty() && self.refcount_table_moved.is_none() {
            return Ok(());
        }
        self.sync()?;
        let table = self.header.refcount_table_offset;
        if let Some((old, clusters)) = self.refcount_table_moved {
            let bytes: Vec<u8> = self.refcount_table.iter().flat_map(|e| e.to_be_bytes()).collect();
            self.write("refcount table", &bytes, table)?;
            self.sync()?;
            let mut place = [0u8; 12];
            place[..8].copy_from_slice(&table.to_be_bytes());
            place[8..].copy_from_slice(&self.header.refcount_table_clusters.to_be_bytes());
            self.write("the refcount table's place in the header", &place, 48)?;
            self.sync()?;
            self.refcount_table_moved = None;
            self.dropped.push((old >> self.geometry.cluster_bits, u64::from(clusters)));
        } else {
            for index in &self.refcount_table_dirty {
                let at = table + *index as u64 * 8;
                self.write("refcount table entry", &self.refcount_table[*index].to_be_bytes(), at)?;
            }
            self.sync()?;
        }
        self.refcount_table_dirty.clear();
        Ok(())
    }
}
