//! Random calls and reports against a model of one host with two instances and two disks.

#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use api::host::{DiskStatus, HostStatus, InstanceState, InstanceStatus};
use controller::{
    disk_state::{self, Seat},
    instance_state, status_intake,
};
use model::{host, new_instance};
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::{DiskRecord, HostView, InstanceDetails, InstanceRecord};

#[derive(Debug, Clone)]
enum Step {
    Attach(usize, usize),
    Detach(usize),
    Delete(usize),
    DeleteInstance(usize),
    /// The agent sees the spec as it is now.
    Observe,
    /// The agent acts on what it has seen of one disk; the guest may refuse to let go.
    Act(usize, bool),
    /// The agent removes the instances that are not in what it has seen.
    Stop,
    /// The agent reports what it has.
    Report,
    /// A report that was under way for long arrives.
    LateReport,
}

fn step() -> impl Strategy<Value = Step> {
    let (disk, instance) = (0..2_usize, 0..2_usize);
    prop_oneof![
        4 => (disk.clone(), instance.clone()).prop_map(|(d, i)| Step::Attach(d, i)),
        3 => disk.clone().prop_map(Step::Detach),
        1 => disk.clone().prop_map(Step::Delete),
        1 => instance.prop_map(Step::DeleteInstance),
        4 => Just(Step::Observe),
        6 => (disk, prop::bool::weighted(0.2)).prop_map(|(d, refuses)| Step::Act(d, refuses)),
        2 => Just(Step::Stop),
        5 => Just(Step::Report),
        1 => Just(Step::LateReport),
    ]
}

/// What is wanted of a host, as far as disks go: the instance of each disk.
#[derive(Debug, Clone, Default)]
struct Spec {
    revision: u64,
    instances: Vec<String>,
    disks: BTreeMap<String, String>,
}

struct World {
    revision: u64,
    instances: Vec<InstanceRecord>,
    disks: Vec<DiskRecord>,
    seen: Spec,
    /// What the host has: instances, and each disk with the instance that has it.
    guests: Vec<String>,
    truth: BTreeMap<String, String>,
    late: HostStatus,
}

impl World {
    fn new() -> Self {
        let instances = ["i-0", "i-1"].map(|id| {
            let mut instance = new_instance(true);
            instance.instance_id = id.to_owned();
            instance
        });
        let disks = ["d-0", "d-1"].map(|id| {
            let mut disk = DiskRecord {
                disk_id: id.to_owned(),
                size_gib: 1,
                generation: 1,
                created_ms: 1,
                ..Default::default()
            };
            disk_state::refresh(&mut disk);
            disk
        });
        let mut world = Self {
            revision: 1,
            instances: instances.to_vec(),
            disks: disks.to_vec(),
            seen: Spec::default(),
            guests: Vec::new(),
            truth: BTreeMap::new(),
            late: HostStatus::default(),
        };
        world.observe();
        world.guests = world.seen.instances.clone();
        let report = world.report();
        world.take_in(&report);
        world.late = report;
        world
    }

    fn disk(&self, number: usize) -> Option<DiskRecord> {
        let id = format!("d-{number}");
        self.disks.iter().find(|disk| disk.disk_id == id).cloned()
    }

    fn instance(&self, number: usize) -> Option<InstanceRecord> {
        let id = format!("i-{number}");
        self.instances.iter().find(|instance| instance.instance_id == id).cloned()
    }

    /// As the store writes.
    fn put(&mut self, mut new: DiskRecord) {
        let place = self.disks.iter().position(|disk| disk.disk_id == new.disk_id).unwrap();
        let old = &self.disks[place];
        if new.instance_id != old.instance_id {
            new.attachment_revision = self.revision;
        }
        if new.releasing && !old.releasing {
            new.released_revision = self.revision;
        }
        if new.releasing && new.host_id.is_empty() {
            self.disks.remove(place);
        } else {
            self.disks[place] = new;
        }
    }

