//! Damaged and hostile disks: an answer or an error, in bounded time, and never a panic. Seeds are
//! fixed, so a failure can be repeated. `BOOTIMAGE_FUZZ_SECONDS` makes each search longer.

mod disks;

use std::time::{Duration, Instant};

use bootimage::{Limits, find};
use disks::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How long one disk may take; far more than any needs, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits {
        read_bytes: 64 << 20,
        reads: 50_000,
        initrd_bytes: 16 << 20,
        time: Duration::from_secs(5),
        ..Limits::default()
    }
}

fn survive(disk: Vec<u8>, what: &str) -> bool {
    let started = Instant::now();
    let found = find(Box::new(disk), limits());
    let booted = match found {
        Ok(found) => {
            let _ = found.write_initrd(&mut std::io::sink());
            found.write_kernel(&mut std::io::sink()).is_ok()
        }
        Err(error) => {
            assert!(error.code().starts_with("ImageBootFailed."), "{what}");
            assert!(error.to_string().contains(';'), "{what}: no remedy in {error}");
            false
        }
    };
    assert!(started.elapsed() < PATIENCE, "{what} took {:?}", started.elapsed());
    booted
}

/// Damages bytes of a range in ways parsers stumble over.
fn damage(disk: &mut [u8], range: std::ops::Range<usize>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..12) {
        let at = random.random_range(range.clone());
        match random.random_range(0..5) {
            0 => disk[at] ^= 1 << random.random_range(0..8),
            1 => disk[at] = random.random(),
            2 => disk[at..(at + 4).min(range.end)].fill(0xff),
            3 => disk[at..(at + 4).min(range.end)].fill(0),
            _ => {
                let len = random.random_range(1..64).min(range.end - at);
                let from = random.random_range(range.start..=range.end - len);
                disk.copy_within(from..from + len, at);
            }
        }
    }
}

