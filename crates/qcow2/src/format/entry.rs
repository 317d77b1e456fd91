//! L1 and L2 table entries.

use crate::error::Error;
use crate::format::header::Geometry;

/// The cluster has exactly one reference: it may be written in place.
pub(crate) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
pub(crate) const ZERO: u64 = 1;
/// Bits 9 to 55: a host offset.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

const L1_RESERVED: u64 = !(COPIED | OFFSET_MASK);
const L2_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET_MASK | ZERO);

/// What one layer knows of one guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// This layer has nothing: look below.
    Unallocated,
    /// Reads as zeroes; `host` is a preallocated cluster, usable in place when `copied`.
    Zero { host: Option<u64>, copied: bool },
    /// Plain data at a host offset; writable in place when `copied`.
    Data { host: u64, copied: bool },
    /// Compressed data: `len` bytes at most from `offset`.
    Compressed { offset: u64, len: u64 },
}

/// Check an L1 entry and return the offset of the L2 table it names, if any.
pub(crate) fn l2_table_offset(
    entry: u64,
    index: usize,
    geometry: &Geometry,
) -> Result<Option<u64>, Error> {
    let offset = entry & OFFSET_MASK;
    if entry & L1_RESERVED != 0 || !offset.is_multiple_of(geometry.cluster_size()) {
        return Err(Error::invalid("L1 table", format!("entry {index} is {entry:#x}")));
    }
    if offset == 0 && entry != 0 {
        return Err(Error::invalid(
            "L1 table",
            format!("entry {index} is {entry:#x}: an L2 table at the header's place"),
        ));
    }
    Ok((offset != 0).then_some(offset))
}

/// Decode an L2 entry.
pub(crate) fn decode(
    entry: u64,
    guest_cluster: u64,
    geometry: &Geometry,
) -> Result<Mapping, Error> {
    let bad = |why: &str| {
        Err(Error::invalid(
            "L2 table",
            format!("entry for guest cluster {guest_cluster} is {entry:#x}: {why}"),
        ))
    };
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        if entry & COPIED != 0 {
            return bad("a compressed cluster marked as writable");
        }
        if offset < geometry.cluster_size() {
            return bad("compressed data inside the header");
        }
        let len = sectors * 512 - (offset & 511);
        if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return bad("the offset is out of range");
        }
        return Ok(Mapping::Compressed { offset, len });
    }
    if entry & L2_RESERVED != 0 {
        return bad("reserved bits are set");
    }
    let host = entry & OFFSET_MASK;
    let copied = entry & COPIED != 0;
    if !host.is_multiple_of(geometry.cluster_size()) {
        return bad("the offset is not a multiple of the cluster size");
    }
    if entry & ZERO != 0 {
        if geometry.version < 3 {
            return bad("a zero cluster in a version 2 image");
        }
        return Ok(Mapping::Zero { host: (host != 0).then_some(host), copied });
    }
    if host == 0 {
        return if copied { bad("data inside the header") } else { Ok(Mapping::Unallocated) };
    }
    Ok(Mapping::Data { host, copied })
}

/// Encode a mapping that this crate writes.
pub(crate) fn encode(mapping: Mapping) -> u64 {
    let flag = |copied: bool| if copied { COPIED } else { 0 };
    match mapping {
        Mapping::Unallocated | Mapping::Compressed { .. } => 0,
        Mapping::Zero { host: None, .. } => ZERO,
        Mapping::Zero { host: Some(host), copied } => host | ZERO | flag(copied),
        Mapping::Data { host, copied } => host | flag(copied),
    }
}
