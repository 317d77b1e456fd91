//! Queues on rings that were made before.

use std::sync::Arc;

use super::queues::wait;
use crate::{Format, Image, IoQueue, Layer, Op, OpenOptions, Request, RingPool};

fn disk(fill: u8) -> Arc<Image> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let layer = Layer { file, format: Format::Raw };
    let image = Image::open(vec![layer], OpenOptions::default()).unwrap();
    image.write_at(&[fill; 4096], 0).unwrap();
    image
}

fn read(queue: &mut IoQueue, tag: u64) -> Vec<u8> {
    let mut data = vec![0; 4096];
    let iovecs = [libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }]
        .into_iter()
        .collect();
    let request = Request { op: Op::Read, offset: 0, len: 4096, iovecs, tag };
    // SAFETY: the buffer outlives the completion that is waited for below.
    unsafe { queue.push(request) }.unwrap();
    queue.submit().unwrap();
    wait(queue);
    let completion = queue.pop().unwrap();
    assert_eq!(completion.tag, tag);
    completion.result.unwrap();
    data
}

#[test]
fn rings_come_back_and_serve_other_disks() {
    let pool = RingPool::new(2, 8);
    let made = pool.spare();
    for fill in 1..=20 {
        let image = disk(fill);
        let mut queues: Vec<_> = (0..3).map(|_| image.io_queue_from(&pool, 8).unwrap()).collect();
        assert_eq!(pool.spare(), 0);
        let on_rings = queues.iter().filter(|queue| queue.uses_io_uring()).count();
        assert_eq!(on_rings, made, "the others use plain calls");
        for (tag, queue) in queues.iter_mut().enumerate() {
            assert_eq!(read(queue, tag as u64), [fill; 4096]);
        }
        // One goes with a request under way and a completion nobody took.
        let mut data = vec![0; 4096];
        let iovecs = [libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }]
            .into_iter()
            .collect();
        let request = Request { op: Op::Read, offset: 0, len: 4096, iovecs, tag: 99 };
        // SAFETY: the buffer outlives the queue, which waits as it is dropped.
        unsafe { queues[0].push(request) }.unwrap();
        queues[0].submit().unwrap();
        drop(queues);
        assert_eq!(pool.spare(), made);
        drop(data);
    }
    let deep = disk(1).io_queue_from(&pool, 9).unwrap();
    assert!(!deep.uses_io_uring());
}
