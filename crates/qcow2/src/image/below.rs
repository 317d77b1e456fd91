//! What lies below the top of a long chain, resolved once: which layer serves which part of the
//! disk. Those layers never change, so that what was found stays true as long as the chain.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::chain::{Kind, LayerState};
use crate::format::entry::Mapping;

/// Granules resolved at once.
const PER_SLICE: u64 = 512;
/// Slices kept: 16 MiB, which is 128 GiB of a disk of clusters of 64 KiB. Unit tests make do with
/// few, so that their small disks overflow it.
const MAX_SLICES: usize = if cfg!(test) { 3 } else { 4096 };

/// Where a part of the disk below the top comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Zeroes, or nothing at all.
    Zero,
    /// Bytes at an offset of a layer's file.
    Data { layer: usize, host: u64 },
    /// Nothing above this layer has it; the layer's own tables tell more: it is compressed there,
    /// the layer ends inside it, or its entry is invalid.
    Walk { layer: usize },
}

// An origin in 8 bytes: kind (2 bits), layer (8 bits), offset in sectors (54 bits).
const ZERO: u64 = 0;
const DATA: u64 = 1;
const WALK: u64 = 2;
const UNKNOWN: u64 = 3;
const SECTORS: u64 = (1 << 54) - 1;

fn pack(kind: u64, layer: usize, host: u64) -> u64 {
    kind << 62 | (layer as u64 & 0xff) << 54 | (host >> 9 & SECTORS)
}

fn unpack(packed: u64) -> Origin {
    let layer = (packed >> 54 & 0xff) as usize;
    match packed >> 62 {
        DATA => Origin::Data { layer, host: (packed & SECTORS) << 9 },
        WALK => Origin::Walk { layer },
        _ => Origin::Zero,
    }
}

/// The layers below the top as one, in granules of the smallest of their clusters.
#[derive(Debug)]
pub(crate) struct Below {
    bits: u32,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    slices: HashMap<u64, Slice, RandomState>,
    /// In order of arrival, or of the last time their turn to leave was put off.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Slice {
    /// A single one stands for all.
    origins: Box<[u64]>,
    used: bool,
}

impl Below {
    /// None for a chain so short that looking into its layers is as cheap.
    pub(super) fn new(layers: &[Arc<LayerState>]) -> Option<Self> {
        if layers.len() <= 2 {
            return None;
        }
        let bits = layers[1..].iter().filter_map(|layer| match &layer.kind {
            Kind::Raw => None,
            Kind::Qcow2 { geometry, .. } => Some(geometry.cluster_bits),
        });
        Some(Self { bits: bits.min().unwrap_or(16), cache: Mutex::default() })
    }

    /// Split `[offset, offset + len)` by origin: (first byte, length, origin), neighbours merged.
    pub(crate) fn origins(
        &self,
        layers: &[Arc<LayerState>],
        offset: u64,
        len: u64,
    ) -> SmallVec<[(u64, u64, Origin); 2]> {
        let mut out = SmallVec::<[(u64, u64, Origin); 2]>::new();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let slice = at >> self.bits >> PER_SLICE.trailing_zeros();
            let first = slice * PER_SLICE;
            let slice_end = ((first + PER_SLICE) << self.bits).min(end);
            let mut add = |origins: &[u64]| {
                while at < slice_end {
                    let granule = at >> self.bits;
                    let skip = at - (granule << self.bits);
                    let part = ((granule + 1) << self.bits).min(end) - at;
                    let index = if origins.len() == 1 { 0 } else { (granule - first) as usize };
                    let origin = match unpack(origins.get(index).copied().unwrap_or_default()) {
                        Origin::Data { layer, host } => Origin::Data { layer, host: host + skip },
                        other => other,
                    };
                    match out.last_mut() {
                        Some(last) if continues(last, origin) => last.1 += part,
                        _ => out.push((at, part, origin)),
                    }
                    at += part;
                }
            };
            if let Some(known) = self.cache().slices.get_mut(&slice) {
                known.used = true;
                add(&known.origins);
                continue;
            }
            // Another thread may do the same: both find the same.
            let origins = resolve(layers, first, self.bits);
            add(&origins);
            self.cache().insert(slice, origins);
        }
        out
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn slices(&self) -> usize {
        self.cache().slices.len()
    }
}

