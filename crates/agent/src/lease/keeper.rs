//! The lease keeper: one process of a host that holds its leases. It outlives the agent, as the VMMs
//! that use them do, and is this same executable, started as `ecs-agent keep-leases`.
//!
//! A lease has a thread of its own, as a shared directory may let any call wait. A keeper that is
//! gone renews nothing: what it has said until when holds, and then nobody uses the leases any more.

use super::{Directory, Lease, LeaseState, Mark, Outcome, Standing, Want, clock::now, local};
use crate::error::{Error, FileContext as _, Result};
use clap::Parser;
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// First argument that makes the executable a lease keeper.
pub const COMMAND: &str = "keep-leases";

const ROUND: Duration = Duration::from_millis(50);
/// With nothing to hold it ends.
const IDLE: Duration = Duration::from_secs(5);
/// What an agent that is silent for so long wanted is let go, unless a VMM uses it.
const SILENT: Duration = Duration::from_secs(60);

/// Arguments of a lease keeper.
#[derive(Debug, Parser)]
#[command(name = "ecs-agent keep-leases", about = "Holds the leases of this host's disks.")]
pub struct Arguments {
    /// Where it is told what to hold, and tells how each lease is.
    #[arg(long)]
    pub leases: PathBuf,
    /// Run directories of VMMs, which say which leases each uses.
    #[arg(long)]
    pub vmm_dir: PathBuf,
}

/// A time as it is written in files.
pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs as a lease keeper until nothing is to be held.
///
/// # Errors
/// When its directory cannot be used.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments =
        Arguments::try_parse_from(arguments).map_err(|e| Error::Configuration(e.to_string()))?;
    // Own session: neither a terminal nor the agent's service ends the guests that need this.
    rustix::process::setsid()
        .map_err(|e| Error::Configuration(format!("cannot start a session: {e}")))?;
    serve(&arguments.leases, &arguments.vmm_dir, &Arc::default())
}

/// Holds what is wanted until nothing is, or it is told to end. With another keeper at work there is
/// nothing to do.
///
/// # Errors
/// When the directory cannot be used.
pub(crate) fn serve(dir: &Path, vmm_dir: &Path, end: &Arc<AtomicBool>) -> Result<()> {
    let path = dir.join(local::LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.at("open", &path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
        Err(e) => return Err(e).at("lock", &path),
    }
    let mut threads: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    let mut busy = now();
    while !end.load(Ordering::Relaxed) {
        threads.retain(|_, thread| !thread.is_finished());
        for (tree_id, want) in local::wanted(dir)? {
            threads.entry(tree_id).or_insert_with_key(|id| {
                let (id, dir, end) = (id.clone(), dir.to_owned(), Arc::clone(end));
                thread::spawn(move || hold(&dir, &id, &want, &end))
            });
        }
        let heard = local::read::<u64>(&dir.join(local::AGENT)).map(Duration::from_millis);
        if heard.is_some_and(|heard| now() > heard + SILENT) {
            forsake_unused(dir, vmm_dir)?;
        }
        if !threads.is_empty() {
            busy = now();
        } else if now() > busy + IDLE {
            break;
        }
        thread::sleep(ROUND);
    }
    Ok(())
}

fn forsake_unused(dir: &Path, vmm_dir: &Path) -> Result<()> {
    for tree_id in local::wanted(dir)?.into_keys() {
        if !local::is_registered(vmm_dir, &tree_id)? {
            eprintln!("{tree_id}: its lease is let go, as no agent is heard of and no VMM uses it");
            local::forsake(dir, &tree_id)?;
        }
    }
    Ok(())
}

/// What the record's owner calls its host.
fn host_of(token: &str) -> &str {
    token.split_once('.').map_or(token, |(host, _)| host)
}

/// Holds one lease as long as it is wanted, or drops it without a word.
fn hold(dir: &Path, tree_id: &str, want: &Want, end: &AtomicBool) {
    let owner = format!("{}.{}", want.host_id, uuid::Uuid::new_v4().simple());
    let mut lease = Lease::new(want.terms(), &owner);
    let mut opened = None;
    let mut told = None;
    let mut trouble = String::new();
    let mut leaving = false;
    while !end.load(Ordering::Relaxed) {
        let wanted = local::is_wanted(dir, tree_id);
        if !wanted && !leaving {
            // First it is said that nobody may use it, then that nobody does.
            publish(dir, tree_id, &mut told, None);
            lease.leave(now());
            leaving = true;
        } else if wanted && leaving {
            lease.want(now());
            leaving = false;
        }
        // What is gone with all its files needs no last word.
        if leaving && (lease.is_off() || !want.directory.exists()) {
            return;
        }
        let directory = match &opened {
            Some(directory) => directory,
            None => match Directory::open(&want.directory, &owner) {
                Ok(directory) => {
                    lease.want(now());
                    opened.insert(directory)
                }
                Err(e) => {
                    trouble = e.to_string();
                    publish(dir, tree_id, &mut told, Some(state(&lease, want, &trouble)));
                    thread::sleep(want.terms().hold / 4);
                    continue;
                }
            },
        };
        if let Some(op) = lease.poll(now()) {
            let outcome = match directory.run(&op) {
                Ok(outcome) => {
                    trouble.clear();
                    outcome
                }
                Err(e) => {
                    trouble = e.to_string();
                    eprintln!("{tree_id}: {trouble}");
                    Outcome::Failed
                }
            };
            lease.done(now(), outcome);
        }
        if !leaving {
            publish(dir, tree_id, &mut told, Some(state(&lease, want, &trouble)));
        }
        thread::sleep(lease.due().saturating_sub(now()).clamp(Duration::from_millis(1), ROUND));
    }
}

fn state(lease: &Lease, want: &Want, trouble: &str) -> LeaseState {
    let mut state = LeaseState {
        until_ms: lease.usable_until().map_or(0, ms),
        epoch: lease.epoch().unwrap_or(0),
        clean: lease.is_clean(),
        hold_ms: want.hold_ms,
        ..LeaseState::default()
    };
    match lease.standing() {
        Standing::Watching(Some((record, _))) if record.mark == Mark::Held => {
            host_of(&record.token).clone_into(&mut state.holder);
        }
        Standing::Waiting(until) => state.waits_until_ms = ms(until),
        _ => {}
    }
    // One late answer is no trouble yet.
    if state.until_ms == 0 || now() + want.terms().hold / 2 > Duration::from_millis(state.until_ms)
    {
        trouble.clone_into(&mut state.trouble);
    }
    state
}

fn publish(dir: &Path, tree_id: &str, told: &mut Option<LeaseState>, state: Option<LeaseState>) {
    if *told == state && state.is_some() {
        return;
    }
    // One that could not be told ends for its users when the last one that was told does.
    match local::publish(dir, tree_id, state.as_ref()) {
        Ok(()) => *told = state,
        Err(e) => eprintln!("{tree_id}: {e}"),
    }
}
