//! The header: decoding with every field checked, names of features, encoding for new images.

use super::{be32, be64};
use crate::error::Error;
use crate::luks;
use crate::storage::Storage;

pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// The largest L1 table accepted: 32 MiB, as QEMU has it.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table accepted: 8 MiB, as QEMU has it.
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The largest LUKS header accepted; one with keys of 512 bits has 2 MiB.
const MAX_LUKS_BYTES: u64 = 16 << 20;

/// Incompatible feature: refcounts may be stale.
pub(crate) const DIRTY: u64 = 1 << 0;
/// Incompatible feature: the metadata is known to be inconsistent.
pub(crate) const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature: the compression type field matters.
pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const SUPPORTED_INCOMPATIBLE: u64 = DIRTY | CORRUPT | COMPRESSION_TYPE;
/// Compatible feature: refcounts may be updated lazily under the dirty bit.
pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature: the bitmaps extension is consistent.
pub(crate) const BITMAPS: u64 = 1 << 0;
const RAW_EXTERNAL: u64 = 1 << 1;

pub(super) const EXT_END: u32 = 0;
pub(super) const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_DATA_FILE: u32 = 0x4441_5441;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_ENCRYPTION: u32 = 0x0537_be77;
/// Encryption method: none, and LUKS.
const METHOD_NONE: u32 = 0;
const METHOD_LUKS: u32 = 2;
pub(super) const V2_LEN: usize = 72;
const V3_LEN: usize = 104;

/// The numbers every offset calculation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// log2 of a refcount's width in bits.
    pub(crate) refcount_order: u32,
}

impl Geometry {
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the entries of an L2 table.
    pub(crate) fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    /// log2 of the counts in a refcount block.
    pub(crate) fn refcount_block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// L1 entries a disk of `size` bytes needs.
    pub(crate) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.cluster_size()).div_ceil(1 << self.l2_bits())
    }
}

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Zstd,
}

/// A bitmaps extension: directory location for the consistency check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitmapDirectory {
    pub(crate) count: u32,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// A decoded and checked header.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) geometry: Geometry,
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    pub(crate) l1_size: u32,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshot_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) compression: Compression,
    pub(crate) backing_name: Option<String>,
    pub(crate) backing_format: Option<String>,
    pub(crate) bitmaps: Option<BitmapDirectory>,
    /// Where the LUKS header of an encrypted image is.
    pub(crate) encryption: Option<luks::Place>,
}

impl Header {
    /// Read and check the header of `file`.
    pub(crate) fn read(file: &dyn Storage) -> Result<Self, Error> {
        Self::decode(&Self::bytes(file)?)
    }

