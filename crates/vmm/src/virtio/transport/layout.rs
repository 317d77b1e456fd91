//! Where a virtio function keeps its registers, and the capabilities that say so.

use crate::pci::{ConfigSpace, PciError};
use std::ops::Range;

/// The BAR of all registers.
pub const BAR: u8 = 0;
/// Its size.
pub const BAR_SIZE: u64 = 0x8000;
/// Common configuration.
pub const COMMON: Range<u64> = 0x0000..0x0040;
/// Interrupt status.
pub const ISR: Range<u64> = 0x1000..0x1004;
/// Device configuration.
pub const DEVICE: Range<u64> = 0x2000..0x3000;
/// The BAR of doorbells at ports. A write to a port tells KVM all it needs, while one to memory has to be
/// found out from the guest's instruction, on AMD's processors and older kernels on all.
pub const PORTS_BAR: u8 = 1;
/// Doorbells in memory, for guests without ports to give, and for devices with more queues than a BAR
/// of ports can have.
pub const NOTIFY: Range<u64> = 0x3000..0x4000;
/// Bytes from one queue's doorbell to the next's.
pub const NOTIFY_STRIDE: u64 = 4;
/// MSI-X table.
pub const MSIX_TABLE: Range<u64> = 0x4000..0x6000;
/// MSI-X pending bits.
pub const MSIX_PENDING: Range<u64> = 0x6000..0x7000;
/// Vectors, and so queues, there is room for.
pub const MAX_VECTORS: usize = 512;

const VENDOR_CAPABILITY: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Offset of bar, offset, length and data in the capability that reaches BARs through
/// configuration space.
pub const ACCESS_BAR: usize = 4;
pub const ACCESS_OFFSET: usize = 8;
pub const ACCESS_LENGTH: usize = 12;
pub const ACCESS_DATA: usize = 16;

/// Bytes of the BAR of ports for so many queues, if there can be one.
pub fn ports_size(queues: usize) -> Option<u64> {
    let size = (queues as u64 * NOTIFY_STRIDE).next_power_of_two().max(4);
    (size <= 256).then_some(size)
}

/// Adds virtio's capabilities for a device with `ports` bytes of doorbells at ports. Returns where the one for access through configuration space is.
///
/// # Errors
/// If they do not fit.
pub fn add_capabilities(
    config: &mut ConfigSpace,
    device_len: usize,
    ports: Option<u64>,
) -> Result<usize, PciError> {
    let len = |range: &Range<u64>| (range.end - range.start) as u32;
    add(config, CFG_COMMON, &COMMON, len(&COMMON), &[])?;
    let stride = (NOTIFY_STRIDE as u32).to_le_bytes();
    if let Some(ports) = ports {
        // The first of its kind that a driver can use is the one it takes.
        let body = body(CFG_NOTIFY, PORTS_BAR, 0, ports as u32, &stride);
        config.add_capability(VENDOR_CAPABILITY, &body, &[])?;
    }
    add(config, CFG_NOTIFY, &NOTIFY, len(&NOTIFY), &stride)?;
    add(config, CFG_ISR, &ISR, 1, &[])?;
    if device_len > 0 {
        add(config, CFG_DEVICE, &DEVICE, device_len as u32, &[])?;
    }
    let mut body = body(CFG_PCI, BAR, 0, 0, &[0; 4]);
    body[0] = body.len() as u8 + 2;
    let mut writable = vec![0xff; body.len()];
    // Length, type and padding are ours; the BAR number, and the rest, the driver's.
    writable[..2].fill(0);
    writable[3..6].fill(0);
    config.add_capability(VENDOR_CAPABILITY, &body, &writable)
}

fn add(
    config: &mut ConfigSpace,
    kind: u8,
    range: &Range<u64>,
    len: u32,
    extra: &[u8],
) -> Result<usize, PciError> {
    let body = body(kind, BAR, range.start as u32, len, extra);
    config.add_capability(VENDOR_CAPABILITY, &body, &[])
}

fn body(kind: u8, bar: u8, offset: u32, len: u32, extra: &[u8]) -> Vec<u8> {
    // Capability length, type, BAR, id, padding; then offset and length.
    let mut body = vec![0, kind, bar, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(extra);
    body[0] = body.len() as u8 + 2;
    body
}
