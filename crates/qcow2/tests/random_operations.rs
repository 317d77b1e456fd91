//! Random operations on random chains against a flat model; `qemu-img` judges the file left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;

use proptest::prelude::*;
use qcow2::{CreateOptions, Format, Image};
use support::*;

#[derive(Debug, Clone)]
enum Step {
    Write { at: u64, len: u64 },
    Read { at: u64, len: u64 },
    Zero { at: u64, len: u64, unmap: bool },
    Discard { at: u64, len: u64 },
    Flush,
    Reopen,
    Grow { by: u64 },
}

/// Positions and lengths are fractions of 2^16, scaled to the disk; lengths lean to the short side.
fn step() -> impl Strategy<Value = Step> {
    let range = (0u64..1 << 16, prop_oneof![4 => 0u64..300, 3 => 0u64..4000, 1 => 0u64..1 << 16]);
    prop_oneof![
        8 => range.clone().prop_map(|(at, len)| Step::Write { at, len }),
        3 => range.clone().prop_map(|(at, len)| Step::Read { at, len }),
        3 => (range.clone(), any::<bool>())
            .prop_map(|((at, len), unmap)| Step::Zero { at, len, unmap }),
        3 => range.prop_map(|(at, len)| Step::Discard { at, len }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => (1u64..600).prop_map(|by| Step::Grow { by }),
    ]
}

/// How the lowest layer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    None,
    Raw,
    Plain,
    Zlib,
    Zstd,
}

#[derive(Debug, Clone)]
struct Layout {
    base: Base,
    base_sectors: u64,
    /// (cluster_bits, version, log2 of the refcount width, sectors), lowest first.
    overlays: Vec<(u32, u32, u32, u64)>,
}

fn layout(
    cluster_bits: impl Strategy<Value = u32> + Clone + 'static,
) -> impl Strategy<Value = Layout> {
    let base = prop_oneof![
        Just(Base::None),
        Just(Base::Raw),
        Just(Base::Plain),
        Just(Base::Zlib),
        Just(Base::Zstd)
    ];
    let overlay = (cluster_bits, 2u32..=3, 0u32..=6, 1u64..1600);
    (base, 1u64..1600, proptest::collection::vec(overlay, 1..=3))
        .prop_map(|(base, base_sectors, overlays)| Layout { base, base_sectors, overlays })
}

fn make_base(dir: &Path, layout: &Layout) -> (Chain, Vec<u8>) {
    let model = {
        let mut data = pattern(99, (layout.base_sectors * 512) as usize);
        // Stretches that compress, and zeroes.
        for (i, part) in data.chunks_mut(3000).enumerate() {
            match i % 3 {
                0 => part.fill(0),
                1 => part.fill(i as u8),
                _ => {}
            }
        }
        data
    };
    let raw = dir.join("base.raw");
    std::fs::write(&raw, &model).unwrap();
    let qcow2 = dir.join("base.qcow2");
    let (from, to) = (raw.to_str().unwrap(), qcow2.to_str().unwrap());
    let convert = |options: &[&str]| {
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend_from_slice(options);
        args.extend_from_slice(&[from, to]);
        must(&args);
        vec![(qcow2.clone(), Format::Qcow2)]
    };
    match layout.base {
        Base::None => (Chain { paths: vec![] }, Vec::new()),
        Base::Raw => (Chain { paths: vec![(raw, Format::Raw)] }, model),
        Base::Plain => (Chain { paths: convert(&[]) }, model),
        Base::Zlib => (Chain { paths: convert(&["-c", "-o", "compression_type=zlib"]) }, model),
        Base::Zstd => (
            Chain { paths: convert(&["-c", "-o", "compression_type=zstd,cluster_size=4k"]) },
            model,
        ),
    }
}

fn scaled(at: u64, len: u64, size: u64) -> (u64, u64) {
    let at = (at * size) >> 16;
    (at, ((len * size.max(1 << 16)) >> 16).min(size - at))
}

