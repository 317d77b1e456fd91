//! How fast a disk in the page cache is: measurements, run one by one in release mode with
//! `--ignored --nocapture`. They judge nothing, as the machine may have other work.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use qcow2::{CreateOptions, Image, IoQueue, Op, OpenOptions, Request};
use support::{Chain, pattern};

const ROUND: Duration = Duration::from_millis(400);

fn wait(queue: &IoQueue) {
    let fd = queue.event_fd().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
    assert_eq!(ready, 1, "no completion within 20 s");
}

/// Requests a second of 4 KiB at random places, `depth` at once.
fn queued(image: &Arc<Image>, size: u64, depth: u64, op: Op) -> f64 {
    let mut rng = StdRng::seed_from_u64(7);
    let mut queue = image.io_queue(depth as u32).unwrap();
    let mut buffers: Vec<Vec<u8>> = (0..depth).map(|_| vec![3; 4096]).collect();
    let mut free: VecDeque<u64> = (0..depth).collect();
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < ROUND {
        while let Some(tag) = free.pop_front() {
            let base = buffers[tag as usize].as_mut_ptr().cast();
            let iovecs = vec![libc::iovec { iov_base: base, iov_len: 4096 }];
            let offset = rng.random_range(0..size / 4096) * 4096;
            // SAFETY: the buffers live until the queue is dropped.
            unsafe { queue.push(Request { op, offset, len: 4096, iovecs, tag }) }.unwrap();
        }
        queue.submit().unwrap();
        wait(&queue);
        while let Some(completion) = queue.pop() {
            completion.result.unwrap();
            free.push_back(completion.tag);
            done += 1;
        }
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    drop(queue);
    rate
}

fn blocking(image: &Image, size: u64) -> f64 {
    let mut rng = StdRng::seed_from_u64(1);
    let mut buffer = vec![0; 4096];
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < ROUND {
        for _ in 0..100 {
            let at = rng.random_range(0..size / 4096) * 4096;
            image.read_at(&mut buffer, at).unwrap();
        }
        done += 100;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn sequential(image: &Image, size: u64) -> f64 {
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    for at in (0..size).step_by(buffer.len()) {
        image.read_at(&mut buffer, at).unwrap();
    }
    size as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// What reads cost by the depth of the chain, warm: the best of rounds that take turns.
#[test]
#[ignore = "a measurement"]
fn cost_of_reads_by_depth() {
    const SIZE: u64 = 1 << 30;
    const DEPTHS: [usize; 4] = [1, 2, 8, 64];
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(1, 1 << 20);
    let mut chain = Chain { paths: Vec::new() };
    let options = CreateOptions { virtual_size: SIZE, ..Default::default() };
    for index in 0..64 {
        chain.overlay(dir.path(), &options);
        let image = chain.open();
        if index == 0 {
            for at in 0..SIZE >> 20 {
                image.write_at(&data, at << 20).unwrap();
            }
        } else if index > 56 {
            for at in 0..100 {
                let cluster = (at * 7919 + index * 13) % (SIZE >> 16);
                image.write_at(&data[..65_536], cluster << 16).unwrap();
            }
        }
    }
    let images = DEPTHS.map(|depth| {
        let paths = chain.paths[64 - depth..].to_vec();
        Chain { paths }.open_with(OpenOptions { read_only: true })
    });
    type Measure = fn(&Arc<Image>) -> f64;
    let measures: [(&str, Measure); 4] = [
        ("4 KiB random, blocking, /s", |image| blocking(image, SIZE)),
        ("4 KiB random, depth 1, IOPS", |image| queued(image, SIZE, 1, Op::Read)),
        ("4 KiB random, depth 32, IOPS", |image| queued(image, SIZE, 32, Op::Read)),
        ("1 MiB sequential, MB/s", |image| sequential(image, SIZE)),
    ];
    for (name, measure) in measures {
        let mut best = [0f64; DEPTHS.len()];
        for _ in 0..8 {
            for (best, image) in best.iter_mut().zip(&images) {
                *best = best.max(measure(image));
            }
        }
        for (depth, rate) in DEPTHS.iter().zip(best) {
            eprintln!("{name}: chain of {depth:2}: {rate:8.0}, {:5.3}", rate / best[0]);
        }
    }
}
