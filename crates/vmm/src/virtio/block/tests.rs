use super::{
    backend::{Backend, BackendQueue, Operation, Outcome, Submission},
    device::{BlockConfig, BlockDevice},
    limiter::Rates,
    queue::DiskShared,
};
use crate::virtio::testing::{Driver, DriverQueue, Host, eventually};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex},
    time::Instant,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SECTORS: u64 = 128;
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;

/// A disk in memory that carries requests out when they are submitted.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    seen: Vec<(Operation, u64, u64)>,
    fail: bool,
    fail_flush: bool,
    full: bool,
}

struct MemoryQueue {
    disk: MemoryDisk,
    accepted: Vec<Submission>,
    done: VecDeque<(u64, Outcome)>,
    event: EventFd,
}

impl MemoryDisk {
    fn new() -> Self {
        let content = Content { bytes: vec![0; (SECTORS * 512) as usize], ..Default::default() };
        Self(Arc::new(Mutex::new(content)))
    }

    fn seen(&self) -> Vec<(Operation, u64, u64)> {
        self.0.lock().unwrap().seen.clone()
    }
}

impl Backend for MemoryDisk {
    fn size(&self) -> u64 {
        SECTORS * 512
    }

    fn queue(&self, _depth: u32) -> io::Result<Box<dyn BackendQueue>> {
        Ok(Box::new(MemoryQueue {
            disk: self.clone(),
            accepted: Vec::new(),
            done: VecDeque::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        }))
    }
}

impl BackendQueue for MemoryQueue {
    unsafe fn push(&mut self, submission: Submission) -> bool {
        self.accepted.push(submission);
        true
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut content = self.disk.0.lock().unwrap();
        for Submission { operation, offset, len, data, tag } in self.accepted.drain(..) {
            content.seen.push((operation, offset, len));
            if content.full && operation != Operation::Read {
                self.done.push_back((tag, Outcome::NoRoom("no space left".to_owned())));
                continue;
            }
            let range = offset as usize..(offset + len) as usize;
            match operation {
                Operation::Read => assert_eq!(data.write(&content.bytes[range]) as u64, len),
                Operation::Write => assert_eq!(data.read(&mut content.bytes[range]) as u64, len),
                Operation::Discard | Operation::WriteZeroes { .. } => content.bytes[range].fill(0),
                Operation::Flush => {}
            }
            let failed = content.fail || content.fail_flush && operation == Operation::Flush;
            let failure = || Outcome::Failed("broken medium".to_owned());
            self.done.push_back((tag, if failed { failure() } else { Outcome::Done }));
        }
        self.event.write(1)
    }

    fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn pop(&mut self) -> Option<(u64, Outcome)> {
        let _ = self.event.read();
        self.done.pop_front()
    }
}

struct Setup {
    disk: MemoryDisk,
    shared: Arc<DiskShared>,
    driver: Driver,
    queue: DriverQueue,
}

fn set_up(read_only: bool, rates: Rates, features: u64) -> Setup {
    let disk = MemoryDisk::new();
    let config =
        BlockConfig { disk_id: "d-bp1234567890abcdefghij".to_owned(), read_only, queues: 1, rates };
    let device = BlockDevice::new(&config, &disk).unwrap();
    let shared = device.shared();
    let host = Host::new();
    let queue = DriverQueue::new(&host.memory, 0);
    let driver = host.attach(Box::new(device));
    driver.negotiate(driver.offered() & features);
    driver.set_up(0, &queue);
    driver.driver_ok();
    Setup { disk, shared, driver, queue }
}

fn plain() -> Setup {
    set_up(false, Rates::default(), u64::MAX)
}

const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STATUS: u64 = 0x3_0000;

