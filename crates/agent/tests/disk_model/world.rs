//! One host, its one instance, and what the model knows of them.

use crate::{
    content::{Content, Disk, SECTOR, pattern},
    faults::{Fault, Faults, Pool},
    guest::UnderWay,
};
use agent::{
    cgroups::Cgroups,
    controller_link::{self, JoinToken},
    disks::{Keys, in_pipe},
    events::EventLog,
    host::{Board, Host, Settings},
    images::Images,
    instances::{
        owner::Wish,
        plugging::Plugging,
        record::{Phase, Record},
        slots::UidSlots,
    },
    interfaces::Interfaces,
    layout::Layout,
    networks::Networks,
    pools::Pools,
    vmm_client::VmmClient,
};
use api::{
    host::{
        DiskEncryption, DiskSpec, DiskStatus, HostSpec, ImageSpec, InstanceSpec, SnapshotSpec,
        SnapshotStatus,
    },
    vmm::{Disk as VmmDisk, DiskLayer, FileRef, VmConfig, file_ref::Source},
};
use kms::{KeyFolder, KeyManagement as _, WrappedKey};
use rand::{SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs::File,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{Notify, Semaphore, watch},
};
use vmm::testing::Machine;

pub const INSTANCE: &str = "i-1";
pub const SYSTEM: &str = "d-system";
pub const IMAGE: &str = "m-1";
pub const GIB: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Snapshot {
    pub disk_id: String,
    pub size_gib: u64,
    /// Absent until it is taken.
    pub content: Option<Content>,
}

const CGROUP: &str = "ecs-disk-model";

/// Of all disks of the one world that there is.
static ENCRYPTION: Mutex<Option<DiskEncryption>> = Mutex::new(None);

