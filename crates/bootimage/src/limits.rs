//! How much an untrusted disk may cost.

use std::time::Duration;

/// Upper bounds of one search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the kernel file.
    pub kernel_bytes: u64,
    /// Bytes of all initrds together.
    pub initrd_bytes: u64,
    /// Bytes of a configuration file.
    pub config_bytes: u64,
    /// Bytes read from the disk, all in all.
    pub read_bytes: u64,
    /// Reads from the disk, all in all.
    pub reads: u64,
    /// Entries looked at in one directory.
    pub directory_entries: usize,
    /// Partitions looked at.
    pub partitions: usize,
    /// Wall time from the first read to the last.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            kernel_bytes: 64 << 20,
            initrd_bytes: 512 << 20,
            config_bytes: 1 << 20,
            read_bytes: 2 << 30,
            reads: 4 << 20,
            directory_entries: 4096,
            partitions: 128,
            time: Duration::from_secs(20),
        }
    }
}
