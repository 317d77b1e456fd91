//! Guest clusters to host clusters: lookup and change of L1 and L2 entries.

use super::Metadata;
use crate::error::Error;
use crate::format::be64;
use crate::format::entry::{self, COPIED, Mapping};

impl Metadata {
    /// Offset of the L2 table named by L1 entry `index`.
    pub(super) fn l2_table(&self, index: usize) -> Result<Option<u64>, Error> {
        entry::l2_table_offset(self.l1.get(index).copied().unwrap_or(0), index, &self.geometry)
    }

    fn l1_index(&self, guest_cluster: u64) -> usize {
        usize::try_from(guest_cluster >> self.geometry.l2_bits()).unwrap_or(usize::MAX)
    }

    /// Slice offset in the file and entry index inside the slice.
    fn l2_slot(&self, table: u64, guest_cluster: u64) -> (u64, usize) {
        let at = (guest_cluster & ((1 << self.geometry.l2_bits()) - 1)) * 8;
        (table + at / self.slice_size * self.slice_size, (at % self.slice_size / 8) as usize)
    }

    fn load_l2_slice(&mut self, offset: u64) -> Result<(), Error> {
        if self.l2.get(offset).is_some() {
            return Ok(());
        }
        if !self.l2.make_room() {
            self.write_back_l2()?;
            self.l2.make_room();
        }
        let mut bytes = vec![0u8; self.slice_size as usize].into_boxed_slice();
        let n = self
            .file
            .read_at(&mut bytes, offset)
            .map_err(|e| Error::io(format!("read L2 table at {offset:#x}"), e))?;
        if n < bytes.len() {
            return Err(Error::invalid(
                "L2 table",
                format!("at {offset:#x} it reaches beyond the end of the file"),
            ));
        }
        self.l2.insert(offset, bytes);
        Ok(())
    }

    /// The mappings of `count` guest clusters from `first`, appended to `out`.
    pub(crate) fn map(
        &mut self,
        first: u64,
        count: u64,
        out: &mut impl Extend<Mapping>,
    ) -> Result<(), Error> {
        let geometry = self.geometry;
        let per_slice = self.slice_size / 8;
        let end = first + count;
        let mut cluster = first;
        while cluster < end {
            let run_end = ((cluster / per_slice + 1) * per_slice).min(end);
            match self.l2_table(self.l1_index(cluster))? {
                None => out.extend((cluster..run_end).map(|_| Mapping::Unallocated)),
                Some(table) => {
                    let (offset, slot) = self.l2_slot(table, cluster);
                    self.load_l2_slice(offset)?;
                    if let Some(slice) = self.l2.get(offset) {
                        for (i, guest) in (cluster..run_end).enumerate() {
                            let raw = be64(&slice.bytes, (slot + i) * 8);
                            out.extend(Some(entry::decode(raw, guest, &geometry)?));
                        }
                    }
                }
            }
            cluster = run_end;
        }
        Ok(())
    }

    /// Is there an L2 table for this cluster? Without one, the whole table's range is unallocated.
    pub(crate) fn has_l2_table(&self, guest_cluster: u64) -> Result<bool, Error> {
        Ok(self.l2_table(self.l1_index(guest_cluster))?.is_some())
    }

