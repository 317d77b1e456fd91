//! Random calls and reports against a model of two hosts with an instance each and two interfaces.

#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use api::host::{EniStatus, HostStatus, InstanceState, InstanceStatus};
use controller::{
    eni_state::{self, EniSeat},
    instance_state, status_intake,
};
use model::{host, new_instance};
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::{EniRecord, HostView, InstanceDetails, InstanceRecord};

#[derive(Debug, Clone)]
enum Step {
    Attach(usize, usize),
    Detach(usize),
    Keep(usize, bool),
    DeleteInstance(usize),
    /// A host's agent sees its spec as it is now.
    Observe(usize),
    /// An agent acts on what it has seen of one interface; the guest may refuse to let go.
    Act(usize, usize, bool),
    /// An agent removes the instances that are not in what it has seen.
    Stop(usize),
    /// An agent reports what it has.
    Report(usize),
    /// A report of a host that was under way for long arrives.
    LateReport(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let two = || 0..2_usize;
    prop_oneof![
        5 => (two(), two()).prop_map(|(e, i)| Step::Attach(e, i)),
        4 => two().prop_map(Step::Detach),
        1 => (two(), any::<bool>()).prop_map(|(e, keep)| Step::Keep(e, keep)),
        1 => two().prop_map(Step::DeleteInstance),
        6 => two().prop_map(Step::Observe),
        9 => (two(), two(), prop::bool::weighted(0.2)).prop_map(|(h, e, no)| Step::Act(h, e, no)),
        2 => two().prop_map(Step::Stop),
        7 => two().prop_map(Step::Report),
        2 => two().prop_map(Step::LateReport),
    ]
}

/// What is wanted of a host, as far as interfaces go: the instance of each.
#[derive(Debug, Clone, Default)]
struct Spec {
    revision: u64,
    instances: Vec<String>,
    enis: BTreeMap<String, String>,
}

/// A host: what its agent has seen, its instances, and who has each interface there.
#[derive(Debug, Default)]
struct Host {
    seen: Spec,
    guests: Vec<String>,
    truth: BTreeMap<String, String>,
    late: HostStatus,
}

struct World {
    revision: u64,
    instances: Vec<InstanceRecord>,
    enis: Vec<EniRecord>,
    hosts: [Host; 2],
}

fn host_id(number: usize) -> String {
    format!("h-{number}")
}

impl World {
    fn new() -> Self {
        let instances = [0, 1].map(|number| {
            let mut instance = new_instance(true);
            instance.instance_id = format!("i-{number}");
            instance.host_id = host_id(number);
            instance
        });
        let enis = [0, 1].map(|number| {
            let mut eni = EniRecord {
                eni_id: format!("eni-{number}"),
                delete_on_release: number == 0,
                ..Default::default()
            };
            eni_state::refresh(&mut eni);
            eni
        });
        let mut world = Self {
            revision: 1,
            instances: instances.to_vec(),
            enis: enis.to_vec(),
            hosts: Default::default(),
        };
        for number in 0..2 {
            world.observe(number);
            world.hosts[number].guests = world.hosts[number].seen.instances.clone();
            world.report(number);
        }
        world
    }

    fn eni(&self, number: usize) -> Option<EniRecord> {
        let id = format!("eni-{number}");
        self.enis.iter().find(|eni| eni.eni_id == id).cloned()
    }

    fn instance(&self, id: &str) -> Option<InstanceRecord> {
        self.instances.iter().find(|instance| instance.instance_id == id).cloned()
    }

    /// As the store writes.
    fn put(&mut self, mut new: EniRecord) {
        let old = self.enis.iter_mut().find(|old| old.eni_id == new.eni_id).unwrap();
        if new.instance_id != old.instance_id {
            new.attachment_revision = self.revision;
        }
        *old = new;
    }

