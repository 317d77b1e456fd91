//! User ids: each instance's processes run as a user nobody else on the host is.

use super::processes::{Role, processes, uid_of};
use crate::{
    error::{Error, Result},
    layout::{Layout, names_in},
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Instances per host; the ids up to base + this are ours.
const SLOTS_MAX: u32 = 65_536;

/// Which slot each instance has.
#[derive(Debug, Default)]
pub struct UidSlots {
    by_instance: Mutex<BTreeMap<String, u32>>,
}

impl UidSlots {
    /// Takes over the slots in the records, and those of VMMs that live without a record that can be
    /// read: nobody else may become their user.
    ///
    /// # Errors
    /// When the host cannot be searched for either.
    pub fn load(layout: &Layout, uid_base: u32) -> Result<Self> {
        let slots = Self::default();
        for (id, found) in processes(layout, Path::new("/proc"))? {
            let vmm = found.iter().find(|process| process.role == Role::Vmm);
            // One whose jail is not closed yet still has the agent's own user.
            let uid = vmm.and_then(uid_of).filter(|uid| *uid >= uid_base).or_else(|| {
                let config = fs::read(layout.vmm_config(&id)).ok()?;
                let config: api::vmm::VmConfig = serde_json::from_slice(&config).ok()?;
                config.jail.map(|jail| jail.uid)
            });
            if let Some(slot) = uid.and_then(|uid| uid.checked_sub(uid_base)) {
                slots.lock().insert(id, slot);
            }
        }
        for id in names_in(&layout.instances())? {
            if let Ok(Some(record)) = super::record::Record::load(layout, &id) {
                slots.lock().insert(id, record.uid_slot);
            }
        }
        Ok(slots)
    }

    /// The instance's slot; a free one if it has none yet.
    ///
    /// # Errors
    /// When all are taken.
    pub fn take(&self, instance_id: &str) -> Result<u32> {
        let mut all = self.lock();
        if let Some(slot) = all.get(instance_id) {
            return Ok(*slot);
        }
        let mut used: Vec<u32> = all.values().copied().collect();
        used.sort_unstable();
        let mut free = 0;
        for slot in used {
            if slot == free {
                free += 1;
            }
        }
        if free >= SLOTS_MAX {
            return Err(Error::resource(instance_id, "HostFull", "no user id is free"));
        }
        all.insert(instance_id.to_owned(), free);
        Ok(free)
    }

    /// Frees the slot of an instance that is gone.
    pub fn release(&self, instance_id: &str) {
        self.lock().remove(instance_id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.by_instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instances::record::Record;

    #[test]
    fn slots_are_stable_distinct_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        let slots = UidSlots::load(&layout, 1000).unwrap();
        assert_eq!(
            [slots.take("a"), slots.take("b"), slots.take("a")].map(Result::unwrap),
            [0, 1, 0]
        );
        Record::new("b", 1).save(&layout).unwrap();
        let slots = UidSlots::load(&layout, 1000).unwrap();
        assert_eq!(
            [slots.take("c"), slots.take("d"), slots.take("b")].map(Result::unwrap),
            [0, 2, 1]
        );
        slots.release("c");
        assert_eq!(slots.take("e").unwrap(), 0);
    }
}
