//! What an agent must do, case by case.

use crate::{
    access_cases::{
        a_console_shows_history_then_answers, access_needs_the_token,
        two_may_watch_a_console_through_a_restart,
    },
    disk_cases::{
        a_disk_comes_grows_and_goes_while_the_guest_runs,
        a_disk_moves_only_after_the_guest_has_let_it_go, a_snapshots_content_is_one_file,
        a_stopped_instance_has_its_disks_at_its_next_start,
        snapshots_of_a_running_guest_survive_agents_killed_at_any_moment,
    },
    fixture::Host,
    nic_cases::{
        a_guest_goes_on_with_a_new_tap_when_somebody_removes_its_own,
        a_stopped_instance_has_its_interfaces_at_its_next_start,
        an_interface_comes_and_goes_while_the_guest_runs,
        an_interface_the_guest_keeps_is_told_of_and_passes_nothing,
    },
    pool_cases::a_second_pool_is_told_of_and_has_its_disks,
};
use api::host::{
    DiskSpec, HostEvent, HostStatus, ImageSpec, InstanceState, ListHostObjectsRequest, Power,
};
use rand::Rng as _;
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};
use std::{future::Future, pin::Pin, time::Duration};
use tokio::time::sleep;

type Case = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn all() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), || Box::pin($name()))),*]
        }
    };
}

cases![
    an_instance_lives_and_leaves_nothing,
    a_guest_that_powers_off_stays_off_until_started,
    a_guest_that_resets_is_started_again_in_the_same_epoch,
    a_killed_vmm_is_told_of_once_and_started_again,
    a_vmm_killed_with_its_keeper_is_seen_too,
    a_deaf_guest_is_stopped_after_its_timeout,
    a_vmm_that_does_not_end_is_killed,
    guests_run_on_without_their_agent_and_are_found_again,
    what_happens_while_the_agent_is_dead_is_told_afterwards,
    agents_killed_at_any_moment_never_start_a_second_vmm,
    a_cold_start_needs_no_controller,
    a_disk_without_a_kernel_fails_with_the_reason,
    a_disk_that_is_not_read_in_time_is_tried_again,
    a_boot_finder_left_behind_is_listed_and_ended,
    a_disk_whose_file_is_gone_fails_with_the_reason,
    a_damaged_disk_is_not_started_from,
    a_guest_runs_on_when_its_record_is_lost_or_damaged,
    a_record_that_cannot_be_read_is_told_of,
    a_vmm_that_crashes_while_stopping_is_told_of,
    an_image_is_resumed_and_verified,
    a_console_shows_history_then_answers,
    two_may_watch_a_console_through_a_restart,
    access_needs_the_token,
    an_older_spec_is_not_followed,
    a_second_pool_is_told_of_and_has_its_disks,
    a_disk_comes_grows_and_goes_while_the_guest_runs,
    a_disk_moves_only_after_the_guest_has_let_it_go,
    a_stopped_instance_has_its_disks_at_its_next_start,
    a_snapshots_content_is_one_file,
    an_interface_comes_and_goes_while_the_guest_runs,
    an_interface_the_guest_keeps_is_told_of_and_passes_nothing,
    a_stopped_instance_has_its_interfaces_at_its_next_start,
    a_guest_goes_on_with_a_new_tap_when_somebody_removes_its_own,
    snapshots_of_a_running_guest_survive_agents_killed_at_any_moment,
];

