//! What `cloud_auto` disks have beyond their baseline: provisioned performance and bursts.
//!
//! Formulas: "ESSD AutoPL disks". The published MB are taken as 2^20 bytes, KB as 2^10.

use crate::disk::{DiskCategory, Error, Performance, disk_performance};

/// Throughput that comes with each provisioned or burst IOPS: 16 KB.
const BYTES_PER_IO: u64 = 16 << 10;
/// Most IOPS for each GiB.
const IOPS_PER_GIB: u64 = 1_000;
const MOST_PROVISIONED: u64 = 50_000;
const MOST_BURST: u64 = 1_000_000;
/// 4 GB/s.
const MOST_BURST_BYTES: u64 = 4 << 30;
/// Smaller disks have their baseline only.
const LEAST_GIB: u32 = 4;

/// The most `ProvisionedIops` of a `cloud_auto` disk of this size; 0 if it is too small for any.
///
/// # Errors
/// [`Error::Size`] if there is no `cloud_auto` disk of this size.
pub fn most_provisioned_iops(size_gib: u32) -> Result<u64, Error> {
    let baseline = disk_performance(DiskCategory::CloudAuto, None, size_gib)?;
    if size_gib < LEAST_GIB {
        return Ok(0);
    }
    let by_size = IOPS_PER_GIB * u64::from(size_gib);
    Ok(by_size.saturating_sub(baseline.iops).min(MOST_PROVISIONED))
}

/// What a `cloud_auto` disk with `provisioned_iops` delivers without bursts: its baseline and what
/// was provisioned.
///
/// # Errors
/// [`Error::Size`], [`Error::ProvisionedIops`].
pub fn provisioned_performance(size_gib: u32, provisioned_iops: u64) -> Result<Performance, Error> {
    let baseline = disk_performance(DiskCategory::CloudAuto, None, size_gib)?;
    let most = most_provisioned_iops(size_gib)?;
    if provisioned_iops > most {
        return Err(Error::ProvisionedIops { size_gib, provisioned_iops, most });
    }
    Ok(Performance {
        iops: baseline.iops + provisioned_iops,
        bytes_per_second: baseline.bytes_per_second + provisioned_iops * BYTES_PER_IO,
    })
}

/// What it delivers at most while it bursts (`BurstingEnabled`). Disks below 4 GiB do not burst.
///
/// # Errors
/// As [`provisioned_performance`].
pub fn burst_performance(size_gib: u32, provisioned_iops: u64) -> Result<Performance, Error> {
    let lasting = provisioned_performance(size_gib, provisioned_iops)?;
    if size_gib < LEAST_GIB {
        return Ok(lasting);
    }
    let iops = MOST_BURST.min(IOPS_PER_GIB * u64::from(size_gib)).max(lasting.iops);
    let bytes = (iops * BYTES_PER_IO).min(MOST_BURST_BYTES).max(lasting.bytes_per_second);
    Ok(Performance { iops, bytes_per_second: bytes })
}
