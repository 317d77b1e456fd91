//! New images.

use std::fs::File;

use crate::error::Error;
use crate::format::header::{self, Geometry, MAX_L1_BYTES, NewHeader};
use crate::format::refcount;
use crate::image::Format;
use crate::luks::{self, Passphrase};
use crate::storage::Storage;

/// The backing file a new overlay names in its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// File name as written to the header; informational for this crate, used by `qemu-img`.
    pub name: String,
    /// Format of the backing file.
    pub format: Format,
}

/// What [`create`] makes.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// log2 of the cluster size in bytes, 9 to 21.
    pub cluster_bits: u32,
    /// The backing file to name in the header.
    pub backing: Option<Backing>,
    /// qcow2 version, 2 or 3.
    pub version: u32,
    /// Width of a reference count in bits: 1, 2, 4, 8, 16, 32 or 64 (16 for version 2).
    pub refcount_bits: u32,
    /// Encrypt it, with a new key that this passphrase unlocks.
    pub encryption: Option<Passphrase>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            virtual_size: 0,
            cluster_bits: 16,
            backing: None,
            version: 3,
            refcount_bits: 16,
            encryption: None,
        }
    }
}

/// Write an empty image to an empty file and make it durable. Takes the time of a few small
/// writes, whatever the size: tables are left as holes.
///
/// # Errors
/// Options out of range, a file that is not empty, or the host's I/O error.
pub fn create(file: &File, options: &CreateOptions) -> Result<(), Error> {
    let storage: &dyn Storage = file;
    let geometry = geometry(options)?;
    let len = storage.len().map_err(|e| Error::io("find the length of the new image", e))?;
    if len != 0 {
        return Err(Error::InvalidArgument(format!(
            "the file for the new image already has {len} bytes"
        )));
    }
    if options.encryption.is_some() && !options.virtual_size.is_multiple_of(luks::SECTOR) {
        let size = options.virtual_size;
        let problem = format!("{size} bytes of an encrypted image are no whole sectors");
        return Err(Error::InvalidArgument(problem));
    }
    let cluster = geometry.cluster_size();
    let l1_size = geometry.l1_entries(options.virtual_size);
    if options.virtual_size > i64::MAX as u64 || l1_size * 8 > MAX_L1_BYTES {
        return Err(Error::InvalidArgument(format!(
            "{} bytes are too many for clusters of {cluster} bytes",
            options.virtual_size
        )));
    }
    // header | refcount table | refcount block(s) | L1 | LUKS header
    let l1_clusters = (l1_size * 8).div_ceil(cluster).max(1);
    let luks_clusters = match options.encryption {
        Some(_) => luks::LENGTH.div_ceil(cluster),
        None => 0,
    };
    let per_block = 1u64 << geometry.refcount_block_bits();
    let (table_clusters, blocks) = refcount_layout(l1_clusters + luks_clusters, per_block, cluster);
    let block_offset = (1 + table_clusters) * cluster;
    let l1_offset = block_offset + blocks * cluster;
    let luks_offset = l1_offset + l1_clusters * cluster;
    let total = 1 + table_clusters + blocks + l1_clusters + luks_clusters;
    let format = match options.backing.as_ref().map(|b| b.format) {
        Some(Format::Raw) => "raw",
        _ => "qcow2",
    };
    let head = header::encode(&NewHeader {
        geometry,
        size: options.virtual_size,
        l1_offset,
        l1_size: u32::try_from(l1_size)
            .map_err(|_| Error::InvalidArgument("the L1 table is too large".into()))?,
        refcount_table_offset: cluster,
        refcount_table_clusters: u32::try_from(table_clusters)
            .map_err(|_| Error::InvalidArgument("the refcount table is too large".into()))?,
        backing: options.backing.as_ref().map(|b| (b.name.as_str(), format)),
        encryption: options
            .encryption
            .as_ref()
            .map(|_| luks::Place { offset: luks_offset, length: luks::LENGTH }),
    })?;

    let write = |bytes: &[u8], offset: u64| {
        storage.write_at(bytes, offset).map_err(|e| Error::io("write the new image", e))
    };
    storage.set_len(total * cluster).map_err(|e| Error::io("size the new image", e))?;
    let mut table = Vec::new();
    for block in 0..blocks {
        table.extend_from_slice(&(block_offset + block * cluster).to_be_bytes());
        let first = block * per_block;
        let used = total.saturating_sub(first).min(per_block);
        let mut bytes = vec![0u8; (used << geometry.refcount_order).div_ceil(8) as usize];
        for index in 0..used {
            refcount::set(&mut bytes, index as usize, geometry.refcount_order, 1);
        }
        write(&bytes, block_offset + block * cluster)?;
    }
    write(&table, cluster)?;
    if let Some(passphrase) = &options.encryption {
        write(&luks::create(passphrase)?.0, luks_offset)?;
    }
    storage.sync().map_err(|e| Error::io("sync the new image", e))?;
    write(&head, 0)?;
    storage.sync().map_err(|e| Error::io("sync the new image", e))
}

/// Clusters of the refcount table and number of blocks that describe everything, themselves
/// included.
pub(crate) fn refcount_layout(l1_clusters: u64, per_block: u64, cluster: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let total = 1 + table + blocks + l1_clusters;
        let need_blocks = total.div_ceil(per_block);
        let need_table = (need_blocks * 8).div_ceil(cluster);
        if need_blocks <= blocks && need_table <= table {
            return (table, blocks);
        }
        blocks = blocks.max(need_blocks);
        table = table.max(need_table);
    }
}

fn geometry(options: &CreateOptions) -> Result<Geometry, Error> {
    if !(9..=21).contains(&options.cluster_bits) {
        return Err(Error::InvalidArgument(format!(
            "cluster_bits is {}, not between 9 and 21",
            options.cluster_bits
        )));
    }
    if !matches!(options.version, 2 | 3) {
        return Err(Error::InvalidArgument(format!(
            "there is no qcow2 version {}",
            options.version
        )));
    }
    let bits = options.refcount_bits;
    if !bits.is_power_of_two() || bits > 64 || (options.version == 2 && bits != 16) {
        return Err(Error::InvalidArgument(format!(
            "refcounts of {bits} bits in version {}",
            options.version
        )));
    }
    Ok(Geometry {
        version: options.version,
        cluster_bits: options.cluster_bits,
        refcount_order: bits.trailing_zeros(),
    })
}