fn reboots(host: &Host) -> Vec<HostEvent> {
    host.seen(|seen| {
        seen.events.iter().filter(|e| e.r#type.ends_with(".Reboot")).cloned().collect()
    })
}

fn off(host: &Host, id: &str) -> u64 {
    host.change(id, |i| i.power = Power::Stopped.into())
}

async fn an_instance_lives_and_leaves_nothing() {
    let host = Host::started().await;
    host.run_instance("i-1");
    let running = host.until_running("i-1", 1).await;
    assert!(running.started_unix_ms > 0 && running.restarts == 0);
    let first = host.vmm("i-1");

    off(&host, "i-1");
    let stopped = host.until_state("i-1", InstanceState::Stopped).await;
    assert!(!stopped.guest_initiated);
    assert!(host.pids("i-1", "run").is_empty());

    host.change("i-1", |i| {
        i.power = Power::Running.into();
        i.boot_epoch = 2;
    });
    host.until_running("i-1", 2).await;
    host.change("i-1", |i| i.boot_epoch = 3);
    host.until_running("i-1", 3).await;
    assert_ne!(host.vmm("i-1"), first);
    assert_eq!(host.starts("i-1"), 3);
    assert_eq!(reboots(&host), []);

    let mut access = host.access().await;
    let objects = access.list_host_objects(ListHostObjectsRequest {}).await.unwrap().into_inner();
    let leaks: Vec<_> = objects.objects.iter().filter(|o| o.owner.is_empty()).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    for kind in ["process", "tap", "netns", "table", "cgroup", "file"] {
        assert!(objects.objects.iter().any(|o| o.kind == kind), "no {kind} in {objects:?}");
    }

    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
}

async fn a_guest_that_powers_off_stays_off_until_started() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.signal(host.vmm("i-1"), Signal::USR1);
    let stopped = host.until_state("i-1", InstanceState::Stopped).await;
    assert!(stopped.guest_initiated);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(host.starts("i-1"), 1);
    host.change("i-1", |i| i.boot_epoch = 2);
    host.until_running("i-1", 2).await;
    assert_eq!(reboots(&host), []);
}

async fn a_guest_that_resets_is_started_again_in_the_same_epoch() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.signal(host.vmm("i-1"), Signal::USR2);
    host.until("a second start", |h| (h.starts("i-1") == 2).then_some(())).await;
    let running = host.until_running("i-1", 1).await;
    assert_eq!(running.restarts, 0);
    assert_eq!(reboots(&host), []);
}

async fn a_killed_vmm_is_told_of_once_and_started_again() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.signal(host.vmm("i-1"), Signal::KILL);
    let again = |h: &Host| h.status("i-1").filter(|s| s.restarts == 1);
    host.until("one restart", again).await;
    host.until_running("i-1", 1).await;
    host.until("its event", |h| (reboots(h).len() == 1).then_some(())).await;
    let event = &reboots(&host)[0];
    assert_eq!(
        (event.resource_id.as_str(), event.r#type.as_str()),
        ("i-1", "SystemFailure.Reboot")
    );
    assert!(event.message.contains("signal 9"), "{}", event.message);

    host.signal(host.vmm("i-1"), Signal::HUP);
    host.until("the guest's fault", |h| (reboots(h).len() == 2).then_some(())).await;
    let event = &reboots(&host)[1];
    assert_eq!(event.r#type, "InstanceFailure.Reboot");
    assert!(event.message.contains("triple fault"), "{}", event.message);
    host.until("acknowledged", |h| h.seen(|s| s.status.events.is_empty()).then_some(())).await;
    assert_eq!(host.seen(|s| s.events.iter().map(|e| e.sequence).collect::<Vec<_>>()), [1, 2]);
}

async fn a_vmm_killed_with_its_keeper_is_seen_too() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    // The keeper alone: the guest does not notice, and is still guarded.
    let vmm = host.vmm("i-1");
    host.signal(host.pids("i-1", "keep-vmm")[0], Signal::KILL);
    sleep(Duration::from_millis(300)).await;
    assert_eq!((host.vmm("i-1"), host.starts("i-1")), (vmm, 1));
    host.signal(vmm, Signal::KILL);
    host.until("its event", |h| (reboots(h).len() == 1).then_some(())).await;
    host.until("a second start", |h| (h.starts("i-1") == 2).then_some(())).await;
    host.until_running("i-1", 1).await;
}