impl Setup {
    fn put(&self, at: u64, bytes: &[u8]) {
        self.driver.host.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver.host.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn header(&self, kind: u32, sector: u64) {
        self.put(HEADER, &kind.to_le_bytes());
        self.put(HEADER + 8, &sector.to_le_bytes());
        self.put(STATUS, &[0xee]);
    }

    /// One request with data in the middle. Returns status and used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        self.header(kind, sector);
        let mut parts = vec![(HEADER, 16, false)];
        parts.extend(data);
        parts.push((STATUS, 1, true));
        let head = self.queue.submit(&parts);
        self.driver.ring(0);
        let (back, len) = self.queue.wait();
        assert_eq!(back, head);
        (self.get(STATUS, 1)[0], len)
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> (u8, u32) {
        self.put(DATA, &sector.to_le_bytes());
        self.put(DATA + 8, &sectors.to_le_bytes());
        self.put(DATA + 12, &flags.to_le_bytes());
        self.request(kind, 0, &[(DATA, 16, false)])
    }

    fn broken(&self) {
        eventually(|| self.driver.status() & 0x40 != 0);
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut setup = plain();
    setup.put(DATA, &[0xa5; 1024]);
    assert_eq!(setup.request(1, 3, &[(DATA, 1024, false)]), (0, 1));
    assert_eq!(setup.disk.seen(), vec![(Operation::Write, 3 * 512, 1024)]);
    setup.put(DATA, &[0; 1024]);
    assert_eq!(setup.request(0, 3, &[(DATA, 512, true), (DATA + 512, 512, true)]), (0, 1025));
    assert_eq!(setup.get(DATA, 1024), vec![0xa5; 1024]);
    assert_eq!(setup.request(4, 0, &[]), (0, 1));
    let stats = setup.shared.counters.snapshot("d");
    assert_eq!((stats.writes, stats.reads, stats.flushes, stats.errors), (1, 1, 1, 0));
    assert_eq!((stats.write_bytes, stats.read_bytes), (1024, 1024));
}

#[test]
fn a_driver_that_knows_no_flush_is_told_of_writes_that_last() {
    const FLUSH: u64 = 1 << 9;
    let mut setup = set_up(false, Rates::default(), !FLUSH);
    assert_eq!(setup.request(1, 0, &[(DATA, 512, false)]), (0, 1));
    assert_eq!(setup.range(13, 8, 8, 0), (0, 1));
    assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]), (0, 513));
    let seen: Vec<_> = setup.disk.seen().into_iter().map(|(operation, ..)| operation).collect();
    let zeroes = Operation::WriteZeroes { unmap: false };
    let flush = Operation::Flush;
    assert_eq!(seen, [Operation::Write, flush, zeroes, flush, Operation::Read]);
    setup.disk.0.lock().unwrap().fail_flush = true;
    assert_eq!(setup.request(1, 0, &[(DATA, 512, false)]), (1, 1));
    let stats = setup.shared.counters.snapshot("d");
    assert_eq!((stats.writes, stats.flushes, stats.errors), (1, 0, 1));
}

#[test]
fn without_event_index_and_with_indirect_tables_it_works_too() {
    for features in [VERSION_1, VERSION_1 | INDIRECT, VERSION_1 | INDIRECT | EVENT_IDX] {
        let mut setup = set_up(false, Rates::default(), features);
        setup.header(0, 0);
        let parts = [(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)];
        let head = setup.queue.submit_indirect(0x4_0000, &parts);
        setup.driver.ring(0);
        assert_eq!(setup.queue.wait(), (head, 513));
        assert_eq!(setup.get(STATUS, 1), [0]);
    }
}

#[test]
fn framing_is_the_drivers_choice() {
    let mut setup = plain();
    setup.header(0, 1);
    setup.disk.0.lock().unwrap().bytes[512..1024].fill(7);
    // The header in two parts; data and status in one.
    let parts = [(HEADER, 5, false), (HEADER + 5, 11, false), (DATA, 513, true)];
    setup.put(DATA + 512, &[0xee]);
    setup.queue.submit(&parts);
    setup.driver.ring(0);
    assert_eq!(setup.queue.wait().1, 513);
    assert_eq!(setup.get(DATA, 513), [vec![7; 512], vec![0]].concat());
}

