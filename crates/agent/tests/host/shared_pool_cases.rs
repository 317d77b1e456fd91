//! Two hosts that share a directory, each with its agent, lease keeper, keepers of VMMs and VMMs.

use crate::{
    disk_cases::{attach, disk, until_at},
    fixture::Host,
};
use api::host::{DiskSpec, Removal};
use rustix::process::Signal;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::time::sleep;

/// Of the pool's leases. A taker waits for 5/4 x (hold + hold / 5).
const HOLD: Duration = Duration::from_secs(6);
const WAIT: Duration = Duration::from_secs(9);

struct Shared {
    dir: TempDir,
    pool_id: String,
    one: Host,
    two: Host,
}

impl Shared {
    /// Both have a guest: i-1 on the one, i-2 on the other.
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ecs-shared-").tempdir().unwrap();
        let (mut one, mut two) = (Host::new().await, Host::new().await);
        let option = format!(
            "name=nfs,path={},shared,capacity=4GiB,lease={}s",
            dir.path().display(),
            HOLD.as_secs()
        );
        for host in [&mut one, &mut two] {
            host.options = vec!["--pool".into(), option.clone()];
            host.start_agent();
        }
        one.run_instance("i-1");
        two.run_instance("i-2");
        one.until_running("i-1", 1).await;
        two.until_running("i-2", 1).await;
        let pool_of = |host: &Host| {
            let told = host.seen(|s| s.registrations.last().map(|r| r.pools.clone()));
            let pools = told.unwrap_or_default();
            pools.into_iter().find(|pool| pool.shared).unwrap().pool_id
        };
        let pool_id = pool_of(&one);
        assert_eq!(pool_of(&two), pool_id, "both know it as the same one");
        Self { dir, pool_id, one, two }
    }

    fn spec(&self, home_epoch: u64) -> DiskSpec {
        DiskSpec {
            disk_id: "d-data".into(),
            generation: 1,
            size_gib: 1,
            pool_id: self.pool_id.clone(),
            tree_id: "d-data".into(),
            home_epoch,
            ..DiskSpec::default()
        }
    }

    /// The disk is at the one's guest.
    async fn at_the_one() -> Self {
        let shared = Self::new().await;
        let spec = shared.spec(1);
        shared.one.controller.publish(|all| all.disks.push(spec));
        attach(&shared.one, "i-1", "d-data");
        until_at(&shared.one, "d-data", "i-1").await;
        assert!(shared.top().exists());
        shared
    }

    /// As the controller does when it gives the disk to the other, whatever has become of the one.
    fn give_to_two(&self) {
        let spec = self.spec(2);
        self.two.controller.publish(|all| all.disks.push(spec));
        attach(&self.two, "i-2", "d-data");
    }

    fn take_from_one(&self) {
        self.one.change("i-1", |i| i.disk_ids.retain(|id| id != "d-data"));
    }

    fn top(&self) -> PathBuf {
        self.dir.path().join("trees/d-data/disks/d-data.qcow2")
    }

    /// Every process of the one but its agent.
    fn processes_of_one(&self) -> Vec<i32> {
        let mut all = self.one.pids("i-1", "keep-vmm");
        all.extend(self.one.pids("i-1", "run"));
        all.extend(self.one.lease_keepers());
        assert_eq!(all.len(), 3, "a keeper, a VMM and a lease keeper");
        all
    }
}

async fn until_refused(host: &Host, said: &str) {
    host.until(said, |h| {
        disk(h, "d-data").filter(|d| d.code == "DiskLeaseHeld" && d.message.contains(said))
    })
    .await;
}

pub async fn a_disk_goes_to_another_hosts_guest_and_what_is_removed_is_said() {
    let shared = Shared::at_the_one().await;
    // The other wants it too early: it hears who has it, and its guest runs on without it.
    shared.give_to_two();
    until_refused(&shared.two, "has its lease").await;
    let waiting = disk(&shared.two, "d-data").unwrap();
    assert!(waiting.unseen && waiting.attached_instance_id.is_empty(), "{waiting:?}");

    shared.take_from_one();
    until_at(&shared.one, "d-data", "").await;
    let let_go = Instant::now();
    shared.one.controller.publish(|spec| spec.disks.retain(|d| d.disk_id != "d-data"));
    until_at(&shared.two, "d-data", "i-2").await;
    assert!(let_go.elapsed() < WAIT, "nobody is waited for that has let it go");
    shared.one.until("its report", |h| disk(h, "d-data").is_none().then_some(())).await;
    assert!(shared.top().exists(), "what is only missing in a spec stays");
    assert_eq!((shared.one.starts("i-1"), shared.two.starts("i-2")), (1, 1));

    shared.two.change("i-2", |i| i.disk_ids.retain(|id| id != "d-data"));
    until_at(&shared.two, "d-data", "").await;
    let removal = Removal {
        resource_id: "d-data".into(),
        pool_id: shared.pool_id.clone(),
        tree_id: "d-data".into(),
        home_epoch: 2,
        snapshot: false,
    };
    shared.two.controller.publish(|spec| {
        spec.disks.retain(|d| d.disk_id != "d-data");
        spec.removals.push(removal);
    });
    shared.two.until("its end", |h| disk(h, "d-data").is_none().then_some(())).await;
    assert!(!shared.top().exists());
    assert!(fs::read_dir(shared.dir.path().join("trees")).unwrap().next().is_none());
}

