//! The single owner of a qcow2 layer's metadata: tables in memory, and the order in which they
//! reach the file.
//!
//! Nothing outside this module changes a table. Changes are made in memory and written back by
//! [`writeback`] in this order: data, refcounts and new tables' first content, sync, L2 and L1
//! entries, sync, and only then are dropped clusters given back. At every point in between, the
//! file is consistent except for clusters counted but not yet used.

mod allocator;
mod grow;
pub(crate) mod mapping;
mod ranges;
mod refcounts;
mod slices;
mod writeback;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::error::Error;
use crate::format::entry;
use crate::format::header::{self, Geometry, Header};
use crate::format::{be64, snapshot};
use crate::storage::Storage;
use ranges::RangeSet;
use slices::{MAX_SLICE, SliceCache};
pub(crate) use writeback::Flush;

/// L2 slices kept in memory per layer, in bytes. Unit tests make do with little, so that their
/// small disks overflow it.
const L2_CACHE: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };
/// Slices kept at least.
const MIN_SLICES: u64 = 16;
/// Refcount slices kept in memory, in bytes.
const REFCOUNT_CACHE: u64 = if cfg!(test) { 2 << 10 } else { 128 << 10 };

/// Metadata of one qcow2 layer.
#[derive(Debug)]
pub(crate) struct Metadata {
    file: Arc<dyn Storage>,
    header: Header,
    geometry: Geometry,
    slice_size: u64,
    writable: bool,
    /// Unallocated may mean "look below", so zeroes must be said explicitly.
    has_backing: bool,
    /// A sync failed or a contradiction was found: nothing is written any more.
    stopped: Option<Stop>,

    l1: Vec<u64>,
    l1_dirty: BTreeSet<usize>,
    l2: SliceCache,

    refcount_table: Vec<u64>,
    refcount_table_dirty: BTreeSet<usize>,
    /// The table moved: the header still names this old place (offset, clusters).
    refcount_table_moved: Option<(u64, u32)>,
    refcounts: SliceCache,

    /// Clusters that hold metadata; the allocator must never hand one of them out.
    taken: HashSet<u64>,
    /// Clusters of refcount structures in memory that are not counted yet.
    owed: BTreeSet<u64>,
    /// Clusters known to be free; they are used first.
    free: RangeSet,
    /// Where the search for more of them starts.
    hint: u64,
    /// No cluster from here on was ever used: they read as zeroes.
    virgin: u64,
    file_len: u64,
    /// Clusters that lost a reference, as (first, count), until the loss is durable.
    dropped: Vec<(u64, u64)>,
    /// Clusters given back whose count of zero is not durable yet.
    quarantine: RangeSet,

    version: u64,
    flushes: usize,
    /// While a flush is under way: version of the last write of each L2 slice.
    written: HashMap<u64, u64>,
}

#[derive(Debug, Clone)]
enum Stop {
    SyncFailed,
    Corrupt(String),
}

impl Metadata {
    /// Take over the tables of an image whose header was read and checked.
    pub(crate) fn open(
        file: Arc<dyn Storage>,
        header: Header,
        writable: bool,
        has_backing: bool,
    ) -> Result<Self, Error> {
        let geometry = header.geometry;
        let file_len = file.len().map_err(|e| Error::io("find the image's length", e))?;
        let l1 = read_table(&*file, "L1 table", header.l1_offset, header.l1_size as usize)?;
        let has_backing = has_backing || header.backing_name.is_some();
        let cache = L2_CACHE / geometry.cluster_size().min(MAX_SLICE);
        let l2 = SliceCache::new(cache as usize);
        let mut this =
            Self { writable, ..Self::reader(file, header, l1, l2, file_len, has_backing) };
        if writable {
            this.open_for_writing()?;
        }
        Ok(this)
    }

