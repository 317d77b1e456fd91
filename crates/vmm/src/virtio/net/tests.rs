use super::{device::NetDevice, tap::Tap};
use crate::{
    config::{MAX_QUEUE_PAIRS, NicShape},
    virtio::testing::{Driver, DriverQueue, Host, eventually},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::AsRawFd, fd::FromRawFd, fd::OwnedFd},
    time::Duration,
};
use vm_memory::{Bytes, GuestAddress};

const MAC: [u8; 6] = [0x00, 0x16, 0x3e, 1, 2, 3];
const VERSION_1: u64 = 1 << 32;
const MRG: u64 = 1 << 15;
const BUFFERS: u64 = 0x10_0000;

/// The far end: packets with their header, as on a tap.
fn wire() -> (Tap, File) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
    // SAFETY: there is room for the two descriptors that are made.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: both were just made for us.
    let [near, far] = fds.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    (Tap::unchecked(near), far)
}

struct Setup {
    driver: Driver,
    receive: DriverQueue,
    transmit: DriverQueue,
    wire: File,
}

fn set_up(features: u64) -> Setup {
    let (tap, wire) = wire();
    let host = Host::new();
    let shape = NicShape { mac: MAC, mtu: 1500, pairs: 1 };
    let device = NetDevice::new(shape, vec![tap], Vec::new(), &host.memory).unwrap();
    let receive = DriverQueue::new(&host.memory, 0);
    let transmit = DriverQueue::new(&host.memory, 0x8000);
    let driver = host.attach(Box::new(device));
    driver.negotiate(driver.offered() & features);
    driver.set_up(0, &receive);
    driver.set_up(1, &transmit);
    driver.driver_ok();
    Setup { driver, receive, transmit, wire }
}

impl Setup {
    fn packet(&self, len: usize) -> Vec<u8> {
        let mut packet = vec![0; 12];
        packet.extend((0..len).map(|at| (at % 251) as u8));
        packet
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver.host.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn take_from_wire(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 70_000];
        let mut len = None;
        eventually(|| {
            len = self.wire.read(&mut packet).ok();
            len.is_some()
        });
        packet.truncate(len?);
        Some(packet)
    }
}

#[test]
fn the_configuration_says_what_the_interface_is() {
    let setup = set_up(u64::MAX);
    assert_eq!(setup.driver.read::<6>(0x2000), MAC);
    assert_eq!(setup.driver.read16(0x2006), 1, "link is up");
    assert_eq!(setup.driver.read16(0x2008), 1, "pairs");
    assert_eq!(setup.driver.read16(0x200a), 1500, "MTU");
    let offered = setup.driver.offered();
    for bit in [0, 1, 3, 5, 7, 8, 11, 12, 15, 16, 28, 29, 32] {
        assert_ne!(offered & 1 << bit, 0, "feature {bit}");
    }
    assert_eq!(offered & (1 << 17 | 1 << 22), 0, "one pair needs no control queue");
    let many = NicShape { mac: MAC, mtu: 1500, pairs: 4 };
    assert_eq!(many.queue_sizes().len(), 9);
    assert_eq!(many.control_queue(1 << 17 | 1 << 22), Some(8));
    assert_eq!(many.control_queue(1 << 17), Some(2));
    assert_eq!(many.control_queue(1 << 22), None);
}

#[test]
fn a_packet_is_spread_over_the_buffers_it_needs() {
    let mut setup = set_up(VERSION_1 | MRG);
    for number in 0..8 {
        setup.receive.submit(&[(BUFFERS + 0x1000 * number, 1024, true)]);
    }
    setup.driver.ring(0);
    let packet = setup.packet(1400);
    setup.wire.write_all(&packet).unwrap();
    let (first, len) = setup.receive.wait();
    assert_eq!((first, len), (0, 1024));
    assert_eq!(setup.receive.wait(), (1, 388));
    let received = [setup.get(BUFFERS, 1024), setup.get(BUFFERS + 0x1000, 388)].concat();
    assert_eq!(received[10..12], [2, 0], "number of buffers");
    assert_eq!(received[12..], packet[12..]);
    setup.wire.write_all(&setup.packet(60)).unwrap();
    assert_eq!(setup.receive.wait(), (2, 72));
    assert_eq!(setup.get(BUFFERS + 0x2000 + 10, 2), [1, 0]);
}

