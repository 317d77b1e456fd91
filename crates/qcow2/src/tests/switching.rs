//! Snapshots of a disk in use: every frozen chain is the disk as it was at one moment.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::queues::wait;
use crate::{
    Backing, CreateOptions, Format, Image, Layer, Op, OpenOptions, Request, Switched, check,
};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 1024;
const WORKERS: u64 = 4;
const DEPTH: u64 = 8;

/// The number of the last write of each block that was begun, and that was completed.
struct Numbers {
    begun: Vec<AtomicU64>,
    ended: Vec<AtomicU64>,
    stop: AtomicBool,
}

impl Numbers {
    fn new() -> Self {
        let zeroes = || (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        Self { begun: zeroes(), ended: zeroes(), stop: AtomicBool::new(false) }
    }

    fn of(numbers: &[AtomicU64]) -> Vec<u64> {
        numbers.iter().map(|n| n.load(Ordering::SeqCst)).collect()
    }
}

fn block(at: u64, number: u64) -> Vec<u8> {
    if number == 0 {
        return vec![0; BLOCK as usize];
    }
    [at.to_le_bytes(), number.to_le_bytes()].concat().repeat(BLOCK as usize / 16)
}

/// The number a block holds, when it is whole.
fn number(at: u64, bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert!(bytes == block(at, number), "block {at} is torn or another one's");
    number
}

/// Write and read back the blocks that are this worker's, until told to stop.
fn worker(image: &Arc<Image>, me: u64, numbers: &Numbers) -> u64 {
    let mut rng = StdRng::seed_from_u64(me);
    let mut queue = image.io_queue(DEPTH as u32).unwrap();
    let mut requests = 0;
    while !numbers.stop.load(Ordering::SeqCst) {
        let first = rng.random_range(0..BLOCKS / WORKERS / DEPTH) * DEPTH * WORKERS + me;
        let mut buffers = Vec::new();
        for i in 0..DEPTH {
            let at = first + i * WORKERS;
            let last = numbers.ended[at as usize].load(Ordering::SeqCst);
            let (op, bytes) = match rng.random_range(0..10) {
                0..=5 => {
                    numbers.begun[at as usize].store(last + 1, Ordering::SeqCst);
                    (Op::Write, block(at, last + 1))
                }
                6 => (Op::Flush, Vec::new()),
                _ => (Op::Read, vec![1; BLOCK as usize]),
            };
            buffers.push((op, at, last, bytes));
        }
        for (tag, (op, at, _, bytes)) in buffers.iter_mut().enumerate() {
            let len = bytes.len() as u64;
            let iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let (op, offset) = (*op, *at * BLOCK);
            let iovecs = (op != Op::Flush).then_some(iovec).into_iter().collect();
            // SAFETY: the buffers live until every completion has been popped below.
            unsafe { queue.push(Request { op, offset, len, iovecs, tag: tag as u64 }) }.unwrap();
        }
        queue.submit().unwrap();
        let mut left = DEPTH;
        while left > 0 {
            wait(&queue);
            while let Some(done) = queue.pop() {
                done.result.unwrap();
                left -= 1;
                requests += 1;
                let (op, at, last, bytes) = &buffers[done.tag as usize];
                match op {
                    Op::Write => numbers.ended[*at as usize].store(last + 1, Ordering::SeqCst),
                    Op::Read => assert_eq!(number(*at, bytes), *last, "block {at}"),
                    _ => {}
                }
            }
        }
    }
    requests
}

/// A disk whose layers are files in a directory.
struct Disk {
    dir: tempfile::TempDir,
    /// Layers, top first.
    paths: Vec<(PathBuf, Format)>,
    image: Arc<Image>,
}

fn new_file(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

fn layer(path: &Path, format: Format) -> Layer {
    Layer { file: File::open(path).unwrap(), format }
}

impl Disk {
    fn new(cluster_bits: u32, ring: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer0");
        let file = new_file(&path);
        let options =
            CreateOptions { virtual_size: BLOCKS * BLOCK, cluster_bits, ..Default::default() };
        crate::create(&file, &options).unwrap();
        let layers = vec![Layer { file, format: Format::Qcow2 }];
        let image = Image::open(layers, OpenOptions::default()).unwrap();
        image.no_ring.store(!ring, Ordering::Relaxed);
        Self { dir, paths: vec![(path, Format::Qcow2)], image }
    }

    fn backing(&self, from: usize) -> Vec<Layer> {
        self.paths[from..].iter().map(|(path, format)| layer(path, *format)).collect()
    }

    fn snapshot(&mut self, cluster_bits: u32) -> Switched {
        let path = self.dir.path().join(format!("layer{}", self.paths.len()));
        let name = self.paths[0].0.to_str().unwrap().into();
        let options = CreateOptions {
            virtual_size: self.image.virtual_size(),
            cluster_bits,
            backing: Some(Backing { name, format: Format::Qcow2 }),
            ..Default::default()
        };
        let file = new_file(&path);
        crate::create(&file, &options).unwrap();
        let top = Layer { file, format: Format::Qcow2 };
        let switched = self.image.switch_layers(Some(top), self.backing(0)).unwrap();
        self.paths.insert(0, (path, Format::Qcow2));
        switched
    }

    /// The content of the chain from layer `from` down, read by another opener.
    fn content(&self, from: usize) -> Vec<u8> {
        let image = Image::open(self.backing(from), OpenOptions { read_only: true }).unwrap();
        let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
        image.read_at(&mut bytes, 0).unwrap();
        bytes
    }
}

fn qemu_img(args: &[&str]) {
    let out = Command::new("qemu-img").args(args).output();
    let out = out.expect("qemu-img is needed by this test: install qemu-utils");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn snapshots_under_load(cluster_bits: u32, ring: bool) {
    let mut disk = Disk::new(cluster_bits, ring);
    let image = Arc::clone(&disk.image);
    let numbers = Numbers::new();
    let mut frozen: Vec<Vec<u8>> = Vec::new();
    let mut longest = Duration::ZERO;
    let requests: u64 = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..WORKERS)
            .map(|me| {
                let (image, numbers) = (&image, &numbers);
                scope.spawn(move || worker(image, me, numbers))
            })
            .collect();
        for round in 0..8 {
            std::thread::sleep(Duration::from_millis(40));
            let ended = Numbers::of(&numbers.ended);
            let switched = disk.snapshot(9 + (cluster_bits + round) % 8);
            let begun = Numbers::of(&numbers.begun);
            longest = longest.max(switched.paused);
            let content = disk.content(1);
            for (at, bytes) in content.chunks(BLOCK as usize).enumerate() {
                let number = number(at as u64, bytes);
                assert!(
                    (ended[at]..=begun[at]).contains(&number),
                    "block {at}: write {number}, of {} to {}",
                    ended[at],
                    begun[at]
                );
            }
            frozen.insert(0, content);
            if round % 3 == 2 {
                // The same layers once more, opened anew, under a top that stays.
                disk.image.switch_layers(None, disk.backing(1)).unwrap();
            }
        }
        numbers.stop.store(true, Ordering::SeqCst);
        handles.into_iter().map(|h| h.join().unwrap()).sum()
    });
    eprintln!("{requests} requests, longest pause {longest:?}");
    assert!(longest < Duration::from_secs(1), "paused for {longest:?}");
    drop(image);
    let mut data = vec![0; BLOCK as usize];
    for at in 0..BLOCKS {
        disk.image.read_at(&mut data, at * BLOCK).unwrap();
        assert_eq!(number(at, &data), numbers.ended[at as usize].load(Ordering::SeqCst));
    }
    let empty = Image::open(disk.backing(1), OpenOptions { read_only: true }).unwrap();
    drop(std::mem::replace(&mut disk.image, empty));
    for (from, (path, _)) in disk.paths.iter().enumerate() {
        let report = check(&File::open(path).unwrap()).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0), "layer {from}: {report:?}");
        let path = path.to_str().unwrap();
        qemu_img(&["check", "-f", "qcow2", path]);
        let Some(content) = from.checked_sub(1).map(|at| &frozen[at]) else { continue };
        assert!(disk.content(from) == *content, "frozen layer {from} changed");
        let flat = disk.dir.path().join("flat");
        std::fs::write(&flat, content).unwrap();
        qemu_img(&["compare", "-f", "qcow2", "-F", "raw", path, flat.to_str().unwrap()]);
    }
}

