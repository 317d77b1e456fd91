//! Random calls and reports against a reference model of one instance.

#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use api::host::{DiskStatus, HostStatus, InstanceState, InstanceStatus};
use controller::{
    instance_state::{self, StoppedMode},
    status_intake,
};
use model::{host, new_instance};
use proptest::prelude::*;
use store::{DiskRecord, HostView, InstanceRecord};

#[derive(Debug, Clone)]
enum Step {
    Start,
    Stop {
        force: bool,
        charging: bool,
    },
    Reboot,
    Delete {
        force: bool,
    },
    /// The agent sees the spec as it is now.
    Observe,
    /// The agent acts on what it has seen.
    Act {
        fails: bool,
    },
    /// The guest powers itself off.
    PowerOff,
    /// The agent reports what it has.
    Report,
    /// A report that was under way for long arrives.
    LateReport,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Start),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(force, charging)| Step::Stop { force, charging }),
        1 => Just(Step::Reboot),
        1 => any::<bool>().prop_map(|force| Step::Delete { force }),
        4 => Just(Step::Observe),
        4 => prop::bool::weighted(0.2).prop_map(|fails| Step::Act { fails }),
        1 => Just(Step::PowerOff),
        5 => Just(Step::Report),
        1 => Just(Step::LateReport),
    ]
}

/// The host's truth: what it has seen of the spec and what it did.
#[derive(Debug, Clone, Default)]
struct Host {
    seen: Option<(u64, u64, bool)>,
    generation: u64,
    epoch: u64,
    state: Option<InstanceState>,
    guest_initiated: bool,
    seen_release: bool,
    gone: bool,
}

impl Host {
    fn report(&self) -> HostStatus {
        let instances = self.state.filter(|_| !self.gone).map(|state| InstanceStatus {
            instance_id: "i-1".to_owned(),
            observed_generation: self.generation,
            boot_epoch: self.epoch,
            state: state.into(),
            guest_initiated: self.guest_initiated,
            ..Default::default()
        });
        let disks = instances
            .iter()
            .map(|_| DiskStatus {
                disk_id: "d-1".to_owned(),
                state: "ready".to_owned(),
                ..Default::default()
            })
            .collect();
        HostStatus {
            host_id: "h-1".to_owned(),
            observed_revision: if self.seen_release { 100 } else { 1 },
            instances: instances.into_iter().collect(),
            disks,
            complete: true,
            ..Default::default()
        }
    }
}

fn view(instance: &InstanceRecord) -> HostView {
    HostView {
        host: host(),
        instances: vec![instance.clone()],
        disks: vec![DiskRecord {
            disk_id: "d-1".to_owned(),
            host_id: "h-1".to_owned(),
            instance_id: "i-1".to_owned(),
            size_gib: 1,
            system: true,
            delete_with_instance: true,
            generation: 1,
            ..Default::default()
        }],
        snapshots: Vec::new(),
        enis: Vec::new(),
    }
}

