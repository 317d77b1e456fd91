//! Journals that `debugfs` wrote, replayed here and by `e2fsck`.

use std::collections::BTreeSet;
use std::fs;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checksum::{crc32_be, crc32c};
use super::inode::Blocks;
use super::overlay::Overlay;
use super::superblock::Superblock;
use crate::error::Error;
use crate::limits::Limits;
use crate::source::Extent;

#[path = "../../../tests/disks/mod.rs"]
mod disks;

use disks::{ROOT_UUID, debugfs, ext4_with, file, run};

/// Free blocks of the filesystems below, which transactions may write to.
const FREE: std::ops::Range<u64> = 5000..5400;

/// How a filesystem and its journal are made.
struct Kind {
    name: &'static str,
    mke2fs: &'static [&'static str],
    /// The command that opens the journal.
    open: &'static str,
    mib: usize,
}

const KINDS: &[Kind] = &[
    Kind { name: "v3, 64 bit", mke2fs: &["-b", "1024"], open: "jo -c", mib: 8 },
    Kind { name: "v2, 64 bit", mke2fs: &["-b", "1024"], open: "jo -c -v 2", mib: 8 },
    Kind { name: "v3, 32 bit", mke2fs: &["-b", "1024", "-O", "^64bit"], open: "jo -c", mib: 8 },
    Kind {
        name: "v2, 32 bit",
        mke2fs: &["-b", "1024", "-O", "^64bit"],
        open: "jo -c -v 2",
        mib: 8,
    },
    Kind {
        name: "without sums, 64 bit",
        mke2fs: &["-b", "1024", "-O", "^metadata_csum"],
        open: "jo",
        mib: 8,
    },
    Kind {
        name: "without sums, 32 bit",
        mke2fs: &["-b", "1024", "-O", "^metadata_csum,^64bit"],
        open: "jo",
        mib: 8,
    },
    Kind {
        name: "as ext3",
        mke2fs: &["-b", "1024", "-O", "^metadata_csum,^64bit,^extents"],
        open: "jo",
        mib: 8,
    },
    Kind { name: "large blocks", mke2fs: &["-b", "4096"], open: "jo -c", mib: 24 },
];

impl Kind {
    fn block_size(&self) -> usize {
        if self.mke2fs[1] == "4096" { 4096 } else { 1024 }
    }

    fn make(&self) -> Vec<u8> {
        ext4_with(ROOT_UUID, self.mib, &vec![file("/etc/fstab", "")], self.mke2fs)
    }
}

