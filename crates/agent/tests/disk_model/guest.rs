//! What the guest does with its disks, and what follows for the model.

use crate::{
    content::{Content, SECTOR, pattern, writer},
    world::{GIB, World},
};
use rand::Rng as _;
use std::time::{Duration, Instant};
use vmm::testing::{Answer, Ask};

/// Where guests read and write; the last of each GiB is at its end.
const ZONES: [u64; 5] = [0, 64 << 10, 1 << 20, 300 << 20, GIB - ZONE];
pub const ZONE: u64 = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A request of the guest without an answer.
pub struct UnderWay {
    pub number: usize,
    pub ask: Ask,
    pub sectors: std::ops::Range<u64>,
    pub write: u64,
    /// What the disk held when a flush began.
    pub then: Content,
}

impl World {
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

    fn take_answer(&mut self, id: &str, answer: &Answer) -> bool {
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
}
