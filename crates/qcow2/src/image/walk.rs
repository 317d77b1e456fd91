//! A range of the disk, taken apart by where its bytes come from.

use smallvec::{SmallVec, smallvec};

use super::below::Origin;
use super::chain::{Chain, Kind};
use crate::error::Error;
use crate::format::entry::Mapping;
use crate::plan::{self, Extent, Source};

/// Where a part of the disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Zero,
    /// Bytes at an offset of a layer's file.
    Data {
        layer: usize,
        host: u64,
    },
    /// `packed` bytes at `host` of a layer's file, decompressed, from byte `skip` on.
    Compressed {
        layer: usize,
        host: u64,
        packed: u64,
        skip: u64,
    },
}

impl Chain {
    /// Call `visit` with the first byte, the length and the origin of each part of
    /// `[offset, offset + len)` as seen from `layer` down, in order.
    pub(crate) fn walk(
        &self,
        layer: usize,
        (offset, mut len): (u64, u64),
        visit: &mut dyn FnMut(u64, u64, Piece),
    ) -> Result<(), Error> {
        let Some(state) = self.layers.get(layer) else {
            visit(offset, len, Piece::Zero);
            return Ok(());
        };
        let inside = state.size().saturating_sub(offset);
        let beyond = len.saturating_sub(inside);
        len -= beyond;
        if len > 0 {
            let extents = match &state.kind {
                Kind::Raw => {
                    smallvec![Extent { at: offset, len, source: Source::Data { host: offset } }]
                }
                Kind::Qcow2 { geometry, .. } => {
                    let bits = geometry.cluster_bits;
                    let (first, last) = (offset >> bits, (offset + len - 1) >> bits);
                    let mut mappings = SmallVec::<[Mapping; 2]>::new();
                    state
                        .metadata()?
                        .map(first, last - first + 1, &mut mappings)
                        .map_err(|e| e.in_layer(layer))?;
                    plan::read(geometry, offset, len, &mappings)
                }
            };
            for Extent { at, len, source } in extents {
                match source {
                    Source::Data { host } => visit(at, len, Piece::Data { layer, host }),
                    Source::Zero => visit(at, len, Piece::Zero),
                    Source::Compressed { host, packed, skip } => {
                        visit(at, len, Piece::Compressed { layer, host, packed, skip });
                    }
                    Source::Below if layer == 0 => self.walk_below(at, len, visit)?,
                    Source::Below => self.walk(layer + 1, (at, len), visit)?,
                }
            }
        }
        if beyond > 0 {
            visit(offset + len, beyond, Piece::Zero);
        }
        Ok(())
    }

    /// What the top layer does not have.
    fn walk_below(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(u64, u64, Piece),
    ) -> Result<(), Error> {
        let Some(below) = &self.below else { return self.walk(1, (offset, len), visit) };
        for (at, len, origin) in below.origins(&self.layers, offset, len) {
            match origin {
                Origin::Zero => visit(at, len, Piece::Zero),
                Origin::Data { layer, host } => visit(at, len, Piece::Data { layer, host }),
                Origin::Walk { layer } => self.walk(layer, (at, len), visit)?,
            }
        }
        Ok(())
    }
}