impl Cache {
    fn insert(&mut self, slice: u64, origins: Box<[u64]>) {
        while self.slices.len() >= MAX_SLICES {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.slices.get_mut(&oldest) {
                Some(kept) if kept.used => {
                    kept.used = false;
                    self.order.push_back(oldest);
                }
                _ => drop(self.slices.remove(&oldest)),
            }
        }
        if self.slices.insert(slice, Slice { origins, used: false }).is_none() {
            self.order.push_back(slice);
        }
    }
}

fn continues(last: &(u64, u64, Origin), next: Origin) -> bool {
    match (last.2, next) {
        (Origin::Data { layer: a, host }, Origin::Data { layer: b, host: next }) => {
            a == b && host + last.1 == next
        }
        (a, b) => a == b,
    }
}

/// Ask the layers from the second down for the slice that begins with granule `first`.
fn resolve(layers: &[Arc<LayerState>], first: u64, bits: u32) -> Box<[u64]> {
    let mut origins = vec![pack(UNKNOWN, 0, 0); PER_SLICE as usize];
    for (index, layer) in layers.iter().enumerate().skip(1) {
        let is_unknown = |origin: &u64| origin >> 62 == UNKNOWN;
        let Some(start) = origins.iter().position(is_unknown) else { break };
        let end = origins.iter().rposition(is_unknown).map_or(start, |last| last + 1);
        let found = ask(layer, index, first + start as u64..first + end as u64, bits);
        for (origin, found) in origins[start..end].iter_mut().zip(found) {
            if is_unknown(origin) {
                *origin = found;
            }
        }
    }
    for origin in &mut origins {
        if *origin >> 62 == UNKNOWN {
            *origin = pack(ZERO, 0, 0);
        }
    }
    if origins.iter().all(|origin| *origin == pack(ZERO, 0, 0)) {
        origins.truncate(1);
    }
    origins.into_boxed_slice()
}

/// What one layer says of granules; unknown is what it has not.
fn ask(layer: &LayerState, index: usize, granules: std::ops::Range<u64>, bits: u32) -> Vec<u64> {
    let whole = layer.size() >> bits;
    let inside = granules.start..granules.end.min(whole).max(granules.start);
    let mut out = Vec::with_capacity((granules.end - granules.start) as usize);
    match &layer.kind {
        Kind::Raw => out.extend(inside.map(|g| pack(DATA, index, g << bits))),
        Kind::Qcow2 { geometry, .. } if !inside.is_empty() => {
            let shift = geometry.cluster_bits - bits;
            let (first, last) = (inside.start >> shift, (inside.end - 1) >> shift);
            let mut mappings = Vec::with_capacity((last - first + 1) as usize);
            if !map(layer, first, last - first + 1, &mut mappings) {
                // Only the clusters whose entries are bad may fail.
                mappings.clear();
            }
            for granule in inside {
                let cluster = granule >> shift;
                let mapping = mappings.get((cluster - first) as usize).copied().or_else(|| {
                    let mut single = Vec::with_capacity(1);
                    map(layer, cluster, 1, &mut single).then(|| single.pop()).flatten()
                });
                let skip = (granule & ((1 << shift) - 1)) << bits;
                out.push(match mapping {
                    Some(Mapping::Unallocated) => pack(UNKNOWN, 0, 0),
                    Some(Mapping::Zero { .. }) => pack(ZERO, 0, 0),
                    Some(Mapping::Data { host, .. }) => pack(DATA, index, host + skip),
                    Some(Mapping::Compressed { .. }) | None => pack(WALK, index, 0),
                });
            }
        }
        Kind::Qcow2 { .. } => {}
    }
    // The layer ends inside a granule; what is beyond its end is zeroes, whatever lies below.
    while granules.start + (out.len() as u64) < granules.end {
        let granule = granules.start + out.len() as u64;
        let ends_here = granule << bits < layer.size();
        out.push(if ends_here { pack(WALK, index, 0) } else { pack(ZERO, 0, 0) });
    }
    out
}

fn map(layer: &LayerState, first: u64, count: u64, out: &mut Vec<Mapping>) -> bool {
    layer.metadata().and_then(|mut metadata| metadata.map(first, count, out)).is_ok()
}
