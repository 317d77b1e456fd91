//! Hosts on one directory, each with its lease keeper in a thread.

use super::*;
use crate::disks::keys::none as keys;
use crate::{disks::held_bytes, lease::keeper};
use api::host::{DiskSpec, HostSpec, Removal, SnapshotSpec};
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A host's share of the test.
struct Member {
    layout: Layout,
    pools: Pools,
    events: EventLog,
    end: Arc<AtomicBool>,
    spec: HostSpec,
}

impl Member {
    fn new(dir: &Path, host_id: &str) -> Self {
        let layout = Layout::new(dir.join(host_id).join("s"), dir.join(host_id).join("r"));
        layout.create().unwrap();
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).unwrap();
        let option = format!("name=nfs,path={},shared,lease=2s,capacity=1GiB", shared.display());
        let option = PoolOption::parse(&option).unwrap();
        let pools = Pools::open_all(layout.clone(), host_id, &[option], keys()).unwrap();
        let events = EventLog::open(&layout.events()).unwrap();
        let (end, spec) = (Arc::default(), HostSpec::default());
        let member = Self { layout, pools, events, end, spec };
        member.start_keeper();
        member.pass();
        member
    }

    fn start_keeper(&self) {
        fs::create_dir_all(self.layout.leases()).unwrap();
        let (leases, vmm, end) = (self.layout.leases(), self.layout.vmm(), Arc::clone(&self.end));
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                keeper::serve(&leases, &vmm, &end).unwrap();
            }
        });
    }

    /// The host is gone.
    fn die(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    fn pass(&self) {
        self.pools.reconcile(&self.spec, |_| None).unwrap();
        self.pools.work_shared("nfs", &self.spec, |_| None, &self.events).unwrap();
    }

    fn status(&self, id: &str) -> Option<api::host::DiskStatus> {
        self.pools.report(Some(&self.spec)).into_iter().find(|status| status.disk_id == id)
    }

    fn is_ready(&self, id: &str) -> bool {
        self.pass();
        self.status(id).is_some_and(|status| status.state == "ready" && !status.unseen)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.die();
    }
}

fn until(what: &str, is: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "not seen: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

struct Fixture {
    dir: tempfile::TempDir,
    pool_id: String,
    one: Member,
    two: Member,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Member::new(dir.path(), "h-1"), Member::new(dir.path(), "h-2"));
        let id = |member: &Member| {
            let mut pools = member.pools.report_pools();
            pools.retain(|pool| pool.shared);
            pools.remove(0).pool_id
        };
        let pool_id = id(&one);
        assert_eq!(id(&two), pool_id);
        Self { dir, pool_id, one, two }
    }

    fn disk(&self, id: &str, tree: &str, home_epoch: u64) -> DiskSpec {
        DiskSpec {
            disk_id: id.to_owned(),
            generation: 1,
            size_gib: 1,
            pool_id: self.pool_id.clone(),
            tree_id: tree.to_owned(),
            home_epoch,
            ..DiskSpec::default()
        }
    }

    fn snapshot(&self, id: &str, disk: &str, home_epoch: u64) -> SnapshotSpec {
        SnapshotSpec {
            snapshot_id: id.to_owned(),
            disk_id: disk.to_owned(),
            disk_size_gib: 1,
            pool_id: self.pool_id.clone(),
            tree_id: disk.to_owned(),
            home_epoch,
        }
    }

    fn removal(&self, id: &str, snapshot: bool, home_epoch: u64) -> Removal {
        Removal {
            resource_id: id.to_owned(),
            pool_id: self.pool_id.clone(),
            tree_id: "d-1".to_owned(),
            home_epoch,
            snapshot,
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("shared/trees/d-1").join(below)
    }
}

