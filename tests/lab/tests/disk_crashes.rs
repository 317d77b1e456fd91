//! `kill -9` of the VMM, the agent and the whole host under a load that verifies: what a guest has
//! flushed is there afterwards, the disks are whole, and snapshots taken meanwhile are what they were.
//!
//! There are 20 kills by default, for the time they take under emulation. `ECS_KILLS` is another
//! number of them, `ECS_SEED` what they are drawn from; every run says its seed. The long run, in a
//! lab that is up:
//!
//! ```text
//! ECS_KILLS=200 cargo test -p lab-tests --locked --test disk_crashes -- --nocapture
//! ```
//!
//! A host is killed in the emulated lab only; where this machine is the host, the test says so and
//! kills VMM and agent as often instead.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Frozen, Load, Network, Snapshots, leaks, load, wait};
use std::{
    env,
    str::FromStr,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const KILLS: usize = 20;
/// Blocks that are looked at after each kill; all of them are after a host's, and at the end.
const WINDOW: u64 = 1024;
/// One snapshot is taken for so many kills, and where there are so many one is deleted.
const KILLS_PER_SNAPSHOT: usize = 5;
const SNAPSHOTS_BEFORE_A_DELETED: usize = 3;
/// The load writes for up to this long before a kill.
const LOAD_MILLISECONDS: u64 = 3000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Vmm,
    Agent,
    Host,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

fn number<T: FromStr>(variable: &str) -> Result<Option<T>> {
    let Some(text) = env::var_os(variable) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).with_context(|| format!("{variable} is {text:?}, which is no number"))
}

/// One host of ten kills where hosts can be, VMM and agent of the others, in random order.
fn plan(kills: usize, hosts: bool, random: &mut Random) -> Vec<Victim> {
    let hosts = if hosts { kills / 10 } else { 0 };
    let vmms = (kills - hosts) / 2;
    let mut plan: Vec<_> = (0..kills)
        .map(|n| match n {
            n if n < hosts => Victim::Host,
            n if n < hosts + vmms => Victim::Vmm,
            _ => Victim::Agent,
        })
        .collect();
    for n in (1..plan.len()).rev() {
        plan.swap(n, usize::try_from(random.below(n as u64 + 1)).unwrap_or(0));
    }
    plan
}

/// What `qemu-img check` on the host says about every disk of an instance without a VMM.
fn look_at_disks(cloud: &Cloud, id: &str, disks: &[String]) -> Result<Vec<String>> {
    let (state, run) = (cloud.path("state")?, cloud.path("run")?);
    // One that was killed may take a moment to end. The brackets keep pgrep from finding its shell.
    let command = format!(
        "while pgrep -f '[e]cs-vmm run --config {run}/vmm/{id}/' >/dev/null; do sleep 0.1; done
         for disk in {}; do
             echo $(qemu-img check {state}/disks/$disk.qcow2 2>&1; echo exit code $?)
         done",
        disks.join(" ")
    );
    let text = cloud.on_host("lab-1", &command)?;
    let found: Vec<_> = text.lines().map(str::to_owned).collect();
    ensure!(found.len() == disks.len(), "{} disks were to be looked at: {text}", disks.len());
    Ok(found)
}

/// Kills the VMM and looks at its disks before the agent mends them: clusters may be lost, which costs
/// space only, but nothing may contradict anything.
fn kill_vmm(cloud: &Cloud, id: &str, disks: &[String]) -> Result<()> {
    // The agent may have died a moment ago.
    let frozen = wait::until("an agent", Duration::from_secs(60), || Frozen::new(cloud).map(Some))?;
    cloud.crash(&["vmm", id])?;
    let found = look_at_disks(cloud, id, disks)?;
    drop(frozen);
    for (disk, check) in disks.iter().zip(found) {
        let sound = check.ends_with("exit code 0") || check.ends_with("exit code 3");
        ensure!(sound && !check.contains("ERROR"), "{disk} after a kill of its VMM: {check}");
    }
    Ok(())
}

