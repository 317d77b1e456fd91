//! What disks cost beside the guest's requests: a new one, a snapshot under load, a deep chain. No
//! guest runs; the image crate is asked as the VMM asks it.

use super::Options;
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use qcow2::{Backing, CreateOptions, Format, Image, Layer, OpenOptions};
use std::{
    fs::{File, OpenOptions as FileOptions},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SIZE: u64 = 256 << 20;
const CLUSTER: u64 = 64 << 10;
const DEPTH: usize = 64;

/// Files of one chain, top first; removed with it.
struct Chain {
    files: Vec<PathBuf>,
}

impl Drop for Chain {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let file = FileOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

impl Chain {
    fn new() -> Self {
        Self { files: Vec::new() }
    }

    fn put_on(&mut self, work: &Path) -> Result<()> {
        let path = work.join(format!("chain-{}.qcow2", self.files.len()));
        let _ = std::fs::remove_file(&path);
        let backing = self
            .files
            .first()
            .map(|below| Backing { name: below.display().to_string(), format: Format::Qcow2 });
        let options = CreateOptions { virtual_size: SIZE, backing, ..CreateOptions::default() };
        qcow2::create(&open(&path)?, &options)?;
        self.files.insert(0, path);
        Ok(())
    }

    fn layers(&self, from: usize) -> Result<Vec<Layer>> {
        let files = self.files.get(from..).unwrap_or_default();
        files.iter().map(|f| Ok(Layer { file: open(f)?, format: Format::Qcow2 })).collect()
    }

    fn image(&self, from: usize) -> Result<Arc<Image>> {
        Ok(Image::open(self.layers(from)?, OpenOptions::default())?)
    }
}

/// A new disk on an image against `qemu-img create` of the same.
fn clone(options: &Options) -> Result<()> {
    let mut base = Chain::new();
    base.put_on(&options.work)?;
    let path = options.work.join("clone.qcow2");
    let backing = base.files[0].display().to_string();
    let mut pairs = Vec::new();
    for _ in 0..options.runs.max(3) {
        let start = Instant::now();
        let named = Some(Backing { name: backing.clone(), format: Format::Qcow2 });
        let wanted =
            CreateOptions { virtual_size: SIZE, backing: named, ..CreateOptions::default() };
        qcow2::create(&open(&path)?, &wanted)?;
        let ours = start.elapsed();
        std::fs::remove_file(&path)?;
        let start = Instant::now();
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing])
            .arg(&path)
            .status()
            .context("run qemu-img")?;
        ensure!(status.success(), "qemu-img create ended with {status}");
        pairs.push((milliseconds(ours), milliseconds(start.elapsed())));
        std::fs::remove_file(&path)?;
    }
    let against = "qemu-img create, its start as a process included";
    Row::new("disks", "disk_clone", "ms", against, Goal::RatioAtMost(1.0), &pairs).print()
}

/// For how long a snapshot holds requests up while two threads write and flush, against a flush of
/// the same disk under the same load.
fn pause(options: &Options) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..options.runs {
        let mut chain = Chain::new();
        chain.put_on(&options.work)?;
        let image = chain.image(0)?;
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2u64).map(|n| writer(n, &image, &stop)).collect();
        thread::sleep(Duration::from_millis(300));
        let mut taken = || -> Result<(f64, f64)> {
            let start = Instant::now();
            image.flush()?;
            let flush = start.elapsed();
            chain.put_on(&options.work)?;
            let mut layers = chain.layers(0)?;
            let top = layers.remove(0);
            let switched = image.switch_layers(Some(top), layers)?;
            Ok((milliseconds(switched.paused), milliseconds(flush)))
        };
        let pair = taken();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer failed"))??;
        }
        pairs.push(pair?);
    }
    let against = "a flush of the same disk under the same load";
    Row::new("disks", "snapshot_pause", "ms", against, Goal::OursBelow(10.0), &pairs).print()
}

fn writer(
    number: u64,
    image: &Arc<Image>,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<Result<()>> {
    let (image, stop) = (Arc::clone(image), Arc::clone(stop));
    thread::spawn(move || {
        let block = [number as u8 + 1; 4096];
        let mut at = number * 4096;
        for count in 1u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            image.write_at(&block, at % SIZE)?;
            at = at.wrapping_add(7919 * 4096);
            if count.is_multiple_of(64) {
                image.flush()?;
            }
        }
        Ok(())
    })
}

/// Random 4 KiB reads through 64 layers, the upper ones with a few clusters each, against the same
/// data in one.
fn depth(options: &Options) -> Result<()> {
    let mut chain = Chain::new();
    for index in 0..DEPTH {
        chain.put_on(&options.work)?;
        let image = chain.image(0)?;
        if index == 0 {
            let block = vec![1; 1 << 20];
            for at in (0..SIZE).step_by(block.len()) {
                image.write_at(&block, at)?;
            }
        } else {
            let block = vec![2; CLUSTER as usize];
            for number in 0..4u64 {
                let cluster = (number * 7919 + index as u64 * 131) % (SIZE / CLUSTER);
                image.write_at(&block, cluster * CLUSTER)?;
            }
        }
    }
    let (deep, flat) = (chain.image(0)?, chain.image(DEPTH - 1)?);
    for image in [&deep, &flat] {
        reads(image, Duration::from_millis(300))?;
    }
    let mut pairs = Vec::new();
    for _ in 0..options.runs.max(3) {
        let ours = reads(&deep, Duration::from_millis(700))?;
        pairs.push((ours, reads(&flat, Duration::from_millis(700))?));
    }
    let against = "the same disk as one layer";
    let goal = Goal::RatioAtLeast(0.9);
    Row::new("disks", "chain_of_64_rand_read", "reads/s", against, goal, &pairs).print()
}

fn reads(image: &Image, duration: Duration) -> Result<f64> {
    let mut buffer = [0; 4096];
    let (start, mut done, mut random) = (Instant::now(), 0u32, 0x9e37_79b9_7f4a_7c15u64);
    while start.elapsed() < duration {
        for _ in 0..50 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            image.read_at(&mut buffer, (random >> 20) % (SIZE / 4096) * 4096)?;
        }
        done += 50;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// All of them.
pub fn run(options: &Options) -> Result<()> {
    clone(options)?;
    pause(options)?;
    depth(options)
}
