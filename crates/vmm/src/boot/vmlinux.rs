//! Puts the kernel inside a bzImage where it wants to run, ready to be entered.
//!
//! This is what the stub in a bzImage does (arch/x86/boot/compressed/misc.c). A guest is slow at it:
//! it takes a fault for every page it touches first, and the packed kernel is one more copy in its
//! memory. The kernel is moved in virtual memory only, which is all its own randomisation needs.

use super::{
    bzimage::Kernel,
    payload::{Compressed, Unfit, bytes},
};
use crate::{layout, memory::GuestMemory};
use linux_loader::bootparam::setup_header;
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};
use vm_memory::{ByteValued as _, GuestAddress, GuestMemoryBackend as _};

/// Where the header is in a bzImage.
const SETUP_HEADER: u64 = 0x1f1;
const SETUP_MAGIC: u32 = 0x5372_6448;
/// loadflags: the kernel's address was chosen at random, so that it does the same to others.
const KASLR: u8 = 1 << 1;

/// Virtual address of physical address 0 in a kernel that was not moved.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bytes from there that the kernel may lie in.
const KERNEL_MAP_SIZE: u64 = 1 << 30;
/// The least alignment of a kernel: it maps itself with pages of this size.
const LARGE_PAGE: u64 = 2 << 20;

/// Where in its file a kernel's first segment is, which is that of large pages' alignment. A file
/// unpacked so far below the kernel's place has most of it in place already.
const FIRST_SEGMENT: u64 = LARGE_PAGE;

const ELF_HEADER: usize = 64;
const ELF_SEGMENT: usize = 56;
const ELF_SECTION: usize = 64;
const ELF_X86_64: u64 = 62;
/// Type of a segment that is loaded.
const LOADED: u64 = 1;
/// Type of a section that has no bytes in the file.
const NO_BITS: u64 = 8;

/// Unpacks the kernel in `file` to guest memory. If it cannot be done, guest memory may hold parts
/// of it, which are in nobody's way.
pub(super) fn load(
    file: &File,
    memory: &GuestMemory,
    low_end: u64,
    cmdline: &str,
) -> Result<Kernel, Unfit> {
    let mut header = setup_header::default();
    file.read_exact_at(header.as_mut_slice(), SETUP_HEADER)?;
    let (start, size) = (header.pref_address, header.init_size);
    if header.header != SETUP_MAGIC || !super::bzimage::is_64_bit(&header) {
        return Err(Unfit::Header);
    }
    let end = start.saturating_add(u64::from(size));
    if start < layout::HIGH_MEMORY || end > low_end {
        return Err(Unfit::Room { start });
    }
    let compressed = Compressed::read(file, &header)?;
    let unpack = |base: u64| {
        let size = size as usize + (start - base) as usize;
        let room = memory.get_slice(GuestAddress(base), size).map_err(|_| Unfit::Room { start })?;
        // SAFETY: no vCPU runs yet, so neither the guest nor a device on its behalf uses its memory,
        // and of the slices made here one lives at a time.
        let room = unsafe { bytes(room) };
        let unpacked = compressed.unpack_to(room)?;
        Ok((place(room, unpacked, base, start)?, room))
    };
    let mut base = start.saturating_sub(FIRST_SEGMENT);
    if base < layout::HIGH_MEMORY {
        base = start;
    }
    let (kernel, room) = match unpack(base) {
        Err(Unfit::Upwards) if base < start => {
            base = start;
            unpack(base)?
        }
        outcome => outcome?,
    };
    drop(compressed);
    header.loadflags &= !KASLR;
    if !kernel.table.is_empty() && !cmdline.split_ascii_whitespace().any(|word| word == "nokaslr") {
        let shift = choose_shift(start, end, header.kernel_alignment.into(), random()?)?;
        let (code, table) = room[..kernel.table.end]
            .split_at_mut_checked(kernel.table.start)
            .ok_or(Unfit::Relocations)?;
        let code = code.get_mut(..kernel.data_end).ok_or(Unfit::Relocations)?;
        relocate(code, table, base, shift)?;
        header.loadflags |= KASLR;
    }
    Ok(Kernel { header, end, entry: kernel.entry })
}

