//! The filesystem as it would be once its journal is replayed.
//!
//! A machine that was cut off leaves its latest metadata in the journal. `ext4-view` replays
//! journals of one kind only, and not all of what they may hold, so it is shown a filesystem whose
//! journal was replayed already.

use super::inode::Blocks;
use super::log::{self, Replayed};
use super::superblock::{LENGTH, PLACE, Superblock};
use crate::error::Error;
use crate::source::Extent;

/// An area with the changes its journal makes. Nothing is written.
pub(super) struct Overlay {
    area: Extent,
    block_size: u64,
    /// The superblock that says the journal was replayed.
    superblock: [u8; LENGTH],
    replayed: Option<Replayed>,
}

impl Overlay {
    pub(super) fn open(area: &Extent) -> Result<Overlay, Error> {
        let superblock = Superblock::read(area)?;
        let mut this = Overlay {
            area: area.clone(),
            block_size: superblock.block_size,
            superblock: *superblock.bytes(),
            replayed: None,
        };
        let Some(inode) = superblock.journal_to_replay() else { return Ok(this) };
        if !superblock.is_checksum_right() {
            return Err(Error::Corrupt {
                what: "the ext4 superblock".into(),
                why: "its checksum is wrong".into(),
            });
        }
        let blocks = Blocks::of_inode(area, &superblock, inode)?;
        this.replayed = Some(log::replay(area, &blocks, superblock.block_size)?);
        // The journal may hold a later superblock, of a filesystem that was just resized.
        let mut bytes = [0; LENGTH];
        this.read_blocks(&mut bytes, PLACE)?;
        let mut latest = Superblock::check(bytes, area)?;
        if latest.block_size != superblock.block_size {
            return Err(Error::Corrupt {
                what: "the ext4 journal".into(),
                why: format!("it changes the size of blocks to {}", latest.block_size),
            });
        }
        latest.set_recovered();
        this.superblock = *latest.bytes();
        Ok(this)
    }

    /// Fills `out`.
    pub(super) fn read(&self, out: &mut [u8], start: u64) -> Result<(), Error> {
        self.read_blocks(out, start)?;
        let end = start.saturating_add(out.len() as u64);
        let (from, to) = (start.max(PLACE), end.min(PLACE + LENGTH as u64));
        if from < to
            && let Ok(len) = usize::try_from(to - from)
        {
            let (there, here) = ((from - start) as usize, (from - PLACE) as usize);
            out[there..there + len].copy_from_slice(&self.superblock[here..here + len]);
        }
        Ok(())
    }

    fn read_blocks(&self, mut out: &mut [u8], mut at: u64) -> Result<(), Error> {
        let Some(replayed) = &self.replayed else { return self.area.read(out, at) };
        let mut copy = Vec::new();
        while !out.is_empty() {
            let block = at / self.block_size;
            let inside = at % self.block_size;
            let next = replayed.next(block);
            let plain = next.map(|next| next.saturating_mul(self.block_size).saturating_sub(at));
            let want = match plain {
                Some(0) => self.block_size - inside,
                Some(until) => until,
                None => u64::MAX,
            };
            let len = usize::try_from(want).map_or(out.len(), |want| want.min(out.len()));
            let (now, later) = out.split_at_mut(len);
            if next == Some(block) {
                copy.resize(usize::try_from(self.block_size).unwrap_or(0), 0);
                replayed.read(&self.area, block, &mut copy)?;
                let inside = usize::try_from(inside).unwrap_or(0);
                now.copy_from_slice(&copy[inside..inside + len]);
            } else {
                self.area.read(now, at)?;
            }
            out = later;
            at += len as u64;
        }
        Ok(())
    }
}
