//! Consistency: every cluster's reference count against the references that exist.

mod references;
mod repair;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;

use crate::error::Error;
use crate::format::entry::{self, COPIED, Mapping};
use crate::format::header::{Geometry, Header};
use crate::format::{be64, refcount};
use crate::metadata::read_table;
use crate::storage::Storage;
use references::{CHUNK, References};
pub use repair::repair;
pub(crate) use repair::repair_storage;

/// Findings kept in words; all are counted.
const MAX_MESSAGES: usize = 100;

/// What one check may cost at least, in bytes of tables read and clusters looked at: enough for
/// 32 TiB of clusters of 64 KiB. More is allowed for a file that takes more space. Unit tests have
/// no time for so much.
const MIN_BUDGET: u64 = if cfg!(test) { 128 << 20 } else { 4 << 30 };

/// What is left of it. Tables of a hostile image may be holes, or the same bytes again and again,
/// so that a small file asks for any amount of work.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    whole: u64,
}

impl Budget {
    pub(crate) fn new(file: &dyn Storage) -> Result<Self, Error> {
        let taken = file.allocated().map_err(|e| Error::io("find the space the image takes", e))?;
        let whole = MIN_BUDGET.saturating_add(taken.saturating_mul(16));
        Ok(Self { left: whole, whole })
    }

    pub(crate) fn charge(&mut self, work: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(work).ok_or_else(|| Error::TooLarge {
            what: "what has to be read to check the image",
            limit: format!("{} MiB", self.whole >> 20),
        })?;
        Ok(())
    }
}

/// The outcome of [`check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Wasted space, no danger: clusters counted more often than referenced, and entries that do
    /// not say that their cluster may be written in place. [`repair`] cures it.
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

    /// A flag that says a cluster may be written in place, and whether that is so.
    fn flag(&mut self, says: bool, is: bool, message: impl FnOnce() -> String) {
        match (says, is) {
            (true, false) => self.corruption(message),
            (false, true) => self.leak(message),
            _ => {}
        }
    }

    fn note(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message());
        }
    }
}

/// Compare the reference counts of a qcow2 image with its references, and look at every table
/// entry; an entry that points beyond the end of the file is a corruption. Only reads; the image
/// must not be in use by a writer. Takes two bytes of memory for each cluster in use, 1 GiB at
/// most; the work is bounded by the space the file takes.
///
/// # Errors
/// A header or a table that cannot be read at all, [`Error::TooLarge`] for tables that no honest
/// image has, or the host's I/O error. What is wrong with single entries is in the report.
pub fn check(file: &File) -> Result<CheckReport, Error> {
    check_storage(file)
}

pub(crate) fn check_storage(file: &dyn Storage) -> Result<CheckReport, Error> {
    let header = Header::read(file)?;
    let mut budget = Budget::new(file)?;
    let mut report = CheckReport::default();
    let (references, table) = collect(file, &header, &mut budget, &mut report)?;
    compare(file, &header, &table, &references, &mut budget, &mut report)?;
    Ok(report)
}

/// All references, those of the refcount structures included, and the refcount table.
fn collect(
    file: &dyn Storage,
    header: &Header,
    budget: &mut Budget,
    report: &mut CheckReport,
) -> Result<(References, Vec<u64>), Error> {
    let mut references = References::collect(file, header, budget, report)?;
    let table = refcount_table(file, header)?;
    references.add_refcount_structures(header, &table, budget, report)?;
    Ok((references, table))
}

fn refcount_table(file: &dyn Storage, header: &Header) -> Result<Vec<u64>, Error> {
    let bytes = u64::from(header.refcount_table_clusters) << header.geometry.cluster_bits;
    read_table(file, "refcount table", header.refcount_table_offset, (bytes / 8) as usize)
}

/// Reads one refcount block.
fn read_block(
    file: &dyn Storage,
    offset: u64,
    block: &mut [u8],
    budget: &mut Budget,
) -> Result<(), Error> {
    budget.charge(block.len() as u64)?;
    let n = file
        .read_at(block, offset)
        .map_err(|e| Error::io(format!("read refcount block at {offset:#x}"), e))?;
    block[n..].fill(0);
    Ok(())
}

