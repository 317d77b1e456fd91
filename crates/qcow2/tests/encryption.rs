//! Encrypted images, with `qemu-img` as the judge.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qcow2::{
    Backing, CreateOptions, Error, Format, Image, OpenOptions, Passphrase, create,
    flatten_encrypted,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{layer, must, open_rw};

const SECRET: &str = "0d9b31c4f8b04a4d3f1d9f4f3a5c0e77a1";

fn passphrase() -> Passphrase {
    Passphrase::new(SECRET.as_bytes().to_vec())
}

fn open(paths: &[(PathBuf, Format)]) -> Arc<Image> {
    let layers = paths.iter().enumerate().map(|(i, (path, f))| layer(path, *f, i == 0)).collect();
    Image::open_encrypted(layers, OpenOptions::default(), &passphrase()).unwrap()
}

/// How `qemu-img` names an image whose first `encrypted` layers have the secret.
fn named(paths: &[(PathBuf, Format)], encrypted: usize) -> String {
    let mut name = String::new();
    for (index, (path, _)) in paths.iter().take(encrypted).enumerate() {
        let below = "backing.".repeat(index);
        name += &format!(
            "{below}driver=qcow2,{below}file.filename={},{below}encrypt.key-secret=s,",
            path.display()
        );
    }
    name.trim_end_matches(',').to_owned()
}

fn secret() -> String {
    format!("secret,id=s,data={SECRET}")
}

/// `qemu-img` finds no fault with the file, and reads these bytes.
fn judge(paths: &[(PathBuf, Format)], encrypted: usize, model: &[u8]) {
    let name = named(paths, encrypted);
    must(&["check", "--object", &secret(), "--image-opts", &name]);
    let report = qcow2::check(&File::open(&paths[0].0).unwrap()).unwrap();
    assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
    let flat = paths[0].0.with_extension("flat");
    must(&[
        "convert",
        "--object",
        &secret(),
        "--image-opts",
        &name,
        "-O",
        "raw",
        flat.to_str().unwrap(),
    ]);
    assert!(std::fs::read(&flat).unwrap() == model, "qemu-img reads something else");
}

fn pattern(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let seed: u8 = rng.random();
    (0..len).map(|i| (i / 7) as u8 ^ seed | 1).collect()
}

fn overlay(path: &Path, size: u64, cluster_bits: u32, below: Option<&(PathBuf, Format)>) {
    let backing = below
        .map(|(path, format)| Backing { name: path.to_str().unwrap().into(), format: *format });
    let encryption = Some(passphrase());
    let options = CreateOptions {
        virtual_size: size,
        cluster_bits,
        backing,
        encryption,
        ..Default::default()
    };
    create(&open_rw(path), &options).unwrap();
}

fn random_operations(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut size = rng.random_range(500..4000) * 512u64;
    let base = (dir.path().join("base"), Format::Raw);
    let mut model = pattern(&mut rng, size as usize / 2);
    std::fs::write(&base.0, &model).unwrap();
    model.resize(size as usize, 0);
    let mut paths = vec![base];
    for number in 0..2 {
        // A name does not fit a first cluster of 512 bytes with its path.
        let path = dir.path().join(format!("layer{number}"));
        overlay(&path, size, rng.random_range(10..=17), paths.first());
        paths.insert(0, (path, Format::Qcow2));
        let image = open(&paths);
        for _ in 0..rng.random_range(5..60) {
            let at = rng.random_range(0..size / 512) * 512;
            let len = (rng.random_range(1..200) * 512u64).min(size - at);
            let range = at as usize..(at + len) as usize;
            match rng.random_range(0..10) {
                0..=5 => {
                    let data = pattern(&mut rng, len as usize);
                    image.write_at(&data, at).unwrap();
                    model[range].copy_from_slice(&data);
                }
                6 => {
                    image.write_zeroes(at, len, rng.random()).unwrap();
                    model[range].fill(0);
                }
                7 => {
                    image.discard(at, len).unwrap();
                    image.read_at(&mut model[range], at).unwrap();
                }
                8 => image.flush().unwrap(),
                _ if number == 1 => {
                    size += rng.random_range(1..100) * 512;
                    image.grow(size).unwrap();
                    model.resize(size as usize, 0);
                }
                _ => {}
            }
        }
        let mut read = vec![1; size as usize];
        image.read_at(&mut read, 0).unwrap();
        assert!(read == model, "seed {seed}");
        drop(image);
        judge(&paths, number + 1, &model);
        // As after a crash: what repair leaves is whole.
        qcow2::repair(&open_rw(&paths[0].0)).unwrap();
    }
    judge(&paths, 2, &model);
    let flat = dir.path().join("flat.qcow2");
    let file = open_rw(&flat);
    let image = open(&paths);
    let length = flatten_encrypted(&image, &passphrase(), |piece| {
        file.write_all_at(piece.data, piece.offset).unwrap();
        ControlFlow::Continue(())
    });
    file.set_len(length.unwrap().unwrap()).unwrap();
    let flat = [(flat, Format::Qcow2)];
    judge(&flat, 1, &model);
    let mut read = vec![1; size as usize];
    open(&flat).read_at(&mut read, 0).unwrap();
    assert!(read == model, "seed {seed}");
}

