use super::device::RngDevice;
use crate::virtio::testing::{DriverQueue, Host, eventually};
use vm_memory::{Bytes, GuestAddress};

const DATA: u64 = 0x1_0000;

#[test]
fn buffers_are_filled_within_bounds() {
    let host = Host::new();
    let memory = host.memory.clone();
    let mut queue = DriverQueue::new(&memory, 0);
    let driver = host.attach(Box::new(RngDevice::new().unwrap()));
    driver.negotiate(driver.offered());
    driver.set_up(0, &queue);
    driver.driver_ok();
    let head = queue.submit(&[(DATA, 32, true), (DATA + 0x100, 32, true)]);
    driver.ring(0);
    assert_eq!(queue.wait(), (head, 64));
    let read = |at| memory.read_obj::<[u8; 32]>(GuestAddress(at)).unwrap();
    assert_ne!(read(DATA), [0; 32]);
    assert_ne!(read(DATA + 0x100), read(DATA));
    assert_eq!(read(DATA + 32), [0; 32], "nothing beyond the buffer");
    // More than one request gives: the driver gets less, never the process more work.
    queue.submit(&[(DATA, 1 << 20, true)]);
    driver.ring(0);
    assert_eq!(queue.wait().1, 4096);
    // Nothing to write to.
    queue.submit(&[(DATA, 32, false)]);
    driver.ring(0);
    assert_eq!(queue.wait().1, 0);
    queue.submit(&[(1 << 40, 32, true)]);
    driver.ring(0);
    eventually(|| driver.status() & 0x40 != 0);
}