    /// A layer that is only read.
    fn reader(
        file: Arc<dyn Storage>,
        header: Header,
        l1: Vec<u64>,
        l2: SliceCache,
        file_len: u64,
        has_backing: bool,
    ) -> Self {
        let geometry = header.geometry;
        let slice_size = geometry.cluster_size().min(MAX_SLICE);
        Self {
            file,
            geometry,
            slice_size,
            writable: false,
            has_backing,
            stopped: None,
            l1,
            l1_dirty: BTreeSet::new(),
            l2,
            refcount_table: Vec::new(),
            refcount_table_dirty: BTreeSet::new(),
            refcount_table_moved: None,
            refcounts: SliceCache::new((REFCOUNT_CACHE / slice_size) as usize),
            taken: HashSet::new(),
            owed: BTreeSet::new(),
            free: RangeSet::default(),
            hint: 0,
            virgin: file_len.div_ceil(geometry.cluster_size()),
            file_len,
            dropped: Vec::new(),
            quarantine: RangeSet::default(),
            version: 0,
            flushes: 0,
            written: HashMap::new(),
            header,
        }
    }

    /// Hand the tables over to a reader through `file`, the same file again. Everything was
    /// flushed, and nothing is written from here any more.
    pub(crate) fn freeze(&mut self, file: Arc<dyn Storage>) -> Self {
        self.writable = false;
        Self::reader(
            file,
            self.header.clone(),
            std::mem::take(&mut self.l1),
            std::mem::replace(&mut self.l2, SliceCache::new(0)),
            self.file_len,
            self.has_backing,
        )
    }

    /// Refuse a header, read from a file said to be this layer's, that is another one's.
    pub(crate) fn check_same(&self, header: &Header) -> Result<(), Error> {
        let place = |h: &Header| (h.geometry, h.l1_offset, h.l1_size, h.size);
        if place(header) == place(&self.header) {
            return Ok(());
        }
        Err(Error::InvalidArgument("it is not the disk's present top layer".into()))
    }

    fn open_for_writing(&mut self) -> Result<(), Error> {
        let entries =
            (u64::from(self.header.refcount_table_clusters) << self.geometry.cluster_bits) / 8;
        self.refcount_table = read_table(
            &*self.file,
            "refcount table",
            self.header.refcount_table_offset,
            entries as usize,
        )?;
        self.note_taken()?;
        if self.header.autoclear != 0 {
            self.file
                .write_at(&0u64.to_be_bytes(), 88)
                .and_then(|()| self.file.sync())
                .map_err(|e| Error::io("clear the autoclear features in the header", e))?;
            self.header.autoclear = 0;
        }
        Ok(())
    }

    /// Collect the metadata clusters, refusing images in which two structures overlap.
    fn note_taken(&mut self) -> Result<(), Error> {
        self.take("header", 0, 1)?;
        let header = self.header.clone();
        self.take("L1 table", header.l1_offset, u64::from(header.l1_size) * 8)?;
        let table_len = u64::from(header.refcount_table_clusters) << self.geometry.cluster_bits;
        self.take("refcount table", header.refcount_table_offset, table_len)?;
        let cluster = self.geometry.cluster_size();
        for index in 0..self.refcount_table.len() {
            let offset = self.refcount_table[index];
            if offset == 0 {
                continue;
            }
            if !offset.is_multiple_of(cluster) || offset >= self.file_len {
                return Err(Error::invalid(
                    "refcount table",
                    format!("entry {index} is {offset:#x}, file length {:#x}", self.file_len),
                ));
            }
            self.take("refcount block", offset, cluster)?;
        }
        for index in 0..self.l1.len() {
            let Some(offset) = self.l2_table(index)? else { continue };
            if offset >= self.file_len {
                return Err(Error::invalid(
                    "L1 table",
                    format!("entry {index} is {offset:#x}, beyond the end of the file"),
                ));
            }
            self.take("L2 table", offset, cluster)?;
        }
        let table =
            snapshot::read(&*self.file, header.snapshot_offset, header.snapshots, &self.geometry)?;
        self.take("snapshot table", header.snapshot_offset, table.bytes)?;
        for snapshot in &table.snapshots {
            self.take("snapshot L1 table", snapshot.l1_offset, u64::from(snapshot.l1_size) * 8)?;
            let l1 = read_table(
                &*self.file,
                "snapshot L1 table",
                snapshot.l1_offset,
                snapshot.l1_size as usize,
            )?;
            for entry in l1 {
                // Snapshots share L2 tables with the active state and with each other.
                self.taken.insert((entry & entry::OFFSET_MASK) >> self.geometry.cluster_bits);
            }
        }
        Ok(())
    }