/// How long each kind of damage is tried.
fn duration() -> Duration {
    let seconds = std::env::var("BOOTIMAGE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Many damaged copies of a disk.
fn many(disk: &[u8], range: std::ops::Range<usize>, seed: u64, what: &str) {
    let started = Instant::now();
    let mut booted = 0;
    let mut tried = 0;
    for round in 0.. {
        if started.elapsed() > duration() && round > 20 {
            break;
        }
        let mut random = StdRng::seed_from_u64((seed << 32) + round);
        let mut copy = disk.to_vec();
        damage(&mut copy, range.clone(), &mut random);
        booted += u32::from(survive(copy, &format!("{what}, seed {seed}, round {round}")));
        tried += 1;
    }
    assert!(tried > 20, "{what}: {booted} of {tried} booted");
}

/// Without checksums damage gets further than to the next checksum.
fn unchecked_root() -> Vec<u8> {
    ext4_with(
        ROOT_UUID,
        4,
        &vec![
            file("/boot/grub/grub.cfg", configuration(DEBIAN, "0")),
            file("/boot/vmlinuz-6.1.0-18", kernel(18)),
            file("/boot/initrd.img-6.1.0-18", initrd(18)),
            file("/etc/fstab", ""),
        ],
        &["-O", "^metadata_csum", "-b", "1024"],
    )
}

#[test]
fn partition_tables() {
    let root = unchecked_root();
    let gpt = partitioned("gpt", &[(LINUX, &root)]);
    many(&gpt, 0..512 * 34, 1, "GPT");
    let mbr = partitioned("dos", &[("type=83", &root)]);
    many(&mbr, 440..512, 2, "MBR");
}

#[test]
fn ext4_superblock_and_descriptors() {
    many(&unchecked_root(), 1024..4096, 3, "ext4 superblock");
}

#[test]
fn ext4_metadata() {
    let root = unchecked_root();
    // Inode tables, directories and the journal are in the first half.
    let half = root.len() / 2;
    many(&root, 4096..half, 4, "ext4 metadata");
    // Inode by inode, which random places rarely meet.
    let mut inodes = Vec::new();
    for at in (4096..half).step_by(128) {
        // Regular files and directories with an extent tree.
        if root[at + 40..at + 42] == [0x0a, 0xf3] {
            inodes.push(at);
        }
    }
    assert!(inodes.len() > 5, "{} inodes", inodes.len());
    let mut random = StdRng::seed_from_u64(5);
    let started = Instant::now();
    while started.elapsed() < duration() {
        let at = inodes[random.random_range(0..inodes.len())];
        let mut copy = root.clone();
        damage(&mut copy, at..at + 128, &mut random);
        survive(copy, &format!("inode at {at}"));
    }
}

#[test]
fn ext4_journal() {
    let work = tempfile::tempdir().expect("tempdir");
    let data = work.path().join("data");
    std::fs::write(&data, vec![0xc0; 200 * 1024]).expect("write");
    let list = |range: std::ops::Range<u32>| {
        range.map(|block| block.to_string()).collect::<Vec<_>>().join(",")
    };
    let script = format!(
        "jo\njw -b {} {data}\njw -r {}\njw -b {} {data}\njc\n",
        list(2000..2200),
        list(2100..2150),
        list(2150..2170),
        data = data.display()
    );
    let root = debugfs(&unchecked_root(), &script);
    find(Box::new(root.clone()), limits()).expect("bootable with the journal as written");
    let at = root.windows(8).position(|bytes| bytes == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]);
    let at = at.expect("a journal");
    many(&root, at..at + 256, 9, "the journal's superblock");
    many(&root, at + 1024..at + 2048, 10, "a descriptor block");
    // Revocations, commits and later descriptors lie among the copies.
    let mut headers = Vec::new();
    for at in (at + 1024..root.len()).step_by(1024) {
        if root[at..at + 4] == [0xc0, 0x3b, 0x39, 0x98] {
            headers.push(at);
        }
    }
    assert!(headers.len() > 5, "{} headers", headers.len());
    let mut random = StdRng::seed_from_u64(11);
    let started = Instant::now();
    while started.elapsed() < duration() {
        let mut copy = root.clone();
        for _ in 0..3 {
            let at = headers[random.random_range(0..headers.len())];
            damage(&mut copy, at..at + 64, &mut random);
        }
        survive(copy, "blocks of the journal");
    }
}

#[test]
fn fat() {
    let esp = disks::fat(
        4,
        &vec![
            file("/loader/entries/a.conf", "linux /a/linux\ninitrd /a/initrd\noptions x\n"),
            file("/a/linux", kernel(1)),
            file("/a/initrd", initrd(1)),
        ],
    );
    assert!(survive(esp.clone(), "FAT as made"));
    many(&esp, 0..512, 6, "FAT boot sector");
    many(&esp, 512..64 << 10, 7, "FAT tables and directories");
}

#[test]
fn grub_configurations() {
    let root = unchecked_root();
    let text = configuration(DEBIAN, "0");
    let at = root.windows(64).position(|bytes| bytes == &text[..64]).expect("in one piece");
    many(&root, at..at + text.len(), 8, "grub.cfg");
}

#[test]
fn scripts_that_try_to_be_expensive() {
    let deep = "if true; then ".repeat(5_000);
    let braces = "submenu a { ".repeat(5_000);
    let negated = format!("if {} [ a ]; then set x=y; fi", "! ".repeat(100_000));
    let tests = format!("if [ {} a ]; then set x=y; fi", "a -o ".repeat(100_000));
    let scripts = [
        ("a loop without end", "while true; do set x=y; done".to_owned()),
        ("a loop of a loop", "for a in 1 2 3; do while true; do echo; done; done".to_owned()),
        ("a function that calls itself", "function f { f; f; }\nf".to_owned()),
        ("a file that sources itself", "source /boot/grub/grub.cfg\n".repeat(9)),
        ("a file that configures itself", "configfile /boot/grub/grub.cfg".to_owned()),
        ("a variable that doubles", "set a=aaaaaaaa\n".to_owned() + &"set a=$a$a\n".repeat(900)),
        (
            "words that double",
            "set a='b b'\n".to_owned() + &"set a=\"$a $a\"\nset $a\n".repeat(900),
        ),
        ("blocks in blocks", deep),
        ("submenus in submenus", braces),
        ("negations", negated),
        ("alternatives", tests),
        ("a quote without end", "menuentry 'a { linux /b".to_owned()),
        ("many entries", "menuentry a { linux /b }\n".repeat(9_000)),
        (
            "many initrds",
            format!("menuentry a {{\n linux /sbin/init\n initrd {}\n}}", "/a ".repeat(9_000)),
        ),
        (
            "a long value any number of times",
            format!("set a={}\necho {}", "a".repeat(8000), "\"$a\" ".repeat(200_000)),
        ),
        ("entry files again and again", "blscfg\n".repeat(90_000)),
        ("closing words only", "fi done } else then ".repeat(9_000)),
        ("not text", String::from_utf8_lossy(&initrd(3)).into_owned()),
    ];
    for (what, script) in scripts {
        let tree = vec![file("/boot/grub/grub.cfg", script), file("/sbin/init", "")];
        assert!(!survive(ext4(ROOT_UUID, 4, &tree), what), "{what}");
    }
}

#[test]
fn truncated_disks() {
    let disk = debian_disk();
    for len in [0, 1, 511, 512, 1023, 1024, 2048, 17_408, 1 << 20, (1 << 20) + 1500, 3 << 20] {
        survive(disk[..len].to_vec(), &format!("{len} bytes"));
    }
}

#[test]
fn a_partition_may_claim_more_than_the_disk() {
    let mut disk = vec![0_u8; 1 << 20];
    for (at, kind) in [(446, 0x83), (462, 0x05)] {
        disk[at + 4] = kind;
        disk[at + 8..at + 16].fill(0xff);
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(!survive(disk.clone(), "huge partitions"));
    // Logical partitions in a circle.
    disk[462 + 8..462 + 16].copy_from_slice(&[1, 0, 0, 0, 9, 0, 0, 0]);
    for at in [512, 1024] {
        disk.copy_within(446..512, at + 446);
    }
    assert!(!survive(disk, "a circle of logical partitions"));
}
