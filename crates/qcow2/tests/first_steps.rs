//! The basics, one by one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::os::fd::AsRawFd;

use qcow2::{CreateOptions, Format, Image, IoQueue, Op, OpenOptions, Request};
use support::*;

#[test]
fn an_overlay_shows_its_base_and_keeps_writes_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    let mut model = pattern(1, 1 << 20);
    std::fs::write(&base, &model).unwrap();
    let mut chain = Chain { paths: vec![(base.clone(), qcow2::Format::Raw)] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 3 << 19, ..Default::default() });
    model.resize(3 << 19, 0);
    let image = chain.open();
    assert_same(&read_all(&image), &model);
    let data = pattern(2, 100_000);
    image.write_at(&data, 70_001).unwrap();
    model[70_001..170_001].copy_from_slice(&data);
    image.write_zeroes(200_000, 300_000, true).unwrap();
    model[200_000..500_000].fill(0);
    assert_same(&read_all(&image), &model);
    image.flush().unwrap();
    assert_same(&read_all(&image), &model);
    drop(image);
    assert_eq!(std::fs::read(&base).unwrap(), pattern(1, 1 << 20));
    must(&["check", "-f", "qcow2", chain.paths[0].0.to_str().unwrap()]);
    compare(&chain.paths[0].0, &model);
    assert_same(&read_all(&chain.open()), &model);
}

#[test]
fn a_queue_completes_what_was_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 64 << 20, ..Default::default() });
    let image = chain.open();
    let mut queue = image.io_queue(32).unwrap();
    assert!(queue.uses_io_uring(), "this host has io_uring");
    let data = pattern(3, 1 << 20);
    let mut target = vec![0u8; 1 << 20];
    for (op, memory) in [(Op::Write, data.as_ptr()), (Op::Read, target.as_mut_ptr().cast_const())] {
        for at in 0..32u64 {
            let base = memory.wrapping_add((at as usize) << 15);
            let iov = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: 1 << 15 };
            let offset = 1 << 20 | at << 15;
            let request =
                Request { op, offset, len: 1 << 15, iovecs: [iov].into_iter().collect(), tag: at };
            // SAFETY: both buffers outlive the queue's use of them below.
            unsafe { queue.push(request) }.unwrap();
        }
        queue.submit().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 32 {
            while let Some(done) = queue.pop() {
                done.result.unwrap();
                assert!(seen.insert(done.tag));
            }
        }
    }
    assert_same(&target, &data);
}

fn wait_all(queue: &mut IoQueue, count: usize) -> Vec<(u64, Result<(), i32>)> {
    let mut done = Vec::new();
    while done.len() < count {
        let mut poll =
            libc::pollfd { fd: queue.event_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "nothing within 10 s");
        while let Some(completion) = queue.pop() {
            done.push((completion.tag, completion.result.map_err(|e| e.errno())));
        }
    }
    done.sort_unstable();
    done
}

fn request(op: Op, offset: u64, len: u64, memory: &mut [u8], tag: u64) -> Request {
    let iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    let iovecs = (!memory.is_empty()).then_some(iov).into_iter().collect();
    Request { op, offset, len, iovecs, tag }
}

#[test]
fn a_queue_reports_errors_and_is_full_at_its_depth() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 1 << 20, ..Default::default() });
    let image = chain.open();
    let mut queue = image.io_queue(5).unwrap();
    let mut memory = vec![1u8; 4096];
    let bad = [
        request(Op::Read, (1 << 20) - 512, 4096, &mut memory, 0),
        request(Op::Write, u64::MAX - 100, 4096, &mut memory, 1),
        request(Op::Write, 0, 100, &mut memory, 2),
        request(Op::Discard, 1 << 20, 1, &mut [], 3),
        request(Op::Flush, 0, 0, &mut [], 4),
    ];
    for one in bad {
        // SAFETY: the memory outlives the queue's use of it.
        unsafe { queue.push(one) }.unwrap();
    }
    // SAFETY: as above.
    let refused = unsafe { queue.push(request(Op::Flush, 0, 0, &mut [], 5)) };
    assert_eq!(refused.unwrap_err().0.tag, 5);
    queue.submit().unwrap();
    let einval = Err(libc::EINVAL);
    let expected = vec![(0, einval), (1, einval), (2, einval), (3, einval), (4, Ok(()))];
    assert_eq!(wait_all(&mut queue, 5), expected);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn a_dropped_queue_has_finished_its_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 32 << 20, ..Default::default() });
    let image = chain.open();
    let mut data = pattern(8, 16 << 20);
    let mut queue = image.io_queue(64).unwrap();
    for (i, part) in data.chunks_mut(1 << 18).enumerate() {
        let offset = (i as u64) << 18 | 777;
        // SAFETY: the data outlives the queue.
        unsafe { queue.push(request(Op::Write, offset, 1 << 18, part, 0)) }.unwrap();
    }
    queue.submit().unwrap();
    drop(queue);
    let mut read = vec![0; 16 << 20];
    for i in 0..64usize {
        image.read_at(&mut read[i << 18..][..1 << 18], (i as u64) << 18 | 777).unwrap();
    }
    // Parts were written 777 bytes further on and do not overlap.
    assert_same(&read, &data);
}