struct Disk {
    chain: Chain,
    image: Option<std::sync::Arc<Image>>,
    model: Vec<u8>,
    seed: u64,
}

impl Disk {
    fn apply(&mut self, step: &Step) {
        let image = self.image.clone().unwrap();
        let size = self.model.len() as u64;
        let part = |at: u64, len: u64| at as usize..(at + len) as usize;
        match *step {
            Step::Write { at, len } => {
                let (at, len) = scaled(at, len, size);
                self.seed += 1;
                let data = pattern(self.seed, len as usize);
                image.write_at(&data, at).unwrap();
                self.model[part(at, len)].copy_from_slice(&data);
            }
            Step::Read { at, len } => {
                let (at, len) = scaled(at, len, size);
                let mut data = vec![0xee; len as usize];
                image.read_at(&mut data, at).unwrap();
                assert_same(&data, &self.model[part(at, len)]);
            }
            Step::Zero { at, len, unmap } => {
                let (at, len) = scaled(at, len, size);
                image.write_zeroes(at, len, unmap).unwrap();
                self.model[part(at, len)].fill(0);
            }
            Step::Discard { at, len } => {
                let (at, len) = scaled(at, len, size);
                image.discard(at, len).unwrap();
                // Each byte is as before, or zero.
                let mut data = vec![0; len as usize];
                image.read_at(&mut data, at).unwrap();
                for (now, before) in data.iter().zip(&mut self.model[part(at, len)]) {
                    assert!(*now == *before || *now == 0, "discard brought up other data");
                    *before = *now;
                }
            }
            Step::Flush => image.flush().unwrap(),
            Step::Reopen => {
                drop(image);
                self.image = None;
                check_clean(&self.chain.paths[0].0);
                self.image = Some(self.chain.open());
            }
            Step::Grow { by } => {
                let new = size + by * 512;
                image.grow(new).unwrap();
                self.model.resize(new as usize, 0);
            }
        }
    }
}

fn run(layout: &Layout, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let (mut chain, mut model) = make_base(dir.path(), layout);
    for (index, (cluster_bits, version, refcount_order, sectors)) in
        layout.overlays.iter().enumerate()
    {
        let refcount_bits = if *version == 2 { 16 } else { 1 << refcount_order };
        chain.overlay(
            dir.path(),
            &CreateOptions {
                virtual_size: sectors * 512,
                // A name does not fit a small first cluster with its path.
                cluster_bits: *cluster_bits,
                version: *version,
                refcount_bits,
                ..Default::default()
            },
        );
        model.resize((sectors * 512) as usize, 0);
        if index + 1 < layout.overlays.len() {
            // Lower overlays get some data of their own.
            let image = chain.open();
            for part in 0..3u64 {
                let (at, len) = scaled(part * 20_000, 2_000, model.len() as u64);
                let data = pattern(1000 + part + index as u64 * 10, len as usize);
                image.write_at(&data, at).unwrap();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
            let (at, len) = scaled(30_000, 4_000, model.len() as u64);
            image.write_zeroes(at, len, true).unwrap();
            model[at as usize..(at + len) as usize].fill(0);
        }
    }
    let image = Some(chain.open());
    let mut disk = Disk { chain, image, model, seed: 0 };
    for step in steps {
        disk.apply(step);
    }
    let image = disk.image.take().unwrap();
    assert_same(&read_all(&image), &disk.model);
    drop(image);
    let top = &disk.chain.paths[0].0;
    check_clean(top);
    compare(top, &disk.model);
    assert_same(&read_all(&disk.chain.open()), &disk.model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn chains_of_small_clusters_behave_as_the_model(
        layout in layout(9u32..=13),
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        run(&layout, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..Default::default() })]

    #[test]
    fn chains_of_large_clusters_behave_as_the_model(
        layout in layout(14u32..=21),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        run(&layout, &steps);
    }
}
