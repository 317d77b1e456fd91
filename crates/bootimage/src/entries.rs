//! Boot entries: what the image's own boot loader would boot.

pub(crate) mod boot_loader_spec;
pub(crate) mod grub;
pub(crate) mod plain;
mod version;

use crate::error::Error;
use crate::filesystems::{FileSystem, Stat, read_text};
use crate::partitions::{Partition, Table};
use crate::source::Extent;

/// A partition with a filesystem that can be read.
pub(crate) struct Volume {
    pub(crate) partition: Partition,
    pub(crate) filesystem: Box<dyn FileSystem>,
}

/// A path on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) volume: usize,
    pub(crate) path: String,
}

/// One bootable entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) title: String,
    pub(crate) kernel: Location,
    pub(crate) initrds: Vec<Location>,
    pub(crate) options: String,
    /// The file it is from, for messages.
    pub(crate) config: String,
}

/// The volumes of a disk.
pub(crate) struct Volumes {
    pub(crate) list: Vec<Volume>,
    /// The disk they are on, whose limits hold for all of them.
    pub(crate) disk: Extent,
}

impl Volumes {
    pub(crate) fn stat(&self, at: &Location) -> Result<Option<Stat>, Error> {
        match self.list.get(at.volume) {
            Some(volume) => volume.filesystem.stat(&at.path),
            None => Ok(None),
        }
    }

    pub(crate) fn is_file(&self, at: &Location) -> Result<bool, Error> {
        Ok(matches!(self.stat(at)?, Some(Stat::File(_))))
    }

    pub(crate) fn text(&self, at: &Location) -> Result<Option<String>, Error> {
        match self.list.get(at.volume) {
            Some(volume) => {
                let limit = self.disk.limits().config_bytes;
                read_text(volume.filesystem.as_ref(), &at.path, limit)
            }
            None => Ok(None),
        }
    }

    pub(crate) fn names(&self, volume: usize, path: &str) -> Result<Vec<String>, Error> {
        match self.list.get(volume) {
            Some(volume) => Ok(volume.filesystem.list(path)?.unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }

    /// GRUB's name of a volume.
    pub(crate) fn device(&self, volume: usize) -> String {
        match self.list.get(volume).map(|volume| &volume.partition) {
            Some(partition) => match partition.table {
                Table::Gpt => format!("hd0,gpt{}", partition.number),
                Table::Mbr => format!("hd0,msdos{}", partition.number),
                Table::Bare => "hd0".to_owned(),
            },
            None => String::new(),
        }
    }

    /// The volume of a GRUB device name. The disk's number is the one it had where the image was
    /// made, so only the partition's counts.
    pub(crate) fn by_device(&self, name: &str) -> Option<usize> {
        let number = match name.split_once(',') {
            Some((_, partition)) => {
                partition.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().ok()?
            }
            None => 0,
        };
        self.list.iter().position(|volume| volume.partition.number == number)
    }

    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.list.iter().position(|volume| {
            volume.filesystem.uuid().is_some_and(|one| one.eq_ignore_ascii_case(uuid))
        })
    }

    pub(crate) fn by_label(&self, label: &str) -> Option<usize> {
        self.list
            .iter()
            .position(|volume| volume.filesystem.label().is_some_and(|one| one == label))
    }
}
