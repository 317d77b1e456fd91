//! Encrypted layers in use: several queues, changes of layers, merging.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::medium::{passphrase, pattern};
use super::queues::{Calls, SECTORS, worker};
use crate::{
    Backing, CreateOptions, Error, Format, Image, Layer, OpenOptions, PullOptions, check, create,
    pull, pull_encrypted,
};

const SIZE: u64 = SECTORS * 512;

fn layer(path: &Path, writable: bool) -> Layer {
    let file = File::options().read(true).write(writable).open(path).unwrap();
    Layer { file, format: Format::Qcow2 }
}

fn make(path: &Path, cluster_bits: u32, below: Option<&Path>, encrypted: bool) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let backing = below.map(|path| Backing {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        format: Format::Qcow2,
    });
    let encryption = encrypted.then(passphrase);
    let options = CreateOptions {
        virtual_size: SIZE,
        cluster_bits,
        backing,
        encryption,
        ..Default::default()
    };
    create(&file, &options).unwrap();
}

fn contents(image: &Image) -> Vec<u8> {
    let mut data = vec![1; image.virtual_size() as usize];
    image.read_at(&mut data, 0).unwrap();
    data
}

fn several_queues(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let [plain, below, top, newer] = ["plain", "below", "top", "newer"].map(|n| dir.path().join(n));
    make(&plain, 12, None, false);
    let base = pattern(3, SIZE as usize);
    let image = Image::open(vec![layer(&plain, true)], OpenOptions::default()).unwrap();
    image.write_at(&base, 0).unwrap();
    drop(image);
    make(&below, 13, Some(&plain), true);
    make(&top, 9, Some(&below), true);
    make(&newer, 16, Some(&top), true);
    let layers = vec![layer(&top, true), layer(&below, false), layer(&plain, false)];
    let image = Image::open_encrypted(layers, OpenOptions::default(), &passphrase()).unwrap();
    image.no_ring.store(calls == Calls::Plain, Ordering::Relaxed);
    let models: Vec<_> = std::thread::scope(|scope| {
        let work = |me| {
            let image = &image;
            scope.spawn(move || worker(image, me, 40, calls))
        };
        let handles: Vec<_> = (0..4).map(work).collect();
        let rest = || vec![layer(&top, false), layer(&below, false), layer(&plain, false)];
        let bare = Some(layer(&newer, true));
        let refused = image.switch_layers(bare, rest()).unwrap_err();
        assert!(
            matches!(&refused, Error::Layer { index: 0, source } if matches!(**source, Error::Locked { .. }))
        );
        image.switch_encrypted(Some(layer(&newer, true)), rest(), &passphrase()).unwrap();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let mut expected = base;
    for (sector, data) in models.into_iter().flatten() {
        expected[(sector * 512) as usize..][..512].copy_from_slice(&data);
    }
    assert!(contents(&image) == expected, "data differs");
    image.flush().unwrap();
    drop(image);
    for path in [&below, &top, &newer] {
        let report = check(&File::open(path).unwrap()).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
    }
}

#[test]
fn queues_that_do_it_at_once_read_what_was_written() {
    several_queues(Calls::Direct);
}

#[test]
fn queues_that_leave_it_to_the_ring_read_what_was_written() {
    several_queues(Calls::Ring);
}

#[test]
fn queues_without_a_ring_read_what_was_written() {
    several_queues(Calls::Plain);
}

#[test]
fn an_encrypted_disk_gets_no_top_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let [top, newer] = ["top", "newer"].map(|n| dir.path().join(n));
    make(&top, 12, None, true);
    make(&newer, 12, Some(&top), false);
    let layers = vec![layer(&top, true)];
    let image = Image::open_encrypted(layers, OpenOptions::default(), &passphrase()).unwrap();
    let new = Some(layer(&newer, true));
    let refused = image.switch_encrypted(new, vec![layer(&top, false)], &passphrase());
    assert!(refused.unwrap_err().to_string().contains("is not encrypted"));
}

#[test]
fn what_is_merged_into_an_encrypted_layer_is_encrypted_there() {
    for lower_is_encrypted in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper] = ["lower", "upper"].map(|n| dir.path().join(n));
        make(&lower, 12, None, lower_is_encrypted);
        make(&upper, 13, Some(&lower), true);
        let open = |layers| Image::open_encrypted(layers, OpenOptions::default(), &passphrase());
        let data = pattern(8, 300 << 10);
        let image = open(vec![layer(&lower, true)]).unwrap();
        image.write_at(&data, 0).unwrap();
        drop(image);
        let image = open(vec![layer(&upper, true), layer(&lower, false)]).unwrap();
        image.write_at(&data[..10 << 10], 100 << 10).unwrap();
        let before = contents(&image);
        drop(image);
        let go_on = |_| ControlFlow::Continue(());
        let (rw, below) = (layer(&upper, true), vec![layer(&lower, false)]);
        pull_encrypted(rw, below, PullOptions::default(), &passphrase(), go_on).unwrap();
        assert!(contents(&open(vec![layer(&upper, true)]).unwrap()) == before);
        let file = std::fs::read(&upper).unwrap();
        assert!(!file.windows(16).any(|part| part == &data[..16]), "clear text in the file");
        let report = check(&File::open(&upper).unwrap()).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
    }
}

#[test]
fn an_encrypted_layer_is_not_merged_into_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let [lower, upper] = ["lower", "upper"].map(|n| dir.path().join(n));
    make(&lower, 12, None, true);
    make(&upper, 12, Some(&lower), false);
    let go_on = |_| ControlFlow::Continue(());
    let below = || vec![layer(&lower, false)];
    let options = PullOptions::default();
    let merged = pull_encrypted(layer(&upper, true), below(), options, &passphrase(), go_on);
    assert!(matches!(merged, Err(Error::InvalidArgument(_))));
    assert!(pull(layer(&upper, true), below(), options, go_on).is_err());
}

#[test]
fn parts_of_sectors_are_read_but_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    make(&top, 12, None, true);
    let layers = vec![layer(&top, true)];
    let image: Arc<Image> =
        Image::open_encrypted(layers, OpenOptions::default(), &passphrase()).unwrap();
    let data = pattern(1, 4096);
    image.write_at(&data, 2048).unwrap();
    for (at, len) in [(2049, 1), (2500, 600), (2047, 4098), (2048, 4096)] {
        let mut part = vec![9; len];
        image.read_at(&mut part, at as u64).unwrap();
        let mut expected = vec![0; 8192];
        expected[2048..2048 + 4096].copy_from_slice(&data);
        assert_eq!(part, expected[at..at + len], "{at}+{len}");
    }
    for (at, len) in [(1, 512), (512, 100)] {
        let written = image.write_at(&data[..len], at);
        assert!(matches!(written, Err(Error::InvalidArgument(_))), "{at}+{len}");
        assert!(image.write_zeroes(at, len as u64, true).is_err());
    }
    assert!(image.grow(SIZE + 100).is_err());
    image.grow(SIZE + 512).unwrap();
    assert_eq!(contents(&image)[SIZE as usize..], [0; 512]);
}
