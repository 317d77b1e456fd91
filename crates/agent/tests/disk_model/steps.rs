//! What happens, in random order, and what must hold after it.

use crate::{
    content::Disk,
    faults::Fault,
    world::{GIB, INSTANCE, SYSTEM, Snapshot, World, disk_spec, snapshot_spec},
};
use api::{host::DiskSpec, vmm::AttachedDisk};
use qcow2::faults::Call;
use rand::{Rng as _, seq::IndexedRandom as _};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use vmm::testing::Machine;

const DISKS: usize = 5;
const ATTACHED: usize = 4;
const SNAPSHOTS: usize = 6;
const SIZE_GIB: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// A fault and for how many more steps it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    NoRoom,
    Eio(Call),
    Short,
}

struct Run {
    world: World,
    trouble: Option<(Trouble, u32)>,
    /// Faults that were in the way of something.
    counts: [u64; 4],
    /// Disks whose guests have seen I/O errors.
    failed: Vec<String>,
    /// Disks whose guests have waited for room.
    waited: Vec<String>,
}

pub fn run(seed: u64, steps: u64) {
    let mut run = Run {
        // One in two: layers of both kinds behave alike.
        world: World::with(seed, seed % 2 == 1),
        trouble: None,
        counts: [0; 4],
        failed: Vec::new(),
        waited: Vec::new(),
    };
    run.settle();
    for step in 0..steps {
        run.world.note(format!("step {step}"));
        run.step();
        if let Some((trouble, left)) = run.trouble {
            run.trouble = Some((trouble, left.saturating_sub(1)));
            if left == 0 {
                run.settle();
            }
        } else if step % 50 == 49 {
            run.settle();
        }
    }
    run.end();
    let [answers, errors, waits, settled] = run.counts;
    eprintln!(
        "{answers} rounds of I/O, {errors} I/O errors, {waits} waits for room, {settled} looks at everything"
    );
}

impl Run {
    fn step(&mut self) {
        let w = &mut self.world;
        let mut patience = None;
        match w.random.random_range(0..100) {
            0..45 => {}
            45..50 => self.attach(),
            50..55 => self.detach(),
            55..60 => self.create(),
            60..63 => self.delete(),
            63..66 => self.resize(),
            66..73 => self.snapshot(),
            73..77 => self.delete_snapshot(),
            77..81 => self.reset(),
            81..84 => w.merge(),
            84..87 => {
                w.note("agent starts anew");
                w.start_agent();
                self.forget_untold();
            }
            87..91 => patience = Some(Duration::from_micros(w.random.random_range(0..8000))),
            91..93 => {
                w.note("VMM killed");
                w.kill_machine();
            }
            93..95 => {
                w.note("VMM told to end");
                w.stop_machine();
            }
            _ => self.break_something(),
        }
        let w = &mut self.world;
        w.publish();
        if w.random.random_range(0..3) > 0 {
            w.start_machine();
        }
        w.look(patience);
        if patience.is_some() {
            w.start_agent();
            w.look(None);
            self.forget_untold();
        }
        self.io();
        if self.trouble.is_some() {
            let before = self.list();
            self.world.look(None);
            self.must_be_explained(&before);
        }
    }

    /// What an agent could not note for want of room is forgotten with it.
    fn forget_untold(&mut self) {
        if self.trouble.is_some() {
            self.failed.clear();
            self.waited.clear();
        }
    }

    fn list(&self) -> Vec<AttachedDisk> {
        self.world.machine.as_ref().map(Machine::disks).unwrap_or_default()
    }

    fn break_something(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        let w = &mut self.world;
        let each = w.random.random_range(1..12);
        let trouble = match w.random.random_range(0..9) {
            0..4 => Trouble::NoRoom,
            4 => Trouble::Short,
            5 => Trouble::Eio(Call::Read),
            6 | 7 => Trouble::Eio(Call::Write),
            _ => Trouble::Eio(Call::Sync),
        };
        w.note(format!("{trouble:?}, each {each}"));
        match trouble {
            Trouble::NoRoom => {
                let left = w.random.random_range(0..5) * (64 << 10);
                w.pool.fill(left);
            }
            Trouble::Eio(call) => w.faults.set(Fault::Eio { call, each }),
            Trouble::Short => w.faults.set(Fault::Short { bytes: 512 * each as usize - 100 }),
        }
        self.trouble = Some((trouble, w.random.random_range(1..10)));
    }

