//! Merging a layer into the one above it: readers see no change, whatever happens meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crash_order::sectors;
use super::medium::{Event, Medium, apply, image_bytes, pattern};
use crate::check::check_storage;
use crate::format::header::Header;
use crate::pull::pull_storage;
use crate::storage::Storage;
use crate::usage::changed_storage;
use crate::{Backing, CreateOptions, Error, Format, Image, OpenOptions, PullOptions, Pulled};

type Layers = Vec<(Arc<Medium>, Format)>;

fn files(layers: &[(Arc<Medium>, Format)]) -> Vec<(Arc<dyn Storage>, Format)> {
    layers.iter().map(|(m, format)| (Arc::clone(m) as Arc<dyn Storage>, *format)).collect()
}

fn open(layers: &[(Arc<Medium>, Format)], read_only: bool) -> Arc<Image> {
    Image::open_storage(files(layers), OpenOptions { read_only }, None).unwrap()
}

fn contents(image: &Image) -> Vec<u8> {
    let mut data = vec![1; image.virtual_size() as usize];
    image.read_at(&mut data, 0).unwrap();
    data
}

fn merge(layers: &[(Arc<Medium>, Format)]) -> Result<Pulled, Error> {
    let mut go_on = |_| ControlFlow::Continue(());
    let upper: Arc<dyn Storage> = layers[0].0.clone();
    pull_storage(&upper, files(&layers[1..]), PullOptions::default(), None, &mut go_on)
}

/// Without the layer that was merged.
fn rest(layers: &[(Arc<Medium>, Format)]) -> Layers {
    layers.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, layer)| layer.clone()).collect()
}

/// A chain of two to four layers of any kind.
fn random_chain(rng: &mut StdRng) -> Layers {
    let mut layers: Layers = Vec::new();
    if rng.random() {
        let mut bytes = pattern(rng.random(), rng.random_range(1..400) * 512);
        let hole = rng.random_range(0..bytes.len());
        bytes[hole..].fill(0);
        layers.push((Medium::new(bytes), Format::Raw));
    }
    while layers.len() < 2 || (layers.len() < 4 && rng.random()) {
        let virtual_size = rng.random_range(200..500) * 512;
        let version = if rng.random_bool(0.2) { 2 } else { 3 };
        let options = CreateOptions {
            virtual_size,
            cluster_bits: rng.random_range(9..=14),
            version,
            backing: (!layers.is_empty())
                .then(|| Backing { name: format!("layer{}", layers.len()), format: layers[0].1 }),
            ..Default::default()
        };
        layers.insert(0, (Medium::new(image_bytes(&options)), Format::Qcow2));
        let image = open(&layers, false);
        for step in 0..rng.random_range(0..6) {
            let offset = rng.random_range(0..virtual_size);
            let len = rng.random_range(1..40_000).min(virtual_size - offset);
            if step % 3 == 2 {
                image.write_zeroes(offset, len, true).unwrap();
            } else {
                image.write_at(&pattern(rng.random(), len as usize), offset).unwrap();
            }
        }
    }
    layers
}

fn with_upper(layers: &[(Arc<Medium>, Format)], bytes: Vec<u8>) -> Layers {
    let mut layers = layers.to_vec();
    layers[0].0 = Medium::new(bytes);
    layers
}

fn assert_clean(medium: &Medium) {
    let report = check_storage(medium).unwrap();
    assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
}

#[test]
fn a_layer_without_the_one_below_reads_as_before() {
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        let layers = random_chain(&mut rng);
        let model = contents(&open(&layers, true));
        let lower = layers[1].0.bytes();
        // One has all tables in memory, one reads them bit by bit while they change.
        let (warm, cold) = (open(&layers, true), open(&layers, true));
        assert!(contents(&warm) == model);
        let mut steps = 0;
        let upper: Arc<dyn Storage> = layers[0].0.clone();
        let pulled = pull_storage(
            &upper,
            files(&layers[1..]),
            PullOptions::default(),
            None,
            &mut |progress| {
                steps += 1;
                let at = rng.random_range(0..model.len());
                let end = (at + 20_000).min(model.len());
                for reader in [&warm, &cold, &open(&layers, true)] {
                    let mut data = vec![1; end - at];
                    reader.read_at(&mut data, at as u64).unwrap();
                    assert!(data == model[at..end], "seed {seed}");
                }
                assert!(progress.done <= progress.total);
                ControlFlow::Continue(())
            },
        );
        assert!(pulled.unwrap().complete && steps > 0);
        for reader in [&warm, &cold, &open(&layers, true), &open(&rest(&layers), true)] {
            assert!(contents(reader) == model, "seed {seed}");
        }
        assert_clean(&layers[0].0);
        assert!(layers[1].0.bytes() == lower, "seed {seed}: the lower layer was written");
        let name = |layer: usize| Header::read(&*layers[layer].0).unwrap().backing_name;
        assert_eq!(name(0), if layers[1].1 == Format::Raw { None } else { name(1) });
        assert_eq!(merge(&layers).unwrap(), Pulled { copied: 0, complete: true });
    }
}

