//! Storage pools: the directories that this host's disks lie in. Each has an account of disks and
//! layers of its own, and a chain of layers never leaves its pool; image copies are the host's.

mod directory;
mod dispatch;
mod option;
mod trees;

pub use option::PoolOption;

use crate::{
    disks::{Attachments, Disks, Keys},
    durable_file,
    error::{Error, Result},
    events::EventLog,
    host::now_ms,
    layout::Layout,
    lease::{Leases, Terms},
};
use api::host::{HostSpec, StoragePool, StoragePoolState};
use directory::Figures;
use option::DEFAULT;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A pool that was low is ready again with so much more than its reserve available, so that it does
/// not change its mind all the time: this part of the reserve.
const AGAIN: u64 = 10;

/// What is remembered of a pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    pool_id: String,
    condition: Condition,
    /// Grows with each change of the condition, so that each is told once.
    changes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Ready,
    Low,
    Unavailable,
}

/// How a pool is now.
#[derive(Debug, Default)]
struct Now {
    /// Its id, once it was seen.
    pool_id: String,
    /// Its disks, once it was there; none of a shared one.
    disks: Option<Arc<Disks>>,
    /// Of a shared one, the trees that are this host's, and the times of its leases.
    trees: BTreeMap<String, trees::Tree>,
    terms: Option<Terms>,
    figures: Figures,
    low: bool,
    /// Why it cannot be reached.
    unavailable: Option<String>,
}

#[derive(Debug)]
struct Pool {
    option: PoolOption,
    path: PathBuf,
    layout: Layout,
    is_default: bool,
    now: Mutex<Now>,
}

impl Pool {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its disks, while it can be reached.
    fn disks(&self) -> Option<Arc<Disks>> {
        let now = self.now();
        if now.unavailable.is_some() { None } else { now.disks.clone() }
    }
}

/// The pools of this host and the disks in them.
#[derive(Debug)]
pub struct Pools {
    layout: Layout,
    host_id: String,
    attachments: Arc<Attachments>,
    keys: Keys,
    leases: Arc<Leases>,
    /// What of the spec's removals is done.
    done: Mutex<BTreeSet<String>>,
    /// The default one first.
    pools: Vec<Pool>,
    /// By name.
    known: Mutex<BTreeMap<String, Known>>,
}

impl Pools {
    /// Opens what can be reached; the rest is tried again with each look.
    ///
    /// # Errors
    /// When the default pool cannot be read, or the pools contradict each other.
    pub fn open_all(
        layout: Layout,
        host_id: &str,
        options: &[PoolOption],
        keys: Keys,
    ) -> Result<Self> {
        let default = options.iter().find(|option| option.name == DEFAULT).cloned();
        let default = default
            .unwrap_or_else(|| PoolOption { name: DEFAULT.to_owned(), ..PoolOption::default() });
        let others = options.iter().filter(|option| option.name != DEFAULT).cloned();
        let mut pools: Vec<Pool> = Vec::new();
        for option in std::iter::once(default).chain(others) {
            let is_default = option.path.is_none();
            let path = option.path.clone().unwrap_or_else(|| layout.state().to_owned());
            if let Some(other) =
                pools.iter().find(|p| p.option.name == option.name || p.path == path)
            {
                return Err(Error::Configuration(format!(
                    "--pool: {} ({}) and {} ({}) need names and directories of their own",
                    other.option.name,
                    other.path.display(),
                    option.name,
                    path.display()
                )));
            }
            let of_pool = layout.in_pool(&path);
            pools.push(Pool { option, path, layout: of_pool, is_default, now: Mutex::default() });
        }
        let known = durable_file::read_json(&layout.pools())?.unwrap_or_default();
        let this = Self {
            leases: Arc::new(Leases::new(&layout, host_id)),
            layout,
            host_id: host_id.to_owned(),
            attachments: Arc::default(),
            keys,
            done: Mutex::default(),
            pools,
            known: Mutex::new(known),
        };
        for pool in this.pools.iter().filter(|pool| pool.option.shared) {
            // Its file system may not answer: it is looked at by itself.
            let before = this.known().get(&pool.option.name).map(|entry| entry.pool_id.clone());
            let mut now = pool.now();
            now.pool_id = before.unwrap_or_default();
            now.unavailable = Some("it was not looked at yet".to_owned());
        }
        for pool in this.pools.iter().filter(|pool| !pool.option.shared) {
            if let Err(e) = this.look(pool) {
                if pool.is_default {
                    return Err(e);
                }
                tracing::error!(pool = pool.option.name, "{e}");
                pool.now().unavailable = Some(e.to_string());
            }
        }
        this.check_file_systems(None)?;
        Ok(this)
    }