    fn io(&mut self) {
        let w = &mut self.world;
        let usable = w.usable();
        let Some((id, size)) = usable.choose(&mut w.random).cloned() else { return };
        let mut what = Vec::new();
        for _ in 0..w.random.random_range(1..4) {
            let (at, len) = w.place(size);
            let kind = match w.random.random_range(0..20) {
                0..9 => 1,
                9..14 => 0,
                14 | 15 => 2,
                16 | 17 => 3,
                _ => 4,
            };
            if w.ask(&id, at, len, kind) {
                what.push(format!("{}:{at:#x}+{len:#x}", ["r", "w", "z", "d", "f"][kind as usize]));
            }
        }
        let (failed, waiting) = w.answers();
        w.note(format!("{id} {} failed {failed:?} waiting {waiting:?}", what.join(" ")));
        self.counts[0] += 1;
        self.counts[1] += failed.len() as u64;
        self.counts[2] += waiting.len() as u64;
        let io_error = matches!(self.trouble, Some((Trouble::Eio(_), _)));
        assert!(failed.is_empty() || io_error, "{failed:?}");
        let no_room = matches!(self.trouble, Some((Trouble::NoRoom, _)));
        assert!(waiting.is_empty() || no_room, "{waiting:?}");
        self.failed.extend(failed);
        self.waited.extend(waiting);
    }

    /// What is not as it should be says why, and of which disk or snapshot.
    fn must_be_explained(&mut self, before: &[AttachedDisk]) {
        let list = self.list();
        let w = &self.world;
        let pool = w.layout.disks().display().to_string();
        // Those that waited all the time the agent looked.
        let since = |disk: &AttachedDisk| (disk.disk_id.clone(), disk.no_room_since_unix_ms);
        let waited = |d: &&AttachedDisk| before.iter().any(|b| since(b) == since(d));
        let waiting = list.iter().filter(|d| d.no_room_since_unix_ms > 0);
        for disk in waiting.filter(waited) {
            let status = w.status(&disk.disk_id).unwrap();
            if status.code == "DiskOutOfSpace" {
                let said = &status.message;
                assert!(said.contains(&disk.disk_id) && said.contains(&pool), "{said}");
            } else {
                // Something else of the disk has no room either.
                assert!(status.message.contains(&disk.disk_id), "{status:?}");
            }
        }
        for id in self
            .failed
            .iter()
            .filter(|id| list.iter().any(|d| d.disk_id == **id && d.failed_requests > 0))
        {
            let status = w.status(id).unwrap();
            assert!(!status.code.is_empty() && status.message.contains(id), "{status:?}");
        }
        for disk in &w.spec.disks {
            let status = w.status(&disk.disk_id).unwrap();
            let in_vmm = list.iter().any(|d| d.disk_id == disk.disk_id);
            let done = status.state == "ready" && status.content_epoch >= disk.content_epoch;
            if !done && !in_vmm {
                let named = status.message.contains(&disk.disk_id);
                assert!(!status.code.is_empty() && named, "{status:?}");
            }
        }
        for status in w.snapshot_statuses().iter().filter(|s| s.state == "progressing") {
            let spec =
                w.spec.snapshots.iter().find(|s| s.snapshot_id == status.snapshot_id).unwrap();
            let id = &spec.disk_id;
            // Of several of a disk, the first says what is in the way of all.
            let first = w
                .spec
                .snapshots
                .iter()
                .find(|s| s.disk_id == *id && w.snapshots[&s.snapshot_id].content.is_none());
            let leaving = list.iter().any(|d| d.disk_id == *id && d.detaching);
            let made = w.layout.disk(id).exists();
            if leaving || !made || first.unwrap().snapshot_id != spec.snapshot_id {
                continue;
            }
            let named = status.message.contains(id) || status.message.contains(&spec.snapshot_id);
            assert!(!status.code.is_empty() && named, "{status:?}");
        }
    }

