//! Mutations of valid images: every entry point answers, quickly and without a panic.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::medium::{Medium, image_bytes, open, pattern};
use crate::{CreateOptions, Error, check, fuzz, probe, repair};

fn qemu_img(args: &[&str]) {
    let done =
        Command::new("qemu-img").args(args).output().expect("qemu-img is needed: qemu-utils");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Images of every kind, and where their metadata is.
fn seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let mut data = pattern(1, 300_000);
    data[40_000..200_000].fill(7);
    data.resize(300_032, 0);
    std::fs::write(&raw, &data).unwrap();
    let mut seeds = Vec::new();
    for options in [
        &["-o", "cluster_size=512"][..],
        &["-o", "cluster_size=4k,refcount_bits=1"],
        &["-o", "compat=0.10,cluster_size=1k"],
        &["-c", "-o", "compression_type=zlib,cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd,cluster_size=4k"],
        &["-o", "lazy_refcounts=on,cluster_size=8k"],
    ] {
        let image = dir.path().join("image");
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend_from_slice(options);
        args.extend_from_slice(&[raw.to_str().unwrap(), image.to_str().unwrap()]);
        qemu_img(&args);
        // One-bit counts leave no room for a snapshot's references.
        if options.len() == 2 && !options[1].contains("refcount_bits=1") {
            qemu_img(&["snapshot", "-c", "kept", image.to_str().unwrap()]);
        }
        seeds.push(std::fs::read(&image).unwrap());
    }
    let options = CreateOptions { virtual_size: 5 << 20, cluster_bits: 9, ..Default::default() };
    let medium = Medium::new(image_bytes(&options));
    let image = open(&medium, None, false);
    image.write_at(&data, 12_345).unwrap();
    image.write_zeroes(70_000, 50_000, false).unwrap();
    drop(image);
    seeds.push(medium.bytes());
    seeds
}

fn mutate(rng: &mut StdRng, image: &mut Vec<u8>) {
    let words = [0u64, 1, 511, 512, 1 << 16, 1 << 32, 1 << 62, 1 << 63, u64::MAX, 0x8000_0000_0001];
    for _ in 0..rng.random_range(1..6) {
        let at = match rng.random_range(0..4) {
            0 => rng.random_range(0..120),
            // Tables lie at the beginning or the end of these images.
            1 => rng.random_range(0..image.len().min(20_000)),
            _ => rng.random_range(0..image.len()),
        };
        match rng.random_range(0..4) {
            0 => image[at] ^= 1 << rng.random_range(0..8),
            1 => image[at] = rng.random(),
            2 => {
                let word = words[rng.random_range(0..words.len())];
                let at = at & !7;
                if let Some(place) = image.get_mut(at..at + 8) {
                    place.copy_from_slice(&word.to_be_bytes());
                }
            }
            _ => {
                // One table entry over another.
                let (from, to) = (rng.random_range(0..image.len() / 8) * 8, at & !7);
                if to + 8 <= image.len() {
                    image.copy_within(from..from + 8, to);
                }
            }
        }
    }
    if rng.random_bool(0.05) {
        image.truncate(rng.random_range(0..image.len()));
    }
}

#[test]
fn mutated_images_give_errors_and_never_panics_or_hangs() {
    let seeds = seeds();
    for seed in &seeds {
        fuzz::image(seed);
    }
    let mut rng = StdRng::seed_from_u64(2026);
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(8) {
        let mut image = seeds[rounds % seeds.len()].clone();
        mutate(&mut rng, &mut image);
        let one = Instant::now();
        fuzz::image(&image);
        assert!(one.elapsed() < Duration::from_secs(5), "round {rounds} took {:?}", one.elapsed());
        rounds += 1;
    }
    assert!(rounds > 50, "only {rounds} rounds");
}

#[test]
fn random_bytes_are_not_a_cluster() {
    for seed in 0..2000 {
        fuzz::compressed_cluster(&pattern(seed, 1 + seed as usize % 600));
    }
}