    /// Room on one file system is not to be offered twice.
    fn check_file_systems(&self, looked_at: Option<&Pool>) -> Result<()> {
        let mut seen: BTreeMap<u64, &Pool> = BTreeMap::new();
        let now = looked_at.map(|pool| pool.option.name.as_str());
        let reached =
            |pool: &&Pool| now == Some(&pool.option.name) || pool.now().unavailable.is_none();
        for pool in self.pools.iter().filter(reached) {
            if pool.option.capacity.is_some() {
                continue;
            }
            if let Some(other) = seen.insert(directory::device(&pool.path)?, pool) {
                return Err(Error::Configuration(format!(
                    "--pool: {} and {} are on one file system; say with capacity= how much of it \
                     each of them, or all but one, may use",
                    other.option.name, pool.option.name
                )));
            }
        }
        Ok(())
    }

    /// Looks at every pool of the host's own, and tells by an event what has changed.
    ///
    /// # Errors
    /// When what is remembered of them cannot be written.
    pub fn refresh(&self, events: &EventLog) -> Result<bool> {
        let mut news = false;
        for pool in self.pools.iter().filter(|pool| !pool.option.shared) {
            news |= self.refresh_one(pool, events)?;
        }
        Ok(news)
    }

    fn refresh_one(&self, pool: &Pool, events: &EventLog) -> Result<bool> {
        let looked = self.look(pool).and_then(|low| match pool.option.shared {
            true => self.check_file_systems(Some(pool)).map(|()| low),
            false => Ok(low),
        });
        let condition = match &looked {
            Ok(low) if *low => Condition::Low,
            Ok(_) => Condition::Ready,
            Err(_) => Condition::Unavailable,
        };
        let message = looked.err().map(|e| e.to_string());
        pool.now().unavailable.clone_from(&message);
        self.tell(pool, condition, message, events)
    }

    /// Names of the shared pools.
    pub fn shared(&self) -> Vec<String> {
        let shared = self.pools.iter().filter(|pool| pool.option.shared);
        shared.map(|pool| pool.option.name.clone()).collect()
    }

    /// Looks at a shared pool and brings its disks to where the spec wants them. May wait for as long
    /// as its file system does not answer.
    ///
    /// # Errors
    /// When what is remembered of it cannot be written; the first error of a tree, after the others
    /// were looked at.
    pub fn work_shared(
        &self,
        name: &str,
        spec: &HostSpec,
        image_error: impl Fn(&str) -> Option<Error>,
        events: &EventLog,
    ) -> Result<bool> {
        let Some(pool) = self.pools.iter().find(|pool| pool.option.name == name) else {
            return Ok(false);
        };
        let mut changed = self.refresh_one(pool, events)?;
        if pool.now().unavailable.is_none() {
            changed |= self.reconcile_shared(pool, spec, &image_error)?;
        }
        let removal = |id: &String| spec.removals.iter().any(|r| r.resource_id == *id);
        self.done().retain(removal);
        Ok(changed)
    }

    fn tell(
        &self,
        pool: &Pool,
        condition: Condition,
        message: Option<String>,
        events: &EventLog,
    ) -> Result<bool> {
        let mut known = self.known();
        let Some(entry) = known.get(&pool.option.name).filter(|e| e.condition != condition) else {
            return Ok(false);
        };
        let (name, path) = (&pool.option.name, pool.path.display());
        let (kind, said) = match condition {
            Condition::Ready => {
                ("StoragePool.Ready", format!("storage pool {name} ({path}) takes new disks again"))
            }
            Condition::Low => ("StoragePool.Low", low_message(pool, pool.now().figures)),
            Condition::Unavailable => {
                ("StoragePool.Unavailable", message.unwrap_or_else(|| path.to_string()))
            }
        };
        tracing::warn!(pool = name, "{said}");
        let next = Known { condition, changes: entry.changes + 1, ..entry.clone() };
        events.append(&next.pool_id, next.changes, kind, &said, now_ms())?;
        let mut all = known.clone();
        all.insert(name.clone(), next);
        durable_file::write_json(&self.layout.pools(), &all)?;
        *known = all;
        Ok(true)
    }

