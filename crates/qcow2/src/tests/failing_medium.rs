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
