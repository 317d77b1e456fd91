//! The on-disk structures: decoding, validation and encoding, without any I/O of their own.

pub(crate) mod entry;
pub(crate) mod header;
pub(crate) mod rebase;
pub(crate) mod refcount;
pub(crate) mod snapshot;

/// Read a big-endian u32; zero when out of bounds, which callers rule out by length.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Read a big-endian u64; zero when out of bounds, which callers rule out by length.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}
