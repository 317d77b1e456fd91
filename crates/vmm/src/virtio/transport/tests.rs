use crate::{
    memory::GuestMemory,
    virtio::{
        device::{ActivateError, Activation, VirtioDevice},
        interrupt::QueueInterrupt,
        testing::{Driver, DriverQueue, Host, SIZE},
    },
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 3;
const QUEUES: usize = 2;

#[derive(Default)]
struct Log {
    activations: Vec<Activation>,
    resets: usize,
    vectors: Vec<usize>,
    refuse: bool,
}

/// A device that only remembers what it was told.
struct Dummy(Arc<Mutex<Log>>);

impl VirtioDevice for Dummy {
    fn device_type(&self) -> u16 {
        42
    }

    fn pci_class(&self) -> u32 {
        0xff_0000
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![256; QUEUES]
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn config(&self) -> Vec<u8> {
        (1..=12).collect()
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.0.lock().unwrap();
        if log.refuse {
            return Err(ActivateError("refused on purpose".to_owned()));
        }
        log.activations.push(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.0.lock().unwrap().resets += 1;
    }

    fn queue_vector_changed(&mut self, queue: usize, _interrupt: &QueueInterrupt) {
        self.0.lock().unwrap().vectors.push(queue);
    }
}

fn attach() -> (Driver, Arc<Mutex<Log>>, GuestMemory) {
    let log = Arc::new(Mutex::new(Log::default()));
    let host = Host::new();
    let memory = host.memory.clone();
    (host.attach(Box::new(Dummy(log.clone()))), log, memory)
}

#[test]
fn capabilities_lead_to_all_registers() {
    let (driver, ..) = attach();
    assert_eq!(driver.config_read::<4>(0), [0xf4, 0x1a, 0x6a, 0x10]);
    assert_eq!(driver.config_read::<1>(8), [1], "modern");
    let mut kinds = Vec::new();
    for at in driver.capability(9) {
        let [len, kind, bar] = driver.config_read::<3>(at + 2);
        let offset = u32::from_le_bytes(driver.config_read(at + 8));
        let size = u32::from_le_bytes(driver.config_read(at + 12));
        kinds.push((kind, len, bar, offset, size));
    }
    assert_eq!(
        kinds,
        vec![
            (1, 16, 0, 0x0000, 0x40),
            (2, 20, 1, 0, 8),
            (2, 20, 0, 0x3000, 0x1000),
            (3, 16, 0, 0x1000, 1),
            (4, 16, 0, 0x2000, 12),
            (5, 20, 0, 0, 0),
        ]
    );
    let msix = driver.capability(0x11);
    let control = u16::from_le_bytes(driver.config_read(msix[0] + 2));
    assert_eq!(usize::from(control), QUEUES, "one vector more than queues, less one");
}

#[test]
fn features_are_agreed_once_and_only_offered_ones() {
    let (driver, log, _) = attach();
    assert_eq!(driver.offered(), FEATURES);
    driver.write32(0, 2);
    assert_eq!(driver.read32(4), 0, "no third word");
    // Without VERSION_1, and with a feature nobody offered.
    for wrong in [FEATURES & !(1 << 32), FEATURES | 1 << 5] {
        driver.write8(0x14, 0);
        driver.write8(0x14, 3);
        driver.accept(wrong);
        driver.write8(0x14, 11);
        assert_eq!(driver.status(), 3, "{wrong:#x}");
        driver.write8(0x14, 15);
        assert!(log.lock().unwrap().activations.is_empty());
    }
    driver.negotiate(1 << 32 | 1 << 3);
    driver.accept(FEATURES);
    driver.driver_ok();
    assert_eq!(log.lock().unwrap().activations[0].features, 1 << 32 | 1 << 3, "too late");
}

#[test]
fn queues_reach_the_device_as_set_up_and_not_later() {
    let (driver, log, memory) = attach();
    let queue = DriverQueue::new(&memory, 0x4000);
    driver.negotiate(FEATURES);
    assert_eq!(driver.read16(0x12), QUEUES as u16);
    driver.write16(0x16, 1);
    assert_eq!((driver.read16(0x18), driver.read16(0x1e)), (256, 1));
    driver.set_up(1, &queue);
    driver.driver_ok();
    driver.set_up(0, &queue);
    driver.driver_ok();
    let log = log.lock().unwrap();
    assert_eq!(log.activations.len(), 1);
    let active = &log.activations[0].queues;
    assert_eq!(active.len(), 1);
    assert_eq!((active[0].index, active[0].queue.size()), (1, SIZE));
    assert_eq!(active[0].queue.desc_table(), 0x4000);
    assert_eq!(active[0].queue.avail_ring(), 0x5000);
    assert_eq!(active[0].queue.used_ring(), 0x6000);
    assert!(active[0].queue.event_idx_enabled());
}

#[test]
fn a_queue_that_cannot_exist_asks_for_a_reset() {
    type Wrong = fn(&Driver);
    let wrong: [Wrong; 5] = [
        |driver| driver.write16(0x18, 15),
        |driver| driver.write16(0x18, 512),
        |driver| driver.write16(0x18, 0),
        |driver| driver.write32(0x20, 0x4001),
        |driver| driver.write32(0x30, 0x6002),
    ];
    for change in wrong {
        let (driver, log, memory) = attach();
        driver.negotiate(FEATURES);
        driver.set_up(0, &DriverQueue::new(&memory, 0x4000));
        change(&driver);
        driver.driver_ok();
        assert_eq!(driver.status() & 0x40, 0x40);
        assert!(log.lock().unwrap().activations.is_empty());
    }
    let (driver, log, memory) = attach();
    log.lock().unwrap().refuse = true;
    driver.negotiate(FEATURES);
    driver.set_up(0, &DriverQueue::new(&memory, 0x4000));
    driver.driver_ok();
    assert_eq!(driver.status() & 0x40, 0x40);
}

#[test]
fn a_reset_puts_everything_back() {
    let (driver, log, memory) = attach();
    for round in 1..=3 {
        driver.negotiate(FEATURES);
        driver.write16(0x10, 0);
        driver.set_up(0, &DriverQueue::new(&memory, 0x4000));
        driver.write16(0x1a, 1);
        driver.driver_ok();
        driver.write8(0x14, 0);
        assert_eq!(driver.status(), 0);
        driver.write16(0x16, 0);
        assert_eq!(driver.read16(0x1c), 0, "queue enabled");
        assert_eq!(driver.read16(0x18), 256);
        assert_eq!(driver.read32(0x20), 0);
        assert_eq!((driver.read16(0x10), driver.read16(0x1a)), (0xffff, 0xffff));
        driver.write32(8, 0);
        assert_eq!(driver.read32(0xc), 0);
        let log = log.lock().unwrap();
        assert_eq!((log.activations.len(), log.resets), (round, round));
    }
    driver.write8(0x14, 0);
    assert_eq!(log.lock().unwrap().resets, 3, "a device that is not active");
}

#[test]
fn vectors_are_checked_and_used() {
    let (driver, log, memory) = attach();
    let control = driver.capability(0x11)[0] + 2;
    driver.config_write(control, &0x8000u16.to_le_bytes());
    for vector in 0..3u64 {
        driver.write(0x4000 + 16 * vector, &0xfee0_0000u64.to_le_bytes());
        driver.write32(0x4008 + 16 * vector, 0x30 + vector as u32);
        driver.write32(0x400c + 16 * vector, 0);
    }
    driver.negotiate(FEATURES);
    driver.set_up(0, &DriverQueue::new(&memory, 0x4000));
    for bad in [3, 0x7fff, 0xffff] {
        driver.write16(0x1a, bad);
        assert_eq!(driver.read16(0x1a), 0xffff, "{bad}");
    }
    driver.write16(0x10, 0);
    driver.write16(0x1a, 1);
    assert!(log.lock().unwrap().vectors.is_empty(), "the device is not active yet");
    driver.driver_ok();
    let interrupt = log.lock().unwrap().activations[0].queues[0].interrupt.clone();
    interrupt.signal();
    let fired = |gsi| driver.host.hypervisor.state().interrupts[&gsi].read().ok();
    assert_eq!(fired(25), Some(1));
    assert_eq!(driver.host.hypervisor.message(25), Some((0xfee0_0000, 0x31)));
    // Another vector while running.
    driver.write16(0x16, 0);
    driver.write16(0x1a, 2);
    assert_eq!(log.lock().unwrap().vectors, vec![0]);
    interrupt.signal();
    assert_eq!((fired(25), fired(26)), (None, Some(1)));
    interrupt.event().unwrap().write(1).unwrap();
    assert_eq!(fired(26), Some(1), "who signals by himself hits the new vector too");
    // Without a vector the status register tells.
    driver.write16(0x1a, 0xffff);
    interrupt.signal();
    assert_eq!((driver.read8(0x1000), driver.read8(0x1000)), (1, 0));
    interrupt.needs_reset();
    assert_eq!(fired(24), Some(1));
    interrupt.needs_reset();
    assert_eq!(fired(24), None, "once is enough");
}

#[test]
fn accesses_of_all_widths_and_places_are_survived() {
    let (driver, ..) = attach();
    assert_eq!(driver.read::<8>(0x2000), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(driver.read16(0x2001), 0x0302);
    assert_eq!(driver.read32(0x200a), 0x0000_0c0b);
    assert_eq!(driver.read8(0x13), 0, "upper byte of the number of queues");
    assert_eq!(driver.read::<3>(0x12), [2, 0, 0]);
    for offset in 0..0x8000 {
        driver.read::<1>(offset);
        driver.read::<2>(offset);
        driver.read::<4>(offset);
        driver.read::<8>(offset);
    }
    for offset in 0..0x8000 {
        driver.write(offset, &[0xff]);
        driver.write(offset, &[0xff; 2]);
        driver.write(offset, &[0xff; 4]);
        driver.write(offset, &[0xff; 8]);
    }
    for offset in 0..0x1000 {
        driver.config_read::<4>(offset);
    }
}

#[test]
fn configuration_space_reaches_the_bar_too() {
    let (driver, ..) = attach();
    let access = driver.capability(9)[5];
    let aim = |offset: u32, len: u32| {
        driver.config_write(access + 4, &[0]);
        driver.config_write(access + 8, &offset.to_le_bytes());
        driver.config_write(access + 12, &len.to_le_bytes());
    };
    aim(0x2000, 4);
    assert_eq!(driver.config_read::<4>(access + 16), [1, 2, 3, 4]);
    aim(0x2002, 2);
    assert_eq!(driver.config_read::<2>(access + 16), [3, 4]);
    aim(0x14, 1);
    driver.config_write(access + 16, &[3]);
    assert_eq!(driver.status(), 3);
    // A doorbell, which KVM does not see here.
    aim(0x3004, 2);
    driver.config_write(access + 16, &[1, 0]);
    let bell = driver.bar + 0x3004;
    assert_eq!(driver.host.hypervisor.state().doorbells[&bell].read().unwrap(), 1);
    // Targets that do not exist.
    for (offset, len) in [(0x7fff, 4), (0x8000, 4), (u32::MAX, 4), (1, 4), (0, 3), (0, 0)] {
        aim(offset, len);
        driver.config_write(access + 16, &[0xff; 4]);
        driver.config_read::<4>(access + 16);
    }
    driver.config_write(access + 4, &[1]);
    driver.config_write(access + 16, &[0xff; 4]);
    assert_eq!(driver.status(), 3);
}

#[test]
fn doorbells_follow_the_bar() {
    let (driver, ..) = attach();
    let bells = || driver.host.hypervisor.state().doorbells.keys().copied().collect::<Vec<_>>();
    // Those at ports first, as ports are small numbers.
    let ports = driver.host.windows.pio.start;
    let (old, at_ports) = (driver.bar + 0x3000, [ports, ports + 4]);
    assert_eq!(driver.config_read::<4>(0x14), (ports as u32 | 1).to_le_bytes());
    assert_eq!(bells(), [&at_ports[..], &[old, old + 4]].concat());
    let new = driver.host.windows.mmio32.start + (64 << 20);
    driver.config_write(0x10, &(new as u32).to_le_bytes());
    assert_eq!(bells(), [&at_ports[..], &[new + 0x3000, new + 0x3004]].concat());
    driver.config_write(0x10, &0u32.to_le_bytes());
    assert_eq!(bells(), at_ports);
    // A guest that sizes the BAR, as it does with decoding off, and puts it elsewhere.
    driver.config_write(4, &[2, 0]);
    driver.config_write(0x14, &[0xff; 4]);
    assert_eq!(driver.config_read::<4>(0x14), 0xffff_fff9_u32.to_le_bytes());
    assert_eq!(bells(), at_ports);
    driver.config_write(0x14, &(ports as u32 + 0x20).to_le_bytes());
    driver.config_write(4, &[3, 0]);
    assert_eq!(bells(), vec![ports + 0x20, ports + 0x24]);
    // What KVM does not see, because nobody told it.
    assert!(driver.host.pio.write(ports + 0x24, &[1, 0]));
    let state = driver.host.hypervisor.state();
    assert_eq!(state.doorbells[&(ports + 0x24)].read().unwrap(), 1);
    drop(state);
    // Ports that are not the bus's are nobody's.
    driver.config_write(0x14, &0x3f8u32.to_le_bytes());
    assert!(bells().is_empty());
}

/// A driver that writes anything anywhere, at a device with a real queue behind it. Whatever it
/// did, a reset must bring the device back to work.
#[test]
fn a_driver_gone_mad_is_survived() {
    let device = crate::virtio::rng::RngDevice::new().unwrap();
    let host = Host::new();
    let memory = host.memory.clone();
    let driver = host.attach(Box::new(device));
    let home = u32::from_le_bytes(driver.config_read(0x10));
    let mut seed = 0x5eed_u64;
    let mut random = |end: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % end
    };
    let end = Instant::now() + Duration::from_secs(1);
    let mut rounds = 0;
    while Instant::now() < end {
        for _ in 0..200 {
            let value = match random(4) {
                0 => [0, 1, 3, 11, 15, 0x40, 0x80, 0xff][random(8) as usize],
                1 => random(0x40_0000) & !0xf,
                2 => u64::MAX,
                _ => random(u64::MAX),
            };
            let offset = match random(5) {
                0..=2 => random(0x40),
                3 => [0x1000, 0x2000, 0x3000, 0x4000, 0x6000][random(5) as usize] + random(0x20),
                _ => random(0x8000),
            };
            let width = [1, 2, 4, 8][random(4) as usize];
            match random(8) {
                0 => driver.config_write(random(0x100), &value.to_le_bytes()[..width]),
                1 => {
                    driver.read::<4>(offset);
                }
                2 => memory.write_obj(value, GuestAddress(random(0x3f_0000))).unwrap(),
                _ => driver.write(offset, &value.to_le_bytes()[..width]),
            }
        }
        rounds += 1;
        driver.config_write(0x04, &2u16.to_le_bytes());
        driver.config_write(0x10, &home.to_le_bytes());
        let mut queue = DriverQueue::new(&memory, 0x4000);
        driver.negotiate(driver.offered());
        driver.set_up(0, &queue);
        driver.driver_ok();
        let head = queue.submit(&[(0x1_0000, 64, true)]);
        driver.ring(0);
        assert_eq!(queue.wait(), (head, 64), "round {rounds}");
    }
    assert!(rounds > 10, "{rounds}");
}
