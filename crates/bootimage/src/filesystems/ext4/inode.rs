//! Where the blocks of the journal's file are. Its inode never changes while the filesystem is in
//! use, so it is read as it is on the disk.

use super::superblock::{Superblock, le16, le32};
use crate::error::Error;
use crate::source::Extent;

/// More pieces than this has no journal; each costs memory.
const RUNS: usize = 1 << 20;

/// Levels of an extent tree, as the format allows.
const DEPTH: u16 = 5;

const FLAG_EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;

/// Blocks `first..first + count` of a file, from block `place` of the filesystem on.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    count: u64,
    place: u64,
}

/// The blocks of a file.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Ascending, without overlaps.
    runs: Vec<Run>,
    /// Blocks in the file, holes included.
    pub(super) count: u64,
}

impl Blocks {
    /// Reads the map of an inode.
    pub(super) fn of_inode(
        area: &Extent,
        superblock: &Superblock,
        number: u32,
    ) -> Result<Blocks, Error> {
        let mut inode = [0; 128];
        area.read(&mut inode, superblock.inode_place(number, area)?)?;
        let size = u64::from(le32(&inode, 4)) | u64::from(le32(&inode, 0x6c)) << 32;
        let count = size / superblock.block_size;
        let mut map = Map { area, superblock, blocks: Blocks { runs: Vec::new(), count } };
        let root = &inode[0x28..0x64];
        if le32(&inode, 0x20) & FLAG_EXTENTS != 0 {
            map.extents(root, None)?;
        } else {
            map.pointers(root)?;
        }
        Ok(map.blocks)
    }

    /// The filesystem's block that holds a block of the file.
    pub(super) fn place(&self, block: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.first <= block).checked_sub(1)?;
        let run = self.runs.get(at)?;
        let inside = block - run.first;
        (inside < run.count).then(|| run.place + inside)
    }
}

struct Map<'a> {
    area: &'a Extent,
    superblock: &'a Superblock,
    blocks: Blocks,
}

impl Map<'_> {
    fn add(&mut self, first: u64, count: u64, place: u64) -> Result<(), Error> {
        if place == 0 || place.checked_add(count).is_none_or(|end| end > self.superblock.blocks) {
            return corrupt(format!("it is in blocks {place}..+{count}"));
        }
        if let Some(last) = self.blocks.runs.last_mut() {
            if first < last.first + last.count {
                return corrupt(format!("its block {first} is out of order"));
            }
            if first == last.first + last.count && place == last.place + last.count {
                last.count += count;
                return Ok(());
            }
        }
        if self.blocks.runs.len() == RUNS {
            return corrupt(format!("it is in more than {RUNS} pieces"));
        }
        self.blocks.runs.push(Run { first, count, place });
        Ok(())
    }

    fn block(&self, place: u64) -> Result<Vec<u8>, Error> {
        let size = self.superblock.block_size;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.area.read(&mut bytes, place.saturating_mul(size))?;
        Ok(bytes)
    }

    /// A node of an extent tree; `level` is what its parent says.
    fn extents(&mut self, node: &[u8], level: Option<u16>) -> Result<(), Error> {
        let depth = le16(node, 6);
        let right_level = level.map_or(depth <= DEPTH, |level| level == depth);
        if le16(node, 0) != EXTENT_MAGIC || !right_level {
            return corrupt("its extent tree is not one".to_owned());
        }
        let entries = usize::from(le16(node, 2)).min(node.len() / 12 - 1);
        for entry in node.chunks_exact(12).skip(1).take(entries) {
            let first = u64::from(le32(entry, 0));
            if depth == 0 {
                let place = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                self.add(first, u64::from(le16(entry, 4)), place)?;
            } else {
                let place = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let child = self.block(place)?;
                self.extents(&child, Some(depth - 1))?;
            }
        }
        Ok(())
    }

    /// The twelve direct pointers and the three indirect ones of ext2 and ext3.
    fn pointers(&mut self, root: &[u8]) -> Result<(), Error> {
        let mut next = 0;
        for index in 0..15 {
            self.pointer(le32(root, index * 4), index.saturating_sub(11), &mut next)?;
        }
        Ok(())
    }

    fn pointer(&mut self, place: u32, level: usize, next: &mut u64) -> Result<(), Error> {
        if *next >= self.blocks.count {
            return Ok(());
        }
        if place == 0 {
            *next += (self.superblock.block_size / 4).saturating_pow(level as u32);
            return Ok(());
        }
        if level == 0 {
            self.add(*next, 1, place.into())?;
            *next += 1;
            return Ok(());
        }
        let block = self.block(place.into())?;
        for entry in block.chunks_exact(4) {
            self.pointer(le32(entry, 0), level - 1, next)?;
        }
        Ok(())
    }
}

fn corrupt<T>(why: String) -> Result<T, Error> {
    Err(Error::Corrupt { what: "the file of the ext4 journal".into(), why })
}
