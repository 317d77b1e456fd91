//! The same chain read by this crate and by `imago`, written in turns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use proptest::prelude::*;
use qcow2::CreateOptions;
use support::*;

fn imago(path: &std::path::Path, write: bool) -> FormatAccess<ImagoFile> {
    let image = Qcow2::<ImagoFile>::builder_path(path)
        .write(write)
        .open(PermissiveImplicitOpenGate::default())
        .unwrap();
    FormatAccess::new(image)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..Default::default() })]

    #[test]
    fn both_see_what_either_wrote(
        cluster_bits in 9u32..=17,
        refcount_order in 0u32..=6,
        sectors in 200u64..2000,
        base_sectors in 1usize..2000,
        writes in proptest::collection::vec((0u64..1 << 16, 1u64..40_000, 0u8..4), 1..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.raw");
        let mut model = pattern(4, base_sectors * 512);
        std::fs::write(&base, &model).unwrap();
        let mut chain = Chain { paths: vec![(base, qcow2::Format::Raw)] };
        let size = sectors * 512;
        chain.overlay(dir.path(), &CreateOptions {
            virtual_size: size,
            cluster_bits,
            refcount_bits: 1 << refcount_order,
            ..Default::default()
        });
        model.resize(size as usize, 0);
        let top = chain.paths[0].0.clone();
        for (turn, part) in writes.chunks(6).enumerate() {
            if turn % 2 == 0 {
                let image = chain.open();
                for (at, len, kind) in part {
                    let at = (at * size) >> 16;
                    let len = (*len).min(size - at);
                    let range = at as usize..(at + len) as usize;
                    if *kind == 0 {
                        image.write_zeroes(at, len, true).unwrap();
                        model[range].fill(0);
                    } else {
                        let data = pattern(at, len as usize);
                        image.write_at(&data, at).unwrap();
                        model[range].copy_from_slice(&data);
                    }
                }
                image.flush().unwrap();
            } else {
                let image = imago(&top, true);
                for (at, len, _) in part {
                    let at = ((at * size) >> 16) & !511;
                    let len = ((*len).min(size - at) & !511).max(512);
                    let data = pattern(at + 1, len as usize);
                    image.write(&data[..], at).unwrap();
                    model[at as usize..(at + len) as usize].copy_from_slice(&data);
                }
                image.flush().unwrap();
            }
            check_clean(&top);
            let mut data = vec![0u8; size as usize];
            imago(&top, false).read(&mut data[..], 0).unwrap();
            assert_same(&data, &model);
            assert_same(&read_all(&chain.open()), &model);
        }
    }
}