    /// Whatever was in the way is gone: all becomes as it is wanted, and is what the model says.
    fn settle(&mut self) {
        let was = self.trouble.take();
        let w = &mut self.world;
        w.note("all is well again");
        w.faults.set(Fault::None);
        w.pool.make_room();
        let (_, waiting) = w.answers_if_any();
        if !waiting.is_empty() {
            let start = Instant::now();
            while !w.answers_if_any().1.is_empty() {
                assert!(start.elapsed() < PATIENCE, "requests wait with room there");
            }
        }
        w.faults.failed.store(0, Ordering::Relaxed);
        if matches!(was, Some((Trouble::Eio(Call::Sync), _))) {
            // A medium that lost what was synced is not trusted until it is opened anew.
            w.kill_machine();
        }
        let start = Instant::now();
        while let Err(missing) = self.is_settled() {
            let w = &mut self.world;
            assert!(start.elapsed() < PATIENCE, "{missing}");
            w.start_machine();
            w.look(None);
            w.merge();
        }
        self.counts[3] += 1;
        let w = &mut self.world;
        for (id, _) in w.usable() {
            assert!(w.ask(&id, 0, 0, 4));
            let (failed, waiting) = w.answers();
            assert!(failed.is_empty() && waiting.is_empty(), "{id}");
        }
        w.read_everything();
        w.check_files();
        let taken: Vec<String> = w.snapshots.keys().cloned().collect();
        if let Some(id) = taken.choose(&mut w.random) {
            w.compare_snapshot(id);
        }
        let alone: Vec<String> = w.alone();
        if let Some(id) = alone.choose(&mut w.random) {
            w.compare_disk(id);
        }
        let events = w.host().events.pending();
        for (kind, ids) in [("DiskIoError", &self.failed), ("DiskOutOfSpace", &self.waited)] {
            for id in ids {
                let told = events.iter().any(|e| {
                    e.r#type == kind && e.resource_id == INSTANCE && e.message.contains(id.as_str())
                });
                assert!(told, "no event {kind} of {id}");
            }
        }
        self.failed.clear();
        self.waited.clear();
        self.world.trace.clear();
    }

