//! A machine for tests of other crates: its bus, disks and control socket are the real ones, its guest
//! is played by the test. It needs no KVM.

#![allow(clippy::unwrap_used, reason = "for tests")]

use crate::{
    bus::BusDevice as _,
    control::{ControlThread, Listeners},
    devices::Devices,
    disks::Disks,
    events::Events,
    legacy::power::PowerRegisters,
    nics::Nics,
    pci::hotplug::{EJECT, HotplugController, PLUGGED, WANTED},
    service::MachineService,
    vcpu::Gate,
    virtio::testing::{Driver, DriverQueue, Host},
};
use api::vmm::{AttachedDisk, VmConfig, VmState};
use std::{collections::BTreeMap, os::unix::net::UnixListener, path::Path, sync::Arc};
use vm_memory::{Bytes, GuestAddress};

/// Requests of one disk that may be under way at a time.
pub const REQUESTS: usize = 4;
/// Bytes of one request at most.
pub const DATA: usize = 32 << 10;
/// Guest memory of one disk: its queue, then its requests.
const AREA: u64 = 256 << 10;
const REQUESTS_AT: u64 = 0x4000;
const REQUEST_SIZE: u64 = DATA as u64 + 0x1000;
const SECTOR: u64 = 512;

/// What a guest asks of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// So many bytes.
    Read(usize),
    /// These bytes.
    Write(Vec<u8>),
    /// So many bytes of zeroes.
    WriteZeroes(usize),
    /// So many bytes are not needed.
    Discard(usize),
    /// What was written lasts.
    Flush,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request's number.
    pub number: usize,
    /// No I/O error.
    pub success: bool,
    /// What was read.
    pub data: Vec<u8>,
}

/// The driver of one disk.
struct Drive {
    driver: Driver,
    queue: DriverQueue,
    area: u64,
    /// Bytes to read of each request under way.
    under_way: [Option<usize>; REQUESTS],
}

/// A machine without processors.
pub struct Machine {
    host: Host,
    disks: Arc<Disks>,
    hotplug: Arc<HotplugController>,
    control: Option<ControlThread>,
    drives: BTreeMap<String, (u8, Drive)>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine with the disks of `config`, listening at `socket`.
    ///
    /// # Errors
    /// What is wrong with a disk.
    ///
    /// # Panics
    /// If this process cannot make a socket or a thread.
    pub fn start(config: &VmConfig, socket: &Path) -> Result<Self, String> {
        let host = Host::new();
        let hotplug = Arc::new(HotplugController::new(Arc::default()));
        let disks = Disks::new(&host.root, &host.memory, 1, &hotplug, true);
        for (number, disk) in config.disks.iter().enumerate() {
            disks.attach(disk, number == 0).map_err(|error| error.to_string())?;
        }
        let events = Events::new();
        events.publish(VmState::Running, "");
        let power = Arc::new(PowerRegisters::new(events.clone(), Arc::default()));
        let nics = Nics::new(&host.root, &host.memory, 1, &hotplug);
        let devices = Arc::new(Devices::only(&host.root, Arc::clone(&disks), nics));
        let gate = Arc::new(Gate::new());
        let service = MachineService::new(config, events.clone(), gate, power, devices);
        let _ = std::fs::remove_file(socket);
        let listeners = Listeners::new(Some(UnixListener::bind(socket).unwrap())).unwrap();
        let control = Some(listeners.start(Arc::new(service), events).unwrap());
        let mut machine = Self { host, disks, hotplug, control, drives: BTreeMap::new() };
        machine.settle(|_| true);
        Ok(machine)
    }

    /// What a guest's kernel does with disks that have come and, if it `lets_go`, with those that it
    /// is asked for. Answers those it let go of.
    pub fn settle(&mut self, lets_go: impl Fn(&str) -> bool) -> Vec<String> {
        self.register(PLUGGED);
        let mut gone = Vec::new();
        for disk in self.disks.list() {
            let slot = disk.slot as u8;
            if disk.detaching {
                if self.drives.contains_key(&disk.disk_id) && lets_go(&disk.disk_id) {
                    self.register(WANTED);
                    self.drives.remove(&disk.disk_id);
                    let bit = 1u32 << slot;
                    self.hotplug.write(HotplugController::BASE, EJECT, &bit.to_le_bytes());
                    gone.push(disk.disk_id);
                }
                continue;
            }
            if self.drives.get(&disk.disk_id).is_none_or(|(at, _)| *at != slot) {
                let drive = self.drive(slot);
                self.drives.insert(disk.disk_id, (slot, drive));
            }
        }
        gone
    }

    /// The disks it has.
    pub fn disks(&self) -> Vec<AttachedDisk> {
        self.disks.list()
    }

    /// Whether the guest's driver has the disk.
    pub fn drives(&self, disk_id: &str) -> bool {
        self.drives.contains_key(disk_id)
    }

