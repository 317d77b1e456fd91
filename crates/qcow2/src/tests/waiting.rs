//! Which requests wait for which, and when a cluster may be used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::medium::{Event, Medium, image_bytes, open, pattern};
use crate::request::locks::Wake;
use crate::request::{Job, Step};
use crate::{CreateOptions, Image, Op};

#[derive(Debug, Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(&self, token: u64) {
        self.0.fetch_or(1 << token, Ordering::SeqCst);
    }
}

fn disk() -> (Arc<Medium>, Arc<Image>) {
    let options = CreateOptions { virtual_size: 1 << 20, cluster_bits: 12, ..Default::default() };
    let medium = Medium::new(image_bytes(&options));
    let image = open(&medium, None, false);
    (medium, image)
}

fn job(op: Op, offset: u64, memory: &mut [u8], woken: &Arc<Woken>, token: u64) -> Job {
    let iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    let wake: Arc<dyn Wake> = woken.clone();
    Job::new(op, offset, memory.len() as u64, [iov].into_iter().collect(), wake, token)
}

fn finish(image: &Image, job: &mut Job, mut step: Step) {
    loop {
        match step {
            Step::Transfer(transfers) => {
                let chain = job.chain().unwrap();
                let done = transfers.into_iter().try_for_each(|mut t| t.run(chain));
                step = job.step(image, done);
            }
            Step::Wait => panic!("still waiting"),
            Step::Done(result) => return result.unwrap(),
        }
    }
}

#[test]
fn a_mapping_stays_while_a_read_or_write_is_in_flight() {
    for op in [Op::Read, Op::Write] {
        let (_, image) = disk();
        image.write_at(&pattern(1, 8192), 0).unwrap();
        let woken = Arc::new(Woken::default());
        let mut memory = vec![3; 100];
        let mut first = job(op, 4000, &mut memory, &woken, 0);
        let in_flight = first.step(&image, Ok(()));
        assert!(matches!(in_flight, Step::Transfer(_)));

        let mut nothing = [0; 4096];
        let mut discard = job(Op::Discard, 0, &mut nothing, &woken, 1);
        assert!(matches!(discard.step(&image, Ok(())), Step::Wait));
        // Another cluster is nobody's concern, and readers of the same one come after the discard.
        let mut other = vec![0; 4096];
        let mut read = job(Op::Read, 16384, &mut other, &woken, 2);
        let step = read.step(&image, Ok(()));
        finish(&image, &mut read, step);
        let mut late = vec![9; 4096];
        let mut read = job(Op::Read, 0, &mut late, &woken, 3);
        assert!(matches!(read.step(&image, Ok(())), Step::Wait));

        finish(&image, &mut first, in_flight);
        assert_eq!(woken.0.swap(0, Ordering::SeqCst), 1 << 1);
        let step = discard.step(&image, Ok(()));
        finish(&image, &mut discard, step);
        assert_eq!(woken.0.swap(0, Ordering::SeqCst), 1 << 3);
        let step = read.step(&image, Ok(()));
        finish(&image, &mut read, step);
        assert_eq!(late, [0; 4096]);
    }
}

#[test]
fn two_writes_to_a_new_cluster_share_one_allocation() {
    let (_, image) = disk();
    let woken = Arc::new(Woken::default());
    let (mut a, mut b) = (pattern(1, 1000), pattern(2, 1000));
    let (expected_a, expected_b) = (a.clone(), b.clone());
    let mut first = job(Op::Write, 0, &mut a, &woken, 0);
    let in_flight = first.step(&image, Ok(()));
    let mut second = job(Op::Write, 2000, &mut b, &woken, 1);
    assert!(matches!(second.step(&image, Ok(())), Step::Wait));
    finish(&image, &mut first, in_flight);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1 << 1);
    let step = second.step(&image, Ok(()));
    finish(&image, &mut second, step);
    let mut data = vec![0; 4096];
    image.read_at(&mut data, 0).unwrap();
    assert_eq!(data[..1000], expected_a);
    assert_eq!(data[1000..2000], [0; 1000]);
    assert_eq!(data[2000..3000], expected_b);
}

/// Where the bytes of the last write of one cluster went.
fn place(medium: &Medium, data: &[u8]) -> u64 {
    let log = medium.log();
    let found = log.iter().rev().find_map(|event| match event {
        Event::Write { offset, bytes } if bytes == data => Some(*offset),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn a_dropped_cluster_is_used_again_only_when_its_count_is_durable() {
    let (medium, image) = disk();
    let write = |seed: u64| {
        let data = pattern(seed, 4096);
        image.write_at(&data, seed * 4096).unwrap();
        place(&medium, &data)
    };
    let freed = write(1);
    image.flush().unwrap();
    image.discard(4096, 4096).unwrap();
    assert_ne!(write(2), freed, "the table still names it");
    image.flush().unwrap();
    let punched =
        medium.log().iter().any(|e| matches!(e, Event::Punch { offset, .. } if *offset == freed));
    assert!(punched);
    assert_ne!(write(3), freed, "its count is not durable");
    image.flush().unwrap();
    assert_eq!(write(4), freed);
}

/// The first clusters come and go, and the counts of all the others are not read again for each.
#[test]
fn a_cluster_given_back_is_used_again_without_a_search() {
    let half = 4 << 20;
    let options = CreateOptions { virtual_size: 2 * half, cluster_bits: 9, ..Default::default() };
    let medium = Medium::new(image_bytes(&options));
    let image = open(&medium, None, false);
    image.write_at(&pattern(1, half as usize), 0).unwrap();
    let before = medium.reads();
    for step in 0..20 {
        image.discard(step * 512, 512).unwrap();
        image.flush().unwrap();
        image.flush().unwrap();
        image.write_at(&pattern(step, 512), half + step * 1024).unwrap();
        image.write_at(&pattern(step, 512), half + step * 1024 + 512).unwrap();
    }
    // 8192 clusters, 256 counts to a slice: a search reads 32 of them.
    let reads = medium.reads() - before;
    assert!(reads < 200, "{reads} reads");
}