/// A sparse file whose header says what `change` makes of it.
fn sparse(options: &CreateOptions, len: u64, change: impl Fn(&mut [u8])) -> File {
    let mut bytes = image_bytes(options);
    change(&mut bytes);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(len).unwrap();
    file
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Small files that ask for terabytes of work.
#[test]
fn a_check_costs_no_more_than_the_file_is_worth() {
    let start = Instant::now();
    let options = CreateOptions { virtual_size: 1 << 20, cluster_bits: 12, ..Default::default() };
    // Snapshots by the thousands, with the same L1 table of 32 MiB or each with its own.
    for step in [4096, 32 << 20] {
        let file = sparse(&options, 1 << 41, |bytes| {
            put(bytes, 60, &65536u32.to_be_bytes());
            put(bytes, 64, &(1u64 << 22).to_be_bytes());
        });
        let mut table = vec![0u8; 65536 * 40];
        for (index, entry) in table.chunks_exact_mut(40).enumerate() {
            put(entry, 0, &((1u64 << 30) + index as u64 * step).to_be_bytes());
            put(entry, 8, &(4u32 << 20).to_be_bytes());
        }
        file.write_all_at(&table, 1 << 22).unwrap();
        assert!(matches!(check(&file), Err(Error::TooLarge { .. })), "step {step}");
        assert!(matches!(repair(&file), Err(Error::TooLarge { .. })));
    }
    // Fewer, which overlap behind their first cluster.
    let file = sparse(&options, 1 << 41, |bytes| {
        put(bytes, 60, &30u32.to_be_bytes());
        put(bytes, 64, &(1u64 << 22).to_be_bytes());
    });
    let mut table = vec![0u8; 30 * 40];
    for (index, entry) in table.chunks_exact_mut(40).enumerate() {
        put(entry, 0, &((1u64 << 31) - index as u64 * 4096).to_be_bytes());
        put(entry, 8, &(1u32 << 20).to_be_bytes());
    }
    file.write_all_at(&table, 1 << 22).unwrap();
    let report = check(&file).unwrap();
    assert!(report.messages.iter().any(|m| m.contains("in use twice")), "{report:?}");

    // One-bit counts in clusters of 2 MiB: 16 million to a block, and a quarter million blocks.
    let options = CreateOptions {
        virtual_size: 1 << 20,
        cluster_bits: 21,
        refcount_bits: 1,
        ..Default::default()
    };
    let file = sparse(&options, 1 << 40, |_| ());
    let header = crate::format::header::Header::read(&file).unwrap();
    let table: Vec<u8> = (0..262_144u64).flat_map(|i| ((i + 8) << 21).to_be_bytes()).collect();
    file.write_all_at(&table, header.refcount_table_offset).unwrap();
    assert!(matches!(check(&file), Err(Error::TooLarge { .. })));
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}

#[test]
fn a_truncated_image_is_told_as_one() {
    let options = CreateOptions { virtual_size: 1 << 20, cluster_bits: 12, ..Default::default() };
    let medium = Medium::new(image_bytes(&options));
    let image = open(&medium, None, false);
    image.write_at(&pattern(1, 1 << 20), 0).unwrap();
    drop(image);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&medium.bytes(), 0).unwrap();
    assert_eq!(check(&file).unwrap().corruptions, 0);
    file.set_len(600_000).unwrap();
    let report = check(&file).unwrap();
    assert!(report.corruptions > 50, "{report:?}");
    assert!(report.messages[0].contains("beyond the end of the file"), "{report:?}");
    assert!(matches!(repair(&file), Err(Error::Corrupt { .. })));
    let info = probe(&file).unwrap();
    assert!(!info.corrupt && !info.dirty);
    file.write_all_at(&3u64.to_be_bytes(), 72).unwrap();
    let info = probe(&file).unwrap();
    assert!(info.corrupt && info.dirty);
}