#[test]
fn random_operations_are_what_qemu_img_reads() {
    for seed in 0..8 {
        random_operations(seed);
    }
}

#[test]
fn what_qemu_img_writes_is_read_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let [raw, made] = ["raw", "made.qcow2"].map(|name| dir.path().join(name));
    let mut model = pattern(&mut StdRng::seed_from_u64(1), 3 << 20);
    std::fs::write(&raw, &model).unwrap();
    // Into an image of ours: to make one QEMU times the CPU, and fails on a busy one.
    overlay(&made, model.len() as u64, 16, None);
    let paths = [(made, Format::Qcow2)];
    let (from, to) = (raw.to_str().unwrap(), named(&paths, 1));
    let convert = ["convert", "--object", &secret(), "-n", "-f", "raw", from];
    must(&[&convert[..], &["--target-image-opts", &to]].concat());
    let image = open(&paths);
    let mut read = vec![0; model.len()];
    image.read_at(&mut read, 0).unwrap();
    assert!(read == model);
    image.write_at(&[0x5a; 5120], 1 << 20).unwrap();
    model[1 << 20..(1 << 20) + 5120].fill(0x5a);
    drop(image);
    judge(&paths, 1, &model);
}

#[test]
fn nothing_of_the_content_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    overlay(&path, 1 << 20, 16, None);
    let paths = [(path, Format::Qcow2)];
    let image = open(&paths);
    let marker = b"a secret of the tenant's, in a sector of its own";
    let mut sector = vec![0; 4096];
    sector[..marker.len()].copy_from_slice(marker);
    image.write_at(&sector, 8192).unwrap();
    drop(image);
    let file = std::fs::read(&paths[0].0).unwrap();
    let contains = |what: &[u8]| file.windows(what.len()).any(|part| part == what);
    assert!(!contains(&marker[..16]));
    assert!(!contains(SECRET.as_bytes()), "not even the passphrase");
    // Zeroes around it are written encrypted too: where they end is nobody's business. Behind the LUKS
    // header there are one cluster of data and its table.
    let clusters = file[36 << 16..].chunks(1 << 16);
    let dense = clusters.filter(|c| !c.windows(64).any(|part| part == [0; 64])).count();
    assert_eq!(dense, 1);
    assert!(qcow2::probe(&File::open(&paths[0].0).unwrap()).unwrap().encrypted);
}

#[test]
fn without_the_right_key_nothing_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    overlay(&path, 1 << 20, 16, None);
    let layers = || vec![layer(&path, Format::Qcow2, true)];
    let locked = |opened: Result<Arc<Image>, Error>, why: &str| {
        let error = opened.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        let Error::Layer { index: 0, source } = error else { panic!("{error}") };
        assert!(matches!(*source, Error::Locked { .. }));
    };
    locked(Image::open(layers(), OpenOptions::default()), "no key");
    let wrong = Passphrase::new(b"another".to_vec());
    locked(Image::open_encrypted(layers(), OpenOptions::default(), &wrong), "not its key");
}