    fn is_settled(&self) -> Result<(), String> {
        let w = &self.world;
        let Some(machine) = &w.machine else { return Err("no VMM".into()) };
        let list = machine.disks();
        let wanted = w.wanted();
        for disk in &w.spec.disks {
            let Some(status) = w.status(&disk.disk_id) else { return Err("no status".into()) };
            let at = wanted.iter().any(|d| d.disk_id == disk.disk_id);
            let is_at =
                list.iter().any(|d| d.disk_id == disk.disk_id && machine.drives(&d.disk_id));
            let size = status.size_bytes >= disk.size_gib * GIB;
            let quiet = matches!(status.code.as_str(), "" | "DiskIoError");
            let content = status.content_epoch >= disk.content_epoch;
            if status.state != "ready" || !size || !content || !quiet || at != is_at {
                return Err(format!("{status:?}, in the VMM: {is_at}, wanted: {at}"));
            }
        }
        if list.len() != wanted.len() {
            return Err(format!("{list:?}"));
        }
        match w.snapshot_statuses().iter().find(|s| s.state != "accomplished") {
            Some(status) => Err(format!("{status:?}")),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        self.settle();
        let w = &mut self.world;
        let (taken, disks): (Vec<String>, Vec<String>) =
            (w.snapshots.keys().cloned().collect(), w.disks.keys().cloned().collect());
        w.stop_machine();
        w.look(None);
        for id in taken {
            w.compare_snapshot(&id);
        }
        for id in disks {
            w.compare_disk(&id);
        }
        w.check_files();
        w.spec.disks.clear();
        w.spec.snapshots.clear();
        w.spec.instances.clear();
        w.snapshots.clear();
        w.publish();
        w.host().disks.reconcile(&w.spec, |_| None).unwrap();
        for dir in [w.layout.disks(), w.layout.layers()] {
            let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    // People's calls, as the controller lets them through.

    fn pick(&mut self, is: impl Fn(&World, &DiskSpec) -> bool) -> Option<String> {
        let w = &mut self.world;
        let fitting: Vec<String> =
            w.spec.disks.iter().filter(|d| is(w, d)).map(|d| d.disk_id.clone()).collect();
        fitting.choose(&mut w.random).cloned()
    }

    fn attach(&mut self) {
        let free =
            |w: &World, d: &DiskSpec| w.is_alone(&d.disk_id) && w.disks[&d.disk_id].reset.is_none();
        if let Some(id) = self.pick(free) {
            let ids = &mut self.world.spec.instances[0].disk_ids;
            if ids.len() < ATTACHED {
                ids.push(id.clone());
                self.world.note(format!("attach {id}"));
            }
        }
    }

    fn detach(&mut self) {
        let attached = |w: &World, d: &DiskSpec| {
            d.disk_id != SYSTEM && w.spec.instances[0].disk_ids.contains(&d.disk_id)
        };
        if let Some(id) = self.pick(attached) {
            self.world.note(format!("detach {id}"));
            self.world.spec.instances[0].disk_ids.retain(|d| *d != id);
        }
    }

    fn taken(&mut self, is: impl Fn(&Snapshot) -> bool) -> Option<String> {
        let w = &mut self.world;
        let fitting: Vec<String> = w
            .snapshots
            .iter()
            .filter(|(_, s)| s.content.is_some() && is(s))
            .map(|(id, _)| id.clone())
            .collect();
        fitting.choose(&mut w.random).cloned()
    }

    fn create(&mut self) {
        if self.world.spec.disks.len() >= DISKS {
            return;
        }
        let from = if self.world.random.random_bool(0.6) { self.taken(|_| true) } else { None };
        let w = &mut self.world;
        let id = format!("d-{}", w.number());
        w.note(format!("create {id} from {from:?}"));
        let mut spec = disk_spec(&id);
        let mut disk = Disk::default();
        if let Some(snapshot) = from {
            let source = &w.snapshots[&snapshot];
            spec.size_gib = source.size_gib;
            disk = Disk::of(source.content.clone().unwrap());
            spec.source_snapshot_id = snapshot;
        }
        w.spec.disks.push(spec);
        w.disks.insert(id, disk);
    }

    fn delete(&mut self) {
        if let Some(id) = self.pick(|w, d| w.is_alone(&d.disk_id)) {
            let w = &mut self.world;
            w.note(format!("delete {id}"));
            w.spec.disks.retain(|d| d.disk_id != id);
            w.disks.remove(&id);
        }
    }

    fn resize(&mut self) {
        let waits = |w: &World, id: &str| {
            w.snapshots.values().any(|s| s.disk_id == id && s.content.is_none())
        };
        let may = |w: &World, d: &DiskSpec| d.size_gib < SIZE_GIB && !waits(w, &d.disk_id);
        if let Some(id) = self.pick(may) {
            let disk = self.world.spec.disks.iter_mut().find(|d| d.disk_id == id).unwrap();
            disk.size_gib += 1;
            disk.generation += 1;
            self.world.note(format!("resize {id}"));
        }
    }

    fn snapshot(&mut self) {
        if self.world.spec.snapshots.len() >= SNAPSHOTS {
            return;
        }
        // A snapshot has the size the disk has when it is taken.
        let settled = |w: &World, d: &DiskSpec| {
            w.disks[&d.disk_id].reset.is_none()
                && w.status(&d.disk_id).is_some_and(|s| s.size_bytes == d.size_gib * GIB)
        };
        if let Some(id) = self.pick(settled) {
            let w = &mut self.world;
            let snapshot = format!("s-{}", w.number());
            w.note(format!("snapshot {snapshot} of {id}"));
            let size_gib = w.spec.disks.iter().find(|d| d.disk_id == id).unwrap().size_gib;
            w.spec.snapshots.push(snapshot_spec(&snapshot, &id));
            w.snapshots.insert(snapshot, Snapshot { disk_id: id, size_gib, content: None });
        }
    }

    fn delete_snapshot(&mut self) {
        let w = &mut self.world;
        let needed = |id: &str| {
            w.disks.values().any(|d| d.reset.as_ref().is_some_and(|(_, snapshot)| snapshot == id))
        };
        let ids: Vec<String> = w.snapshots.keys().filter(|id| !needed(id)).cloned().collect();
        if let Some(id) = ids.choose(&mut w.random) {
            w.note(format!("delete snapshot {id}"));
            w.spec.snapshots.retain(|s| s.snapshot_id != *id);
            w.snapshots.remove(id);
        }
    }

    fn reset(&mut self) {
        let Some(snapshot) = self.taken(|_| true) else { return };
        let w = &mut self.world;
        let id = w.snapshots[&snapshot].disk_id.clone();
        if !w.is_alone(&id) || w.disks.get(&id).is_none_or(|d| d.reset.is_some()) {
            return;
        }
        w.note(format!("reset {id} to {snapshot}"));
        let spec = w.spec.disks.iter_mut().find(|d| d.disk_id == id).unwrap();
        spec.content_epoch += 1;
        let epoch = spec.content_epoch;
        w.disks.get_mut(&id).unwrap().reset = Some((epoch, snapshot.clone()));
        spec.generation += 1;
        spec.source_snapshot_id = snapshot;
    }
}
