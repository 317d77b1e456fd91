//! Reference counts: lookup and update through the cached refcount blocks.

use super::Metadata;
use crate::error::Error;
use crate::format::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::format::refcount;

impl Metadata {
    /// Refcount table index and index inside the block.
    fn refcount_index(&self, cluster: u64) -> (usize, u64) {
        let bits = self.geometry.refcount_block_bits();
        (usize::try_from(cluster >> bits).unwrap_or(usize::MAX), cluster & ((1 << bits) - 1))
    }

    /// Slice offset in the file and count index inside the slice.
    fn refcount_slot(&self, block: u64, index: u64) -> (u64, usize) {
        let per_slice = (self.slice_size * 8) >> self.geometry.refcount_order;
        (block + index / per_slice * self.slice_size, (index % per_slice) as usize)
    }

    fn load_refcount_slice(&mut self, offset: u64) -> Result<(), Error> {
        if self.refcounts.get(offset).is_some() {
            return Ok(());
        }
        if !self.refcounts.make_room() {
            // Counts in memory never run ahead of what is durable below, so that they can be
            // written at any time.
            self.write_refcount_slices()?;
            self.refcounts.make_room();
        }
        let mut bytes = vec![0u8; self.slice_size as usize].into_boxed_slice();
        let n = self
            .file
            .read_at(&mut bytes, offset)
            .map_err(|e| Error::io(format!("read refcount block at {offset:#x}"), e))?;
        if n < bytes.len() {
            return Err(Error::invalid(
                "refcount block",
                format!("at {offset:#x} it reaches beyond the end of the file"),
            ));
        }
        self.refcounts.insert(offset, bytes);
        Ok(())
    }

    /// The reference count of a host cluster.
    pub(crate) fn refcount(&mut self, cluster: u64) -> Result<u64, Error> {
        let (table_index, index) = self.refcount_index(cluster);
        let block = self.refcount_table.get(table_index).copied().unwrap_or(0);
        if block == 0 {
            return Ok(0);
        }
        let (offset, slot) = self.refcount_slot(block, index);
        self.load_refcount_slice(offset)?;
        let order = self.geometry.refcount_order;
        Ok(self.refcounts.get(offset).map_or(0, |s| refcount::get(&s.bytes, slot, order)))
    }

    /// Set the count of a cluster whose block exists.
    pub(super) fn set_refcount(&mut self, cluster: u64, value: u64) -> Result<(), Error> {
        let (table_index, index) = self.refcount_index(cluster);
        let block = self.refcount_table.get(table_index).copied().unwrap_or(0);
        if block == 0 {
            return Err(self.mark_corrupt(format!("cluster {cluster} has no refcount block")));
        }
        let (offset, slot) = self.refcount_slot(block, index);
        self.load_refcount_slice(offset)?;
        let version = self.next_version();
        let order = self.geometry.refcount_order;
        if let Some(slice) = self.refcounts.get(offset) {
            refcount::set(&mut slice.bytes, slot, order, value);
            slice.dirty = true;
            slice.version = version;
        }
        Ok(())
    }

    /// Take one reference away; true when none is left.
    pub(super) fn drop_refcount(&mut self, cluster: u64) -> Result<bool, Error> {
        match self.refcount(cluster)? {
            0 => Err(self.mark_corrupt(format!("cluster {cluster} is in use with refcount 0"))),
            count => {
                self.set_refcount(cluster, count - 1)?;
                Ok(count == 1)
            }
        }
    }

    pub(super) fn has_refcount_block(&self, cluster: u64) -> bool {
        let (table_index, _) = self.refcount_index(cluster);
        self.refcount_table.get(table_index).is_some_and(|block| *block != 0)
    }

