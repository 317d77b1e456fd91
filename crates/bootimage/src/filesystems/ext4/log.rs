//! The log of the journal (JBD2), as the kernel's recovery reads it.
//!
//! The kernel goes over the log three times: for its end, for revocations, and to write. Nothing is
//! written here, so once is enough: what a transaction says counts when its commit block is there,
//! the latest copy of a block counts, and a copy that the same or a later transaction revokes does
//! not. Everything in the log is hostile; the walk ends after one time around.

use std::collections::{BTreeMap, HashMap};

use super::checksum::{crc32_be, crc32c};
use super::inode::Blocks;
use crate::error::{BUDGET_REMEDY, Error};
use crate::source::Extent;

/// Blocks, and revocations, that one log may name; each costs memory.
const NAMES: usize = 1 << 20;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = 0x3f;

const FLAG_ESCAPED: u16 = 1;
const FLAG_SAME_UUID: u16 = 2;
const FLAG_LAST: u16 = 8;

/// Bytes of a descriptor's header, and of a commit block's.
const HEADER: usize = 12;
const COMMIT_HEADER: usize = 60;

/// How blocks of the log are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sums {
    None,
    /// One sum over all blocks of a transaction in its commit block.
    Commit,
    /// A sum in every block, and the lower half of one in every tag.
    Half {
        seed: u32,
    },
    /// A sum in every block and every tag.
    Whole {
        seed: u32,
    },
}

impl Sums {
    fn seed(self) -> Option<u32> {
        match self {
            Sums::None | Sums::Commit => None,
            Sums::Half { seed } | Sums::Whole { seed } => Some(seed),
        }
    }
}

/// The copy of a block in the log.
#[derive(Debug, Clone, Copy)]
struct Copy {
    /// The filesystem's block that holds it.
    place: u64,
    sequence: u32,
    checksum: u32,
    /// It began with the journal's magic number, which was put aside.
    escaped: bool,
}

/// Blocks whose latest content is in the log.
#[derive(Debug)]
pub(super) struct Replayed {
    copies: BTreeMap<u64, Copy>,
    sums: Sums,
}

impl Replayed {
    /// Number of the first block from `block` on that has a copy.
    pub(super) fn next(&self, block: u64) -> Option<u64> {
        self.copies.range(block..).next().map(|(block, _)| *block)
    }

    /// Fills `out` with the copy of a block; `false` if it has none. Copies are checked only here:
    /// what nobody reads may be damaged.
    pub(super) fn read(&self, area: &Extent, block: u64, out: &mut [u8]) -> Result<bool, Error> {
        let Some(copy) = self.copies.get(&block) else { return Ok(false) };
        area.read(out, copy.place.saturating_mul(out.len() as u64))?;
        if let Some(seed) = self.sums.seed() {
            let sum = crc32c(crc32c(seed, &copy.sequence.to_be_bytes()), out);
            let mask = if matches!(self.sums, Sums::Half { .. }) { 0xffff } else { u32::MAX };
            if sum & mask != copy.checksum {
                return corrupt(format!("its copy of block {block} has a wrong checksum"));
            }
        }
        if copy.escaped
            && let Some(start) = out.get_mut(..4)
        {
            start.copy_from_slice(&MAGIC.to_be_bytes());
        }
        Ok(true)
    }
}

/// The journal's own superblock, and where its blocks are.
struct Log<'a> {
    area: &'a Extent,
    blocks: &'a Blocks,
    block_size: usize,
    /// The ring: its first block and the one behind its last.
    first: u32,
    end: u32,
    start: u32,
    sequence: u32,
    sums: Sums,
    wide: bool,
    asynchronous: bool,
    fast_commit: bool,
}

/// What a transaction says, until it is known to be complete.
#[derive(Default)]
struct Pending {
    copies: Vec<(u64, Copy)>,
    revoked: Vec<u64>,
    /// A block of it has a wrong sum: leftovers of an older log, or damage.
    doubtful: bool,
    sum: u32,
}

impl Pending {
    fn new() -> Pending {
        Pending { sum: u32::MAX, ..Pending::default() }
    }
}

/// Reads the log: which blocks it replaces.
pub(super) fn replay(area: &Extent, blocks: &Blocks, block_size: u64) -> Result<Replayed, Error> {
    let mut log = Log::open(area, blocks, usize::try_from(block_size).unwrap_or(0))?;
    let copies = if log.start == 0 { BTreeMap::new() } else { log.walk()? };
    Ok(Replayed { copies, sums: log.sums })
}

