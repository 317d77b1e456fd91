use super::*;
use crate::disks::keys::none as keys;
use api::host::{DiskSpec, HostSpec, SnapshotSpec};
use std::fs;

struct Fixture {
    dir: tempfile::TempDir,
    layout: Layout,
    events: EventLog,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        layout.create().unwrap();
        fs::create_dir(dir.path().join("fast")).unwrap();
        let events = EventLog::open(&layout.events()).unwrap();
        Self { dir, layout, events }
    }

    fn option(&self, more: &str) -> PoolOption {
        let path = self.dir.path().join("fast");
        PoolOption::parse(&format!("name=fast,path={},capacity=1GiB{more}", path.display()))
            .unwrap()
    }

    fn open(&self, more: &str) -> Pools {
        Pools::open_all(self.layout.clone(), "h-1", &[self.option(more)], keys()).unwrap()
    }

    fn told(&self) -> Vec<String> {
        self.events.pending().into_iter().map(|event| event.r#type).collect()
    }

    fn fast(&self, below: &str) -> PathBuf {
        self.dir.path().join("fast").join(below)
    }
}

fn id_of(pools: &Pools, name: &str) -> String {
    let all = pools.report_pools();
    all.into_iter().find(|pool| pool.name == name).unwrap().pool_id
}

fn disk(id: &str, pool_id: &str) -> DiskSpec {
    DiskSpec {
        disk_id: id.to_owned(),
        generation: 1,
        size_gib: 1,
        pool_id: pool_id.to_owned(),
        ..DiskSpec::default()
    }
}

fn reconcile(pools: &Pools, spec: &HostSpec) {
    pools.reconcile(spec, |_| None).unwrap();
}

#[test]
fn disks_and_snapshots_lie_in_their_pools() {
    let f = Fixture::new();
    let pools = f.open("");
    let fast = id_of(&pools, "fast");
    assert_eq!(id_of(&pools, "default"), "pool-h-1");
    let mut spec = HostSpec {
        disks: vec![disk("d-1", ""), disk("d-2", &fast), disk("d-3", "pool-h-1")],
        snapshots: vec![SnapshotSpec {
            snapshot_id: "s-2".to_owned(),
            disk_id: "d-2".to_owned(),
            disk_size_gib: 1,
            pool_id: fast.clone(),
            ..SnapshotSpec::default()
        }],
        ..HostSpec::default()
    };
    spec.disks.push(DiskSpec { source_snapshot_id: "s-2".to_owned(), ..disk("d-4", &fast) });
    reconcile(&pools, &spec);
    reconcile(&pools, &spec);
    assert_eq!(pools.directory_of("d-2"), Some(f.fast("disks")), "people are told where to look");
    assert_eq!(pools.directory_of("d-1"), Some(f.layout.disks()));
    assert_eq!(pools.directory_of("d-9"), None);
    for path in ["disks/d-2.qcow2", "disks/d-4.qcow2", "layers/s-2.qcow2", "layers.json"] {
        assert!(f.fast(path).exists(), "{path}");
    }
    for id in ["d-1", "d-3"] {
        assert!(f.layout.disk(id).exists() && !f.fast(&format!("disks/{id}.qcow2")).exists());
    }
    assert!(!f.layout.disk("d-2").exists());
    let states: Vec<String> = pools.report(Some(&spec)).into_iter().map(|d| d.state).collect();
    assert_eq!(states, ["ready"; 4]);
    assert_eq!(pools.report_snapshots(&spec).len(), 1);
    assert_eq!(pools.open(&spec, "d-4", true).unwrap().layers.len(), 2);
    assert_eq!(pools.files().unwrap().len(), 5);
    spec.disks.retain(|disk| disk.disk_id != "d-2" && disk.disk_id != "d-1");
    reconcile(&pools, &spec);
    assert!(!f.fast("disks/d-2.qcow2").exists() && f.fast("layers/s-2.qcow2").exists());
    assert!(!f.layout.disk("d-1").exists() && f.layout.disk("d-3").exists());
    // Another agent on the same directories finds them again.
    let again = f.open("");
    assert_eq!(id_of(&again, "fast"), fast);
    assert!(again.chain_epoch("d-4").is_some());
}

