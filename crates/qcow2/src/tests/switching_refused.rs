//! A switch of layers that is refused or fails leaves the disk with its old layers.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::medium::{Medium, image_bytes, open, pattern};
use crate::check::check_storage;
use crate::request::locks::Wake;
use crate::request::{Job, Step};
use crate::storage::Storage;
use crate::{CreateOptions, Error, Format, Image, Layer, Op, OpenOptions};

const SIZE: u64 = 1 << 20;

fn options() -> CreateOptions {
    CreateOptions { virtual_size: SIZE, cluster_bits: 12, ..Default::default() }
}

fn files(media: &[&Arc<Medium>]) -> Vec<(Arc<dyn Storage>, Format)> {
    media
        .iter()
        .map(|medium| {
            let storage: Arc<dyn Storage> = Arc::clone(medium) as Arc<dyn Storage>;
            (storage, Format::Qcow2)
        })
        .collect()
}

fn switch(image: &Image, top: &Arc<Medium>, backing: &[&Arc<Medium>]) -> Result<(), Error> {
    image.switch_storage(files(&[top]).pop(), files(backing), None).map(drop)
}

fn contents(image: &Image) -> Vec<u8> {
    let mut data = vec![0; SIZE as usize];
    image.read_at(&mut data, 0).unwrap();
    data
}

/// The host is full at each step of the flush in turn.
#[test]
fn a_flush_that_fails_leaves_the_old_layers() {
    let mut failures = 0;
    for count in 0..12 {
        let bottom = Medium::new(image_bytes(&options()));
        let image = open(&bottom, None, false);
        let mut model = vec![0; SIZE as usize];
        for step in 0..8 {
            let at = (step * 100_000) as usize;
            model[at..at + 30_000].copy_from_slice(&pattern(step, 30_000));
            image.write_at(&model[at..at + 30_000], at as u64).unwrap();
        }
        let top = Medium::new(image_bytes(&options()));
        let untouched = top.bytes();
        bottom.fail_after(count, libc::ENOSPC);
        let failed = switch(&image, &top, &[&bottom]).is_err();
        bottom.fail_after(u32::MAX, 0);
        if failed {
            failures += 1;
            model[..1000].fill(9);
            image.write_at(&model[..1000], 0).unwrap();
            assert_eq!(top.bytes(), untouched);
            switch(&image, &top, &[&bottom]).unwrap();
        }
        assert!(contents(&image) == model);
        let frozen = bottom.bytes();
        let old = model.clone();
        model[50_000..90_000].copy_from_slice(&pattern(99, 40_000));
        image.write_at(&model[50_000..90_000], 50_000).unwrap();
        image.discard(400_000, 100_000).unwrap();
        image.read_at(&mut model[400_000..500_000], 400_000).unwrap();
        assert!(contents(&image) == model);
        drop(image);
        assert!(bottom.bytes() == frozen, "a frozen layer was written");
        assert!(contents(&open(&bottom, None, true)) == old);
        for medium in [&bottom, &top] {
            let report = check_storage(&**medium).unwrap();
            assert_eq!((report.leaks, report.corruptions), (0, 0), "{report:?}");
        }
    }
    assert!(failures >= 3, "{failures} failures");
}