/// Killed or without power at any point of its writes, with any of the unsynced sectors lost.
#[test]
fn a_killed_merge_is_taken_up_again_and_changes_no_reader() {
    let mut cut = 0;
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(1000 + seed);
        let layers = random_chain(&mut rng);
        let start = layers[0].0.bytes();
        let model = contents(&open(&layers, true));
        let recorded = with_upper(&layers, start.clone());
        merge(&recorded).unwrap();
        let log = recorded[0].0.log();
        let (mut durable, mut unsynced): (_, Vec<Event>) = (start, Vec::new());
        let points = (40.0 / log.len() as f64).min(1.0);
        for event in &log {
            match event {
                Event::Sync => unsynced.drain(..).for_each(|event| apply(&mut durable, &event)),
                change => unsynced.extend(sectors(change)),
            }
            if !rng.random_bool(points) {
                continue;
            }
            for kept in [1.0, 0.5, 0.1] {
                let mut bytes = durable.clone();
                for event in &unsynced {
                    if rng.random_bool(kept) {
                        apply(&mut bytes, event);
                    }
                }
                let layers = with_upper(&layers, bytes);
                assert_eq!(check_storage(&*layers[0].0).unwrap().corruptions, 0, "seed {seed}");
                let reader = open(&layers, true);
                assert!(contents(&reader) == model, "seed {seed}");
                assert!(merge(&layers).unwrap().complete);
                assert!(contents(&reader) == model, "seed {seed}");
                assert!(contents(&open(&rest(&layers), true)) == model, "seed {seed}");
                assert_clean(&layers[0].0);
                cut += 1;
            }
        }
    }
    assert!(cut > 100, "{cut} cuts");
}

#[test]
fn a_merge_that_fails_changes_no_reader() {
    let mut failures = 0;
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(2000 + seed);
        let layers = random_chain(&mut rng);
        let model = contents(&open(&layers, true));
        let reader = open(&layers, true);
        layers[0].0.fail_after(rng.random_range(0..12), libc::ENOSPC);
        if let Err(error) = merge(&layers) {
            assert_eq!(error.errno(), libc::ENOSPC, "{error}");
            failures += 1;
        }
        layers[0].0.fail_after(u32::MAX, 0);
        assert!(contents(&reader) == model, "seed {seed}");
        assert!(merge(&layers).unwrap().complete);
        assert!(contents(&reader) == model, "seed {seed}");
        assert!(contents(&open(&rest(&layers), true)) == model, "seed {seed}");
        assert_clean(&layers[0].0);
    }
    assert!(failures > 10, "{failures} failures");
}

fn two_layers(lower_len: usize) -> Layers {
    let options = CreateOptions { virtual_size: 8 << 20, ..Default::default() };
    let mut layers: Layers = Vec::new();
    for len in [lower_len, 1000] {
        layers.insert(0, (Medium::new(image_bytes(&options)), Format::Qcow2));
        open(&layers, false).write_at(&pattern(len as u64, len), 0).unwrap();
    }
    layers
}

#[test]
fn a_merge_can_be_broken_off_and_keeps_to_its_rate() {
    let layers = two_layers(4 << 20);
    let model = contents(&open(&layers, true));
    let upper: Arc<dyn Storage> = layers[0].0.clone();
    let mut stop = |progress: crate::PullProgress| {
        if progress.copied >= 1 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let below = || files(&layers[1..]);
    let pulled = pull_storage(&upper, below(), PullOptions::default(), None, &mut stop).unwrap();
    assert_eq!(pulled, Pulled { copied: 1 << 20, complete: false });
    assert!(contents(&open(&layers, true)) == model);
    let options = PullOptions { bytes_per_second: Some(10 << 20) };
    let began = Instant::now();
    let mut go_on = |_| ControlFlow::Continue(());
    let pulled = pull_storage(&upper, below(), options, None, &mut go_on).unwrap();
    // The first cluster is the upper layer's own.
    assert_eq!(pulled, Pulled { copied: (3 << 20) - 65_536, complete: true });
    assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
    assert!(contents(&open(&layers[..1], true)) == model);
    assert_eq!(changed_storage(&*layers[0].0).unwrap(), 4 << 20);
}

#[test]
fn what_a_layer_holds_is_counted_without_zeroes_and_what_is_below() {
    let options =
        CreateOptions { virtual_size: (1 << 20) + 512, cluster_bits: 12, ..Default::default() };
    let mut layers: Layers = Vec::new();
    for _ in 0..2 {
        layers.insert(0, (Medium::new(image_bytes(&options)), Format::Qcow2));
        assert_eq!(changed_storage(&*layers[0].0).unwrap(), 0);
        let image = open(&layers, false);
        image.write_at(&[1; 8192], 100).unwrap();
        image.write_at(&[1; 512], 1 << 20).unwrap();
        image.write_zeroes(0, 4096, false).unwrap();
        image.flush().unwrap();
        assert_eq!(changed_storage(&*layers[0].0).unwrap(), 2 * 4096 + 512);
    }
    // Two entries of a hostile table name one table: no honest image has that.
    let medium = &layers[0].0;
    let l1 = Header::read(&**medium).unwrap().l1_offset as usize;
    let first = medium.bytes()[l1..l1 + 8].to_vec();
    let doubled = image_bytes(&CreateOptions { virtual_size: 8 << 20, ..options.clone() });
    let doubled = Medium::new(doubled);
    let l1 = Header::read(&*doubled).unwrap().l1_offset;
    doubled.write_at(&[first.clone(), first].concat(), l1).unwrap();
    doubled.set_len(1 << 20).unwrap();
    assert!(matches!(changed_storage(&*doubled), Err(Error::Corrupt { .. })));
}
