//! Sees to it that every instance has its owner: those of the spec, and those of which anything is
//! found on the host.

use super::{
    decide::{self, Desired},
    owner::{Wish, own},
    processes::{Presence, Role, processes},
    record::Record,
};
use crate::{
    disks::DisksOfVmm,
    error::Result,
    host::Host,
    interfaces::NicsOfVmm,
    layout::{is_safe_id, names_in},
};
use api::host::{DiskSpec, HostSpec, InstanceSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
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
            let new = wish(spec, instance);
            if let Some((wish, _)) = self.by_instance.get(&id) {
                wish.send_if_modified(|wish| {
                    let same = Wish { revision: new.revision, ..wish.clone() } == new;
                    if !same {
                        *wish = new;
                    }
                    !same
                });
                continue;
            }
            if !host.board.has(&id) {
                // Before the spec counts as observed: what is missing in a report is gone.
                let record = Record::load(&host.layout, &id).ok().flatten();
                let record = record.unwrap_or_else(|| Record::new(&id, 0));
                let desired = new.instance.as_deref().map(Desired::from);
                if Presence::look(&host.layout, &id)?.alive() {
                    // Before a report: a disk or an ENI that a VMM has is not free.
                    host.interfaces.set(&id, NicsOfVmm::presumed(&record.enis));
                    let attachments = host.disks.attachments();
                    attachments.set(&id, DisksOfVmm::presumed(&record.disks));
                }
                host.board.set(decide::status(&record, desired.as_ref(), true));
            }
            let (sender, receiver) = watch::channel(new);
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

/// What the spec says of an instance; a disk that has no spec yet comes with a later one.
fn wish(spec: &HostSpec, instance: Option<Arc<InstanceSpec>>) -> Wish {
    let ids = instance.iter().flat_map(|i| &i.disk_ids);
    let disks: Arc<[DiskSpec]> =
        ids.filter_map(|id| spec.disks.iter().find(|d| d.disk_id == *id).cloned()).collect();
    let of_these = |id: &str| disks.iter().any(|d| d.disk_id == id);
    let snapshots = spec.snapshots.iter().filter(|s| of_these(&s.disk_id));
    let snapshots = snapshots.map(|s| s.snapshot_id.clone()).collect();
    Wish { revision: spec.revision, instance, disks, snapshots }
}
