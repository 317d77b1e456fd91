//! The state machine, by table and by model: a host in which agents, VMMs and keepers are killed at
//! any step, with the real decisions in it.

use super::{
    decide::{
        Desired, Notice, PRESS_AGAIN_MS, QUICK_CRASHES_MAX, QUICK_MS, Step, TERMINATE_GRACE_MS,
        decide, note_damage, note_exit, note_failed_launch, note_launch, note_refused,
        note_stop_step, status,
    },
    exit::{Exit, ExitReport},
    record::{Phase, Record},
};
use crate::error::Error;
use api::{host::InstanceState, vmm::ExitCode};
use proptest::prelude::*;

const BOOT: &str = "boot-1";

fn on(boot_epoch: u64) -> Desired {
    Desired { generation: 1, boot_epoch, running: true, force: false, stop_timeout_ms: 60_000 }
}

fn off(boot_epoch: u64) -> Desired {
    Desired { running: false, ..on(boot_epoch) }
}

fn record(boot_epoch: u64, phase: Phase) -> Record {
    Record { boot_epoch, phase, host_boot_id: BOOT.into(), ..Record::new("i-1", 0) }
}

fn failed() -> Phase {
    Phase::Failed { code: "ImageBootFailed.NoKernel".into(), message: "no kernel".into() }
}

const WAIT: Step = Step::Wait { until_ms: None };

#[test]
fn next_steps() {
    let launch = |boot_epoch| Step::Launch { boot_epoch };
    let again = Phase::Again { not_before_ms: 500 };
    let table = [
        ("first start", Some(on(1)), record(0, Phase::New), false, launch(1)),
        ("created stopped", Some(off(0)), record(0, Phase::New), false, WAIT),
        ("runs as wanted", Some(on(1)), record(1, Phase::Running), true, WAIT),
        ("reboot", Some(on(2)), record(1, Phase::Running), true, Step::PressPowerButton),
        ("stop", Some(off(1)), record(1, Phase::Running), true, Step::PressPowerButton),
        ("guest went off: stays off", Some(on(1)), record(1, Phase::GuestStopped), false, WAIT),
        ("started again", Some(on(2)), record(1, Phase::GuestStopped), false, launch(2)),
        ("cannot boot: stays", Some(on(1)), record(1, failed()), false, WAIT),
        ("tried again", Some(on(2)), record(1, failed()), false, launch(2)),
        ("agent died before the start", Some(on(1)), record(1, Phase::Launching), false, launch(1)),
        (
            "backoff",
            Some(on(1)),
            record(1, again.clone()),
            false,
            Step::Wait { until_ms: Some(500) },
        ),
        ("stop wins over backoff", Some(off(1)), record(1, again), false, Step::SettleStopped),
        ("start again wins over it", Some(on(2)), record(1, Phase::Stopped), false, launch(2)),
        ("stopped, then start undone", Some(on(1)), record(1, Phase::Stopped), false, launch(1)),
        ("gone while it runs", None, record(1, Phase::Running), true, Step::Terminate),
        ("gone", None, record(1, Phase::Stopped), false, Step::Remove),
        ("an old spec never goes back", Some(on(1)), record(3, Phase::Running), true, WAIT),
        (
            "an old spec starts no old epoch",
            Some(on(1)),
            record(3, Phase::Stopped),
            false,
            launch(3),
        ),
    ];
    for (name, desired, record, alive, expected) in table {
        assert_eq!(decide(100, desired.as_ref(), &record, alive), expected, "{name}");
    }
}

