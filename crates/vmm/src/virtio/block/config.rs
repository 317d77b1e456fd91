//! What a driver reads of a disk.

use crate::virtio::device::RING_FEATURES;

/// Bytes of a sector, the unit of the whole interface.
pub const SECTOR: u64 = 512;
/// Entries of a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Data pieces of a request: header and status take two of a queue's descriptors.
pub const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors one discard or write-zeroes request may cover: 1 GiB.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// Guests do best to align discards to the clusters of an image: 64 KiB.
const DISCARD_ALIGNMENT: u32 = 128;
/// Host pages are 4 KiB: 2 to the power of 3 sectors.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
const MIN_IO_SECTORS: u16 = 8;
const OPTIMAL_IO_SECTORS: u32 = 128;

/// Feature bits.
pub const F_SEG_MAX: u64 = 1 << 2;
pub const F_RO: u64 = 1 << 5;
pub const F_BLK_SIZE: u64 = 1 << 6;
pub const F_FLUSH: u64 = 1 << 9;
pub const F_TOPOLOGY: u64 = 1 << 10;
pub const F_MQ: u64 = 1 << 12;
pub const F_DISCARD: u64 = 1 << 13;
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// What a disk is, for its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whole sectors.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Queues.
    pub queues: u16,
}

impl Geometry {
    /// Features a disk offers.
    pub fn features(&self) -> u64 {
        let mut features = RING_FEATURES | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
        features |= if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        if self.queues > 1 {
            features |= F_MQ;
        }
        features
    }

    /// `struct virtio_blk_config`.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(self.sectors.to_le_bytes());
        bytes.extend(0u32.to_le_bytes()); // size_max: not offered
        bytes.extend(MAX_SEGMENTS.to_le_bytes());
        bytes.extend([0; 4]); // CHS geometry: not offered
        bytes.extend((SECTOR as u32).to_le_bytes());
        bytes.extend([PHYSICAL_BLOCK_EXPONENT, 0]);
        bytes.extend(MIN_IO_SECTORS.to_le_bytes());
        bytes.extend(OPTIMAL_IO_SECTORS.to_le_bytes());
        bytes.extend([1, 0]); // write back; fixed, as the feature to change it is not offered
        bytes.extend(self.queues.to_le_bytes());
        let range = if self.read_only { [0; 2] } else { [MAX_RANGE_SECTORS, 1] };
        for limit in range {
            bytes.extend(limit.to_le_bytes()); // discard: sectors, segments
        }
        bytes.extend(DISCARD_ALIGNMENT.to_le_bytes());
        for limit in range {
            bytes.extend(limit.to_le_bytes()); // write zeroes: sectors, segments
        }
        bytes.extend([u8::from(!self.read_only), 0, 0, 0]); // write zeroes may unmap
        bytes
    }
}
