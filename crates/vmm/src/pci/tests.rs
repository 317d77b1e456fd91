use super::{
    BarAllocator, BarSpace, BarSpec, ConfigSpace, FakeHypervisor, Identity, MsiMessage, MsiRouter,
    MsixTable, PciDevice, PciError, PciRoot,
};
use crate::{bus::Bus, layout::PciWindows};
use std::sync::{Arc, Mutex};

const MIB: u64 = 1 << 20;

struct Machine {
    mmio: Arc<Bus>,
    pio: Arc<Bus>,
    windows: PciWindows,
    root: Arc<PciRoot>,
}

fn machine() -> Machine {
    let (mmio, pio) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
    let windows = PciWindows::new(64 * MIB, 40);
    let hypervisor = Arc::new(FakeHypervisor::default());
    let root = PciRoot::with_hypervisor(hypervisor, &mmio, &pio, &windows).unwrap();
    Machine { mmio, pio, windows, root }
}

/// Remembers where its BARs lie and what was written to them.
#[derive(Default)]
struct Probe {
    placed: Mutex<Vec<Option<u64>>>,
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl PciDevice for Probe {
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(bar << 4 | offset as u8);
    }

    fn write_bar(&self, _bar: u8, offset: u64, data: &[u8]) {
        self.writes.lock().unwrap().push((offset, data.to_vec()));
    }

    fn place_bar(&self, _bar: u8, to: Option<u64>) -> Result<(), PciError> {
        self.placed.lock().unwrap().push(to);
        Ok(())
    }
}

fn identity() -> Identity {
    Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    }
}

const BAR: BarSpec = BarSpec { index: 0, size: 0x1000, space: BarSpace::Memory };

impl Machine {
    fn attach(&self, slot: u32) -> Result<(Arc<Probe>, u64), PciError> {
        let probe = Arc::new(Probe::default());
        let config = ConfigSpace::new(identity());
        let info = self.root.attach(slot, config, &[BAR], probe.clone())?;
        Ok((probe, self.windows.ecam.start + (u64::from(info.slot) << 15)))
    }

