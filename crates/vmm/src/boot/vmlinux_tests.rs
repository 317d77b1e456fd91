//! Kernels that are unpacked before the guest runs.

use super::{
    Entry,
    tests::{boot, bzimage, read},
};
use crate::{jail::seccomp::confine, layout, memory::GuestMemory, thread::ThreadKind};
use proptest::prelude::*;
use std::io::Write as _;

const START: u64 = 16 << 20;
/// As `bzimage` says.
const INIT_SIZE: u64 = 16 << 20;
const PACKED: Entry = Entry::Linux64 { rip: 0x10_0200 };
const UNPACKED: Entry = Entry::Linux64 { rip: START + 0x40 };

/// Segments: where in the file, at which offset from the start, how many bytes.
const SEGMENTS: [(usize, u64, usize); 2] = [(0x1000, 0, 0x2000), (0x4000, 0x2800, 0x1000)];
/// Where in the file the sections are, after which the ELF file ends.
const SECTIONS: usize = 0x5000;
const ELF_END: usize = SECTIONS + 2 * 64;
/// Offsets of what is relocated: 64 bits, 32 bits inverse, 32 bits. The last are in segment 2.
const WIDE: [u32; 2] = [0x100, 0x3000];
const INVERSE: [u32; 1] = [0x3010];
const NARROW: [u32; 2] = [0x204, 0x37fc];

fn put(bytes: &mut [u8], at: usize, value: u64, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// A kernel as the build makes it, with two segments, the second of which is that of per-CPU data.
fn elf() -> Vec<u8> {
    elf_after(0)
}

/// The same with `front` bytes more before its segments.
fn elf_after(front: usize) -> Vec<u8> {
    let mut file = vec![0; front + ELF_END];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, value, size) in [
        (16, 2, 2),
        (18, 62, 2),
        (24, START + 0x40, 8),
        (32, 64, 8),
        (40, (front + SECTIONS) as u64, 8),
        (54, 56, 2),
        (56, 3, 2),
        (58, 64, 2),
        (60, 2, 2),
    ] {
        put(&mut file, at, value, size);
    }
    for (index, (at, offset, len)) in SEGMENTS.into_iter().enumerate() {
        let (header, at) = (64 + 56 * index, front + at);
        put(&mut file, header, 1, 4);
        put(&mut file, header + 8, at as u64, 8);
        put(&mut file, header + 24, START + offset, 8);
        put(&mut file, header + 32, len as u64, 8);
        put(&mut file, header + 40, len as u64 + 0x100, 8);
        file[at..at + len].fill(0x11 * (index as u8 + 1));
    }
    // A note, which is not loaded, and a section of zeroes, which is not in the file.
    put(&mut file, 64 + 2 * 56, 4, 4);
    let section = front + SECTIONS + 64;
    put(&mut file, section + 4, 8, 4);
    put(&mut file, section + 24, 0x4000, 8);
    put(&mut file, section + 32, 1 << 40, 8);
    file
}

