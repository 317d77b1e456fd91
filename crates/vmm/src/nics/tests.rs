use super::{
    MOST_PAIRS, NicError, Nics,
    testing::{own_network, tap},
};
use crate::{
    bus::BusDevice as _,
    control::Files,
    pci::hotplug::{EJECT, HotplugController, PLUGGED, WANTED},
    plugged::PlugError,
    virtio::testing::{Driver, DriverQueue, Host, eventually},
};
use api::vmm::{AttachNic, Nic, SwitchTaps};
use std::{ffi::CString, fs::File, os::fd::OwnedFd, process::Command, sync::Arc};
use vm_memory::{Bytes as _, GuestAddress};

const BUFFER: u64 = 0x10_0000;
const LINK: u64 = 0x2006;
/// `VIRTIO_F_EVENT_IDX`: without it every packet interrupts.
const EVENT_IDX: u64 = 1 << 29;

fn machine() -> (Host, Nics, Arc<HotplugController>) {
    own_network();
    let host = Host::new();
    let hotplug = Arc::new(HotplugController::new(Arc::default()));
    let nics = Nics::new(&host.root, &host.memory, 2, &hotplug);
    (host, nics, hotplug)
}

fn exists(tap: &str) -> bool {
    let name = CString::new(tap).unwrap();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

fn request(id: &str, slot: u32) -> AttachNic {
    let nic = Nic {
        eni_id: id.to_owned(),
        mac: "00:16:3e:00:00:07".to_owned(),
        tap_fds: vec![0],
        mtu: 1450,
        slot,
        ..Default::default()
    };
    AttachNic { nic: Some(nic) }
}

fn plug(nics: &Nics, id: &str, slot: u32) -> u8 {
    nics.plug(&request(id, slot), &mut Files::from(vec![tap(id, false)])).unwrap();
    nics.list().iter().find(|nic| nic.eni_id == id).unwrap().slot as u8
}

fn register(hotplug: &HotplugController, offset: u64) -> u32 {
    let mut data = [0; 4];
    hotplug.read(HotplugController::BASE, offset, &mut data);
    u32::from_le_bytes(data)
}

fn eject(hotplug: &HotplugController, slots: u32) {
    hotplug.write(HotplugController::BASE, EJECT, &slots.to_le_bytes());
}

fn vendor(host: &Host, slot: u8) -> u32 {
    let mut id = [0; 4];
    host.mmio.read(host.windows.ecam.start + (u64::from(slot) << 15), &mut id);
    u32::from_le_bytes(id)
}

/// A driver that is at work, and its queue for packets to send.
fn drive(host: Host, slot: u8) -> (Driver, DriverQueue) {
    let receive = DriverQueue::new(&host.memory, 0);
    let transmit = DriverQueue::new(&host.memory, 0x8000);
    let driver = Driver::of_plugged(host, slot, 3, EVENT_IDX);
    for (number, queue) in [(0, &receive), (1, &transmit)] {
        driver.set_up(number, queue);
        driver.write16(0x1a, number + 1);
    }
    driver.driver_ok();
    (driver, transmit)
}

/// Sends a packet and waits until the device is done with it.
fn send(driver: &Driver, queue: &mut DriverQueue) {
    driver.host.memory.write_slice(&[0; 76], GuestAddress(BUFFER)).unwrap();
    queue.submit(&[(BUFFER, 76, false)]);
    driver.ring(1);
    queue.wait();
}

#[test]
fn a_plugged_interface_works_and_its_tap_is_free_when_the_guest_lets_it_go() {
    let (host, nics, hotplug) = machine();
    let slot = plug(&nics, "eni-1", 5);
    assert_eq!((slot, register(&hotplug, PLUGGED)), (5, 1 << 5));
    let (driver, mut transmit) = drive(host, slot);
    assert_eq!(driver.read::<6>(0x2000), [0, 0x16, 0x3e, 0, 0, 7]);
    assert_eq!((driver.read16(LINK), driver.read16(0x200a)), (1, 1450));
    send(&driver, &mut transmit);
    assert!(nics.list()[0].in_use && !nics.list()[0].detaching);
    // What is there is left as it is.
    nics.plug(&request("eni-1", 0), &mut Files::default()).unwrap();
    assert_eq!(register(&hotplug, PLUGGED), 0);

    nics.unplug("eni-1", false).unwrap();
    assert_eq!(register(&hotplug, WANTED), 1 << 5);
    assert!(nics.list()[0].detaching && nics.list()[0].detach_asked_unix_ms > 0);
    send(&driver, &mut transmit);
    let again = nics.plug(&request("eni-1", 0), &mut Files::from(vec![tap("other", false)]));
    assert!(matches!(again, Err(NicError::Plug(PlugError::State { .. }))), "{again:?}");
    assert!(exists("eni-1"));
    driver.write8(0x14, 0);
    eject(&hotplug, 1 << 5);
    assert_eq!(vendor(&driver.host, slot), u32::MAX);
    eventually(|| nics.list().is_empty());
    assert!(!exists("eni-1"), "listed until its tap is closed");
    let gone = nics.unplug("eni-1", false);
    assert!(matches!(gone, Err(NicError::Plug(PlugError::NotFound(_)))), "{gone:?}");
}

#[test]
fn by_force_the_tap_is_free_at_once_and_the_driver_sees_the_link_go_down() {
    let (host, nics, hotplug) = machine();
    let slot = plug(&nics, "eni-1", 0);
    let (driver, mut transmit) = drive(host, slot);
    send(&driver, &mut transmit);
    nics.unplug("eni-1", true).unwrap();
    assert!(nics.list().is_empty() && !exists("eni-1"));
    assert_eq!(driver.read16(LINK), 0);
    assert_eq!(register(&hotplug, WANTED), 1 << slot);
    // Or else a driver waits for its buffers for ever.
    send(&driver, &mut transmit);
    assert_ne!(plug(&nics, "eni-1", 0), slot, "the same interface again");
    driver.write8(0x14, 0);
    eject(&hotplug, u32::MAX);
    assert_eq!(vendor(&driver.host, slot), u32::MAX);
    assert_eq!(nics.list().len(), 1);
}

#[test]
fn the_primary_interface_stays_and_an_ejection_is_for_what_was_asked_for_only() {
    let (host, nics, hotplug) = machine();
    let _kept = tap("first", true);
    let primary = Nic {
        eni_id: "eni-0".to_owned(),
        mac: "00:16:3e:00:00:01".to_owned(),
        tap_name: "first".to_owned(),
        ..Default::default()
    };
    nics.attach(&primary, true).unwrap();
    for force in [false, true] {
        let refused = nics.unplug("eni-0", force).unwrap_err();
        assert!(matches!(refused, NicError::Plug(PlugError::State { .. })), "{refused}");
    }
    let (one, two) = (plug(&nics, "eni-1", 0), plug(&nics, "eni-2", 0));
    assert_eq!(nics.changing_slots(), 1 << one | 1 << two);
    nics.unplug("eni-2", false).unwrap();
    eject(&hotplug, u32::MAX);
    eventually(|| nics.list().len() == 2);
    assert_eq!((vendor(&host, one), vendor(&host, two)), (0x1041_1af4, u32::MAX));
    assert!(exists("eni-1") && !exists("eni-2"));
}

#[test]
fn an_interface_that_cannot_be_had_leaves_nothing_behind() {
    let (host, nics, hotplug) = machine();
    plug(&nics, "eni-1", 4);
    register(&hotplug, PLUGGED);
    let refused = |request: &AttachNic, sent: Vec<OwnedFd>| {
        let error = nics.plug(request, &mut Files::from(sent)).unwrap_err();
        assert_eq!(nics.list().len(), 1);
        assert_eq!(register(&hotplug, PLUGGED), 0);
        error.to_string()
    };
    let with = |change: fn(&mut Nic)| {
        let mut request = request("eni-2", 0);
        change(request.nic.as_mut().unwrap());
        request
    };
    assert!(refused(&AttachNic { nic: None }, vec![]).contains("no interface"));
    assert!(refused(&with(|nic| nic.eni_id.clear()), vec![]).contains("eni_id"));
    assert!(refused(&request("eni-2", 0), vec![]).contains("descriptor 0"));
    assert!(refused(&request("eni-2", 4), vec![tap("t", false)]).contains("slot 4"));
    assert!(
        refused(&with(|nic| nic.mac = "01:00:00:00:00:01".to_owned()), vec![tap("t", false)])
            .contains("MAC")
    );
    let by_name = with(|nic| {
        nic.tap_fds.clear();
        nic.tap_name = "eth0".to_owned();
    });
    assert!(refused(&by_name, vec![]).contains("descriptors"));
    assert!(refused(&with(|nic| nic.queue_pairs = MOST_PAIRS + 1), vec![]).contains("32"));
    assert!(refused(&with(|nic| nic.queue_pairs = 2), vec![tap("t", true)]).contains("each queue"));
    let twice = with(|nic| {
        nic.queue_pairs = 2;
        nic.tap_fds = vec![0, 0];
    });
    assert!(refused(&twice, vec![tap("t", true)]).contains("twice"));
    let no_tap = File::open("/dev/null").unwrap();
    assert!(refused(&request("eni-2", 0), vec![no_tap.into()]).contains("tap"));
    let no_vhost = with(|nic| nic.vhost_fds = vec![1]);
    let null = File::open("/dev/null").unwrap();
    refused(&no_vhost, vec![tap("t", false), null.into()]);
    assert!(!exists("t"));
    assert!(host.hypervisor.state().interrupts.is_empty());
}

#[test]
fn several_queue_pairs_come_and_go_with_all_they_had() {
    let (mut host, nics, hotplug) = machine();
    let (routes, before) = (host.hypervisor.state().routes.len(), format!("{:?}", host.mmio));
    for round in 0..10 {
        let id = format!("eni-{round}");
        let mut request = request(&id, 0);
        let nic = request.nic.as_mut().unwrap();
        (nic.queue_pairs, nic.tap_fds) = (4, vec![3, 2, 1, 0]);
        let taps: Vec<_> = (0..4).map(|_| tap(&id, true)).collect();
        nics.plug(&request, &mut Files::from(taps)).unwrap();
        let slot = nics.list()[0].slot as u8;
        let (driver, mut transmit) = drive(host, slot);
        send(&driver, &mut transmit);
        nics.unplug(&id, round % 2 == 1).unwrap();
        driver.write8(0x14, 0);
        eject(&hotplug, 1 << slot);
        eventually(|| nics.list().is_empty() && nics.plugged.husks().is_empty());
        host = driver.host;
        eventually(|| vendor(&host, slot) == u32::MAX && !exists(&id));
        eventually(|| {
            let state = host.hypervisor.state();
            state.doorbells.is_empty() && state.interrupts.is_empty()
        });
        eventually(|| host.hypervisor.state().routes.len() == routes);
        assert_eq!(format!("{:?}", host.mmio), before, "bus ranges");
    }
}

/// Packets that went through the tap towards the host.
fn packets_on(tap: &str) -> u64 {
    // The thread's own network, not the process's.
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all.lines().find(|line| line.trim_start().starts_with(&format!("{tap}:"))).unwrap();
    let fields = line.split_once(':').unwrap().1;
    fields.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn set_up(tap: &str) {
    let status = Command::new("ip").args(["link", "set", tap, "up"]).status().unwrap();
    assert!(status.success());
}

#[test]
fn an_interface_goes_on_with_another_tap_when_its_own_was_removed() {
    let (host, nics, _hotplug) = machine();
    let slot = plug(&nics, "one", 0);
    set_up("one");
    let (driver, mut transmit) = drive(host, slot);
    send(&driver, &mut transmit);
    eventually(|| packets_on("one") == 1);
    let removed = Command::new("ip").args(["link", "del", "one"]).status().unwrap();
    assert!(removed.success());
    send(&driver, &mut transmit);
    let new = tap("two", false);
    set_up("two");
    let request = |tap_epoch, tap_fds| SwitchTaps { eni_id: "one".to_owned(), tap_epoch, tap_fds };
    let refused = nics.switch_taps(&request(7, vec![]), &mut Files::default()).unwrap_err();
    assert!(refused.to_string().contains("1 queue pairs"), "{refused}");
    nics.switch_taps(&request(7, vec![0]), &mut Files::from(vec![new])).unwrap();
    assert_eq!(nics.list()[0].tap_epoch, 7);
    send(&driver, &mut transmit);
    eventually(|| packets_on("two") == 1);
    nics.switch_taps(&request(7, vec![0]), &mut Files::default()).unwrap();
    let other = SwitchTaps { eni_id: "none".to_owned(), ..SwitchTaps::default() };
    let refused = nics.switch_taps(&other, &mut Files::default()).unwrap_err();
    assert!(matches!(refused, NicError::Plug(PlugError::NotFound(_))), "{refused}");
}