async fn a_deaf_guest_is_stopped_after_its_timeout() {
    let host = Host::started().await;
    host.run_instance("i-deaf");
    host.until_running("i-deaf", 1).await;
    host.change("i-deaf", |i| {
        i.power = Power::Stopped.into();
        i.stop_timeout_seconds = 2;
    });
    host.until_state("i-deaf", InstanceState::Stopping).await;
    sleep(Duration::from_millis(1000)).await;
    assert_eq!(host.pids("i-deaf", "run").len(), 1);
    host.until_state("i-deaf", InstanceState::Stopped).await;
    assert_eq!(reboots(&host), []);

    host.change("i-deaf", |i| {
        i.power = Power::Running.into();
        i.boot_epoch = 2;
    });
    host.until_running("i-deaf", 2).await;
    let start = std::time::Instant::now();
    host.change("i-deaf", |i| {
        i.power = Power::Stopped.into();
        i.force = true;
        i.stop_timeout_seconds = 600;
    });
    host.until_state("i-deaf", InstanceState::Stopped).await;
    assert!(start.elapsed() < Duration::from_secs(10));
}

async fn a_vmm_that_does_not_end_is_killed() {
    let host = Host::started().await;
    host.run_instance("i-mute");
    host.until_running("i-mute", 1).await;
    let revision = host.delete("i-mute");
    host.until_nothing_is_left(revision).await;
}

async fn guests_run_on_without_their_agent_and_are_found_again() {
    let mut host = Host::started().await;
    for id in ["i-1", "i-2"] {
        host.run_instance(id);
        host.until_running(id, 1).await;
    }
    let vmms = [host.vmm("i-1"), host.vmm("i-2")];
    host.kill_agent();
    // Another machine's person changes their mind meanwhile.
    off(&host, "i-2");
    sleep(Duration::from_millis(200)).await;
    assert_eq!([host.vmm("i-1"), host.vmm("i-2")], vmms);
    host.start_agent();
    host.until_state("i-2", InstanceState::Stopped).await;
    host.until_running("i-1", 1).await;
    assert_eq!(host.vmm("i-1"), vmms[0]);
    assert_eq!((host.starts("i-1"), host.starts("i-2")), (1, 1));
    // A found guest is guarded like one's own.
    host.signal(vmms[0], Signal::KILL);
    host.until("its event", |h| (reboots(h).len() == 1).then_some(())).await;
    host.until_running("i-1", 1).await;
    let hosts =
        host.seen(|s| s.registrations.iter().map(|r| r.host_id.clone()).collect::<Vec<_>>());
    assert!(hosts.len() >= 2 && hosts.iter().all(|id| *id == hosts[0]), "{hosts:?}");
}

async fn what_happens_while_the_agent_is_dead_is_told_afterwards() {
    let mut host = Host::started().await;
    for id in ["i-off", "i-crash", "i-gone"] {
        host.run_instance(id);
    }
    for id in ["i-off", "i-crash", "i-gone"] {
        host.until_running(id, 1).await;
    }
    host.kill_agent();
    host.signal(host.vmm("i-off"), Signal::USR1);
    host.signal(host.vmm("i-crash"), Signal::KILL);
    host.delete("i-gone");
    sleep(Duration::from_millis(100)).await;
    host.start_agent();
    let stopped = host.until_state("i-off", InstanceState::Stopped).await;
    assert!(stopped.guest_initiated);
    host.until("the crash", |h| reboots(h).iter().find(|e| e.resource_id == "i-crash").cloned())
        .await;
    host.until_running("i-crash", 1).await;
    host.until("i-gone is gone", |h| h.status("i-gone").is_none().then_some(())).await;
    assert!(host.pids("i-gone", "run").is_empty());
    assert_eq!(host.starts("i-off"), 1);
    assert_eq!(reboots(&host).len(), 1);
}

