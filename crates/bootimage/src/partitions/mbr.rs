//! Master boot records, with the chain of logical partitions.

use super::{Partition, Table};
use crate::error::Error;
use crate::source::Extent;

const SECTOR: u64 = 512;

/// Logical partitions looked at; the chain may be a loop.
const LOGICAL_PARTITIONS: u32 = 64;

struct Record {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// The partitions; none if the first sector is not an MBR.
pub(super) fn read(disk: &Extent, head: &[u8]) -> Result<Vec<Partition>, Error> {
    let Some(records) = records(head) else { return Ok(Vec::new()) };
    let signature = head.get(440..444).and_then(|bytes| bytes.try_into().ok());
    let signature = signature.map_or(0, u32::from_le_bytes);
    let partition = |number: u32, start: u64, sectors: u64| Partition {
        table: Table::Mbr,
        number,
        uuid: (signature != 0).then(|| format!("{signature:08x}-{number:02x}")),
        extent: disk.part(start.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR)),
    };
    let mut found = Vec::new();
    let mut logical = 5;
    for (number, record) in (1..).zip(&records) {
        if record.kind == 0 || record.sectors == 0 {
            continue;
        }
        if !is_extended(record.kind) {
            found.push(partition(number, record.start, record.sectors));
            continue;
        }
        let mut at = record.start;
        for _ in 0..LOGICAL_PARTITIONS {
            if at.saturating_add(1).saturating_mul(SECTOR) > disk.length() {
                break;
            }
            let mut sector = [0; 512];
            disk.read(&mut sector, at * SECTOR)?;
            let Some([this, next, ..]) = self::records(&sector) else { break };
            if this.kind != 0 && this.sectors != 0 {
                found.push(partition(logical, at.saturating_add(this.start), this.sectors));
                logical += 1;
            }
            if !is_extended(next.kind) {
                break;
            }
            at = record.start.saturating_add(next.start);
        }
    }
    Ok(found)
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn records(sector: &[u8]) -> Option<[Record; 4]> {
    if sector.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let table: &[u8; 64] = sector.get(446..510)?.try_into().ok()?;
    let record = |index: usize| {
        let bytes = &table[index * 16..index * 16 + 16];
        let le32 = |at: usize| {
            u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        };
        Record { kind: bytes[4], start: le32(8), sectors: le32(12) }
    };
    let active_flags_are_sane = (0..4).all(|index| table[index * 16] & 0x7f == 0);
    active_flags_are_sane.then(|| [record(0), record(1), record(2), record(3)])
}
