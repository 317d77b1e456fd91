//! Keeps the kernel of an emulated host from patching itself while guests run.

use anyhow::{Context as _, Result};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// A virtual processor that never runs, while this lives. Its local APIC stays as it was made, and
/// switches of the kernel that come with that stay on: they would be patched into its code whenever
/// a guest starts, and QEMU 7.2 may go on with the old translation of code that one processor
/// patches while another runs it. docs/design.md, "The lab".
pub struct KeptPatched {
    _vcpu: VcpuFd,
    _vm: VmFd,
}

impl KeptPatched {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let vm = Kvm::new()
            .and_then(|kvm| kvm.create_vm())
            .context("make a virtual machine that keeps the kernel patched")?;
        vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        Ok(Self { _vcpu: vcpu, _vm: vm })
    }
}
