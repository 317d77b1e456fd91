//! Can this machine's KVM run a stock kernel?
//!
//! Some machines offer a `/dev/kvm` that only carries kernels made for it. The probe runs the
//! instructions any stock x86-64 kernel needs at ring 0 in a throwaway virtual machine. It runs in
//! a process of its own, since a KVM that fails may as well never return.

use crate::error::{Error, Result};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Stock guests run on this machine.
    Stock,
    /// There is a KVM, but a stock kernel would not run on it.
    Paravirtual(String),
    /// There is none, or not for this user.
    None(String),
}

impl Found {
    /// One line for people.
    pub(crate) fn say(&self) -> String {
        match self {
            Self::Stock => "KVM: stock guests run here".to_owned(),
            Self::Paravirtual(why) => format!("KVM: paravirtual, no stock guests here ({why})"),
            Self::None(why) => format!("KVM: none ({why})"),
        }
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let (kvm, why) = match self {
            Self::Stock => ("stock", ""),
            Self::Paravirtual(why) => ("paravirtual", why.as_str()),
            Self::None(why) => ("none", why.as_str()),
        };
        serde_json::json!({"kvm": kvm, "stock_guests": *self == Self::Stock, "why": why})
    }
}

/// How long the throwaway machine may take; it needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Probes in a child process.
pub(crate) fn probe() -> Result<Found> {
    if let Err(e) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Found::None(format!("/dev/kvm: {e}")));
    }
    let program = std::env::current_exe().map_err(Error::io("cannot find own executable"))?;
    let mut child = Command::new(program)
        .args(["lab", "probe", "--here"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("cannot start the probe"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(Error::io("cannot wait for the probe"))? {
            Some(_) => break,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Found::Paravirtual("a guest's instructions never end".to_owned()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let output = child.wait_with_output().map_err(Error::io("cannot read the probe's answer"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(match text.as_str() {
        "stock" => Found::Stock,
        "" => Found::Paravirtual("the probe died".to_owned()),
        _ => Found::Paravirtual(text),
    })
}

/// Probes in this process: `stock`, or why not.
pub(crate) fn here() -> String {
    match run_guest() {
        Ok(()) => "stock".to_owned(),
        Err(why) => why,
    }
}

// The guest. Each step reports on port 0x10 when it is done; exceptions report 0xff.
std::arch::global_asm!(
    ".pushsection .rodata.ecsctl_probe, \"a\"",
    ".globl ecsctl_probe_start",
    ".globl ecsctl_probe_breakpoint",
    ".globl ecsctl_probe_exception",
    ".globl ecsctl_probe_end",
    "ecsctl_probe_start:",
    "mov rsi, 0x20000",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "xor ecx, ecx",
    "lock cmpxchg16b xmmword ptr [rsi]",
    "mov al, 1",
    "out 0x10, al",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov rdi, 0x21000",
    "mov eax, 3",
    "xor edx, edx",
    "xrstor [rdi]",
    "mov al, 2",
    "out 0x10, al",
    "int3",
    "mov al, 4",
    "out 0x10, al",
    "hlt",
    "ecsctl_probe_breakpoint:",
    "mov al, 3",
    "out 0x10, al",
    "iretq",
    "ecsctl_probe_exception:",
    "mov al, 0xff",
    "out 0x10, al",
    "hlt",
    "ecsctl_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static ecsctl_probe_start: u8;
    static ecsctl_probe_breakpoint: u8;
    static ecsctl_probe_exception: u8;
    static ecsctl_probe_end: u8;
}

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PD: u64 = 0x6000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x3_0000;
const MEMORY: usize = 0x20_0000;

/// What each report of the guest proves; they come in this order.
const STEPS: [(u8, &str); 4] = [
    (1, "cmpxchg16b"),
    (2, "xsetbv and xrstor"),
    (3, "int3 to a handler"),
    (4, "iretq from the handler"),
];

fn run_guest() -> std::result::Result<(), String> {
    let step = |what: &str| {
        let what = what.to_owned();
        move |e: kvm_ioctls::Error| format!("{what}: {e}")
    };
    let kvm = Kvm::new().map_err(step("opening /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(step("creating a virtual machine"))?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|e| format!("memory for a virtual machine: {e}"))?;
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|e| format!("memory of a virtual machine: {e}"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host.expose_provenance() as u64,
    };
    // SAFETY: `memory` is mapped for MEMORY bytes and outlives the virtual machine of this function.
    unsafe { vm.set_user_memory_region(region) }.map_err(step("giving it memory"))?;
    lay_out(&memory).map_err(|e| format!("writing its memory: {e}"))?;

    let mut vcpu = vm.create_vcpu(0).map_err(step("creating a CPU"))?;
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(step("asking for CPU features"))?;
    vcpu.set_cpuid2(&cpuid).map_err(step("setting CPU features"))?;
    let mut special = vcpu.get_sregs().map_err(step("reading registers"))?;
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 8,
        type_: 11,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 16, type_: 3, db: 1, l: 0, ..code };
    special.cs = code;
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.gdt.base = GDT;
    special.gdt.limit = 23;
    special.idt.base = IDT;
    special.idt.limit = 32 * 16 - 1;
    special.cr3 = PML4;
    special.cr4 = (1 << 5) | (1 << 9) | (1 << 10) | (1 << 18); // PAE OSFXSR OSXMMEXCPT OSXSAVE
    special.cr0 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 31); // PE MP ET NE PG
    special.efer = (1 << 8) | (1 << 10); // LME LMA
    vcpu.set_sregs(&special).map_err(step("entering long mode"))?;
    let mut registers = vcpu.get_regs().map_err(step("reading registers"))?;
    (registers.rip, registers.rsp, registers.rflags) = (CODE, STACK, 2);
    vcpu.set_regs(&registers).map_err(step("setting registers"))?;

    for (number, name) in STEPS {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0x10, data)) if data == [number] => {}
            Ok(VcpuExit::IoOut(0x10, [0xff])) => return Err(format!("{name} raises an exception")),
            Ok(exit) => return Err(format!("{name} ends in {exit:?}")),
            Err(e) => return Err(format!("{name} fails: {e}")),
        }
    }
    Ok(())
}

/// The distance of a label from the start of the guest's code.
fn offset(label: *const u8) -> u64 {
    (label.addr() - (&raw const ecsctl_probe_start).addr()) as u64
}

fn lay_out(memory: &GuestMemoryMmap<()>) -> std::result::Result<(), vm_memory::GuestMemoryError> {
    let length = offset(&raw const ecsctl_probe_end) as usize;
    // SAFETY: both labels are in one section of this program, with the code between them.
    let code = unsafe { std::slice::from_raw_parts(&raw const ecsctl_probe_start, length) };
    memory.write_slice(code, GuestAddress(CODE))?;
    memory.write_obj(0x00af_9b00_0000_ffff_u64, GuestAddress(GDT + 8))?;
    memory.write_obj(0x00cf_9300_0000_ffff_u64, GuestAddress(GDT + 16))?;
    memory.write_obj(PDPT | 3, GuestAddress(PML4))?;
    memory.write_obj(PD | 3, GuestAddress(PDPT))?;
    memory.write_obj(0x83_u64, GuestAddress(PD))?; // the first 2 MiB as one page
    for vector in 0..32 {
        let handler = CODE
            + match vector {
                3 => offset(&raw const ecsctl_probe_breakpoint),
                _ => offset(&raw const ecsctl_probe_exception),
            };
        let low = (handler & 0xffff) | (8 << 16) | (0x8e00 << 32) | ((handler >> 16) << 48);
        memory.write_obj(low, GuestAddress(IDT + vector * 16))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_says_stock_or_why_not() {
        // Whatever the machine, the answer is one of the two and never a hang or a panic.
        if std::path::Path::new("/dev/kvm").exists() {
            let answer = here();
            assert!(!answer.is_empty());
        }
        assert_eq!(Found::Stock.say(), "KVM: stock guests run here");
        let none = Found::None("no such file".to_owned());
        assert!(none.say().contains("no such file"));
        assert_eq!(none.json()["stock_guests"], false);
        assert_eq!(Found::Stock.json()["stock_guests"], true);
    }
}