    fn put_instance(&mut self, mut new: InstanceRecord) {
        let found = self.instances.iter_mut().find(|old| old.instance_id == new.instance_id);
        let old = found.unwrap();
        if new.releasing && !old.releasing {
            new.released_revision = self.revision;
        }
        *old = new;
    }

    fn attach(&mut self, disk: usize, instance: usize) -> Option<String> {
        let mut disk = self.disk(disk)?;
        let instance = self.instance(instance)?;
        let of = |disk: &&DiskRecord| disk.instance_id == instance.instance_id;
        let details = InstanceDetails {
            disks: self.disks.iter().filter(of).cloned().collect(),
            enis: Vec::new(),
            eips: Vec::new(),
            host_lost_since_ms: None,
            instance,
        };
        let leaving: Vec<DiskRecord> =
            self.disks.iter().filter(|disk| disk.instance_id.is_empty()).cloned().collect();
        let host = host();
        let seat = Seat { details: &details, leaving: &leaving, host: &host };
        let instance = disk_state::attach(&mut disk, &seat, "", 5).ok()?;
        let id = disk.disk_id.clone();
        self.put(disk);
        self.put_instance(instance);
        Some(id)
    }

    fn observe(&mut self) {
        let kept: Vec<&InstanceRecord> =
            self.instances.iter().filter(|instance| !instance.releasing).collect();
        let is_kept = |id: &str| kept.iter().any(|instance| instance.instance_id == id);
        self.seen = Spec {
            revision: self.revision,
            instances: kept.iter().map(|instance| instance.instance_id.clone()).collect(),
            disks: self
                .disks
                .iter()
                .filter(|disk| !disk.host_id.is_empty() && !disk.releasing)
                .map(|disk| {
                    let wanted = disk.instance_id.clone();
                    (disk.disk_id.clone(), if is_kept(&wanted) { wanted } else { String::new() })
                })
                .collect(),
        };
    }

    fn act(&mut self, disk_id: &str, refuses: bool) {
        let has = self.truth.get(disk_id).cloned();
        match (self.seen.disks.get(disk_id), has) {
            (None, Some(at)) if at.is_empty() => {
                self.truth.remove(disk_id);
            }
            (None, _) => {}
            (Some(wanted), has) => {
                let at = has.unwrap_or_default();
                let free = at.is_empty() || at == *wanted;
                if free {
                    let there = self.guests.contains(wanted);
                    let now = if there { wanted.clone() } else { String::new() };
                    self.truth.insert(disk_id.to_owned(), now);
                } else if !refuses {
                    self.truth.insert(disk_id.to_owned(), String::new());
                }
            }
        }
    }

    fn stop(&mut self) {
        let seen = &self.seen.instances;
        self.guests.retain(|id| seen.contains(id));
        for at in self.truth.values_mut() {
            if !self.guests.contains(at) {
                at.clear();
            }
        }
    }

    fn report(&self) -> HostStatus {
        HostStatus {
            host_id: "h-1".to_owned(),
            observed_revision: self.seen.revision,
            instances: self
                .guests
                .iter()
                .map(|id| InstanceStatus {
                    instance_id: id.clone(),
                    observed_generation: 1,
                    boot_epoch: 1,
                    state: InstanceState::Running.into(),
                    ..Default::default()
                })
                .collect(),
            disks: self
                .truth
                .iter()
                .map(|(disk_id, at)| DiskStatus {
                    disk_id: disk_id.clone(),
                    state: "ready".to_owned(),
                    observed_generation: 1,
                    attached_instance_id: at.clone(),
                    size_bytes: 1 << 30,
                    ..Default::default()
                })
                .collect(),
            complete: true,
            ..Default::default()
        }
    }

