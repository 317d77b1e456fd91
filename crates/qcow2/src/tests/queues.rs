//! Several queues on the same clusters at once.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use smallvec::smallvec;

use super::medium::pattern;
use crate::{
    Backing, CreateOptions, Format, Image, IoQueue, Iovecs, Layer, Op, OpenOptions, Request, check,
};

const QUEUES: u64 = 4;
pub(super) const SECTORS: u64 = 6000;
const DEPTH: usize = 16;

pub(super) fn wait(queue: &IoQueue) {
    use std::os::fd::AsRawFd;
    let fd = queue.event_fd().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
    assert_eq!(ready, 1, "no completion within 20 s");
}

/// How a queue gets its work done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// By itself where the host has it in memory, otherwise through a ring.
    Direct,
    /// All through a ring.
    Ring,
    /// Without a ring.
    Plain,
}

/// One thread: random requests on the sectors it owns, interleaved with everyone else's.
pub(super) fn worker(
    image: &Arc<Image>,
    me: u64,
    rounds: u64,
    calls: Calls,
) -> HashMap<u64, Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(me);
    let mut queue = image.io_queue(DEPTH as u32).unwrap();
    if calls == Calls::Ring {
        queue.use_ring_only();
    }
    let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut mine: Vec<u64> = (0..SECTORS).filter(|s| s % QUEUES == me).collect();
    for round in 0..rounds {
        mine.partial_shuffle(&mut rng, DEPTH);
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        let mut ops = Vec::new();
        for (i, sector) in mine[mine.len() - DEPTH..].iter().enumerate() {
            let op = match rng.random_range(0..10) {
                0..=4 => Op::Write,
                5..=7 => Op::Read,
                8 => Op::WriteZeroes { unmap: true },
                _ => Op::Flush,
            };
            buffers.push(pattern(me << 32 | round << 8 | i as u64, 512));
            ops.push((op, *sector));
        }
        for (i, (op, sector)) in ops.iter().enumerate() {
            let base = buffers[i].as_mut_ptr();
            // Two iovecs, so that splitting is exercised.
            let iovecs = match op {
                Op::Read | Op::Write => smallvec![
                    libc::iovec { iov_base: base.cast(), iov_len: 100 },
                    libc::iovec { iov_base: base.wrapping_add(100).cast(), iov_len: 412 },
                ],
                _ => Iovecs::new(),
            };
            let (offset, len) = (sector * 512, 512);
            let request = Request { op: *op, offset, len, iovecs, tag: i as u64 };
            // SAFETY: the buffers live until every completion has been popped below.
            unsafe { queue.push(request) }.unwrap();
        }
        queue.submit().unwrap();
        let mut left = ops.len();
        while left > 0 {
            wait(&queue);
            while let Some(done) = queue.pop() {
                done.result.unwrap();
                left -= 1;
                let (op, sector) = ops[done.tag as usize];
                let buffer = &buffers[done.tag as usize];
                match op {
                    Op::Write => drop(model.insert(sector, buffer.clone())),
                    Op::WriteZeroes { .. } => drop(model.insert(sector, vec![0; 512])),
                    Op::Read => {
                        if let Some(expected) = model.get(&sector) {
                            assert_eq!(buffer, expected, "queue {me}, sector {sector}");
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    model
}

/// Put a new top on the chain; `paths` names its layers so far, top first.
fn switch(image: &Image, dir: &Path, paths: &mut Vec<(PathBuf, Format)>, cluster_bits: u32) {
    let path = dir.join(format!("top{}", paths.len()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let name = paths[0].0.to_str().unwrap().into();
    let options = CreateOptions {
        virtual_size: image.virtual_size(),
        cluster_bits,
        backing: Some(Backing { name, format: paths[0].1 }),
        ..Default::default()
    };
    crate::create(&file, &options).unwrap();
    let backing = paths
        .iter()
        .map(|(path, format)| Layer { file: File::open(path).unwrap(), format: *format });
    let top = Layer { file, format: Format::Qcow2 };
    image.switch_layers(Some(top), backing.collect()).unwrap();
    paths.insert(0, (path, Format::Qcow2));
}

fn several_queues(cluster_bits: u32, calls: Calls, with_base: bool, switches: bool) {
    let dir = tempfile::tempdir().unwrap();
    let size = SECTORS * 512;
    let base = dir.path().join("base");
    let base_data = if with_base { pattern(9, size as usize) } else { vec![0; size as usize] };
    std::fs::write(&base, &base_data).unwrap();
    let path = dir.path().join("top");
    let top = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let backing =
        with_base.then(|| Backing { name: base.to_str().unwrap().into(), format: Format::Raw });
    // Two megabytes more, where one thread discards and rewrites, so that clusters move around.
    let churn = size.next_multiple_of(1 << 20);
    let options = CreateOptions {
        virtual_size: churn + (2 << 20),
        cluster_bits,
        backing,
        ..Default::default()
    };
    crate::create(&top, &options).unwrap();
    let mut layers = vec![Layer { file: top, format: Format::Qcow2 }];
    if with_base {
        layers.push(Layer { file: File::open(&base).unwrap(), format: Format::Raw });
    }
    let image = Image::open(layers, OpenOptions::default()).unwrap();
    image.no_ring.store(calls == Calls::Plain, Ordering::Relaxed);
    let rounds = 60;
    let mut paths = vec![(path, Format::Qcow2)];
    if with_base {
        paths.push((base, Format::Raw));
    }
    let mut churned = vec![0u8; 2 << 20];
    let models: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..QUEUES)
            .map(|me| {
                let image = &image;
                scope.spawn(move || worker(image, me, rounds, calls))
            })
            .collect();
        let mut rng = StdRng::seed_from_u64(77);
        for round in 0..rounds {
            let at = rng.random_range(0..(2u64 << 20) - 200_000) as usize;
            let data = pattern(round, rng.random_range(1..200_000));
            image.write_at(&data, churn + at as u64).unwrap();
            churned[at..at + data.len()].copy_from_slice(&data);
            let at = rng.random_range(0..(2u64 << 20) - 200_000);
            image.discard(churn + at, 200_000).unwrap();
            image.read_at(&mut churned[at as usize..][..200_000], churn + at).unwrap();
            if round % 3 == 0 {
                image.flush().unwrap();
            }
            if switches && round % 8 == 7 {
                // Overlays with other cluster sizes than what they lie on.
                switch(&image, dir.path(), &mut paths, 9 + (cluster_bits + round as u32) % 8);
            }
        }
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    let mut expected = base_data;
    for (sector, data) in models.into_iter().flatten() {
        expected[(sector * 512) as usize..][..512].copy_from_slice(&data);
    }
    let mut actual = vec![0; size as usize];
    image.read_at(&mut actual, 0).unwrap();
    assert!(actual == expected, "data differs");
    let mut actual = vec![0; 2 << 20];
    image.read_at(&mut actual, churn).unwrap();
    assert!(actual == churned, "churned data differs");
    image.flush().unwrap();
    drop(image);
    for (path, format) in paths {
        if format == Format::Qcow2 {
            let report = check(&File::open(&path).unwrap()).unwrap();
            assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
        }
    }
}

#[test]
fn queues_with_io_uring_share_clusters_without_losing_writes() {
    for calls in [Calls::Direct, Calls::Ring] {
        several_queues(16, calls, true, false);
        several_queues(12, calls, false, false);
        several_queues(9, calls, true, false);
    }
}

#[test]
fn queues_with_plain_calls_share_clusters_without_losing_writes() {
    several_queues(16, Calls::Plain, true, false);
    several_queues(12, Calls::Plain, false, false);
}

#[test]
fn queues_go_on_while_layers_are_switched() {
    several_queues(16, Calls::Direct, true, true);
    several_queues(16, Calls::Ring, true, true);
    several_queues(12, Calls::Ring, false, true);
    several_queues(12, Calls::Plain, true, true);
}

#[test]
fn a_queue_may_move_to_its_thread_and_an_image_be_shared() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<IoQueue>();
    is_send::<Arc<Image>>();
    is_sync::<Image>();
}

fn small_image() -> Arc<Image> {
    let file = tempfile::tempfile().unwrap();
    crate::create(&file, &CreateOptions { virtual_size: 1 << 20, ..Default::default() }).unwrap();
    let layers = vec![Layer { file, format: Format::Qcow2 }];
    Image::open(layers, OpenOptions::default()).unwrap()
}

#[test]
fn a_host_that_takes_nothing_for_a_while_is_asked_again() {
    let image = small_image();
    let mut queue = image.io_queue(4).unwrap();
    queue.use_ring_only();
    let mut buffer = vec![7u8; 4096];
    image.write_at(&buffer, 0).unwrap();
    queue.set_busy(3);
    let iovecs =
        [libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 4096 }].into_iter().collect();
    // SAFETY: the buffer lives until the completion has been popped.
    unsafe { queue.push(Request { op: Op::Read, offset: 0, len: 4096, iovecs, tag: 1 }) }.unwrap();
    queue.submit().unwrap();
    loop {
        wait(&queue);
        if let Some(done) = queue.pop() {
            done.result.unwrap();
            break;
        }
    }
    assert_eq!(buffer, [7; 4096]);
}

/// A read of 4 KiB from the front of the disk.
fn read(buffer: &mut [u8; 4096]) -> Request {
    let iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    Request { op: Op::Read, offset: 0, len: 4096, iovecs: smallvec![iov], tag: 1 }
}

fn is_told(queue: &IoQueue) -> bool {
    use std::os::fd::AsRawFd;
    let fd = queue.event_fd().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

#[test]
fn what_the_host_has_in_memory_waits_for_no_ring() {
    let image = small_image();
    image.write_at(&[7; 4096], 0).unwrap();
    let mut queue = image.io_queue(4).unwrap();
    let mut buffer = [0; 4096];
    // SAFETY: the buffer lives until the completion has been popped.
    unsafe { queue.push(read(&mut buffer)) }.unwrap();
    assert!(queue.has_completions(), "before it was submitted");
    queue.pop().unwrap().result.unwrap();
    assert_eq!(buffer, [7; 4096]);
}

#[test]
fn who_watches_a_queue_is_told_of_nothing_until_it_rests() {
    let image = small_image();
    image.write_at(&[7; 4096], 0).unwrap();
    let mut queue = image.io_queue(4).unwrap();
    if !queue.uses_io_uring() {
        return;
    }
    queue.use_ring_only();
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        queue.watch();
        // SAFETY: the buffer lives until the completion has been popped.
        unsafe { queue.push(read(&mut buffer)) }.unwrap();
        queue.submit().unwrap();
        while !queue.has_completions() {
            std::thread::yield_now();
        }
        assert!(!is_told(&queue));
        assert!(queue.rest(), "it is there already");
        queue.pop().unwrap().result.unwrap();
        assert!(!queue.rest());
        // SAFETY: as above.
        unsafe { queue.push(read(&mut buffer)) }.unwrap();
        queue.submit().unwrap();
        wait(&queue);
        queue.pop().unwrap().result.unwrap();
    }
}

#[test]
fn a_ring_does_nothing_but_disk_operations() {
    let mut queue = small_image().io_queue(4).unwrap();
    match queue.try_forbidden() {
        Some(answer) => assert_eq!(answer, -i64::from(libc::EACCES)),
        None => eprintln!("this host has no io_uring: plain calls are used"),
    }
}
