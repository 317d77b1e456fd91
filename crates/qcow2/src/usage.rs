//! What a layer itself holds.

use std::collections::HashSet;
use std::fs::File;

use crate::check::Budget;
use crate::error::Error;
use crate::format::be64;
use crate::format::entry::{self, Mapping};
use crate::format::header::Header;
use crate::metadata::read_table;
use crate::storage::Storage;

/// Bytes of the disk that a qcow2 layer itself holds data for, compressed or not; neither what is
/// below it nor zeroes nor metadata count. The size of a snapshot, as a user sees it. Reads all
/// tables; the work is bounded by the space the file takes.
///
/// # Errors
/// A header or table that is broken, [`Error::TooLarge`] for tables that no honest image has, or
/// the host's I/O error.
pub fn changed_bytes(file: &File) -> Result<u64, Error> {
    changed_storage(file)
}

pub(crate) fn changed_storage(file: &dyn Storage) -> Result<u64, Error> {
    let header = Header::read(file)?;
    let geometry = header.geometry;
    let (size, per_table) = (geometry.cluster_size(), 1u64 << geometry.l2_bits());
    let entries = geometry.l1_entries(header.size) as usize;
    let mut budget = Budget::new(file)?;
    budget.charge(entries as u64 * 8)?;
    let l1 = read_table(file, "L1 table", header.l1_offset, entries)?;
    let mut tables = HashSet::new();
    let mut table = vec![0u8; size as usize];
    let mut changed = 0;
    for (index, raw) in l1.into_iter().enumerate() {
        let Some(offset) = entry::l2_table_offset(raw, index, &geometry)? else { continue };
        if !tables.insert(offset) {
            return Err(Error::corrupt(format!("two L1 entries name the L2 table at {offset:#x}")));
        }
        budget.charge(size)?;
        let n = file
            .read_at(&mut table, offset)
            .map_err(|e| Error::io(format!("read L2 table at {offset:#x}"), e))?;
        if n < table.len() {
            return Err(Error::invalid("L2 table", format!("at {offset:#x} it is cut short")));
        }
        for slot in 0..per_table {
            let cluster = index as u64 * per_table + slot;
            let start = cluster << geometry.cluster_bits;
            if start >= header.size {
                break;
            }
            let mapping = entry::decode(be64(&table, slot as usize * 8), cluster, &geometry)?;
            if matches!(mapping, Mapping::Data { .. } | Mapping::Compressed { .. }) {
                changed += size.min(header.size - start);
            }
        }
    }
    Ok(changed)
}
