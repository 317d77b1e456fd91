//! Chains made into one file, judged by `qemu-img`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use qcow2::{CreateOptions, Format, Image, OpenOptions, flatten};
use support::{Chain, assert_same, check_clean, compare, layer, open_rw, pattern, read_all};

/// Writes the pieces to a file. Answers its length and how many pieces there were.
fn to_file(image: &Image, format: Format, path: &Path) -> (u64, usize) {
    let file = open_rw(path);
    let (mut pieces, mut seen) = (0, 0);
    let length = flatten(image, format, |piece| {
        assert!(piece.data.len() <= 1 << 20 && !piece.data.is_empty());
        assert!(
            piece.done >= seen && piece.done <= piece.total,
            "{} of {}",
            piece.done,
            piece.total
        );
        seen = piece.done;
        pieces += 1;
        file.write_all_at(piece.data, piece.offset).unwrap();
        ControlFlow::Continue(())
    });
    let length = length.unwrap().unwrap();
    assert!(file.metadata().unwrap().len() <= length);
    file.set_len(length).unwrap();
    (length, pieces)
}

#[test]
fn a_chain_becomes_one_file_with_the_same_content() {
    // Sizes: within a cluster, not a whole number of clusters, over more than one L2 table.
    for size in [512, (3 << 20) + 1536, (513 << 20) + 512] {
        let dir = tempfile::tempdir().unwrap();
        let mut model = vec![0; size as usize];
        let raw = dir.path().join("raw");
        open_rw(&raw).set_len(size / 2 / 512 * 512).unwrap();
        let mut chain = Chain { paths: vec![(raw, Format::Raw)] };
        for (step, cluster_bits) in [9, 16, 13].into_iter().enumerate() {
            chain.overlay(
                dir.path(),
                &CreateOptions { virtual_size: size, cluster_bits, ..Default::default() },
            );
            let image = chain.open();
            for part in 0..12 {
                let long = (size as usize / 8).min(90_000);
                let at = (step * 37 + part * 311) * 100_003 % (size as usize - long + 1);
                // Some of it zeroes, written as such.
                let data = if part % 4 == 3 { vec![0; long] } else { pattern(part as u64, long) };
                image.write_at(&data, at as u64).unwrap();
                model[at..at + long].copy_from_slice(&data);
            }
            let tail = pattern(step as u64, 100);
            image.write_at(&tail, size - 100).unwrap();
            model[size as usize - 100..].copy_from_slice(&tail);
        }
        let image = chain.open_with(OpenOptions { read_only: true });
        let flat = dir.path().join("flat.qcow2");
        let (length, _) = to_file(&image, Format::Qcow2, &flat);
        check_clean(&flat);
        compare(&flat, &model);
        let info = qcow2::probe(&File::open(&flat).unwrap()).unwrap();
        assert_eq!((info.virtual_size, info.backing_name), (size, None));
        let held = qcow2::changed_bytes(&File::open(&flat).unwrap()).unwrap();
        assert!(length <= held.next_multiple_of(1 << 16) + 8 * (1 << 16), "{length} for {held}");

        let flat_raw = dir.path().join("flat.raw");
        to_file(&image, Format::Raw, &flat_raw);
        assert_same(&std::fs::read(&flat_raw).unwrap(), &model);

        // It can be written to like any other, and made one file of once more.
        let again = Image::open(vec![layer(&flat, Format::Qcow2, true)], OpenOptions::default());
        let again = again.unwrap();
        again.write_at(&[7; 300], 100).unwrap();
        model[100..400].fill(7);
        assert_same(&read_all(&again), &model);
        drop(again);
        check_clean(&flat);
    }
}

#[test]
fn zeroes_take_no_space_and_an_empty_disk_is_a_few_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: Vec::new() };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 40 << 30, ..Default::default() });
    let flat = dir.path().join("flat");
    let (empty, pieces) = to_file(&chain.open(), Format::Qcow2, &flat);
    assert_eq!((empty, pieces), (4 << 16, 4));
    check_clean(&flat);
    let image = chain.open();
    image.write_at(&vec![0; 5 << 20], 30 << 30).unwrap();
    image.write_at(&[1], 39 << 30).unwrap();
    let flat = dir.path().join("flat2");
    let (length, _) = to_file(&image, Format::Qcow2, &flat);
    assert_eq!(length, 6 << 16);
    check_clean(&flat);
    assert_eq!(to_file(&image, Format::Raw, &dir.path().join("raw")), (40 << 30, 1));
}

#[test]
fn it_can_be_broken_off_and_the_header_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain { paths: Vec::new() };
    chain.overlay(dir.path(), &CreateOptions { virtual_size: 4 << 20, ..Default::default() });
    let image = chain.open();
    image.write_at(&pattern(1, 3 << 20), 0).unwrap();
    let mut offsets = Vec::new();
    flatten(&image, Format::Qcow2, |piece| {
        offsets.push(piece.offset);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(offsets.last(), Some(&0));
    assert!(offsets[..offsets.len() - 1].is_sorted_by(|a, b| a < b && *a > 0));
    for format in [Format::Raw, Format::Qcow2] {
        let mut pieces = 0;
        let broken = flatten(&image, format, |_| {
            pieces += 1;
            if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((broken.unwrap(), pieces), (None, 2));
    }
}
