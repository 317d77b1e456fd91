//! Reads: through the chain of layers, straight into the request's memory where data is plain.

use libc::iovec;
use smallvec::{SmallVec, smallvec};

use super::iovec::{self as iov, Iovecs};
use super::transfer::{Direction, Transfer, Transfers};
use super::{Job, Phase, Step};
use crate::compressed;
use crate::error::Error;
use crate::format::header::Compression;
use crate::image::{Chain, Kind, Piece};
use crate::luks::SECTOR;

/// What is read in another form than it is wanted in, on its way.
#[derive(Debug)]
pub(super) struct Unpack {
    buffer: usize,
    layer: usize,
    coding: Coding,
    skip: usize,
    target: Iovecs,
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    Compressed {
        kind: Compression,
        cluster_size: usize,
    },
    /// Whole sectors from this one of the file on.
    Encrypted {
        sector: u64,
    },
}

/// What it takes to read a range.
#[derive(Debug, Default)]
pub(super) struct ReadPlan {
    pub(super) transfers: Transfers,
    pub(super) unpacks: Vec<Unpack>,
    /// Parts of the target that are zeroes.
    pub(super) zeroes: SmallVec<[Iovecs; 1]>,
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
        self.plan_read(chain, (self.offset, self.len), &target, &mut plan)?;
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

    /// Plan to read `range` (offset, length) through all layers into `target`.
    pub(super) fn plan_read(
        &mut self,
        chain: &Chain,
        range: (u64, u64),
        target: &[iovec],
        out: &mut ReadPlan,
    ) -> Result<(), Error> {
        let mut refused = Ok(());
        chain.walk(0, range, &mut |at, len, piece| {
            let part = iov::slice(target, at - range.0, len);
            let transfer = |layer, offset, iovecs, zero_past_end| Transfer {
                direction: Direction::Read,
                layer,
                offset,
                iovecs,
                zero_past_end,
            };
            match piece {
                Piece::Zero => out.zeroes.push(part),
                Piece::Data { layer, host } if chain.cipher(layer).is_some() => {
                    let first = host / SECTOR * SECTOR;
                    let len = (host + len).next_multiple_of(SECTOR) - first;
                    let mut bytes = vec![0u8; len as usize];
                    let base = bytes.as_mut_ptr().cast();
                    let iovecs = smallvec![iovec { iov_base: base, iov_len: bytes.len() }];
                    out.transfers.push(transfer(layer, first, iovecs, false));
                    out.unpacks.push(Unpack {
                        buffer: self.buffers.len(),
                        layer,
                        coding: Coding::Encrypted { sector: first / SECTOR },
                        skip: (host - first) as usize,
                        target: part,
                    });
                    self.buffers.push(bytes);
                }
                Piece::Data { layer, host } => {
                    out.transfers.push(transfer(layer, host, part, false));
                }
                Piece::Compressed { layer, .. } if chain.cipher(layer).is_some() => {
                    let feature = "compressed clusters of an encrypted image".into();
                    let remedy = "convert the image with `qemu-img convert -O qcow2`";
                    refused = Err(Error::Unsupported { feature, remedy }.in_layer(layer));
                }
                Piece::Compressed { layer, host, packed, skip } => {
                    let Kind::Qcow2 { geometry, compression, .. } = &chain.layers[layer].kind
                    else {
                        return;
                    };
                    let mut bytes = vec![0u8; packed as usize];
                    let base = bytes.as_mut_ptr().cast();
                    let iovecs = smallvec![iovec { iov_base: base, iov_len: bytes.len() }];
                    out.transfers.push(transfer(layer, host, iovecs, true));
                    out.unpacks.push(Unpack {
                        buffer: self.buffers.len(),
                        layer,
                        coding: Coding::Compressed {
                            kind: *compression,
                            cluster_size: geometry.cluster_size() as usize,
                        },
                        skip: skip as usize,
                        target: part,
                    });
                    self.buffers.push(bytes);
                }
            }
        })?;
        refused
    }

    /// Unpack or decrypt what was read and hand it to the targets.
    pub(super) fn unpack(&mut self, chain: &Chain, unpacks: &[Unpack]) -> Result<(), Error> {
        let mut unpacked = Vec::new();
        for unpack in unpacks {
            let Some(read) = self.buffers.get_mut(unpack.buffer) else { continue };
            let out = match unpack.coding {
                Coding::Compressed { kind, cluster_size } => {
                    unpacked.clear();
                    unpacked.resize(cluster_size, 0);
                    compressed::unpack(kind, read, &mut unpacked)
                        .map_err(|e| e.in_layer(unpack.layer))?;
                    &unpacked
                }
                Coding::Encrypted { sector } => {
                    if let Some(cipher) = chain.cipher(unpack.layer) {
                        cipher.decrypt(sector, read);
                    }
                    &*read
                }
            };
            // SAFETY: the targets are the request's memory or the job's own buffers, writable for
            // as long as the request runs.
            unsafe { iov::scatter(out.get(unpack.skip..).unwrap_or_default(), &unpack.target) };
        }
        Ok(())
    }
}