#[test]
fn the_serial_number_is_the_disks_id_without_its_kind() {
    let mut setup = plain();
    assert_eq!(setup.request(8, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(setup.get(DATA, 20), b"bp1234567890abcdefgh");
    assert_eq!(setup.request(8, 0, &[(DATA, 19, true)]).0, 1);
}

#[test]
fn discard_and_write_zeroes_reach_the_image() {
    let mut setup = plain();
    assert_eq!(setup.range(11, 8, 16, 0), (0, 1));
    assert_eq!(setup.range(13, 0, 8, 1), (0, 1));
    assert_eq!(setup.range(13, 0, 8, 0), (0, 1));
    assert_eq!(
        setup.disk.seen(),
        vec![
            (Operation::Discard, 8 * 512, 16 * 512),
            (Operation::WriteZeroes { unmap: true }, 0, 8 * 512),
            (Operation::WriteZeroes { unmap: false }, 0, 8 * 512),
        ]
    );
    // Flags, ranges and lengths a disk does not know.
    assert_eq!(setup.range(11, 0, 8, 1).0, 2);
    assert_eq!(setup.range(13, 0, 8, 2).0, 2);
    assert_eq!(setup.range(11, SECTORS - 1, 2, 0).0, 1);
    assert_eq!(setup.range(11, u64::MAX, 2, 0).0, 1);
    assert_eq!(setup.range(11, 0, 0, 0).0, 1);
    assert_eq!(setup.request(11, 0, &[(DATA, 15, false)]).0, 1);
    assert_eq!(setup.request(11, 0, &[(DATA, 32, false)]).0, 1);
    assert_eq!(setup.disk.seen().len(), 3);
}

#[test]
fn bad_requests_get_an_error_and_nothing_else() {
    let mut setup = plain();
    assert_eq!(setup.request(99, 0, &[(DATA, 512, true)]).0, 2);
    assert_eq!(setup.request(0, SECTORS, &[(DATA, 512, true)]).0, 1);
    assert_eq!(setup.request(0, SECTORS - 1, &[(DATA, 1024, true)]).0, 1);
    assert_eq!(setup.request(0, u64::MAX, &[(DATA, 512, true)]).0, 1);
    assert_eq!(setup.request(0, u64::MAX / 512 + 1, &[(DATA, 512, true)]).0, 1);
    assert_eq!(setup.request(0, 0, &[(DATA, 511, true)]).0, 1);
    assert_eq!(setup.request(0, 0, &[]).0, 1);
    assert_eq!(setup.request(1, 0, &[]).0, 1);
    assert_eq!(setup.request(1, 0, &[(DATA, 512, true)]).0, 1);
    assert_eq!(setup.request(0, 0, &[(DATA, 512, false)]).0, 1);
    assert!(setup.disk.seen().is_empty());
    assert_eq!(setup.driver.status() & 0x40, 0);
    setup.disk.0.lock().unwrap().fail = true;
    assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]), (1, 1));
    assert_eq!(setup.shared.counters.snapshot("d").errors, 11);
}