/// How far to move the kernel in virtual memory.
fn choose_shift(start: u64, end: u64, alignment: u64, random: u64) -> Result<u64, Unfit> {
    let alignment = alignment.max(LARGE_PAGE);
    let spare = KERNEL_MAP_SIZE.checked_sub(end).ok_or(Unfit::Header)?;
    if !alignment.is_power_of_two() || !start.is_multiple_of(alignment) {
        return Err(Unfit::Header);
    }
    Ok(random % (spare / alignment + 1) * alignment)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is writable and as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(u64::from_ne_bytes(bytes))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A kernel with its segments in place.
struct Placed {
    entry: u64,
    /// Where the last loaded byte ends.
    data_end: usize,
    /// The table of relocations, empty if the kernel cannot be moved.
    table: Range<usize>,
}

/// Moves the segments of the ELF file in the front of `room` to where they run, the first address
/// of `room` being `base`, and the first one of the kernel `start`.
fn place(room: &mut [u8], len: usize, base: u64, start: u64) -> Result<Placed, Unfit> {
    const CUT: Unfit = Unfit::Elf("it is cut off");
    let file = room.get(..len).ok_or(CUT)?;
    if len < ELF_HEADER || !file.starts_with(b"\x7fELF\x02\x01") {
        return Err(Unfit::Elf("no ELF header"));
    }
    let header = |at, size| number(file, at, size).ok_or(CUT);
    let (machine, entry) = (header(18, 2)?, header(24, 8)?);
    let tables = (header(54, 2)?, header(58, 2)?);
    let segments = entries(file, (header(32, 8)?, header(56, 2)?), ELF_SEGMENT).ok_or(CUT)?;
    let sections = entries(file, (header(40, 8)?, header(60, 2)?), ELF_SECTION).ok_or(CUT)?;
    let sizes_fit =
        tables.0 == ELF_SEGMENT as u64 && (sections.is_empty() || tables.1 == ELF_SECTION as u64);
    if machine != ELF_X86_64 || !sizes_fit {
        return Err(Unfit::Elf("not for this machine"));
    }

    // The table of relocations is what follows the ELF file, so all of that must be known.
    let mut file_end = ELF_HEADER.max(segments.end).max(sections.end);
    let extent = |at: usize, size: u64| -> Option<Range<usize>> {
        let from = usize::try_from(number(file, at, 8)?).ok()?;
        let to = from.checked_add(usize::try_from(size).ok()?)?;
        (to <= len).then_some(from..to)
    };
    for at in sections.step_by(ELF_SECTION) {
        if number(file, at + 4, 4).ok_or(CUT)? != NO_BITS {
            let size = number(file, at + 32, 8).ok_or(CUT)?;
            file_end = file_end.max(extent(at + 24, size).ok_or(CUT)?.end);
        }
    }
    let mut moves = Vec::new();
    let mut data_end = 0;
    for at in segments.step_by(ELF_SEGMENT) {
        let field = |offset, size| number(file, at + offset, size).ok_or(CUT);
        if field(0, 4)? != LOADED {
            continue;
        }
        let (address, in_file, in_memory) = (field(24, 8)?, field(32, 8)?, field(40, 8)?);
        let source = extent(at + 8, in_file).ok_or(CUT)?;
        file_end = file_end.max(source.end);
        let offset = address.checked_sub(base).filter(|_| address >= start);
        let end = offset.and_then(|offset| offset.checked_add(in_file.max(in_memory)));
        let (Some(offset), Some(end)) = (offset, end) else {
            return Err(Unfit::Elf("a segment is not where the kernel is to be"));
        };
        if end > room.len() as u64 {
            return Err(Unfit::Elf("a segment is larger than the kernel says it is"));
        }
        // Both at most `end`.
        let offset = offset as usize;
        if offset > source.start {
            return Err(Unfit::Upwards);
        }
        data_end = data_end.max(offset + source.len());
        moves.push((source, offset));
    }
    if entry < start || entry - base >= data_end as u64 {
        return Err(Unfit::Elf("its entry point is not in it"));
    }
    for (source, offset) in moves {
        if source.start != offset {
            room.copy_within(source, offset);
        }
    }
    Ok(Placed { entry, data_end, table: file_end..len })
}

/// Where a table of `(offset, count)` is, if it is in the file.
fn entries(file: &[u8], (offset, count): (u64, u64), size: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    // Counts have 16 bits.
    let end = start.checked_add(count as usize * size)?;
    match count {
        0 => Some(0..0),
        _ => (end <= file.len()).then_some(start..end),
    }
}

/// The little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Makes the kernel in `code`, which is at the physical address `start`, one that runs `shift`
/// bytes above the virtual address it was linked for.
///
/// `table` has lists of the low halves of addresses, each list after a zero: those of numbers of
/// 64 bits, of numbers of 32 bits that become smaller (only up to Linux 6.14) and of numbers of 32
/// bits.
fn relocate(code: &mut [u8], table: &[u8], start: u64, shift: u64) -> Result<(), Unfit> {
    let (words, rest) = table.as_chunks::<4>();
    let mut lists = words.split(|word| *word == [0; 4]);
    // Before the first zero is nothing.
    let nothing = lists.next().is_some_and(<[_]>::is_empty);
    let lists: Vec<_> = lists.take(4).collect();
    let (wide, inverse, narrow) = match lists[..] {
        [wide, inverse, narrow] => (wide, inverse, narrow),
        [wide, narrow] => (wide, &[][..], narrow),
        _ => return Err(Unfit::Relocations),
    };
    if !nothing || !rest.is_empty() {
        return Err(Unfit::Relocations);
    }
    let offset = |word: &[u8; 4]| {
        let address = i64::from(i32::from_le_bytes(*word)).cast_unsigned();
        usize::try_from(address.wrapping_sub(KERNEL_MAP).wrapping_sub(start)).ok()
    };
    for word in wide {
        let at = offset(word).and_then(|at| code.get_mut(at..)?.first_chunk_mut());
        let at = at.ok_or(Unfit::Relocations)?;
        *at = u64::from_le_bytes(*at).wrapping_add(shift).to_le_bytes();
    }
    // Below KERNEL_MAP_SIZE.
    let shift = shift as u32;
    for (list, shift) in [(narrow, shift), (inverse, shift.wrapping_neg())] {
        for word in list {
            let at = offset(word).and_then(|at| code.get_mut(at..)?.first_chunk_mut());
            let at = at.ok_or(Unfit::Relocations)?;
            *at = u32::from_le_bytes(*at).wrapping_add(shift).to_le_bytes();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_keeps_the_kernel_aligned_and_in_its_gib() {
        let mib = 1 << 20;
        let last = choose_shift(16 * mib, 64 * mib, 2 * mib, 480).unwrap();
        assert_eq!(last, (1024 - 64) * mib);
        assert_eq!(choose_shift(16 * mib, 64 * mib, 2 * mib, 481).unwrap(), 0);
        // A kernel that wants more alignment gets it, and none gets less than it needs.
        assert_eq!(choose_shift(16 * mib, 64 * mib, 16 * mib, 1).unwrap(), 16 * mib);
        assert_eq!(choose_shift(16 * mib, 64 * mib, 0, 1).unwrap(), 2 * mib);
        for (start, end, alignment) in
            [(16 * mib, 1025 * mib, 2 * mib), (17 * mib, 64 * mib, 2 * mib), (0, mib, 3 * mib)]
        {
            assert!(matches!(choose_shift(start, end, alignment, 7), Err(Unfit::Header)));
        }
    }
}
