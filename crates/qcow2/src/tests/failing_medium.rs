//! A host that runs out of space or fails: requests fail, the image does not.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::medium::{Medium, image_bytes, open, pattern};
use crate::check::check_storage;
use crate::{CreateOptions, Error};

#[test]
fn failed_writes_leave_the_image_consistent_and_other_data_whole() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = 256 << 10;
        let options = CreateOptions {
            virtual_size: size,
            cluster_bits: rng.random_range(9..=12),
            refcount_bits: 1 << rng.random_range(0..=6u32),
            ..Default::default()
        };
        let medium = Medium::new(image_bytes(&options));
        let image = open(&medium, None, false);
        let mut model = vec![0u8; size as usize];
        let mut unknown = vec![false; size as usize];
        let mut failures = 0;
        for step in 0..120u64 {
            if rng.random_bool(0.2) {
                medium.fail_after(rng.random_range(0..4), libc::ENOSPC);
            }
            let offset = rng.random_range(0..size);
            let len = rng.random_range(1..9_000u64).min(size - offset);
            let range = offset as usize..(offset + len) as usize;
            let (data, result) = match rng.random_range(0..5) {
                0 => (vec![0; len as usize], image.write_zeroes(offset, len, true)),
                1 => {
                    // Flushes fail too, and later ones must still bring everything to the file.
                    let _ = image.flush();
                    continue;
                }
                _ => {
                    let data = pattern(step, len as usize);
                    let result = image.write_at(&data, offset);
                    (data, result)
                }
            };
            match result {
                Ok(()) => {
                    model[range.clone()].copy_from_slice(&data);
                    unknown[range].fill(false);
                }
                Err(error) => {
                    assert_eq!(error.errno(), libc::ENOSPC, "{error}");
                    failures += 1;
                    unknown[range].fill(true);
                }
            }
        }
        assert!(failures > 0);
        medium.fail_after(u32::MAX, 0);
        image.flush().unwrap();
        drop(image);
        let report = check_storage(&*medium).unwrap();
        assert_eq!(report.corruptions, 0, "seed {seed}: {report:?}");
        let mut data = vec![0; size as usize];
        open(&medium, None, true).read_at(&mut data, 0).unwrap();
        for at in 0..data.len() {
            assert!(unknown[at] || data[at] == model[at], "seed {seed}: byte {at:#x}");
        }
    }
}

/// Whatever change fails, the next try succeeds: a failure is no contradiction in the image. Small
/// blocks of wide counts, so that new blocks and larger tables are due all the time.
#[test]
fn a_full_host_never_marks_the_image_corrupt() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = 2 << 20;
        let options = CreateOptions {
            virtual_size: size,
            cluster_bits: 9,
            refcount_bits: 64,
            ..Default::default()
        };
        let medium = Medium::new(image_bytes(&options));
        let mut image = open(&medium, None, false);
        let mut model = vec![0u8; size as usize];
        let mut failures = 0;
        for step in 0..300u64 {
            let offset = rng.random_range(0..size);
            let len = rng.random_range(1..20_000u64).min(size - offset);
            let range = offset as usize..(offset + len) as usize;
            medium.fail_after(rng.random_range(0..12), libc::ENOSPC);
            let data = pattern(step, len as usize);
            if let Err(error) = image.write_at(&data, offset) {
                assert_eq!(error.errno(), libc::ENOSPC, "seed {seed}: {error}");
                failures += 1;
            }
            if step % 9 == 0 && image.flush().is_err() {
                failures += 1;
            }
            medium.fail_after(u32::MAX, 0);
            image.write_at(&data, offset).unwrap();
            model[range].copy_from_slice(&data);
            if step % 5 == 0 {
                // Clusters that were used before must be cleared before they become tables.
                let at = rng.random_range(0..size / 2);
                image.discard(at, size / 8).unwrap();
                image.read_at(&mut model[at as usize..][..size as usize / 8], at).unwrap();
                image.flush().unwrap();
            }
            if step % 60 == 59 {
                drop(image);
                let report = check_storage(&*medium).unwrap();
                assert_eq!(report.corruptions, 0, "seed {seed}: {report:?}");
                image = open(&medium, None, false);
            }
        }
        assert!(failures > 20, "{failures} failures");
        let mut data = vec![0; size as usize];
        image.read_at(&mut data, 0).unwrap();
        assert!(data == model, "seed {seed}");
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let options = CreateOptions { virtual_size: 1 << 20, ..Default::default() };
    let medium = Medium::new(image_bytes(&options));
    let image = open(&medium, None, false);
    image.write_at(&[1; 4096], 0).unwrap();
    medium.fail_syncs(true);
    assert_eq!(image.flush().unwrap_err().errno(), libc::EIO);
    medium.fail_syncs(false);
    assert!(matches!(image.flush(), Err(Error::SyncFailed)));
    assert!(matches!(image.write_at(&[2; 4096], 1 << 16), Err(Error::SyncFailed)));
    let mut data = [0; 4096];
    image.read_at(&mut data, 0).unwrap();
    assert_eq!(data, [1; 4096]);
    let before = medium.bytes();
    drop(image);
    assert_eq!(medium.bytes(), before);
    assert_eq!(check_storage(&*medium).unwrap().corruptions, 0);
}
