//! Register state a vCPU starts with.

use crate::{boot::Entry, layout, memory::GuestMemory};
use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use std::io;
use vm_memory::{Bytes, GuestAddress};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_EXTINT: u32 = 0b111 << 8;

/// Sets what every vCPU has at reset: FPU, MSRs firmware would set, local APIC pins.
///
/// # Errors
/// What KVM refuses.
pub fn reset(vcpu: &VcpuFd) -> io::Result<()> {
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() })?;
    for (index, data) in [
        (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLE_WRITE_BACK),
    ] {
        // One at a time: a CPU without one of them still gets the others.
        let msr = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        vcpu.set_msrs(&msr)?;
    }
    let mut lapic = vcpu.get_lapic()?;
    set_delivery(&mut lapic, LAPIC_LVT_LINT0, DELIVERY_EXTINT);
    set_delivery(&mut lapic, LAPIC_LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic)?;
    Ok(())
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, delivery: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    for (byte, value) in bytes.iter_mut().zip(delivery.to_le_bytes()) {
        *byte = value.cast_signed();
    }
}

/// Makes the first vCPU start at the kernel's entry point, as its boot protocol asks.
///
/// # Errors
/// What KVM refuses, and guest memory too small for the tables.
pub fn enter(vcpu: &VcpuFd, memory: &GuestMemory, entry: Entry) -> io::Result<()> {
    let mut special = vcpu.get_sregs()?;
    let (code, limit_is_long) = match entry {
        Entry::Linux64 { .. } => (segment(0x10, 0xb, true), true),
        Entry::Pvh { .. } => (segment(0x10, 0xb, false), false),
    };
    let data = segment(0x18, 0x3, false);
    // The task register must hold a busy TSS or entry fails on Intel.
    let task = kvm_segment {
        base: 0,
        limit: 0x67,
        selector: 0x20,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    let table = [0, 0, descriptor(&code), descriptor(&data), descriptor(&task), 0];
    for (address, value) in (layout::GDT..).step_by(8).zip(table).take(4) {
        memory.write_obj(value, GuestAddress(address)).map_err(io::Error::other)?;
    }
    special.gdt.base = layout::GDT;
    special.gdt.limit = 4 * 8 - 1;
    special.idt.base = layout::IDT;
    special.idt.limit = 7;
    special.cs = code;
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.tr = task;
    if limit_is_long {
        identity_map(memory)?;
        special.cr3 = layout::PML4;
        special.cr4 = CR4_PAE;
        special.cr0 = CR0_PE | CR0_ET | CR0_PG;
        special.efer = EFER_LME | EFER_LMA;
    } else {
        special.cr4 = 0;
        special.cr0 = CR0_PE | CR0_ET;
        special.efer = 0;
    }
    vcpu.set_sregs(&special)?;
    let mut registers = kvm_regs { rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry {
        Entry::Linux64 { rip } => {
            registers.rip = rip;
            registers.rsi = layout::ZERO_PAGE;
            registers.rsp = layout::BOOT_STACK;
            registers.rbp = layout::BOOT_STACK;
        }
        Entry::Pvh { eip } => {
            registers.rip = u64::from(eip);
            registers.rbx = layout::PVH_INFO;
        }
    }
    vcpu.set_regs(&registers)?;
    Ok(())
}

/// Maps the first 4 GiB to themselves with 2 MiB pages.
fn identity_map(memory: &GuestMemory) -> io::Result<()> {
    let put = |address: u64, value: u64| {
        memory.write_obj(value, GuestAddress(address)).map_err(io::Error::other)
    };
    put(layout::PML4, layout::PDPT | PAGE_PRESENT_WRITABLE)?;
    for gib in 0..4 {
        let directory = layout::PAGE_DIRECTORIES + gib * 0x1000;
        put(layout::PDPT + gib * 8, directory | PAGE_PRESENT_WRITABLE)?;
        for page in 0..512 {
            let physical = (gib << 30) | (page << 21);
            put(directory + page * 8, physical | PAGE_PRESENT_WRITABLE | PAGE_LARGE)?;
        }
    }
    Ok(())
}

/// A flat segment of 4 GiB.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The segment as an entry of the descriptor table.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 { segment.limit >> 12 } else { segment.limit };
    let (limit, base) = (u64::from(limit), segment.base);
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_boot_protocol() {
        assert_eq!(descriptor(&segment(0x10, 0xb, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(0x10, 0xb, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(0x18, 0x3, false)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn the_identity_map_covers_four_gib() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        identity_map(&memory).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let walk = |address: u64| {
            let pdpt = read(layout::PML4) & !0xfff;
            let directory = read(pdpt + (address >> 30) * 8) & !0xfff;
            read(directory + (address >> 21 & 511) * 8)
        };
        for address in [0, 2 << 20, 3 << 30, (4 << 30) - (2 << 20)] {
            assert_eq!(walk(address) & !0xfff, address);
            assert_eq!(walk(address) & 0xfff, 0x83);
        }
    }
}