/// Appends transactions: blocks written (some begin as blocks of the journal do), blocks revoked,
/// both at random, and a last one without its commit.
fn transactions(kind: &Kind, image: &[u8], count: u32, random: &mut StdRng) -> Vec<u8> {
    let work = tempfile::tempdir().expect("tempdir");
    let list =
        |blocks: &BTreeSet<u64>| blocks.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut script = format!("{}\n", kind.open);
    for number in 0..=count {
        let blocks: BTreeSet<u64> =
            (0..random.random_range(1..160)).map(|_| random.random_range(FREE)).collect();
        let mut data: Vec<u8> = Vec::new();
        for _ in &blocks {
            let at = data.len();
            data.resize(at + kind.block_size(), random.random());
            if random.random_bool(0.1) {
                data[at..at + 4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
            }
        }
        let path = work.path().join(number.to_string());
        fs::write(&path, data).expect("write");
        let commit = if number == count { "-c " } else { "" };
        script.push_str(&format!("jw {commit}-b {} {}\n", list(&blocks), path.display()));
        if number < count && random.random_bool(0.7) {
            let blocks: BTreeSet<u64> =
                (0..random.random_range(1..40)).map(|_| random.random_range(FREE)).collect();
            script.push_str(&format!("jw -r {}\n", list(&blocks)));
        }
    }
    script.push_str("jc\n");
    debugfs(image, &script)
}

fn extent(image: &[u8]) -> Extent {
    Extent::whole(Box::new(image.to_vec()), Limits::default())
}

/// Where the blocks of the journal are in the image.
fn journal(image: &[u8]) -> Vec<usize> {
    let area = extent(image);
    let superblock = Superblock::read(&area).expect("superblock");
    let blocks = Blocks::of_inode(&area, &superblock, 8).expect("journal");
    (0..blocks.count)
        .map(|block| (blocks.place(block).expect("no holes") * superblock.block_size) as usize)
        .collect()
}

fn put(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Moves the log on by so many blocks, around the end of the ring.
fn rotate(image: &mut [u8], by: usize, block_size: usize) {
    let places = journal(image);
    let old = image.to_vec();
    let ring = places.len() - 1;
    for (index, place) in places[1..].iter().enumerate() {
        let to = places[1 + (index + by) % ring];
        image[to..to + block_size].copy_from_slice(&old[*place..*place + block_size]);
    }
    put(image, places[0] + 0x1c, (1 + by % ring) as u32);
    seal(image, places[0]);
}

/// Computes the checksum of the journal's superblock again.
fn seal(image: &mut [u8], at: usize) {
    put(image, at + 0xfc, 0);
    let sum = crc32c(!0, &image[at..at + 1024]);
    put(image, at + 0xfc, sum);
}

fn replayed_by_e2fsck(image: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("tempfile");
    fs::write(file.path(), image).expect("write");
    let path = file.path().to_str().expect("utf-8");
    run("e2fsck", &["-y", "-E", "journal_only", path], "");
    fs::read(file.path()).expect("read")
}

/// Every block but the two superblocks, which say that the journal was replayed.
fn assert_same(image: &[u8], kind: &Kind, what: &str) -> usize {
    let expected = replayed_by_e2fsck(image);
    let overlay = Overlay::open(&extent(image)).expect("replayed");
    let own = journal(image)[0];
    let size = kind.block_size();
    let mut changed = 0;
    for at in (0..image.len()).step_by(size) {
        if (at..at + size).contains(&1024) || at == own {
            continue;
        }
        let mut block = vec![0; size];
        overlay.read(&mut block, at as u64).expect("read");
        let expected = &expected[at..at + size];
        assert!(block == expected, "{}, {what}: block {} differs", kind.name, at / size);
        changed += usize::from(image[at..at + size] != block);
    }
    // Pieces of any size, as the reader of the filesystem asks for.
    let mut whole = vec![0; image.len()];
    overlay.read(&mut whole, 0).expect("read");
    let at = FREE.start as usize * size;
    assert!(whole[at..] == expected[at..], "{}, {what}: as a whole", kind.name);
    assert_eq!(whole[1024 + 0x60] & 4, 0, "{}: it still says it needs recovery", kind.name);
    changed
}

#[test]
fn journals_of_every_kind_are_replayed_as_e2fsck_does_it() {
    for (seed, kind) in (7..).zip(KINDS) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut image = transactions(kind, &kind.make(), 5, &mut random);
        assert!(assert_same(&image, kind, "from the start") > 50, "{}", kind.name);
        let ring = journal(&image).len() - 1;
        rotate(&mut image, ring - random.random_range(20..200), kind.block_size());
        assert!(assert_same(&image, kind, "around the end") > 50, "{}", kind.name);
    }
}

#[test]
fn sequence_numbers_wrap_around() {
    let kind = &KINDS[5];
    let mut image = transactions(kind, &kind.make(), 6, &mut StdRng::seed_from_u64(3));
    let places = journal(&image);
    let by = (u32::MAX - 2).wrapping_sub(1);
    for (index, place) in places.iter().enumerate() {
        let at = if index == 0 { place + 0x18 } else { place + 8 };
        if index == 0 || image[*place..*place + 4] == [0xc0, 0x3b, 0x39, 0x98] {
            let old = u32::from_be_bytes(image[at..at + 4].try_into().expect("four"));
            put(&mut image, at, old.wrapping_add(by));
        }
    }
    assert!(assert_same(&image, kind, "wrapped sequence numbers") > 50);
}

#[test]
fn a_sum_in_the_commit_block_covers_the_transaction() {
    let kind = &KINDS[5];
    let work = tempfile::tempdir().expect("tempdir");
    let data = work.path().join("data");
    fs::write(&data, [7; 1024]).expect("write");
    let script = format!("jo\njw -b 5000 {}\njc\n", data.display());
    let mut image = debugfs(&kind.make(), &script);
    let places = journal(&image);
    put(&mut image, places[0] + 0x24, 1);
    let sum = [places[1], places[2]]
        .iter()
        .fold(u32::MAX, |sum, at| crc32_be(sum, &image[*at..*at + 1024]));
    image[places[3] + 12..places[3] + 14].copy_from_slice(&[1, 4]);
    put(&mut image, places[3] + 16, sum);
    let mut block = [0; 1024];
    let overlay = Overlay::open(&extent(&image)).expect("replayed");
    overlay.read(&mut block, 5000 * 1024).expect("read");
    assert_eq!(block, [7; 1024]);

    put(&mut image, places[3] + 16, sum ^ 1);
    let error = Overlay::open(&extent(&image)).err().expect("damaged");
    assert!(error.to_string().contains("transaction 1 has a wrong checksum"), "{error}");
    // Asynchronous: the commit arrived before the rest.
    put(&mut image, places[0] + 0x28, 4);
    let overlay = Overlay::open(&extent(&image)).expect("not committed");
    overlay.read(&mut block, 5000 * 1024).expect("read");
    assert_eq!(block, [0; 1024]);
}

#[test]
fn damage_is_found_where_it_matters() {
    let kind = &KINDS[0];
    let work = tempfile::tempdir().expect("tempdir");
    let data = work.path().join("data");
    fs::write(&data, [7; 2048]).expect("write");
    let script = format!("jo -c\njw -b 5000,5001 {}\njc\n", data.display());
    let image = debugfs(&kind.make(), &script);
    let places = journal(&image);
    let damaged = |at: usize| {
        let mut image = image.clone();
        image[at] ^= 1;
        Overlay::open(&extent(&image))
    };
    for (at, what) in [
        (places[0] + 0x30, "its superblock has a wrong checksum"),
        (places[1] + 40, "its transaction 1 has a wrong checksum"),
        (places[4] + 0x3b, "its transaction 1 has a wrong checksum"),
    ] {
        let error = damaged(at).err().expect("damaged");
        assert!(error.to_string().contains(what), "{error}");
    }
    // A copy nobody reads may be damaged.
    let overlay = damaged(places[2] + 9).expect("replayed");
    let mut block = [0; 1024];
    overlay.read(&mut block, 5001 * 1024).expect("whole");
    let error = overlay.read(&mut block, 5000 * 1024).expect_err("damaged");
    assert!(error.to_string().contains("block 5000 has a wrong checksum"), "{error}");
}

#[test]
fn fast_commits_are_not_read_past() {
    let kind = &KINDS[5];
    let work = tempfile::tempdir().expect("tempdir");
    let data = work.path().join("data");
    fs::write(&data, [7; 1024]).expect("write");
    let script = format!("jo\njw -b 5000 {}\njc\n", data.display());
    let mut image = debugfs(&kind.make(), &script);
    let places = journal(&image);
    put(&mut image, places[0] + 0x28, 0x20);
    put(&mut image, places[0] + 0x54, 100);
    Overlay::open(&extent(&image)).expect("none are there");
    let at = places[places.len() - 100 + 1];
    image[at..at + 12].copy_from_slice(&[9, 0, 8, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    let error = Overlay::open(&extent(&image)).err().expect("not replayed");
    assert!(matches!(error, Error::UnsupportedFilesystem { .. }), "{error}");
}

#[test]
fn more_block_groups_than_memory_are_refused() {
    let mut bytes = KINDS[4].make()[1024..2048].to_vec();
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes[0x20..0x24].copy_from_slice(&256_u32.to_le_bytes());
    struct Huge;
    impl crate::BlockSource for Huge {
        fn size(&self) -> u64 {
            1 << 50
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
            Ok(())
        }
    }
    let area = Extent::whole(Box::new(Huge), Limits::default());
    let error = Superblock::check(bytes.try_into().expect("1024"), &area).expect_err("too many");
    assert!(error.to_string().contains("16777216 block groups"), "{error}");
}
