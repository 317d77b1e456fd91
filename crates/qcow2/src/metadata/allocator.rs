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

impl Metadata {
    /// Allocate one cluster.
    pub(crate) fn allocate(&mut self) -> Result<Allocation, Error> {
        self.check_writable()?;
        let mut cluster = self.hint;
        loop {
            if let Some(end) = self.quarantine.end_of(cluster) {
                cluster = end;
            } else if self.refcount(cluster)? != 0 {
                cluster += 1;
            } else {
                let mut bump = cluster;
                self.ensure_refcount_block(cluster, &mut bump)?;
                if bump == cluster {
                    break;
                }
                // New refcount structures took this place.
                cluster = bump;
            }
        }
        if self.taken.contains(&cluster) {
            return Err(
                self.mark_corrupt(format!("cluster {cluster} holds metadata but has refcount 0"))
            );
        }
        let zeroed = cluster >= self.virgin;
        self.virgin = self.virgin.max(cluster + 1);
        self.extend_file(cluster + 1)?;
        self.set_refcount(cluster, 1)?;
        self.hint = cluster + 1;
        Ok(Allocation { host: cluster << self.geometry.cluster_bits, zeroed })
    }

    /// Allocate `count` neighbouring clusters; returns the number of the first.
    pub(super) fn allocate_run(&mut self, count: u64) -> Result<u64, Error> {
        let bits = self.geometry.cluster_bits;
        let mut run: Vec<u64> = Vec::new();
        let mut skipped = Vec::new();
        while (run.len() as u64) < count {
            let cluster = self.allocate()?.host >> bits;
            if run.last().is_some_and(|last| last + 1 != cluster) {
                skipped.append(&mut run);
            }
            run.push(cluster);
        }
        for cluster in skipped {
            self.release_unused(cluster << bits)?;
        }
        Ok(run.first().copied().unwrap_or(0))
    }

    /// Give back a cluster that nothing, in memory or on disk, ever referred to.
    pub(crate) fn release_unused(&mut self, host: u64) -> Result<(), Error> {
        let cluster = host >> self.geometry.cluster_bits;
        if self.drop_refcount(cluster)? {
            self.hint = self.hint.min(cluster);
        }
        Ok(())
    }

    /// Reserve a cluster for metadata at a place the allocator chose.
    pub(super) fn claim(&mut self, cluster: u64) -> Result<(), Error> {
        if self.quarantine.contains(cluster) || !self.taken.insert(cluster) {
            return Err(self.mark_corrupt(format!(
                "cluster {cluster} holds metadata but has no refcount block"
            )));
        }
        Ok(())
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