#[test]
fn snapshots_of_a_disk_in_use_are_what_it_was_at_that_moment() {
    snapshots_under_load(16, true);
    snapshots_under_load(12, true);
    snapshots_under_load(16, false);
}

#[test]
fn a_disk_grows_while_snapshots_are_taken() {
    let mut disk = Disk::new(12, true);
    let image = Arc::clone(&disk.image);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                image.grow(image.virtual_size() + 3 * 512).unwrap();
                let last = image.virtual_size() - 512;
                image.write_at(&[7; 512], last).unwrap();
                image.discard(0, last).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut taken = 0;
        while taken < 10 {
            let path = disk.dir.path().join("next");
            let file = new_file(&path);
            // The size may change until the switch looks at it.
            let virtual_size = disk.image.virtual_size();
            let options = CreateOptions { virtual_size, cluster_bits: 12, ..Default::default() };
            crate::create(&file, &options).unwrap();
            let top = Layer { file, format: Format::Qcow2 };
            let switched = disk.image.switch_layers(Some(top), disk.backing(0));
            let kept = disk.dir.path().join(format!("layer{}", disk.paths.len()));
            std::fs::rename(&path, &kept).unwrap();
            match switched {
                Ok(_) => {
                    disk.paths.insert(0, (kept, Format::Qcow2));
                    taken += 1;
                }
                Err(error) => assert_eq!(error.errno(), libc::EINVAL, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let mut data = [0; 512];
    image.read_at(&mut data, image.virtual_size() - 512).unwrap();
    assert_eq!(data, [7; 512]);
}
