//! The figures, one file per kind of family.

mod bare_metal;
mod burstable;
mod general;
mod gpu;

use super::{Credits, DiskLimits, Gpu, InstanceType, MAX_DATA_DISKS, Network, Source, family};

/// All types of all families, in the order of the families' list.
pub(super) fn all() -> Vec<InstanceType> {
    let mut rows = Vec::new();
    general::rows(&mut rows);
    gpu::rows(&mut rows);
    burstable::rows(&mut rows);
    bare_metal::rows(&mut rows);
    let mut types: Vec<InstanceType> = rows.into_iter().filter_map(Row::into_type).collect();
    let position =
        |id: &str| super::families().iter().position(|one| one.id == id).unwrap_or(usize::MAX);
    types.sort_by_key(|one| {
        (position(one.family), one.vcpus, one.memory_mib, one.gpu.map_or(0, |gpu| gpu.amount))
    });
    types
}

/// One type as the tables have it: bandwidths in Mbit/s, 0 for what is not published.
#[derive(Debug, Clone, Copy)]
struct Row {
    family: &'static str,
    size: &'static str,
    vcpus: u32,
    memory_mib: u64,
    net_mbps: [u64; 2],
    pps: u64,
    connections: u64,
    nic_queues: u32,
    enis: u32,
    ips_per_eni: u32,
    /// 0 is a figure here: the type has no IPv6.
    ipv6s_per_eni: Option<u32>,
    disk_iops: [u64; 2],
    disk_mbps: [u64; 2],
    gpu: Option<Gpu>,
    baseline_percent: u32,
    source: Source,
}

impl Row {
    const fn new(family: &'static str, size: &'static str, vcpus: u32, memory_mib: u64) -> Row {
        Row {
            family,
            size,
            vcpus,
            memory_mib,
            net_mbps: [0, 0],
            pps: 0,
            connections: 0,
            nic_queues: 0,
            enis: 0,
            ips_per_eni: 0,
            ipv6s_per_eni: None,
            disk_iops: [0, 0],
            disk_mbps: [0, 0],
            gpu: None,
            baseline_percent: 0,
            source: Source::Documentation,
        }
    }

    fn into_type(self) -> Option<InstanceType> {
        let family = family(self.family)?;
        let separator = if self.size.contains('.') { "-" } else { "." };
        Some(InstanceType {
            id: format!("{}{separator}{}", self.family, self.size),
            family: family.id,
            level: family.level,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            architecture: family.architecture,
            processor: family.processor,
            gpu: self.gpu,
            network: Network {
                base_kbps: kbps(self.net_mbps[0]),
                burst_kbps: kbps(self.net_mbps[1]),
                pps: published(self.pps),
                connections: published(self.connections),
            },
            nic_queues: published(self.nic_queues),
            enis: published(self.enis),
            ips_per_eni: published(self.ips_per_eni),
            ipv6s_per_eni: self.ipv6s_per_eni,
            disk: DiskLimits {
                base_iops: published(self.disk_iops[0]),
                burst_iops: published(self.disk_iops[1]),
                base_kbps: kbps(self.disk_mbps[0]),
                burst_kbps: kbps(self.disk_mbps[1]),
            },
            credits: published(self.baseline_percent).map(|percent| credits(percent, self.vcpus)),
            max_data_disks: MAX_DATA_DISKS,
            source: self.source,
        })
    }
}

fn published<T: Default + PartialEq>(figure: T) -> Option<T> {
    (figure != T::default()).then_some(figure)
}

fn kbps(mbps: u64) -> Option<u64> {
    published(mbps).map(|mbps| mbps * 1000)
}

/// Earned: baseline × vCPUs × 60 per hour; saved: at most 24 hours of it; at start: 30 per vCPU
/// (help.aliyun.com, "Burstable instances: basic concepts").
fn credits(baseline_percent: u32, vcpus: u32) -> Credits {
    let per_hour = baseline_percent * vcpus * 60 / 100;
    Credits { baseline_percent, per_hour, max: per_hour * 24, initial: 30 * vcpus }
}