#[test]
fn without_merging_each_packet_has_one_buffer() {
    let mut setup = set_up(VERSION_1);
    for number in 0..2 {
        let at = BUFFERS + 0x1000 * number;
        setup.receive.submit(&[(at, 12, true), (at + 0x100, 1518, true)]);
    }
    setup.driver.ring(0);
    let packet = setup.packet(1500);
    setup.wire.write_all(&packet).unwrap();
    setup.wire.write_all(&packet).unwrap();
    assert_eq!(setup.receive.wait(), (0, 1512));
    assert_eq!(setup.receive.wait(), (2, 1512));
    assert_eq!(setup.get(BUFFERS + 10, 2), [1, 0]);
    assert_eq!(setup.get(BUFFERS + 0x100, 1500), packet[12..]);
}

#[test]
fn packets_wait_for_buffers() {
    let mut setup = set_up(VERSION_1 | 1 << 29);
    let packet = setup.packet(100);
    for _ in 0..3 {
        setup.wire.write_all(&packet).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(setup.receive.take(), None);
    for number in 0..3 {
        setup.receive.submit(&[(BUFFERS + 0x1000 * number, 2048, true)]);
        setup.driver.ring(0);
        assert_eq!(setup.receive.wait().1, 112);
    }
}

#[test]
fn sent_packets_reach_the_wire_and_bad_ones_do_not() {
    let mut setup = set_up(VERSION_1);
    let packet = setup.packet(600);
    setup.driver.host.memory.write_slice(&packet, GuestAddress(BUFFERS)).unwrap();
    // Shorter than a header, and longer than any packet.
    for bad in [vec![(BUFFERS, 11, false)], vec![(BUFFERS, 100_000, false)]] {
        let head = setup.transmit.submit(&bad);
        setup.driver.ring(1);
        assert_eq!(setup.transmit.wait(), (head, 0));
    }
    let head = setup.transmit.submit(&[(BUFFERS, 12, false), (BUFFERS + 12, 600, false)]);
    setup.driver.ring(1);
    assert_eq!(setup.transmit.wait(), (head, 0));
    assert_eq!(setup.take_from_wire().unwrap(), packet);
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_works_after_it() {
    let mut setup = set_up(VERSION_1 | MRG);
    setup.receive.submit(&[(BUFFERS, 8, true)]);
    setup.driver.ring(0);
    eventually(|| setup.driver.status() & 0x40 != 0);
    setup.receive = DriverQueue::new(&setup.driver.host.memory, 0);
    setup.transmit = DriverQueue::new(&setup.driver.host.memory, 0x8000);
    setup.driver.negotiate(VERSION_1);
    setup.driver.set_up(0, &setup.receive);
    setup.driver.set_up(1, &setup.transmit);
    setup.driver.driver_ok();
    setup.receive.submit(&[(BUFFERS, 2048, true)]);
    setup.driver.ring(0);
    setup.wire.write_all(&setup.packet(64)).unwrap();
    assert_eq!(setup.receive.wait().1, 76);
}

#[test]
fn the_bus_has_room_for_the_most_queues() {
    let (taps, _wires): (Vec<_>, Vec<_>) = (0..MAX_QUEUE_PAIRS).map(|_| wire()).unzip();
    let host = Host::new();
    let shape = NicShape { mac: MAC, mtu: 1500, pairs: MAX_QUEUE_PAIRS as u16 };
    let device = NetDevice::new(shape, taps, Vec::new(), &host.memory).unwrap();
    let control = 2 * MAX_QUEUE_PAIRS as u16;
    let queue = DriverQueue::new(&host.memory, 0);
    let driver = host.attach(Box::new(device));
    driver.negotiate(VERSION_1);
    assert_eq!(driver.read16(0x12), control + 1, "queues");
    let config = driver.capability(0x11)[0];
    assert_eq!(driver.config_read::<2>(config + 2), (control + 1).to_le_bytes(), "vectors - 1");
    driver.set_up(control, &queue);
    assert_eq!(driver.read16(0x1e), control, "where its doorbell is");
    driver.write16(0x1a, control + 1);
    assert_eq!(driver.read16(0x1a), control + 1, "its vector");
    driver.ring(control);
}

/// Needs /dev/net/tun and the right to make taps.
#[test]
fn a_real_tap_takes_what_the_device_asks_of_it() {
    let tap = Tap::open("ecsvmmt%d", false).unwrap();
    tap.set_offload(u64::MAX).unwrap();
    tap.set_offload(0).unwrap();
    tap.set_offload(1 << 7).unwrap();
    let copy = crate::config::inherited(tap.as_raw_fd()).unwrap();
    Tap::from_file(copy).unwrap();
    assert!(Tap::from_file(File::open("/dev/null").unwrap()).is_err());
    assert!(Tap::open("a-name-longer-than-15", false).is_err());
    let first = Tap::open("ecsvmmq0", true).unwrap();
    let second = Tap::open("ecsvmmq0", true).unwrap();
    second.set_attached(false).unwrap();
    second.set_attached(false).unwrap();
    second.set_attached(true).unwrap();
    drop(first);
}
