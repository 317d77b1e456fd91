//! What the guest learns from CPUID: the host's features as KVM supports them, with a topology of
//! one package of single-threaded cores, one per vCPU.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const LEAF1_EBX_APIC_ID_SHIFT: u32 = 24;
const LEAF1_EBX_LOGICAL_SHIFT: u32 = 16;
const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const EXTENDED_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXTENDED_ECX_SVM: u32 = 1 << 2;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The number of vCPUs and what else of CPUID is the machine's choice.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// vCPUs, 1 to 254.
    pub vcpus: u32,
    /// Whether KVM emulates the TSC deadline timer, which it does not say in CPUID itself.
    pub tsc_deadline: bool,
}

impl Topology {
    /// Bits of an APIC id that number the cores of the package.
    fn core_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }
}

/// CPUID of vCPU `id`, from what KVM supports.
///
/// # Errors
/// If there are more leaves than KVM can take.
pub fn for_vcpu(supported: &CpuId, id: u32, topology: Topology) -> std::io::Result<CpuId> {
    let mut entries = Vec::with_capacity(supported.as_slice().len() + 8);
    for entry in supported.as_slice() {
        // Topology leaves are made from nothing below.
        if !matches!(entry.function, 0xb | 0x1f) {
            entries.push(*entry);
        }
    }
    let extended_topology = |entry: &kvm_cpuid_entry2| matches!(entry.function, 0xb | 0x1f);
    for leaf in [0xb, 0x1f] {
        if supported.as_slice().iter().any(|e| extended_topology(e) && e.function == leaf) {
            push_levels(&mut entries, leaf, id, topology);
        }
    }
    for entry in &mut entries {
        adapt(entry, id, topology);
    }
    CpuId::from_entries(&entries).map_err(|error| std::io::Error::other(format!("{error:?}")))
}

fn push_levels(entries: &mut Vec<kvm_cpuid_entry2>, leaf: u32, id: u32, topology: Topology) {
    let levels = [(LEVEL_SMT, 0, 1), (LEVEL_CORE, topology.core_bits(), topology.vcpus), (0, 0, 0)];
    for (index, (level, shift, processors)) in (0u32..).zip(levels) {
        entries.push(kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: (level << 8) | index,
            edx: id,
            ..Default::default()
        });
    }
}

fn adapt(entry: &mut kvm_cpuid_entry2, id: u32, topology: Topology) {
    let vcpus = topology.vcpus;
    match entry.function {
        1 => {
            let logical = vcpus.next_power_of_two().min(255);
            entry.ebx &= 0xffff;
            entry.ebx |= (id << LEAF1_EBX_APIC_ID_SHIFT) | (logical << LEAF1_EBX_LOGICAL_SHIFT);
            entry.ecx |= LEAF1_ECX_HYPERVISOR;
            // Instances do not nest: emulating virtualization is a large part of KVM that a
            // hostile guest need not reach, and ECS does not offer it.
            entry.ecx &= !LEAF1_ECX_VMX;
            if topology.tsc_deadline {
                entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
            set(&mut entry.edx, LEAF1_EDX_HTT, vcpus > 1);
        }
        // Caches: levels 1 and 2 belong to a core, level 3 to the package.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { (1 << topology.core_bits()) - 1 } else { 0 };
            entry.eax &= 0x3fff;
            entry.eax |= sharing << 14;
            if entry.function == 4 {
                entry.eax |= ((1u32 << topology.core_bits()) - 1).min(63) << 26;
            }
        }
        0x8000_0001 => {
            if is_amd(entry) {
                set(&mut entry.ecx, EXTENDED_ECX_CMP_LEGACY, vcpus > 1);
            }
            entry.ecx &= !EXTENDED_ECX_SVM;
        }
        0x8000_0008 => {
            entry.ecx =
                if topology.vcpus > 1 { (topology.core_bits() << 12) | (vcpus - 1) } else { 0 };
        }
        // What SVM can do, for guests that may not have it.
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_001e => {
            entry.eax = id;
            // One thread per core, so no bits for threads; one node.
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// CmpLegacy is reserved on Intel, where KVM never reports the SVM bit beside it.
fn is_amd(entry: &kvm_cpuid_entry2) -> bool {
    const SSE4A: u32 = 1 << 6;
    entry.ecx & (EXTENDED_ECX_CMP_LEGACY | SSE4A) != 0
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

/// Physical address bits of the guest's CPU.
pub fn physical_bits(supported: &CpuId) -> u8 {
    supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008)
        .map_or(36, |entry| (entry.eax & 0xff) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .unwrap()
    }

    #[test]
    fn every_vcpu_finds_itself_in_every_topology_leaf() {
        let supported = CpuId::from_entries(&[
            entry(1, 0),
            entry(4, 0x3 << 5 | 1),
            entry(0xb, 0),
            entry(0x8000_0008, 48),
            entry(0x8000_001e, 0),
        ])
        .unwrap();
        let topology = Topology { vcpus: 6, tsc_deadline: true };
        for id in 0..6 {
            let cpuid = for_vcpu(&supported, id, topology).unwrap();
            let leaf1 = find(&cpuid, 1, 0);
            assert_eq!(leaf1.ebx >> 24, id);
            assert_eq!(leaf1.ebx >> 16 & 0xff, 8);
            assert_ne!(leaf1.edx & LEAF1_EDX_HTT, 0);
            assert_ne!(leaf1.ecx & LEAF1_ECX_TSC_DEADLINE, 0);
            let smt = find(&cpuid, 0xb, 0);
            assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, id));
            let core = find(&cpuid, 0xb, 1);
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, id));
            assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 3 << 12 | 5);
            assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, id);
            assert_eq!(find(&cpuid, 4, 0).eax >> 14 & 0xfff, 7);
            assert!(!cpuid.as_slice().iter().any(|entry| entry.function == 0x1f));
        }
        assert_eq!(physical_bits(&supported), 48);
    }

    #[test]
    fn one_vcpu_is_not_hyperthreaded() {
        let supported = CpuId::from_entries(&[kvm_cpuid_entry2 {
            function: 1,
            edx: LEAF1_EDX_HTT,
            ..Default::default()
        }])
        .unwrap();
        let cpuid = for_vcpu(&supported, 0, Topology { vcpus: 1, tsc_deadline: false }).unwrap();
        assert_eq!(find(&cpuid, 1, 0).edx & LEAF1_EDX_HTT, 0);
        assert_eq!(find(&cpuid, 1, 0).ecx & LEAF1_ECX_TSC_DEADLINE, 0);
    }

    #[test]
    fn a_guest_has_no_virtualization_of_its_own() {
        let supported = CpuId::from_entries(&[
            kvm_cpuid_entry2 { function: 1, ecx: LEAF1_ECX_VMX, ..Default::default() },
            kvm_cpuid_entry2 { function: 0x8000_0001, ecx: EXTENDED_ECX_SVM, ..Default::default() },
            entry(0x8000_000a, 1),
        ])
        .unwrap();
        let cpuid = for_vcpu(&supported, 0, Topology { vcpus: 1, tsc_deadline: false }).unwrap();
        assert_eq!(find(&cpuid, 1, 0).ecx & LEAF1_ECX_VMX, 0);
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx & EXTENDED_ECX_SVM, 0);
        assert_eq!(find(&cpuid, 0x8000_000a, 0).eax, 0);
    }
}
