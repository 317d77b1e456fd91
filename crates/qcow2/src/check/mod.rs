//! Consistency: every cluster's reference count against the references that exist.

mod references;
mod repair;

use std::collections::HashSet;
use std::fs::File;

use crate::error::Error;
use crate::format::entry::{self, COPIED, Mapping};
use crate::format::header::{Geometry, Header};
use crate::format::{be64, refcount};
use crate::metadata::read_table;
use crate::storage::Storage;
use references::References;
pub use repair::repair;
pub(crate) use repair::repair_storage;

/// Findings kept in words; all are counted.
const MAX_MESSAGES: usize = 100;

/// The outcome of [`check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Clusters counted more often than referenced: wasted space, no danger.
    pub leaks: u64,
    /// Contradictions that can lose data.
    pub corruptions: u64,
    /// The first findings in words.
    pub messages: Vec<String>,
}

impl CheckReport {
    fn corruption(&mut self, message: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.note(message);
    }

    fn leak(&mut self, message: impl FnOnce() -> String) {
        self.leaks += 1;
        self.note(message);
    }

    fn note(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message());
        }
    }
}

/// Compare the reference counts of a qcow2 image with its references, and look at every table
/// entry. Only reads; the image must not be in use by a writer. Takes two bytes of memory for each
/// cluster in use.
///
/// # Errors
/// A header that cannot be used, or the host's I/O error. What is wrong with the tables is in the
/// report.
pub fn check(file: &File) -> Result<CheckReport, Error> {
    check_storage(file)
}

pub(crate) fn check_storage(file: &dyn Storage) -> Result<CheckReport, Error> {
    let header = Header::read(file)?;
    let mut report = CheckReport::default();
    let mut references = References::collect(file, &header, &mut report)?;
    let table = refcount_table(file, &header)?;
    references.add_refcount_structures(&header, &table, &mut report);
    compare(file, &header, &table, &references, &mut report)?;
    Ok(report)
}

fn refcount_table(file: &dyn Storage, header: &Header) -> Result<Vec<u64>, Error> {
    let bytes = u64::from(header.refcount_table_clusters) << header.geometry.cluster_bits;
    read_table(file, "refcount table", header.refcount_table_offset, (bytes / 8) as usize)
}

fn compare(
    file: &dyn Storage,
    header: &Header,
    table: &[u64],
    references: &References,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let geometry = header.geometry;
    let per_block = 1u64 << geometry.refcount_block_bits();
    let mut block = vec![0u8; geometry.cluster_size() as usize];
    let mut counts = Counts { geometry, blocks: Vec::new() };
    for (index, offset) in table.iter().enumerate() {
        if *offset == 0 || !references.is_inside(*offset) {
            continue;
        }
        if references.count(offset >> geometry.cluster_bits) > 1 {
            report.corruption(|| format!("the refcount block at {offset:#x} is in use twice"));
            continue;
        }
        let n = file
            .read_at(&mut block, *offset)
            .map_err(|e| Error::io(format!("read refcount block at {offset:#x}"), e))?;
        block[n..].fill(0);
        let first = index as u64 * per_block;
        let mut ones = vec![0u8; (per_block as usize).div_ceil(8)];
        for slot in 0..per_block {
            let count = refcount::get(&block, slot as usize, geometry.refcount_order);
            let cluster = first + slot;
            let found = references.count(cluster);
            if count == 1 {
                ones[slot as usize / 8] |= 1 << (slot % 8);
            }
            if count > found {
                report.leak(|| format!("cluster {cluster}: refcount {count}, references {found}"));
            } else if count < found {
                report.corruption(|| {
                    format!("cluster {cluster}: refcount {count}, references {found}")
                });
            }
        }
        counts.blocks.push((index as u64, ones));
    }
    for cluster in references.counted() {
        let index = cluster / per_block;
        let covered = usize::try_from(index).ok().and_then(|i| table.get(i));
        if covered.is_none_or(|offset| *offset == 0) {
            report
                .corruption(|| format!("cluster {cluster}: in use, but without a refcount block"));
        }
    }
    check_flags(file, header, &counts, references, report)
}

/// Which clusters have a count of exactly one.
struct Counts {
    geometry: Geometry,
    /// (table index, bitmap), ascending.
    blocks: Vec<(u64, Vec<u8>)>,
}

impl Counts {
    fn is_one(&self, offset: u64) -> bool {
        let cluster = offset >> self.geometry.cluster_bits;
        let bits = self.geometry.refcount_block_bits();
        let Ok(at) = self.blocks.binary_search_by_key(&(cluster >> bits), |b| b.0) else {
            return false;
        };
        let slot = (cluster & ((1 << bits) - 1)) as usize;
        self.blocks[at].1[slot / 8] & 1 << (slot % 8) != 0
    }
}

/// An entry of the active tables says "writable in place" if and only if its count is one.
fn check_flags(
    file: &dyn Storage,
    header: &Header,
    counts: &Counts,
    references: &References,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let geometry = header.geometry;
    let mut seen = HashSet::new();
    for (index, raw) in references.l1().iter().enumerate() {
        let table = raw & entry::OFFSET_MASK;
        if table == 0 || !references.is_table(table) || !seen.insert(table) {
            continue;
        }
        if counts.is_one(table) != (raw & COPIED != 0) {
            report.corruption(|| format!("L1 entry {index}: {raw:#x} has the wrong copied flag"));
        }
        let mut bytes = vec![0u8; geometry.cluster_size() as usize];
        let n = file
            .read_at(&mut bytes, table)
            .map_err(|e| Error::io(format!("read L2 table at {table:#x}"), e))?;
        for slot in 0..n / 8 {
            let raw = be64(&bytes, slot * 8);
            let guest = (index as u64) << geometry.l2_bits() | slot as u64;
            if let Ok(Mapping::Data { host, copied } | Mapping::Zero { host: Some(host), copied }) =
                entry::decode(raw, guest, &geometry)
                && counts.is_one(host) != copied
            {
                report.corruption(|| {
                    format!("guest cluster {guest}: {raw:#x} has the wrong copied flag")
                });
            }
        }
    }
    Ok(())
}