#[test]
fn a_read_only_disk_is_never_changed() {
    let mut setup = set_up(true, Rates::default(), u64::MAX);
    assert_ne!(setup.driver.offered() & 1 << 5, 0);
    assert_eq!(setup.driver.offered() & (1 << 13 | 1 << 14), 0);
    assert_eq!(setup.request(1, 0, &[(DATA, 512, false)]).0, 1);
    assert_eq!(setup.range(11, 0, 8, 0).0, 1);
    assert_eq!(setup.range(13, 0, 8, 0).0, 1);
    assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]).0, 0);
    assert_eq!(setup.disk.seen(), vec![(Operation::Read, 0, 512)]);
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_works_after_it() {
    type Break = fn(&mut Setup);
    let breaks: [Break; 7] = [
        // No place for the status.
        |setup| {
            setup.queue.submit(&[(HEADER, 16, false)]);
        },
        // Header too short.
        |setup| {
            setup.queue.submit(&[(HEADER, 15, false), (STATUS, 1, true)]);
        },
        // Outside memory, and around the end of the address space.
        |setup| {
            setup.queue.submit(&[(1 << 40, 16, false), (STATUS, 1, true)]);
        },
        |setup| {
            setup.queue.submit(&[(u64::MAX - 3, 16, false), (STATUS, 1, true)]);
        },
        // Readable after writable.
        |setup| {
            setup.queue.submit(&[(STATUS, 1, true), (HEADER, 16, false)]);
        },
        // More buffers than there can be.
        |setup| setup.queue.set_available(100),
        // A descriptor that does not exist.
        |setup| setup.queue.offer(16),
    ];
    for broken in breaks {
        let mut setup = plain();
        broken(&mut setup);
        setup.driver.ring(0);
        setup.broken();
        setup.queue = DriverQueue::new(&setup.driver.host.memory, 0);
        setup.driver.negotiate(VERSION_1);
        setup.driver.set_up(0, &setup.queue);
        setup.driver.driver_ok();
        assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]), (0, 513));
    }
}

#[test]
fn a_chain_in_a_circle_ends() {
    let mut setup = plain();
    // Two descriptors that name each other.
    setup.queue.descriptor(0, HEADER, 16, 1, 1);
    setup.queue.descriptor(16, HEADER, 16, 1, 0);
    setup.queue.offer(0);
    setup.driver.ring(0);
    setup.broken();
}