#[test]
fn a_stop_asks_then_insists_then_kills() {
    let desired = Desired { stop_timeout_ms: 15_000, ..off(1) };
    let mut record = record(1, Phase::Running);
    let next = |now, record: &Record| decide(now, Some(&desired), record, true);
    assert_eq!(next(0, &record), Step::PressPowerButton);
    record = note_stop_step(0, &record, Step::PressPowerButton);
    assert_eq!(next(1, &record), Step::Wait { until_ms: Some(PRESS_AGAIN_MS) });
    assert_eq!(next(PRESS_AGAIN_MS, &record), Step::PressPowerButton);
    record = note_stop_step(PRESS_AGAIN_MS, &record, Step::PressPowerButton);
    assert_eq!(next(PRESS_AGAIN_MS, &record), Step::Wait { until_ms: Some(15_000) });
    assert_eq!(next(15_000, &record), Step::Terminate);
    record = note_stop_step(15_000, &record, Step::Terminate);
    let kill_at = 15_000 + TERMINATE_GRACE_MS;
    assert_eq!(next(15_000, &record), Step::Wait { until_ms: Some(kill_at) });
    assert_eq!(next(kill_at, &record), Step::Kill);
    // Whatever ended it, it was asked to.
    let record = note_stop_step(kill_at, &record, Step::Kill);
    let (stopped, notice) = note_exit(kill_at, &record, &Exit::Killed { signal: 9 });
    assert_eq!((stopped.phase, notice), (Phase::Stopped, None));
}

#[test]
fn force_does_not_ask_the_guest_even_when_asking_has_begun() {
    let record = note_stop_step(0, &record(1, Phase::Running), Step::PressPowerButton);
    let desired = Desired { force: true, ..off(1) };
    assert_eq!(decide(1, Some(&desired), &record, true), Step::Terminate);
}

#[test]
fn a_stop_that_was_begun_is_finished_before_the_next_start() {
    let stopping = note_stop_step(0, &record(1, Phase::Running), Step::PressPowerButton);
    assert!(matches!(decide(1, Some(&on(2)), &stopping, true), Step::Wait { until_ms: Some(_) }));
    let (stopped, _) = note_exit(5, &stopping, &Exit::Shutdown);
    assert_eq!(decide(6, Some(&on(2)), &stopped, false), Step::Launch { boot_epoch: 2 });
}

fn exit_of(code: ExitCode) -> Exit {
    let record = Record { launches: 4, ..record(1, Phase::Running) };
    let report =
        ExitReport { launch: 4, code: Some(code.into()), signal: None, ..ExitReport::default() };
    Exit::of(&record, Some(&report), BOOT, "one\n\ntwo\nlast words\n")
}

#[test]
fn exits_of_a_running_guest() {
    let mut running = record(1, Phase::Running);
    running.started_unix_ms = 1;
    let later = 1 + QUICK_MS;
    let (r, notice) = note_exit(later, &running, &exit_of(ExitCode::Shutdown));
    assert_eq!((&r.phase, notice), (&Phase::GuestStopped, None));
    let told = status(&r, Some(&on(1)), false);
    assert!(told.state() == InstanceState::Stopped && told.guest_initiated);

    let (r, notice) = note_exit(later, &running, &exit_of(ExitCode::Reset));
    assert_eq!((r.phase, notice, r.restarts), (Phase::Again { not_before_ms: later }, None, 0));

    let (r, notice) = note_exit(later, &running, &exit_of(ExitCode::Boot));
    let Phase::Failed { code, message } = &r.phase else { panic!("{:?}", r.phase) };
    assert_eq!((code.as_str(), notice), ("ImageBootFailed.Kernel", None));
    assert!(message.ends_with("one; two; last words"), "{message}");

    let (r, notice) = note_exit(later, &running, &exit_of(ExitCode::GuestFault));
    assert!(matches!(notice, Some(Notice { kind: "InstanceFailure.Reboot", .. })));
    assert!(matches!(r.phase, Phase::Again { .. }) && r.restarts == 1);

    let (r, notice) = note_exit(later, &running, &Exit::Killed { signal: 9 });
    let notice = notice.unwrap();
    assert_eq!(notice.kind, "SystemFailure.Reboot");
    assert!(notice.message.contains("signal 9"));
    assert_eq!(status(&r, Some(&on(1)), false).state(), InstanceState::Starting);
}

