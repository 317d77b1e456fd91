//! The planner: turns a guest range and the mappings of its clusters into actions. No I/O, no
//! state.

use smallvec::SmallVec;

use crate::format::entry::Mapping;
use crate::format::header::Geometry;

/// Where a part of a guest range comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Bytes at an offset of this layer's file.
    Data { host: u64 },
    /// Zeroes.
    Zero,
    /// `packed` bytes at `host`, decompressed, from byte `skip` of the cluster on.
    Compressed { host: u64, packed: u64, skip: u64 },
    /// The layer below decides.
    Below,
}

/// A part of a guest range with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First byte on the disk.
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) source: Source,
}

/// Split `[offset, offset + len)` by source, merging neighbours. `mappings` starts at the cluster
/// that holds `offset`.
pub(crate) fn read(
    geometry: &Geometry,
    offset: u64,
    len: u64,
    mappings: &[Mapping],
) -> SmallVec<[Extent; 2]> {
    let mut extents = SmallVec::<[Extent; 2]>::new();
    for (at, part, mapping) in clusters(geometry, offset, len, mappings) {
        let skip = at & (geometry.cluster_size() - 1);
        let source = match mapping {
            Mapping::Unallocated => Source::Below,
            Mapping::Zero { .. } => Source::Zero,
            Mapping::Data { host, .. } => Source::Data { host: host + skip },
            Mapping::Compressed { offset, len } => {
                Source::Compressed { host: offset, packed: len, skip }
            }
        };
        if let Some(last) = extents.last_mut() {
            let joins = match (last.source, source) {
                (Source::Data { host: a }, Source::Data { host: b }) => a + last.len == b,
                (Source::Zero, Source::Zero) | (Source::Below, Source::Below) => true,
                _ => false,
            };
            if joins {
                last.len += part;
                continue;
            }
        }
        extents.push(Extent { at, len: part, source });
    }
    extents
}

/// What a write does to one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Overwrite in place at this host offset.
    InPlace { host: u64 },
    /// Fill the whole of this cluster, which the layer already owns, then map it.
    Reuse { host: u64 },
    /// Allocate a cluster, fill it, then map it.
    Allocate,
}

/// The part of a write that falls into one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterWrite {
    /// First byte on the disk.
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) target: Target,
}

/// Decide for each cluster of `[offset, offset + len)` how it is written.
pub(crate) fn write(
    geometry: &Geometry,
    offset: u64,
    len: u64,
    mappings: &[Mapping],
) -> SmallVec<[ClusterWrite; 2]> {
    clusters(geometry, offset, len, mappings)
        .map(|(at, len, mapping)| {
            let skip = at & (geometry.cluster_size() - 1);
            let target = match mapping {
                Mapping::Data { host, copied: true } => Target::InPlace { host: host + skip },
                Mapping::Zero { host: Some(host), copied: true } => Target::Reuse { host },
                _ => Target::Allocate,
            };
            ClusterWrite { at, len, target }
        })
        .collect()
}

/// What write-zeroes or discard make of a whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clear {
    /// It already is as wanted.
    Keep,
    /// Change the entry.
    Map(Mapping),
    /// The format cannot say it: write zeroes as data.
    WriteData,
}

/// Plan write-zeroes of one whole cluster.
pub(crate) fn zero(
    geometry: &Geometry,
    mapping: Mapping,
    unmap: bool,
    unallocated_is_zero: bool,
) -> Clear {
    let unmapped = match (unallocated_is_zero, geometry.version >= 3) {
        (true, _) => Some(Mapping::Unallocated),
        (false, true) => Some(Mapping::Zero { host: None, copied: false }),
        (false, false) => None,
    };
    match mapping {
        Mapping::Unallocated if unallocated_is_zero => Clear::Keep,
        Mapping::Zero { host: None, .. } => Clear::Keep,
        Mapping::Zero { host: Some(_), .. } if !unmap => Clear::Keep,
        Mapping::Data { host, copied: true } if !unmap && geometry.version >= 3 => {
            Clear::Map(Mapping::Zero { host: Some(host), copied: true })
        }
        Mapping::Data { copied: true, .. } if !unmap => Clear::WriteData,
        _ => unmapped.map_or(Clear::WriteData, Clear::Map),
    }
}

/// Plan the discard of one whole cluster: as write-zeroes with unmap, but never as data.
pub(crate) fn discard(geometry: &Geometry, mapping: Mapping, unallocated_is_zero: bool) -> Clear {
    match zero(geometry, mapping, true, unallocated_is_zero) {
        Clear::WriteData => Clear::Keep,
        // Hiding what is below would cost an L2 table and free nothing.
        Clear::Map(_) if mapping == Mapping::Unallocated => Clear::Keep,
        other => other,
    }
}

/// The parts of a range, cluster by cluster: (first byte, length, mapping).
fn clusters(
    geometry: &Geometry,
    offset: u64,
    len: u64,
    mappings: &[Mapping],
) -> impl Iterator<Item = (u64, u64, Mapping)> {
    let size = geometry.cluster_size();
    let first = offset & !(size - 1);
    mappings.iter().enumerate().map_while(move |(i, mapping)| {
        let start = (first + i as u64 * size).max(offset);
        let end = (first + (i as u64 + 1) * size).min(offset + len);
        (start < end).then(|| (start, end - start, *mapping))
    })
}
