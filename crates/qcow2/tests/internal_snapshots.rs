//! Internal snapshots made by `qemu-img` survive everything done to the active state.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use qcow2::CreateOptions;
use support::*;

#[test]
fn the_active_state_changes_and_snapshots_do_not() {
    for (version, cluster_bits) in [(3, 9), (3, 12), (2, 12), (3, 16)] {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain { paths: vec![] };
        let size = 2u64 << 20;
        chain.overlay(
            dir.path(),
            &CreateOptions { virtual_size: size, cluster_bits, version, ..Default::default() },
        );
        let path = chain.paths[0].0.clone();
        let mut model = vec![0u8; size as usize];
        let mut states = Vec::new();
        for round in 0..3u64 {
            let image = chain.open();
            for part in 0..6u64 {
                let at = (round * 137_000 + part * 311_000) % (size - 90_000);
                let data = pattern(round * 100 + part, 90_000);
                image.write_at(&data, at).unwrap();
                model[at as usize..at as usize + 90_000].copy_from_slice(&data);
            }
            let at = 500_000 + round * 65_536;
            image.write_zeroes(at, 131_072, round % 2 == 0).unwrap();
            model[at as usize..at as usize + 131_072].fill(0);
            image.flush().unwrap();
            assert_same(&read_all(&image), &model);
            drop(image);
            check_clean(&path);
            must(&["snapshot", "-c", &format!("s{round}"), path.to_str().unwrap()]);
            states.push(model.clone());
        }
        let image = chain.open();
        image.write_zeroes(0, size, true).unwrap();
        drop(image);
        check_clean(&path);
        for (round, state) in states.iter().enumerate() {
            must(&["snapshot", "-a", &format!("s{round}"), path.to_str().unwrap()]);
            compare(&path, state);
            assert_same(&read_all(&chain.open()), state);
        }
    }
}