#[test]
fn the_rate_holds_over_a_queue_and_changes_at_once() {
    let mut setup = set_up(false, Rates { iops: 100, bytes_per_second: 0 }, u64::MAX);
    let start = Instant::now();
    for _ in 0..13 {
        assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]).0, 0);
    }
    // Two are the burst and one is free; ten more take 10 ms each.
    assert!(start.elapsed().as_millis() >= 95, "{:?}", start.elapsed());
    assert!(setup.shared.counters.snapshot("d").throttled_ns > 50_000_000);
    setup.shared.limiter.set(Rates { iops: 0, bytes_per_second: 1 });
    assert_eq!(setup.request(0, 0, &[(DATA, 512, true)]).0, 0);
    setup.header(0, 0);
    setup.queue.submit(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    setup.driver.ring(0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(setup.queue.take(), None, "512 s of debt are not forgotten");
    setup.shared.limiter.set(Rates::default());
    assert_eq!(setup.queue.wait().1, 513);
}

#[test]
fn a_request_that_waits_behind_the_limit_counts_from_when_the_guest_put_it_up() {
    let mut setup = set_up(false, Rates { iops: 10, bytes_per_second: 0 }, u64::MAX);
    setup.header(0, 0);
    for _ in 0..4 {
        setup.queue.submit(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    }
    setup.driver.ring(0);
    for _ in 0..4 {
        setup.queue.wait();
    }
    let stats = setup.shared.counters.snapshot("d");
    assert_eq!((stats.reads, stats.throttled), (4, 3));
    // They start at 0, 80, 180 and 280 ms.
    let over_131_ms: u64 = stats.read_latency[18..].iter().sum();
    assert_eq!(over_131_ms, 2, "{:?}", stats.read_latency);
}

#[test]
fn a_reset_does_not_wait_for_the_rate() {
    let mut setup = set_up(false, Rates { iops: 0, bytes_per_second: 1 }, u64::MAX);
    setup.header(0, 0);
    for _ in 0..3 {
        setup.queue.submit(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    }
    setup.driver.ring(0);
    setup.queue.wait();
    let start = Instant::now();
    setup.driver.write8(0x14, 0);
    assert!(start.elapsed().as_secs() < 5);
    assert_eq!(setup.driver.status(), 0);
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let setup = plain();
    let config = |at: u64| setup.driver.read32(0x2000 + at);
    assert_eq!(u64::from_le_bytes(setup.driver.read(0x2000)), SECTORS);
    assert_eq!(config(12), 254, "seg_max");
    assert_eq!(config(20), 512, "blk_size");
    assert_eq!(setup.driver.read8(0x2018), 3, "physical_block_exp");
    assert_eq!(setup.driver.read16(0x2022), 1, "num_queues");
    assert_eq!(config(36), 1 << 21, "max_discard_sectors");
    assert_eq!(config(40), 1, "max_discard_seg");
    assert_eq!(config(48), 1 << 21, "max_write_zeroes_sectors");
    assert_eq!(setup.driver.read8(0x2038), 1, "write_zeroes_may_unmap");
    assert_eq!(config(0x100), 0, "nothing behind the end");
}

impl Setup {
    fn full(&self, full: bool) {
        self.disk.0.lock().unwrap().full = full;
    }

    /// A write that finds no room; returns once it waits.
    fn write_without_room(&mut self) {
        self.full(true);
        self.header(1, 0);
        self.queue.submit(&[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
        self.driver.ring(0);
        eventually(|| self.trouble().no_room_since_unix_ms > 0);
    }

    fn trouble(&self) -> api::vmm::AttachedDisk {
        let mut disk = api::vmm::AttachedDisk::default();
        self.shared.trouble.describe(&mut disk);
        disk
    }
}

#[test]
fn what_finds_no_room_waits_for_it_and_reads_go_on() {
    let mut setup = plain();
    setup.put(DATA, &[0xa5; 512]);
    setup.write_without_room();
    // With a header and a status of its own.
    setup.put(HEADER + 0x100, &0u32.to_le_bytes());
    setup.put(HEADER + 0x108, &9u64.to_le_bytes());
    let read = [(HEADER + 0x100, 16, false), (DATA + 0x1000, 512, true), (STATUS + 0x100, 1, true)];
    let head = setup.queue.submit(&read);
    setup.driver.ring(0);
    assert_eq!(setup.queue.wait(), (head, 513), "a read needs no room");
    assert_eq!(setup.get(STATUS, 1), [0xee], "the write is not answered");
    setup.full(false);
    assert_eq!(setup.queue.wait().1, 1);
    assert_eq!(setup.get(STATUS, 1), [0]);
    assert_eq!(setup.disk.0.lock().unwrap().bytes[..512], [0xa5; 512]);
    let told = setup.trouble();
    assert_eq!((told.no_room_since_unix_ms, told.failed_requests), (0, 0));
    assert_eq!(setup.shared.counters.snapshot("d").errors, 0);
}

#[test]
fn a_driver_that_resets_a_full_disk_does_not_wait_for_room() {
    let mut setup = plain();
    setup.write_without_room();
    setup.driver.negotiate(setup.driver.offered());
    assert_eq!(setup.trouble().no_room_since_unix_ms, 0);
    setup.queue = DriverQueue::new(&setup.driver.host.memory, 0);
    setup.driver.set_up(0, &setup.queue);
    setup.driver.driver_ok();
    setup.full(false);
    assert_eq!(setup.request(4, 0, &[]).0, 0);
    let writes = setup.disk.seen().into_iter().filter(|seen| seen.0 == Operation::Write).count();
    std::thread::sleep(std::time::Duration::from_millis(600));
    let later = setup.disk.seen().into_iter().filter(|seen| seen.0 == Operation::Write).count();
    assert_eq!(later, writes, "what was forgotten is not written");
}

#[test]
fn what_the_host_fails_is_told_with_the_reason() {
    let mut setup = plain();
    setup.disk.0.lock().unwrap().fail = true;
    assert_eq!(setup.request(1, 0, &[(DATA, 512, false)]), (1, 1));
    let told = setup.trouble();
    assert_eq!((told.failed_requests, told.last_failure.as_str()), (1, "broken medium"));
    assert!(told.last_failure_unix_ms > 0);
}
