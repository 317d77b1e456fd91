//! Power failures: at every point of the log, with any of the unsynced sectors lost, the image is
//! consistent and holds everything that was flushed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::medium::{Event, Medium, apply, image_bytes, open, passphrase, pattern};
use crate::check::{check_storage, repair_storage};
use crate::{Backing, CreateOptions, Format, Passphrase};

const SIZE: u64 = 384 << 10;

struct Run {
    start: Vec<u8>,
    base: Option<Vec<u8>>,
    log: Vec<Event>,
    models: Vec<Vec<u8>>,
}

fn record(rng: &mut StdRng, options: &CreateOptions, base: Option<Vec<u8>>, snapshot: bool) -> Run {
    let mut start = image_bytes(options);
    let mut model = base.clone().unwrap_or_default();
    model.resize(SIZE as usize, 0);
    if snapshot {
        (start, model) = with_snapshot(&start, model);
    }
    let medium = Medium::new(start.clone());
    let image = open(&medium, base.as_deref(), false);
    let mut models = vec![model.clone()];
    medium.note(Event::Flushed(0));
    for step in 0..rng.random_range(10u64..60) {
        let size = model.len() as u64;
        let unit = if options.encryption.is_some() { 512 } else { 1 };
        let offset = rng.random_range(0..size) / unit * unit;
        let len = rng.random_range(1..20_000u64).next_multiple_of(unit).min(size - offset);
        let range = offset as usize..(offset + len) as usize;
        match rng.random_range(0..12) {
            0..=5 => {
                medium.note(Event::Begin { offset, len });
                let data = pattern(step, len as usize);
                image.write_at(&data, offset).unwrap();
                model[range].copy_from_slice(&data);
            }
            6 => {
                medium.note(Event::Begin { offset, len });
                image.discard(offset, len).unwrap();
                image.read_at(&mut model[range], offset).unwrap();
            }
            7 | 8 => {
                medium.note(Event::Begin { offset, len });
                image.write_zeroes(offset, len, step % 2 == 0).unwrap();
                model[range].fill(0);
            }
            9 if step % 4 == 0 => {
                let new = size + rng.random_range(1..200u64) * 512;
                medium.note(Event::Begin { offset: size, len: new - size });
                image.grow(new).unwrap();
                model.resize(new as usize, 0);
            }
            _ => {
                image.flush().unwrap();
                medium.note(Event::Flushed(models.len()));
                models.push(model.clone());
            }
        }
    }
    drop(image);
    Run { start, base, log: medium.log(), models }
}

/// Some data, then an internal snapshot by `qemu-img`.
fn with_snapshot(start: &[u8], mut model: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let medium = Medium::new(start.to_vec());
    let image = open(&medium, None, false);
    let data = pattern(77, 150_000);
    image.write_at(&data, 10_000).unwrap();
    model[10_000..160_000].copy_from_slice(&data);
    image.flush().unwrap();
    drop(image);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), medium.bytes()).unwrap();
    let done = std::process::Command::new("qemu-img")
        .args(["snapshot", "-c", "kept"])
        .arg(file.path())
        .status()
        .expect("qemu-img is needed by this test: install qemu-utils");
    assert!(done.success());
    (std::fs::read(file.path()).unwrap(), model)
}

/// Write events cut at sectors: each sector arrives or does not.
pub(super) fn sectors(event: &Event) -> Vec<Event> {
    let Event::Write { offset, bytes } = event else { return vec![event.clone()] };
    let mut out = Vec::new();
    let mut at = 0usize;
    while at < bytes.len() {
        let here = offset + at as u64;
        let len = (512 - (here % 512) as usize).min(bytes.len() - at);
        out.push(Event::Write { offset: here, bytes: bytes[at..at + len].to_vec() });
        at += len;
    }
    out
}

fn crash_everywhere(rng: &mut StdRng, run: &Run) {
    let mut durable = run.start.clone();
    let mut unsynced: Vec<Event> = Vec::new();
    let mut flushed = 0;
    let mut touched: Vec<(u64, u64)> = Vec::new();
    let points = (40.0 / run.log.len() as f64).min(1.0);
    for event in &run.log {
        match event {
            Event::Sync => {
                for lost in unsynced.drain(..) {
                    apply(&mut durable, &lost);
                }
            }
            Event::Begin { offset, len } => touched.push((*offset, *len)),
            Event::Flushed(model) => {
                flushed = *model;
                touched.clear();
            }
            change => unsynced.extend(sectors(change)),
        }
        if !rng.random_bool(points) {
            continue;
        }
        for variant in 0..3 {
            let mut bytes = durable.clone();
            for event in &unsynced {
                let kept = match variant {
                    0 => true,
                    1 => rng.random_bool(0.5),
                    _ => rng.random_bool(0.1),
                };
                if kept {
                    apply(&mut bytes, event);
                }
            }
            verify(&bytes, run, &run.models[flushed], &touched);
        }
    }
}

fn verify(bytes: &[u8], run: &Run, model: &[u8], touched: &[(u64, u64)]) {
    let medium = Medium::new(bytes.to_vec());
    let report = check_storage(&*medium).unwrap();
    assert_eq!(report.corruptions, 0, "{report:?}");
    let image = open(&medium, run.base.as_deref(), true);
    assert!(image.virtual_size() >= model.len() as u64, "a grown disk shrank");
    let mut data = vec![0; model.len()];
    image.read_at(&mut data, 0).unwrap();
    let mut expected = model.to_vec();
    for (offset, len) in touched {
        let end = data.len().min((offset + len) as usize);
        let start = end.min(*offset as usize);
        expected[start..end].copy_from_slice(&data[start..end]);
    }
    if let Some(at) = (0..data.len()).find(|at| data[*at] != expected[*at]) {
        panic!("flushed byte {at:#x} is {:#x}, was {:#x}", data[at], expected[at]);
    }
    if report.leaks > 0 {
        repair_storage(&*medium).unwrap();
        let report = check_storage(&*medium).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0), "after repair: {report:?}");
    }
}

fn run(seed: u64, rounds: u64, with_base: bool, snapshot: bool) {
    run_with(seed, rounds, with_base, snapshot, None);
}

fn run_with(
    seed: u64,
    rounds: u64,
    with_base: bool,
    snapshot: bool,
    encryption: Option<&Passphrase>,
) {
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed + round);
        let base = with_base.then(|| pattern(5, SIZE as usize));
        let backing = with_base.then(|| Backing { name: "base".into(), format: Format::Raw });
        let refcount_bits = if snapshot { 16 } else { 1 << rng.random_range(0..=6u32) };
        let options = CreateOptions {
            virtual_size: SIZE,
            cluster_bits: rng.random_range(9..=13),
            refcount_bits,
            backing,
            encryption: encryption.cloned(),
            ..Default::default()
        };
        let recorded = record(&mut rng, &options, base, snapshot);
        crash_everywhere(&mut rng, &recorded);
    }
}

#[test]
fn a_crash_loses_nothing_flushed_and_corrupts_nothing() {
    run(100, 3, false, false);
}

#[test]
fn a_crash_of_an_overlay_loses_nothing_flushed_and_corrupts_nothing() {
    run(200, 3, true, false);
}

#[test]
fn a_crash_with_internal_snapshots_loses_nothing_flushed_and_corrupts_nothing() {
    run(300, 3, false, true);
}

#[test]
fn a_crash_of_an_encrypted_overlay_loses_nothing_flushed_and_corrupts_nothing() {
    run_with(400, 3, true, false, Some(&passphrase()));
}