#[test]
fn discarded_space_goes_back_to_the_host_and_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 64 << 20, ..Default::default() });
    let image = chain.open();
    image.write_at(&pattern(1, 32 << 20), 0).unwrap();
    image.flush().unwrap();
    let full = image.allocated_bytes().unwrap();
    image.discard(0, 32 << 20).unwrap();
    image.flush().unwrap();
    let empty = image.allocated_bytes().unwrap();
    assert!(full > 32 << 20 && empty < 1 << 20, "{full} {empty}");
    image.flush().unwrap();
    let len = std::fs::metadata(&chain.paths[0].0).unwrap().len();
    for round in 0..4 {
        image.write_at(&pattern(round, 30 << 20), 20 << 20).unwrap();
        image.discard(20 << 20, 30 << 20).unwrap();
        image.flush().unwrap();
        image.flush().unwrap();
    }
    assert_eq!(std::fs::metadata(&chain.paths[0].0).unwrap().len(), len, "the file grew");
}

#[test]
fn more_tables_than_the_cache_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    let options = CreateOptions { virtual_size: 4 << 30, cluster_bits: 12, ..Default::default() };
    chain.overlay(dir.path(), &options);
    let image = chain.open();
    // Every write has an L2 slice of its own: 700 of 4 KiB, where 256 fit.
    for i in 0..700u64 {
        image.write_at(&pattern(i, 3000), i * (5 << 20) + 100).unwrap();
    }
    for i in (0..700u64).rev() {
        let mut data = vec![0; 3000];
        image.read_at(&mut data, i * (5 << 20) + 100).unwrap();
        assert_same(&data, &pattern(i, 3000));
    }
    drop(image);
    check_clean(&chain.paths[0].0);
}

#[test]
fn a_raw_disk_takes_every_operation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let mut model = pattern(3, 1 << 20);
    std::fs::write(&path, &model).unwrap();
    let layers = vec![layer(&path, Format::Raw, true)];
    let image = Image::open(layers, OpenOptions::default()).unwrap();
    image.write_at(&pattern(4, 5000), 1234).unwrap();
    model[1234..6234].copy_from_slice(&pattern(4, 5000));
    image.write_zeroes(100_000, 50_000, false).unwrap();
    image.write_zeroes(300_001, 50_000, true).unwrap();
    model[100_000..150_000].fill(0);
    model[300_001..350_001].fill(0);
    image.grow(2 << 20).unwrap();
    model.resize(2 << 20, 0);
    assert_same(&read_all(&image), &model);
    image.discard(500_000, 300_000).unwrap();
    image.flush().unwrap();
    model[500_000..800_000].fill(0);
    assert_same(&std::fs::read(&path).unwrap(), &model);
}

#[test]
fn what_only_reads_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    let options = CreateOptions { virtual_size: 1 << 20, ..Default::default() };
    chain.overlay(dir.path(), &options);
    chain.open().write_at(&pattern(1, 100_000), 0).unwrap();
    chain.overlay(dir.path(), &options);
    let before: Vec<_> = chain.paths.iter().map(|p| std::fs::read(&p.0).unwrap()).collect();
    let image = chain.open_with(OpenOptions { read_only: true });
    assert_eq!(image.write_at(&[1], 0).unwrap_err().errno(), libc::EROFS);
    assert_eq!(image.discard(0, 1 << 20).unwrap_err().errno(), libc::EROFS);
    assert_eq!(image.grow(2 << 20).unwrap_err().errno(), libc::EROFS);
    image.flush().unwrap();
    assert_same(&read_all(&image)[..100_000], &pattern(1, 100_000));
    drop(image);
    let image = chain.open();
    image.write_at(&[5; 4096], 50_000).unwrap();
    drop(image);
    for (path, before) in chain.paths.iter().zip(before).skip(1) {
        assert_same(&std::fs::read(&path.0).unwrap(), &before);
    }
}