    fn put_instance(&mut self, mut new: InstanceRecord) {
        let found = self.instances.iter_mut().find(|old| old.instance_id == new.instance_id);
        let old = found.unwrap();
        if new.releasing && !old.releasing {
            new.released_revision = self.revision;
        }
        *old = new;
    }

    fn attach(&mut self, eni: usize, instance: usize) -> Option<String> {
        let mut eni = self.eni(eni)?;
        let instance = self.instance(&format!("i-{instance}"))?;
        let here = |eni: &&EniRecord| eni.instance_id == instance.instance_id;
        let details = InstanceDetails {
            disks: Vec::new(),
            eips: Vec::new(),
            enis: self.enis.iter().filter(here).cloned().collect(),
            host_lost_since_ms: None,
            instance: instance.clone(),
        };
        let leaving: Vec<EniRecord> =
            self.enis.iter().filter(|eni| eni.instance_id.is_empty()).cloned().collect();
        let seat = EniSeat { details: &details, leaving: &leaving };
        let instance = eni_state::attach(&mut eni, &seat, 5).ok()?;
        let place = (&eni.instance_id, eni.position);
        let taken = self.enis.iter().any(|other| {
            other.eni_id != eni.eni_id
                && (eni_state::instance_of(other), other.position) == (place.0.as_str(), place.1)
        });
        assert!(!taken && place.1 > 0, "{place:?} is taken");
        let id = eni.eni_id.clone();
        self.put(eni);
        self.put_instance(instance);
        Some(id)
    }

    fn observe(&mut self, number: usize) {
        let kept: Vec<String> = self
            .instances
            .iter()
            .filter(|instance| !instance.releasing && instance.host_id == host_id(number))
            .map(|instance| instance.instance_id.clone())
            .collect();
        let enis = self.enis.iter().filter(|eni| kept.contains(&eni.instance_id));
        self.hosts[number].seen = Spec {
            revision: self.revision,
            enis: enis.map(|eni| (eni.eni_id.clone(), eni.instance_id.clone())).collect(),
            instances: kept,
        };
    }

    fn act(&mut self, number: usize, eni: usize, refuses: bool) {
        let host = &mut self.hosts[number];
        let id = format!("eni-{eni}");
        let at = host.truth.get(&id).cloned().unwrap_or_default();
        match host.seen.enis.get(&id) {
            Some(wanted) if at.is_empty() && host.guests.contains(wanted) => {
                host.truth.insert(id, wanted.clone());
            }
            Some(wanted) if at == *wanted => {}
            _ if !refuses => {
                host.truth.remove(&id);
            }
            _ => {}
        }
    }

    fn stop(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let seen = &host.seen.instances;
        host.guests.retain(|id| seen.contains(id));
        let guests = &host.guests;
        host.truth.retain(|_, at| guests.contains(at));
    }

    fn report(&mut self, number: usize) {
        let host = &self.hosts[number];
        let report = HostStatus {
            host_id: host_id(number),
            observed_revision: host.seen.revision,
            instances: host
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
            enis: host
                .truth
                .iter()
                .map(|(eni_id, at)| EniStatus {
                    eni_id: eni_id.clone(),
                    observed_generation: 1,
                    attached_instance_id: at.clone(),
                    ..Default::default()
                })
                .collect(),
            complete: true,
            ..Default::default()
        };
        self.hosts[number].late = report.clone();
        self.take_in(number, &report);
    }

    fn take_in(&mut self, number: usize, report: &HostStatus) {
        let id = host_id(number);
        let here = |instance: &&InstanceRecord| instance.host_id == id;
        let view = HostView {
            host: host(),
            instances: self.instances.iter().filter(here).cloned().collect(),
            disks: Vec::new(),
            snapshots: Vec::new(),
            enis: self.enis.iter().filter(|eni| eni.host_id == id).cloned().collect(),
        };
        let plan = status_intake::plan(&view, report, 7);
        for instance in plan.update {
            self.put_instance(instance);
        }
        for eni in plan.update_enis {
            self.put(eni);
        }
        // An instance takes the interfaces with it that are its own when it goes.
        self.enis.retain(|eni| !plan.purge.contains(&eni.instance_id));
        self.instances.retain(|instance| !plan.purge.contains(&instance.instance_id));
    }