/// Takes a report in; answers whether the instance is purged.
fn take_in(instance: &mut InstanceRecord, report: &HostStatus) -> bool {
    let plan = status_intake::plan(&view(instance), report, 1);
    if let Some(new) = plan.update.into_iter().next() {
        *instance = new;
    }
    !plan.purge.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_status_follows_intent_and_truth(
        created_running in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut instance = new_instance(created_running);
        let mut host = Host::default();
        let mut late = host.report();
        // What people asked for last, and the boot they asked for.
        let mut wanted_on = created_running;
        let mut wanted_epoch = instance.boot_epoch;
        for step in steps {
            let before = instance.clone();
            match step {
                Step::Start => match instance_state::start(&mut instance) {
                    Ok(()) => {
                        prop_assert_eq!(before.status.as_str(), "Stopped");
                        prop_assert_eq!(instance.status.as_str(), "Starting");
                        wanted_on = true;
                        wanted_epoch += 1;
                    }
                    Err(refusal) => {
                        prop_assert_eq!(&*refusal.code, "IncorrectInstanceStatus");
                        prop_assert!(before.status != "Stopped" || before.releasing);
                    }
                },
                Step::Stop { force, charging } => {
                    let mode = if charging {
                        StoppedMode::StopCharging
                    } else {
                        StoppedMode::KeepCharging
                    };
                    match instance_state::stop(&mut instance, force, mode) {
                        Ok(()) => {
                            prop_assert!(before.status == "Running" || force);
                            prop_assert_eq!(instance.status.as_str(), "Stopping");
                            wanted_on = false;
                        }
                        Err(refusal) => {
                            prop_assert_eq!(&*refusal.code, "IncorrectInstanceStatus");
                            prop_assert!(before.status != "Running" || before.releasing);
                        }
                    }
                }
                Step::Reboot => match instance_state::reboot(&mut instance, false) {
                    Ok(()) => {
                        prop_assert_eq!(before.status.as_str(), "Running");
                        prop_assert_eq!(instance.status.as_str(), "Starting");
                        wanted_epoch += 1;
                    }
                    Err(_) => prop_assert!(before.status != "Running" || before.releasing),
                },
                Step::Delete { force } => match instance_state::delete(&mut instance, force) {
                    Ok(()) => {
                        prop_assert!(instance.releasing);
                        if !before.releasing {
                            instance.released_revision = 100;
                            wanted_on = false;
                        }
                    }
                    Err(_) => prop_assert!(!force && before.status != "Stopped"),
                },
                Step::Observe => {
                    if instance.releasing {
                        host.seen_release = true;
                        host.seen = None;
                    } else {
                        host.seen =
                            Some((instance.generation, instance.boot_epoch, instance.power_on));
                    }
                }
                Step::Act { fails } => {
                    if host.seen_release {
                        host.gone = true;
                    } else if let Some((generation, epoch, on)) = host.seen {
                        host.generation = generation;
                        if !on {
                            host.state = Some(InstanceState::Stopped);
                            host.guest_initiated = false;
                        } else if host.epoch < epoch {
                            host.epoch = epoch;
                            host.guest_initiated = false;
                            host.state = Some(if fails {
                                InstanceState::Failed
                            } else {
                                InstanceState::Running
                            });
                        }
                    }
                }
                Step::PowerOff => {
                    if host.state == Some(InstanceState::Running) {
                        host.state = Some(InstanceState::Stopped);
                        host.guest_initiated = true;
                    }
                }
                Step::Report => {
                    late = host.report();
                    if take_in(&mut instance, &late) {
                        // Purged only when wanted so and when nothing is left.
                        prop_assert!(before.releasing && (host.gone || host.state.is_none()));
                        return Ok(());
                    }
                }
                Step::LateReport => {
                    if take_in(&mut instance, &late) {
                        prop_assert!(before.releasing);
                        return Ok(());
                    }
                }
            }
            // Only people raise the epoch, and it never falls.
            prop_assert_eq!(instance.boot_epoch, wanted_epoch);
            prop_assert!(instance.generation >= before.generation);
            // A report may only end a boot that itself ended; it never starts anything.
            if !wanted_on {
                prop_assert!(!instance.power_on);
            }
            if wanted_on && !instance.power_on {
                let reported = instance.reported.as_ref();
                prop_assert_eq!(reported.map(|reported| reported.boot_epoch), Some(wanted_epoch));
                wanted_on = false;
            }
            // The column is what derives.
            prop_assert_eq!(instance.status.as_str(), instance_state::derive(&instance));
        }
        // Left alone, it settles where it is wanted.
        if instance.releasing {
            host.seen_release = true;
            host.gone = true;
            prop_assert!(take_in(&mut instance, &host.report()));
            return Ok(());
        }
        for _ in 0..3 {
            host.generation = instance.generation;
            if !instance.power_on {
                host.state = Some(InstanceState::Stopped);
                host.guest_initiated = false;
            } else if host.epoch < instance.boot_epoch {
                host.epoch = instance.boot_epoch;
                host.state = Some(InstanceState::Running);
                host.guest_initiated = false;
            }
            prop_assert!(!take_in(&mut instance, &host.report()));
        }
        let expected = if instance.power_on { "Running" } else { "Stopped" };
        prop_assert_eq!(instance.status.as_str(), expected);
        prop_assert!(instance.claimed || instance.status == "Stopped");
    }
}