    fn read(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(address, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, address: u64, value: u32) {
        self.mmio.write(address, &value.to_le_bytes());
    }

    fn port_read<const N: usize>(&self, address: u32, data_port: u64) -> [u8; N] {
        self.pio.write(0xcf8, &address.to_le_bytes());
        let mut data = [0; N];
        self.pio.read(data_port, &mut data);
        data
    }
}

#[test]
fn ports_and_ecam_show_the_same_space() {
    let machine = machine();
    machine.attach(5).unwrap();
    for register in (0..256).step_by(4) {
        let by_port = machine.port_read::<4>(0x8000_0000 | 5 << 11 | register, 0xcfc);
        let ecam = machine.windows.ecam.start + (5 << 15) + u64::from(register);
        assert_eq!(u32::from_le_bytes(by_port), machine.read(ecam), "{register:#x}");
    }
    assert_eq!(machine.port_read::<2>(0x8000_0000 | 5 << 11, 0xcfe), [0x42, 0x10]);
    assert_eq!(machine.port_read::<1>(0x8000_0000 | 5 << 11 | 8, 0xcfc), [1]);
    let mut address = [0; 4];
    machine.pio.read(0xcf8, &mut address);
    assert_eq!(u32::from_le_bytes(address), 0x8000_0000 | 5 << 11 | 8);
    // A write through the ports shows in ECAM.
    machine.port_read::<4>(0x8000_0000 | 5 << 11 | 0x3c, 0xcfc);
    machine.pio.write(0xcfc, &[9]);
    assert_eq!(machine.read(machine.windows.ecam.start + (5 << 15) + 0x3c) & 0xff, 9);
}

#[test]
fn what_is_not_there_reads_as_ones() {
    let machine = machine();
    let ecam = machine.windows.ecam.start;
    assert_eq!(machine.read(ecam), 0x0008_1b36, "the host bridge");
    assert_eq!(machine.read(ecam + 8) >> 8, 0x06_0000);
    assert_eq!(machine.read(ecam + (1 << 15)), u32::MAX, "slot");
    assert_eq!(machine.read(ecam + (1 << 12)), u32::MAX, "function");
    assert_eq!(machine.read(ecam + (1 << 20)), u32::MAX, "bus");
    assert_eq!(machine.port_read::<4>(0, 0xcfc), [0xff; 4], "not enabled");
    machine.write(ecam + (1 << 15), 1);
    // Across the end of a function, and wider than any register.
    let mut wide = [0; 8];
    machine.mmio.read(ecam + 0xffe, &mut wide);
    assert_eq!(wide, [0; 8]);
}

#[test]
fn slots_are_given_in_order_and_once() {
    let machine = machine();
    machine.attach(1).unwrap();
    assert!(matches!(machine.attach(1), Err(PciError::Slot { slot: 1 })));
    assert!(matches!(machine.attach(32), Err(PciError::Slot { slot: 32 })));
    let (_, second) = machine.attach(0).unwrap();
    assert_eq!(second, machine.windows.ecam.start + (2 << 15));
    for _ in 3..32 {
        machine.attach(0).unwrap();
    }
    assert!(matches!(machine.attach(0), Err(PciError::NoSlot)));
    assert!(machine.root.detach(super::SlotInfo { slot: 7 }));
    assert!(!machine.root.detach(super::SlotInfo { slot: 7 }));
    machine.attach(0).unwrap();
}

#[test]
fn a_guest_sizes_a_bar_without_moving_it() {
    let machine = machine();
    let (probe, config) = machine.attach(0).unwrap();
    let address = machine.read(config + 0x10);
    assert!(machine.windows.mmio32.contains(&u64::from(address)));
    machine.write(config + 4, 0);
    machine.write(config + 0x10, u32::MAX);
    assert_eq!(machine.read(config + 0x10), 0xffff_f000);
    machine.write(config + 0x10, address);
    machine.write(config + 4, 2);
    assert_eq!(*probe.placed.lock().unwrap(), vec![Some(u64::from(address))]);
    assert_eq!(machine.read(u64::from(address) + 3), 0x0303_0303);
    machine.write(config + 0x14, u32::MAX);
    assert_eq!(machine.read(config + 0x14), 0, "a BAR the function has not");
}

#[test]
fn a_guest_may_move_a_bar_but_only_inside_the_windows() {
    let machine = machine();
    let (probe, config) = machine.attach(0).unwrap();
    let (_, other) = machine.attach(0).unwrap();
    let old = u64::from(machine.read(config + 0x10));
    let taken = machine.read(other + 0x10);
    let new = machine.windows.mmio32.start + 16 * MIB;
    machine.write(config + 0x10, new as u32);
    assert_eq!(machine.read(new + 1), 0x0101_0101);
    assert_eq!(machine.read(old), u32::MAX);
    for bad in [0, 0x10_0000, 0xfee0_0000, machine.windows.ecam.start as u32, taken] {
        machine.write(config + 0x10, bad);
        assert_eq!(probe.placed.lock().unwrap().last(), Some(&None), "{bad:#x}");
        assert!(!machine.mmio.read(new, &mut [0]));
    }
    assert_eq!(machine.read(u64::from(taken)), 0, "the other device is untouched");
    machine.write(config + 0x10, old as u32);
    assert_eq!(machine.read(old + 2), 0x0202_0202);
}

#[test]
fn read_only_registers_stay() {
    let machine = machine();
    let (_, config) = machine.attach(0).unwrap();
    let before: Vec<_> = (0..4096).step_by(4).map(|at| machine.read(config + at)).collect();
    for at in (0..4096).step_by(4).filter(|&at| at != 4 && at != 0x10) {
        machine.write(config + at, u32::MAX);
    }
    let after: Vec<_> = (0..4096).step_by(4).map(|at| machine.read(config + at)).collect();
    let changed: Vec<_> =
        (0..1024).filter(|&at| before[at] != after[at]).map(|at| 4 * at).collect();
    assert_eq!(changed, vec![0x3c], "only the interrupt line is scratch");
}

#[test]
fn bars_are_aligned_disjoint_and_run_out() {
    let mut bars = BarAllocator::new(0x1000..0x8000);
    assert_eq!(bars.allocate(0x1000).unwrap(), 0x1000);
    assert_eq!(bars.allocate(0x4000).unwrap(), 0x4000);
    assert_eq!(bars.allocate(0x2000).unwrap(), 0x2000);
    assert!(matches!(bars.allocate(0x10), Err(PciError::NoSpace { .. })));
    bars.release(0x2000);
    assert_eq!(bars.allocate(0x1000).unwrap(), 0x2000);
    assert!(!bars.claim(1 << 32, 0x1000));
    assert!(!bars.claim(0x3800, 0x1000), "not aligned");
    assert!(!bars.claim(!0xfff, 0x1000));
    assert!(bars.claim(0x3000, 0x1000));
}

#[test]
fn impossible_bars_are_refused() {
    let mut config = ConfigSpace::new(identity());
    let bar = |index, size| BarSpec { index, size, space: BarSpace::Memory };
    for bad in [bar(6, 0x1000), bar(0, 0x1800), bar(0, 8), bar(0, 1 << 32)] {
        assert!(config.add_bar(bad, 0).is_err(), "{bad:?}");
    }
    config.add_bar(bar(2, 0x1000), 0xc000_0000).unwrap();
    assert!(config.add_bar(bar(2, 0x1000), 0).is_err(), "there is one");
    assert_eq!(config.bar_address(config.bars()[0]), 0xc000_0000);
    config.write(0x18, &[0xff; 8]);
    assert_eq!((config.u32(0x18), config.u32(0x1c)), (0xffff_f000, 0));
    // Not a power of two, too few, and more than PCI lets a BAR of ports have.
    for size in [12, 2, 512] {
        let bad = BarSpec { index: 3, size, space: BarSpace::Ports };
        assert!(config.add_bar(bad, 0xc000).is_err(), "{size} ports");
    }
    let ports = BarSpec { index: 3, size: 16, space: BarSpace::Ports };
    config.add_bar(ports, 0xc010).unwrap();
    assert_eq!((config.u32(0x1c), config.bar_address(ports)), (0xc011, 0xc010));
}

fn table(
    hypervisor: &Arc<FakeHypervisor>,
    vectors: usize,
) -> (Arc<MsiRouter>, MsixTable, Vec<Arc<super::MsiVector>>) {
    let router = MsiRouter::new(hypervisor.clone()).unwrap();
    let vectors: Vec<_> = (0..vectors).map(|_| Arc::new(router.vector().unwrap())).collect();
    (router, MsixTable::new(vectors.clone()), vectors)
}

fn entry(address: u64, data: u32, masked: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&data.to_le_bytes());
    bytes[12] = u8::from(masked);
    bytes
}

