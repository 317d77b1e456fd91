//! Repair: reference counts rebuilt from the references.

use std::fs::File;

use super::references::References;
use super::{Budget, CheckReport, check_storage, collect, read_block, slots};
use crate::error::Error;
use crate::format::entry::{self, COPIED, Mapping};
use crate::format::header::{DIRTY, Header, MAX_REFCOUNT_TABLE_BYTES};
use crate::format::{be64, refcount};
use crate::storage::Storage;

/// Put the reference counts of a qcow2 image right: the cure for leaks after a process that wrote
/// the image was killed, and for images written with lazy refcounts. Returns what was found, as
/// [`check`](super::check) tells it; a consistent image is left alone. The file must be open for
/// reading and writing, and not in use.
///
/// Leaks alone are cured where they are: counts are lowered, the file does not grow. Counts that
/// are too low make it write new ones behind everything else. Whoever wants to look at corruptions
/// before anything is changed calls `check` first.
///
/// A process killed at any moment of it leaves an image with the same content and no new
/// corruption; calling it again goes on. Costs as much as two checks.
///
/// # Errors
/// Damage to the tables that counting cannot cure, a header that cannot be used, or the host's I/O
/// error. Nothing the image refers to is changed in any case.
pub fn repair(file: &File) -> Result<CheckReport, Error> {
    repair_storage(file)
}

pub(crate) fn repair_storage(file: &dyn Storage) -> Result<CheckReport, Error> {
    let header = Header::read(file)?;
    let before = check_storage(file)?;
    if before.corruptions > 0 {
        rebuild(file, &header)?;
    } else if before.leaks > 0 {
        release_leaks(file, &header)?;
    }
    if header.incompatible & DIRTY != 0 {
        write(file, "the header", &(header.incompatible & !DIRTY).to_be_bytes(), 72)?;
        sync(file)?;
    }
    Ok(before)
}

/// Lower the counts that are too high, then set the flags that this makes true. At every point in
/// between each count is at least the number of references.
fn release_leaks(file: &dyn Storage, header: &Header) -> Result<(), Error> {
    let geometry = header.geometry;
    let order = geometry.refcount_order;
    let mut budget = Budget::new(file)?;
    let mut report = CheckReport::default();
    let (references, table) = collect(file, header, &mut budget, &mut report)?;
    if report.corruptions > 0 {
        return Err(Error::corrupt(report.messages.swap_remove(0)));
    }
    let mut block = vec![0u8; geometry.cluster_size() as usize];
    for (index, offset) in table.iter().enumerate().filter(|(_, offset)| **offset != 0) {
        read_block(file, *offset, &mut block, &mut budget)?;
        let first = (index as u64) << geometry.refcount_block_bits();
        let mut changed = false;
        let worth = slots(&block, first, geometry, &references, &mut budget)?;
        for slot in worth.into_iter().flatten() {
            let found = references.count(first + slot);
            // A count of that many may stand for more.
            let is_known = found < u64::from(u16::MAX);
            if is_known && refcount::get(&block, slot as usize, order) > found {
                refcount::set(&mut block, slot as usize, order, found);
                changed = true;
            }
        }
        if changed {
            write(file, "refcount block", &block, *offset)?;
        }
    }
    sync(file)?;
    fix_flags(file, header, &references)
}

