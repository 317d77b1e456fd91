//! The same chain read by this crate and by `imago`, written in turns: writes, zeroes, discards,
//! larger sizes and new overlays.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;

use imago::file::File as ImagoFile;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use proptest::prelude::*;
use qcow2::{CreateOptions, Image};
use support::*;

fn imago(path: &Path, write: bool) -> FormatAccess<ImagoFile> {
    let image = Qcow2::<ImagoFile>::builder_path(path)
        .write(write)
        .open(PermissiveImplicitOpenGate::default())
        .unwrap();
    FormatAccess::new(image)
}

/// One change of the disk. Where it is, is a fraction of the disk's size.
#[derive(Debug, Clone)]
enum Change {
    Write {
        at: u64,
        len: u64,
    },
    Zeroes {
        at: u64,
        len: u64,
        unmap: bool,
    },
    /// Whole clusters may read as zeroes afterwards, or show what they did before.
    Discard {
        at: u64,
        len: u64,
    },
    Grow {
        sectors: u64,
    },
}

fn changes() -> impl Strategy<Value = Change> {
    let place = || (0u64..1 << 16, 1u64..40_000);
    prop_oneof![
        5 => place().prop_map(|(at, len)| Change::Write { at, len }),
        2 => (place(), any::<bool>())
            .prop_map(|((at, len), unmap)| Change::Zeroes { at, len, unmap }),
        3 => place().prop_map(|(at, len)| Change::Discard { at, len: len * 4 }),
        1 => (1u64..200).prop_map(|sectors| Change::Grow { sectors }),
    ]
}

/// What one of the two does in its turn, after an overlay has been put on top or not.
#[derive(Debug, Clone)]
struct Turn {
    overlay: bool,
    changes: Vec<Change>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (prop::bool::weighted(0.3), proptest::collection::vec(changes(), 1..8))
        .prop_map(|(overlay, changes)| Turn { overlay, changes });
    proptest::collection::vec(turn, 1..7)
}

/// A range of a disk in bytes, or in whole sectors as `imago` wants it.
fn range(at: u64, len: u64, size: u64, align: u64) -> (u64, usize) {
    let at = ((at * size) >> 16) / align * align;
    let len = len.min(size - at).next_multiple_of(align).min(size - at);
    (at, len as usize)
}

/// Each byte of a discarded range is zero, what it was, or what the layers below have.
fn assert_discarded(now: &[u8], before: &[u8], below: &[u8], at: usize) {
    for (index, byte) in now.iter().enumerate() {
        let under = below.get(at + index).copied().unwrap_or(0);
        assert!(
            [0, before[index], under].contains(byte),
            "byte {:#x} of a discarded range is {byte:#x}",
            at + index
        );
    }
}

fn ours(image: &Image, changes: &[Change], model: &mut Vec<u8>) {
    for change in changes {
        let size = model.len() as u64;
        match change {
            Change::Write { at, len } => {
                let (at, len) = range(*at, *len, size, 1);
                let data = pattern(at, len);
                image.write_at(&data, at).unwrap();
                model[at as usize..][..len].copy_from_slice(&data);
            }
            Change::Zeroes { at, len, unmap } => {
                let (at, len) = range(*at, *len, size, 1);
                image.write_zeroes(at, len as u64, *unmap).unwrap();
                model[at as usize..][..len].fill(0);
            }
            Change::Discard { at, len } => {
                let (at, len) = range(*at, *len, size, 1);
                let before = model[at as usize..][..len].to_vec();
                image.discard(at, len as u64).unwrap();
                image.read_at(&mut model[at as usize..][..len], at).unwrap();
                // Ours never shows what is below.
                assert_discarded(&model[at as usize..][..len], &before, &[], at as usize);
            }
            Change::Grow { sectors } => {
                image.grow(size + sectors * 512).unwrap();
                model.resize((size + sectors * 512) as usize, 0);
            }
        }
    }
    image.flush().unwrap();
}

fn theirs(
    image: &mut FormatAccess<ImagoFile>,
    changes: &[Change],
    model: &mut Vec<u8>,
    below: &[u8],
    cluster: u64,
) {
    for change in changes {
        let size = model.len() as u64;
        match change {
            Change::Write { at, len } => {
                let (at, len) = range(*at, *len, size, 512);
                let data = pattern(at + 1, len);
                image.write(&data[..], at).unwrap();
                model[at as usize..][..len].copy_from_slice(&data);
            }
            Change::Zeroes { at, len, unmap } => {
                // imago 0.2.6 overflows where a part of a disk of less than a cluster is zeroed.
                let (at, len) = match size {
                    _ if size < cluster => (0, size as usize),
                    _ => range(*at, *len, size, 512),
                };
                if *unmap {
                    image.discard_to_zero(at, len as u64).unwrap();
                } else {
                    image.write_zeroes(at, len as u64).unwrap();
                }
                model[at as usize..][..len].fill(0);
            }
            Change::Discard { at, len } => {
                let (at, len) = range(*at, *len, size, 512);
                let before = model[at as usize..][..len].to_vec();
                image.discard_to_any(at, len as u64).unwrap();
                image.read(&mut model[at as usize..][..len], at).unwrap();
                assert_discarded(&model[at as usize..][..len], &before, below, at as usize);
            }
            Change::Grow { sectors } => {
                let new = size + sectors * 512;
                image.resize_grow(new, PreallocateMode::Zero).unwrap();
                model.resize(new as usize, 0);
            }
        }
    }
    image.flush().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..Default::default() })]

    #[test]
    fn both_see_what_either_wrote(
        cluster_bits in 9u32..=17,
        refcount_order in 0u32..=6,
        sectors in proptest::collection::vec(200u64..2000, 8),
        base_sectors in 1usize..2000,
        turns in turns(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.raw");
        let mut model = pattern(4, base_sectors * 512);
        std::fs::write(&base, &model).unwrap();
        let mut chain = Chain { paths: vec![(base, qcow2::Format::Raw)] };
        let mut below = model.clone();
        let overlay = |chain: &mut Chain, model: &mut Vec<u8>, sectors: u64| {
            chain.overlay(dir.path(), &CreateOptions {
                virtual_size: sectors * 512,
                cluster_bits,
                refcount_bits: 1 << refcount_order,
                ..Default::default()
            });
            model.resize((sectors * 512) as usize, 0);
        };
        // An overlay may be smaller than what is below it, or larger.
        overlay(&mut chain, &mut model, sectors[0]);
        for (number, turn) in turns.iter().enumerate() {
            if turn.overlay {
                below = model.clone();
                overlay(&mut chain, &mut model, sectors[number + 1]);
            }
            let top = chain.paths[0].0.clone();
            if number % 2 == 0 {
                ours(&chain.open(), &turn.changes, &mut model);
            } else {
                theirs(&mut imago(&top, true), &turn.changes, &mut model, &below, 1 << cluster_bits);
            }
            check_clean(&top);
            let mut data = vec![0u8; model.len()];
            let image = imago(&top, false);
            prop_assert_eq!(image.size(), model.len() as u64);
            image.read(&mut data[..], 0).unwrap();
            assert_same(&data, &model);
            assert_same(&read_all(&chain.open()), &model);
        }
    }
}