/// Faults are of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct World {
    pub random: StdRng,
    pub runtime: Runtime,
    pub pool: Pool,
    pub faults: Arc<Faults>,
    pub outside: TempDir,
    pub layout: Layout,
    pub host: Option<Arc<Host>>,
    plugging: Option<Plugging>,
    record: Record,
    pub machine: Option<Machine>,
    pub spec: HostSpec,
    pub disks: BTreeMap<String, Disk>,
    pub snapshots: BTreeMap<String, Snapshot>,
    /// What a snapshot holds that a VMM took and the agent has not told of yet.
    frozen: BTreeMap<String, Content>,
    pub under_way: BTreeMap<String, Vec<UnderWay>>,
    /// The chain each disk of the VMM was seen on last.
    chains: BTreeMap<String, u64>,
    pub next: u64,
    pub trace: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, false)
    }

    /// One all of whose disks are encrypted, or none.
    pub fn with(seed: u64, encrypted: bool) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = Pool::new();
        let outside = tempfile::Builder::new().prefix("ecs-model-").tempdir().unwrap();
        let layout = Layout::new(pool.path().join("state"), outside.path().join("run"));
        std::fs::create_dir_all(layout.state()).unwrap();
        layout.create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            runtime,
            pool,
            faults: Faults::install(),
            outside,
            layout,
            host: None,
            plugging: None,
            record: Record::new(INSTANCE, 0),
            machine: None,
            spec: HostSpec { revision: 1, ..HostSpec::default() },
            disks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            frozen: BTreeMap::new(),
            under_way: BTreeMap::new(),
            chains: BTreeMap::new(),
            next: 1,
            trace: Vec::new(),
            _alone: alone,
        };
        let folder = world.outside.path().join("kms");
        std::fs::create_dir(&folder).unwrap();
        let mut file = File::options();
        let file = file.write(true).create_new(true).mode(0o600);
        let mut file = file.open(folder.join("k.key")).unwrap();
        std::io::Write::write_all(&mut file, &b"1f".repeat(32)).unwrap();
        let key = encrypted.then(|| KeyFolder::new(folder).generate_data_key("k").unwrap());
        *ENCRYPTION.lock().unwrap_or_else(PoisonError::into_inner) =
            key.map(|key| DiskEncryption { kms_key_id: key.key_id, wrapped_key: key.wrapped });
        let image = world.make_image();
        world.spec.instances.push(InstanceSpec {
            instance_id: INSTANCE.into(),
            disk_ids: vec![SYSTEM.into()],
            ..InstanceSpec::default()
        });
        world.spec.disks.push(DiskSpec { image_id: IMAGE.into(), ..disk_spec(SYSTEM) });
        world.disks.insert(SYSTEM.into(), Disk::of(image));
        world.start_agent();
        world
    }

    fn make_image(&mut self) -> Content {
        const SECTORS: u64 = 400;
        let write = self.number();
        let file = File::create(self.layout.image(IMAGE)).unwrap();
        for sector in 0..SECTORS {
            file.write_all_at(&pattern(write, sector), sector * SECTOR).unwrap();
        }
        self.spec.images.push(ImageSpec {
            image_id: IMAGE.into(),
            format: "raw".into(),
            virtual_bytes: SECTORS * SECTOR,
            ..ImageSpec::default()
        });
        let mut content = Content::default();
        content.set(0..SECTORS, write);
        content
    }

    /// The key of encrypted disks.
    pub fn passphrase(&self) -> Option<String> {
        let encryption = disk_spec("").encryption?;
        let key = WrappedKey { key_id: encryption.kms_key_id, wrapped: encryption.wrapped_key };
        let folder = KeyFolder::new(self.outside.path().join("kms"));
        let text = folder.unwrap_data_key(&key).unwrap().passphrase().to_vec();
        Some(String::from_utf8(text).unwrap())
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.trace.push(what.into());
    }

    pub fn host(&self) -> &Arc<Host> {
        self.host.as_ref().unwrap()
    }

    // The agent.

    pub fn start_agent(&mut self) {
        self.plugging = None;
        self.host = None;
        let layout = self.layout.clone();
        let state = layout.state().to_owned();
        let settings = Settings {
            vmm_bin: "/none".into(),
            bootimage_bin: "/none".into(),
            keeper_bin: "/none".into(),
            jail_uid_base: 2_000_000,
            boot_id: "boot".into(),
        };
        let network_options = network::Options {
            namespace_dir: self.outside.path().join("netns"),
            ..network::Options::default()
        };
        let keys = Keys::new(Arc::new(KeyFolder::new(self.outside.path().join("kms"))));
        let host = self.runtime.block_on(async {
            let client =
                controller_link::client("http://127.0.0.1:9", JoinToken::new("t").unwrap());
            Host {
                settings,
                images: Images::new(layout.clone(), client.unwrap(), Arc::new(Notify::new())),
                disks: Pools::open_all(layout.clone(), "h-model", &[], keys).unwrap(),
                networks: Networks::open(&layout, "h-model", network_options).await.unwrap(),
                interfaces: Interfaces::default(),
                cgroups: Cgroups::open(Path::new(CGROUP)).unwrap(),
                events: EventLog::open(&layout.events()).unwrap(),
                slots: UidSlots::load(&layout, 2_000_000).unwrap(),
                boot_finders: Semaphore::new(1),
                board: Board::default(),
                spec: watch::Sender::new(Some(Arc::new(self.spec.clone()))),
                applied: watch::Sender::default(),
                layout,
            }
        });
        assert!(state.exists());
        let host = Arc::new(host);
        if let Some(record) = Record::load(&self.layout, INSTANCE).unwrap() {
            self.record = record;
        }
        let client = VmmClient::new(INSTANCE, &self.layout.control_socket(INSTANCE));
        let plugging = Plugging::new(Arc::clone(&host), INSTANCE, client);
        if self.machine.is_some() {
            plugging.presume(&self.record);
        }
        self.host = Some(host);
        self.plugging = Some(plugging);
    }

    pub fn publish(&mut self) {
        self.spec.revision += 1;
        self.host().spec.send_replace(Some(Arc::new(self.spec.clone())));
    }

    /// The agent looks at everything once. `patience` cuts it off in the middle of asking the VMM.
    pub fn look(&mut self, patience: Option<Duration>) {
        let host = Arc::clone(self.host());
        let reconciled = host.disks.reconcile(&self.spec, |_| None);
        if let Err(error) = reconciled {
            self.note(format!("pass: {error}"));
        }
        let to_take = self.to_take();
        let mut cut = false;
        if self.machine.is_some() {
            let wanted = Wish { disks: self.wanted().into(), ..Wish::default() };
            let plugging = self.plugging.as_mut().unwrap();
            let tending = plugging.tend(&wanted, &mut self.record);
            let tended = self.runtime.block_on(async {
                match patience {
                    Some(patience) => tokio::time::timeout(patience, tending).await.ok(),
                    None => Some(tending.await),
                }
            });
            match tended {
                Some(Ok(_)) => {}
                Some(Err(error)) => self.note(format!("tend: {error}")),
                None => cut = true,
            }
        }
        if cut {
            self.note("agent cut off while it asked the VMM");
            for id in to_take.keys() {
                let disk = self.disks.get_mut(id).unwrap();
                disk.at_any_moment.get_or_insert_with(|| disk.now.clone());
            }
        }
        self.observe(&to_take);
        self.guest_settles();
    }

    pub fn wanted(&self) -> Vec<DiskSpec> {
        let find = |id: &String| self.spec.disks.iter().find(|d| d.disk_id == *id).cloned();
        self.spec.instances[0].disk_ids.iter().filter_map(find).collect()
    }

    fn to_take(&self) -> BTreeMap<String, String> {
        let take = |d: &DiskSpec| {
            let snapshot = self.host().disks.snapshot_to_take(&self.spec, &d.disk_id)?;
            Some((d.disk_id.clone(), snapshot))
        };
        self.spec.disks.iter().filter_map(take).collect()
    }

    /// What follows for the model from what there is now.
    fn observe(&mut self, to_take: &BTreeMap<String, String>) {
        let list = self.machine.as_ref().map(Machine::disks).unwrap_or_default();
        for disk in &list {
            let seen = self.chains.insert(disk.disk_id.clone(), disk.chain_epoch);
            if seen.is_some_and(|seen| seen != disk.chain_epoch)
                && let Some(snapshot) = to_take.get(&disk.disk_id)
                && !self.frozen.contains_key(snapshot)
            {
                let content = self.disks.get_mut(&disk.disk_id).unwrap().freeze();
                self.frozen.insert(snapshot.clone(), content);
            }
        }
        self.chains.retain(|id, _| list.iter().any(|d| d.disk_id == *id));
        for status in self.snapshot_statuses() {
            let id = &status.snapshot_id;
            if status.state == "failed" {
                self.spec.snapshots.retain(|s| s.snapshot_id != *id);
                self.snapshots.remove(id);
                continue;
            }
            let snapshot = self.snapshots.get_mut(id).unwrap();
            if status.state != "accomplished" || snapshot.content.is_some() {
                continue;
            }
            let disk = self.disks.get_mut(&snapshot.disk_id);
            let taken = self.frozen.remove(id).or_else(|| disk.map(Disk::freeze));
            snapshot.content = Some(taken.unwrap());
        }
        for status in self.host().disks.report(Some(&self.spec)) {
            let Some(spec) = self.spec.disks.iter().find(|d| d.disk_id == status.disk_id) else {
                continue;
            };
            let reset = self.disks[&status.disk_id].reset.clone();
            if let Some((epoch, snapshot)) = reset
                && status.content_epoch >= epoch
            {
                let mut content = self.snapshots[&snapshot].content.clone().unwrap();
                content.cut(spec.size_gib * GIB);
                self.disks.insert(status.disk_id.clone(), Disk::of(content));
            }
        }
    }

    /// Nobody has the disk or is to have it.
    pub fn is_alone(&self, id: &str) -> bool {
        let has = self.machine.iter().flat_map(Machine::disks).any(|d| d.disk_id == *id);
        !has && !self.spec.instances[0].disk_ids.iter().any(|d| d == id)
    }

    /// Disks that exist and are alone.
    pub fn alone(&self) -> Vec<String> {
        self.disks.keys().filter(|id| self.is_alone(id)).cloned().collect()
    }

    pub fn statuses(&self) -> Vec<DiskStatus> {
        self.host().disks.report(Some(&self.spec))
    }

    pub fn status(&self, id: &str) -> Option<DiskStatus> {
        self.statuses().into_iter().find(|d| d.disk_id == id)
    }

    pub fn snapshot_statuses(&self) -> Vec<SnapshotStatus> {
        self.host().disks.report_snapshots(&self.spec)
    }

    pub fn merge(&mut self) {
        match self.host().disks.merge_next(&self.spec, || None) {
            Ok(_) => {}
            Err(error) => self.note(format!("merge: {error}")),
        }
    }

    // The VMM.

    /// Starts the VMM if all its disks are there.
    pub fn start_machine(&mut self) -> bool {
        if self.machine.is_some() {
            return true;
        }
        let host = Arc::clone(self.host());
        let ids = self.spec.instances[0].disk_ids.clone();
        let mut files = Vec::new();
        let mut config = VmConfig { instance_id: INSTANCE.into(), ..VmConfig::default() };
        for (number, id) in ids.iter().enumerate() {
            let chain = match host.disks.open(&self.spec, id, true) {
                Ok(chain) => chain,
                Err(error) => {
                    self.note(format!("not started: {error}"));
                    assert!(error.to_string().contains(id.as_str()) || self.is_faulty(), "{error}");
                    return false;
                }
            };
            let mut disk = VmmDisk {
                disk_id: id.clone(),
                slot: number as u32 + 1,
                chain_epoch: chain.chain_epoch,
                queues: 1,
                ..VmmDisk::default()
            };
            for layer in chain.layers {
                let source = Some(Source::Fd(layer.file.as_raw_fd()));
                let file = Some(FileRef { source });
                disk.layers.push(DiskLayer { file, format: layer.format.into() });
                files.push(layer.file);
            }
            if let Some(key) = &chain.key {
                let pipe = in_pipe(key).unwrap();
                disk.key = Some(FileRef { source: Some(Source::Fd(pipe.as_raw_fd())) });
                files.push(pipe);
            }
            config.disks.push(disk);
        }
        self.record.disks = ids.clone();
        self.record.phase = Phase::Running;
        if let Err(error) = self.record.save(&self.layout) {
            self.note(format!("not started: {error}"));
            return false;
        }
        let socket = self.layout.control_socket(INSTANCE);
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        match Machine::start(&config, &socket) {
            Ok(machine) => self.machine = Some(machine),
            Err(error) => {
                self.note(format!("VMM refused to start: {error}"));
                assert!(self.is_faulty(), "{error}");
                return false;
            }
        }
        self.plugging.as_ref().unwrap().presume(&self.record);
        drop(files);
        for disk in config.disks {
            self.chains.insert(disk.disk_id, disk.chain_epoch);
        }
        true
    }

    pub fn is_faulty(&self) -> bool {
        self.faults.failed.load(std::sync::atomic::Ordering::Relaxed) > 0
            || self.pool.path().join("ballast").exists()
    }

    /// kill -9, and what the agent's owner of the instance does then.
    pub fn kill_machine(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        let seen: Vec<String> = machine.disks().into_iter().map(|d| d.disk_id).collect();
        self.faults.set(Fault::Dead);
        machine.kill();
        self.faults.set(Fault::None);
        self.under_way.clear();
        for id in &seen {
            if let Some(disk) = self.disks.get_mut(id) {
                disk.killed();
            }
        }
        self.after_machine(&seen);
    }

    /// The VMM is told to end.
    pub fn stop_machine(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        let seen: Vec<String> = machine.disks().into_iter().map(|d| d.disk_id).collect();
        let ended = machine.terminate();
        self.under_way.clear();
        for id in &seen {
            if let Some(disk) = self.disks.get_mut(id) {
                match ended {
                    Ok(()) => disk.left = disk.now.clone(),
                    Err(_) => disk.killed(),
                }
            }
        }
        if let Err(error) = ended {
            assert!(self.is_faulty(), "a flush failed: {error}");
            self.note(format!("ended: {error}"));
        }
        self.after_machine(&seen);
    }

    fn after_machine(&mut self, had: &[String]) {
        self.observe(&self.to_take());
        self.plugging.as_mut().unwrap().forget();
        for id in had {
            match self.host().disks.mend(id) {
                Ok(_) => {}
                Err(error) => {
                    assert!(!error.is_permanent() && self.is_faulty(), "{id}: {error}");
                    self.note(format!("mend: {error}"));
                }
            }
        }
    }

    fn guest_settles(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        let busy = &self.under_way;
        let idle = |id: &str| busy.get(id).is_none_or(Vec::is_empty);
        let gone = machine.settle(idle);
        if gone.is_empty() {
            return;
        }
        let start = Instant::now();
        while machine.disks().iter().any(|d| gone.contains(&d.disk_id)) {
            assert!(start.elapsed() < PATIENCE, "{gone:?} are not closed");
            std::thread::sleep(Duration::from_millis(1));
        }
        let faulty = self.is_faulty();
        for id in gone {
            let Some(disk) = self.disks.get_mut(&id) else { continue };
            // What could not be flushed as it was closed is as after a kill.
            if faulty { disk.killed() } else { disk.left = disk.now.clone() }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let _ = std::fs::remove_dir(Path::new(mount).join(CGROUP));
        }
        if std::thread::panicking() {
            eprintln!("since all was well last:\n{}", self.trace.join("\n"));
        }
    }
}

pub fn disk_spec(id: &str) -> DiskSpec {
    let encryption = ENCRYPTION.lock().unwrap_or_else(PoisonError::into_inner).clone();
    DiskSpec { disk_id: id.into(), generation: 1, size_gib: 1, encryption, ..DiskSpec::default() }
}

pub fn snapshot_spec(id: &str, disk_id: &str) -> SnapshotSpec {
    SnapshotSpec {
        snapshot_id: id.into(),
        disk_id: disk_id.into(),
        disk_size_gib: 1,
        ..SnapshotSpec::default()
    }
}