pub async fn a_disk_of_a_host_that_is_killed_is_taken_over_after_the_wait_and_not_before() {
    let mut shared = Shared::at_the_one().await;
    let all = shared.processes_of_one();
    let killed = Instant::now();
    shared.one.kill_agent();
    all.iter().for_each(|pid| shared.one.signal(*pid, Signal::KILL));
    shared.give_to_two();
    until_at(&shared.two, "d-data", "i-2").await;
    let took = killed.elapsed();
    assert!(took > HOLD && took < 3 * WAIT, "{took:?}");

    // It comes back with what it knew, and does not get the disk.
    shared.one.start_agent();
    until_refused(&shared.one, "has its lease").await;
    sleep(WAIT).await;
    assert!(disk(&shared.one, "d-data").unwrap().unseen);
    assert_eq!(disk(&shared.two, "d-data").unwrap().attached_instance_id, "i-2");
}

pub async fn a_host_that_stands_still_has_no_guest_with_the_disk_when_another_takes_it() {
    let shared = Shared::at_the_one().await;
    let all = shared.processes_of_one();
    let vmm = shared.one.vmm("i-1");
    let agent = shared.one.agent();
    let stopped = Instant::now();
    for pid in all.iter().chain([&agent]) {
        shared.one.signal(*pid, Signal::STOP);
    }
    shared.give_to_two();
    // The lease is the other's after the wait. Here both are on one kernel, which still has the lock
    // of a process that stands still: that keeps the other from the disk, too.
    let locked = |h: &Host| disk(h, "d-data").filter(|d| d.code == "DiskBusy");
    shared.two.until("the lease with the other", locked).await;
    assert!(stopped.elapsed() > HOLD);
    // All of it goes on: its VMM is ended before anything else is done with it.
    for pid in all.iter().rev().chain([&agent]) {
        shared.one.signal(*pid, Signal::CONT);
    }
    let gone = |h: &Host| (!h.pids("i-1", "run").contains(&vmm)).then_some(());
    shared.one.until("its VMM to be ended", gone).await;
    until_at(&shared.two, "d-data", "i-2").await;
    let told = |h: &Host| {
        h.seen(|s| {
            s.events.iter().find(|e| e.message.contains("the lease of disk d-data")).cloned()
        })
    };
    let event = shared.one.until("an event", told).await;
    assert_eq!(event.r#type, "SystemFailure.Reboot");
    until_refused(&shared.one, "has its lease").await;
    let status = shared.one.status("i-1").unwrap();
    assert!(status.code.starts_with("DiskLease"), "{status:?}");
}

pub async fn a_guest_ends_when_the_lease_cannot_be_renewed_and_starts_again_when_it_can() {
    let shared = Shared::at_the_one().await;
    let vmm = shared.one.vmm("i-1");
    let [keeper] = shared.one.lease_keepers()[..] else { panic!("one lease keeper") };
    // As when the directory does not answer.
    let stopped = Instant::now();
    shared.one.signal(keeper, Signal::STOP);
    let gone = |h: &Host| (!h.pids("i-1", "run").contains(&vmm)).then_some(());
    shared.one.until("its VMM to be ended", gone).await;
    let took = stopped.elapsed();
    assert!(took > HOLD / 4 && took < HOLD + Duration::from_millis(500), "{took:?}");
    let lost = |h: &Host| disk(h, "d-data").filter(|d| d.code == "DiskLeaseLost");
    shared.one.until("why", lost).await;
    shared.one.signal(keeper, Signal::CONT);
    // Nobody else wanted it.
    until_at(&shared.one, "d-data", "i-1").await;
    shared.one.until_running("i-1", 1).await;
    assert_eq!(shared.one.starts("i-1"), 2);
}

pub async fn a_shared_directory_that_does_not_answer_holds_up_nothing_else() {
    let mut shared = Shared::new().await;
    shared.one.kill_agent();
    // Whoever opens this waits, as for a server that is gone.
    let (marker, away) = (shared.dir.path().join("pool.json"), shared.dir.path().join("pool.away"));
    fs::rename(&marker, &away).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &marker, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    shared.one.start_agent();
    // Disks of other pools, instances, and what the controller says and hears.
    shared.one.run_instance("i-3");
    shared.one.until_running("i-3", 1).await;
    let spec = shared.spec(1);
    let revision = shared.one.controller.publish(|all| all.disks.push(spec));
    let unseen = |h: &Host| {
        let told = h.seen(|seen| seen.status.observed_revision >= revision);
        disk(h, "d-data").filter(|d| told && d.unseen)
    };
    shared.one.until("a report without the disk", unseen).await;
    // It answers again.
    fs::rename(&away, shared.dir.path().join("pool.json.back")).unwrap();
    let waiting = fs::OpenOptions::new().write(true).open(&marker).unwrap();
    fs::rename(shared.dir.path().join("pool.json.back"), &marker).unwrap();
    drop(waiting);
    until_at(&shared.one, "d-data", "").await;
}

pub async fn guests_with_a_lease_run_on_without_their_agent() {
    let mut shared = Shared::at_the_one().await;
    let vmm = shared.one.vmm("i-1");
    shared.one.kill_agent();
    shared.give_to_two();
    sleep(HOLD + WAIT).await;
    assert_eq!(shared.one.vmm("i-1"), vmm);
    until_refused(&shared.two, "has its lease").await;
    shared.one.start_agent();
    until_at(&shared.one, "d-data", "i-1").await;
    assert_eq!(shared.one.vmm("i-1"), vmm);
    // Its lease keeper is gone: another one is started, but has to wait like anybody else.
    let [keeper] = shared.one.lease_keepers()[..] else { panic!("one lease keeper") };
    shared.one.signal(keeper, Signal::KILL);
    let gone = |h: &Host| (!h.pids("i-1", "run").contains(&vmm)).then_some(());
    shared.one.until("its VMM to be ended", gone).await;
}