/// Write new refcount structures behind everything in use, switch the header over, then make the
/// flags in the tables agree. Interrupted at any point, it can be run again.
fn rebuild(file: &dyn Storage, header: &Header) -> Result<(), Error> {
    let mut report = CheckReport::default();
    let mut budget = Budget::new(file)?;
    let references = References::collect(file, header, &mut budget, &mut report)?;
    if report.corruptions > 0 {
        return Err(Error::corrupt(report.messages.swap_remove(0)));
    }
    let geometry = header.geometry;
    let size = geometry.cluster_size();
    let per_block = 1u64 << geometry.refcount_block_bits();
    let order = geometry.refcount_order;
    // The file's end, and not the last cluster in use: the old structures stay readable.
    let start = references.clusters();
    let (table_clusters, blocks) = layout(start, per_block, size);
    let end = start + table_clusters + blocks;
    if table_clusters * size > MAX_REFCOUNT_TABLE_BYTES.max(size) {
        return Err(Error::corrupt("the file is too large for a refcount table"));
    }
    budget.charge(blocks.saturating_mul(size))?;
    let mut table = vec![0u8; (table_clusters * size) as usize];
    let mut bytes = vec![0u8; size as usize];
    for block in 0..blocks {
        bytes.fill(0);
        for slot in 0..per_block {
            let cluster = block * per_block + slot;
            let count = if (start..end).contains(&cluster) { 1 } else { references.count(cluster) };
            if count > refcount::max(order) || count == u64::from(u16::MAX) {
                return Err(Error::corrupt(format!("cluster {cluster} has {count} references")));
            }
            refcount::set(&mut bytes, slot as usize, order, count);
        }
        let offset = (start + table_clusters + block) * size;
        write(file, "refcount block", &bytes, offset)?;
        table[block as usize * 8..block as usize * 8 + 8].copy_from_slice(&offset.to_be_bytes());
    }
    write(file, "refcount table", &table, start * size)?;
    sync(file)?;
    let mut place = [0u8; 12];
    place[..8].copy_from_slice(&(start * size).to_be_bytes());
    place[8..].copy_from_slice(&(table_clusters as u32).to_be_bytes());
    write(file, "the refcount table's place in the header", &place, 48)?;
    sync(file)?;
    fix_flags(file, header, &references)
}

/// Clusters of the table and number of blocks that describe `used` clusters and themselves.
fn layout(used: u64, per_block: u64, size: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let need_blocks = (used + table + blocks).div_ceil(per_block);
        let need_table = (need_blocks * 8).div_ceil(size);
        if need_blocks <= blocks && need_table <= table {
            return (table, blocks);
        }
        blocks = blocks.max(need_blocks);
        table = table.max(need_table);
    }
}

fn fix_flags(file: &dyn Storage, header: &Header, references: &References) -> Result<(), Error> {
    let geometry = header.geometry;
    let is_one = |offset: u64| references.count(offset >> geometry.cluster_bits) == 1;
    let flagged = |raw: u64, one: bool| if one { raw | COPIED } else { raw & !COPIED };
    for (index, raw) in references.l1().iter().enumerate() {
        let table = raw & entry::OFFSET_MASK;
        if table == 0 {
            continue;
        }
        let right = flagged(*raw, is_one(table));
        if right != *raw {
            let at = header.l1_offset + index as u64 * 8;
            write(file, "L1 entry", &right.to_be_bytes(), at)?;
        }
        let mut bytes = vec![0u8; geometry.cluster_size() as usize];
        file.read_at(&mut bytes, table)
            .map_err(|e| Error::io(format!("read L2 table at {table:#x}"), e))?;
        for slot in 0..bytes.len() / 8 {
            let raw = be64(&bytes, slot * 8);
            let (Mapping::Data { host, .. } | Mapping::Zero { host: Some(host), .. }) =
                entry::decode(raw, slot as u64, &geometry)?
            else {
                continue;
            };
            let right = flagged(raw, is_one(host));
            if right != raw {
                write(file, "L2 entry", &right.to_be_bytes(), table + slot as u64 * 8)?;
            }
        }
    }
    sync(file)
}

fn write(file: &dyn Storage, what: &str, bytes: &[u8], offset: u64) -> Result<(), Error> {
    file.write_at(bytes, offset).map_err(|e| Error::io(format!("write {what} at {offset:#x}"), e))
}

fn sync(file: &dyn Storage) -> Result<(), Error> {
    file.sync().map_err(|e| Error::io("sync the image", e))
}