    /// The beginning of `file`, which has what [`decode`](Self::decode) needs.
    pub(crate) fn bytes(file: &dyn Storage) -> Result<Vec<u8>, Error> {
        let mut head = vec![0u8; V3_LEN + 8];
        let n = file.read_at(&mut head, 0).map_err(|e| Error::io("read the header", e))?;
        if n < V2_LEN || be32(&head, 0) != MAGIC {
            return Err(Error::WrongFormat {
                problem: "it has no qcow2 magic; give the right format or convert it with \
                          `qemu-img convert -O qcow2`"
                    .into(),
            });
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::invalid(
                "cluster_bits",
                format!("{cluster_bits} is not between 9 and 21"),
            ));
        }
        // Header, extensions and backing name all live in the first cluster.
        let mut bytes = vec![0u8; 1 << cluster_bits.min(16)];
        let n = file.read_at(&mut bytes, 0).map_err(|e| Error::io("read the header", e))?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// Decode from the first cluster's bytes (at least 72, possibly cut at 64 KiB).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let version = be32(bytes, 4);
        let header_len = match version {
            2 => V2_LEN,
            3 => be32(bytes, 100) as usize,
            other => {
                return Err(Error::Unsupported {
                    feature: format!("qcow version {other}"),
                    remedy: "convert the image with `qemu-img convert -O qcow2`",
                });
            }
        };
        if bytes.len() < header_len
            || (version == 3 && header_len < V3_LEN)
            || !header_len.is_multiple_of(8)
        {
            return Err(Error::invalid(
                "header_length",
                format!("{header_len} (the first cluster has {} bytes)", bytes.len()),
            ));
        }
        let (incompatible, compatible, autoclear, refcount_order) = if version == 3 {
            (be64(bytes, 72), be64(bytes, 80), be64(bytes, 88), be32(bytes, 96))
        } else {
            (0, 0, 0, 4)
        };
        let extensions = Extensions::decode(bytes, header_len)?;
        refuse_unknown(incompatible, &extensions)?;
        let encryption = match (be32(bytes, 32), extensions.encryption) {
            (METHOD_NONE, _) => None,
            (METHOD_LUKS, Some(place)) => Some(place),
            (METHOD_LUKS, None) => {
                return Err(Error::invalid("encryption method", "LUKS without a LUKS header"));
            }
            (other, _) => {
                return Err(Error::Unsupported {
                    feature: format!("encryption of method {other}"),
                    remedy: "decrypt the image with `qemu-img convert`",
                });
            }
        };
        if refcount_order > 6 {
            return Err(Error::invalid("refcount_order", format!("{refcount_order} is above 6")));
        }
        let geometry = Geometry { version, cluster_bits: be32(bytes, 20), refcount_order };
        let compression = match (incompatible & COMPRESSION_TYPE != 0, header_len > V3_LEN) {
            (true, true) => match bytes[V3_LEN] {
                1 => Compression::Zstd,
                0 => {
                    return Err(Error::invalid(
                        "compression_type",
                        "zlib with the feature bit set",
                    ));
                }
                other => {
                    return Err(Error::Unsupported {
                        feature: format!("compression type {other}"),
                        remedy: "convert the image with `qemu-img convert -O qcow2`",
                    });
                }
            },
            (true, false) => {
                return Err(Error::invalid(
                    "compression_type",
                    "the header is too short to have it",
                ));
            }
            (false, _) => Compression::Zlib,
        };
        let header = Self {
            geometry,
            size: be64(bytes, 24),
            l1_size: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            refcount_table_offset: be64(bytes, 48),
            refcount_table_clusters: be32(bytes, 56),
            snapshots: be32(bytes, 60),
            snapshot_offset: be64(bytes, 64),
            incompatible,
            compatible,
            autoclear,
            compression,
            backing_name: backing_name(bytes, &geometry)?,
            backing_format: extensions.backing_format,
            bitmaps: extensions.bitmaps,
            encryption,
        };
        header.check_tables()?;
        Ok(header)
    }

    fn check_tables(&self) -> Result<(), Error> {
        let cluster_size = self.geometry.cluster_size();
        let table = |field: &'static str, offset: u64, bytes: u64, max: u64| {
            if bytes > max {
                return Err(Error::invalid(field, format!("{bytes} bytes are more than {max}")));
            }
            if !offset.is_multiple_of(cluster_size)
                || (bytes > 0 && offset == 0)
                || offset.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64)
            {
                return Err(Error::invalid(field, format!("{bytes} bytes at {offset:#x}")));
            }
            Ok(())
        };
        if let Some(luks::Place { offset, length }) = self.encryption {
            table("LUKS header", offset, length, MAX_LUKS_BYTES)?;
        }
        if self.encryption.is_some() && !self.size.is_multiple_of(luks::SECTOR) {
            let problem = format!("{} bytes of an encrypted image are no whole sectors", self.size);
            return Err(Error::invalid("size", problem));
        }
        if self.size > i64::MAX as u64 {
            return Err(Error::invalid("size", format!("{} bytes are out of range", self.size)));
        }
        let needed = self.geometry.l1_entries(self.size);
        if needed * 8 > MAX_L1_BYTES {
            return Err(Error::invalid(
                "size",
                format!("{} bytes need an L1 table above 32 MiB at this cluster size", self.size),
            ));
        }
        if u64::from(self.l1_size) < needed {
            return Err(Error::invalid(
                "l1_size",
                format!("{} entries, but the size needs {needed}", self.l1_size),
            ));
        }
        table("L1 table", self.l1_offset, u64::from(self.l1_size) * 8, MAX_L1_BYTES)?;
        if self.refcount_table_clusters == 0 {
            return Err(Error::invalid("refcount_table_clusters", "there is no refcount table"));
        }
        table(
            "refcount table",
            self.refcount_table_offset,
            u64::from(self.refcount_table_clusters) << self.geometry.cluster_bits,
            MAX_REFCOUNT_TABLE_BYTES.max(cluster_size),
        )
    }

    /// Names of the feature bits that are set.
    pub(crate) fn feature_names(&self) -> Vec<String> {
        let known = [
            (self.incompatible, DIRTY, "dirty"),
            (self.incompatible, CORRUPT, "corrupt"),
            (self.incompatible, COMPRESSION_TYPE, "compression type"),
            (self.compatible, LAZY_REFCOUNTS, "lazy refcounts"),
            (self.autoclear, BITMAPS, "bitmaps"),
            (self.autoclear, RAW_EXTERNAL, "raw external data"),
        ];
        let mut names: Vec<String> =
            known.iter().filter(|(set, bit, _)| set & bit != 0).map(|k| k.2.to_owned()).collect();
        if self.compression == Compression::Zstd {
            names.push("zstd".into());
        }
        if self.encryption.is_some() {
            names.push("LUKS".into());
        }
        names
    }
}

