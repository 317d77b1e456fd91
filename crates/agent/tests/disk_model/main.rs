//! Disks against a reference model: guest I/O, attach, detach, resize, snapshot, reset, delete and
//! merges in random order, while the pool fills up, calls fail or do half of their work, VMMs are
//! killed and agents start anew.
//!
//! The agent's part is the real one from the spec to the status (`Disks`, `Plugging`, events), the
//! VMM's from its control socket to the files; only guest and processors are played. The pool is a
//! small tmpfs, so that it really has no room.
//!
//! Every run says its seed: `ECS_SEED` runs one again, `ECS_STEPS` is how many steps it takes.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod cases;
mod content;
mod faults;
mod guest;
mod judges;
mod steps;
mod world;

use std::{env, time::SystemTime};

const STEPS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")))
}

#[test]
fn no_fault_and_no_order_of_steps_corrupts_or_loses_anything() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("ECS_SEED").unwrap_or(now.as_millis() as u64 % 1_000_000);
    let steps = number("ECS_STEPS").unwrap_or(STEPS);
    eprintln!("ECS_SEED={seed} ECS_STEPS={steps}");
    steps::run(seed, steps);
}
