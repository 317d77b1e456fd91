//! A flat model of a disk, and `qemu-img` as the judge of the files.

#![allow(dead_code)]

use std::fs::{File, OpenOptions as FileOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use qcow2::{Backing, CreateOptions, Format, Image, Layer, OpenOptions};

pub fn open_rw(path: &Path) -> File {
    FileOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

pub fn qemu_img(args: &[&str]) -> (bool, String) {
    let out = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is needed by these tests: install qemu-utils");
    let text = format!(
        "qemu-img {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    (out.status.success(), text)
}

pub fn must(args: &[&str]) -> String {
    let (ok, text) = qemu_img(args);
    assert!(ok, "{text}");
    text
}

/// `qemu-img check` finds nothing at all, and neither does our own check.
pub fn check_clean(path: &Path) {
    must(&["check", "-f", "qcow2", path.to_str().unwrap()]);
    let report = qcow2::check(&File::open(path).unwrap()).unwrap();
    assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
}

/// `qemu-img` sees exactly these bytes through the chain.
pub fn compare(path: &Path, model: &[u8]) {
    let flat = path.with_extension("model");
    std::fs::write(&flat, model).unwrap();
    must(&["compare", "-f", "qcow2", "-F", "raw", path.to_str().unwrap(), flat.to_str().unwrap()]);
    std::fs::remove_file(flat).unwrap();
}

pub fn layer(path: &Path, format: Format, writable: bool) -> Layer {
    let file = if writable { open_rw(path) } else { File::open(path).unwrap() };
    Layer { file, format }
}

/// A chain in a directory: files, top first.
pub struct Chain {
    pub paths: Vec<(PathBuf, Format)>,
}

impl Chain {
    pub fn open(&self) -> Arc<Image> {
        self.open_with(OpenOptions::default())
    }

    pub fn open_with(&self, options: OpenOptions) -> Arc<Image> {
        let layers = self
            .paths
            .iter()
            .enumerate()
            .map(|(i, (path, format))| layer(path, *format, i == 0 && !options.read_only))
            .collect();
        Image::open(layers, options).unwrap()
    }

    /// Put a new overlay on top.
    pub fn overlay(&mut self, dir: &Path, options: &CreateOptions) {
        let path = dir.join(format!("layer{}.qcow2", self.paths.len()));
        let mut options = options.clone();
        if let Some((below, format)) = self.paths.first() {
            options.backing =
                Some(Backing { name: below.to_str().unwrap().into(), format: *format });
        }
        qcow2::create(&open_rw(&path), &options).unwrap();
        self.paths.insert(0, (path, Format::Qcow2));
    }
}

pub fn read_all(image: &Image) -> Vec<u8> {
    let mut all = vec![0u8; usize::try_from(image.virtual_size()).unwrap()];
    image.read_at(&mut all, 0).unwrap();
    all
}

/// Bytes that differ from write to write and from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

#[track_caller]
pub fn assert_same(actual: &[u8], expected: &[u8]) {
    assert_eq!(actual.len(), expected.len());
    if let Some(at) = (0..actual.len()).find(|i| actual[*i] != expected[*i]) {
        panic!("byte {at:#x} is {:#x}, expected {:#x}", actual[at], expected[at]);
    }
}