fn refuse_unknown(incompatible: u64, extensions: &Extensions) -> Result<(), Error> {
    let unknown = incompatible & !SUPPORTED_INCOMPATIBLE;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<String> = (0..64)
        .filter(|bit| unknown & (1 << bit) != 0)
        .map(|bit| match 1u64 << bit {
            EXTERNAL_DATA => "external data file".to_owned(),
            EXTENDED_L2 => "extended L2 entries".to_owned(),
            _ => extensions
                .feature_names
                .iter()
                .find(|(kind, number, _)| *kind == 0 && u32::from(*number) == bit)
                .map_or_else(|| format!("incompatible feature bit {bit}"), |f| f.2.clone()),
        })
        .collect();
    Err(Error::Unsupported {
        feature: names.join(", "),
        remedy: "convert the image with `qemu-img convert -O qcow2`",
    })
}

fn backing_name(bytes: &[u8], geometry: &Geometry) -> Result<Option<String>, Error> {
    let offset = be64(bytes, 8);
    let len = be32(bytes, 16) as usize;
    if offset == 0 {
        return Ok(None);
    }
    let name = usize::try_from(offset)
        .ok()
        .filter(|_| len <= 1023)
        .and_then(|at| bytes.get(at..at.checked_add(len)?))
        .ok_or_else(|| {
            Error::invalid(
                "backing file name",
                format!(
                    "{len} bytes at {offset:#x} are not within the first cluster ({} bytes)",
                    geometry.cluster_size()
                ),
            )
        })?;
    Ok(Some(String::from_utf8_lossy(name).into_owned()))
}

#[derive(Debug, Default)]
struct Extensions {
    backing_format: Option<String>,
    feature_names: Vec<(u8, u8, String)>,
    bitmaps: Option<BitmapDirectory>,
    encryption: Option<luks::Place>,
}

