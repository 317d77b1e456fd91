//! One host, its one instance, and what the model knows of them.

use crate::{
    content::{Content, Disk, SECTOR, pattern, writer},
    faults::{Fault, Faults, Pool},
};
use agent::{
    cgroups::Cgroups,
    controller_link::{self, JoinToken},
    disks::Disks,
    events::EventLog,
    host::{Board, Host, Settings},
    images::Images,
    instances::{
        plugging::Plugging,
        record::{Phase, Record},
        slots::UidSlots,
    },
    layout::Layout,
    networks::Networks,
    vmm_client::VmmClient,
};
use api::{
    host::{DiskSpec, DiskStatus, HostSpec, ImageSpec, InstanceSpec, SnapshotSpec, SnapshotStatus},
    vmm::{Disk as VmmDisk, DiskLayer, FileRef, VmConfig, file_ref::Source},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{Notify, Semaphore, watch},
};
use vmm::testing::{Ask, Machine};

pub const INSTANCE: &str = "i-1";
pub const SYSTEM: &str = "d-system";
pub const IMAGE: &str = "m-1";
pub const GIB: u64 = 1 << 30;
/// Where guests read and write; the last of each GiB is at its end.
const ZONES: [u64; 5] = [0, 64 << 10, 1 << 20, 300 << 20, GIB - ZONE];
pub const ZONE: u64 = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A request of the guest without an answer.
pub struct UnderWay {
    number: usize,
    ask: Ask,
    sectors: std::ops::Range<u64>,
    write: u64,
    /// What the disk held when a flush began.
    then: Content,
}

pub struct Snapshot {
    pub disk_id: String,
    pub size_gib: u64,
    /// Absent until it is taken.
    pub content: Option<Content>,
}

