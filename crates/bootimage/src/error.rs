//! Why an image cannot be booted.

use std::io;

use thiserror::Error;

/// Why no kernel could be taken out of a disk. [`Error::code`] is what the instance's status shows.
#[derive(Debug, Error)]
pub enum Error {
    /// Nothing on the disk is known to this program.
    #[error(
        "the disk has neither a partition table nor a filesystem: looked for GPT, MBR and the signatures of common filesystems in its first 128 KiB; import an image of an installed Linux system"
    )]
    NoPartition,
    /// Partitions, and no filesystem in any of them.
    #[error(
        "no filesystem found: {looked_at}; import an image of an installed Linux system with an ext4 root or /boot"
    )]
    NoFilesystem {
        /// What was looked at.
        looked_at: String,
    },
    /// The kernel can only be in a filesystem this program cannot read.
    #[error(
        "the kernel is in a filesystem that cannot be read yet: {found}; use an image whose /boot or root is ext4 or FAT"
    )]
    UnsupportedFilesystem {
        /// Which filesystem, in which partition.
        found: String,
    },
    /// Readable filesystems, and nothing to boot in them.
    #[error(
        "no kernel found: {looked_at}; install a kernel package (e.g. linux-image-cloud-amd64) in the image and run its boot loader's configuration tool (update-grub)"
    )]
    NoKernel {
        /// What was looked at.
        looked_at: String,
    },
    /// The default entry names an initrd that is not there.
    #[error(
        "boot entry {title:?} of {config} names the initrd {path}, which does not exist; run update-initramfs or dracut in the image"
    )]
    NoInitrd {
        /// Title of the entry.
        title: String,
        /// The configuration it is from.
        config: String,
        /// The path it names.
        path: String,
    },
    /// The file is not a kernel for this machine.
    #[error(
        "{path} is not a kernel this machine can boot: {why}; install an x86-64 kernel in the image"
    )]
    BadKernel {
        /// Path of the file in the image.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit was reached.
    #[error("{what} is more than the limit of {limit}; {remedy}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit with its unit.
        limit: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The disk contradicts itself.
    #[error(
        "{what} is damaged: {why}; repair it (e.g. fsck) from another instance or import the image again"
    )]
    Corrupt {
        /// Which structure, where.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host could not read the disk, or write a result.
    #[error("{what}: {source}; look at the host's storage")]
    Io {
        /// What was being done.
        what: String,
        /// The host's answer.
        source: io::Error,
    },
    /// The time is up.
    #[error(
        "looking for the kernel took longer than {seconds} s; the image's filesystem may be damaged, check it with fsck"
    )]
    Timeout {
        /// The time there was.
        seconds: u64,
    },
    /// The process could not give up its rights, so it did not touch the disk.
    #[error(
        "the reader could not confine itself ({step}: {source}), so it did not touch the disk; see the host's kernel configuration"
    )]
    Confinement {
        /// The step that failed.
        step: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

impl Error {
    /// The code for the API and for events, `ImageBootFailed.` and the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoPartition => "ImageBootFailed.NoPartition",
            Error::NoFilesystem { .. } => "ImageBootFailed.NoFilesystem",
            Error::UnsupportedFilesystem { .. } => "ImageBootFailed.UnsupportedFilesystem",
            Error::NoKernel { .. } => "ImageBootFailed.NoKernel",
            Error::NoInitrd { .. } => "ImageBootFailed.NoInitrd",
            Error::BadKernel { .. } => "ImageBootFailed.BadKernel",
            Error::TooLarge { .. } => "ImageBootFailed.TooLarge",
            Error::Corrupt { .. } => "ImageBootFailed.Corrupt",
            Error::Io { .. } => "ImageBootFailed.ReadError",
            Error::Timeout { .. } => "ImageBootFailed.Timeout",
            Error::Confinement { .. } => "ImageBootFailed.Confinement",
        }
    }

    /// Whether going on with another place on the disk makes no sense: the budget is used up, or the
    /// host cannot read.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Error::Timeout { .. } | Error::Io { .. } | Error::Confinement { .. })
            || matches!(self, Error::TooLarge { remedy, .. } if *remedy == BUDGET_REMEDY)
    }
}

/// What to do about a disk that needs too many reads.
pub(crate) const BUDGET_REMEDY: &str = "the filesystem may be damaged, check it with fsck";