impl Extensions {
    fn decode(bytes: &[u8], header_len: usize) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut at = header_len;
        // The backing file name, when present, ends the area of the extensions.
        let end = match be64(bytes, 8) {
            0 => bytes.len(),
            name => usize::try_from(name).unwrap_or(usize::MAX).min(bytes.len()),
        };
        while at + 8 <= end {
            let kind = be32(bytes, at);
            let len = be32(bytes, at + 4) as usize;
            if kind == EXT_END {
                break;
            }
            at += 8;
            let Some(data) = at.checked_add(len).filter(|e| *e <= end).map(|e| &bytes[at..e])
            else {
                return Err(Error::invalid(
                    "header extension",
                    format!("extension {kind:#x} of {len} bytes leaves the first cluster"),
                ));
            };
            match kind {
                EXT_BACKING_FORMAT => {
                    found.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                EXT_FEATURE_NAMES => {
                    for name in data.chunks_exact(48) {
                        let text = name[2..].split(|b| *b == 0).next().unwrap_or_default();
                        let text = String::from_utf8_lossy(text).into_owned();
                        found.feature_names.push((name[0], name[1], text));
                    }
                }
                EXT_BITMAPS if len >= 24 => {
                    found.bitmaps = Some(BitmapDirectory {
                        count: be32(data, 0),
                        size: be64(data, 8),
                        offset: be64(data, 16),
                    });
                }
                EXT_ENCRYPTION if len >= 16 => {
                    found.encryption =
                        Some(luks::Place { offset: be64(data, 0), length: be64(data, 8) });
                }
                EXT_DATA_FILE => {}
                _ => {}
            }
            at = at.saturating_add(len.next_multiple_of(8));
        }
        Ok(found)
    }
}

/// The fields of a new image's header.
#[derive(Debug)]
pub(crate) struct NewHeader<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    pub(crate) l1_size: u32,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) backing: Option<(&'a str, &'a str)>,
    /// Where the LUKS header is.
    pub(crate) encryption: Option<luks::Place>,
}

/// Encode a header with its extensions and backing name; fails when it does not fit a cluster.
pub(crate) fn encode(new: &NewHeader<'_>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(512);
    let u32be = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
    let u64be = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
    u32be(&mut out, MAGIC);
    u32be(&mut out, new.geometry.version);
    u64be(&mut out, 0);
    u32be(&mut out, 0);
    u32be(&mut out, new.geometry.cluster_bits);
    u64be(&mut out, new.size);
    u32be(&mut out, if new.encryption.is_some() { METHOD_LUKS } else { METHOD_NONE });
    u32be(&mut out, new.l1_size);
    u64be(&mut out, new.l1_offset);
    u64be(&mut out, new.refcount_table_offset);
    u32be(&mut out, new.refcount_table_clusters);
    u32be(&mut out, 0);
    u64be(&mut out, 0);
    if new.geometry.version >= 3 {
        u64be(&mut out, 0);
        u64be(&mut out, 0);
        u64be(&mut out, 0);
        u32be(&mut out, new.geometry.refcount_order);
        u32be(&mut out, V3_LEN as u32);
    }
    if let Some(luks::Place { offset, length }) = new.encryption {
        u32be(&mut out, EXT_ENCRYPTION);
        u32be(&mut out, 16);
        u64be(&mut out, offset);
        u64be(&mut out, length);
    }
    if let Some((name, format)) = new.backing {
        u32be(&mut out, EXT_BACKING_FORMAT);
        u32be(&mut out, format.len() as u32);
        out.extend_from_slice(format.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        u64be(&mut out, 0);
        let at = out.len() as u64;
        out.extend_from_slice(name.as_bytes());
        out[8..16].copy_from_slice(&at.to_be_bytes());
        out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        if name.len() > 1023 || name.is_empty() {
            return Err(Error::InvalidArgument(format!(
                "a backing file name has 1 to 1023 bytes, not {}",
                name.len()
            )));
        }
    } else {
        u64be(&mut out, 0);
    }
    if out.len() as u64 > new.geometry.cluster_size() {
        return Err(Error::InvalidArgument(format!(
            "the header needs {} bytes and does not fit a cluster of {}; use larger clusters",
            out.len(),
            new.geometry.cluster_size()
        )));
    }
    Ok(out)
}
