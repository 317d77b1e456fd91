//! Disks of guests that run.

use crate::fixture::Host;
use api::host::{
    DiskSpec, DiskStatus, InstanceState, Power, ReadSnapshotRequest, SnapshotSpec, SnapshotStatus,
    read_snapshot_part::Part,
};
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

/// Takes a snapshot's stream in, as the controller does.
async fn read(host: &Host, id: &str) -> Result<std::fs::File, tonic::Status> {
    use sha2::Digest as _;
    use std::os::unix::fs::FileExt as _;
    let request = ReadSnapshotRequest { snapshot_id: id.into() };
    let mut stream = host.access().await.read_snapshot(request).await?.into_inner();
    let file = tempfile::tempfile().unwrap();
    let mut digest = sha2::Sha256::new();
    while let Some(part) = stream.message().await? {
        match part.part.unwrap() {
            Part::Piece(piece) => {
                assert!(piece.percent <= 100);
                digest.update(&piece.data);
                file.write_all_at(&piece.data, piece.offset).unwrap();
            }
            Part::End(end) => {
                assert_eq!(file.metadata().unwrap().len(), end.file_bytes);
                let found: String =
                    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(end.sha256, found);
                return Ok(file);
            }
        }
    }
    panic!("no end");
}

pub async fn a_snapshots_content_is_one_file() {
    let host = Host::started().await;
    add_disk(&host, "d-data");
    until_at(&host, "d-data", "").await;
    let write = |at: u64, byte: u8| {
        let path = host.path("state/disks/d-data.qcow2");
        let top = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut layers = vec![qcow2::Layer { file: top, format: qcow2::Format::Qcow2 }];
        if let Ok(below) = std::fs::File::open(host.path("state/layers/s-1.qcow2")) {
            layers.push(qcow2::Layer { file: below, format: qcow2::Format::Qcow2 });
        }
        let image = qcow2::Image::open(layers, qcow2::OpenOptions::default()).unwrap();
        image.write_at(&[byte; 100_000], at).unwrap();
        image.flush().unwrap();
    };
    for (id, byte) in [("s-1", 1), ("s-2", 2)] {
        write(1 << 20, byte);
        write(u64::from(byte) << 28, byte);
        host.controller.publish(|spec| {
            spec.snapshots.push(SnapshotSpec {
                snapshot_id: id.into(),
                disk_id: "d-data".into(),
                disk_size_gib: 1,
                ..SnapshotSpec::default()
            });
        });
        host.until(id, |h| snapshot(h, id).filter(|s| s.state == "accomplished")).await;
    }
    let expected = [("s-1", [1, 1, 0]), ("s-2", [2, 1, 2])];
    for (id, bytes) in expected {
        let file = read(&host, id).await.unwrap();
        let report = qcow2::check(&file).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0));
        let layer = qcow2::Layer { file, format: qcow2::Format::Qcow2 };
        let image =
            qcow2::Image::open(vec![layer], qcow2::OpenOptions { read_only: true }).unwrap();
        assert_eq!(image.virtual_size(), 1 << 30);
        for (at, byte) in [1 << 20, 1 << 28, 2 << 28].into_iter().zip(bytes) {
            let mut content = vec![9; 100_000];
            image.read_at(&mut content, at).unwrap();
            assert!(content.iter().all(|b| *b == byte), "{id} at {at}");
        }
    }
    let code = |status: tonic::Status| api::error::ecs_code(&status).unwrap_or_default();
    assert_eq!(code(read(&host, "s-3").await.unwrap_err()), "SnapshotMissing");
    assert_eq!(code(read(&host, "../disks/d-data").await.unwrap_err()), "InvalidParameter");
    // Whoever does not listen any more holds nothing.
    for _ in 0..8 {
        let request = ReadSnapshotRequest { snapshot_id: "s-2".into() };
        let _ = host.access().await.read_snapshot(request).await;
    }
    let free = tokio::time::timeout(Duration::from_secs(20), async {
        while let Err(status) = read(&host, "s-2").await {
            assert_eq!(code(status), "HostBusy");
            sleep(Duration::from_millis(20)).await;
        }
    });
    free.await.unwrap();
    std::fs::File::options()
        .write(true)
        .open(host.path("state/layers/s-1.qcow2"))
        .unwrap()
        .set_len(1000)
        .unwrap();
    assert_eq!(code(read(&host, "s-2").await.unwrap_err()), "SnapshotDamaged");
}
