//! GUID partition tables.

use std::cell::RefCell;
use std::rc::Rc;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use super::{Partition, Table};
use crate::error::Error;
use crate::source::{Extent, Stream};

/// The partitions, or `None` without GPT.
pub(super) fn read(disk: &Extent) -> Result<Option<Vec<Partition>>, Error> {
    for sector in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
        let Some(header) = find_header(disk, sector.as_u64())? else { continue };
        // The crate reads as many entries as the header says.
        let count = le32(&header, 80);
        let size = le32(&header, 84);
        if count > 4096 || !(128..=4096).contains(&size) {
            return Err(corrupt(format!("its header has {count} entries of {size} bytes")));
        }
        return partitions(disk, sector).map(Some);
    }
    Ok(None)
}

/// The header at the start, or its copy at the end.
fn find_header(disk: &Extent, sector: u64) -> Result<Option<[u8; 92]>, Error> {
    let last = (disk.length() / sector).saturating_sub(1);
    for lba in [1, last] {
        let mut header = [0; 92];
        if (lba + 1) * sector > disk.length() {
            continue;
        }
        disk.read(&mut header, lba * sector)?;
        if &header[..8] == b"EFI PART" {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

fn partitions(disk: &Extent, sector: LogicalBlockSize) -> Result<Vec<Partition>, Error> {
    let failed = Rc::new(RefCell::new(None));
    let stream = Stream::new(disk.clone(), Rc::clone(&failed));
    let table = match GptConfig::new().logical_block_size(sector).open_from_device(stream) {
        Ok(table) => table,
        Err(error) => {
            return Err(match failed.borrow_mut().take() {
                Some(first) if first.is_final() => first,
                _ => corrupt(error.to_string()),
            });
        }
    };
    let mut found = Vec::new();
    for (&number, entry) in table.partitions() {
        if !entry.is_used() || entry.last_lba < entry.first_lba {
            continue;
        }
        let start = entry.first_lba.saturating_mul(sector.as_u64());
        let length = (entry.last_lba - entry.first_lba).saturating_add(1);
        found.push(Partition {
            table: Table::Gpt,
            number,
            uuid: Some(entry.part_guid.hyphenated().to_string()),
            extent: disk.part(start, length.saturating_mul(sector.as_u64())),
        });
    }
    Ok(found)
}

fn le32(bytes: &[u8; 92], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn corrupt(why: String) -> Error {
    Error::Corrupt { what: "the GUID partition table".into(), why }
}