#[test]
fn without_a_report_the_host_s_boot_tells_what_happened() {
    let of = |phase: Phase, boot: &str| Exit::of(&record(1, phase), None, boot, "");
    assert_eq!(of(Phase::Running, BOOT), Exit::Unknown);
    assert_eq!(of(Phase::Running, "boot-2"), Exit::HostRestarted);
    assert_eq!(of(Phase::Launching, BOOT), Exit::NeverStarted);
    assert_eq!(of(Phase::Launching, "boot-2"), Exit::NeverStarted);
    // The report of an earlier VMM says nothing of this one.
    let old = ExitReport { launch: 3, code: Some(0), signal: None, ..ExitReport::default() };
    let running = Record { launches: 4, ..record(1, Phase::Running) };
    assert_eq!(Exit::of(&running, Some(&old), BOOT, ""), Exit::Unknown);
}

#[test]
fn quick_crashes_back_off_and_end() {
    let mut r = record(1, Phase::Running);
    let mut pauses = Vec::new();
    for crash in 1..=QUICK_CRASHES_MAX {
        r.phase = Phase::Running;
        r.started_unix_ms = 1000;
        let (next, notice) = note_exit(1500, &r, &Exit::Killed { signal: 11 });
        assert!(notice.is_some());
        match &next.phase {
            Phase::Again { not_before_ms } => pauses.push(not_before_ms - 1500),
            Phase::Failed { code, .. } => {
                assert_eq!((crash, code.as_str()), (QUICK_CRASHES_MAX, "SystemFailure.VmmCrash"));
            }
            other => panic!("{other:?}"),
        }
        r = next;
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000]);
    let fresh = note_launch(&r, &on(2), BOOT);
    assert_eq!((fresh.restarts, fresh.quick_crashes), (0, 0));
}

#[test]
fn a_disk_that_cannot_boot_fails_and_a_host_that_cannot_yet_tries_again() {
    let launching = record(1, Phase::Launching);
    let no_kernel = Error::NotBootable {
        disk_id: "d-1".into(),
        code: "ImageBootFailed.NoKernel".into(),
        message: "no kernel".into(),
    };
    let failed = note_failed_launch(5, &launching, &no_kernel);
    let told = status(&failed, Some(&on(1)), false);
    assert_eq!(
        (told.state(), told.code.as_str()),
        (InstanceState::Failed, "ImageBootFailed.NoKernel")
    );
    let no_tap = Error::resource("eni-1", "NetworkNotReady", "no tap");
    let waits = note_failed_launch(5, &launching, &no_tap);
    assert_eq!(waits.phase, Phase::Again { not_before_ms: 505 });
    let told = status(&waits, Some(&on(1)), false);
    assert_eq!(told.state(), InstanceState::Starting);
    assert!(told.message.contains("no tap"));
}

#[test]
fn a_crash_while_stopping_is_told_of_and_the_agents_own_signal_is_not() {
    let pressed = note_stop_step(5, &record(1, Phase::Running), Step::PressPowerButton);
    let (stopped, notice) = note_exit(9, &pressed, &Exit::Killed { signal: 11 });
    assert_eq!(stopped.phase, Phase::Stopped);
    assert!(stopped.disks_suspect);
    assert_eq!(notice.map(|n| n.kind), Some("SystemFailure.Stop"));
    let killed = note_stop_step(8, &pressed, Step::Kill);
    let (stopped, notice) = note_exit(9, &killed, &Exit::Killed { signal: 9 });
    assert_eq!((stopped.phase, notice), (Phase::Stopped, None));
    assert!(stopped.disks_suspect);
}

