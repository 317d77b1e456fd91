//! Disks of guests that run.

use crate::fixture::Host;
use api::host::{DiskSpec, DiskStatus, InstanceState, Power, SnapshotSpec, SnapshotStatus};
use rand::Rng as _;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::sleep;

pub fn disk(host: &Host, id: &str) -> Option<DiskStatus> {
    host.seen(|seen| seen.status.disks.iter().find(|d| d.disk_id == id).cloned())
}

fn add_disk(host: &Host, id: &str) {
    host.controller.publish(|spec| {
        spec.disks.push(DiskSpec {
            disk_id: id.into(),
            generation: 1,
            size_gib: 1,
            iops: 100,
            ..DiskSpec::default()
        });
    });
}

fn change_disk(host: &Host, id: &str, change: impl FnOnce(&mut DiskSpec)) {
    host.controller.publish(|spec| {
        let found = spec.disks.iter_mut().find(|d| d.disk_id == id).unwrap();
        change(found);
        found.generation += 1;
    });
}

pub fn attach(host: &Host, instance: &str, id: &str) {
    host.change(instance, |i| i.disk_ids.push(id.into()));
}

fn detach(host: &Host, instance: &str, id: &str) {
    host.change(instance, |i| i.disk_ids.retain(|d| d != id));
}

pub async fn until_at(host: &Host, id: &str, instance: &str) -> DiskStatus {
    host.until(&format!("{id} at {instance:?}"), |h| {
        disk(h, id).filter(|d| d.state == "ready" && d.attached_instance_id == instance)
    })
    .await
}

pub async fn a_disk_comes_grows_and_goes_while_the_guest_runs() {
    let mut host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let vmm = host.vmm("i-1");
    add_disk(&host, "d-data");
    until_at(&host, "d-data", "").await;
    attach(&host, "i-1", "d-data");
    until_at(&host, "d-data", "i-1").await;

    change_disk(&host, "d-data", |d| {
        d.size_gib = 2;
        d.iops = 700;
    });
    let grown =
        host.until("the new size", |h| disk(h, "d-data").filter(|d| d.size_bytes == 2 << 30)).await;
    assert_eq!(grown.attached_instance_id, "i-1");
    host.until("both in effect", |h| disk(h, "d-data").filter(|d| d.observed_generation == 2))
        .await;
    let counted = |h: &Host| disk(h, "d-data").and_then(|d| d.metrics).filter(|m| m.reads == 5);
    host.until("its counters", counted).await;

    // An agent that starts anew knows who has the disk, and goes on.
    host.kill_agent();
    detach(&host, "i-1", "d-data");
    host.start_agent();
    until_at(&host, "d-data", "").await;
    assert_eq!(host.vmm("i-1"), vmm);
    host.controller.publish(|spec| spec.disks.retain(|d| d.disk_id != "d-data"));
    host.until("its file to go", |h| (!h.path("state/disks/d-data.qcow2").exists()).then_some(()))
        .await;
    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
}

pub async fn a_disk_moves_only_after_the_guest_has_let_it_go() {
    let host = Host::started().await;
    std::fs::write(host.path("cling"), "").unwrap();
    host.run_instance("i-clinging");
    host.run_instance("i-2");
    host.until_running("i-clinging", 1).await;
    host.until_running("i-2", 1).await;
    add_disk(&host, "d-data");
    attach(&host, "i-clinging", "d-data");
    until_at(&host, "d-data", "i-clinging").await;

    detach(&host, "i-clinging", "d-data");
    attach(&host, "i-2", "d-data");
    let told = host
        .until("that the guest does not let go", |h| {
            disk(h, "d-data").filter(|d| d.code == "DetachNotAnswered")
        })
        .await;
    assert_eq!(told.attached_instance_id, "i-clinging");
    assert!(told.message.contains("unmount"), "{}", told.message);
    std::fs::remove_file(host.path("cling")).unwrap();
    let moved = until_at(&host, "d-data", "i-2").await;
    assert_eq!(moved.code, "");
    // The end of a VMM frees its disks at once.
    detach(&host, "i-2", "d-data");
    host.signal(host.vmm("i-2"), Signal::KILL);
    until_at(&host, "d-data", "").await;
}

pub async fn a_stopped_instance_has_its_disks_at_its_next_start() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.change("i-1", |i| i.power = Power::Stopped.into());
    host.until_state("i-1", InstanceState::Stopped).await;
    add_disk(&host, "d-data");
    attach(&host, "i-1", "d-data");
    until_at(&host, "d-data", "i-1").await;
    change_disk(&host, "d-data", |d| d.size_gib = 3);
    host.until("the new size", |h| disk(h, "d-data").filter(|d| d.size_bytes == 3 << 30)).await;
    host.change("i-1", |i| {
        i.power = Power::Running.into();
        i.boot_epoch = 2;
    });
    host.until_running("i-1", 2).await;
    let has = |h: &Host| disk(h, "d-data").filter(|d| d.metrics.is_some());
    let status = host.until("it in the new VMM", has).await;
    assert_eq!((status.attached_instance_id.as_str(), status.observed_generation), ("i-1", 2));
}

fn snapshot(host: &Host, id: &str) -> Option<SnapshotStatus> {
    host.seen(|seen| seen.status.snapshots.iter().find(|s| s.snapshot_id == id).cloned())
}

pub async fn snapshots_of_a_running_guest_survive_agents_killed_at_any_moment() {
    const SNAPSHOTS: usize = 12;
    let mut host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let vmm = host.vmm("i-1");
    let taken = |h: &Host, id: &str| snapshot(h, id).filter(|s| s.state == "accomplished");
    for number in 0..SNAPSHOTS {
        let id = format!("s-{number}");
        host.controller.publish(|spec| {
            spec.snapshots.push(SnapshotSpec {
                snapshot_id: id.clone(),
                disk_id: "d-1".into(),
                disk_size_gib: 1,
                ..SnapshotSpec::default()
            });
        });
        if number % 2 == 0 {
            sleep(Duration::from_millis(rand::rng().random_range(0..60))).await;
            host.kill_agent();
            host.start_agent();
        }
        let status = host.until(&id, |h| taken(h, &id)).await;
        assert!(status.taken_unix_ms > 0);
        if number == 1 {
            assert_eq!(status.paused_ns, 1234);
        }
    }
    assert_eq!(host.vmm("i-1"), vmm);
    let mut layers: Vec<_> = std::fs::read_dir(host.path("state/layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    layers.sort();
    assert_eq!(layers.len(), SNAPSHOTS, "{layers:?}");
    assert!(!host.path("state/disks/d-1.next").exists());

    // Wherever the agent was killed, the chain is whole: each names the one before.
    for number in 0..SNAPSHOTS {
        let file = std::fs::File::open(host.path(&format!("state/layers/s-{number}.qcow2")));
        let below = qcow2::probe(&file.unwrap()).unwrap().backing_name;
        let wanted = number.checked_sub(1).map(|n| format!("../layers/s-{n}.qcow2"));
        assert_eq!(below, wanted, "s-{number}");
    }
    host.controller.publish(|spec| spec.snapshots.clear());
    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
    let left = std::fs::read_dir(host.path("state/layers")).unwrap().count();
    assert_eq!(left, 0);
}