/// The slots of a block worth a look. Where nothing is counted and nothing refers to, and that may
/// be most of a block, there are none.
fn slots(
    block: &[u8],
    first: u64,
    geometry: Geometry,
    references: &References,
    budget: &mut Budget,
) -> Result<Vec<Range<u64>>, Error> {
    static ZEROES: [u8; CHUNK as usize * 8] = [0; CHUNK as usize * 8];
    let per_block = 1u64 << geometry.refcount_block_bits();
    let step = CHUNK.min(per_block);
    let bytes = ((step << geometry.refcount_order) / 8) as usize;
    let mut found = Vec::new();
    for (piece, start) in block.chunks_exact(bytes).zip((0..per_block).step_by(step as usize)) {
        if references.has_chunk(first + start) || *piece != ZEROES[..bytes] {
            budget.charge(step)?;
            found.push(start..start + step);
        }
    }
    Ok(found)
}

fn compare(
    file: &dyn Storage,
    header: &Header,
    table: &[u64],
    references: &References,
    budget: &mut Budget,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let geometry = header.geometry;
    let per_block = 1u64 << geometry.refcount_block_bits();
    let mut block = vec![0u8; geometry.cluster_size() as usize];
    let mut ones = Ones { geometry, chunks: BTreeMap::new() };
    for (index, offset) in table.iter().enumerate() {
        if *offset == 0 || !references.is_inside(*offset) {
            continue;
        }
        if references.count(offset >> geometry.cluster_bits) > 1 {
            report.corruption(|| format!("the refcount block at {offset:#x} is in use twice"));
            continue;
        }
        read_block(file, *offset, &mut block, budget)?;
        let first = index as u64 * per_block;
        for slot in slots(&block, first, geometry, references, budget)?.into_iter().flatten() {
            let count = refcount::get(&block, slot as usize, geometry.refcount_order);
            let cluster = first + slot;
            let found = references.count(cluster);
            if count == 1 && found > 0 {
                ones.insert(cluster);
            }
            if count > found {
                report.leak(|| format!("cluster {cluster}: refcount {count}, references {found}"));
            } else if count < found {
                report.corruption(|| {
                    format!("cluster {cluster}: refcount {count}, references {found}")
                });
            }
        }
    }
    for cluster in references.counted() {
        let index = cluster / per_block;
        let covered = usize::try_from(index).ok().and_then(|i| table.get(i));
        if covered.is_none_or(|offset| *offset == 0) {
            report
                .corruption(|| format!("cluster {cluster}: in use, but without a refcount block"));
        }
    }
    check_flags(file, header, &ones, references, budget, report)
}

/// Which clusters in use have a count of exactly one.
struct Ones {
    geometry: Geometry,
    chunks: BTreeMap<u64, Box<[u64; CHUNK as usize / 64]>>,
}

impl Ones {
    fn insert(&mut self, cluster: u64) {
        let bits = self
            .chunks
            .entry(cluster / CHUNK)
            .or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
        bits[(cluster % CHUNK / 64) as usize] |= 1 << (cluster % 64);
    }

    fn contains(&self, offset: u64) -> bool {
        let cluster = offset >> self.geometry.cluster_bits;
        self.chunks
            .get(&(cluster / CHUNK))
            .is_some_and(|bits| bits[(cluster % CHUNK / 64) as usize] & 1 << (cluster % 64) != 0)
    }
}

/// An entry of the active tables says "writable in place" if and only if its count is one. One that
/// does not say so only costs a copy.
fn check_flags(
    file: &dyn Storage,
    header: &Header,
    ones: &Ones,
    references: &References,
    budget: &mut Budget,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let geometry = header.geometry;
    let mut seen = HashSet::new();
    for (index, raw) in references.l1().iter().enumerate() {
        let table = raw & entry::OFFSET_MASK;
        if table == 0 || !references.is_table(table) || !seen.insert(table) {
            continue;
        }
        let wrong = || format!("L1 entry {index}: {raw:#x} has the wrong copied flag");
        report.flag(raw & COPIED != 0, ones.contains(table), wrong);
        budget.charge(geometry.cluster_size())?;
        let mut bytes = vec![0u8; geometry.cluster_size() as usize];
        let n = file
            .read_at(&mut bytes, table)
            .map_err(|e| Error::io(format!("read L2 table at {table:#x}"), e))?;
        for slot in 0..n / 8 {
            let raw = be64(&bytes, slot * 8);
            let guest = (index as u64) << geometry.l2_bits() | slot as u64;
            if let Ok(Mapping::Data { host, copied } | Mapping::Zero { host: Some(host), copied }) =
                entry::decode(raw, guest, &geometry)
            {
                let wrong = || format!("guest cluster {guest}: {raw:#x} has the wrong copied flag");
                report.flag(copied, ones.contains(host), wrong);
            }
        }
    }
    Ok(())
}