fn table(lists: &[&[u32]]) -> Vec<u8> {
    let mut words = Vec::new();
    for list in lists {
        words.push(0);
        words.extend(list.iter().map(|offset| (0x8000_0000 + START as u32).wrapping_add(*offset)));
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn vmlinux() -> Vec<u8> {
    [elf(), table(&[&WIDE, &INVERSE, &NARROW])].concat()
}

/// Compresses in LZ4's legacy format, which has blocks of 8 MiB.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    sized(packed, bytes)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    // As a stream, like the build: the frame then does not say its size.
    sized(zstd::stream::encode_all(bytes, 1).unwrap(), bytes)
}

fn sized(mut packed: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    packed.extend((bytes.len() as u32).to_le_bytes());
    packed
}

/// A bzImage with this payload.
fn image(payload: &[u8]) -> Vec<u8> {
    let mut image = bzimage();
    put(&mut image, 0x248, 1024, 4);
    put(&mut image, 0x24c, payload.len() as u64, 4);
    put(&mut image, 0x230, 2 << 20, 4);
    image.extend(payload);
    image
}

fn loadflags(memory: &GuestMemory) -> u8 {
    read::<1>(memory, layout::ZERO_PAGE + 0x211)[0]
}

/// How far the kernel in `memory` was moved, which all of it must agree on.
fn shift(memory: &GuestMemory, inverse: &[u32]) -> u64 {
    let mut expected = vec![0; 0x3800];
    expected[..0x2000].fill(0x11);
    expected[0x2800..].fill(0x22);
    let mut found = vec![0; expected.len()];
    for (at, byte) in (START..).zip(&mut found) {
        *byte = read::<1>(memory, at)[0];
    }
    // What is between the segments is nobody's.
    found[0x2000..0x2800].fill(0);
    let first = u64::from_le_bytes(read(memory, START + u64::from(WIDE[0])));
    let shift = first.wrapping_sub(0x1111_1111_1111_1111);
    let mut add = |at: u32, size: usize, shift: u64| {
        let at = at as usize;
        let mut old = [0; 8];
        old[..size].copy_from_slice(&expected[at..at + size]);
        put(&mut expected, at, u64::from_le_bytes(old).wrapping_add(shift), size);
    };
    WIDE.into_iter().for_each(|at| add(at, 8, shift));
    NARROW.into_iter().for_each(|at| add(at, 4, shift));
    inverse.iter().for_each(|&at| add(at, 4, shift.wrapping_neg()));
    assert!(found == expected, "the kernel moved by {shift:#x} is not the one expected");
    shift
}

#[test]
fn a_kernel_of_each_compression_is_unpacked_and_moved_at_random() {
    let mut shifts = Vec::new();
    for payload in [lz4(&vmlinux()), gzip(&vmlinux()), zstd(&vmlinux())] {
        for _ in 0..4 {
            let (memory, entry) = boot(&image(&payload), Some(b"initrd"), "quiet").unwrap();
            assert_eq!(entry, UNPACKED);
            assert_eq!(loadflags(&memory), 1 | 2);
            let shift = shift(&memory, &INVERSE);
            assert_eq!(shift % (2 << 20), 0);
            assert!(shift <= (1 << 30) - START - INIT_SIZE, "{shift:#x}");
            shifts.push(shift);
            let initrd = u32::from_le_bytes(read(&memory, layout::ZERO_PAGE + 0x218));
            assert!(u64::from(initrd) >= START + INIT_SIZE);
            // The stub was not needed.
            assert_eq!(read(&memory, 0x10_0000), [0; 1024]);
        }
    }
    shifts.sort_unstable();
    shifts.dedup();
    assert!(shifts.len() > 1, "{shifts:x?}");
}

#[test]
fn the_jail_lets_a_kernel_be_unpacked() {
    for payload in [lz4(&vmlinux()), gzip(&vmlinux()), zstd(&vmlinux())] {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        let mut payload = super::tests::payload(&image(&payload), None, "");
        // What is forbidden ends the whole process.
        let loaded = std::thread::spawn(move || {
            confine(ThreadKind::Main).unwrap();
            super::load(&mut payload, &memory, 64 << 20, 0xe_0000)
        });
        assert_eq!(loaded.join().unwrap().unwrap(), UNPACKED);
    }
}

#[test]
fn a_kernel_of_several_lz4_blocks_is_unpacked() {
    let mut file = elf();
    // Behind all else, so that it is read through all blocks.
    file.resize(9 << 20, 0x33);
    put(&mut file, SECTIONS + 64 + 4, 1, 4);
    put(&mut file, SECTIONS + 64 + 24, ELF_END as u64, 8);
    put(&mut file, SECTIONS + 64 + 32, (9 << 20) - ELF_END as u64, 8);
    file.extend(table(&[&WIDE, &INVERSE, &NARROW]));
    let (memory, entry) = boot(&image(&lz4(&file)), None, "").unwrap();
    assert_eq!(entry, UNPACKED);
    shift(&memory, &INVERSE);
}

#[test]
fn a_kernel_laid_out_for_large_pages_is_unpacked_where_it_runs() {
    // The second segment has to move, as that of per-CPU data in a real one.
    let front = (2 << 20) - SEGMENTS[0].0;
    let kernel = [elf_after(front), table(&[&WIDE, &INVERSE, &NARROW])].concat();
    let (memory, entry) = boot(&image(&lz4(&kernel)), Some(b"initrd"), "").unwrap();
    assert_eq!((entry, loadflags(&memory)), (UNPACKED, 1 | 2));
    shift(&memory, &INVERSE);
    // Its file lies around it, not in front of it.
    assert_eq!(read(&memory, START - (2 << 20)), *b"\x7fELF");
}

#[test]
fn a_kernel_without_inverse_relocations_is_moved_too() {
    let kernel = [elf(), table(&[&WIDE, &NARROW])].concat();
    let (memory, entry) = boot(&image(&lz4(&kernel)), None, "").unwrap();
    assert_eq!((entry, loadflags(&memory)), (UNPACKED, 1 | 2));
    shift(&memory, &[]);
}

#[test]
fn a_kernel_stays_where_it_was_linked_if_told_so_or_if_it_cannot_be_moved() {
    for (kernel, cmdline) in [(vmlinux(), "quiet nokaslr"), (elf(), "")] {
        let mut image = image(&lz4(&kernel));
        // Nobody but this loader says whether it was moved.
        image[0x211] |= 2;
        let (memory, entry) = boot(&image, None, cmdline).unwrap();
        assert_eq!((entry, loadflags(&memory)), (UNPACKED, 1));
        assert_eq!(shift(&memory, &INVERSE), 0);
    }
}

#[test]
fn a_kernel_that_cannot_be_unpacked_here_unpacks_itself() {
    let with = |at: usize, value: u64, size: usize| {
        let mut kernel = vmlinux();
        put(&mut kernel, at, value, size);
        image(&lz4(&kernel))
    };
    let with_table = |table: Vec<u8>| image(&lz4(&[elf(), table].concat()));
    let with_header = |at: usize, value: u64, size: usize| {
        let mut image = image(&lz4(&vmlinux()));
        put(&mut image, at, value, size);
        image
    };
    let with_payload = |pack: fn(&[u8]) -> Vec<u8>, change: fn(&mut Vec<u8>)| {
        let mut payload = pack(&vmlinux());
        change(&mut payload);
        image(&payload)
    };
    let end = SEGMENTS[1].1 as u32 + SEGMENTS[1].2 as u32;
    let cases = [
        ("no ELF file", with(0, 0, 4)),
        ("another machine", with(18, 3, 2)),
        ("entry before it", with(24, START - 1, 8)),
        ("entry after it", with(24, START + u64::from(end), 8)),
        ("segments not in the file", with(32, u64::MAX - 64, 8)),
        ("sections not in the file", with(40, u64::MAX - 64, 8)),
        ("a segment not in the file", with(64 + 8, u64::MAX, 8)),
        ("a segment before the start", with(64 + 24, START - 1, 8)),
        ("a segment after the end", with(64 + 24, u64::MAX, 8)),
        ("a segment larger than all", with(64 + 40, INIT_SIZE + 1, 8)),
        ("no list", with_table(table(&[&[]]))),
        ("too many lists", with_table(table(&[&WIDE, &INVERSE, &NARROW, &[]]))),
        ("no zero first", with_table(table(&[&WIDE, &INVERSE, &NARROW])[4..].to_vec())),
        ("half a word", with_table([table(&[&WIDE, &NARROW]), vec![1, 2]].concat())),
        ("64 bits past the end", with_table(table(&[&[end - 7], &[], &[]]))),
        ("inverse past the end", with_table(table(&[&[], &[end - 3], &[]]))),
        ("32 bits past the end", with_table(table(&[&[], &[], &[end - 3]]))),
        ("a relocation before it", with_table(table(&[&[], &[], &[u32::MAX]]))),
        ("payload past the end", with_header(0x24c, 1 << 20, 4)),
        ("payload far past the end", with_header(0x248, u32::MAX.into(), 4)),
        ("payload larger than the kernel", with_header(0x260, 100, 4)),
        ("no payload", with_header(0x24c, 0, 4)),
        ("odd alignment", with_header(0x230, 3 << 20, 4)),
        ("start not aligned", with_header(0x258, START + 4096, 8)),
        ("start too low", with_header(0x258, 0, 8)),
        ("xz", with_payload(lz4, |payload| payload[..6].copy_from_slice(b"\xfd7zXZ\0"))),
        ("cut off LZ4", with_payload(lz4, |payload| drop(payload.drain(12..20)))),
        ("large LZ4 block", with_payload(lz4, |payload| payload[4..8].fill(0xff))),
        ("cut off gzip", with_payload(gzip, |payload| drop(payload.drain(12..20)))),
        (
            "wrong checksum",
            with_payload(gzip, |payload| {
                let at = payload.len() - 8;
                payload[at] ^= 1;
            }),
        ),
        ("cut off zstd", with_payload(zstd, |payload| drop(payload.drain(12..20)))),
        (
            "larger than it says",
            with_payload(lz4, |payload| {
                let at = payload.len() - 4;
                payload[at] -= 1;
            }),
        ),
        (
            "smaller than it says",
            with_payload(zstd, |payload| {
                let at = payload.len() - 4;
                payload[at] += 1;
            }),
        ),
        (
            "larger than it may be",
            with_payload(lz4, |payload| {
                let at = payload.len() - 4;
                payload[at..].fill(0xff);
            }),
        ),
    ];
    for (what, kernel) in cases {
        let (memory, entry) = boot(&kernel, Some(b"initrd"), "quiet").unwrap();
        assert_eq!(entry, PACKED, "{what}");
        assert_eq!(loadflags(&memory), 1, "{what}");
        assert_eq!(read(&memory, 0x10_0000), [0xf4; 1024], "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn spoiled_payloads_never_panic(
        pack in 0usize..3,
        // Most in the headers and the tables.
        spoils in prop::collection::vec(
            (prop_oneof![0usize..0x100, SECTIONS..ELF_END + 44], any::<u8>()),
            0..6,
        ),
        packed_spoils in prop::collection::vec((0x1f1usize..0xc00, any::<u8>()), 0..3),
    ) {
        let mut kernel = vmlinux();
        for (at, byte) in spoils {
            if let Some(place) = kernel.get_mut(at) {
                *place = byte;
            }
        }
        let mut image = image(&[lz4, gzip, zstd][pack](&kernel));
        for (at, byte) in packed_spoils {
            if let Some(place) = image.get_mut(at) {
                *place = byte;
            }
        }
        let _ = boot(&image, Some(b"initrd"), "quiet");
    }
}