    fn take(&mut self, what: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        let bits = self.geometry.cluster_bits;
        if len == 0 {
            return Ok(());
        }
        for cluster in offset >> bits..=(offset + len - 1) >> bits {
            if !self.taken.insert(cluster) {
                return Err(Error::corrupt(format!(
                    "the {what} at {offset:#x} overlaps other metadata"
                )));
            }
        }
        Ok(())
    }

    /// Keep only a share of the L2 slices in memory: this is one of so many layers below the top.
    pub(crate) fn share_cache(&mut self, layers: usize) {
        let share = L2_CACHE / self.slice_size / layers.max(1) as u64;
        let least = MIN_SLICES.min(L2_CACHE / self.slice_size);
        self.l2.set_capacity(share.max(least) as usize);
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Refuse changes when the image may not be written.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        match &self.stopped {
            _ if !self.writable => Err(Error::ReadOnly),
            None => Ok(()),
            Some(Stop::SyncFailed) => Err(Error::SyncFailed),
            Some(Stop::Corrupt(problem)) => Err(Error::corrupt(problem.clone())),
        }
    }

    /// A contradiction was found: mark the file corrupt and write nothing more.
    pub(crate) fn mark_corrupt(&mut self, problem: String) -> Error {
        if self.writable && self.stopped.is_none() {
            if self.geometry.version >= 3 {
                let bits = self.header.incompatible | header::CORRUPT;
                // Best effort: the contradiction itself is what gets reported.
                let marked = self.file.write_at(&bits.to_be_bytes(), 72);
                if marked.and_then(|()| self.file.sync()).is_ok() {
                    self.header.incompatible = bits;
                }
            }
            self.stopped = Some(Stop::Corrupt(problem.clone()));
        }
        Error::corrupt(problem)
    }

    /// A sync failed: what is on the medium is no longer known.
    pub(crate) fn mark_sync_failed(&mut self) {
        self.stopped.get_or_insert(Stop::SyncFailed);
    }

    pub(crate) fn is_cluster_beyond_end(&self, offset: u64) -> bool {
        let start = offset & !(self.geometry.cluster_size() - 1);
        start >= self.file_len && self.file.len().is_ok_and(|len| start >= len)
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync().map_err(|e| {
            self.stopped.get_or_insert(Stop::SyncFailed);
            Error::io("sync the image", e)
        })
    }

    fn write(&self, what: &str, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file
            .write_at(bytes, offset)
            .map_err(|e| Error::io(format!("write {what} at {offset:#x}"), e))
    }
}

/// Read a table of big-endian u64s whose size the header check has bounded.
pub(crate) fn read_table(
    file: &dyn Storage,
    what: &'static str,
    offset: u64,
    entries: usize,
) -> Result<Vec<u64>, Error> {
    let len = file.len().map_err(|e| Error::io("find the image's length", e))?;
    if entries > 0 && offset.saturating_add(entries as u64 * 8) > len {
        return Err(Error::invalid(
            what,
            format!("{entries} entries at {offset:#x} reach beyond the end of the file ({len:#x})"),
        ));
    }
    let mut table = Vec::with_capacity(entries);
    let mut chunk = vec![0u8; 64 << 10];
    while table.len() < entries {
        let want = ((entries - table.len()) * 8).min(chunk.len());
        let at = offset + table.len() as u64 * 8;
        let n = file
            .read_at(&mut chunk[..want], at)
            .map_err(|e| Error::io(format!("read {what} at {at:#x}"), e))?;
        if n < want {
            return Err(Error::invalid(what, format!("the file ends at {:#x}", at + n as u64)));
        }
        table.extend((0..want / 8).map(|i| be64(&chunk, i * 8)));
    }
    Ok(table)
}