async fn agents_killed_at_any_moment_never_start_a_second_vmm() {
    const INSTANCES: usize = 4;
    let mut host = Host::new().await;
    let ids: Vec<String> = (0..INSTANCES).map(|n| format!("i-{n}")).collect();
    for id in &ids {
        host.run_instance(id);
    }
    for round in 0..25 {
        host.start_agent();
        let life = rand::rng().random_range(0..120);
        sleep(Duration::from_millis(life)).await;
        host.kill_agent();
        if round % 8 == 7 {
            for id in &ids {
                host.change(id, |i| i.boot_epoch += 1);
            }
        }
    }
    host.start_agent();
    let boot_epoch = host.controller.state.spec.borrow().instances[0].boot_epoch;
    for id in &ids {
        host.until_running(id, boot_epoch).await;
        host.vmm(id);
        assert!(host.starts(id) as u64 <= boot_epoch, "{id}: {} starts", host.starts(id));
    }
    assert_eq!(reboots(&host), []);
    let mut revision = 0;
    for id in &ids {
        revision = host.delete(id);
    }
    host.until_nothing_is_left(revision).await;
}

async fn a_cold_start_needs_no_controller() {
    let mut host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.controller.stop().await;
    host.kill_agent();
    host.signal(host.vmm("i-1"), Signal::KILL);
    host.start_agent();
    host.until("a second start", |h| (h.starts("i-1") == 2).then_some(())).await;
    let vmm = host.vmm("i-1");
    host.controller.resume().await;
    host.until("its event", |h| (reboots(h).len() == 1).then_some(())).await;
    host.until_running("i-1", 1).await;
    assert_eq!(host.vmm("i-1"), vmm);
}

async fn a_disk_without_a_kernel_fails_with_the_reason() {
    let host = Host::started().await;
    host.run_instance("i-nokernel");
    let failed = host.until_state("i-nokernel", InstanceState::Failed).await;
    assert_eq!(failed.code, "ImageBootFailed.NoKernel");
    assert!(failed.message.contains("no kernel in /boot"));
    assert_eq!(failed.boot_epoch, 1);
    host.change("i-nokernel", |i| i.boot_epoch = 2);
    host.until("tried again", |h| {
        h.status("i-nokernel").filter(|s| s.boot_epoch == 2 && s.state() == InstanceState::Failed)
    })
    .await;
    off(&host, "i-nokernel");
    let revision = host.delete("i-nokernel");
    host.until_nothing_is_left(revision).await;
}

async fn a_disk_that_is_not_read_in_time_is_tried_again() {
    let host = Host::started().await;
    host.run_instance("i-busy");
    host.until_running("i-busy", 1).await;
    assert!(host.path("tried").exists());
}

async fn a_boot_finder_left_behind_is_listed_and_ended() {
    let mut host = Host::started().await;
    let registered = |h: &Host| h.seen(|s| (!s.registrations.is_empty()).then_some(()));
    host.until("registered", registered).await;
    let mut stray = std::process::Command::new(host.path("ecs-bootimage"))
        .arg("--instance")
        .arg(host.path("run/vmm/i-gone"))
        .arg("--hang")
        .spawn()
        .unwrap();
    let mut access = host.access().await;
    // A process that has just been started has no arguments to be known by for a moment.
    let mut listed = None;
    for _ in 0..100 {
        let list = access.list_host_objects(ListHostObjectsRequest {}).await.unwrap();
        let objects = list.into_inner().objects;
        listed = objects.into_iter().find(|o| o.name.contains("ecs-bootimage i-gone"));
        if listed.is_some() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let listed = listed.map(|o| (o.kind, o.owner));
    assert_eq!(listed, Some(("process".to_owned(), String::new())));
    drop(access);
    host.kill_agent();
    host.start_agent();
    let status = tokio::task::spawn_blocking(move || stray.wait().unwrap()).await.unwrap();
    assert!(!status.success());
}

async fn a_disk_whose_file_is_gone_fails_with_the_reason() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    off(&host, "i-1");
    host.until_state("i-1", InstanceState::Stopped).await;
    let (disk, away) = (host.path("state/disks/d-1.qcow2"), host.path("away"));
    std::fs::rename(&disk, &away).unwrap();
    let start = |epoch| {
        host.change("i-1", |i| {
            i.power = Power::Running.into();
            i.boot_epoch = epoch;
        })
    };
    start(2);
    let failed = host.until_state("i-1", InstanceState::Failed).await;
    assert_eq!((failed.code.as_str(), failed.boot_epoch), ("DiskMissing", 2));
    std::fs::rename(&away, &disk).unwrap();
    start(3);
    host.until_running("i-1", 3).await;
}

