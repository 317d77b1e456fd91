//! Writes: in place where the layer owns the cluster, otherwise into a new cluster whose rest is
//! filled from what was there before, and mapped only when all of it has been written.

use libc::iovec;
use smallvec::{SmallVec, smallvec};

use super::iovec::{self as iov, Iovecs, MAX_IOVECS};
use super::read::{ReadPlan, Unpack};
use super::transfer::{Direction, Transfer, Transfers};
use super::{Job, Phase, Step};
use crate::error::Error;
use crate::format::entry::Mapping;
use crate::image::{Chain, Kind, Op};
use crate::luks::SECTOR;
use crate::metadata::Metadata;
use crate::plan::{self, ClusterWrite, Target};

/// A write that allocates: what becomes visible when its data is in the file.
#[derive(Debug, Default)]
pub(super) struct WriteState {
    /// Clusters to map: (guest cluster, host offset, newly allocated).
    mappings: Vec<(u64, u64, bool)>,
    writes: Transfers,
    unpacks: Vec<Unpack>,
}

/// A piece of the write before merging.
struct Piece {
    host: u64,
    iovecs: Iovecs,
    len: u64,
}

impl Job {
    pub(super) fn start_write(&mut self, chain: &Chain) -> Result<Step, Error> {
        if matches!(chain.top().kind, Kind::Raw) {
            self.phase = Phase::RawTransfer;
            let (offset, len) = self.current;
            return Ok(Step::Transfer(smallvec![Transfer {
                direction: Direction::Write,
                layer: 0,
                offset,
                iovecs: self.write_source(len),
                zero_past_end: false,
            }]));
        }
        if self.lock_range(chain, false) {
            self.write(chain)
        } else {
            self.wait(Phase::WriteLocked)
        }
    }

    /// The memory to write: the request's, or zeroes.
    fn write_source(&mut self, len: u64) -> Iovecs {
        if self.op == Op::Write {
            return std::mem::take(&mut self.iovecs);
        }
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let mut left = len as usize;
        let mut out = Iovecs::new();
        while left > 0 {
            let part = left.min(ZEROES.len());
            let base = ZEROES.as_ptr().cast_mut().cast();
            out.push(iovec { iov_base: base, iov_len: part });
            left -= part;
        }
        out
    }

    pub(super) fn write(&mut self, chain: &Chain) -> Result<Step, Error> {
        let (offset, len) = self.current;
        let (plan, mut state, zeroed) = {
            let mut metadata = chain.metadata(0)?;
            metadata.check_writable()?;
            let geometry = metadata.geometry();
            let bits = geometry.cluster_bits;
            let (first, last) = (offset >> bits, (offset + len - 1) >> bits);
            let mut mappings = SmallVec::<[Mapping; 2]>::new();
            metadata.map(first, last - first + 1, &mut mappings)?;
            let plan = plan::write(&geometry, offset, len, &mappings);
            let in_place = plan.iter().all(|w| matches!(w.target, Target::InPlace { .. }));
            if !in_place && !self.lock.as_ref().is_some_and(|l| l.exclusive) {
                drop(metadata);
                self.unlock(chain);
                return if self.lock_range(chain, true) {
                    self.write(chain)
                } else {
                    self.wait(Phase::WriteLocked)
                };
            }
            let mut state = WriteState::default();
            match allocate(&mut metadata, &plan, &mut state) {
                Ok(mut zeroed) => {
                    if chain.cipher(0).is_some() {
                        // Zeroes in the file are not what encrypted zeroes are.
                        zeroed.fill(false);
                    }
                    (plan, state, zeroed)
                }
                Err(error) => {
                    release(&mut metadata, &state);
                    return Err(error);
                }
            }
        };
        match self.build(chain, &plan, &mut state, &zeroed) {
            Ok(fills) if fills.is_empty() => {
                let writes = self.sealed(chain, std::mem::take(&mut state.writes));
                self.phase = Phase::Writing(state);
                Ok(Step::Transfer(writes))
            }
            Ok(fills) => {
                self.phase = Phase::Filling(state);
                Ok(Step::Transfer(fills))
            }
            Err(error) => {
                release(&mut *chain.metadata(0)?, &state);
                Err(error)
            }
        }
    }

    /// Lay out the writes; returns the reads that have to come first.
    fn build(
        &mut self,
        chain: &Chain,
        plan: &[ClusterWrite],
        state: &mut WriteState,
        zeroed: &[bool],
    ) -> Result<Transfers, Error> {
        let Kind::Qcow2 { geometry, .. } = &chain.top().kind else { return Ok(Transfers::new()) };
        let size = geometry.cluster_size();
        let (offset, len) = self.current;
        let source = self.write_source(len);
        let mut fills = ReadPlan::default();
        let mut pieces = SmallVec::<[Piece; 1]>::new();
        let mut mapped = state.mappings.iter().map(|m| m.1).zip(zeroed);
        for write in plan {
            let data = iov::slice(&source, write.at - offset, write.len);
            let skip = write.at & (size - 1);
            let (host, zeroed) = match write.target {
                Target::InPlace { host } => {
                    pieces.push(Piece { host, iovecs: data, len: write.len });
                    continue;
                }
                _ => match mapped.next() {
                    Some((host, zeroed)) => (host, *zeroed),
                    None => continue,
                },
            };
            let start = write.at - skip;
            let end = skip + write.len;
            if let Some(head) = self.fill(chain, (start, skip), zeroed, &mut fills)? {
                pieces.push(Piece { host, iovecs: smallvec![head], len: skip });
            }
            pieces.push(Piece { host: host + skip, iovecs: data, len: write.len });
            if let Some(tail) = self.fill(chain, (start + end, size - end), zeroed, &mut fills)? {
                pieces.push(Piece { host: host + end, iovecs: smallvec![tail], len: size - end });
            }
        }
        state.writes = merge(pieces);
        state.unpacks = fills.unpacks;
        Ok(fills.transfers)
    }