    /// Who has an interface, on any host.
    fn holders(&self, id: &str) -> Vec<String> {
        self.hosts.iter().filter_map(|host| host.truth.get(id).cloned()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_interface_is_never_at_two_and_ends_where_it_is_wanted(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut world = World::new();
        for step in steps {
            world.revision += 1;
            let before: BTreeMap<String, String> = world
                .enis
                .iter()
                .map(|eni| (eni.eni_id.clone(), eni.instance_id.clone()))
                .collect();
            let mut by_people = false;
            match step {
                Step::Attach(eni, instance) => {
                    by_people = true;
                    if let Some(id) = world.attach(eni, instance) {
                        prop_assert!(world.holders(&id).is_empty(), "{id} is given away too early");
                        let may_come =
                            world.hosts.iter().any(|host| host.seen.enis.contains_key(&id));
                        prop_assert!(!may_come, "an agent may still attach {id}");
                    }
                }
                Step::Detach(number) => {
                    by_people = true;
                    if let Some(mut eni) = world.eni(number)
                        && let Some(instance) = world.instance(eni_state::instance_of(&eni))
                        && let Ok(Some(instance)) = eni_state::detach(&mut eni, &instance)
                    {
                        prop_assert_eq!(eni.status.as_str(), "Detaching");
                        world.put(eni);
                        world.put_instance(instance);
                    }
                }
                Step::Keep(number, keep) => {
                    if let Some(mut eni) = world.eni(number) {
                        eni.delete_on_release = !keep;
                        world.put(eni);
                    }
                }
                Step::DeleteInstance(number) => {
                    if let Some(mut instance) = world.instance(&format!("i-{number}")) {
                        instance_state::delete(&mut instance, true).unwrap();
                        world.put_instance(instance);
                    }
                }
                Step::Observe(number) => world.observe(number),
                Step::Act(host, eni, refuses) => world.act(host, eni, refuses),
                Step::Stop(number) => world.stop(number),
                Step::Report(number) => world.report(number),
                Step::LateReport(number) => {
                    let report = world.hosts[number].late.clone();
                    world.take_in(number, &report);
                }
            }
            for eni in &world.enis {
                prop_assert_eq!(eni.status.as_str(), eni_state::derive(eni));
                let holders = world.holders(&eni.eni_id);
                prop_assert!(holders.len() < 2, "{} is at {holders:?}", eni.eni_id);
                if eni.status == "Available" {
                    prop_assert!(holders.is_empty(), "{} is at {holders:?}", eni.eni_id);
                    prop_assert!(eni.host_id.is_empty());
                }
                // A report changes where one is wanted only when its instance is gone.
                let was = before.get(&eni.eni_id).cloned().unwrap_or_default();
                if !by_people && was != eni.instance_id {
                    prop_assert!(eni.instance_id.is_empty() && !eni.delete_on_release);
                    prop_assert!(world.instance(&was).is_none());
                }
            }
        }
        // Left alone, all settles where it is wanted.
        for _ in 0..4 {
            world.revision += 1;
            for number in 0..2 {
                world.observe(number);
                world.stop(number);
                for eni in 0..2 {
                    world.act(number, eni, false);
                }
                world.report(number);
            }
        }
        for eni in &world.enis {
            let expected = if eni.instance_id.is_empty() { "Available" } else { "InUse" };
            prop_assert_eq!(eni.status.as_str(), expected);
            let holders = world.holders(&eni.eni_id);
            let wanted: Vec<String> =
                Some(eni.instance_id.clone()).into_iter().filter(|id| !id.is_empty()).collect();
            prop_assert_eq!(holders, wanted);
        }
        prop_assert!(world.instances.iter().all(|instance| !instance.releasing));
    }
}