#[test]
fn an_instance_with_a_disk_that_stays_unusable_fails_with_the_reason() {
    let missing = Error::resource("d-1", "DiskMissing", "its file is gone");
    assert!(missing.is_permanent());
    let refused = note_refused(&record(1, Phase::Stopped), &on(2), &missing);
    let told = status(&refused, Some(&on(2)), false);
    assert_eq!((told.state(), told.code.as_str()), (InstanceState::Failed, "DiskMissing"));
    assert_eq!(told.boot_epoch, 2);
    assert_eq!(decide(5, Some(&on(2)), &refused, false), WAIT);
    assert_eq!(decide(5, Some(&on(3)), &refused, false), Step::Launch { boot_epoch: 3 });

    let running = record(1, Phase::Running);
    let exit = Exit::Killed { signal: 9 };
    let (next, notice) = note_exit(99, &running, &exit);
    let corrupt = Error::resource("d-1", "DiskCorrupt", "contradictions");
    let (next, notice) = note_damage(next, notice, &exit, &corrupt);
    assert_eq!(status(&next, Some(&on(1)), false).code, "DiskCorrupt");
    assert!(notice.message.contains("signal 9") && notice.message.contains("contradictions"));
}

#[test]
fn a_failure_that_may_pass_is_tried_again_and_says_its_code() {
    let full = Error::File {
        action: "write",
        path: "/x".into(),
        source: std::io::Error::from_raw_os_error(libc::ENOSPC),
    };
    let waits = note_failed_launch(5, &record(1, Phase::Launching), &full);
    let told = status(&waits, Some(&on(1)), false);
    assert_eq!((told.state(), told.code.as_str()), (InstanceState::Starting, "HostError.NoSpace"));
}

/// A host as the agent finds it: what is on disk and what lives.
#[derive(Debug)]
struct World {
    now: u64,
    record: Record,
    report: Option<ExitReport>,
    keeper: bool,
    vmm: Option<Guest>,
    started: u64,
    removed: bool,
}

#[derive(Debug, Clone)]
struct Guest {
    launch: u64,
    boot_epoch: u64,
    listens: bool,
}

/// What may happen between any two effects.
#[derive(Debug, Clone)]
enum Fate {
    Nothing,
    AgentDies,
    VmmKilled,
    BothKilled,
    GuestPowersOff,
    GuestResets,
    TimePasses(u64),
    Wish(Desired),
}

impl World {
    fn new() -> Self {
        let record = Record::new("i-1", 0);
        Self { now: 1, record, report: None, keeper: false, vmm: None, started: 0, removed: false }
    }

    fn alive(&self) -> bool {
        self.keeper || self.vmm.is_some()
    }

    fn end_vmm(&mut self, code: Option<i32>, signal: Option<i32>) {
        let Some(guest) = self.vmm.take() else { return };
        if std::mem::take(&mut self.keeper) {
            self.report =
                Some(ExitReport { launch: guest.launch, code, signal, ..ExitReport::default() });
        }
    }

