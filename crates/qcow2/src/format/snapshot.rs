//! The table of internal snapshots: read only to know which clusters are taken.

use super::{be32, be64};
use crate::error::Error;
use crate::format::header::Geometry;
use crate::storage::Storage;

/// QEMU's own limits, so that what it can write can be read.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_TABLE: u64 = 64 << 20;
/// All their L1 tables together; each is read.
const MAX_L1_BYTES: u64 = 1 << 30;

/// Where one snapshot keeps its L1 table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) l1_offset: u64,
    pub(crate) l1_size: u32,
}

/// The snapshots of an image and the bytes their table takes.
#[derive(Debug, Default)]
pub(crate) struct SnapshotTable {
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) bytes: u64,
}

/// Read the table of `count` snapshots at `offset`.
pub(crate) fn read(
    file: &dyn Storage,
    offset: u64,
    count: u32,
    geometry: &Geometry,
) -> Result<SnapshotTable, Error> {
    if count == 0 {
        return Ok(SnapshotTable::default());
    }
    if count > MAX_SNAPSHOTS {
        return Err(Error::invalid(
            "number of snapshots",
            format!("{count} is more than {MAX_SNAPSHOTS}"),
        ));
    }
    if !offset.is_multiple_of(geometry.cluster_size()) || offset == 0 {
        return Err(Error::invalid("snapshot table offset", format!("{offset:#x} is not aligned")));
    }
    let mut snapshots = Vec::new();
    let mut at = 0u64;
    let mut l1_bytes = 0u64;
    for index in 0..count {
        let mut fixed = [0u8; 40];
        let n = file
            .read_at(&mut fixed, offset.saturating_add(at))
            .map_err(|e| Error::io("read snapshot table", e))?;
        if n < fixed.len() {
            return Err(Error::invalid(
                "snapshot table",
                format!("entry {index} lies beyond the end of the file"),
            ));
        }
        let snapshot = Snapshot { l1_offset: be64(&fixed, 0), l1_size: be32(&fixed, 8) };
        if !snapshot.l1_offset.is_multiple_of(geometry.cluster_size())
            || u64::from(snapshot.l1_size) * 8 > super::header::MAX_L1_BYTES
        {
            return Err(Error::invalid(
                "snapshot table",
                format!(
                    "entry {index} names {} L1 entries at {:#x}",
                    snapshot.l1_size, snapshot.l1_offset
                ),
            ));
        }
        l1_bytes += u64::from(snapshot.l1_size) * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(Error::TooLarge {
                what: "the size of the snapshots' L1 tables",
                limit: format!("{} MiB", MAX_L1_BYTES >> 20),
            });
        }
        snapshots.push(snapshot);
        let id_len = u64::from(u16::from_be_bytes([fixed[12], fixed[13]]));
        let name_len = u64::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        let extra_len = u64::from(be32(&fixed, 36));
        at = at.saturating_add(40 + id_len + name_len + extra_len).next_multiple_of(8);
        if at > MAX_TABLE {
            return Err(Error::invalid("snapshot table", "it is larger than 64 MiB"));
        }
    }
    Ok(SnapshotTable { snapshots, bytes: at })
}