#[test]
fn a_disk_goes_to_another_host_with_its_snapshots_and_what_was_made_from_them() {
    let mut f = Fixture::new();
    f.one.spec.disks = vec![f.disk("d-1", "d-1", 1)];
    f.one.spec.snapshots = vec![f.snapshot("s-1", "d-1", 1)];
    until("a disk", || f.one.is_ready("d-1"));
    let from = DiskSpec { source_snapshot_id: "s-1".to_owned(), ..f.disk("d-2", "d-1", 1) };
    f.one.spec.disks.push(from);
    until("a disk of its snapshot", || f.one.is_ready("d-2"));
    assert!(f.path("layers/s-1.qcow2").exists());
    assert_eq!(f.one.pools.open(&f.one.spec, "d-2", true).unwrap().layers.len(), 2);

    // The other is given it, while the first does not know yet.
    f.two.spec = f.one.spec.clone();
    for disk in &mut f.two.spec.disks {
        disk.home_epoch = 2;
    }
    f.two.spec.snapshots[0].home_epoch = 2;
    let refused = || {
        f.two.pass();
        f.two.status("d-1").is_some_and(|status| status.message.contains("host h-1 has its lease"))
    };
    until("who has it", refused);
    let status = f.two.status("d-1").unwrap();
    assert!(status.unseen && status.code == "DiskLeaseHeld", "{status:?}");
    assert_eq!(f.two.pools.open(&f.two.spec, "d-1", true).unwrap_err().code(), "DiskLeaseHeld");
    assert!(f.two.pools.report_snapshots(&f.two.spec).iter().all(|status| status.unseen));

    // A VMM of the first still has it: it stays until that has let it go.
    let old = std::mem::take(&mut f.one.spec);
    f.one.pools.register("i-1", "d-1").unwrap();
    f.one.pass();
    thread::sleep(Duration::from_millis(1500));
    f.two.pass();
    assert!(f.two.status("d-1").unwrap().unseen);
    f.one.pools.leases().settle("i-1", &[]).unwrap();
    // Nor is it let go under a step that uses it.
    let step = f.one.pools.available().find(|disks| disks.knows("d-1")).unwrap();
    f.one.pass();
    assert!(!f.one.pools.leases().wanted().unwrap().is_empty());
    drop(step);
    f.one.pass();
    assert_eq!(f.one.pools.report(Some(&f.one.spec)), []);
    assert!(f.path("disks/d-1.qcow2").exists(), "what a spec does not name stays");
    let took = until("the disk on the other", || f.two.is_ready("d-1") && f.two.is_ready("d-2"));
    assert!(took < Duration::from_secs(2), "nobody is waited for that has let go: {took:?}");
    assert_eq!(f.two.pools.open(&f.two.spec, "d-2", true).unwrap().layers.len(), 2);
    assert_eq!(f.two.pools.report_snapshots(&f.two.spec)[0].state, "accomplished");

    // One that has heard nothing of it since does not get it back, though nobody has it now.
    let new = std::mem::take(&mut f.two.spec);
    f.two.pass();
    f.one.spec = old;
    let refused = || {
        f.one.pass();
        f.one.status("d-1").is_some_and(|s| s.message.contains("given to another host since"))
    };
    until("an old home is refused", refused);
    f.one.pass();
    assert!(f.one.pools.leases().wanted().unwrap().is_empty(), "nor does it ask again");
    f.one.spec = HostSpec::default();
    f.one.pass();
    f.two.spec = new;
    until("the disk on its home", || f.two.is_ready("d-1"));
}

