//! The compressed kernel inside a bzImage.

use linux_loader::bootparam::setup_header;
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};
use vm_memory::{MmapRegion, VolatileMemory as _, VolatileSlice};

/// The setup code is in sectors of this size, and its boot sector is not counted.
const SECTOR: u64 = 512;
/// Sectors of setup code if the header says none.
const DEFAULT_SECTORS: u8 = 4;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Most bytes a block of LZ4's legacy format holds.
const LZ4_BLOCK: usize = 8 << 20;

/// Why the guest has to unpack its kernel itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// No bzImage with all that is needed, or none that is asked to be loaded where RAM is.
    #[error("its header does not say what is needed for it")]
    Header,
    /// It does not fit where it asks to be.
    #[error("it does not fit into memory at {start:#x}")]
    Room {
        /// Where it asks to be.
        start: u64,
    },
    /// The file, memory for it, or random numbers could not be had.
    #[error("{0}")]
    Host(#[from] io::Error),
    /// Compressed with something else.
    #[error("it is compressed with none of gzip, zstd and LZ4")]
    Compression,
    /// Spoiled.
    #[error("its compressed part is broken")]
    Broken,
    /// What came out cannot be loaded.
    #[error("what is in it is no x86-64 ELF file that can be loaded: {0}")]
    Elf(&'static str),
    /// Segments are moved one after the other, which is right only if none moves up, where others
    /// still are.
    #[error("a segment is nearer to the front of its file than of the kernel")]
    Upwards,
    /// It cannot be moved.
    #[error("its relocations are broken")]
    Relocations,
}

/// The compressed bytes in memory of their own, which goes back to the host at once: freed heap of
/// this size could stay with the process.
#[derive(Debug)]
pub(super) struct Compressed {
    memory: MmapRegion,
}

impl Compressed {
    /// Reads what `header`, which is that of `file`, says is the payload.
    pub(super) fn read(file: &File, header: &setup_header) -> Result<Self, Unfit> {
        let sectors = match header.setup_sects {
            0 => DEFAULT_SECTORS,
            sectors => sectors,
        };
        let start = (u64::from(sectors) + 1) * SECTOR + u64::from(header.payload_offset);
        let len = header.payload_length;
        // The length must not make this process take more memory than a real kernel does.
        let end = start + u64::from(len);
        if len == 0 || len > header.init_size || end > file.metadata()?.len() {
            return Err(Unfit::Header);
        }
        let memory = MmapRegion::new(len as usize).map_err(io::Error::other)?;
        // SAFETY: the range is one mapping of ours, and the advice changes nothing it holds. It is a
        // hint: without it the host takes a fault for every small page.
        unsafe { libc::madvise(memory.as_ptr().cast(), memory.size(), libc::MADV_HUGEPAGE) };
        // SAFETY: nothing else knows of the mapping.
        file.read_exact_at(unsafe { bytes(memory.as_volatile_slice()) }, start)?;
        Ok(Self { memory })
    }

    /// Unpacks to the front of `out` and returns how many bytes there are.
    pub(super) fn unpack_to(&self, out: &mut [u8]) -> Result<usize, Unfit> {
        // SAFETY: the mapping is only ever read from now on.
        unpack(unsafe { bytes(self.memory.as_volatile_slice()) }, out)
    }
}

/// The memory as a slice.
///
/// # Safety
/// Nothing else, no guest either, may access it while the slice lives.
pub(super) unsafe fn bytes<'a>(memory: VolatileSlice<'a>) -> &'a mut [u8] {
    // SAFETY: it is mapped as long as the lifetime says, and the caller keeps others away.
    unsafe { std::slice::from_raw_parts_mut(memory.ptr_guard_mut().as_ptr(), memory.len()) }
}

fn unpack(compressed: &[u8], out: &mut [u8]) -> Result<usize, Unfit> {
    // Every kernel ends with its unpacked size: gzip has it there, the build appends it to others.
    let (rest, size) = compressed.split_last_chunk::<4>().ok_or(Unfit::Broken)?;
    let size = u32::from_le_bytes(*size) as usize;
    let out = out.get_mut(..size).ok_or(Unfit::Broken)?;
    if compressed.starts_with(GZIP) {
        let mut reader = flate2::bufread::GzDecoder::new(compressed);
        reader.read_exact(out).map_err(|_| Unfit::Broken)?;
        // At the end it compares the checksum.
        if reader.read(&mut [0]).map_err(|_| Unfit::Broken)? != 0 {
            return Err(Unfit::Broken);
        }
    } else if rest.starts_with(ZSTD) {
        // In one call, which needs no memory for a window, however large the frame's is.
        let unpacked = zstd::bulk::Decompressor::new()?.decompress_to_buffer(rest, out);
        if unpacked.map_err(|_| Unfit::Broken)? != size {
            return Err(Unfit::Broken);
        }
    } else if let Some(blocks) = rest.strip_prefix(&LZ4_LEGACY) {
        unpack_lz4(blocks, out)?;
    } else {
        return Err(Unfit::Compression);
    }
    Ok(size)
}

/// Unpacks blocks that each follow their size.
fn unpack_lz4(mut blocks: &[u8], out: &mut [u8]) -> Result<(), Unfit> {
    let mut done = 0;
    while let Some((size, rest)) = blocks.split_first_chunk::<4>() {
        if *size == LZ4_LEGACY {
            // Another file begins, as after `cat`.
            blocks = rest;
            continue;
        }
        let (block, rest) =
            rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or(Unfit::Broken)?;
        let room = (out.len() - done).min(LZ4_BLOCK);
        done += lz4_flex::block::decompress_into(block, &mut out[done..done + room])
            .map_err(|_| Unfit::Broken)?;
        blocks = rest;
    }
    if done == out.len() { Ok(()) } else { Err(Unfit::Broken) }
}