    /// The first cluster from `cluster` on with a count of zero. Looks at whole slices, as an image
    /// has many clusters in use.
    pub(super) fn next_zero_refcount(&mut self, mut cluster: u64) -> Result<u64, Error> {
        let order = self.geometry.refcount_order;
        let per_slice = (self.slice_size * 8) >> order;
        loop {
            let (table_index, index) = self.refcount_index(cluster);
            let block = self.refcount_table.get(table_index).copied().unwrap_or(0);
            if block == 0 {
                return Ok(cluster);
            }
            let (offset, slot) = self.refcount_slot(block, index);
            self.load_refcount_slice(offset)?;
            let free = self.refcounts.get(offset).and_then(|slice| {
                (slot..per_slice as usize).find(|at| refcount::get(&slice.bytes, *at, order) == 0)
            });
            if let Some(free) = free {
                return Ok(cluster + (free - slot) as u64);
            }
            cluster += per_slice - slot as u64;
        }
    }

    /// Count the clusters of refcount structures. Each may need a block of its own first. After a
    /// failure they stay owed: the allocator keeps off them, and no table that names them is
    /// written before they are counted.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        while let Some(cluster) = self.owed.first().copied() {
            self.ensure_refcount_block(cluster)?;
            self.set_refcount(cluster, 1)?;
            self.owed.remove(&cluster);
        }
        Ok(())
    }

    /// Make sure the block that counts `cluster` exists; a new one is placed behind it. The caller
    /// [`settle`](Self::settle)s.
    pub(super) fn ensure_refcount_block(&mut self, cluster: u64) -> Result<(), Error> {
        let (table_index, _) = self.refcount_index(cluster);
        while table_index >= self.refcount_table.len() {
            self.move_refcount_table(table_index, cluster)?;
        }
        if self.refcount_table[table_index] != 0 {
            return Ok(());
        }
        // The block may lie in the range it describes, or in one that needs a block itself.
        let at = self.claim(cluster, 1)?;
        let offset = at << self.geometry.cluster_bits;
        if let Err(error) = self.zero_cluster(offset) {
            self.unclaim(at, 1);
            return Err(error);
        }
        self.refcount_table[table_index] = offset;
        self.refcount_table_dirty.insert(table_index);
        self.owed.insert(at);
        Ok(())
    }

    /// Put a larger refcount table at `from` or behind, with room for `index` and what comes with
    /// it.
    fn move_refcount_table(&mut self, index: usize, from: u64) -> Result<(), Error> {
        let size = self.geometry.cluster_size();
        let per_block = 1u64 << self.geometry.refcount_block_bits();
        // Room for the entry, and for the blocks that count the table's own clusters.
        let clusters_for = |entries: u64| {
            let own = (entries * 8 / size + 2).div_ceil(per_block) + 2;
            ((entries + own) * 8).div_ceil(size)
        };
        let needed = clusters_for(index as u64 + 1);
        let max = MAX_REFCOUNT_TABLE_BYTES.max(size) / size;
        if needed > max {
            let full = std::io::Error::from_raw_os_error(libc::EFBIG);
            return Err(Error::io("grow the refcount table", full));
        }
        let ahead = clusters_for(self.refcount_table.len() as u64 * 3 / 2);
        let clusters = ahead.clamp(needed, max);
        let start = self.claim(from, clusters)?;
        if let Err(error) = self.extend_file(start + clusters) {
            self.unclaim(start, clusters);
            return Err(error);
        }
        self.virgin = self.virgin.max(start + clusters);
        self.refcount_table.resize((clusters * size / 8) as usize, 0);
        let old = (self.header.refcount_table_offset, self.header.refcount_table_clusters);
        if self.refcount_table_moved.is_some() {
            // Moved twice before a write-back: the place in between was never named on disk.
            let (first, count) = (old.0 >> self.geometry.cluster_bits, u64::from(old.1));
            self.dropped.push((first, count));
            self.unclaim(first, count);
        } else {
            self.refcount_table_moved = Some(old);
        }
        self.header.refcount_table_offset = start << self.geometry.cluster_bits;
        self.header.refcount_table_clusters = clusters as u32;
        self.owed.extend(start..start + clusters);
        Ok(())
    }
}
