//! Which VMM has which disk, as the owners of the instances last saw it.

use api::{host::DiskMetrics, vmm::AttachedDisk};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A disk as its VMM has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attached {
    /// What the VMM said of it; absent while it has not answered.
    pub seen: Option<AttachedDisk>,
    /// Its counters, once they were read.
    pub metrics: Option<DiskMetrics>,
    /// Why it is not yet as the spec wants it: code and explanation.
    pub problem: Option<(String, String)>,
}

/// The disks of one VMM, by id, and what hinders those it should have and has not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DisksOfVmm {
    /// Those it has, or may have.
    pub attached: BTreeMap<String, Attached>,
    /// Why others could not be attached yet: code and explanation.
    pub refused: BTreeMap<String, (String, String)>,
}

impl DisksOfVmm {
    /// Of a VMM that has, or may have, these; what it says of them comes later.
    pub fn presumed(disks: &[String]) -> Self {
        let attached = disks.iter().map(|id| (id.clone(), Attached::default())).collect();
        Self { attached, refused: BTreeMap::new() }
    }
}

/// Of all VMMs of this host.
#[derive(Debug, Default)]
pub struct Attachments {
    by_instance: Mutex<BTreeMap<String, DisksOfVmm>>,
}

impl Attachments {
    /// Notes the disks of an instance whose VMM lives. True if anything but counters changed.
    pub fn set(&self, instance_id: &str, disks: DisksOfVmm) -> bool {
        let mut all = self.lock();
        let old = all.insert(instance_id.to_owned(), disks.clone());
        old.map(without_metrics) != Some(without_metrics(disks))
    }

    /// The instance's VMM is gone.
    pub fn clear(&self, instance_id: &str) {
        self.lock().remove(instance_id);
    }

    /// Who has the disk, and how.
    pub fn of_disk(&self, disk_id: &str) -> Option<(String, Attached)> {
        let all = self.lock();
        all.iter().find_map(|(instance, disks)| {
            disks.attached.get(disk_id).map(|attached| (instance.clone(), attached.clone()))
        })
    }

    /// Every disk that a VMM has, or may have.
    pub fn disks(&self) -> Vec<String> {
        self.lock().values().flat_map(|disks| disks.attached.keys().cloned()).collect()
    }

    /// Why an instance's VMM does not have a disk it should have.
    pub fn refusal(&self, instance_id: &str, disk_id: &str) -> Option<(String, String)> {
        self.lock().get(instance_id)?.refused.get(disk_id).cloned()
    }

    /// Whether a VMM of the instance lives.
    pub fn is_alive(&self, instance_id: &str) -> bool {
        self.lock().contains_key(instance_id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DisksOfVmm>> {
        self.by_instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn without_metrics(mut disks: DisksOfVmm) -> DisksOfVmm {
    for attached in disks.attached.values_mut() {
        attached.metrics = None;
    }
    disks
}
