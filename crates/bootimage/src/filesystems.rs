//! Filesystems, read-only. The next one is a file beside `ext4` and an arm in [`open`].

mod ext4;
mod fat;

use crate::error::Error;
use crate::source::Extent;

/// What a path names, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stat {
    /// A regular file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// A filesystem that can be read. Paths are absolute, with `/`.
pub(crate) trait FileSystem {
    /// `ext4`, `vfat`: the name the guest's kernel has for it.
    fn kind(&self) -> &'static str;

    /// The UUID as `blkid` spells it.
    fn uuid(&self) -> Option<String>;

    /// The label, if it has one.
    fn label(&self) -> Option<String>;

    /// What is at a path; `None` if nothing is.
    fn stat(&self, path: &str) -> Result<Option<Stat>, Error>;

    /// The names in a directory, at most as many as the limits allow; `None` if it is not one.
    fn list(&self, path: &str) -> Result<Option<Vec<String>>, Error>;

    /// The path without symbolic links.
    fn resolve(&self, path: &str) -> Result<String, Error>;

    /// Hands the first `limit` bytes of a file to `sink`, piece by piece. Returns how many there
    /// were.
    fn read(&self, path: &str, limit: u64, sink: &mut Sink<'_>) -> Result<u64, Error>;
}

/// Takes the pieces of a file.
pub(crate) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), Error> + 'a;

/// A signature at a fixed place.
struct Signature {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
}

const SIGNATURES: &[Signature] = &[
    Signature { name: "XFS", offset: 0, magic: b"XFSB" },
    Signature { name: "Btrfs", offset: 0x1_0040, magic: b"_BHRfS_M" },
    Signature { name: "ext4", offset: 0x438, magic: &[0x53, 0xef] },
    Signature { name: "an LVM physical volume", offset: 512, magic: b"LABELONE" },
    Signature { name: "a LUKS volume", offset: 0, magic: b"LUKS\xba\xbe" },
    Signature { name: "F2FS", offset: 1024, magic: &[0x10, 0x20, 0xf5, 0xf2] },
    Signature { name: "SquashFS", offset: 0, magic: b"hsqs" },
    Signature { name: "ISO 9660", offset: 0x8001, magic: b"CD001" },
    Signature { name: "NTFS", offset: 3, magic: b"NTFS    " },
    Signature { name: "exFAT", offset: 3, magic: b"EXFAT   " },
    Signature { name: "swap", offset: 4086, magic: b"SWAPSPACE2" },
    Signature { name: "vfat", offset: 82, magic: b"FAT32   " },
    Signature { name: "vfat", offset: 54, magic: b"FAT1" },
];

/// The name of what is in an area, by its signature.
pub(crate) fn signature(area: &Extent) -> Result<Option<&'static str>, Error> {
    for signature in SIGNATURES {
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..signature.magic.len()];
        let end = signature.offset + bytes.len() as u64;
        if end <= area.length() {
            area.read(bytes, signature.offset)?;
            if bytes == signature.magic {
                return Ok(Some(signature.name));
            }
        }
    }
    Ok(None)
}

/// What was found in an area.
pub(crate) enum Found {
    /// A filesystem that can be read.
    Readable(Box<dyn FileSystem>),
    /// Something that cannot be read, by name.
    Unsupported(&'static str),
    /// Nothing known.
    Nothing,
}

/// Opens the filesystem of an area.
pub(crate) fn open(area: &Extent) -> Result<Found, Error> {
    Ok(match signature(area)? {
        Some("ext4") => Found::Readable(Box::new(ext4::Ext4::open(area)?)),
        Some("vfat") => Found::Readable(Box::new(fat::Fat::open(area)?)),
        Some("swap") | None => Found::Nothing,
        Some(name) => Found::Unsupported(name),
    })
}

/// The whole content of a small file as text; `None` if it is not a file.
pub(crate) fn read_text(
    filesystem: &dyn FileSystem,
    path: &str,
    limit: u64,
) -> Result<Option<String>, Error> {
    match filesystem.stat(path)? {
        Some(Stat::File(size)) if size > limit => Err(Error::TooLarge {
            what: format!("{path} with {size} bytes"),
            limit: format!("{limit} bytes"),
            remedy: "make the file smaller",
        }),
        Some(Stat::File(_)) => {
            let mut bytes = Vec::new();
            filesystem.read(path, limit, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => Ok(None),
    }
}