#[test]
fn a_sync_that_fails_leaves_the_old_layers_for_reading() {
    let bottom = Medium::new(image_bytes(&options()));
    let image = open(&bottom, None, false);
    image.write_at(&[5; 5000], 0).unwrap();
    let top = Medium::new(image_bytes(&options()));
    bottom.fail_syncs(true);
    assert_eq!(switch(&image, &top, &[&bottom]).unwrap_err().errno(), libc::EIO);
    bottom.fail_syncs(false);
    assert!(matches!(switch(&image, &top, &[&bottom]), Err(Error::SyncFailed)));
    assert_eq!(contents(&image)[..5000], [5; 5000]);
    assert!(matches!(image.write_at(&[6; 512], 0), Err(Error::SyncFailed)));
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, size: u64| {
        let path = dir.path().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        crate::create(&file, &CreateOptions { virtual_size: size, ..options() }).unwrap();
        (path, file)
    };
    let qcow2 = |file: File| Layer { file, format: Format::Qcow2 };
    let raw = |file: File| Layer { file, format: Format::Raw };
    let (path, file) = make("old", SIZE);
    let image = Image::open(vec![qcow2(file)], OpenOptions::default()).unwrap();
    image.write_at(&[3; 9000], 100).unwrap();
    let refused = |top: Option<Layer>, backing: Vec<Layer>, word: &str| {
        let error = image.switch_layers(top, backing).unwrap_err().to_string();
        assert!(error.contains(word), "{error:?} does not say {word:?}");
        let mut data = [0; 9000];
        image.read_at(&mut data, 100).unwrap();
        assert_eq!(data, [3; 9000]);
        image.write_at(&data, 100).unwrap();
    };
    let old = || qcow2(File::open(&path).unwrap());
    let (_, small) = make("small", SIZE - 512);
    refused(Some(qcow2(small)), vec![old()], "1048064 bytes, the disk one of 1048576");
    let (used_path, used) = make("used", SIZE);
    let user = Image::open(vec![qcow2(used)], OpenOptions::default()).unwrap();
    user.write_at(&[1], 0).unwrap();
    drop(user);
    let used = File::options().read(true).write(true).open(&used_path).unwrap();
    refused(Some(qcow2(used)), vec![old()], "already has content");
    let (new_path, new) = make("new", SIZE);
    refused(Some(raw(new.try_clone().unwrap())), vec![old()], "not raw");
    let only_reads = File::open(&new_path).unwrap();
    refused(Some(qcow2(only_reads)), vec![old()], "not open for reading and writing");
    let writable = File::options().read(true).write(true).open(&path).unwrap();
    refused(Some(qcow2(writable)), vec![old()], "in the disk's chain already");
    refused(Some(qcow2(new.try_clone().unwrap())), vec![], "no layers were given");
    let other = qcow2(File::open(&used_path).unwrap());
    refused(Some(qcow2(new.try_clone().unwrap())), vec![other], "not the disk's present top");
    let as_raw = raw(File::open(&path).unwrap());
    refused(Some(qcow2(new.try_clone().unwrap())), vec![as_raw], "not the disk's present top");
    let broken = tempfile::tempfile().unwrap();
    refused(Some(qcow2(new.try_clone().unwrap())), vec![old(), qcow2(broken)], "layer 2");
    refused(None, vec![old()], "nothing below it");
    image.switch_layers(Some(qcow2(new)), vec![old()]).unwrap();

    let reader = Image::open(vec![old()], OpenOptions { read_only: true }).unwrap();
    let (_, top) = make("top", SIZE);
    let refusal = reader.switch_layers(Some(qcow2(top)), vec![old()]);
    assert!(matches!(refusal, Err(Error::ReadOnly)));
}

#[derive(Debug, Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(&self, token: u64) {
        self.0.fetch_or(1 << token, Ordering::SeqCst);
    }
}

#[test]
fn requests_wait_for_those_under_way_and_no_longer() {
    let bottom = Medium::new(image_bytes(&options()));
    let image = open(&bottom, None, false);
    image.write_at(&[1; 4096], 0).unwrap();
    let woken = Arc::new(Woken::default());
    let job = |memory: &mut [u8], token| {
        let iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        let wake: Arc<dyn Wake> = woken.clone();
        Job::new(Op::Write, 0, memory.len() as u64, [iov].into_iter().collect(), wake, token)
    };
    let finish = |job: &mut Job, mut step: Step| loop {
        match step {
            Step::Transfer(transfers) => {
                let chain = job.chain().unwrap();
                let done = transfers.into_iter().try_for_each(|mut t| t.run(chain));
                step = job.step(&image, done);
            }
            Step::Wait => panic!("still waiting"),
            Step::Done(result) => return result.unwrap(),
        }
    };
    let (mut first, mut second) = ([2; 4096], [3; 4096]);
    let mut under_way = job(&mut first, 0);
    let in_flight = under_way.step(&image, Ok(()));
    let top = Medium::new(image_bytes(&options()));
    // It never ends: the switch gives up, and what it held back goes on.
    let gives_up = switch(&image, &top, &[&bottom]);
    assert!(matches!(gives_up, Err(Error::Busy { .. })), "{gives_up:?}");
    finish(&mut under_way, in_flight);

    let mut under_way = job(&mut first, 0);
    let in_flight = under_way.step(&image, Ok(()));
    std::thread::scope(|scope| {
        let switching = scope.spawn(|| switch(&image, &top, &[&bottom]));
        let mut held = job(&mut second, 1);
        while !image.gate.is_closed() {
            std::thread::yield_now();
        }
        assert!(matches!(held.step(&image, Ok(())), Step::Wait));
        finish(&mut under_way, in_flight);
        switching.join().unwrap().unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1 << 1);
        let step = held.step(&image, Ok(()));
        finish(&mut held, step);
    });
    assert_eq!(contents(&image)[..4096], [3; 4096]);
    assert_eq!(contents(&open(&bottom, None, true))[..4096], [2; 4096]);
}
