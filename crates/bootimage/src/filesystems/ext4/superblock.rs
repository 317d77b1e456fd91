//! The superblock: what the journal's reader needs, and checks of what `ext4-view` allocates by.

use super::checksum::crc32c;
use crate::error::Error;
use crate::source::Extent;

pub(super) const PLACE: u64 = 1024;
pub(super) const LENGTH: usize = 1024;

/// Block groups there may be, each with a descriptor in memory: 128 TiB with blocks of 4 KiB.
const GROUPS: u64 = 1 << 20;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_GROUPS: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

const INCOMPAT: usize = 0x60;
const CHECKSUM: usize = 0x3fc;

/// A superblock whose numbers fit the area.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    bytes: [u8; LENGTH],
    pub(super) block_size: u64,
    pub(super) blocks: u64,
}

impl Superblock {
    pub(super) fn read(area: &Extent) -> Result<Superblock, Error> {
        let mut bytes = [0; LENGTH];
        area.read(&mut bytes, PLACE)?;
        Superblock::check(bytes, area)
    }

    /// `ext4-view` allocates by these fields before it has read anything else.
    pub(super) fn check(bytes: [u8; LENGTH], area: &Extent) -> Result<Superblock, Error> {
        let mut this = Superblock { bytes, block_size: 1024, blocks: 0 };
        let log_block_size = this.le32(0x18);
        if log_block_size > 6 {
            return corrupt(format!("block size 2^{}", log_block_size.saturating_add(10)));
        }
        this.block_size <<= log_block_size;
        if this.le32(0x4c) == 0 || this.inode_size() == 128 {
            return Err(Error::UnsupportedFilesystem {
                found: "ext4 with inodes of 128 bytes (make it with mke2fs -I 256)".into(),
            });
        }
        let high = if this.is_64bit() { u64::from(this.le32(0x150)) << 32 } else { 0 };
        this.blocks = u64::from(this.le32(4)) | high;
        let per_group = u64::from(this.le32(0x20));
        // One bitmap block holds the bits of one group, and a group is never tiny.
        if per_group < 256 || per_group > this.block_size * 8 {
            return corrupt(format!("{per_group} blocks per group"));
        }
        // A filesystem in a larger partition is fine, one that claims more than there is isn't.
        if this.blocks == 0 || this.blocks > area.length().div_ceil(this.block_size) {
            return corrupt(format!(
                "{} blocks of {} bytes on {} bytes of disk",
                this.blocks,
                this.block_size,
                area.length()
            ));
        }
        let groups = this.blocks.div_ceil(per_group);
        if groups > GROUPS {
            return Err(Error::TooLarge {
                what: format!("{groups} block groups of an ext4 filesystem"),
                limit: GROUPS.to_string(),
                remedy: "use a smaller filesystem for /boot, or one with more blocks per group",
            });
        }
        Ok(this)
    }

    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.bytes
    }

    /// Number of the journal's inode, if there is a journal in this filesystem and it has to be
    /// replayed.
    pub(super) fn journal_to_replay(&self) -> Option<u32> {
        let incompat = self.le32(INCOMPAT);
        let external = incompat & INCOMPAT_JOURNAL_DEVICE != 0;
        let dirty = incompat & INCOMPAT_RECOVER != 0 && self.le32(0x5c) & COMPAT_HAS_JOURNAL != 0;
        (dirty && !external).then(|| self.le32(0xe0))
    }

    /// Says that the journal was replayed.
    pub(super) fn set_recovered(&mut self) {
        let incompat = self.le32(INCOMPAT) & !INCOMPAT_RECOVER;
        self.bytes[INCOMPAT..INCOMPAT + 4].copy_from_slice(&incompat.to_le_bytes());
        if self.has_checksum() {
            let sum = crc32c(!0, &self.bytes[..CHECKSUM]);
            self.bytes[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        }
    }

    pub(super) fn is_checksum_right(&self) -> bool {
        !self.has_checksum() || self.le32(CHECKSUM) == crc32c(!0, &self.bytes[..CHECKSUM])
    }

    /// Where an inode is, given a reader of the group's descriptor.
    pub(super) fn inode_place(&self, number: u32, area: &Extent) -> Result<u64, Error> {
        let Some(index) = number.checked_sub(1) else {
            return corrupt("the journal is in inode 0".to_owned());
        };
        let per_group = self.le32(0x28);
        if per_group == 0 || self.le32(INCOMPAT) & INCOMPAT_META_GROUPS != 0 {
            return corrupt(format!("{per_group} inodes per group, or meta groups"));
        }
        let (group, index) = (index / per_group, index % per_group);
        let descriptor_size = if self.is_64bit() { u64::from(self.le16(0xfe)).max(64) } else { 32 };
        let table = (u64::from(self.le32(0x14)) + 1) * self.block_size;
        let mut descriptor = [0; 64];
        let used = if self.is_64bit() { 64 } else { 32 };
        area.read(&mut descriptor[..used], table + u64::from(group) * descriptor_size)?;
        let first = u64::from(le32(&descriptor, 8)) | u64::from(le32(&descriptor, 0x28)) << 32;
        first
            .checked_mul(self.block_size)
            .and_then(|at| at.checked_add(u64::from(index) * u64::from(self.inode_size())))
            .map_or_else(|| corrupt(format!("an inode table at block {first}")), Ok)
    }

    fn is_64bit(&self) -> bool {
        self.le32(INCOMPAT) & INCOMPAT_64BIT != 0
    }

    fn has_checksum(&self) -> bool {
        self.le32(0x64) & RO_COMPAT_METADATA_CSUM != 0
    }

    fn inode_size(&self) -> u16 {
        self.le16(0x58)
    }

    fn le16(&self, at: usize) -> u16 {
        le16(&self.bytes, at)
    }

    fn le32(&self, at: usize) -> u32 {
        le32(&self.bytes, at)
    }
}

fn corrupt<T>(why: String) -> Result<T, Error> {
    Err(Error::Corrupt { what: "the ext4 superblock".into(), why })
}

/// Zero beyond the end, which callers rule out by length.
pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// Zero beyond the end, which callers rule out by length.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}