async fn a_damaged_disk_is_not_started_from() {
    use std::os::unix::fs::FileExt as _;
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let path = host.path("state/disks/d-1.qcow2");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut l1 = [0; 8];
    file.read_exact_at(&mut l1, 40).unwrap();
    let l1 = u64::from_be_bytes(l1);
    file.write_all_at(&(1u64 << 40).to_be_bytes(), l1).unwrap();
    host.signal(host.vmm("i-1"), Signal::KILL);
    let failed = host.until_state("i-1", InstanceState::Failed).await;
    assert_eq!(failed.code, "DiskCorrupt");
    host.until("its event", |h| (reboots(h).len() == 1).then_some(())).await;
    let event = &reboots(&host)[0];
    assert!(event.message.contains("signal 9") && event.message.contains("d-1"), "{event:?}");
    // Not by a start either, before it is in order.
    let refused = |h: &Host| {
        h.status("i-1").filter(|s| s.boot_epoch == 2 && s.state() == InstanceState::Failed)
    };
    host.change("i-1", |i| i.boot_epoch = 2);
    host.until("refused again", refused).await;
    assert_eq!(host.starts("i-1"), 1);
    file.write_all_at(&[0; 8], l1).unwrap();
    host.change("i-1", |i| i.boot_epoch = 3);
    host.until_running("i-1", 3).await;
}

