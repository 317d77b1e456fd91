//! A disk as one file without backing: only the clusters that hold something, and the data before
//! the tables that name it, so that it can be sent while it is made.

use std::ops::ControlFlow;

use crate::create::refcount_layout;
use crate::error::Error;
use crate::format::entry::{self, Mapping};
use crate::format::header::{self, Geometry, MAX_L1_BYTES, NewHeader};
use crate::image::{Format, Image};
use crate::luks::{self, Passphrase, SECTOR, Xts};

/// Of what is made.
const GEOMETRY: Geometry = Geometry { version: 3, cluster_bits: 16, refcount_order: 4 };
const CLUSTER: u64 = 1 << GEOMETRY.cluster_bits;
/// Bytes of the disk that one L2 table describes.
const PER_TABLE: u64 = CLUSTER << (GEOMETRY.cluster_bits - 3);
/// Bytes read at once, and the most that a piece has.
const STEP: u64 = 1 << 20;

/// A part of the file that [`flatten`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where it belongs in the file.
    pub offset: u64,
    /// The bytes, at most 1 MiB.
    pub data: &'a [u8],
    /// Bytes of the disk's data that have been dealt with, of `total`.
    pub done: u64,
    /// Bytes of data that the disk has.
    pub total: u64,
}

/// Make one file of a disk, through all of its layers, piece by piece. What no piece covers is
/// zeroes; clusters of zeroes are left out. As qcow2 it has no backing file, and its header is the
/// last piece: a file that was cut off is none. `piece` can break off.
///
/// Answers the length of the file, or `None` when `piece` broke off. Nobody may write to the image
/// meanwhile.
///
/// # Errors
/// Broken metadata or data of the image, a disk too large for the format, or the host's I/O error.
pub fn flatten(
    image: &Image,
    format: Format,
    piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Option<u64>, Error> {
    flatten_image(image, format, None, piece)
}

/// As [`flatten`], as an encrypted qcow2 file: with a new key that this passphrase unlocks.
///
/// # Errors
/// As `flatten`.
pub fn flatten_encrypted(
    image: &Image,
    passphrase: &Passphrase,
    piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Option<u64>, Error> {
    flatten_image(image, Format::Qcow2, Some(passphrase), piece)
}

fn flatten_image(
    image: &Image,
    format: Format,
    passphrase: Option<&Passphrase>,
    mut piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Option<u64>, Error> {
    let mut total = 0;
    let size = image.virtual_size();
    // It never breaks off.
    let _ = each_table(size, |start, len| {
        let data = image.extents(start, len)?;
        total += data.iter().filter(|extent| extent.data).map(|extent| extent.len).sum::<u64>();
        Ok(ControlFlow::Continue(()))
    })?;
    let mut out = Output { piece: &mut piece, done: 0, total };
    let went_through = match format {
        Format::Raw => each_table(size, |start, len| {
            each_run(image, (start, len), &mut out, |out, at, data| out.put(at, data))
        })?
        .is_continue()
        .then_some(size),
        Format::Qcow2 => as_qcow2(image, passphrase, &mut out)?,
    };
    Ok(went_through)
}

struct Output<'a> {
    piece: &'a mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    done: u64,
    total: u64,
}

impl Output<'_> {
    fn put(&mut self, offset: u64, data: &[u8]) -> ControlFlow<()> {
        let mut at = offset;
        for data in data.chunks(STEP as usize) {
            (self.piece)(Piece { offset: at, data, done: self.done, total: self.total })?;
            at += data.len() as u64;
        }
        ControlFlow::Continue(())
    }

    /// The data of whole clusters; the last one may be given in part, and is filled up.
    fn put_clusters(&mut self, offset: u64, data: &[u8], cipher: Option<&Xts>) -> ControlFlow<()> {
        let whole = data.len().next_multiple_of(CLUSTER as usize);
        if whole == data.len() && cipher.is_none() {
            return self.put(offset, data);
        }
        let mut bytes = data.to_vec();
        bytes.resize(whole, 0);
        if let Some(cipher) = cipher {
            cipher.encrypt(offset / SECTOR, &mut bytes);
        }
        self.put(offset, &bytes)
    }
}

type Went = Result<ControlFlow<()>, Error>;

/// Goes through a disk by what one L2 table describes.
fn each_table(size: u64, mut look: impl FnMut(u64, u64) -> Went) -> Went {
    let mut start = 0;
    while start < size {
        let len = PER_TABLE.min(size - start);
        if look(start, len)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        start += len;
    }
    Ok(ControlFlow::Continue(()))
}

/// Gives the clusters of a range that are not all zeroes, neighbours together. The last one may be
/// cut short by the end of the disk.
fn each_run(
    image: &Image,
    (start, len): (u64, u64),
    out: &mut Output<'_>,
    mut run: impl FnMut(&mut Output<'_>, u64, &[u8]) -> ControlFlow<()>,
) -> Went {
    let end = start + len;
    let mut buffer = vec![0u8; STEP as usize];
    // Extents may begin and end within a cluster: none is read twice.
    let mut at = start;
    for extent in image.extents(start, len)?.into_iter().filter(|extent| extent.data) {
        let from = at.max(extent.offset / CLUSTER * CLUSTER);
        let to = (extent.offset + extent.len).next_multiple_of(CLUSTER).min(end);
        at = from;
        while at < to {
            let part = STEP.min(to - at);
            let data = &mut buffer[..part as usize];
            image.read_at(data, at)?;
            let mut clusters = data.chunks(CLUSTER as usize).enumerate().peekable();
            while let Some((first, cluster)) = clusters.next() {
                if is_zero(cluster) {
                    continue;
                }
                let mut length = cluster.len();
                while let Some((_, next)) = clusters.next_if(|(_, next)| !is_zero(next)) {
                    length += next.len();
                }
                let begin = first * CLUSTER as usize;
                if run(out, at + begin as u64, &data[begin..begin + length]).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            at += part;
        }
        out.done += extent.len;
    }
    Ok(ControlFlow::Continue(()))
}

fn is_zero(data: &[u8]) -> bool {
    let (words, rest) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// header | LUKS header | data and the L2 table of each stretch of the disk | L1 | refcount blocks |
/// their table
fn as_qcow2(
    image: &Image,
    passphrase: Option<&Passphrase>,
    out: &mut Output<'_>,
) -> Result<Option<u64>, Error> {
    let size = image.virtual_size();
    let entries = GEOMETRY.l1_entries(size);
    if entries * 8 > MAX_L1_BYTES {
        return Err(Error::InvalidArgument(format!(
            "{size} bytes are too many for one qcow2 file"
        )));
    }
    let mut l1 = Vec::with_capacity(entries as usize * 8);
    // The next cluster of the file.
    let mut next = CLUSTER;
    let mut cipher = None;
    if let Some(passphrase) = passphrase {
        let (luks, made) = luks::create(passphrase)?;
        if out.put(next, &luks).is_break() {
            return Ok(None);
        }
        cipher = Some(made);
        next += luks::LENGTH.next_multiple_of(CLUSTER);
    }
    let place = cipher.as_ref().map(|_| luks::Place { offset: CLUSTER, length: luks::LENGTH });
    let went = each_table(size, |start, len| {
        let mut table = Vec::new();
        let stretch = each_run(image, (start, len), out, |out, at, data| {
            table.resize(CLUSTER as usize, 0);
            let clusters = (data.len() as u64).div_ceil(CLUSTER);
            for index in 0..clusters {
                let host = next + index * CLUSTER;
                let mapping = entry::encode(Mapping::Data { host, copied: true });
                let slot = ((at - start) / CLUSTER + index) as usize * 8;
                table[slot..slot + 8].copy_from_slice(&mapping.to_be_bytes());
            }
            out.put_clusters(next, data, cipher.as_ref())?;
            next += clusters * CLUSTER;
            ControlFlow::Continue(())
        })?;
        if stretch.is_break() {
            return Ok(stretch);
        }
        let mut named = 0;
        if !table.is_empty() {
            if out.put(next, &table).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            named = next | entry::COPIED;
            next += CLUSTER;
        }
        l1.extend_from_slice(&named.to_be_bytes());
        Ok(ControlFlow::Continue(()))
    })?;
    if went.is_break() {
        return Ok(None);
    }
    Ok(tables(size, l1, next, place, out)?.is_continue().then(|| length(entries, next)))
}

fn l1_clusters(entries: u64) -> u64 {
    (entries * 8).div_ceil(CLUSTER).max(1)
}

/// Clusters of the refcount table, and number of blocks, of a file whose data ends at `end`.
fn counts(entries: u64, end: u64) -> (u64, u64) {
    let others = end / CLUSTER - 1 + l1_clusters(entries);
    refcount_layout(others, 1 << GEOMETRY.refcount_block_bits(), CLUSTER)
}

fn length(entries: u64, end: u64) -> u64 {
    let (table_clusters, blocks) = counts(entries, end);
    end + (l1_clusters(entries) + blocks + table_clusters) * CLUSTER
}

fn tables(
    size: u64,
    mut l1: Vec<u8>,
    end: u64,
    encryption: Option<luks::Place>,
    out: &mut Output<'_>,
) -> Went {
    let entries = GEOMETRY.l1_entries(size);
    let (table_clusters, blocks) = counts(entries, end);
    let blocks_at = end + l1_clusters(entries) * CLUSTER;
    let table_at = blocks_at + blocks * CLUSTER;
    let clusters = length(entries, end) / CLUSTER;
    let per_block = 1 << GEOMETRY.refcount_block_bits();
    let head = header::encode(&NewHeader {
        geometry: GEOMETRY,
        size,
        l1_offset: end,
        l1_size: u32::try_from(entries)
            .map_err(|_| Error::InvalidArgument("the L1 table is too large".into()))?,
        refcount_table_offset: table_at,
        refcount_table_clusters: u32::try_from(table_clusters)
            .map_err(|_| Error::InvalidArgument("the refcount table is too large".into()))?,
        backing: None,
        encryption,
    })?;
    l1.resize((l1_clusters(entries) * CLUSTER) as usize, 0);
    let mut table = Vec::new();
    let put = |out: &mut Output<'_>, table: &mut Vec<u8>| {
        out.put(end, &l1)?;
        for index in 0..blocks {
            let used = clusters.saturating_sub(index * per_block).min(per_block);
            // Every cluster has one user.
            let mut block: Vec<u8> = [0, 1].repeat(used as usize);
            block.resize(CLUSTER as usize, 0);
            out.put(blocks_at + index * CLUSTER, &block)?;
            table.extend_from_slice(&(blocks_at + index * CLUSTER).to_be_bytes());
        }
        table.resize((table_clusters * CLUSTER) as usize, 0);
        out.put(table_at, table)?;
        let mut head = head.clone();
        head.resize(CLUSTER as usize, 0);
        out.put(0, &head)
    };
    Ok(put(out, &mut table))
}
