//! Block load: direct I/O through io_uring at a fixed queue depth.

use super::figure;
use anyhow::{Context as _, Result, bail};
use io_uring::{IoUring, opcode, types::Fd};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::{Duration, Instant},
};

/// Page-aligned memory for direct I/O.
struct Buffers {
    base: *mut u8,
    layout: Layout,
}

impl Buffers {
    fn new(bytes: usize) -> Result<Self> {
        let layout = Layout::from_size_align(bytes, 4096)?;
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            bail!("no memory for {bytes} bytes of buffers");
        }
        Ok(Self { base, layout })
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: base came from alloc_zeroed with this layout and is freed once.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// xorshift64: the offsets need no quality, only no pattern.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Load {
    block: u64,
    depth: u32,
    write: bool,
    random: bool,
}

/// Completed operations per second.
fn measure(file: &File, size: u64, load: &Load, duration: Duration) -> Result<f64> {
    let mut ring = IoUring::new(load.depth)?;
    let buffers = Buffers::new(usize::try_from(load.block * u64::from(load.depth))?)?;
    let blocks = size / load.block;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut next = 0;
    let start = Instant::now();
    let (mut in_flight, mut done, mut free): (u32, u64, Vec<u32>) =
        (0, 0, (0..load.depth).collect());
    loop {
        let running = start.elapsed() < duration;
        while running && let Some(slot) = free.pop() {
            let index = if load.random { random.next() % blocks } else { next % blocks };
            next += 1;
            let length = u32::try_from(load.block)?;
            // SAFETY: slot < depth, so the pointer stays inside the buffers.
            let buffer = unsafe { buffers.base.add(slot as usize * load.block as usize) };
            let offset = index * load.block;
            let fd = Fd(file.as_raw_fd());
            let entry = if load.write {
                opcode::Write::new(fd, buffer, length).offset(offset).build()
            } else {
                opcode::Read::new(fd, buffer, length).offset(offset).build()
            };
            // SAFETY: the buffer outlives the ring's use of it: all completions are reaped below.
            unsafe { ring.submission().push(&entry.user_data(u64::from(slot)))? };
            in_flight += 1;
        }
        if in_flight == 0 {
            break;
        }
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            if completion.result() != i32::try_from(load.block)? {
                bail!("a request of {} bytes gave {}", load.block, completion.result());
            }
            free.push(u32::try_from(completion.user_data())?);
            in_flight -= 1;
            done += 1;
        }
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Measures random 4 KiB and sequential 1 MiB reads and writes on `path`, or only the load of the
/// name `only`.
pub fn run(path: &str, only: Option<&str>, duration: Duration) -> Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    let size = file.seek(SeekFrom::End(0))?;
    for (name, write) in [("read", false), ("write", true)] {
        let random = |depth| {
            let load = Load { block: 4096, depth, write, random: true };
            (format!("rand_{name}_qd{depth}"), load)
        };
        let sequential = Load { block: 1 << 20, depth: 4, write, random: false };
        for (name, load) in
            [random(1), random(32), random(128), (format!("seq_{name}"), sequential)]
        {
            if only.is_none_or(|only| only == name) {
                figure(&name, measure(&file, size, &load, duration)?);
            }
        }
    }
    Ok(())
}