    /// One round of the owner. `die_after`: the agent is killed after so many effects.
    fn round(&mut self, desired: Option<&Desired>, die_after: usize) {
        let mut left = die_after;
        let mut effect = || {
            let go = left > 0;
            left = left.saturating_sub(1);
            go
        };
        let thought_alive = matches!(self.record.phase, Phase::Launching | Phase::Running);
        if !self.alive() && (thought_alive || self.record.stopping.is_some()) {
            let exit = Exit::of(&self.record, self.report.as_ref(), BOOT, "");
            let (next, _) = note_exit(self.now, &self.record, &exit);
            if effect() {
                self.record = next;
            }
            return;
        }
        match decide(self.now, desired, &self.record, self.alive()) {
            Step::Wait { until_ms } => {
                if self.alive() && self.record.phase == Phase::Launching && effect() {
                    self.record.phase = Phase::Running;
                    self.record.started_unix_ms = self.now;
                }
                self.now = self.now.max(until_ms.unwrap_or(0));
            }
            Step::Launch { .. } => {
                let Some(desired) = desired else { panic!("launched what is gone") };
                if !effect() {
                    return;
                }
                self.record = note_launch(&self.record, desired, BOOT);
                if !effect() {
                    return;
                }
                assert!(!self.alive(), "a second VMM");
                self.report = None;
                self.started += 1;
                self.keeper = true;
                self.vmm = Some(Guest {
                    launch: self.record.launches,
                    boot_epoch: self.record.boot_epoch,
                    listens: self.started.is_multiple_of(2),
                });
            }
            step @ (Step::PressPowerButton | Step::Terminate) => {
                if !effect() {
                    return;
                }
                self.record = note_stop_step(self.now, &self.record, step);
                if effect() {
                    let listens = self.vmm.as_ref().is_some_and(|g| g.listens);
                    if step == Step::Terminate || listens {
                        self.end_vmm(Some(0), None);
                    }
                }
            }
            Step::Kill => {
                if !effect() {
                    return;
                }
                self.record = note_stop_step(self.now, &self.record, Step::Kill);
                if effect() {
                    self.end_vmm(None, Some(9));
                }
            }
            Step::SettleStopped => {
                if effect() {
                    self.record.phase = Phase::Stopped;
                }
            }
            Step::Remove => {
                assert!(!self.alive(), "removed under a VMM");
                self.removed = true;
            }
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    let wish = (1u64..6, any::<bool>(), any::<bool>(), 0u64..20_000).prop_map(
        |(boot_epoch, running, force, stop_timeout_ms)| {
            Fate::Wish(Desired { generation: 1, boot_epoch, running, force, stop_timeout_ms })
        },
    );
    prop_oneof![
        4 => Just(Fate::Nothing),
        3 => Just(Fate::AgentDies),
        1 => Just(Fate::VmmKilled),
        1 => Just(Fate::BothKilled),
        1 => Just(Fate::GuestPowersOff),
        1 => Just(Fate::GuestResets),
        2 => (0u64..100_000).prop_map(Fate::TimePasses),
        2 => wish,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_interleaving_of_deaths_ends_in_the_wanted_state(
        fates in prop::collection::vec((fate(), 0usize..3), 0..60),
        last in (6u64..8, any::<bool>(), any::<bool>()),
        delete in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut desired = on(1);
        for (fate, effects) in fates {
            let mut die_after = usize::MAX;
            match fate {
                Fate::Nothing => {}
                Fate::AgentDies => die_after = effects,
                Fate::VmmKilled => world.end_vmm(None, Some(9)),
                Fate::BothKilled => {
                    world.keeper = false;
                    world.vmm = None;
                }
                Fate::GuestPowersOff => world.end_vmm(Some(ExitCode::Shutdown.into()), None),
                Fate::GuestResets => world.end_vmm(Some(ExitCode::Reset.into()), None),
                Fate::TimePasses(ms) => world.now += ms,
                // Epochs of a spec only grow.
                Fate::Wish(wish) => {
                    desired = Desired { boot_epoch: wish.boot_epoch.max(desired.boot_epoch), ..wish };
                }
            }
            world.round(Some(&desired), die_after);
        }
        let (boot_epoch, running, force) = last;
        let last = Desired { generation: 9, boot_epoch, running, force, stop_timeout_ms: 5_000 };
        for _ in 0..40 {
            world.round(if delete { None } else { Some(&last) }, usize::MAX);
        }
        if delete {
            prop_assert!(world.removed && !world.alive());
        } else if running {
            let guest = world.vmm.clone();
            prop_assert_eq!(guest.map(|g| g.boot_epoch), Some(boot_epoch));
            let told = status(&world.record, Some(&last), true);
            prop_assert_eq!(told.state(), InstanceState::Running);
        } else {
            prop_assert!(!world.alive());
            let told = status(&world.record, Some(&last), false);
            prop_assert!(matches!(told.state(), InstanceState::Stopped | InstanceState::Failed));
        }
    }
}
