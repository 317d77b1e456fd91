//! What an uploaded file is. The file is hostile input: it is looked at whole before it is used.

use qcow2::{Format, Image, Layer, OpenOptions};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::Semaphore;

/// A file that can be a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFormat {
    /// `qcow2 raw`
    pub name: &'static str,
    /// Size of the disk it describes.
    pub virtual_bytes: u64,
    /// Its content is encrypted.
    pub encrypted: bool,
}

/// Why a file cannot be an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Unusable(qcow2::Error),
    #[error("{0}; see what qemu-img check says of it, and upload the whole of a sound image")]
    Damaged(qcow2::Error),
    #[error(
        "its tables have {count} contradictions, the first: {first}; upload the whole file, or \
         repair it with qemu-img check -r all"
    )]
    Contradictions { count: u64, first: String },
    #[error("it has a backing file ({0:?}); flatten it with qemu-img convert -O qcow2")]
    Backing(String),
    #[error("it is marked as corrupt; repair it with qemu-img check -r all")]
    MarkedCorrupt,
    #[error("the disk would have {0} bytes; it must have 1 MiB to 64 TiB")]
    Size(u64),
    #[error("it is a VHD image; convert it with qemu-img convert -O qcow2")]
    Vhd,
    #[error("the file is {found}, not {wanted} as the request says; correct the format")]
    Mismatch { found: &'static str, wanted: String },
    #[error(
        "looking at it took more than {} s; convert it with qemu-img convert -O qcow2 and upload \
         the result",
        LONGEST.as_secs()
    )]
    TooLong,
}

impl From<qcow2::Error> for FormatError {
    fn from(error: qcow2::Error) -> Self {
        match error {
            qcow2::Error::Layer { source, .. } => (*source).into(),
            // These two say what is wrong, but not what to do about it.
            error @ (qcow2::Error::Invalid { .. } | qcow2::Error::Io { .. }) => {
                Self::Damaged(error)
            }
            error => Self::Unusable(error),
        }
    }
}

const LEAST: u64 = 1 << 20;
/// Bytes the largest disk has, so the largest file too.
pub(crate) const MOST: u64 = 64 << 40;
/// Time a look may take.
const LONGEST: Duration = Duration::from_secs(120);
/// Looks at once. A thread cannot be ended from outside: this is how many can be lost to files
/// that take for ever.
static LOOKS: Semaphore = Semaphore::const_new(2);

/// Looks at a file. `wanted` is the format the request names, or empty.
pub(crate) async fn inspect(path: PathBuf, wanted: String) -> Result<ImageFormat, FormatError> {
    let look = async {
        let permit = LOOKS.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            look_at(&path, &wanted)
        })
        .await
        .map_err(io::Error::other)?
    };
    tokio::time::timeout(LONGEST, look).await.map_err(|_| FormatError::TooLong)?
}

fn look_at(path: &Path, wanted: &str) -> Result<ImageFormat, FormatError> {
    let file = File::open(path)?;
    let info = qcow2::probe(&file)?;
    let name = match info.format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    if !wanted.is_empty() && wanted != name {
        return Err(FormatError::Mismatch { found: name, wanted: wanted.to_owned() });
    }
    if !(LEAST..=MOST).contains(&info.virtual_size) {
        return Err(FormatError::Size(info.virtual_size));
    }
    match info.format {
        Format::Raw => {
            // A VHD of fixed size begins like a raw disk and names itself in its last sector.
            let mut tail = [0; 8];
            file.read_exact_at(&mut tail, info.virtual_size - 512)?;
            if &tail == b"conectix" {
                return Err(FormatError::Vhd);
            }
        }
        Format::Qcow2 => {
            if let Some(backing) = info.backing_name {
                return Err(FormatError::Backing(backing));
            }
            if info.features.iter().any(|feature| feature == "corrupt") {
                return Err(FormatError::MarkedCorrupt);
            }
            check_tables(&file, info.encrypted)?;
        }
    }
    Ok(ImageFormat { name, virtual_bytes: info.virtual_size, encrypted: info.encrypted })
}

