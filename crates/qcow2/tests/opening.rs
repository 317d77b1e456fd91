//! What is refused, and in which words; what is repaired; what is reported.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use qcow2::{CreateOptions, Error, Format, Image, Info, OpenOptions, check, probe, probe_chain};
use support::*;

fn image_with(dir: &Path, options: &[&str]) -> PathBuf {
    let path = dir.join("image.qcow2");
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    args.extend_from_slice(options);
    args.extend_from_slice(&[path.to_str().unwrap(), "8M"]);
    must(&args);
    path
}

fn open(path: &Path, read_only: bool) -> Result<std::sync::Arc<Image>, Error> {
    Image::open(vec![layer(path, Format::Qcow2, !read_only)], OpenOptions { read_only })
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    open_rw(path).write_all_at(bytes, at).unwrap();
}

#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    for read_only in [false, true] {
        let text = open(path, read_only).expect_err("refused").to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
    assert!(probe(&open_rw(path)).is_err());
}

#[test]
fn unsupported_features_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = image_with(dir.path(), &["-o", "extended_l2=on,cluster_size=64k"]);
    refused(&path, &["extended L2 entries", "qemu-img convert"]);
    let data = dir.path().join("data.raw");
    let option = format!("data_file={},data_file_raw=on", data.display());
    let path = image_with(dir.path(), &["-o", &option]);
    refused(&path, &["external data file"]);
    // LUKS is supported, but this one has no header for it.
    for method in [1u32, 2] {
        let path = image_with(dir.path(), &[]);
        patch(&path, 32, &method.to_be_bytes());
        refused(&path, &["encryption"]);
    }
    let path = image_with(dir.path(), &[]);
    patch(&path, 72, &(1u64 << 40).to_be_bytes());
    refused(&path, &["incompatible feature bit 40"]);
}

#[test]
fn broken_headers_are_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(u64, &[u8], &str)] = &[
        (0, b"NOPE", "magic"),
        (4, &[0, 0, 0, 9], "version 9"),
        (20, &[0, 0, 0, 40], "cluster_bits"),
        (24, &[0x7f, 0xff, 0, 0, 0, 0, 0, 0], "size"),
        (36, &[0xff, 0xff, 0xff, 0xff], "L1 table"),
        (40, &[0, 0, 0, 0, 0, 0, 1, 1], "L1 table"),
        (48, &[0, 0, 0, 0, 0, 0, 1, 1], "refcount table"),
        (56, &[0x7f, 0xff, 0xff, 0xff], "refcount table"),
        (56, &[0, 0, 0, 0], "refcount_table_clusters"),
        (96, &[0, 0, 0, 9], "refcount_order"),
        (100, &[0, 0, 0, 8], "header_length"),
    ];
    for (at, bytes, word) in cases {
        let path = image_with(dir.path(), &[]);
        patch(&path, *at, bytes);
        if *word == "magic" {
            let text = open(&path, true).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        } else {
            refused(&path, &[word]);
        }
    }
}

#[test]
fn truncated_images_give_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 4 << 20, ..Default::default() });
    chain.open().write_at(&pattern(1, 2 << 20), 0).unwrap();
    let path = &chain.paths[0].0;
    for len in [0, 40, 80, 1 << 16, 3 << 16] {
        open_rw(path).set_len(len).unwrap();
        assert!(open(path, true).is_err(), "{len} bytes");
    }
    let mut chain = Chain { paths: vec![] };
    let dir = tempfile::tempdir().unwrap();
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 4 << 20, ..Default::default() });
    let path = chain.paths[0].0.clone();
    chain.open().write_at(&pattern(1, 2 << 20), 0).unwrap();
    open_rw(&path).set_len(1 << 20).unwrap();
    let image = open(&path, true).unwrap();
    let error = image.read_at(&mut vec![0; 2 << 20], 0).unwrap_err();
    assert!(error.to_string().contains("beyond the end of the file"), "{error}");
    assert!(check(&open_rw(&path)).unwrap().corruptions > 0);
}

#[test]
fn a_corrupt_image_opens_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = image_with(dir.path(), &[]);
    patch(&path, 72, &2u64.to_be_bytes());
    assert!(matches!(open(&path, false), Err(Error::Layer { index: 0, .. })));
    let image = open(&path, true).unwrap();
    assert_eq!(image.write_at(&[1], 0).unwrap_err().errno(), libc::EROFS);
    assert_same(&read_all(&image), &vec![0; 8 << 20]);
}

#[test]
fn a_dirty_image_is_repaired_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = image_with(dir.path(), &["-o", "lazy_refcounts=on,cluster_size=4k"]);
    let data = pattern(5, 1 << 20);
    let image = open(&path, false).unwrap();
    image.write_at(&data, 1000).unwrap();
    drop(image);
    // As after a crash with lazy refcounts: the dirty bit, and counts that say nothing.
    let table = u64::from_be_bytes(std::fs::read(&path).unwrap()[48..56].try_into().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    let block = u64::from_be_bytes(bytes[table as usize..][..8].try_into().unwrap());
    patch(&path, block, &[0; 4096]);
    patch(&path, 72, &1u64.to_be_bytes());
    assert!(check(&open_rw(&path)).unwrap().corruptions > 0);
    let before = std::fs::read(&path).unwrap();
    let image = open(&path, true).unwrap();
    image.read_at(&mut [0; 100], 0).unwrap();
    drop(image);
    assert_eq!(std::fs::read(&path).unwrap(), before, "read-only means read-only");
    let image = open(&path, false).unwrap();
    image.write_at(&pattern(6, 100_000), 3 << 20).unwrap();
    let mut read = vec![0; 1 << 20];
    image.read_at(&mut read, 1000).unwrap();
    assert_same(&read, &data);
    drop(image);
    check_clean(&path);
}

