//! Long chains: the layers below the top are resolved once, and read as if they were not.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::medium::{Medium, image_bytes, pattern};
use crate::storage::Storage;
use crate::{CreateOptions, Format, Image, Layer, OpenOptions};

fn open(layers: &[(Arc<Medium>, Format)], read_only: bool) -> Arc<Image> {
    let layers = layers.iter().map(|(medium, format)| {
        let storage: Arc<dyn Storage> = Arc::clone(medium) as Arc<dyn Storage>;
        (storage, *format)
    });
    Image::open_storage(layers.collect(), OpenOptions { read_only }, None).unwrap()
}

#[test]
fn a_chain_of_any_layers_reads_as_the_model() {
    for seed in 0..25 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut layers: Vec<(Arc<Medium>, Format)> = Vec::new();
        let mut model = Vec::new();
        if rng.random() {
            model = pattern(seed, rng.random_range(1..1000) * 512);
            layers.push((Medium::new(model.clone()), Format::Raw));
        }
        for _ in 0..rng.random_range(3..9) {
            let virtual_size = rng.random_range(600..1400) * 512;
            let cluster_bits = rng.random_range(9..=16);
            let options = CreateOptions { virtual_size, cluster_bits, ..Default::default() };
            layers.insert(0, (Medium::new(image_bytes(&options)), Format::Qcow2));
            // What a shorter layer cuts off stays hidden by a longer one on top of it.
            model.resize(virtual_size as usize, 0);
            let image = open(&layers, false);
            for step in 0..rng.random_range(0..12) {
                let offset = rng.random_range(0..virtual_size);
                let len = rng.random_range(1..60_000).min(virtual_size - offset);
                let range = offset as usize..(offset + len) as usize;
                if step % 4 == 3 {
                    image.write_zeroes(offset, len, true).unwrap();
                    model[range].fill(0);
                } else {
                    let data = pattern(rng.random(), len as usize);
                    image.write_at(&data, offset).unwrap();
                    model[range].copy_from_slice(&data);
                }
                let at = rng.random_range(0..model.len());
                let end = (at + 50_000).min(model.len());
                let mut data = vec![1; end - at];
                image.read_at(&mut data, at as u64).unwrap();
                assert!(data == model[at..end], "seed {seed}");
            }
        }
        let image = open(&layers, true);
        for _ in 0..60 {
            let at = rng.random_range(0..model.len());
            let end = (at + rng.random_range(1..100_000)).min(model.len());
            let mut data = vec![1; end - at];
            image.read_at(&mut data, at as u64).unwrap();
            assert!(data == model[at..end], "seed {seed}, {at}..{end}");
        }
        assert!(image.chain().below.as_ref().unwrap().slices() <= 3);
    }
}

fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).status();
    assert!(done.expect("qemu-img is needed by this test: install qemu-utils").success());
}

#[test]
fn compressed_clusters_of_a_deep_layer_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let name = |name: &str| dir.path().join(name);
    let size = 2 << 20;
    let model = pattern(3, size).chunks(5000).flat_map(|c| [c[0]; 5000]).collect::<Vec<_>>();
    let model = &model[..size];
    std::fs::write(name("flat"), model).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (flat, packed) = (text(&name("flat")), text(&name("packed")));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", &flat, &packed]);
    let mut layers = vec![Layer { file: File::open(&packed).unwrap(), format: Format::Qcow2 }];
    for cluster_bits in [16, 12, 18] {
        let file = tempfile::tempfile().unwrap();
        let options =
            CreateOptions { virtual_size: size as u64, cluster_bits, ..Default::default() };
        crate::create(&file, &options).unwrap();
        layers.insert(0, Layer { file, format: Format::Qcow2 });
    }
    let image = Image::open(layers, OpenOptions::default()).unwrap();
    image.write_at(&[9; 100], 1_000_000).unwrap();
    let mut expected = model.to_vec();
    expected[1_000_000..1_000_100].fill(9);
    let mut data = vec![0; size];
    image.read_at(&mut data, 0).unwrap();
    assert!(data == expected);
}

#[test]
fn an_invalid_entry_of_a_deep_layer_fails_reads_of_its_cluster_alone() {
    let options = CreateOptions { virtual_size: 1 << 20, cluster_bits: 12, ..Default::default() };
    let bottom = Medium::new(image_bytes(&options));
    let mut layers = vec![(Arc::clone(&bottom), Format::Qcow2)];
    open(&layers, false).write_at(&[5; 40_960], 0).unwrap();
    let bytes = bottom.bytes();
    let table = |bytes: &[u8], at: usize| {
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00
    };
    let l2 = table(&bytes, table(&bytes, 40) as usize);
    bottom.write_at(&0x8000_0000_0000_0123u64.to_be_bytes(), l2 + 3 * 8).unwrap();
    for _ in 0..3 {
        layers.insert(0, (Medium::new(image_bytes(&options)), Format::Qcow2));
    }
    let image = open(&layers, true);
    for cluster in 0..10 {
        let mut data = [0; 4096];
        let read = image.read_at(&mut data, cluster * 4096);
        if cluster == 3 {
            let error = read.unwrap_err().to_string();
            assert!(error.contains("layer 3") && error.contains("guest cluster 3"), "{error}");
        } else {
            read.unwrap();
            assert_eq!(data, [5; 4096]);
        }
    }
}