#[test]
fn no_flushed_block_is_lost_however_often_vmm_agent_and_host_die() -> Result<()> {
    let kills = number("ECS_KILLS")?.unwrap_or(KILLS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("ECS_SEED")?.unwrap_or(now.as_secs());
    eprintln!("\n{kills} kills, ECS_SEED={seed}");
    run(kills, seed).with_context(|| format!("again with ECS_SEED={seed} ECS_KILLS={kills}"))
}

fn run(kills: usize, seed: u64) -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let hosts = !cloud.is_native()?;
    if !hosts {
        // scripts/test.sh counts such lines.
        eprintln!("skipped: kills of a host: it is this machine itself, which is not reset");
    }
    let mut random = Random(seed);
    let network = Network::new(&cloud, "disk-crash")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let disk = format!("size={}", load::DISK_GIB);
    let mut order = network.run(&image, &kind);
    order.extend(["--data-disk", &disk, "--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    let disks: Vec<_> = gone_with_it.iter().filter(|id| id.starts_with("d-")).cloned().collect();
    ensure!(disks.len() == 2, "a system disk and one of data: {gone_with_it:?}");

    let data = cloud.id(["disk", "list", "--instance", &id, "--type", "data"])?;
    let mut snapshots = Snapshots::of(&cloud, &data)?;
    let mut load = Load::install(&cloud, &id)?;
    let started = Instant::now();
    let plan = plan(kills, hosts, &mut random);
    let (mut reboots, mut window) = (false, 0);
    for (n, victim) in plan.iter().enumerate() {
        // An agent may die while it brings a guest back as well.
        let at_once =
            *victim == Victim::Agent && n > 0 && plan[n - 1] == Victim::Vmm && random.below(2) == 0;
        if !at_once {
            if reboots {
                load.wait_for_next_boot()?;
                reboots = false;
            }
            if n > 0 && plan[n - 1] == Victim::Host {
                snapshots.compare()?;
            }
            load.check(window, true)?;
            load.wait_for_progress()?;
            snapshots.wait()?;
            if n % KILLS_PER_SNAPSHOT == 0 {
                if snapshots.count() == SNAPSHOTS_BEFORE_A_DELETED {
                    snapshots.delete_one()?;
                }
                snapshots.order()?;
                // Or the kill comes while it is being taken.
                if random.below(2) == 0 {
                    snapshots.wait()?;
                }
            }
            thread::sleep(Duration::from_millis(random.below(LOAD_MILLISECONDS)));
            // The end of a console's log may die with its host.
            load.listen()?;
        }
        let (count, seconds) = (n + 1, started.elapsed().as_secs());
        eprintln!("{seconds:4} s: kill {count}: {victim:?}, {} blocks flushed", load.flushed());
        match victim {
            Victim::Vmm => kill_vmm(&cloud, &id, &disks)?,
            Victim::Agent => cloud.crash(&["agent"])?,
            Victim::Host => cloud.crash(&["host", "--host", "lab-1"])?,
        }
        reboots |= *victim != Victim::Agent;
        window = if *victim == Victim::Host { u64::MAX } else { WINDOW };
    }
    if reboots {
        load.wait_for_next_boot()?;
    }
    load.check(u64::MAX, false)?;
    eprintln!("{} s: all of {} blocks are there", started.elapsed().as_secs(), load.flushed());

    // The agent has mended what the kills left, so that not even a cluster is lost now.
    cloud.run(["instance", "stop", &id, "--force", "--wait", "--timeout", "120"])?;
    for (disk, check) in disks.iter().zip(look_at_disks(&cloud, &id, &disks)?) {
        ensure!(check.contains("No errors were found"), "{disk} at the end: {check}");
    }
    snapshots.wait()?;
    snapshots.compare()?;
    eprintln!(
        "{} s: {} snapshots are what they were",
        started.elapsed().as_secs(),
        snapshots.count()
    );
    network.delete()?;
    snapshots.delete()?;
    leaks::none(&cloud, &gone_with_it)
}