impl<'a> Log<'a> {
    fn open(area: &'a Extent, blocks: &'a Blocks, block_size: usize) -> Result<Log<'a>, Error> {
        let mut log = Log {
            area,
            blocks,
            block_size,
            first: 0,
            end: 0,
            start: 0,
            sequence: 0,
            sums: Sums::None,
            wide: false,
            asynchronous: false,
            fast_commit: false,
        };
        let mut bytes = vec![0; block_size];
        log.read(0, &mut bytes)?;
        bytes.truncate(1024);
        let kind = be32(&bytes, 4);
        if be32(&bytes, 0) != MAGIC || !matches!(kind, SUPERBLOCK_V1 | SUPERBLOCK_V2) {
            return corrupt("it has no superblock".to_owned());
        }
        if be32(&bytes, 12) as usize != block_size {
            return corrupt(format!("it has blocks of {} bytes", be32(&bytes, 12)));
        }
        let (compat, incompat) = match kind {
            SUPERBLOCK_V2 => (be32(&bytes, 0x24), be32(&bytes, 0x28)),
            _ => (0, 0),
        };
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Error::UnsupportedFilesystem {
                found: format!("ext4 with journal features {incompat:#x}"),
            });
        }
        log.sums = if incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            let stored = be32(&bytes, 0xfc);
            bytes[0xfc..0x100].fill(0);
            if bytes[0x50] != 4 || crc32c(!0, &bytes) != stored {
                return corrupt("its superblock has a wrong checksum".to_owned());
            }
            let seed = crc32c(!0, &bytes[0x30..0x40]);
            let whole = incompat & INCOMPAT_CSUM_V3 != 0;
            if whole { Sums::Whole { seed } } else { Sums::Half { seed } }
        } else if compat & COMPAT_CHECKSUM != 0 {
            Sums::Commit
        } else {
            Sums::None
        };
        log.wide = incompat & INCOMPAT_64BIT != 0;
        log.asynchronous = incompat & INCOMPAT_ASYNC_COMMIT != 0;
        log.fast_commit = incompat & INCOMPAT_FAST_COMMIT != 0;
        log.first = be32(&bytes, 0x14);
        log.end = be32(&bytes, 0x10);
        if u64::from(log.end) > blocks.count {
            return corrupt(format!("it has {} blocks in a file of {}", log.end, blocks.count));
        }
        if log.fast_commit {
            // The last blocks of the file are another log, see `fast_commits`.
            let own = match be32(&bytes, 0x54) {
                0 => 256,
                own => own,
            };
            log.end = log.end.saturating_sub(own);
        }
        log.sequence = be32(&bytes, 0x18);
        log.start = be32(&bytes, 0x1c);
        let ring = log.first..log.end;
        if log.first == 0 || (log.start != 0 && !ring.contains(&log.start)) {
            return corrupt(format!("it starts at {} of blocks {ring:?}", log.start));
        }
        Ok(log)
    }

    fn place(&self, block: u32) -> Result<u64, Error> {
        match self.blocks.place(block.into()) {
            Some(place) => Ok(place),
            None => corrupt(format!("its block {block} is nowhere")),
        }
    }

    fn read(&self, block: u32, out: &mut [u8]) -> Result<(), Error> {
        let place = self.place(block)?;
        self.area.read(out, place.saturating_mul(self.block_size as u64))
    }

    /// The block after `block` in the ring.
    fn after(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    fn walk(&mut self) -> Result<BTreeMap<u64, Copy>, Error> {
        let mut copies = BTreeMap::new();
        let mut revoked = HashMap::new();
        let mut pending = Pending::new();
        let mut latest = 0;
        let mut block = vec![0; self.block_size];
        let mut at = self.start;
        let mut left = self.end - self.first;
        while left > 0 {
            self.read(at, &mut block)?;
            at = self.after(at);
            left -= 1;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != self.sequence {
                break;
            }
            match be32(&block, 4) {
                DESCRIPTOR => self.descriptor(&block, &mut at, &mut left, &mut pending)?,
                REVOKE => self.revocations(&block, &mut pending),
                COMMIT => {
                    let time = be64(&block, 0x30);
                    if pending.doubtful || !self.is_commit_right(&block, pending.sum) {
                        // A time before that of the last transaction is from an older log; an
                        // asynchronous commit may arrive before what it commits.
                        if time < latest || (self.asynchronous && !pending.doubtful) {
                            break;
                        }
                        let sequence = self.sequence;
                        return corrupt(format!("its transaction {sequence} has a wrong checksum"));
                    }
                    latest = time;
                    copies.extend(pending.copies.drain(..));
                    revoked.extend(pending.revoked.drain(..).map(|block| (block, self.sequence)));
                    pending = Pending::new();
                    self.sequence = self.sequence.wrapping_add(1);
                }
                _ => break,
            }
            if copies.len().max(revoked.len()) + pending.copies.len().max(pending.revoked.len())
                > NAMES
            {
                return Err(Error::TooLarge {
                    what: "the number of blocks in an ext4 journal".into(),
                    limit: NAMES.to_string(),
                    remedy: BUDGET_REMEDY,
                });
            }
        }
        self.fast_commits()?;
        // Sequence numbers may wrap around.
        copies.retain(|block, copy: &mut Copy| {
            let by = revoked.get(block);
            by.is_none_or(|by| copy.sequence.wrapping_sub(*by).cast_signed() > 0)
        });
        Ok(copies)
    }

    /// Notes what a descriptor block says of the blocks after it, and steps over those.
    fn descriptor(
        &self,
        block: &[u8],
        at: &mut u32,
        left: &mut u32,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        pending.doubtful |= !self.is_tail_right(block);
        let mut data = Vec::new();
        if self.sums == Sums::Commit {
            pending.sum = crc32_be(pending.sum, block);
            data.resize(self.block_size, 0);
        }
        let size = match self.sums {
            Sums::Whole { .. } => 16,
            Sums::Half { .. } if self.wide => 14,
            Sums::Half { .. } => 10,
            _ if self.wide => 12,
            _ => 8,
        };
        let mut tags = &block[HEADER..self.used(block)];
        while let Some(tag) = tags.get(..size) {
            let flags = be16(tag, 6);
            let high = if self.wide { u64::from(be32(tag, 8)) << 32 } else { 0 };
            let checksum = match self.sums {
                Sums::Whole { .. } => be32(tag, 12),
                _ => be16(tag, 4).into(),
            };
            let copy = Copy {
                place: self.place(*at)?,
                sequence: self.sequence,
                checksum,
                escaped: flags & FLAG_ESCAPED != 0,
            };
            pending.copies.push((u64::from(be32(tag, 0)) | high, copy));
            if self.sums == Sums::Commit {
                self.read(*at, &mut data)?;
                pending.sum = crc32_be(pending.sum, &data);
            }
            *at = self.after(*at);
            *left = left.saturating_sub(1);
            let uuid = if flags & FLAG_SAME_UUID == 0 { 16 } else { 0 };
            tags = tags.get(size + uuid..).unwrap_or_default();
            if flags & FLAG_LAST != 0 {
                break;
            }
        }
        Ok(())
    }

    fn revocations(&self, block: &[u8], pending: &mut Pending) {
        pending.doubtful |= !self.is_tail_right(block);
        let end = (be32(block, 12) as usize).min(self.used(block));
        let records = block.get(16..end).unwrap_or_default();
        if self.wide {
            pending.revoked.extend(records.chunks_exact(8).map(|record| be64(record, 0)));
        } else {
            pending
                .revoked
                .extend(records.chunks_exact(4).map(|record| u64::from(be32(record, 0))));
        }
    }

    /// Bytes of a block without its checksum.
    fn used(&self, block: &[u8]) -> usize {
        block.len() - if self.sums.seed().is_some() { 4 } else { 0 }
    }

    fn is_tail_right(&self, block: &[u8]) -> bool {
        let Some(seed) = self.sums.seed() else { return true };
        let (body, tail) = block.split_at(self.used(block));
        crc32c(crc32c(seed, body), &[0; 4]) == be32(tail, 0)
    }

    fn is_commit_right(&self, block: &[u8], sum: u32) -> bool {
        let stored = be32(block, 16);
        let Some(seed) = self.sums.seed() else {
            let unused = block[12..14] == [0, 0] && stored == 0;
            return self.sums == Sums::None || unused || (block[12..14] == [1, 4] && stored == sum);
        };
        let mut block = block.to_vec();
        block[16..20].fill(0);
        if crc32c(seed, &block) == stored {
            return true;
        }
        // The header arrived, and what was here before it is behind it.
        block[COMMIT_HEADER..].fill(0);
        crc32c(seed, &block) == stored
    }

    /// Fast commits say in a form of their own what happened after the last transaction. Reading
    /// past them would show files as they were before.
    fn fast_commits(&self) -> Result<(), Error> {
        if !self.fast_commit {
            return Ok(());
        }
        let mut block = vec![0; self.block_size];
        self.read(self.end.saturating_add(1), &mut block)?;
        let le16 = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let is_head = le16(0) == 9;
        let sequence = u32::from(le16(8)) | u32::from(le16(10)) << 16;
        if is_head && sequence == self.sequence {
            return Err(Error::UnsupportedFilesystem {
                found: "ext4 with fast commits that were not replayed (run fsck, or turn the \
                        feature off with tune2fs -O ^fast_commit)"
                    .into(),
            });
        }
        Ok(())
    }
}

fn corrupt<T>(why: String) -> Result<T, Error> {
    Err(Error::Corrupt { what: "the ext4 journal".into(), why })
}

/// Zero beyond the end, which callers rule out by length.
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// Zero beyond the end, which callers rule out by length.
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Zero beyond the end, which callers rule out by length.
fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}