    /// Whether the pool is low. One that cannot be reached is an error, and stays as it was noted.
    fn look(&self, pool: &Pool) -> Result<bool> {
        let pool_id = self.identify(pool)?;
        let opened = pool.now().disks.is_some();
        if !opened && !pool.option.shared {
            directory::fill(&pool.layout.disks(), &pool.layout.layers())?;
            let (attachments, keys) = (Arc::clone(&self.attachments), self.keys.clone());
            let layout = pool.layout.clone();
            let disks = Disks::open_in(layout, &pool_id, pool.is_default, attachments, keys)?;
            let mut now = pool.now();
            now.disks = Some(Arc::new(disks));
            now.pool_id = pool_id;
        }
        let dirs = pool.content_dirs()?;
        let figures = directory::figures(&pool.path, &pool.option, &dirs)?;
        let mut now = pool.now();
        let enough = if now.low {
            figures.reserve.saturating_add(figures.reserve / AGAIN)
        } else {
            figures.reserve
        };
        now.low = figures.available < enough;
        now.figures = figures;
        Ok(now.low)
    }

    /// The pool's id, which is remembered before anything is put there.
    fn identify(&self, pool: &Pool) -> Result<String> {
        let name = &pool.option.name;
        let before = self.known().get(name).map(|entry| entry.pool_id.clone());
        pool.now().pool_id = before.clone().unwrap_or_default();
        let pool_id = if pool.is_default {
            format!("pool-{}", self.host_id)
        } else {
            let (host_id, known) = (&self.host_id, before.as_deref());
            let found = directory::identify(&pool.path, host_id, known, &pool.option)?;
            pool.now().terms = found.terms;
            found.pool_id
        };
        pool.now().pool_id.clone_from(&pool_id);
        if before.as_ref() != Some(&pool_id) {
            let mut known = self.known();
            let mut all = known.clone();
            let entry = Known { pool_id: pool_id.clone(), condition: Condition::Ready, changes: 0 };
            all.insert(name.clone(), entry);
            durable_file::write_json(&self.layout.pools(), &all)?;
            *known = all;
        }
        Ok(pool_id)
    }

    /// How the pools are, as the controller is told. One that was never there has no id and is not
    /// told of.
    pub fn report_pools(&self) -> Vec<StoragePool> {
        let shown = |pool: &Pool| {
            let now = pool.now();
            let (state, message) = match &now.unavailable {
                Some(message) => (StoragePoolState::Unavailable, message.clone()),
                None if now.low => (StoragePoolState::Low, low_message(pool, now.figures)),
                None => (StoragePoolState::Ready, String::new()),
            };
            StoragePool {
                pool_id: now.pool_id.clone(),
                name: pool.option.name.clone(),
                path: pool.path.display().to_string(),
                capacity_bytes: now.figures.capacity,
                available_bytes: now.figures.available,
                reserve_bytes: now.figures.reserve,
                overcommit: pool.option.overcommit.unwrap_or_default(),
                state: state.into(),
                message,
                shared: pool.option.shared,
            }
        };
        let mut all: Vec<StoragePool> = self.pools.iter().map(shown).collect();
        all.retain(|pool| !pool.pool_id.is_empty());
        all
    }

    /// The leases of this host's disks in shared pools.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Sees to the lease keeper. Does nothing on a host without shared pools.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn tend_leases(&self, keeper_bin: &Path) -> Result<()> {
        if self.pools.iter().any(|pool| pool.option.shared) {
            self.leases.tend(keeper_bin)?;
        }
        Ok(())
    }

    fn done(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn low_message(pool: &Pool, figures: Figures) -> String {
    format!(
        "storage pool {} ({}) has {} of {} bytes available, below its reserve of {}: it takes no \
         new disks; delete disks or snapshots, make its file system larger, or move other files away",
        pool.option.name,
        pool.path.display(),
        figures.available,
        figures.capacity,
        figures.reserve
    )
}

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
