//! Discard and write-zeroes: whole clusters by changing entries, the rest as data.

use super::{Job, Phase, Step};
use crate::error::Error;
use crate::image::{Chain, Kind, Op};
use crate::plan::{self, Clear};

/// Clusters handled under one lock.
const CHUNK: u64 = 4096;
/// Zeroes written as data in one step.
const DATA_CHUNK: u64 = 1 << 20;

/// A part of a discard or write-zeroes request still to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Whole guest clusters `[first, end)`.
    Clusters { first: u64, end: u64 },
    /// Zeroes as data: (offset, length).
    Data { offset: u64, len: u64 },
    /// Give a range of a raw file back to the host.
    Punch,
}

impl Job {
    pub(super) fn plan_parts(&mut self, chain: &Chain) {
        let (offset, end) = (self.offset, self.offset + self.len);
        let Kind::Qcow2 { geometry, .. } = &chain.top().kind else {
            self.parts.push_back(match self.op {
                Op::WriteZeroes { unmap: false } => Part::Data { offset, len: self.len },
                _ => Part::Punch,
            });
            return;
        };
        let (bits, size) = (geometry.cluster_bits, geometry.cluster_size());
        let first = offset.div_ceil(size);
        // The last cluster is whole when the range reaches the end of the disk.
        let last = if end >= chain.size() { end.div_ceil(size) } else { end >> bits };
        let data = matches!(self.op, Op::WriteZeroes { .. });
        if first >= last {
            if data {
                self.parts.push_back(Part::Data { offset, len: self.len });
            }
            return;
        }
        if data && first << bits > offset {
            self.parts.push_back(Part::Data { offset, len: (first << bits) - offset });
        }
        self.parts.push_back(Part::Clusters { first, end: last });
        if data && end > last << bits {
            self.parts.push_back(Part::Data { offset: last << bits, len: end - (last << bits) });
        }
    }

    /// Go on with the next part, or finish.
    pub(super) fn next_part(&mut self, chain: &Chain) -> Result<Step, Error> {
        match self.parts.pop_front() {
            None => Ok(Step::Done(Ok(()))),
            Some(Part::Data { offset, len }) => {
                let now = len.min(DATA_CHUNK);
                if now < len {
                    self.parts.push_front(Part::Data { offset: offset + now, len: len - now });
                }
                self.current = (offset, now);
                self.start_write(chain)
            }
            Some(Part::Clusters { first, end }) => {
                let chunk_end = end.min(first + CHUNK);
                if chunk_end < end {
                    self.parts.push_front(Part::Clusters { first: chunk_end, end });
                }
                if self.lock_clusters(chain, first, chunk_end, true) {
                    self.clear(chain, first, chunk_end)
                } else {
                    self.wait(Phase::ClearLocked { first, end: chunk_end })
                }
            }
            Some(Part::Punch) => {
                let punched = chain.file(0).punch(self.offset, self.len);
                if punched.is_err() && self.op != Op::Discard {
                    self.parts.push_front(Part::Data { offset: self.offset, len: self.len });
                }
                self.next_part(chain)
            }
        }
    }

    /// Clear whole clusters; the lock is held.
    pub(super) fn clear(&mut self, chain: &Chain, first: u64, end: u64) -> Result<Step, Error> {
        let as_data = self.clear_entries(chain, first, end)?;
        self.unlock(chain);
        let Kind::Qcow2 { geometry, .. } = &chain.top().kind else { return Ok(Step::Done(Ok(()))) };
        let limit = self.offset + self.len;
        for cluster in as_data.into_iter().rev() {
            let offset = cluster << geometry.cluster_bits;
            let len = geometry.cluster_size().min(limit - offset);
            self.parts.push_front(Part::Data { offset, len });
        }
        self.next_part(chain)
    }

    /// Change the entries; returns the clusters that have to be zeroed as data.
    fn clear_entries(&self, chain: &Chain, first: u64, end: u64) -> Result<Vec<u64>, Error> {
        let mut as_data = Vec::new();
        let mut metadata = chain.metadata(0)?;
        metadata.check_writable()?;
        let geometry = metadata.geometry();
        let zero = metadata.unallocated_is_zero();
        let table = 1u64 << geometry.l2_bits();
        let mut mappings = Vec::new();
        let mut cluster = first;
        while cluster < end {
            let run_end = ((cluster / table + 1) * table).min(end);
            if (zero || self.op == Op::Discard) && !metadata.has_l2_table(cluster)? {
                cluster = run_end;
                continue;
            }
            mappings.clear();
            metadata.map(cluster, run_end - cluster, &mut mappings)?;
            for (guest, mapping) in (cluster..run_end).zip(&mappings) {
                let clear = match self.op {
                    Op::WriteZeroes { unmap } => plan::zero(&geometry, *mapping, unmap, zero),
                    _ => plan::discard(&geometry, *mapping, zero),
                };
                match clear {
                    Clear::Keep => {}
                    Clear::Map(new) => metadata.set_mapping(guest, new)?,
                    Clear::WriteData => as_data.push(guest),
                }
            }
            cluster = run_end;
        }
        if metadata.wants_flush() {
            metadata.flush_all()?;
        }
        Ok(as_data)
    }
}
