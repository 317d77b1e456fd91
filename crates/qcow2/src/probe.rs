//! What a file is, by its content.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::format::be32;
use crate::format::header::{self, Header, MAGIC};
use crate::image::Format;
use crate::storage::Storage;

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Format by content.
    pub format: Format,
    /// qcow2 version; 0 for raw.
    pub version: u32,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes per cluster; 0 for raw.
    pub cluster_size: u64,
    /// Name of the backing file in the header, if any. Never opened by this crate.
    pub backing_name: Option<String>,
    /// Format of the backing file named in the header, if any.
    pub backing_format: Option<String>,
    /// Width of a reference count in bits; 0 for raw.
    pub refcount_bits: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// Names of the feature bits that are set.
    pub features: Vec<String>,
    /// The header says that a writer was cut off before it had brought its counts up to date. Cured
    /// when the image is opened for writing, or by [`repair`](crate::repair).
    pub dirty: bool,
    /// The header says that a contradiction was found: the image can only be opened read-only.
    pub corrupt: bool,
    /// Its content is encrypted; what it says of itself is not.
    pub encrypted: bool,
}

/// Beginnings of formats this crate does not read.
const OTHER_FORMATS: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image"),
    (0, b"QED\0", "a QED image"),
];

/// Beginnings of compressed files and archives.
const ARCHIVES: &[(usize, &[u8], &str)] = &[
    (0, &[0x1f, 0x8b], "gzip"),
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"PK\x03\x04", "zip"),
    (257, b"ustar", "tar"),
];

/// Tell what a file is and whether it can be used: qcow2 by its header, otherwise raw. Reads the
/// first cluster at most (64 KiB of it), so that one that needs an unsupported feature is refused
/// here; a damaged or truncated one shows in [`check`](crate::check).
///
/// # Errors
/// Says what is wrong with the file and what to do: another format, a compressed file, an empty
/// or truncated one, a broken header, an unsupported feature.
pub fn probe(file: &File) -> Result<Info, Error> {
    probe_storage(file)
}

pub(crate) fn probe_storage(storage: &dyn Storage) -> Result<Info, Error> {
    let mut head = [0u8; 512];
    let n = storage.read_at(&mut head, 0).map_err(|e| Error::io("read the image", e))?;
    if n < 512 {
        return Err(Error::WrongFormat {
            problem: format!("it has {n} bytes; upload the complete image"),
        });
    }
    if be32(&head, 0) == MAGIC {
        let header = Header::read(storage)?;
        return Ok(Info {
            format: Format::Qcow2,
            version: header.geometry.version,
            virtual_size: header.size,
            cluster_size: header.geometry.cluster_size(),
            features: header.feature_names(),
            backing_name: header.backing_name,
            backing_format: header.backing_format,
            refcount_bits: 1 << header.geometry.refcount_order,
            snapshots: header.snapshots,
            dirty: header.incompatible & header::DIRTY != 0,
            corrupt: header.incompatible & header::CORRUPT != 0,
            encrypted: header.encryption.is_some(),
        });
    }
    let starts = |(at, magic, _): &&(usize, &[u8], &str)| head[*at..].starts_with(magic);
    if let Some((_, _, name)) = OTHER_FORMATS.iter().find(starts) {
        return Err(Error::WrongFormat {
            problem: format!("it is {name}; convert it with `qemu-img convert -O qcow2`"),
        });
    }
    if let Some((_, _, name)) = ARCHIVES.iter().find(starts) {
        return Err(Error::WrongFormat {
            problem: format!("it is a {name} file; unpack it and use the image inside"),
        });
    }
    let len = storage.len().map_err(|e| Error::io("find the image's length", e))?;
    if !len.is_multiple_of(512) {
        return Err(Error::WrongFormat {
            problem: format!(
                "as a raw disk its {len} bytes are not a multiple of 512; it may be truncated"
            ),
        });
    }
    raw_info(storage)
}

fn raw_info(storage: &dyn Storage) -> Result<Info, Error> {
    let virtual_size = storage.len().map_err(|e| Error::io("find the image's length", e))?;
    Ok(Info {
        format: Format::Raw,
        version: 0,
        virtual_size,
        cluster_size: 0,
        backing_name: None,
        backing_format: None,
        refcount_bits: 0,
        snapshots: 0,
        features: Vec::new(),
        dirty: false,
        corrupt: false,
        encrypted: false,
    })
}

/// Follow the backing file names in the headers from `path` down, for showing a chain to people.
/// The result must not decide what is opened: names come from the images.
///
/// # Errors
/// A file that cannot be opened or used, a chain that comes back to itself, or one of more than
/// 256 files.
pub fn probe_chain(path: &Path) -> Result<Vec<(PathBuf, Info)>, Error> {
    let mut chain: Vec<(PathBuf, Info)> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some(path.to_path_buf());
    while let Some(path) = next {
        let at = || format!("open backing file {}", path.display());
        let file = File::open(&path).map_err(|e| Error::io(at(), e))?;
        let metadata = file.metadata().map_err(|e| Error::io(at(), e))?;
        if !seen.insert((metadata.dev(), metadata.ino())) || chain.len() == 256 {
            return Err(Error::Invalid {
                field: "backing file name",
                problem: format!(
                    "the chain comes back to {} or is too long; rebase it with `qemu-img rebase -u`",
                    path.display()
                ),
            });
        }
        let raw =
            chain.last().is_some_and(|(_, info)| info.backing_format.as_deref() == Some("raw"));
        let info = if raw { raw_info(&file)? } else { probe(&file)? };
        next = info.backing_name.as_ref().map(|name| {
            let name = name.strip_prefix("file:").unwrap_or(name);
            path.parent().unwrap_or(Path::new("")).join(name)
        });
        chain.push((path, info));
    }
    Ok(chain)
}