async fn a_guest_runs_on_when_its_record_is_lost_or_damaged() {
    let mut host = Host::started().await;
    for id in ["i-lost", "i-damaged"] {
        host.run_instance(id);
        host.until_running(id, 1).await;
        host.change(id, |i| i.boot_epoch = 2);
        host.until_running(id, 2).await;
    }
    let vmms = [host.vmm("i-lost"), host.vmm("i-damaged")];
    host.kill_agent();
    let record = |id: &str| host.path(&format!("state/instances/{id}/record.json"));
    let slot = |id: &str| {
        let json = std::fs::read(record(id)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()["uid_slot"].clone()
    };
    let before = [slot("i-lost"), slot("i-damaged")];
    std::fs::remove_file(record("i-lost")).unwrap();
    std::fs::write(record("i-damaged"), "{").unwrap();
    host.controller.state.seen.lock().unwrap().status = HostStatus::default();
    host.start_agent();
    for id in ["i-lost", "i-damaged"] {
        host.until_running(id, 2).await;
        assert_eq!(host.starts(id), 2);
    }
    assert_eq!([host.vmm("i-lost"), host.vmm("i-damaged")], vmms);
    let record = |id: &str| host.path(&format!("state/instances/{id}/record.json"));
    let slot = |id: &str| {
        let json = std::fs::read(record(id)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()["uid_slot"].clone()
    };
    assert_eq!([slot("i-lost"), slot("i-damaged")], before);
    // How it ends is known too.
    host.signal(vmms[0], Signal::USR1);
    assert!(host.until_state("i-lost", InstanceState::Stopped).await.guest_initiated);
    assert_eq!(reboots(&host), []);
}

async fn a_record_that_cannot_be_read_is_told_of() {
    let mut host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let vmm = host.vmm("i-1");
    host.kill_agent();
    let (record, away) = (host.path("state/instances/i-1/record.json"), host.path("away"));
    std::fs::rename(&record, &away).unwrap();
    std::fs::create_dir(&record).unwrap();
    host.start_agent();
    let told = |h: &Host| h.status("i-1").filter(|s| s.message.contains("record.json"));
    let told = host.until("the reason", told).await;
    assert_eq!(told.code, "HostError");
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&away, &record).unwrap();
    let well = |h: &Host| {
        h.status("i-1").filter(|s| s.state() == InstanceState::Running && s.message.is_empty())
    };
    host.until("it is well again", well).await;
    assert_eq!((host.vmm("i-1"), host.starts("i-1")), (vmm, 1));
}

async fn a_vmm_that_crashes_while_stopping_is_told_of() {
    let host = Host::started().await;
    host.run_instance("i-deaf");
    host.until_running("i-deaf", 1).await;
    off(&host, "i-deaf");
    host.until_state("i-deaf", InstanceState::Stopping).await;
    host.signal(host.vmm("i-deaf"), Signal::KILL);
    host.until_state("i-deaf", InstanceState::Stopped).await;
    let told = |h: &Host| h.seen(|s| s.events.iter().find(|e| e.resource_id == "i-deaf").cloned());
    let event = host.until("its event", told).await;
    assert_eq!(event.r#type, "SystemFailure.Stop");
    assert!(event.message.contains("signal 9"), "{}", event.message);
}

async fn an_image_is_resumed_and_verified() {
    let host = Host::started().await;
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(31) >> 3) as u8).collect();
    let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    host.controller.state.images.lock().unwrap().insert("m-1".into(), bytes.clone());
    *host.controller.state.break_image_after.lock().unwrap() = Some(120_000);
    let image = ImageSpec {
        image_id: "m-1".into(),
        format: "raw".into(),
        file_bytes: bytes.len() as u64,
        sha256: sha256.clone(),
        virtual_bytes: bytes.len() as u64,
    };
    let disk = |id: &str, image: &str| DiskSpec {
        disk_id: id.into(),
        generation: 1,
        size_gib: 1,
        image_id: image.into(),
        ..DiskSpec::default()
    };
    host.controller.publish(|spec| {
        spec.images.push(image.clone());
        spec.disks.push(disk("d-1", "m-1"));
    });
    let state =
        |h: &Host, id: &str| h.seen(|s| s.status.disks.iter().find(|d| d.disk_id == id).cloned());
    host.until("the disk", |h| state(h, "d-1").filter(|d| d.state == "ready")).await;
    assert_eq!(std::fs::read(host.path("state/images/m-1")).unwrap(), bytes);
    let offsets = host.seen(|s| s.image_offsets.clone());
    assert_eq!(offsets.len(), 2, "{offsets:?}");
    assert!(offsets[0] == 0 && offsets[1] > 0 && offsets[1] <= 120_000, "{offsets:?}");

    // The same bytes under a wrong digest never become an image.
    host.controller.state.images.lock().unwrap().insert("m-2".into(), bytes.clone());
    host.controller.publish(|spec| {
        let sha256 = sha256.replace(|c: char| c.is_ascii_digit(), "0");
        spec.images.push(ImageSpec { image_id: "m-2".into(), sha256, ..image.clone() });
        spec.disks.push(disk("d-2", "m-2"));
    });
    let refused = |h: &Host| state(h, "d-2").filter(|d| d.code == "ImageChecksumMismatch");
    host.until("the mismatch", refused).await;
    assert!(!host.path("state/images/m-2").exists());

    let revision = host.controller.publish(|spec| {
        spec.disks.clear();
        spec.images.clear();
    });
    host.until_nothing_is_left(revision).await;
    let gone = |h: &Host| (!h.path("state/images/m-1").exists()).then_some(());
    host.until("the unused image is dropped", gone).await;
}

async fn an_older_spec_is_not_followed() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    // A controller restored from before the instance.
    host.controller.state.spec.send_modify(|spec| {
        spec.instances.clear();
        spec.disks.clear();
        spec.revision = 1;
    });
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(host.pids("i-1", "run").len(), 1);
    assert!(host.path("state/disks/d-1.qcow2").exists());
    // Cleaned up by hand: its owner is not in the controller's spec any more.
    host.signal(host.vmm("i-1"), Signal::STOP);
    host.signal(host.pids("i-1", "keep-vmm")[0], Signal::KILL);
    host.signal(host.vmm("i-1"), Signal::KILL);
}