#[test]
fn a_pool_that_is_not_mounted_gives_no_empty_disks() {
    let f = Fixture::new();
    let pools = f.open("");
    let fast = id_of(&pools, "fast");
    let spec = HostSpec { disks: vec![disk("d-2", &fast)], ..HostSpec::default() };
    reconcile(&pools, &spec);
    fs::write(f.fast("mark"), "").unwrap();
    let away = f.dir.path().join("away");
    fs::rename(f.dir.path().join("fast"), &away).unwrap();
    fs::create_dir(f.dir.path().join("fast")).unwrap();
    let look = |pools: &Pools| {
        pools.refresh(&f.events).unwrap();
        reconcile(pools, &spec);
        let pool = pools.report_pools().into_iter().find(|pool| pool.name == "fast").unwrap();
        let status = pools.report(Some(&spec)).remove(0);
        (pool.state(), status.state, status.code)
    };
    let gone =
        (StoragePoolState::Unavailable, "failed".to_owned(), "StoragePoolUnavailable".to_owned());
    assert_eq!(look(&pools), gone);
    assert_eq!(pools.open(&spec, "d-2", true).unwrap_err().code(), "StoragePoolUnavailable");
    assert_eq!(pools.images(), None, "nobody knows what it lies on");
    // Nor does an agent that is started meanwhile make one, or forget the pool.
    let started = f.open("");
    assert_eq!(look(&started), gone);
    assert_eq!(id_of(&started, "fast"), fast);
    assert!(!f.fast("disks").exists());
    assert_eq!(f.told(), ["StoragePool.Unavailable"]);
    fs::remove_dir_all(f.dir.path().join("fast")).unwrap();
    fs::rename(&away, f.dir.path().join("fast")).unwrap();
    let back = (StoragePoolState::Ready, "ready".to_owned(), String::new());
    assert_eq!(look(&pools), back);
    assert_eq!(look(&started), back);
    assert!(pools.open(&spec, "d-2", true).is_ok());
}

#[test]
fn a_pool_below_its_reserve_says_so_once() {
    let f = Fixture::new();
    let pools = f.open(",reserve=100MiB,overcommit=2");
    assert!(!pools.refresh(&f.events).unwrap());
    let shown = |pools: &Pools| pools.report_pools().remove(1);
    assert_eq!(shown(&pools).state(), StoragePoolState::Ready);
    assert_eq!((shown(&pools).overcommit, shown(&pools).reserve_bytes), (2.0, 100 << 20));
    // The rest of it, without writing it.
    let ballast = f.fast("disks/ballast");
    let hold = |bytes: u64| {
        let file = fs::File::create(&ballast).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    };
    hold(930 << 20);
    assert!(pools.refresh(&f.events).unwrap());
    let low = shown(&pools);
    assert_eq!(low.state(), StoragePoolState::Low);
    assert!(low.message.contains("takes no new disks"), "{}", low.message);
    assert!(!pools.refresh(&f.events).unwrap());
    let again = f.open(",reserve=100MiB");
    assert!(!again.refresh(&f.events).unwrap(), "it is known to be low");
    hold(920 << 20);
    assert!(!pools.refresh(&f.events).unwrap(), "a little more is not enough");
    hold(500 << 20);
    assert!(pools.refresh(&f.events).unwrap());
    assert_eq!(f.told(), ["StoragePool.Low", "StoragePool.Ready"]);
}

#[test]
fn pools_that_would_offer_the_same_room_twice_are_refused() {
    let f = Fixture::new();
    let whole = PoolOption { capacity: None, ..f.option("") };
    let twice =
        Pools::open_all(f.layout.clone(), "h-1", std::slice::from_ref(&whole), keys()).unwrap_err();
    assert!(twice.to_string().contains("capacity="), "{twice}");
    let same = [f.option(""), PoolOption { name: "other".to_owned(), ..whole }];
    let twice = Pools::open_all(f.layout.clone(), "h-1", &same, keys()).unwrap_err();
    assert!(twice.to_string().contains("of their own"), "{twice}");
}