    /// A buffer for the part of a new cluster the request does not write, and the reads that fill
    /// it. None when there is nothing to write because the cluster already reads right.
    fn fill(
        &mut self,
        chain: &Chain,
        range: (u64, u64),
        zeroed: bool,
        fills: &mut ReadPlan,
    ) -> Result<Option<iovec>, Error> {
        if range.1 == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0u8; range.1 as usize];
        let target = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut plan = ReadPlan::default();
        self.plan_read(chain, range, &[target], &mut plan)?;
        if plan.is_zero() && zeroed {
            return Ok(None);
        }
        fills.transfers.append(&mut plan.transfers);
        fills.unpacks.append(&mut plan.unpacks);
        self.buffers.push(bytes);
        Ok(Some(target))
    }

    pub(super) fn filled(
        &mut self,
        chain: &Chain,
        mut state: WriteState,
        result: Result<(), Error>,
    ) -> Result<Step, Error> {
        let unpacks = std::mem::take(&mut state.unpacks);
        if let Err(error) = result.and_then(|()| self.unpack(chain, &unpacks)) {
            release(&mut *chain.metadata(0)?, &state);
            return Err(error);
        }
        let writes = self.sealed(chain, std::mem::take(&mut state.writes));
        self.phase = Phase::Writing(state);
        Ok(Step::Transfer(writes))
    }

    /// What goes into the file: of an encrypted layer not the memory that the request names, which
    /// is the guest's, but an encrypted copy.
    fn sealed(&mut self, chain: &Chain, mut writes: Transfers) -> Transfers {
        let Some(cipher) = chain.cipher(0) else { return writes };
        for write in &mut writes {
            // SAFETY: a write's iovecs name memory that may be read while the request runs: the
            // request's or the job's own.
            let mut bytes = unsafe { iov::gather(&write.iovecs) };
            cipher.encrypt(write.offset / SECTOR, &mut bytes);
            let base = bytes.as_mut_ptr().cast();
            write.iovecs = smallvec![iovec { iov_base: base, iov_len: bytes.len() }];
            self.buffers.push(bytes);
        }
        writes
    }

    pub(super) fn written(
        &mut self,
        chain: &Chain,
        mut state: WriteState,
        result: Result<(), Error>,
    ) -> Result<Step, Error> {
        self.buffers.clear();
        if !state.mappings.is_empty() {
            let mut metadata = chain.metadata(0)?;
            if let Err(error) = result {
                release(&mut metadata, &state);
                return Err(error);
            }
            for at in 0..state.mappings.len() {
                let (guest, host, _) = state.mappings[at];
                if let Err(error) =
                    metadata.set_mapping(guest, Mapping::Data { host, copied: true })
                {
                    state.mappings.drain(..at);
                    release(&mut metadata, &state);
                    return Err(error);
                }
            }
            if metadata.wants_flush() {
                metadata.flush_all()?;
            }
        } else {
            result?;
        }
        self.unlock(chain);
        self.next_part(chain)
    }
}

/// Get a host cluster for each cluster of the plan that needs one; says which read as zeroes.
fn allocate(
    metadata: &mut Metadata,
    plan: &[ClusterWrite],
    state: &mut WriteState,
) -> Result<Vec<bool>, Error> {
    let bits = metadata.geometry().cluster_bits;
    let mut zeroed = Vec::new();
    for write in plan {
        match write.target {
            Target::InPlace { host } => metadata.check_in_place(host)?,
            Target::Reuse { host } => {
                metadata.check_in_place(host)?;
                state.mappings.push((write.at >> bits, host, false));
                zeroed.push(false);
            }
            Target::Allocate => {
                metadata.prepare_l2(write.at >> bits)?;
                let allocation = metadata.allocate()?;
                state.mappings.push((write.at >> bits, allocation.host, true));
                zeroed.push(allocation.zeroed);
            }
        }
    }
    Ok(zeroed)
}

/// Undo the allocations of a write that failed; nothing refers to them.
fn release(metadata: &mut Metadata, state: &WriteState) {
    for (_, host, new) in &state.mappings {
        if *new {
            // A failure here leaves a leak, which a check finds; the first error is what counts.
            let _ = metadata.release_unused(*host);
        }
    }
}

/// Join pieces that are neighbours in the file.
fn merge(pieces: SmallVec<[Piece; 1]>) -> Transfers {
    let mut out = Transfers::new();
    let mut end = 0;
    for piece in pieces {
        match out.last_mut() {
            Some(last)
                if end == piece.host && last.iovecs.len() + piece.iovecs.len() <= MAX_IOVECS =>
            {
                last.iovecs.extend(piece.iovecs);
            }
            _ => out.push(Transfer {
                direction: Direction::Write,
                layer: 0,
                offset: piece.host,
                iovecs: piece.iovecs,
                zero_past_end: false,
            }),
        }
        end = piece.host + piece.len;
    }
    out
}
