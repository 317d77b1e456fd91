//! Instance types and their families.

mod families;
mod tables;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use families::{Family, Requirement, families, family};

/// Data disks one instance can have, next to its system disk (the article; see the crate's notes).
pub const MAX_DATA_DISKS: u32 = 16;

/// One instance type, such as `ecs.c7.large`.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceType {
    /// `ecs.c7.large`.
    pub id: String,
    /// `ecs.c7`; [`family`] has the rest.
    pub family: &'static str,
    /// The level in `DescribeInstanceTypes`.
    pub level: Level,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory in MiB; 0 if not published.
    pub memory_mib: u64,
    /// The instruction set.
    pub architecture: Architecture,
    /// The processor of the real family, in words.
    pub processor: &'static str,
    /// The GPUs, if it has some.
    pub gpu: Option<Gpu>,
    /// Network limits, of all network interfaces together.
    pub network: Network,
    /// Queues of the primary network interface.
    pub nic_queues: Option<u32>,
    /// Network interfaces, the primary one included.
    pub enis: Option<u32>,
    /// Private IPv4 addresses of one network interface, the primary one included.
    pub ips_per_eni: Option<u32>,
    /// IPv6 addresses of one network interface; 0: none.
    pub ipv6s_per_eni: Option<u32>,
    /// Disk limits, of all cloud disks together.
    pub disk: DiskLimits,
    /// CPU credits, if it is burstable.
    pub credits: Option<Credits>,
    /// Data disks next to the system disk.
    pub max_data_disks: u32,
    /// Where the figures are from.
    pub source: Source,
}

/// Network limits of an instance type. `None`: not published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Network {
    /// Sustained bandwidth in kbit/s.
    pub base_kbps: Option<u64>,
    /// Bandwidth in a burst in kbit/s; `None` also if there is no burst.
    pub burst_kbps: Option<u64>,
    /// Packets per second, in and out together.
    pub pps: Option<u64>,
    /// Tracked connections.
    pub connections: Option<u64>,
}

/// Disk limits of an instance type. `None`: not published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Sustained I/O operations per second.
    pub base_iops: Option<u64>,
    /// I/O operations per second in a burst; `None` also if there is no burst.
    pub burst_iops: Option<u64>,
    /// Sustained bandwidth in kbit/s.
    pub base_kbps: Option<u64>,
    /// Bandwidth in a burst in kbit/s; `None` also if there is no burst.
    pub burst_kbps: Option<u64>,
}

/// CPU credits of a burstable type. One credit is one vCPU at 100 % for one minute
/// (help.aliyun.com, "Burstable instances: basic concepts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits {
    /// Share of each vCPU that can be used for ever, in percent: the mean over the vCPUs.
    pub baseline_percent: u32,
    /// Credits earned per hour, by the whole instance: baseline × vCPUs × 60.
    pub per_hour: u32,
    /// The most that can be saved: what 24 hours earn.
    pub max: u32,
    /// Credits a new instance starts with: 30 per vCPU.
    pub initial: u32,
}

/// The GPUs of an instance type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// How many.
    pub amount: u32,
    /// Which, e.g. `NVIDIA A10`.
    pub model: &'static str,
    /// Memory of each in GB.
    pub memory_gb: u32,
}

/// `InstanceFamilyLevel` of `DescribeInstanceTypes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Shared vCPUs.
    EntryLevel,
    /// Dedicated vCPUs.
    EnterpriseLevel,
    /// Burstable, with CPU credits.
    CreditEntryLevel,
}

impl Level {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::EntryLevel => "EntryLevel",
            Level::EnterpriseLevel => "EnterpriseLevel",
            Level::CreditEntryLevel => "CreditEntryLevel",
        }
    }
}

/// `CpuArchitecture` of `DescribeInstanceTypes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64.
    X86,
    /// AArch64.
    Arm,
}

impl Architecture {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::X86 => "X86",
            Architecture::Arm => "ARM",
        }
    }
}

/// Where the figures of a type are from. See the crate's notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Today's documentation at help.aliyun.com.
    Documentation,
    /// The documentation as of July 2021.
    Documentation2021,
    /// The article's own name for a size; ECS has no such type.
    Article,
}

impl InstanceType {
    /// The family.
    pub fn family(&self) -> &'static Family {
        // Every row of the tables names a family of the list; a test holds it.
        family(self.family).unwrap_or(&families()[0])
    }

    /// Memory in GiB, as `MemorySize` of `DescribeInstanceTypes` has it.
    pub fn memory_gib(&self) -> f64 {
        self.memory_mib as f64 / 1024.0
    }

    /// `GPUSpec` of `DescribeInstanceTypes`; empty without GPUs.
    pub fn gpu_spec(&self) -> &'static str {
        self.gpu.map_or("", |gpu| gpu.model)
    }
}

struct Catalog {
    types: Vec<InstanceType>,
    by_id: HashMap<String, usize>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let types = tables::all();
    let by_id = types.iter().enumerate().map(|(at, one)| (one.id.clone(), at)).collect();
    Catalog { types, by_id }
});

/// All instance types, family by family, from small to large.
pub fn instance_types() -> &'static [InstanceType] {
    &CATALOG.types
}

/// The instance type with this id, such as `ecs.c7.large`.
pub fn instance_type(id: &str) -> Option<&'static InstanceType> {
    CATALOG.by_id.get(id).and_then(|&at| CATALOG.types.get(at))
}