#[test]
fn metadata_without_a_count_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = image_with(dir.path(), &["-o", "cluster_size=4k"]);
    open(&path, false).unwrap().write_at(&[1; 4096], 0).unwrap();
    // The count of the L1 table's cluster (number 3 in this layout) is lost.
    let bytes = std::fs::read(&path).unwrap();
    let at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (l1, block) = (at(40), at(at(48) as usize));
    patch(&path, block + (l1 >> 12) * 2, &[0, 0]);
    let image = open(&path, false).unwrap();
    let error = image.write_at(&[2; 4096], 1 << 20).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    drop(image);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[79] & 2, 2, "the file is marked corrupt");
    let mut data = [0; 4096];
    open(&path, true).unwrap().read_at(&mut data, 0).unwrap();
    assert_eq!(data, [1; 4096]);
}

#[test]
fn autoclear_features_are_cleared_by_a_writer_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = image_with(dir.path(), &[]);
    patch(&path, 88, &(1u64 << 50).to_be_bytes());
    drop(open(&path, true).unwrap());
    assert_eq!(std::fs::read(&path).unwrap()[88..96], (1u64 << 50).to_be_bytes());
    drop(open(&path, false).unwrap());
    assert_eq!(std::fs::read(&path).unwrap()[88..96], [0; 8]);
}

#[test]
fn probe_tells_what_a_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    std::fs::write(&base, pattern(1, 1 << 20)).unwrap();
    let mut chain = Chain { paths: vec![(base.clone(), Format::Raw)] };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 5 << 30, ..Default::default() });
    let top = chain.paths[0].0.clone();
    let expected = Info {
        format: Format::Qcow2,
        version: 3,
        virtual_size: 5 << 30,
        cluster_size: 65536,
        backing_name: Some(base.to_str().unwrap().into()),
        backing_format: Some("raw".into()),
        refcount_bits: 16,
        snapshots: 0,
        features: vec![],
        dirty: false,
        encrypted: false,
        corrupt: false,
    };
    assert_eq!(probe(&open_rw(&top)).unwrap(), expected);
    assert_eq!(probe(&open_rw(&base)).unwrap().format, Format::Raw);
    let chain = probe_chain(&top).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!((&chain[0].1, &chain[1].0), (&expected, &base));
    for (format, word) in [("vmdk", "VMDK"), ("vhdx", "VHDX"), ("vdi", "VDI")] {
        let path = dir.path().join(format);
        must(&["create", "-q", "-f", format, path.to_str().unwrap(), "4M"]);
        let text = probe(&open_rw(&path)).unwrap_err().to_string();
        assert!(text.contains(word) && text.contains("qemu-img convert"), "{text}");
    }
    let odd = dir.path().join("odd");
    std::fs::write(&odd, [0x1f, 0x8b].repeat(700)).unwrap();
    assert!(probe(&open_rw(&odd)).unwrap_err().to_string().contains("gzip"));
    std::fs::write(&odd, vec![1; 1000]).unwrap();
    assert!(probe(&open_rw(&odd)).unwrap_err().to_string().contains("truncated"));
}

#[test]
fn a_chain_of_headers_that_loops_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    let options = CreateOptions { virtual_size: 1 << 20, ..Default::default() };
    chain.overlay(dir.path(), &options);
    chain.overlay(dir.path(), &options);
    let (top, bottom) = (chain.paths[0].0.to_str().unwrap(), chain.paths[1].0.to_str().unwrap());
    must(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", top, bottom]);
    let text = probe_chain(&chain.paths[0].0).unwrap_err().to_string();
    assert!(text.contains("comes back"), "{text}");
    // Opening follows the caller's list, so the loop is harmless.
    assert_same(&read_all(&chain.open()), &vec![0; 1 << 20]);
}

#[test]
fn refcount_and_l1_tables_move_when_they_are_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    let options = CreateOptions {
        virtual_size: 1 << 20,
        cluster_bits: 9,
        refcount_bits: 64,
        ..Default::default()
    };
    chain.overlay(dir.path(), &options);
    let path = chain.paths[0].0.clone();
    let image = chain.open();
    let mut model = Vec::new();
    for round in 1..=12u64 {
        image.grow(round << 20).unwrap();
        model.resize((round << 20) as usize, 0);
        let data = pattern(round, 900_000);
        let at = ((round - 1) << 20) as usize;
        image.write_at(&data, at as u64).unwrap();
        model[at..at + 900_000].copy_from_slice(&data);
    }
    image.flush().unwrap();
    drop(image);
    check_clean(&path);
    compare(&path, &model);
    assert_same(&read_all(&chain.open()), &model);
}

#[test]
fn an_overlay_of_any_size_is_created_in_milliseconds_and_takes_little_space() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: vec![] };
    let start = std::time::Instant::now();
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 32 << 40, ..Default::default() });
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    let used = std::fs::metadata(&chain.paths[0].0).unwrap().blocks() * 512;
    assert!(used < 1 << 20, "{used} bytes");
    must(&["check", chain.paths[0].0.to_str().unwrap()]);
    let image = chain.open();
    image.write_at(&[7; 512], (32 << 40) - 512).unwrap();
    let mut data = [0; 1024];
    image.read_at(&mut data, (32 << 40) - 1024).unwrap();
    assert_eq!(data[..512], [0; 512]);
    assert_eq!(data[512..], [7; 512]);
}