/// Faults are of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct World {
    pub random: StdRng,
    pub runtime: Runtime,
    pub pool: Pool,
    pub faults: Arc<Faults>,
    outside: TempDir,
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
    under_way: BTreeMap<String, Vec<UnderWay>>,
    /// The chain each disk of the VMM was seen on last.
    chains: BTreeMap<String, u64>,
    pub next: u64,
    pub trace: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    pub fn new(seed: u64) -> Self {
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
        let netns = self.outside.path().join("netns");
        let host = self.runtime.block_on(async {
            let client =
                controller_link::client("http://127.0.0.1:9", JoinToken::new("t").unwrap());
            Host {
                settings,
                images: Images::new(layout.clone(), client.unwrap(), Arc::new(Notify::new())),
                disks: Disks::open_all(layout.clone()).unwrap(),
                networks: Networks::open(&layout, &netns).await.unwrap(),
                cgroups: Cgroups::open(Path::new("ecs-disk-model")).unwrap(),
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
            plugging.presume(&self.record.disks);
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
            let wanted: Vec<DiskSpec> = self.wanted();
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
        self.plugging.as_ref().unwrap().presume(&ids);
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

    // The guest.

    /// Disks the guest can use, with their sizes.
    pub fn usable(&self) -> Vec<(String, u64)> {
        let Some(machine) = &self.machine else { return Vec::new() };
        let disks =
            machine.disks().into_iter().filter(|d| !d.detaching && machine.drives(&d.disk_id));
        disks.map(|d| (d.disk_id, d.size_bytes)).collect()
    }

    pub fn place(&mut self, size: u64) -> (u64, usize) {
        let gib = self.random.random_range(0..size / GIB);
        let zone = ZONES[self.random.random_range(0..ZONES.len())] + gib * GIB;
        let at = self.random.random_range(0..ZONE / SECTOR) * SECTOR;
        let most = (ZONE - at).min(vmm::testing::DATA as u64) / SECTOR;
        let sectors = self.random.random_range(1..=most);
        (zone + at, (sectors * SECTOR) as usize)
    }

    fn is_free(&self, id: &str, sectors: &std::ops::Range<u64>) -> bool {
        let all = self.under_way.get(id).into_iter().flatten();
        all.into_iter().all(|u| u.sectors.end <= sectors.start || sectors.end <= u.sectors.start)
    }

    /// One request; false if it overlaps one under way, or there are too many.
    pub fn ask(&mut self, id: &str, offset: u64, len: usize, kind: u32) -> bool {
        let sectors = offset / SECTOR..(offset + len as u64) / SECTOR;
        if !self.is_free(id, &sectors) {
            return false;
        }
        let write = if kind == 1 { self.number() } else { 0 };
        let ask = match kind {
            0 => Ask::Read(len),
            1 => Ask::Write(sectors.clone().flat_map(|s| pattern(write, s)).collect()),
            2 => Ask::WriteZeroes(len),
            3 => Ask::Discard(len),
            _ => Ask::Flush,
        };
        let Some(number) = self.machine.as_mut().unwrap().submit(id, offset, &ask) else {
            return false;
        };
        let disk = self.disks.get_mut(id).unwrap();
        let then = if ask == Ask::Flush { disk.now.clone() } else { Content::default() };
        if matches!(ask, Ask::Write(_) | Ask::WriteZeroes(_) | Ask::Discard(_)) {
            disk.may_hold(&sectors, write);
        }
        let sectors = if ask == Ask::Flush { 0..0 } else { sectors };
        let under_way = UnderWay { number, ask, sectors, write, then };
        self.under_way.entry(id.to_owned()).or_default().push(under_way);
        true
    }

    /// The same, if there is a guest.
    pub fn answers_if_any(&mut self) -> (Vec<String>, Vec<String>) {
        if self.machine.is_some() { self.answers() } else { Default::default() }
    }

    /// Takes answers until all are there, or what is left waits for room. Answers how many requests
    /// failed, and of which disks some wait.
    pub fn answers(&mut self) -> (Vec<String>, Vec<String>) {
        let mut failed = Vec::new();
        let start = Instant::now();
        let mut last = Instant::now();
        loop {
            let ids: Vec<String> = self.under_way.keys().cloned().collect();
            for id in ids {
                while let Some(answer) = self.machine.as_mut().unwrap().answer(&id) {
                    last = Instant::now();
                    if !self.take_answer(&id, &answer) {
                        failed.push(id.clone());
                    }
                }
            }
            self.under_way.retain(|_, all| !all.is_empty());
            if self.under_way.is_empty() {
                return (failed, Vec::new());
            }
            let full: Vec<String> = self
                .machine
                .as_ref()
                .unwrap()
                .disks()
                .into_iter()
                .filter(|d| d.no_room_since_unix_ms > 0)
                .map(|d| d.disk_id)
                .collect();
            let wait = self.under_way.keys().all(|id| full.contains(id));
            if wait && last.elapsed() > Duration::from_millis(20) {
                return (failed, self.under_way.keys().cloned().collect());
            }
            assert!(
                start.elapsed() < PATIENCE,
                "requests without an answer at {:?}",
                self.under_way.keys()
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn take_answer(&mut self, id: &str, answer: &vmm::testing::Answer) -> bool {
        let all = self.under_way.get_mut(id).unwrap();
        let at = all.iter().position(|u| u.number == answer.number).unwrap();
        let request = all.swap_remove(at);
        let disk = self.disks.get_mut(id).unwrap();
        if !answer.success {
            return false;
        }
        match request.ask {
            Ask::Read(_) => {
                for (sector, bytes) in request.sectors.zip(answer.data.chunks(SECTOR as usize)) {
                    disk.now
                        .see(sector, writer(bytes, sector))
                        .unwrap_or_else(|wrong| panic!("the guest read of {id}: {wrong:?}"));
                }
            }
            Ask::Write(_) | Ask::WriteZeroes(_) => disk.holds(&request.sectors, request.write),
            Ask::Discard(_) => {}
            Ask::Flush => {
                let mut then = request.then;
                then.allow_all(&disk.now);
                disk.flushed(then);
            }
        }
        true
    }

    /// The guest reads all there may be.
    pub fn read_everything(&mut self) {
        for (id, size) in self.usable() {
            for gib in 0..size / GIB {
                for zone in ZONES {
                    for at in (0..ZONE).step_by(vmm::testing::DATA) {
                        assert!(self.ask(&id, gib * GIB + zone + at, vmm::testing::DATA, 0));
                        let (failed, waiting) = self.answers();
                        assert!(failed.is_empty() && waiting.is_empty(), "{id}");
                    }
                }
            }
        }
    }

    // People with qemu-img.

    /// What a chain of files holds, by their own headers.
    fn content_of(&self, path: &Path) -> BTreeMap<u64, Option<u64>> {
        let raw = self.outside.path().join("raw");
        let out = Command::new("qemu-img")
            .args(["convert", "-U", "-f", "qcow2", "-O", "raw"])
            .arg(path)
            .arg(&raw)
            .output()
            .unwrap();
        assert!(out.status.success(), "{path:?}: {}", String::from_utf8_lossy(&out.stderr));
        let file = File::open(&raw).unwrap();
        let mut found = BTreeMap::new();
        let mut at = 0;
        use rustix::fs::{SeekFrom, seek};
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(start)).unwrap();
            for sector in start / SECTOR..end.div_ceil(SECTOR) {
                let mut bytes = [0; SECTOR as usize];
                file.read_exact_at(&mut bytes, sector * SECTOR).unwrap();
                let write = writer(&bytes, sector);
                if write != Some(0) {
                    found.insert(sector, write);
                }
            }
            at = end;
        }
        std::fs::remove_file(&raw).unwrap();
        found
    }

    /// A snapshot holds what it did, and its disk what it may.
    pub fn compare_snapshot(&mut self, id: &str) {
        let found = self.content_of(&self.layout.layer(id));
        let snapshot = self.snapshots.get_mut(id).unwrap();
        if let Err(wrong) = snapshot.content.as_mut().unwrap().see_all(&found) {
            panic!("snapshot {id} of {}: {wrong:?}", snapshot.disk_id);
        }
    }

    /// A disk nobody has open.
    pub fn compare_disk(&mut self, id: &str) {
        let found = self.content_of(&self.layout.disk(id));
        if let Err(wrong) = self.disks.get_mut(id).unwrap().now.see_all(&found) {
            panic!("disk {id}: {wrong:?}");
        }
    }

    /// Nothing contradicts itself in any file. Clusters may be lost: a fault costs room, and what is in
    /// use is not counted in its file at once.
    pub fn check_files(&mut self) {
        let mut files = Vec::new();
        for dir in [self.layout.disks(), self.layout.layers()] {
            files.extend(std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
        }
        for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "qcow2")) {
            let check = ["check", "-U", "-f", "qcow2"];
            let out = Command::new("qemu-img").args(check).arg(path).output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout);
            let sound = matches!(out.status.code(), Some(0 | 3)) && !said.contains("ERROR");
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(sound, "{path:?}: {said}{errors}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("since all was well last:\n{}", self.trace.join("\n"));
        }
    }
}

pub fn disk_spec(id: &str) -> DiskSpec {
    DiskSpec { disk_id: id.into(), generation: 1, size_gib: 1, ..DiskSpec::default() }
}

pub fn snapshot_spec(id: &str, disk_id: &str) -> SnapshotSpec {
    SnapshotSpec { snapshot_id: id.into(), disk_id: disk_id.into(), disk_size_gib: 1 }
}