    /// Does this layer map nothing at all, so that everything shows what is below?
    pub(crate) fn is_empty(&mut self) -> Result<bool, Error> {
        let table = 1u64 << self.geometry.l2_bits();
        let per_slice = self.slice_size / 8;
        let mut mappings = Vec::new();
        for index in 0..self.l1.len() {
            if self.l2_table(index)?.is_none() {
                continue;
            }
            let first = index as u64 * table;
            for part in (first..first + table).step_by(per_slice as usize) {
                mappings.clear();
                self.map(part, per_slice, &mut mappings)?;
                if mappings.iter().any(|m| *m != Mapping::Unallocated) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Make sure the L2 table of `guest_cluster` exists and belongs to the active state alone.
    pub(crate) fn prepare_l2(&mut self, guest_cluster: u64) -> Result<u64, Error> {
        let index = self.l1_index(guest_cluster);
        let old = self.l2_table(index)?;
        if let Some(table) = old
            && self.l1[index] & COPIED != 0
        {
            return Ok(table);
        }
        if index >= self.l1.len() {
            return Err(Error::invalid("L1 table", format!("it has no entry {index}")));
        }
        let allocation = self.allocate()?;
        let table = allocation.host;
        let bits = self.geometry.cluster_bits;
        self.l2.forget(table, self.geometry.cluster_size());
        let ready = match old {
            // Shared with a snapshot: the active state gets its own copy.
            Some(old) => self.copy_l2(old, table),
            None if allocation.zeroed => Ok(()),
            None => {
                let zeroes = vec![0u8; self.geometry.cluster_size() as usize];
                self.write("L2 table", &zeroes, table)
            }
        };
        if let Err(error) = ready {
            self.release_unused(table)?;
            return Err(error);
        }
        if let Some(old) = old {
            self.dropped.push((old >> bits, 1));
        }
        self.taken.insert(table >> bits);
        self.l1[index] = table | COPIED;
        self.l1_dirty.insert(index);
        Ok(table)
    }

    fn copy_l2(&self, from: u64, to: u64) -> Result<(), Error> {
        let mut bytes = vec![0u8; self.geometry.cluster_size() as usize];
        let n = self
            .file
            .read_at(&mut bytes, from)
            .map_err(|e| Error::io(format!("read L2 table at {from:#x}"), e))?;
        if n < bytes.len() {
            return Err(Error::invalid("L2 table", format!("at {from:#x} it is cut short")));
        }
        self.write("L2 table", &bytes, to)
    }

    /// Change the mapping of one guest cluster and drop what it referred to before.
    ///
    /// The new mapping's data is already in the file; a host cluster that appears in both the
    /// old and the new mapping keeps its reference.
    pub(crate) fn set_mapping(&mut self, guest_cluster: u64, new: Mapping) -> Result<(), Error> {
        self.check_writable()?;
        let table = self.prepare_l2(guest_cluster)?;
        let (offset, slot) = self.l2_slot(table, guest_cluster);
        self.load_l2_slice(offset)?;
        let version = self.next_version();
        let geometry = self.geometry;
        let Some(slice) = self.l2.get(offset) else {
            return Err(Error::invalid("L2 table", "slice vanished from the cache"));
        };
        let old = entry::decode(be64(&slice.bytes, slot * 8), guest_cluster, &geometry)?;
        let raw = entry::encode(new);
        if let Some(place) = slice.bytes.get_mut(slot * 8..slot * 8 + 8) {
            place.copy_from_slice(&raw.to_be_bytes());
        }
        slice.dirty = true;
        slice.version = version;
        self.drop_mapping(old, new);
        Ok(())
    }

    fn drop_mapping(&mut self, old: Mapping, new: Mapping) {
        let kept = match new {
            Mapping::Data { host, .. } | Mapping::Zero { host: Some(host), .. } => Some(host),
            _ => None,
        };
        let bits = self.geometry.cluster_bits;
        let (first, last) = match old {
            Mapping::Data { host, .. } | Mapping::Zero { host: Some(host), .. } => {
                if kept == Some(host) {
                    return;
                }
                (host >> bits, host >> bits)
            }
            Mapping::Compressed { offset, len } => (offset >> bits, (offset + len - 1) >> bits),
            Mapping::Unallocated | Mapping::Zero { host: None, .. } => return,
        };
        let count = last - first + 1;
        match self.dropped.last_mut() {
            Some((start, len)) if *start + *len == first => *len += count,
            _ => self.dropped.push((first, count)),
        }
    }

    /// Data about to be written in place must not hit metadata.
    pub(crate) fn check_in_place(&mut self, host: u64) -> Result<(), Error> {
        let cluster = host >> self.geometry.cluster_bits;
        if self.taken.contains(&cluster) {
            return Err(
                self.mark_corrupt(format!("an L2 entry maps guest data to metadata at {host:#x}"))
            );
        }
        Ok(())
    }

    /// Does an unallocated cluster read as zeroes?
    pub(crate) fn unallocated_is_zero(&self) -> bool {
        !self.has_backing
    }

    /// Dropped clusters are kept in memory until the next flush; true when a flush is due.
    pub(crate) fn wants_flush(&self) -> bool {
        self.dropped.len() > 4096
    }
}
