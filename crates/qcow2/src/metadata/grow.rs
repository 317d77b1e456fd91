//! Changes of the header at run time: the size, and an L1 table that moves to grow.

use super::Metadata;
use crate::error::Error;
use crate::format::header::MAX_L1_BYTES;

impl Metadata {
    /// Make the L1 table large enough for a disk of `size` bytes.
    pub(crate) fn grow_l1(&mut self, size: u64) -> Result<(), Error> {
        self.check_writable()?;
        if self.geometry.version < 3 && self.header.snapshots > 0 {
            return Err(Error::Unsupported {
                feature: "growing a version 2 image with internal snapshots".into(),
                remedy: "upgrade it with `qemu-img amend -o compat=1.1`",
            });
        }
        let needed = self.geometry.l1_entries(size);
        if size > i64::MAX as u64 || needed * 8 > MAX_L1_BYTES {
            return Err(Error::InvalidArgument(format!(
                "{size} bytes are too many for clusters of {} bytes",
                self.geometry.cluster_size()
            )));
        }
        if needed <= self.l1.len() as u64 {
            return Ok(());
        }
        let bits = self.geometry.cluster_bits;
        let clusters = (needed * 8).div_ceil(self.geometry.cluster_size());
        let start = self.allocate_run(clusters)?;
        // Entries not written yet must not reach the new table before their L2 tables are durable.
        self.flush_all()?;
        let old = (self.header.l1_offset, self.l1.len() as u64 * 8);
        let mut bytes: Vec<u8> = self.l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        bytes.resize((clusters << bits) as usize, 0);
        self.write("L1 table", &bytes, start << bits)?;
        self.sync()?;
        let entries = u32::try_from(needed)
            .map_err(|_| Error::InvalidArgument("the L1 table is too large".into()))?;
        let mut place = [0u8; 12];
        place[..4].copy_from_slice(&entries.to_be_bytes());
        place[4..].copy_from_slice(&(start << bits).to_be_bytes());
        self.write("the L1 table's place in the header", &place, 36)?;
        self.sync()?;
        self.header.l1_offset = start << bits;
        self.header.l1_size = entries;
        self.l1.resize(needed as usize, 0);
        self.taken.extend(start..start + clusters);
        if old.1 > 0 {
            let first = old.0 >> bits;
            self.dropped.push((first, ((old.0 + old.1 - 1) >> bits) - first + 1));
        }
        Ok(())
    }

    /// Record the size in the header, durably.
    pub(crate) fn set_size(&mut self, size: u64) -> Result<(), Error> {
        self.check_writable()?;
        self.write("the size in the header", &size.to_be_bytes(), 24)?;
        self.sync()?;
        self.header.size = size;
        Ok(())
    }
}
