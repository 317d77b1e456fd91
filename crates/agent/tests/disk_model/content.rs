//! What may be on a disk: for each sector the numbers of the writes it may hold.

use std::collections::{BTreeMap, BTreeSet};

pub const SECTOR: u64 = 512;

/// Sectors that are not named hold zeroes, which are write 0.
#[derive(Debug, Clone, Default)]
pub struct Content(BTreeMap<u64, BTreeSet<u64>>);

/// A sector holds what it cannot.
#[derive(Debug)]
#[allow(dead_code, reason = "for messages")]
pub struct Wrong {
    pub sector: u64,
    pub found: Option<u64>,
    pub possible: BTreeSet<u64>,
}

impl Content {
    fn of(&self, sector: u64) -> BTreeSet<u64> {
        self.0.get(&sector).cloned().unwrap_or_else(|| BTreeSet::from([0]))
    }

    /// The sectors hold this write and nothing else.
    pub fn set(&mut self, sectors: std::ops::Range<u64>, write: u64) {
        for sector in sectors {
            self.0.insert(sector, BTreeSet::from([write]));
        }
    }

    /// The sectors may hold this write too.
    pub fn allow(&mut self, sectors: std::ops::Range<u64>, write: u64) {
        for sector in sectors {
            let mut values = self.of(sector);
            values.insert(write);
            self.0.insert(sector, values);
        }
    }

    /// Either of both.
    pub fn allow_all(&mut self, other: &Self) {
        let sectors: Vec<u64> = self.0.keys().chain(other.0.keys()).copied().collect();
        for sector in sectors {
            let mut values = self.of(sector);
            values.extend(other.of(sector));
            self.0.insert(sector, values);
        }
    }

    /// Only what is below `size` bytes.
    pub fn cut(&mut self, size: u64) {
        self.0.retain(|sector, _| sector * SECTOR < size);
    }

    /// A sector was read. From now on it is known.
    pub fn see(&mut self, sector: u64, found: Option<u64>) -> Result<(), Wrong> {
        let possible = self.of(sector);
        match found.filter(|value| possible.contains(value)) {
            Some(value) => {
                self.0.insert(sector, BTreeSet::from([value]));
                Ok(())
            }
            None => Err(Wrong { sector, found, possible }),
        }
    }

    /// Everything was read: `found` has all sectors that are not zeroes.
    pub fn see_all(&mut self, found: &BTreeMap<u64, Option<u64>>) -> Result<(), Wrong> {
        let sectors: BTreeSet<u64> = self.0.keys().chain(found.keys()).copied().collect();
        for sector in sectors {
            self.see(sector, found.get(&sector).copied().unwrap_or(Some(0)))?;
        }
        Ok(())
    }
}

/// What write `write` leaves in a sector: bytes that say so, and fit no other sector.
pub fn pattern(write: u64, sector: u64) -> Vec<u8> {
    if write == 0 {
        return vec![0; SECTOR as usize];
    }
    let mut state = write.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sector;
    let rest = (1..SECTOR / 8).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()
    });
    write.to_le_bytes().into_iter().chain(rest).collect()
}

/// Which write a sector holds; none: it is no write's.
pub fn writer(bytes: &[u8], sector: u64) -> Option<u64> {
    let write = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (pattern(write, sector) == bytes).then_some(write)
}

/// One disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// What the guest may read.
    pub now: Content,
    /// What may be left if its VMM is killed now.
    pub left: Content,
    /// What a snapshot that may be taken at any moment may hold, if one may.
    pub at_any_moment: Option<Content>,
    /// It is to be set back to a snapshot: the content epoch from which it is.
    pub reset: Option<(u64, String)>,
}

impl Disk {
    pub fn of(content: Content) -> Self {
        Self { now: content.clone(), left: content, at_any_moment: None, reset: None }
    }

    /// A write is under way, or has failed.
    pub fn may_hold(&mut self, sectors: &std::ops::Range<u64>, write: u64) {
        self.now.allow(sectors.clone(), write);
        self.left.allow(sectors.clone(), write);
        if let Some(any) = &mut self.at_any_moment {
            any.allow(sectors.clone(), write);
        }
    }

    /// A write was acknowledged.
    pub fn holds(&mut self, sectors: &std::ops::Range<u64>, write: u64) {
        self.now.set(sectors.clone(), write);
    }

    /// A flush was acknowledged that began when the disk was `then`.
    pub fn flushed(&mut self, then: Content) {
        self.left = then;
    }

    pub fn killed(&mut self) {
        self.now = self.left.clone();
    }

    /// What a snapshot holds that was taken just now.
    pub fn freeze(&mut self) -> Content {
        let mut content = self.now.clone();
        if let Some(any) = self.at_any_moment.take() {
            content.allow_all(&any);
        }
        content
    }
}
