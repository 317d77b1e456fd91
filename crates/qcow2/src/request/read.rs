//! Reads: through the chain of layers, straight into the request's memory where data is plain.

use libc::iovec;

use super::iovec as iov;
use super::transfer::{Direction, Transfer};
use super::{Job, Phase, Step};
use crate::compressed;
use crate::error::Error;
use crate::format::header::Compression;
use crate::image::{Chain, Kind, Origin};
use crate::plan::{self, Source};

/// A compressed cluster on its way.
#[derive(Debug)]
pub(super) struct Unpack {
    buffer: usize,
    layer: usize,
    kind: Compression,
    cluster_size: usize,
    skip: usize,
    target: Vec<iovec>,
}

/// What it takes to read a range.
#[derive(Debug, Default)]
pub(super) struct ReadPlan {
    pub(super) transfers: Vec<Transfer>,
    pub(super) unpacks: Vec<Unpack>,
    /// Parts of the target that are zeroes.
    pub(super) zeroes: Vec<Vec<iovec>>,
}

impl ReadPlan {
    /// The whole range reads as zeroes.
    pub(super) fn is_zero(&self) -> bool {
        self.transfers.is_empty() && self.unpacks.is_empty()
    }
}

impl Job {
    pub(super) fn read(&mut self, chain: &Chain) -> Result<Step, Error> {
        let mut plan = ReadPlan::default();
        let target = std::mem::take(&mut self.iovecs);
        self.plan_read(chain, 0, (self.offset, self.len), &target, &mut plan)?;
        for part in &plan.zeroes {
            // SAFETY: a read request's iovecs name memory that may be written.
            unsafe { iov::fill_zero(part) };
        }
        if plan.is_zero() {
            return Ok(Step::Done(Ok(())));
        }
        self.phase = Phase::Reading(plan.unpacks);
        Ok(Step::Transfer(plan.transfers))
    }

    /// Plan to read `range` (offset, length) as seen from `layer` down into `target`.
    pub(super) fn plan_read(
        &mut self,
        chain: &Chain,
        layer: usize,
        range: (u64, u64),
        target: &[iovec],
        out: &mut ReadPlan,
    ) -> Result<(), Error> {
        let (offset, mut len) = range;
        let Some(state) = chain.layers.get(layer) else {
            out.zeroes.push(target.to_vec());
            return Ok(());
        };
        let size = state.size();
        if offset.saturating_add(len) > size {
            let inside = size.saturating_sub(offset);
            out.zeroes.push(iov::slice(target, inside, len - inside));
            len = inside;
        }
        if len == 0 {
            return Ok(());
        }
        let extents = match &state.kind {
            Kind::Raw => {
                vec![plan::Extent { at: offset, len, source: Source::Data { host: offset } }]
            }
            Kind::Qcow2 { geometry, .. } => {
                let bits = geometry.cluster_bits;
                let (first, last) = (offset >> bits, (offset + len - 1) >> bits);
                let mut mappings = Vec::with_capacity((last - first + 1) as usize);
                state
                    .metadata()?
                    .map(first, last - first + 1, &mut mappings)
                    .map_err(|e| e.in_layer(layer))?;
                plan::read(geometry, offset, len, &mappings)
            }
        };
        for extent in extents {
            let part = iov::slice(target, extent.at - offset, extent.len);
            match extent.source {
                Source::Data { host } => out.transfers.push(Transfer {
                    direction: Direction::Read,
                    layer,
                    offset: host,
                    iovecs: part,
                    zero_past_end: false,
                }),
                Source::Zero => out.zeroes.push(part),
                Source::Below if layer == 0 => {
                    self.plan_below(chain, (extent.at, extent.len), &part, out)?;
                }
                Source::Below => {
                    self.plan_read(chain, layer + 1, (extent.at, extent.len), &part, out)?;
                }
                Source::Compressed { host, packed, skip } => {
                    let Kind::Qcow2 { geometry, compression, .. } = &state.kind else { continue };
                    let mut bytes = vec![0u8; packed as usize];
                    let base = bytes.as_mut_ptr().cast();
                    out.transfers.push(Transfer {
                        direction: Direction::Read,
                        layer,
                        offset: host,
                        iovecs: vec![iovec { iov_base: base, iov_len: bytes.len() }],
                        zero_past_end: true,
                    });
                    out.unpacks.push(Unpack {
                        buffer: self.buffers.len(),
                        layer,
                        kind: *compression,
                        cluster_size: geometry.cluster_size() as usize,
                        skip: skip as usize,
                        target: part,
                    });
                    self.buffers.push(bytes);
                }
            }
        }
        Ok(())
    }

    /// Plan to read what the top layer does not have.
    fn plan_below(
        &mut self,
        chain: &Chain,
        range: (u64, u64),
        target: &[iovec],
        out: &mut ReadPlan,
    ) -> Result<(), Error> {
        let Some(below) = &chain.below else {
            return self.plan_read(chain, 1, range, target, out);
        };
        for (at, len, origin) in below.origins(&chain.layers, range.0, range.1) {
            let part = iov::slice(target, at - range.0, len);
            match origin {
                Origin::Zero => out.zeroes.push(part),
                Origin::Data { layer, host } => out.transfers.push(Transfer {
                    direction: Direction::Read,
                    layer,
                    offset: host,
                    iovecs: part,
                    zero_past_end: false,
                }),
                Origin::Walk { layer } => self.plan_read(chain, layer, (at, len), &part, out)?,
            }
        }
        Ok(())
    }

    /// Unpack what was read and hand it to the targets.
    pub(super) fn unpack(&mut self, unpacks: &[Unpack]) -> Result<(), Error> {
        let mut out = Vec::new();
        for unpack in unpacks {
            let Some(packed) = self.buffers.get(unpack.buffer) else { continue };
            out.clear();
            out.resize(unpack.cluster_size, 0);
            compressed::unpack(unpack.kind, packed, &mut out)
                .map_err(|e| e.in_layer(unpack.layer))?;
            // SAFETY: the targets are the request's memory or the job's own buffers, writable for
            // as long as the request runs.
            unsafe { iov::scatter(out.get(unpack.skip..).unwrap_or_default(), &unpack.target) };
        }
        Ok(())
    }
}
