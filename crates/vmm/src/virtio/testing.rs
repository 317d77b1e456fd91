//! A driver for the devices under test: a bus, guest memory, and the driver's half of the queues.

use super::{device::VirtioDevice, transport};
use crate::{
    bus::Bus,
    layout::PciWindows,
    memory::GuestMemory,
    pci::{FakeHypervisor, PciRoot},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: one region from 0.
pub(crate) const MEMORY: usize = 4 << 20;
/// Size of a test queue.
pub(crate) const SIZE: u16 = 16;
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// A machine with nothing but a PCI bus.
pub(crate) struct Host {
    pub(crate) hypervisor: Arc<FakeHypervisor>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) pio: Arc<Bus>,
    pub(crate) windows: PciWindows,
    pub(crate) root: Arc<PciRoot>,
    pub(crate) memory: GuestMemory,
}

impl Host {
    pub(crate) fn new() -> Self {
        let hypervisor = Arc::new(FakeHypervisor::default());
        let (mmio, pio) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
        let windows = PciWindows::new(MEMORY as u64, 40);
        let root = PciRoot::with_hypervisor(hypervisor.clone(), &mmio, &pio, &windows).unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Self { hypervisor, mmio, pio, windows, root, memory }
    }

    /// The same machine once more.
    pub(crate) fn share(&self) -> Self {
        Self {
            hypervisor: Arc::clone(&self.hypervisor),
            mmio: Arc::clone(&self.mmio),
            pio: Arc::clone(&self.pio),
            windows: self.windows.clone(),
            root: Arc::clone(&self.root),
            memory: self.memory.clone(),
        }
    }

    pub(crate) fn attach(self, device: Box<dyn VirtioDevice>) -> Driver {
        let (_function, slot) = transport::attach(&self.root, &self.memory, 0, device).unwrap();
        let config = self.windows.ecam.start + (u64::from(slot.slot) << 15);
        let mut bar = [0; 4];
        self.mmio.read(config + 0x10, &mut bar);
        let bar = u64::from(u32::from_le_bytes(bar) & !0xf);
        Driver { host: self, config, bar }
    }
}

/// A driver of one device.
pub(crate) struct Driver {
    pub(crate) host: Host,
    pub(crate) config: u64,
    pub(crate) bar: u64,
}

impl Driver {
    /// What a guest's kernel does with a slot that was filled, as far as it is the same for every
    /// device: an address, its vectors, and all features but those a test does without.
    pub(crate) fn of_plugged(host: Host, slot: u8, vectors: u64, without: u64) -> Self {
        let bar = host.windows.mmio32.start + 0x10_0000;
        let config = host.windows.ecam.start + (u64::from(slot) << 15);
        let driver = Self { host, config, bar };
        assert_eq!(driver.config_read::<4>(0x10), [0; 4], "no address yet");
        driver.config_write(0x10, &(bar as u32).to_le_bytes());
        driver.config_write(4, &[6, 0]);
        let msix = driver.capability(0x11)[0];
        for vector in 0..vectors {
            let entry = driver.bar + 0x4000 + 16 * vector;
            for (at, value) in [(0, 0xfee0_0000u32), (8, 0x40 + vector as u32), (12, 0)] {
                driver.host.mmio.write(entry + at, &value.to_le_bytes());
            }
        }
        driver.config_write(msix + 2, &[0, 0x80]);
        driver.negotiate(driver.offered() & !without);
        driver.write16(0x10, 0);
        driver
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.host.mmio.read(self.bar + offset, &mut data);
        data
    }

    pub(crate) fn read8(&self, offset: u64) -> u8 {
        self.read::<1>(offset)[0]
    }

    pub(crate) fn read16(&self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    pub(crate) fn read32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        self.host.mmio.write(self.bar + offset, data);
    }

    pub(crate) fn write8(&self, offset: u64, value: u8) {
        self.write(offset, &[value]);
    }

    pub(crate) fn write16(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn write32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn config_read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.host.mmio.read(self.config + offset, &mut data);
        data
    }

    pub(crate) fn config_write(&self, offset: u64, data: &[u8]) {
        self.host.mmio.write(self.config + offset, data);
    }

