//! Partition tables: GPT, MBR with logical partitions, or none.

mod gpt;
mod mbr;

use std::fmt;

use crate::error::Error;
use crate::source::Extent;

/// The kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
    /// A filesystem right on the disk.
    Bare,
}

/// A partition, or the whole disk.
#[derive(Debug, Clone)]
pub struct Partition {
    /// The table it is in.
    pub table: Table,
    /// Its number, from 1; 0 for the whole disk.
    pub number: u32,
    /// `PARTUUID` as the guest's kernel spells it.
    pub uuid: Option<String>,
    pub(crate) extent: Extent,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table {
            Table::Gpt => write!(f, "GPT partition {}", self.number),
            Table::Mbr => write!(f, "MBR partition {}", self.number),
            Table::Bare => f.write_str("the disk without partition table"),
        }
    }
}

/// The partitions of a disk in the order of their numbers. A disk without table is one partition.
pub(crate) fn read(disk: &Extent) -> Result<Vec<Partition>, Error> {
    let bare = Partition { table: Table::Bare, number: 0, uuid: None, extent: disk.clone() };
    if disk.length() < 1024 {
        return Ok(vec![bare]);
    }
    let head = disk.head(512)?;
    // A filesystem may leave its first sector to a boot loader's MBR, signature and all.
    let filesystem = crate::filesystems::signature(disk)?.is_some();
    let mut partitions = match gpt::read(disk)? {
        Some(partitions) => partitions,
        None if filesystem => Vec::new(),
        None => mbr::read(disk, &head)?,
    };
    partitions.truncate(disk.limits().partitions);
    if partitions.is_empty() {
        partitions.push(bare);
    }
    Ok(partitions)
}
