//! Instance families.

use super::{Architecture, Level};

/// What a host must have to run a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// KVM on x86-64: what a host of this cloud has.
    KvmX86,
    /// KVM on AArch64.
    Arm,
    /// GPUs that can be given to a guest.
    Gpu,
    /// A whole machine without a hypervisor.
    BareMetal,
}

impl Requirement {
    /// Why a host with KVM on x86-64 cannot run it and what to do; `None` if it can.
    pub fn missing_on_kvm_x86(self) -> Option<&'static str> {
        match self {
            Requirement::KvmX86 => None,
            Requirement::Arm => Some(
                "needs a host with an Arm processor, and this cloud has x86-64 hosts; choose the x86 \
                 type of the same size, e.g. g8i for g8y",
            ),
            Requirement::Gpu => Some(
                "needs a host with a GPU that can be passed to a guest; choose a type without GPU, \
                 e.g. of family g7",
            ),
            Requirement::BareMetal => Some(
                "is a whole machine without a hypervisor, which hosts of this cloud cannot give away; \
                 choose g7 for ebmg7 and c7 for ebmc7",
            ),
        }
    }
}

/// An instance family, such as `ecs.g7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// `ecs.g7`.
    pub id: &'static str,
    /// `ecs-7`: the digit of the family's name.
    pub generation: &'static str,
    /// The category in words, e.g. `General-purpose`.
    pub category: &'static str,
    /// The level of its types.
    pub level: Level,
    /// The instruction set.
    pub architecture: Architecture,
    /// The processor, in words (the family's page in the documentation).
    pub processor: &'static str,
    /// GiB per vCPU as the family's page rounds it; `None` where it varies by type.
    pub memory_ratio: Option<u32>,
    /// What a host must have.
    pub requires: Requirement,
}

const ICE_LAKE: &str = "Intel Xeon (Ice Lake)";
const SAPPHIRE_RAPIDS: &str = "Intel Xeon (Sapphire Rapids)";
const CASCADE_LAKE: &str = "Intel Xeon Platinum 8269 (Cascade Lake)";
const SKYLAKE: &str = "Intel Xeon Platinum 8163 (Skylake)";
const YITIAN: &str = "Yitian 710";
const XEON: &str = "Intel Xeon";

const GENERAL: &str = "General-purpose";
const COMPUTE: &str = "Compute-optimized";
const MEMORY: &str = "Memory-optimized";
const GPU: &str = "GPU-accelerated";
const BURSTABLE: &str = "Burstable";
const BARE_METAL: &str = "ECS Bare Metal";

const fn dedicated(
    id: &'static str,
    generation: &'static str,
    category: &'static str,
    processor: &'static str,
    memory_ratio: u32,
) -> Family {
    Family {
        id,
        generation,
        category,
        level: Level::EnterpriseLevel,
        architecture: Architecture::X86,
        processor,
        memory_ratio: Some(memory_ratio),
        requires: Requirement::KvmX86,
    }
}

const fn arm(id: &'static str, category: &'static str, memory_ratio: u32) -> Family {
    Family {
        architecture: Architecture::Arm,
        requires: Requirement::Arm,
        ..dedicated(id, "ecs-8", category, YITIAN, memory_ratio)
    }
}

const fn gpu(id: &'static str, generation: &'static str, processor: &'static str) -> Family {
    Family {
        memory_ratio: None,
        requires: Requirement::Gpu,
        ..dedicated(id, generation, GPU, processor, 0)
    }
}

const fn shared(
    id: &'static str,
    generation: &'static str,
    category: &'static str,
    level: Level,
) -> Family {
    Family { level, memory_ratio: None, ..dedicated(id, generation, category, XEON, 0) }
}

const fn bare_metal(id: &'static str, memory_ratio: u32) -> Family {
    Family {
        requires: Requirement::BareMetal,
        ..dedicated(id, "ecs-7", BARE_METAL, ICE_LAKE, memory_ratio)
    }
}

static FAMILIES: [Family; 21] = [
    dedicated("ecs.g7", "ecs-7", GENERAL, ICE_LAKE, 4),
    dedicated("ecs.g8i", "ecs-8", GENERAL, SAPPHIRE_RAPIDS, 4),
    arm("ecs.g8y", GENERAL, 4),
    dedicated("ecs.c7", "ecs-7", COMPUTE, ICE_LAKE, 2),
    dedicated("ecs.c8i", "ecs-8", COMPUTE, SAPPHIRE_RAPIDS, 2),
    arm("ecs.c8y", COMPUTE, 2),
    dedicated("ecs.r7", "ecs-7", MEMORY, ICE_LAKE, 8),
    dedicated("ecs.r8i", "ecs-8", MEMORY, SAPPHIRE_RAPIDS, 8),
    arm("ecs.r8y", MEMORY, 8),
    dedicated("ecs.g6", "ecs-6", GENERAL, CASCADE_LAKE, 4),
    dedicated("ecs.c6", "ecs-6", COMPUTE, CASCADE_LAKE, 2),
    dedicated("ecs.r6", "ecs-6", MEMORY, CASCADE_LAKE, 8),
    gpu("ecs.gn7i", "ecs-7", ICE_LAKE),
    gpu("ecs.gn7", "ecs-7", CASCADE_LAKE),
    gpu("ecs.gn6i", "ecs-6", SKYLAKE),
    gpu("ecs.gn6v", "ecs-6", SKYLAKE),
    shared("ecs.t6", "ecs-6", BURSTABLE, Level::CreditEntryLevel),
    shared("ecs.t5", "ecs-5", BURSTABLE, Level::CreditEntryLevel),
    shared("ecs.xn4", "ecs-4", "Shared", Level::EntryLevel),
    bare_metal("ecs.ebmg7", 4),
    bare_metal("ecs.ebmc7", 2),
];

/// All instance families.
pub fn families() -> &'static [Family] {
    &FAMILIES
}

/// The family with this id, such as `ecs.g7`.
pub fn family(id: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.id == id)
}