    fn take_in(&mut self, report: &HostStatus) {
        let on_host = |disk: &&DiskRecord| !disk.host_id.is_empty();
        let view = HostView {
            host: host(),
            instances: self.instances.clone(),
            disks: self.disks.iter().filter(on_host).cloned().collect(),
            snapshots: Vec::new(),
            enis: Vec::new(),
        };
        let plan = status_intake::plan(&view, report, 7);
        for instance in plan.update {
            self.put_instance(instance);
        }
        for disk in plan.update_disks {
            self.put(disk);
        }
        self.disks.retain(|disk| !plan.purge_disks.contains(&disk.disk_id));
        // An instance takes the disks with it that are its own when it goes.
        self.disks.retain(|disk| !plan.purge.contains(&disk.instance_id));
        self.instances.retain(|instance| !plan.purge.contains(&instance.instance_id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_disk_is_never_given_to_two_and_ends_where_it_is_wanted(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in steps {
            world.revision += 1;
            let wanted = |world: &World| -> BTreeMap<String, String> {
                world.disks.iter().map(|d| (d.disk_id.clone(), d.instance_id.clone())).collect()
            };
            let before = wanted(&world);
            let mut by_people = false;
            match step {
                Step::Attach(disk, instance) => {
                    by_people = true;
                    if let Some(id) = world.attach(disk, instance) {
                        let at = world.truth.get(&id).cloned().unwrap_or_default();
                        prop_assert!(at.is_empty(), "{id} is given away while {at} has it");
                        let may_come = world.seen.disks.get(&id).cloned().unwrap_or_default();
                        prop_assert!(may_come.is_empty(), "the agent may still attach {id}");
                    }
                }
                Step::Detach(number) => {
                    by_people = true;
                    if let Some(mut disk) = world.disk(number)
                        && let Some(instance) =
                            world.instances.iter().find(|i| i.instance_id == disk.instance_id)
                        && let Ok(instance) = disk_state::detach(&mut disk, instance, 6)
                    {
                        prop_assert_eq!(disk.status.as_str(), "Detaching");
                        world.put(disk);
                        world.put_instance(instance);
                    }
                }
                Step::Delete(number) => {
                    by_people = true;
                    if let Some(mut disk) = world.disk(number) {
                        let available = disk.status == "Available";
                        let done = disk_state::release(&mut disk).is_ok();
                        prop_assert_eq!(done, available || world.disk(number).unwrap().releasing);
                        if done {
                            world.put(disk);
                        }
                    }
                }
                Step::DeleteInstance(number) => {
                    if let Some(mut instance) = world.instance(number) {
                        instance_state::delete(&mut instance, true).unwrap();
                        world.put_instance(instance);
                    }
                }
                Step::Observe => world.observe(),
                Step::Act(number, refuses) => world.act(&format!("d-{number}"), refuses),
                Step::Stop => world.stop(),
                Step::Report => {
                    world.late = world.report();
                    let report = world.late.clone();
                    world.take_in(&report);
                }
                Step::LateReport => {
                    let report = world.late.clone();
                    world.take_in(&report);
                }
            }
            for disk in &world.disks {
                prop_assert_eq!(disk.status.as_str(), disk_state::derive(disk));
                if disk.status == "Available" {
                    let at = world.truth.get(&disk.disk_id).cloned().unwrap_or_default();
                    prop_assert!(at.is_empty(), "{} is Available while {at} has it", disk.disk_id);
                }
                // A report changes where a disk is wanted only when its instance is gone.
                let was = before.get(&disk.disk_id).cloned().unwrap_or_default();
                if !by_people && was != disk.instance_id {
                    prop_assert!(disk.instance_id.is_empty());
                    prop_assert!(world.instances.iter().all(|i| i.instance_id != was));
                }
            }
        }
        // Left alone, all settles where it is wanted.
        for _ in 0..4 {
            world.revision += 1;
            world.observe();
            world.stop();
            for number in 0..2 {
                world.act(&format!("d-{number}"), false);
            }
            let report = world.report();
            world.take_in(&report);
        }
        for disk in &world.disks {
            prop_assert!(!disk.releasing);
            let expected = if disk.instance_id.is_empty() { "Available" } else { "In_use" };
            prop_assert_eq!(disk.status.as_str(), expected);
        }
        prop_assert!(world.instances.iter().all(|instance| !instance.releasing));
    }
}