#[test]
fn what_goes_is_said_and_the_directory_goes_with_the_last() {
    let mut f = Fixture::new();
    f.one.spec.disks = vec![f.disk("d-1", "d-1", 1)];
    f.one.spec.snapshots = vec![f.snapshot("s-1", "d-1", 1), f.snapshot("s-2", "d-1", 1)];
    until("a disk", || f.one.is_ready("d-1"));
    assert!(f.path("layers/s-2.qcow2").exists());
    // The snapshot below stays as a layer, until the two have become one.
    f.one.spec.snapshots.remove(0);
    f.one.spec.removals = vec![f.removal("s-1", true, 1)];
    let told = f.one.pools.report_snapshots(&f.one.spec);
    assert!(told.iter().any(|status| status.snapshot_id == "s-1"), "not yet: {told:?}");
    f.one.pass();
    assert_eq!(f.one.pools.report_snapshots(&f.one.spec).len(), 1);
    assert!(f.path("layers/s-1.qcow2").exists());
    // The controller names it no more.
    f.one.spec.removals.clear();
    f.one.pass();
    until("the merge", || f.one.pools.merge_next(&f.one.spec, || None).unwrap());
    assert!(!f.path("layers/s-1.qcow2").exists() && f.path("layers/s-2.qcow2").exists());

    let spec = std::mem::take(&mut f.one.spec);
    f.one.spec.removals = vec![f.removal("d-1", false, 1)];
    f.one.spec.snapshots = spec.snapshots;
    until("the disk to go", || {
        f.one.pass();
        f.one.status("d-1").is_none()
    });
    assert!(!f.path("disks/d-1.qcow2").exists() && f.path("layers/s-2.qcow2").exists());
    // The rest goes by another host.
    f.one.spec = HostSpec::default();
    f.one.pass();
    f.two.spec.removals = vec![f.removal("s-2", true, 2), f.removal("d-1", false, 2)];
    assert!(f.two.status("d-1").is_some(), "what was not looked at may be there");
    until("all to go", || {
        f.two.pass();
        f.two.pools.report(Some(&f.two.spec)).is_empty()
            && f.two.pools.report_snapshots(&f.two.spec).is_empty()
    });
    assert!(!f.path("").exists());
    until("the lease to go", || f.two.pools.leases().wanted().unwrap().is_empty());
    // Asked again, it is done already.
    f.one.spec = f.two.spec.clone();
    f.one.pass();
    assert_eq!(f.one.pools.report(Some(&f.one.spec)), []);
}

#[test]
fn a_disk_of_a_host_that_is_gone_is_taken_after_the_wait_and_put_in_order() {
    let mut f = Fixture::new();
    f.one.spec.disks = vec![f.disk("d-1", "d-1", 1)];
    until("a disk", || f.one.is_ready("d-1"));
    let top = f.path("disks/d-1.qcow2");
    // A crash left a cluster that nothing points to, or so the count of it says.
    let leak = |path: &Path| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let end = file.metadata().unwrap().len().next_multiple_of(65536);
        file.set_len(end + 65536).unwrap();
        let table = qcow2::probe(&file).unwrap();
        assert!(table.virtual_size > 0);
        let refcounts = {
            use std::os::unix::fs::FileExt as _;
            let mut offset = [0; 8];
            file.read_exact_at(&mut offset, 48).unwrap();
            let table = u64::from_be_bytes(offset);
            file.read_exact_at(&mut offset, table).unwrap();
            let block = u64::from_be_bytes(offset);
            file.write_all_at(&[0, 1], block + end / 65536 * 2).unwrap();
            block
        };
        assert!(refcounts > 0);
        assert_eq!(qcow2::check(&file).unwrap().leaks, 1);
    };
    leak(&top);
    f.one.die();
    f.two.spec.disks = vec![f.disk("d-1", "d-1", 2)];
    let took = until("the disk on the other", || f.two.is_ready("d-1"));
    // Nobody may be sooner than 5/4 x (2 s + 0.4 s) after the last sign of the first.
    assert!(took > Duration::from_secs(3), "{took:?}");
    assert_eq!(qcow2::check(&fs::File::open(&top).unwrap()).unwrap().leaks, 0);
    assert!(held_bytes(&top) > 0);
    // The first comes back with what it knew: its lease is over.
    assert_eq!(f.one.pools.open(&f.one.spec, "d-1", true).unwrap_err().code(), "DiskLeaseLost");
    assert_eq!(f.one.pools.mend("d-1").unwrap_err().code(), "DiskLeaseLost");
    assert!(f.one.status("d-1").unwrap().unseen);
}

#[test]
fn a_shared_pool_that_is_not_mounted_removes_and_makes_nothing() {
    let mut f = Fixture::new();
    let (shared, away) = (f.dir.path().join("shared"), f.dir.path().join("away"));
    fs::rename(&shared, &away).unwrap();
    fs::create_dir(&shared).unwrap();
    f.one.spec.disks = vec![f.disk("d-2", "d-2", 1)];
    f.one.spec.removals = vec![f.removal("d-1", false, 1)];
    f.one.pass();
    for id in ["d-1", "d-2"] {
        let status = f.one.status(id).unwrap();
        assert_eq!((status.code.as_str(), status.unseen), ("StoragePoolUnavailable", true));
    }
    assert!(fs::read_dir(&shared).unwrap().next().is_none());
}
