//! Sees to it that every instance has its owner: those of the spec, and those of which anything is
//! found on the host.

use super::{
    decide::{self, Desired},
    owner::{Wish, own},
    processes::{Presence, Role, processes},
    record::Record,
};
use crate::{
    error::Result,
    host::Host,
    layout::{is_safe_id, names_in},
};
use api::host::HostSpec;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};

/// The owners of this host's instances.
#[derive(Debug, Default)]
pub struct Owners {
    by_instance: BTreeMap<String, (watch::Sender<Wish>, JoinHandle<()>)>,
}

impl Owners {
    /// Hands each owner its part of the spec, and gives one to every instance without.
    ///
    /// # Errors
    /// When the host cannot be searched for instances.
    pub fn assign(&mut self, host: &Arc<Host>, spec: &HostSpec) -> Result<()> {
        self.by_instance.retain(|_, (_, task)| !task.is_finished());
        let wanted: BTreeMap<&str, _> =
            spec.instances.iter().map(|i| (i.instance_id.as_str(), i)).collect();
        let mut all: BTreeSet<String> = wanted.keys().map(|id| (*id).to_owned()).collect();
        all.extend(found(host)?);
        all.extend(self.by_instance.keys().cloned());
        for id in all {
            let instance = wanted.get(id.as_str()).map(|i| Arc::new((*i).clone()));
            if let Some((wish, _)) = self.by_instance.get(&id) {
                wish.send_if_modified(|wish| {
                    let changed = wish.instance != instance;
                    if changed {
                        *wish = Wish { revision: spec.revision, instance: instance.clone() };
                    }
                    changed
                });
                continue;
            }
            if !host.board.has(&id) {
                // Before the spec counts as observed: what is missing in a report is gone.
                let record = Record::load(&host.layout, &id).ok().flatten();
                let record = record.unwrap_or_else(|| Record::new(&id, 0));
                let desired = instance.as_deref().map(Desired::from);
                host.board.set(decide::status(&record, desired.as_ref(), true));
            }
            let (sender, receiver) = watch::channel(Wish { revision: spec.revision, instance });
            let task = tokio::spawn(own(Arc::clone(host), id.clone(), receiver));
            self.by_instance.insert(id, (sender, task));
        }
        Ok(())
    }
}

/// Instances of which anything is on this host.
fn found(host: &Host) -> Result<BTreeSet<String>> {
    let layout = &host.layout;
    let mut ids: BTreeSet<String> = names_in(&layout.instances())?.into_iter().collect();
    ids.extend(names_in(&layout.vmm())?);
    ids.extend(host.cgroups.list()?);
    for (id, found) in processes(layout, Path::new("/proc"))? {
        if found.iter().any(|process| process.role != Role::BootFinder) {
            ids.insert(id);
        }
    }
    ids.retain(|id| is_safe_id(id));
    Ok(ids)
}

/// The disks that a VMM which still lives was started with, whatever the spec says.
///
/// # Errors
/// When the host cannot be searched for VMMs.
pub fn disks_in_use(host: &Host) -> Result<HashSet<String>> {
    let mut disks = HashSet::new();
    for id in names_in(&host.layout.vmm())? {
        if !is_safe_id(&id) || !Presence::look(&host.layout, &id)?.alive() {
            continue;
        }
        let config = std::fs::read(host.layout.vmm_config(&id)).unwrap_or_default();
        if let Ok(config) = serde_json::from_slice::<api::vmm::VmConfig>(&config) {
            disks.extend(config.disks.into_iter().map(|d| d.disk_id));
        }
    }
    Ok(disks)
}
