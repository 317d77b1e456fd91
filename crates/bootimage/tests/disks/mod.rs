//! Disks for tests, made by the tools distributions use: `mke2fs` and `sfdisk`.
#![allow(dead_code, clippy::panic)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

pub const ROOT_UUID: &str = "6d1f1f0e-0c9c-4c57-a8ff-9d6f2c1d1212";
pub const BOOT_UUID: &str = "0b5c0ad8-3a3b-4d4f-9a44-0d2a5b1d7e11";
pub const PART_UUID: &str = "9b2b3c64-64f5-4d3e-8d52-5d1c0a9e4f01";

const MIB: usize = 1 << 20;

/// What to put at a path.
pub enum Node {
    File(Vec<u8>),
    Link(&'static str),
}

pub type Tree = Vec<(String, Node)>;

pub fn file(path: &str, content: impl Into<Vec<u8>>) -> (String, Node) {
    (path.to_owned(), Node::File(content.into()))
}

pub fn link(path: &str, target: &'static str) -> (String, Node) {
    (path.to_owned(), Node::Link(target))
}

/// A bzImage as far as its header goes; `mark` makes it differ from others.
pub fn kernel(mark: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..40_000_u32).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
    bytes[0x1f1] = 4;
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    bytes[0x236] = 1;
    bytes[8192] = mark;
    bytes
}

pub fn initrd(mark: u8) -> Vec<u8> {
    (0..100_001_u32).map(|i| (i.wrapping_mul(17) >> 2) as u8 ^ mark).collect()
}

/// Runs a program of the system; sbin is not in everyone's PATH.
pub fn run(program: &str, arguments: &[&str], input: &str) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; install e2fsprogs and fdisk"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("wait");
    // A filesystem checker answers 1 when it has changed something.
    let done = output.status.success() || (program == "e2fsck" && output.status.code() == Some(1));
    assert!(done, "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn populate(root: &Path, tree: &Tree) {
    for (path, node) in tree {
        let at = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().expect("has a parent")).expect("mkdir");
        match node {
            Node::File(content) => fs::write(&at, content).expect("write"),
            Node::Link(target) => symlink(target, &at).expect("symlink"),
        }
    }
}

/// An ext4 filesystem of so many MiB.
pub fn ext4(uuid: &str, mib: usize, tree: &Tree) -> Vec<u8> {
    ext4_with(uuid, mib, tree, &[])
}

/// An ext4 filesystem made with more options of mke2fs.
pub fn ext4_with(uuid: &str, mib: usize, tree: &Tree, options: &[&str]) -> Vec<u8> {
    let work = tempfile::tempdir().expect("tempdir");
    let root = work.path().join("root");
    fs::create_dir(&root).expect("mkdir");
    populate(&root, tree);
    let image = work.path().join("image");
    let image_text = image.to_str().expect("utf-8");
    let root_text = root.to_str().expect("utf-8");
    let size = format!("{mib}M");
    let mut arguments = vec!["-q", "-F", "-t", "ext4", "-U", uuid, "-d", root_text];
    arguments.extend(options);
    arguments.extend([image_text, &size]);
    run("mke2fs", &arguments, "");
    fs::read(&image).expect("read")
}

/// A filesystem with what the commands of `debugfs` do to it; `jw` writes to its journal.
pub fn debugfs(image: &[u8], commands: &str) -> Vec<u8> {
    let work = tempfile::tempdir().expect("tempdir");
    let at = work.path().join("image");
    fs::write(&at, image).expect("write");
    run("debugfs", &["-w", "-f", "-", at.to_str().expect("utf-8")], commands);
    fs::read(&at).expect("read")
}

/// A FAT filesystem of so many MiB.
pub fn fat(mib: usize, tree: &Tree) -> Vec<u8> {
    let mut image = std::io::Cursor::new(vec![0; mib * MIB]);
    let options = fatfs::FormatVolumeOptions::new().volume_id(0x1234_abcd);
    fatfs::format_volume(&mut image, options).expect("format");
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).expect("mount");
        for (path, node) in tree {
            let Node::File(content) = node else { panic!("FAT has no links") };
            let path = path.trim_start_matches('/');
            for (at, _) in path.match_indices('/') {
                let _ = volume.root_dir().create_dir(&path[..at]);
            }
            let mut file = volume.root_dir().create_file(path).expect("create");
            file.write_all(content).expect("write");
        }
    }
    image.into_inner()
}

/// A disk with a partition table that `sfdisk` wrote. Each partition: its line for sfdisk without
/// start and size, and its content.
pub fn partitioned(label: &str, partitions: &[(&str, &[u8])]) -> Vec<u8> {
    let total: usize = partitions.iter().map(|(_, content)| content.len() + MIB).sum();
    let mut script = format!("label: {label}\nunit: sectors\n");
    if label == "dos" {
        script.push_str("label-id: 0xcafe1234\n");
    }
    let mut places = Vec::new();
    let mut at = MIB;
    for (line, content) in partitions {
        let sectors = content.len() / 512;
        script.push_str(&format!("start={}, size={sectors}, {line}\n", at / 512));
        places.push(at);
        at += content.len();
    }
    let work = tempfile::tempdir().expect("tempdir");
    let image = work.path().join("disk");
    fs::write(&image, vec![0; total + 2 * MIB]).expect("write");
    run("sfdisk", &["-q", image.to_str().expect("utf-8")], &script);
    let mut disk = fs::read(&image).expect("read");
    for (at, (_, content)) in places.into_iter().zip(partitions) {
        disk[at..at + content.len()].copy_from_slice(content);
    }
    disk
}

pub const LINUX: &str = "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4";
pub const ESP: &str = "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// A configuration with its placeholders filled in.
pub fn configuration(text: &str, default: &str) -> Vec<u8> {
    text.replace("@uuid@", ROOT_UUID)
        .replace("@boot@", BOOT_UUID)
        .replace("@partuuid@", PART_UUID)
        .replace("@default@", default)
        .into_bytes()
}

pub const DEBIAN: &str = include_str!("../configurations/debian.cfg");
pub const UBUNTU: &str = include_str!("../configurations/ubuntu.cfg");
pub const FEDORA: &str = include_str!("../configurations/fedora.cfg");

/// Root filesystem of a Debian with two kernels.
pub fn debian_tree(default: &str) -> Tree {
    vec![
        file("/boot/grub/grub.cfg", configuration(DEBIAN, default)),
        file("/boot/vmlinuz-6.1.0-18", kernel(18)),
        file("/boot/initrd.img-6.1.0-18", initrd(18)),
        file("/boot/vmlinuz-6.1.0-9", kernel(9)),
        file("/boot/initrd.img-6.1.0-9", initrd(9)),
        link("/vmlinuz", "boot/vmlinuz-6.1.0-18"),
        link("/initrd.img", "boot/initrd.img-6.1.0-18"),
        file("/etc/fstab", format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n")),
    ]
}

/// A disk as a Debian cloud image has it.
pub fn debian_disk() -> Vec<u8> {
    let root = ext4(ROOT_UUID, 8, &debian_tree("0"));
    partitioned("gpt", &[(&format!("{LINUX}, uuid={PART_UUID}"), &root)])
}