#[test]
fn the_legacy_pins_stay_routed() {
    let hypervisor = Arc::new(FakeHypervisor::default());
    let router = MsiRouter::new(hypervisor.clone()).unwrap();
    let pins = |hypervisor: &FakeHypervisor, gsi| {
        hypervisor.state().routes.iter().filter(|route| route.gsi == gsi).count()
    };
    assert_eq!(pins(&hypervisor, 4), 2, "PIC and I/O APIC");
    assert_eq!(pins(&hypervisor, 23), 1, "I/O APIC");
    let vector = router.vector().unwrap();
    assert_eq!(vector.gsi(), 24);
    vector.connect(MsiMessage { address: 0xfee0_0000, data: 1 }).unwrap();
    assert_eq!(hypervisor.state().routes.len(), 16 + 24 + 1);
    drop(vector);
    assert!(hypervisor.state().interrupts.is_empty());
    assert_eq!(router.vector().unwrap().gsi(), 24, "a freed route is used again");
}

#[test]
fn a_masked_vector_is_pending_until_it_is_unmasked() {
    let hypervisor = Arc::new(FakeHypervisor::default());
    let (_router, mut table, vectors) = table(&hypervisor, 3);
    let pending = |table: &MsixTable| {
        let mut bits = [0; 8];
        table.read_pending(0, &mut bits);
        u64::from_le_bytes(bits)
    };
    table.write(16, &entry(0xfee0_1000, 0x41, false)).unwrap();
    assert!(hypervisor.state().interrupts.is_empty(), "MSI-X is off");
    table.set_control(0x8000).unwrap();
    assert_eq!(hypervisor.message(vectors[1].gsi()), Some((0xfee0_1000, 0x41)));
    assert_eq!(hypervisor.state().interrupts.len(), 1);
    vectors[1].signal();
    assert_eq!(pending(&table), 0, "delivered at once");
    assert_eq!(hypervisor.state().interrupts[&vectors[1].gsi()].read().unwrap(), 1);

    table.write(16 + 12, &1u32.to_le_bytes()).unwrap();
    assert!(hypervisor.state().interrupts.is_empty());
    vectors[1].signal();
    vectors[1].signal();
    vectors[2].signal();
    assert_eq!(pending(&table), 0b110);
    assert_eq!(pending(&table), 0b110, "reading does not clear");
    table.write(16 + 12, &0u32.to_le_bytes()).unwrap();
    assert_eq!(pending(&table), 0b100);
    assert_eq!(hypervisor.state().interrupts[&vectors[1].gsi()].read().unwrap(), 1);

    table.set_control(0xc000).unwrap();
    assert!(hypervisor.state().interrupts.is_empty(), "the whole function is masked");
    vectors[1].signal();
    assert_eq!(pending(&table), 0b110);
    table.set_control(0x8000).unwrap();
    assert_eq!(hypervisor.state().interrupts[&vectors[1].gsi()].read().unwrap(), 1);
    table.set_control(0).unwrap();
    assert!(hypervisor.state().interrupts.is_empty());
}

#[test]
fn the_table_takes_any_access() {
    let hypervisor = Arc::new(FakeHypervisor::default());
    let (_router, mut table, vectors) = table(&hypervisor, 2);
    table.set_control(0x8000).unwrap();
    table.write(0, &0xfee0_2000u64.to_le_bytes()).unwrap();
    table.write(8, &7u32.to_le_bytes()).unwrap();
    table.write(12, &0u32.to_le_bytes()).unwrap();
    assert_eq!(hypervisor.message(vectors[0].gsi()), Some((0xfee0_2000, 7)));
    // Another message while unmasked.
    table.write(8, &8u32.to_le_bytes()).unwrap();
    assert_eq!(hypervisor.message(vectors[0].gsi()), Some((0xfee0_2000, 8)));
    let mut data = [0xee; 8];
    table.read(8, &mut data);
    assert_eq!(data, [8, 0, 0, 0, 0, 0, 0, 0]);
    table.read(28, &mut data);
    assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0], "beyond the end are zeroes");
    table.read(u64::MAX, &mut data);
    table.write(30, &[1; 8]).unwrap();
    table.write(u64::MAX, &[1; 8]).unwrap();
    assert_eq!(table.capability(0, 0x4000, 0x6000)[..2], [1, 0], "two vectors");
}
