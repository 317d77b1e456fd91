//! What can go wrong with an image, and which errno a guest-facing device reports for it.

use std::io;

/// An image could not be opened, read, changed or created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host refused an I/O operation on an image file.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was being done, for example `read L2 table at 0x50000`.
        action: String,
        /// The host's error.
        source: io::Error,
    },
    /// A field of the image has a value that no valid image has.
    #[error("invalid {field}: {problem}")]
    Invalid {
        /// The header field or table entry.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The image is valid, but needs a feature this crate does not have.
    #[error("unsupported feature: {feature}; {remedy}")]
    Unsupported {
        /// The feature by its name in the qcow2 specification (or in the image's own table).
        feature: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The metadata contradicts itself. The image is not written any more.
    #[error("image is corrupt: {problem}; run `qemu-img check -r all` on a copy of it")]
    Corrupt {
        /// The contradiction found.
        problem: String,
    },
    /// The file is an image of another kind, or not a disk image.
    #[error("not a usable disk image: {problem}")]
    WrongFormat {
        /// What the content looks like and how to convert it.
        problem: String,
    },
    /// The image is encrypted and cannot be opened.
    #[error("it is encrypted, and {problem}")]
    Locked {
        /// Why.
        problem: &'static str,
    },
    /// The request reaches beyond the end of the disk.
    #[error("request of {len} bytes at {offset} exceeds the disk's {size} bytes")]
    OutOfRange {
        /// First byte of the request.
        offset: u64,
        /// Length of the request in bytes.
        len: u64,
        /// Virtual size of the disk in bytes.
        size: u64,
    },
    /// Looking at all of the metadata costs more than that of any honest image.
    #[error(
        "{what} is more than {limit}, so the tables must be damaged; convert the image with \
         `qemu-img convert -O qcow2`"
    )]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit with its unit.
        limit: String,
    },
    /// The caller's arguments contradict each other.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The image was opened read-only (or is marked corrupt) and a change was requested.
    #[error("image is read-only")]
    ReadOnly,
    /// An earlier `fdatasync` failed: the state of the medium is unknown and nothing more is written.
    #[error("writing stopped after the host failed to make data durable; reopen the disk")]
    SyncFailed,
    /// Requests were under way for too long; nothing was changed.
    #[error(
        "requests were under way for more than {seconds} s, so that {action} was given up; try again"
    )]
    Busy {
        /// What had to wait for them.
        action: &'static str,
        /// For how long it waited.
        seconds: u64,
    },
    /// An error in one layer of a chain.
    #[error("layer {index}: {source}")]
    Layer {
        /// Position in the list given to `Image::open`; 0 is the top.
        index: usize,
        /// The error in that layer.
        source: Box<Error>,
    },
}

impl Error {
    /// The errno a block device reports for this error (`EIO`, `ENOSPC`, `EROFS`, `EINVAL`...).
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Invalid { .. }
            | Self::Corrupt { .. }
            | Self::TooLarge { .. }
            | Self::SyncFailed => libc::EIO,
            Self::Unsupported { .. } => libc::EOPNOTSUPP,
            Self::WrongFormat { .. } | Self::OutOfRange { .. } | Self::InvalidArgument(_) => {
                libc::EINVAL
            }
            Self::Locked { .. } => libc::EKEYREJECTED,
            Self::ReadOnly => libc::EROFS,
            Self::Busy { .. } => libc::EBUSY,
            Self::Layer { source, .. } => source.errno(),
        }
    }

    /// Whether the host failed and not the image: the same may succeed later.
    #[must_use]
    pub fn is_of_the_host(&self) -> bool {
        match self {
            Self::Io { .. } | Self::SyncFailed => true,
            Self::Layer { source, .. } => source.is_of_the_host(),
            _ => false,
        }
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }

    pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { field, problem: problem.into() }
    }

    pub(crate) fn corrupt(problem: impl Into<String>) -> Self {
        Self::Corrupt { problem: problem.into() }
    }

    pub(crate) fn in_layer(self, index: usize) -> Self {
        Self::Layer { index, source: Box::new(self) }
    }
}