    /// Puts a request up, and answers its number; none if too many are under way. Its first byte is
    /// at `offset`, which like its length is a multiple of 512.
    ///
    /// # Panics
    /// If the guest has no such disk.
    pub fn submit(&mut self, disk_id: &str, offset: u64, ask: &Ask) -> Option<usize> {
        let (_, drive) = self.drives.get_mut(disk_id).unwrap();
        drive.submit(offset, ask)
    }

    /// A request's answer, if there is one.
    pub fn answer(&mut self, disk_id: &str) -> Option<Answer> {
        let (_, drive) = self.drives.get_mut(disk_id)?;
        drive.answer()
    }

    /// Ends as on the request to terminate.
    ///
    /// # Errors
    /// What could not be flushed.
    pub fn terminate(mut self) -> Result<(), String> {
        self.disks.stop();
        let flushed = self.disks.flush().map_err(|error| error.to_string());
        self.end();
        self.vanish();
        flushed
    }

    /// Ends; what is not flushed is lost if the caller sees to it that nothing can be written.
    pub fn kill(mut self) {
        self.end();
        self.vanish();
    }

    fn end(&mut self) {
        if let Some(control) = self.control.take() {
            control.finish();
        }
        let disks: Vec<_> = self.disks.list().into_iter().map(|disk| disk.disk_id).collect();
        for disk in disks {
            // The one that stays is closed with the machine.
            let _ = self.disks.unplug(&disk, true);
        }
        self.drives.clear();
    }

    /// Waits until nothing of the machine is left.
    fn vanish(self) {
        let left = Arc::downgrade(&self.disks);
        drop(self);
        // A request may still be under way.
        crate::virtio::testing::eventually(|| left.strong_count() == 0);
    }

    fn register(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.hotplug.read(HotplugController::BASE, offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Brings up the device in a slot.
    fn drive(&self, slot: u8) -> Drive {
        let host = &self.host;
        let area = AREA * u64::from(slot);
        let queue = DriverQueue::new(&host.memory, area);
        let config = host.windows.ecam.start + (u64::from(slot) << 15);
        let bar = host.windows.mmio32.start + 0x10_0000 * u64::from(slot);
        let driver = Driver { host: host.share(), config, bar };
        driver.config_write(0x10, &(bar as u32).to_le_bytes());
        driver.config_write(4, &[6, 0]);
        driver.negotiate(driver.offered());
        driver.set_up(0, &queue);
        driver.driver_ok();
        Drive { driver, queue, area, under_way: [None; REQUESTS] }
    }
}

impl Drive {
    fn at(&self, number: usize) -> u64 {
        self.area + REQUESTS_AT + REQUEST_SIZE * number as u64
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.driver.host.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn submit(&mut self, offset: u64, ask: &Ask) -> Option<usize> {
        let number = self.under_way.iter().position(Option::is_none)?;
        let (header, status) = (self.at(number), self.at(number) + 0x100);
        let data = self.at(number) + 0x1000;
        let sector = offset / SECTOR;
        let range = |bytes: usize| {
            let mut range = sector.to_le_bytes().to_vec();
            range.extend((bytes as u32 / SECTOR as u32).to_le_bytes());
            range.extend(0u32.to_le_bytes());
            range
        };
        let (kind, content, read) = match ask {
            Ask::Read(bytes) => (0u32, Vec::new(), *bytes),
            Ask::Write(bytes) => (1, bytes.clone(), 0),
            Ask::Flush => (4, Vec::new(), 0),
            Ask::Discard(bytes) => (11, range(*bytes), 0),
            Ask::WriteZeroes(bytes) => (13, range(*bytes), 0),
        };
        self.put(header, &kind.to_le_bytes());
        self.put(header + 4, &[0; 4]);
        let first = if kind < 2 { sector } else { 0 };
        self.put(header + 8, &first.to_le_bytes());
        self.put(status, &[0xee]);
        self.put(data, &content);
        let mut parts = vec![(header, 16, 0u16)];
        if !content.is_empty() {
            parts.push((data, content.len() as u32, 0));
        }
        if read > 0 {
            parts.push((data, read as u32, 2));
        }
        parts.push((status, 1, 2));
        // Each request has descriptors of its own, as answers come in any order.
        let head = 3 * number as u16;
        for (index, &(at, len, flags)) in (head..).zip(&parts) {
            let last = usize::from(index - head) + 1 == parts.len();
            let flags = flags | u16::from(!last);
            let descriptor = self.queue.desc + 16 * u64::from(index);
            self.queue.descriptor(descriptor, at, len, flags, index + 1);
        }
        self.under_way[number] = Some(read);
        self.queue.offer(head);
        self.driver.ring(0);
        Some(number)
    }

    fn answer(&mut self) -> Option<Answer> {
        let (head, _) = self.queue.take()?;
        let number = usize::from(head) / 3;
        let bytes = self.under_way[number].take().unwrap();
        let memory = &self.driver.host.memory;
        let status: u8 = memory.read_obj(GuestAddress(self.at(number) + 0x100)).unwrap();
        let mut data = vec![0; bytes];
        memory.read_slice(&mut data, GuestAddress(self.at(number) + 0x1000)).unwrap();
        Some(Answer { number, success: status == 0, data })
    }
}