    pub(crate) fn capability(&self, id: u8) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = u64::from(self.config_read::<1>(0x34)[0]);
        while at != 0 {
            let [kind, next] = self.config_read::<2>(at);
            if kind == id {
                found.push(at);
            }
            at = u64::from(next);
        }
        found
    }

    pub(crate) fn status(&self) -> u8 {
        self.read8(0x14)
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            self.write32(0x00, select);
            u64::from(self.read32(0x04))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        for select in 0..2 {
            self.write32(0x08, select);
            self.write32(0x0c, (features >> (32 * select)) as u32);
        }
    }

    /// Reset, acknowledge, agree.
    pub(crate) fn negotiate(&self, features: u64) {
        self.write8(0x14, 0);
        self.write8(0x14, 1);
        self.write8(0x14, 3);
        self.accept(features);
        self.write8(0x14, 11);
        assert_eq!(self.status(), 11, "features refused");
    }

    /// Tells the device where `queue` is.
    pub(crate) fn set_up(&self, index: u16, queue: &DriverQueue) {
        self.write16(0x16, index);
        self.write16(0x18, SIZE);
        self.write32(0x20, queue.desc as u32);
        self.write32(0x24, 0);
        self.write32(0x28, queue.avail as u32);
        self.write32(0x2c, 0);
        self.write32(0x30, queue.used as u32);
        self.write32(0x34, 0);
        self.write16(0x1c, 1);
    }

    pub(crate) fn driver_ok(&self) {
        self.write8(0x14, 15);
    }

    /// Rings as KVM would.
    pub(crate) fn ring(&self, queue: u16) {
        let address = self.bar + 0x3000 + 4 * u64::from(queue);
        let state = self.host.hypervisor.state();
        state.doorbells.get(&address).expect("no doorbell there").write(1).unwrap();
    }
}

/// The driver's half of a queue.
pub(crate) struct DriverQueue {
    memory: GuestMemory,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    next_desc: u16,
    next_avail: u16,
    next_used: u16,
}

impl DriverQueue {
    pub(crate) fn new(memory: &GuestMemory, base: u64) -> Self {
        memory.write_slice(&[0; 0x3000], GuestAddress(base)).unwrap();
        Self {
            memory: memory.clone(),
            desc: base,
            avail: base + 0x1000,
            used: base + 0x2000,
            next_desc: 0,
            next_avail: 0,
            next_used: 0,
        }
    }

    /// Writes one descriptor of any table.
    pub(crate) fn descriptor(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let put = |offset: u64, bytes: &[u8]| {
            self.memory.write_slice(bytes, GuestAddress(at + offset)).unwrap();
        };
        put(0, &addr.to_le_bytes());
        put(8, &len.to_le_bytes());
        put(12, &flags.to_le_bytes());
        put(14, &next.to_le_bytes());
    }

    /// Makes a chain of (address, length, device writes) available. Returns its head.
    pub(crate) fn submit(&mut self, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_desc % SIZE;
        for (number, &(addr, len, write)) in parts.iter().enumerate() {
            let index = (head + number as u16) % SIZE;
            let last = number + 1 == parts.len();
            let flags = if write { DESC_WRITE } else { 0 } | if last { 0 } else { DESC_NEXT };
            let at = self.desc + 16 * u64::from(index);
            self.descriptor(at, addr, len, flags, (index + 1) % SIZE);
        }
        self.next_desc += parts.len() as u16;
        self.offer(head);
        head
    }

    /// Like `submit`, with the chain in a table at `table`.
    pub(crate) fn submit_indirect(&mut self, table: u64, parts: &[(u64, u32, bool)]) -> u16 {
        for (number, &(addr, len, write)) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            let flags = if write { DESC_WRITE } else { 0 } | if last { 0 } else { DESC_NEXT };
            self.descriptor(table + 16 * number as u64, addr, len, flags, number as u16 + 1);
        }
        let head = self.next_desc % SIZE;
        let len = 16 * parts.len() as u32;
        self.descriptor(self.desc + 16 * u64::from(head), table, len, DESC_INDIRECT, 0);
        self.next_desc += 1;
        self.offer(head);
        head
    }

    /// Puts any number into the available ring.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.next_avail % SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.next_avail += 1;
        self.set_available(self.next_avail);
    }

    pub(crate) fn set_available(&self, index: u16) {
        self.memory.write_obj(index, GuestAddress(self.avail + 2)).unwrap();
    }

    /// The next buffer that came back: head and length.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used + 2)).unwrap();
        if index == self.next_used {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.next_used % SIZE);
        self.next_used += 1;
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        Some((head as u16, self.memory.read_obj(GuestAddress(slot + 4)).unwrap()))
    }

    /// Waits for the next buffer to come back.
    pub(crate) fn wait(&mut self) -> (u16, u32) {
        let mut found = None;
        eventually(|| {
            found = self.take();
            found.is_some()
        });
        found.unwrap()
    }
}

/// Waits for something another thread does.
#[track_caller]
pub(crate) fn eventually(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}
