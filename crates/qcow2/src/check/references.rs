//! Counting every reference an image makes.

use std::collections::{BTreeMap, HashMap};

use super::{Budget, CheckReport};
use crate::error::Error;
use crate::format::entry::{self, Mapping};
use crate::format::header::{self, Geometry, Header};
use crate::format::{be32, be64, snapshot};
use crate::metadata::read_table;
use crate::storage::Storage;

/// Clusters counted together.
pub(super) const CHUNK: u64 = 4096;
/// Counts in memory: 1 GiB, for 32 TiB of clusters of 64 KiB.
const MAX_CHUNKS: usize = (1 << 30) / (CHUNK as usize * 2);
/// L2 tables, each remembered.
const MAX_TABLES: usize = 16 << 20;
const MAX_BITMAPS: u32 = 65535;
const MAX_BITMAP_DIRECTORY: u64 = 64 << 20;

/// References per cluster, and the active L1 table.
#[derive(Debug)]
pub(super) struct References {
    geometry: Geometry,
    /// Clusters the file has room for.
    clusters: u64,
    counts: BTreeMap<u64, Box<[u16]>>,
    l1: Vec<u64>,
    /// L2 tables and how many L1 entries name each.
    tables: HashMap<u64, u32>,
}

impl References {
    /// Count everything but the refcount structures themselves. Each table is read once.
    pub(super) fn collect(
        file: &dyn Storage,
        header: &Header,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<Self, Error> {
        let geometry = header.geometry;
        let len = file.len().map_err(|e| Error::io("find the image's length", e))?;
        let mut this = Self {
            geometry,
            clusters: len.div_ceil(geometry.cluster_size()),
            counts: BTreeMap::new(),
            l1: read_table(file, "L1 table", header.l1_offset, header.l1_size as usize)?,
            tables: HashMap::new(),
        };
        this.add(0, 1, 1, "header", budget, report)?;
        let l1_bytes = u64::from(header.l1_size) * 8;
        this.add(header.l1_offset, l1_bytes, 1, "L1 table", budget, report)?;
        if let Some(place) = header.encryption {
            this.add(place.offset, place.length, 1, "LUKS header", budget, report)?;
        }
        let active = std::mem::take(&mut this.l1);
        this.add_l1(&active, false, budget, report)?;
        this.l1 = active;
        this.add_snapshots(file, header, budget, report)?;
        this.add_tables(file, budget, report)?;
        if header.autoclear & header::BITMAPS != 0
            && let Some(directory) = header.bitmaps
        {
            this.add_bitmaps(file, directory, budget, report)?;
        }
        Ok(this)
    }

    fn add_snapshots(
        &mut self,
        file: &dyn Storage,
        header: &Header,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        let table = snapshot::read(file, header.snapshot_offset, header.snapshots, &self.geometry)?;
        self.add(header.snapshot_offset, table.bytes, 1, "snapshot table", budget, report)?;
        for snapshot in &table.snapshots {
            let bytes = u64::from(snapshot.l1_size) * 8;
            if self.is_any_counted(snapshot.l1_offset, bytes, budget)? {
                let at = snapshot.l1_offset;
                report.corruption(|| format!("a snapshot's L1 table at {at:#x} is in use twice"));
                continue;
            }
            self.add(snapshot.l1_offset, bytes, 1, "snapshot L1 table", budget, report)?;
            let l1 = read_table(
                file,
                "snapshot L1 table",
                snapshot.l1_offset,
                snapshot.l1_size as usize,
            )?;
            self.add_l1(&l1, true, budget, report)?;
        }
        Ok(())
    }

    fn add_l1(
        &mut self,
        l1: &[u64],
        shared: bool,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        budget.charge(l1.len() as u64 * 8)?;
        for (index, raw) in l1.iter().enumerate() {
            match entry::l2_table_offset(*raw, index, &self.geometry) {
                Ok(None) => {}
                Ok(Some(offset)) if self.is_inside(offset) => {
                    if self.tables.len() >= MAX_TABLES {
                        let limit = MAX_TABLES.to_string();
                        return Err(Error::TooLarge { what: "the number of L2 tables", limit });
                    }
                    let uses = self.tables.entry(offset).or_insert(0);
                    *uses = uses.saturating_add(1);
                    if *uses > 1 && !shared {
                        report.corruption(|| {
                            format!("L1 entry {index}: the L2 table at {offset:#x} is in use twice")
                        });
                    }
                    self.add(offset, self.geometry.cluster_size(), 1, "L2 table", budget, report)?;
                }
                Ok(Some(offset)) => report.corruption(|| {
                    format!("L1 entry {index}: {offset:#x} is beyond the end of the file")
                }),
                Err(error) => report.corruption(|| error.to_string()),
            }
        }
        Ok(())
    }

    fn add_tables(
        &mut self,
        file: &dyn Storage,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        let tables: BTreeMap<u64, u32> = self.tables.iter().map(|t| (*t.0, *t.1)).collect();
        let size = self.geometry.cluster_size();
        let mut bytes = vec![0u8; size as usize];
        for (table, uses) in tables {
            budget.charge(size)?;
            let n = file
                .read_at(&mut bytes, table)
                .map_err(|e| Error::io(format!("read L2 table at {table:#x}"), e))?;
            if n < bytes.len() {
                report.corruption(|| format!("the L2 table at {table:#x} is cut short"));
            }
            for slot in 0..n / 8 {
                let raw = be64(&bytes, slot * 8);
                match entry::decode(raw, slot as u64, &self.geometry) {
                    Ok(Mapping::Unallocated | Mapping::Zero { host: None, .. }) => {}
                    Ok(Mapping::Data { host, .. } | Mapping::Zero { host: Some(host), .. }) => {
                        self.add(host, size, uses, "data cluster", budget, report)?;
                    }
                    Ok(Mapping::Compressed { offset, len }) => {
                        // The last sector of the file may be missing its padding.
                        self.add(offset, len, uses, "compressed cluster", budget, report)?;
                    }
                    Err(error) => {
                        report.corruption(|| format!("L2 table at {table:#x}: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn add_bitmaps(
        &mut self,
        file: &dyn Storage,
        directory: header::BitmapDirectory,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        if directory.count > MAX_BITMAPS || directory.size > MAX_BITMAP_DIRECTORY {
            report.corruption(|| "the bitmap directory is too large".into());
            return Ok(());
        }
        self.add(directory.offset, directory.size, 1, "bitmap directory", budget, report)?;
        let mut bytes = vec![0u8; directory.size as usize];
        file.read_at(&mut bytes, directory.offset)
            .map_err(|e| Error::io("read the bitmap directory", e))?;
        let mut at = 0usize;
        for _ in 0..directory.count {
            let Some(fixed) = bytes.get(at..at + 24) else {
                report.corruption(|| "the bitmap directory is cut short".into());
                break;
            };
            let (table, entries) = (be64(fixed, 0), be32(fixed, 8));
            let table_bytes = u64::from(entries) * 8;
            let name = u32::from(u16::from_be_bytes([fixed[18], fixed[19]]));
            at += (24 + name as usize + be32(fixed, 20) as usize).next_multiple_of(8);
            if table_bytes > MAX_BITMAP_DIRECTORY
                || self.is_any_counted(table, table_bytes, budget)?
            {
                report.corruption(|| format!("the bitmap table at {table:#x} is unusable"));
                continue;
            }
            self.add(table, table_bytes, 1, "bitmap table", budget, report)?;
            budget.charge(table_bytes)?;
            for raw in read_table(file, "bitmap table", table, entries as usize)? {
                let offset = raw & entry::OFFSET_MASK;
                if offset != 0 {
                    let size = self.geometry.cluster_size();
                    self.add(offset, size, 1, "bitmap data", budget, report)?;
                }
            }
        }
        Ok(())
    }

    /// Count the refcount table and its blocks.
    pub(super) fn add_refcount_structures(
        &mut self,
        header: &Header,
        table: &[u64],
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        let size = self.geometry.cluster_size();
        let bytes = u64::from(header.refcount_table_clusters) * size;
        self.add(header.refcount_table_offset, bytes, 1, "refcount table", budget, report)?;
        for (index, offset) in table.iter().enumerate() {
            if *offset == 0 {
                continue;
            }
            if !offset.is_multiple_of(size) {
                report.corruption(|| format!("refcount table entry {index} is {offset:#x}"));
                continue;
            }
            self.add(*offset, size, 1, "refcount block", budget, report)?;
        }
        Ok(())
    }

    /// Has any cluster of a range a reference already?
    fn is_any_counted(&self, offset: u64, len: u64, budget: &mut Budget) -> Result<bool, Error> {
        let bits = self.geometry.cluster_bits;
        let first = offset >> bits;
        let last = offset.saturating_add(len.max(1) - 1) >> bits;
        budget.charge(last - first + 1)?;
        Ok((first..=last).any(|cluster| self.count(cluster) > 0))
    }

    /// Count `uses` references to every cluster of a range.
    fn add(
        &mut self,
        offset: u64,
        len: u64,
        uses: u32,
        what: &'static str,
        budget: &mut Budget,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let bits = self.geometry.cluster_bits;
        let last = offset.saturating_add(len - 1) >> bits;
        for cluster in offset >> bits..=last {
            if cluster >= self.clusters {
                report
                    .corruption(|| format!("{what} at {offset:#x} is beyond the end of the file"));
                return Ok(());
            }
            budget.charge(1)?;
            if self.counts.len() >= MAX_CHUNKS && !self.counts.contains_key(&(cluster / CHUNK)) {
                let limit = format!("{} million clusters", (MAX_CHUNKS as u64 * CHUNK) >> 20);
                return Err(Error::TooLarge { what: "what the image refers to", limit });
            }
            let chunk = self
                .counts
                .entry(cluster / CHUNK)
                .or_insert_with(|| vec![0; CHUNK as usize].into_boxed_slice());
            let slot = &mut chunk[(cluster % CHUNK) as usize];
            *slot = slot.saturating_add(u16::try_from(uses).unwrap_or(u16::MAX));
        }
        Ok(())
    }

    /// May any cluster in the chunk of this one have references?
    pub(super) fn has_chunk(&self, cluster: u64) -> bool {
        self.counts.contains_key(&(cluster / CHUNK))
    }

    pub(super) fn is_inside(&self, offset: u64) -> bool {
        offset >> self.geometry.cluster_bits < self.clusters
    }

    /// Clusters of the file, used or not.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    pub(super) fn is_table(&self, offset: u64) -> bool {
        self.tables.contains_key(&offset)
    }

    pub(super) fn l1(&self) -> &[u64] {
        &self.l1
    }

    pub(super) fn count(&self, cluster: u64) -> u64 {
        self.counts.get(&(cluster / CHUNK)).map_or(0, |c| u64::from(c[(cluster % CHUNK) as usize]))
    }

    /// Clusters with at least one reference, ascending.
    pub(super) fn counted(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().flat_map(|(chunk, counts)| {
            let first = chunk * CHUNK;
            (0..CHUNK).filter(|i| counts[*i as usize] > 0).map(move |i| first + i)
        })
    }
}
