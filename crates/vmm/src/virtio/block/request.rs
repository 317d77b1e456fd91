//! From a descriptor chain to a request that is safe to carry out.

use super::{
    backend::Operation,
    config::{Geometry, MAX_RANGE_SECTORS, SECTOR},
};
use crate::virtio::{
    chain::{Buffers, Pieces},
    ring::BrokenRing,
};

/// Outcome of a request, as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed.
    IoError = 1,
    /// Not something this disk does.
    Unsupported = 2,
}

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
const HEADER_LEN: usize = 16;
const RANGE_LEN: u64 = 16;
const FLAG_UNMAP: u32 = 1;
/// Bytes of a disk's serial number.
pub const ID_LEN: usize = 20;

/// What to do for a request.
#[derive(Debug)]
pub enum Action {
    /// Work for the backend.
    Submit {
        /// What.
        operation: Operation,
        /// First byte on disk.
        offset: u64,
        /// Bytes on disk.
        len: u64,
        /// Guest memory.
        data: Pieces,
    },
    /// Write the disk's serial number.
    Identify(Pieces),
    /// Answer at once.
    Complete(Status),
}

/// A checked request.
#[derive(Debug)]
pub struct Request {
    /// Chain to give back.
    pub head: u16,
    /// Where the status byte goes.
    pub status: Pieces,
    /// Bytes of the chain before the status byte that the device may write.
    pub writable_len: u32,
    /// What to do.
    pub action: Action,
}

impl Request {
    /// Checks everything a driver can get wrong.
    ///
    /// # Errors
    /// If there is not even a place for the status byte, or no complete header.
    pub fn parse(mut buffers: Buffers, geometry: &Geometry) -> Result<Self, BrokenRing> {
        let mut status = std::mem::take(&mut buffers.writable);
        let status_byte =
            status.split_last_byte().ok_or(BrokenRing("a disk request has no status byte"))?;
        let input = status;
        let header = buffers.readable.split_front(HEADER_LEN as u64);
        let mut bytes = [0; HEADER_LEN];
        if header.read(&mut bytes) != HEADER_LEN {
            return Err(BrokenRing("a disk request has no header"));
        }
        let [kind, _, low, high] = words(bytes);
        let sector = u64::from(high) << 32 | u64::from(low);
        let writable_len = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let action = Self::action(kind, sector, input, buffers.readable, geometry);
        Ok(Self { head: buffers.head, status: status_byte, writable_len, action })
    }

    /// Bytes it moves from or to the guest.
    pub fn bytes(&self) -> u64 {
        match self.action {
            Action::Submit { operation: Operation::Read | Operation::Write, len, .. } => len,
            _ => 0,
        }
    }

    fn action(kind: u32, sector: u64, input: Pieces, output: Pieces, disk: &Geometry) -> Action {
        match kind {
            TYPE_IN if output.is_empty() => transfer(Operation::Read, sector, input, disk),
            TYPE_OUT if input.is_empty() && !disk.read_only => {
                transfer(Operation::Write, sector, output, disk)
            }
            TYPE_IN | TYPE_OUT => Action::Complete(Status::IoError),
            TYPE_FLUSH => Action::Submit {
                operation: Operation::Flush,
                offset: 0,
                len: 0,
                data: Pieces::default(),
            },
            TYPE_GET_ID if input.len() >= ID_LEN as u64 => Action::Identify(input),
            TYPE_GET_ID => Action::Complete(Status::IoError),
            TYPE_DISCARD | TYPE_WRITE_ZEROES if disk.read_only => Action::Complete(Status::IoError),
            TYPE_DISCARD | TYPE_WRITE_ZEROES => range(kind, &output, disk),
            _ => Action::Complete(Status::Unsupported),
        }
    }
}

/// Carries a request out as far as guest memory is concerned: data is overwritten or read, the
/// status written. Returns the bytes written.
pub fn rehearse(request: &Request) -> u32 {
    let status = match &request.action {
        Action::Complete(status) => *status,
        Action::Identify(data) => {
            data.write(&[0; ID_LEN]);
            Status::Ok
        }
        Action::Submit { operation: Operation::Read, data, .. } => {
            for at in (0..data.len()).step_by(SECTOR as usize) {
                data.write_at(at as usize, &[0x55; SECTOR as usize]);
            }
            Status::Ok
        }
        Action::Submit { data, .. } => {
            let mut copy = vec![0; data.len().min(1 << 20) as usize];
            data.read(&mut copy);
            Status::Ok
        }
    };
    request.status.write(&[status as u8]);
    request.writable_len.saturating_add(1)
}

fn transfer(operation: Operation, sector: u64, data: Pieces, disk: &Geometry) -> Action {
    let len = data.len();
    match byte_range(sector, len / SECTOR, disk) {
        Some(offset) if len > 0 && len.is_multiple_of(SECTOR) => {
            Action::Submit { operation, offset, len, data }
        }
        _ => Action::Complete(Status::IoError),
    }
}

fn range(kind: u32, output: &Pieces, disk: &Geometry) -> Action {
    let mut bytes = [0; RANGE_LEN as usize];
    if output.len() != RANGE_LEN || output.read(&mut bytes) != bytes.len() {
        return Action::Complete(Status::IoError);
    }
    let [low, high, sectors, flags] = words(bytes);
    let sector = u64::from(high) << 32 | u64::from(low);
    let operation = match (kind, flags) {
        (TYPE_DISCARD, 0) => Operation::Discard,
        (TYPE_WRITE_ZEROES, 0 | FLAG_UNMAP) => Operation::WriteZeroes { unmap: flags != 0 },
        _ => return Action::Complete(Status::Unsupported),
    };
    match byte_range(sector, u64::from(sectors), disk) {
        Some(offset) if (1..=MAX_RANGE_SECTORS).contains(&sectors) => Action::Submit {
            operation,
            offset,
            len: u64::from(sectors) * SECTOR,
            data: Pieces::default(),
        },
        _ => Action::Complete(Status::IoError),
    }
}

/// First byte of a range of sectors, if the disk has all of them.
fn byte_range(sector: u64, sectors: u64, disk: &Geometry) -> Option<u64> {
    let end = sector.checked_add(sectors)?;
    if end <= disk.sectors { sector.checked_mul(SECTOR) } else { None }
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}
