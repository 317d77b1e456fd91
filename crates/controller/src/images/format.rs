//! What an uploaded file says it is. The file is hostile input; only fixed header fields are read.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// A file that can be a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFormat {
    /// `qcow2 raw`
    pub name: &'static str,
    /// Size of the disk it describes.
    pub virtual_bytes: u64,
}

/// Why a file cannot be an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the file is empty; upload a qcow2 or raw disk image")]
    Empty,
    #[error("qcow2 version {0} is not supported; convert the image with qemu-img convert -O qcow2")]
    Version(u32),
    #[error("the qcow2 header is cut off; the upload or the file it was made from is not complete")]
    Truncated,
    #[error("the qcow2 image has a backing file; flatten it with qemu-img convert -O qcow2")]
    Backing,
    #[error("the qcow2 image is encrypted; convert it to a plain one with qemu-img convert")]
    Encrypted,
    #[error("the qcow2 image keeps data in another file; convert it with qemu-img convert")]
    ExternalData,
    #[error("the qcow2 image was not closed properly; repair it with qemu-img check -r all")]
    Corrupt,
    #[error("the qcow2 image needs feature bits {0:#x}, which are not supported; convert it anew")]
    Features(u64),
    #[error("qcow2 cluster size 2^{0} is out of range 2^9..2^21; the header is damaged")]
    ClusterBits(u32),
    #[error("the disk would have {0} bytes; it must have 1 MiB to 64 TiB")]
    Size(u64),
    #[error("a raw image has a multiple of 512 bytes, this file has {0}; upload the whole disk")]
    NotSectors(u64),
    #[error("the file is a {0} image; convert it with qemu-img convert -O qcow2")]
    Foreign(&'static str),
    #[error("the file is {found}, not {wanted} as the request says; correct the format")]
    Mismatch { found: &'static str, wanted: String },
}

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
const LEAST: u64 = 1 << 20;
const MOST: u64 = 64 << 40;

/// Magic numbers of formats that would otherwise pass for raw.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
];

/// Looks at a file. `wanted` is the format the request names, or empty.
pub(crate) fn inspect(path: &Path, wanted: &str) -> Result<ImageFormat, FormatError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(FormatError::Empty);
    }
    let mut head = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut head)?;
    let found = if head.starts_with(QCOW2_MAGIC) {
        ImageFormat { name: "qcow2", virtual_bytes: qcow2_size(&head)? }
    } else {
        for (offset, magic, name) in FOREIGN {
            if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
                return Err(FormatError::Foreign(name));
            }
        }
        if length % 512 != 0 {
            return Err(FormatError::NotSectors(length));
        }
        file.seek(SeekFrom::End(-512))?;
        let mut tail = [0; 8];
        file.read_exact(&mut tail)?;
        if &tail == b"conectix" {
            return Err(FormatError::Foreign("VHD"));
        }
        ImageFormat { name: "raw", virtual_bytes: length }
    };
    if !wanted.is_empty() && wanted != found.name {
        return Err(FormatError::Mismatch { found: found.name, wanted: wanted.to_owned() });
    }
    if !(LEAST..=MOST).contains(&found.virtual_bytes) {
        return Err(FormatError::Size(found.virtual_bytes));
    }
    Ok(found)
}

fn qcow2_size(head: &[u8]) -> Result<u64, FormatError> {
    let u32_at = |offset: usize| -> Result<u32, FormatError> {
        let bytes = head.get(offset..offset + 4).ok_or(FormatError::Truncated)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    let u64_at = |offset: usize| -> Result<u64, FormatError> {
        Ok(u64::from(u32_at(offset)?) << 32 | u64::from(u32_at(offset + 4)?))
    };
    let version = u32_at(4)?;
    if !(2..=3).contains(&version) {
        return Err(FormatError::Version(version));
    }
    if u64_at(8)? != 0 || u32_at(16)? != 0 {
        return Err(FormatError::Backing);
    }
    let cluster_bits = u32_at(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(FormatError::ClusterBits(cluster_bits));
    }
    if u32_at(32)? != 0 {
        return Err(FormatError::Encrypted);
    }
    if head.len() < 72 {
        return Err(FormatError::Truncated);
    }
    if version == 3 {
        const DIRTY: u64 = 1;
        const CORRUPT: u64 = 2;
        const EXTERNAL_DATA: u64 = 4;
        const COMPRESSION_TYPE: u64 = 8;
        let features = u64_at(72)?;
        if features & CORRUPT != 0 {
            return Err(FormatError::Corrupt);
        }
        if features & EXTERNAL_DATA != 0 {
            return Err(FormatError::ExternalData);
        }
        if features & !(DIRTY | COMPRESSION_TYPE) != 0 {
            return Err(FormatError::Features(features));
        }
    }
    u64_at(24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn qcow2(version: u32, change: impl Fn(&mut Vec<u8>)) -> tempfile::NamedTempFile {
        let mut head = vec![0_u8; 512];
        head[..4].copy_from_slice(QCOW2_MAGIC);
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[20..24].copy_from_slice(&16_u32.to_be_bytes());
        head[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        change(&mut head);
        file(&head)
    }

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn qcow2_size_is_that_of_the_disk() {
        for version in [2, 3] {
            let image = qcow2(version, |_| {});
            let format = inspect(image.path(), "").unwrap();
            assert_eq!(format, ImageFormat { name: "qcow2", virtual_bytes: 10 << 30 });
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let refused =
            |image: &tempfile::NamedTempFile| inspect(image.path(), "").unwrap_err().to_string();
        assert!(refused(&qcow2(4, |_| {})).contains("version 4"));
        assert!(refused(&qcow2(3, |head| head[15] = 1)).contains("backing"));
        assert!(refused(&qcow2(3, |head| head[35] = 1)).contains("encrypted"));
        assert!(refused(&qcow2(3, |head| head[79] = 4)).contains("another file"));
        assert!(refused(&qcow2(3, |head| head[79] = 0x40)).contains("feature bits"));
        assert!(refused(&qcow2(3, |head| head[23] = 40)).contains("cluster size"));
        assert!(refused(&qcow2(3, |head| head[24..32].fill(0xff))).contains("64 TiB"));
        assert!(refused(&qcow2(3, |head| head[24..32].fill(0))).contains("1 MiB"));
        assert!(refused(&qcow2(3, |head| head.truncate(40))).contains("cut off"));
        assert!(refused(&qcow2(3, |head| head.truncate(6))).contains("cut off"));
        assert!(refused(&file(b"")).contains("empty"));
        assert!(refused(&file(b"KDMV and more")).contains("VMDK"));
        assert!(refused(&file(&[7; 1000])).contains("512"));
    }

    #[test]
    fn a_wrong_format_name_is_refused() {
        let image = qcow2(3, |_| {});
        assert!(matches!(inspect(image.path(), "raw"), Err(FormatError::Mismatch { .. })));
        let raw = file(&vec![0; 2 << 20]);
        assert_eq!(inspect(raw.path(), "raw").unwrap().virtual_bytes, 2 << 20);
    }
}
