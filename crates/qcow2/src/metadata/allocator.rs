//! Allocation of host clusters.

use super::Metadata;
use crate::error::Error;

/// A cluster handed out by the allocator, with a reference count of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// Offset in the file.
    pub(crate) host: u64,
    /// The cluster was never used: it reads as zeroes.
    pub(crate) zeroed: bool,
}

/// The file is extended in steps of this many bytes, so that parallel writes do not extend it.
const EXTEND_STEP: u64 = 8 << 20;

/// Clusters that were given back are remembered as this many ranges at most.
const MAX_FREE_RANGES: usize = if cfg!(test) { 8 } else { 64 << 10 };

impl Metadata {
    /// Allocate one cluster.
    pub(crate) fn allocate(&mut self) -> Result<Allocation, Error> {
        self.check_writable()?;
        self.settle()?;
        let cluster = self.find_free()?;
        if self.taken.contains(&cluster) {
            return Err(
                self.mark_corrupt(format!("cluster {cluster} holds metadata but has refcount 0"))
            );
        }
        let zeroed = cluster >= self.virgin;
        self.virgin = self.virgin.max(cluster + 1);
        self.extend_file(cluster + 1)?;
        self.set_refcount(cluster, 1)?;
        if !self.free.remove(cluster, cluster + 1) {
            self.hint = cluster + 1;
        }
        Ok(Allocation { host: cluster << self.geometry.cluster_bits, zeroed })
    }

    /// A cluster with a count of zero, in a block that exists: one that was given back, or the next
    /// one from the hint on.
    fn find_free(&mut self) -> Result<u64, Error> {
        while let Some(cluster) = self.free.first() {
            if self.refcount(cluster)? == 0 && !self.quarantine.contains(cluster) {
                return Ok(cluster);
            }
            self.free.remove(cluster, cluster + 1);
        }
        let mut cluster = self.hint;
        loop {
            cluster = self.next_zero_refcount(cluster)?;
            if let Some(end) = self.quarantine.end_of(cluster) {
                cluster = end;
            } else if self.has_refcount_block(cluster) {
                return Ok(cluster);
            } else {
                // The new block may take this very place.
                self.ensure_refcount_block(cluster)?;
                self.settle()?;
            }
        }
    }

    /// Clusters from `start` to `end` have a durable count of zero.
    pub(super) fn note_free(&mut self, start: u64, end: u64) {
        if self.free.len() < MAX_FREE_RANGES {
            self.free.insert(start, end);
        } else {
            // They are found again by looking at the counts.
            self.hint = self.hint.min(start);
        }
    }

    /// Allocate `count` neighbouring clusters; returns the number of the first.
    pub(super) fn allocate_run(&mut self, count: u64) -> Result<u64, Error> {
        let bits = self.geometry.cluster_bits;
        let mut run: Vec<u64> = Vec::new();
        let mut skipped = Vec::new();
        let mut done = Ok(());
        while (run.len() as u64) < count {
            let cluster = match self.allocate() {
                Ok(allocation) => allocation.host >> bits,
                Err(error) => {
                    skipped.append(&mut run);
                    done = Err(error);
                    break;
                }
            };
            if run.last().is_some_and(|last| last + 1 != cluster) {
                skipped.append(&mut run);
            }
            run.push(cluster);
        }
        for cluster in skipped {
            self.release_unused(cluster << bits)?;
        }
        done.map(|()| run.first().copied().unwrap_or(0))
    }

    /// Give back a cluster that nothing, in memory or on disk, ever referred to.
    pub(crate) fn release_unused(&mut self, host: u64) -> Result<(), Error> {
        let cluster = host >> self.geometry.cluster_bits;
        if self.drop_refcount(cluster)? {
            self.note_free(cluster, cluster + 1);
        }
        Ok(())
    }

    /// Reserve `count` neighbouring clusters for refcount structures, from `from` on. They are
    /// counted later, as the blocks for that may not exist yet: see [`settle`](Self::settle).
    pub(super) fn claim(&mut self, from: u64, count: u64) -> Result<u64, Error> {
        let mut start = from;
        let mut end = from;
        while end < start + count {
            if let Some(after) = self.quarantine.end_of(end) {
                (start, end) = (after, after);
            } else if self.owed.contains(&end) || self.refcount(end)? != 0 {
                (start, end) = (end + 1, end + 1);
            } else if self.taken.contains(&end) {
                return Err(self.mark_corrupt(format!(
                    "cluster {end} holds metadata but has no refcount block"
                )));
            } else {
                end += 1;
            }
        }
        self.taken.extend(start..end);
        self.free.remove(start, end);
        Ok(start)
    }

    /// Undo a claim whose clusters are named nowhere.
    pub(super) fn unclaim(&mut self, start: u64, count: u64) {
        for cluster in start..start + count {
            self.taken.remove(&cluster);
        }
    }

    /// Make a cluster that becomes a table read as zeroes.
    pub(super) fn zero_cluster(&mut self, host: u64) -> Result<(), Error> {
        let cluster = host >> self.geometry.cluster_bits;
        let size = self.geometry.cluster_size();
        self.l2.forget(host, size);
        self.refcounts.forget(host, size);
        self.extend_file(cluster + 1)?;
        if cluster >= self.virgin {
            self.virgin = cluster + 1;
            return Ok(());
        }
        self.write("zeroes", &vec![0u8; size as usize], host)
    }

    /// Make the file long enough for `clusters` clusters.
    pub(super) fn extend_file(&mut self, clusters: u64) -> Result<(), Error> {
        let end = clusters << self.geometry.cluster_bits;
        if end <= self.file_len {
            return Ok(());
        }
        let step = EXTEND_STEP.min((end / 4).next_multiple_of(self.geometry.cluster_size()));
        let len = end.saturating_add(step);
        self.file.set_len(len).map_err(|e| Error::io("extend the image file", e))?;
        self.file_len = len;
        Ok(())
    }
}
