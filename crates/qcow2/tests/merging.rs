//! Merges of layers in files, judged by `qemu-img`, and the extents of a chain.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use qcow2::{CreateOptions, Format, OpenOptions, PullOptions, changed_bytes, pull};
use support::{Chain, assert_same, check_clean, compare, layer, must, open_rw, pattern, read_all};

const SIZE: u64 = (6 << 20) + 512;

/// Base, by `qemu-img` and compressed; three overlays of different cluster sizes.
fn chain(dir: &Path, model: &mut [u8]) -> Chain {
    let flat = dir.join("flat");
    for (at, chunk) in model.chunks_mut(70_000).enumerate() {
        if at % 3 != 1 {
            chunk.fill(at as u8 | 1);
        }
    }
    std::fs::write(&flat, &*model).unwrap();
    let base = dir.join("base.qcow2");
    let (flat, name) = (flat.to_str().unwrap(), base.to_str().unwrap());
    must(&["convert", "-c", "-f", "raw", "-O", "qcow2", flat, name]);
    let mut chain = Chain { paths: vec![(base, Format::Qcow2)] };
    for (step, cluster_bits) in [12, 16, 13].into_iter().enumerate() {
        let options = CreateOptions { virtual_size: SIZE, cluster_bits, ..Default::default() };
        chain.overlay(dir, &options);
        let image = chain.open();
        for part in 0..20 {
            let at = (step * 37 + part * 311) * 1000 % (SIZE as usize - 30_000);
            let data = pattern((step * 100 + part) as u64, 30_000);
            image.write_at(&data, at as u64).unwrap();
            model[at..at + 30_000].copy_from_slice(&data);
        }
        let at = 1_000_000 * (step + 1);
        image.write_zeroes(at as u64, 200_000, true).unwrap();
        model[at..at + 200_000].fill(0);
    }
    chain
}

#[test]
fn layers_are_merged_one_after_the_other_until_one_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = vec![0; SIZE as usize];
    let mut chain = chain(dir.path(), &mut model);
    compare(&chain.paths[0].0, &model);
    for upper in [1, 0, 0] {
        let before = changed_bytes(&File::open(&chain.paths[upper].0).unwrap()).unwrap();
        let below = chain.paths[upper + 1..].iter().map(|(path, f)| layer(path, *f, false));
        let pulled = pull(
            layer(&chain.paths[upper].0, Format::Qcow2, true),
            below.collect(),
            PullOptions::default(),
            |_| ControlFlow::Continue(()),
        );
        let pulled = pulled.unwrap();
        assert!(pulled.complete);
        let after = changed_bytes(&File::open(&chain.paths[upper].0).unwrap()).unwrap();
        assert_eq!(after - before, pulled.copied);
        let (merged, _) = chain.paths.remove(upper + 1);
        std::fs::remove_file(merged).unwrap();
        check_clean(&chain.paths[upper].0);
        // By the names in the headers, and by the list of layers.
        compare(&chain.paths[0].0, &model);
        assert_same(&read_all(&chain.open_with(OpenOptions { read_only: true })), &model);
    }
    assert_eq!(chain.paths.len(), 1);
}

#[test]
fn a_disk_in_use_goes_on_above_merged_layers() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = vec![0; SIZE as usize];
    let mut chain = chain(dir.path(), &mut model);
    let image = chain.open();
    assert_same(&read_all(&image), &model);
    let below = chain.paths[2..].iter().map(|(path, format)| layer(path, *format, false));
    let upper = layer(&chain.paths[1].0, Format::Qcow2, true);
    let pulled = pull(upper, below.collect(), PullOptions::default(), |_| {
        assert_same(&read_all(&image), &model);
        ControlFlow::Continue(())
    });
    assert!(pulled.unwrap().complete);
    assert_same(&read_all(&image), &model);
    chain.paths.remove(2);
    let backing = chain.paths[1..].iter().map(|(path, format)| layer(path, *format, false));
    image.switch_layers(None, backing.collect()).unwrap();
    assert_same(&read_all(&image), &model);
    image.write_at(&[7; 5000], 3_333_333).unwrap();
    model[3_333_333..3_338_333].fill(7);
    assert_same(&read_all(&image), &model);
    drop(image);
    check_clean(&chain.paths[0].0);
    compare(&chain.paths[0].0, &model);
}

#[test]
fn extents_tell_data_from_zeroes_through_all_layers() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = vec![0; SIZE as usize];
    let chain = chain(dir.path(), &mut model);
    let image = chain.open_with(OpenOptions { read_only: true });
    for (offset, len) in [(0, SIZE), (12_345, 3_000_001), (SIZE - 1, 1), (SIZE, 0)] {
        let extents = image.extents(offset, len).unwrap();
        let mut at = offset;
        let mut zeroes = 0;
        for (index, extent) in extents.iter().enumerate() {
            assert_eq!(extent.offset, at);
            assert!(extent.len > 0);
            assert!(index == 0 || extents[index - 1].data != extent.data);
            let part = &model[at as usize..(at + extent.len) as usize];
            if !extent.data {
                assert!(part.iter().all(|byte| *byte == 0), "{extent:?}");
                zeroes += extent.len;
            }
            at += extent.len;
        }
        assert_eq!(at, offset + len);
        assert!(len < SIZE || zeroes > 400_000, "{zeroes} bytes of zeroes");
    }
    assert_eq!(image.extents(1, SIZE).unwrap_err().errno(), libc::EINVAL);

    // A raw base has holes.
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let file = open_rw(&raw);
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 65_536], 4 << 20).unwrap();
    let mut chain = Chain { paths: vec![(raw, Format::Raw)] };
    for expected in [65_536, 131_072, 131_072] {
        let image = chain.open();
        let data: u64 =
            image.extents(0, 8 << 20).unwrap().iter().filter(|e| e.data).map(|e| e.len).sum();
        assert_eq!(data, expected);
        drop(image);
        let options = CreateOptions { virtual_size: 8 << 20, ..Default::default() };
        chain.overlay(dir.path(), &options);
        chain.open().write_at(&[2; 100], 1 << 20).unwrap();
    }
}
