//! What a killed writer leaves behind, and its repair, which may be killed as well.

use std::fs::File;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::medium::{Event, Medium, apply, image_bytes, open, pattern};
use crate::check::{check_storage, repair_storage};
use crate::{CreateOptions, repair};

/// What is in the file when the writer is killed after each of its changes: the page cache keeps
/// all of them.
fn killed(options: &CreateOptions, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let start = image_bytes(options);
    let medium = Medium::new(start.clone());
    let image = open(&medium, None, false);
    for step in 0..12 {
        let offset = rng.random_range(0..options.virtual_size - 60_000);
        image.write_at(&pattern(step, 50_000), offset).unwrap();
        if step % 3 == 2 {
            image.discard(offset, 60_000).unwrap();
            image.flush().unwrap();
        }
    }
    let log = medium.log();
    drop(image);
    let mut bytes = start;
    let mut states = Vec::new();
    for event in &log {
        apply(&mut bytes, event);
        if matches!(event, Event::Write { .. } | Event::SetLen(_)) {
            states.push(bytes.clone());
        }
    }
    states
}

fn qemu_img_check(file: &tempfile::NamedTempFile) -> Option<i32> {
    let mut command = Command::new("qemu-img");
    command.args(["check", "-f", "qcow2"]).arg(file.path());
    command.output().expect("qemu-img is needed: qemu-utils").status.code()
}

#[test]
fn leaks_of_a_killed_writer_are_released_in_place() {
    let options = CreateOptions { virtual_size: 1 << 20, cluster_bits: 12, ..Default::default() };
    let states = killed(&options, 1);
    let mut leaked = 0;
    for bytes in states {
        let medium = Medium::new(bytes.clone());
        let before = check_storage(&*medium).unwrap();
        assert_eq!(before.corruptions, 0, "{before:?}");
        assert_eq!(repair_storage(&*medium).unwrap(), before);
        assert_eq!(medium.bytes().len(), bytes.len(), "the file grew");
        let after = check_storage(&*medium).unwrap();
        assert_eq!((after.leaks, after.corruptions), (0, 0), "{after:?}");
        if before.leaks == 0 {
            assert!(medium.log().iter().all(|event| matches!(event, Event::Sync)));
            continue;
        }
        leaked += 1;
        if leaked % 8 == 1 {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(qemu_img_check(&file), Some(3));
            let found = repair(&File::options().read(true).write(true).open(file.path()).unwrap());
            assert_eq!(found.unwrap(), before);
            assert_eq!(qemu_img_check(&file), Some(0));
        }
    }
    assert!(leaked > 3, "{leaked} states had leaks");
}

#[test]
fn a_killed_repair_is_taken_up_again() {
    let options = CreateOptions {
        virtual_size: 1 << 20,
        cluster_bits: 9,
        refcount_bits: 32,
        ..Default::default()
    };
    let states = killed(&options, 2);
    let mut cut = 0;
    for bytes in states.iter().step_by(states.len() / 12) {
        let medium = Medium::new(bytes.clone());
        repair_storage(&*medium).unwrap();
        let mut part = bytes.clone();
        for event in medium.log() {
            apply(&mut part, &event);
            let medium = Medium::new(part.clone());
            assert_eq!(check_storage(&*medium).unwrap().corruptions, 0);
            repair_storage(&*medium).unwrap();
            let after = check_storage(&*medium).unwrap();
            assert_eq!((after.leaks, after.corruptions), (0, 0), "{after:?}");
            cut += 1;
        }
    }
    assert!(cut > 5, "{cut} places to cut");
}