/// That every table can be read and that every cluster it names is in the file. One that is encrypted
/// cannot be opened here, but tables are not encrypted.
fn check_tables(file: &File, encrypted: bool) -> Result<(), FormatError> {
    if !encrypted {
        let layer = Layer { file: file.try_clone()?, format: Format::Qcow2 };
        Image::open(vec![layer], OpenOptions { read_only: true })?;
    }
    let report = qcow2::check(file)?;
    if report.corruptions > 0 {
        // Leaks are among the messages too, so the first one may be about those.
        let first = report.messages.into_iter().next().unwrap_or_default();
        return Err(FormatError::Contradictions { count: report.corruptions, first });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tempfile::NamedTempFile;

    const CLUSTER: u64 = 1 << 16;

    fn file(content: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// A sound image with data in it, changed.
    fn image(version: u32, backing: Option<qcow2::Backing>) -> NamedTempFile {
        let image = NamedTempFile::new().unwrap();
        let options =
            qcow2::CreateOptions { virtual_size: 10 << 30, version, backing, ..Default::default() };
        qcow2::create(image.as_file(), &options).unwrap();
        image
    }

    fn with_data() -> NamedTempFile {
        let image = image(3, None);
        let layer = Layer { file: image.reopen().unwrap(), format: Format::Qcow2 };
        let open = Image::open(vec![layer], OpenOptions::default()).unwrap();
        for index in 0..8 {
            open.write_at(&[7; CLUSTER as usize], index * CLUSTER).unwrap();
        }
        drop(open);
        image
    }

    fn refusal(image: &NamedTempFile) -> String {
        look_at(image.path(), "").unwrap_err().to_string()
    }

    #[test]
    fn a_size_is_that_of_the_disk() {
        for image in [image(2, None), image(3, None), with_data()] {
            let format = look_at(image.path(), "").unwrap();
            assert_eq!(
                format,
                ImageFormat { name: "qcow2", virtual_bytes: 10 << 30, encrypted: false }
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let changed = |at: u64, value: &[u8]| {
            let image = image(3, None);
            image.as_file().write_all_at(value, at).unwrap();
            refusal(&image)
        };
        assert!(changed(7, &[4]).contains("version"));
        assert!(changed(79, &[2]).contains("marked as corrupt"));
        assert!(changed(79, &[4]).contains("external data"));
        assert!(changed(23, &[40]).contains("cluster"));
        assert!(changed(24, &[0; 8]).contains("1 MiB"));
        assert!(changed(40, &[0xff; 8]).contains("upload the whole of a sound image"));
        let name = "/etc/shadow".to_owned();
        let backed = image(3, Some(qcow2::Backing { name, format: Format::Raw }));
        assert!(refusal(&backed).contains("flatten"));
        assert!(refusal(&file(b"")).contains("0 bytes"));
        assert!(refusal(&file(&[b"KDMV".as_slice(), &[0; 600]].concat())).contains("VMDK"));
        assert!(refusal(&file(&[7; 1000])).contains("512"));
        let mut vhd = vec![0; 2 << 20];
        vhd[(2 << 20) - 512..][..8].copy_from_slice(b"conectix");
        assert!(refusal(&file(&vhd)).contains("VHD"));
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let image = with_data();
        let length = image.as_file().metadata().unwrap().len();
        assert!(look_at(image.path(), "").is_ok());
        for left in [length - 2 * CLUSTER, length / 2, CLUSTER, 600, 40] {
            image.as_file().set_len(left).unwrap();
            let reason = refusal(&image);
            assert!(reason.contains("upload"), "{left}: {reason}");
        }
    }

    #[test]
    fn a_wrong_format_name_is_refused() {
        let image = image(3, None);
        assert!(matches!(look_at(image.path(), "raw"), Err(FormatError::Mismatch { .. })));
        let raw = file(&vec![0; 2 << 20]);
        assert_eq!(look_at(raw.path(), "raw").unwrap().virtual_bytes, 2 << 20);
    }
}
