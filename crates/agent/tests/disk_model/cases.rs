//! Single faults, and what guest and people see of them.

use crate::{
    content::Disk,
    faults::Fault,
    world::{INSTANCE, SYSTEM, World, disk_spec, snapshot_spec},
};
use api::host::HostEvent;
use qcow2::faults::Call;
use std::time::Duration;

fn started() -> World {
    let mut w = World::new(1);
    w.look(None);
    assert!(w.start_machine());
    w.look(None);
    w
}

fn event(w: &World, kind: &str) -> Option<HostEvent> {
    w.host().events.pending().into_iter().find(|e| e.r#type == kind)
}

/// The guest writes where the disk has nothing yet; true if it waits for room.
fn write_waits(w: &mut World) -> bool {
    assert!(w.ask(SYSTEM, 300 << 20, 32 << 10, 1));
    let (failed, waiting) = w.answers();
    assert!(failed.is_empty());
    !waiting.is_empty()
}

#[test]
fn a_full_pool_makes_guests_wait_and_is_told_with_disk_pool_and_remedy() {
    let mut w = started();
    w.pool.fill(0);
    assert!(write_waits(&mut w));
    assert!(w.ask(SYSTEM, 0, 4096, 0), "what needs no room goes on");
    let (failed, waiting) = w.answers();
    assert_eq!((failed.len(), waiting.as_slice()), (0, [SYSTEM.to_owned()].as_slice()));
    w.look(None);
    let status = w.status(SYSTEM).unwrap();
    assert_eq!((status.state.as_str(), status.code.as_str()), ("ready", "DiskOutOfSpace"));
    let pool = w.layout.disks().display().to_string();
    for part in [SYSTEM, &pool, "delete disks or snapshots"] {
        assert!(status.message.contains(part), "{}", status.message);
    }
    // Its own events have no room either, until there is some.
    w.pool.make_room();
    while !w.answers().1.is_empty() {}
    w.look(None);
    assert_eq!(w.status(SYSTEM).unwrap().code, "");
    let told = event(&w, "DiskOutOfSpace").unwrap();
    assert_eq!((told.resource_id.as_str(), &told.message), (INSTANCE, &status.message));
    assert_eq!(event(&w, "DiskIoError"), None);
    w.read_everything();
}

#[test]
fn a_disk_without_room_is_told_of_though_the_instances_record_has_no_room_either() {
    let mut w = started();
    w.spec.disks.push(disk_spec("d-2"));
    w.disks.insert("d-2".into(), Default::default());
    w.publish();
    w.look(None);
    w.pool.fill(0);
    assert!(write_waits(&mut w));
    // To be noted in the record before it is done.
    w.spec.instances[0].disk_ids.push("d-2".into());
    w.publish();
    w.look(None);
    assert_eq!(w.status(SYSTEM).unwrap().code, "DiskOutOfSpace");
    w.pool.make_room();
    while !w.answers().1.is_empty() {}
    w.look(None);
    w.look(None);
    assert_eq!(w.usable().len(), 2);
}

#[test]
fn a_snapshot_without_room_says_so_and_is_taken_once_there_is() {
    let mut w = started();
    assert!(!write_waits(&mut w));
    w.pool.fill(0);
    w.take("s-1", SYSTEM);
    w.look(None);
    let told = w.snapshot_statuses().remove(0);
    assert_eq!(told.state, "progressing");
    assert!(["No space left", "s-1"].iter().all(|part| told.message.contains(part)), "{told:?}");
    w.pool.make_room();
    w.look(None);
    assert_eq!(w.snapshot_statuses()[0].state, "accomplished");
    w.compare_snapshot("s-1");
}

#[test]
fn an_io_error_reaches_the_guest_and_people() {
    let mut w = started();
    w.faults.set(Fault::Eio { call: Call::Write, each: 1 });
    assert!(w.ask(SYSTEM, 0, 4096, 1));
    assert_eq!(w.answers(), (vec![SYSTEM.to_owned()], vec![]));
    w.look(None);
    let status = w.status(SYSTEM).unwrap();
    assert_eq!(status.code, "DiskIoError");
    assert!(status.message.contains("Input/output error"), "{}", status.message);
    let told = event(&w, "DiskIoError").unwrap();
    assert_eq!((told.resource_id.as_str(), &told.message), (INSTANCE, &status.message));
    // A second one soon after is the same trouble.
    assert!(w.ask(SYSTEM, 0, 4096, 1));
    assert_eq!(w.answers().0.len(), 1);
    std::thread::sleep(Duration::from_millis(2));
    w.look(None);
    assert_eq!(w.host().events.pending().len(), 1);
    w.faults.set(Fault::None);
    assert!(w.ask(SYSTEM, 0, 4096, 1));
    assert!(w.answers().0.is_empty());
    w.read_everything();
}

#[test]
fn a_layer_that_cannot_be_read_for_a_moment_is_not_taken_for_damaged() {
    let mut w = started();
    w.take("s-1", SYSTEM);
    w.look(None);
    let mut disk = disk_spec("d-2");
    disk.source_snapshot_id = "s-1".into();
    w.spec.disks.push(disk);
    w.disks.insert("d-2".into(), Disk::of(w.snapshots["s-1"].content.clone().unwrap()));
    w.publish();
    w.faults.set(Fault::Eio { call: Call::Read, each: 1 });
    w.look(None);
    let status = w.status("d-2").unwrap();
    assert_eq!((status.state.as_str(), status.code.as_str()), ("failed", "SnapshotReadFailed"));
    assert!(status.message.starts_with("d-2: "), "{}", status.message);
    w.faults.set(Fault::None);
    w.look(None);
    assert_eq!(w.status("d-2").unwrap().state, "ready");
    w.compare_disk("d-2");
}

#[test]
fn short_transfers_are_finished() {
    let mut w = started();
    w.faults.set(Fault::Short { bytes: 700 });
    assert!(!write_waits(&mut w));
    w.read_everything();
    w.kill_machine();
    w.compare_disk(SYSTEM);
}

impl World {
    fn take(&mut self, id: &str, disk_id: &str) {
        use crate::world::Snapshot;
        self.spec.snapshots.push(snapshot_spec(id, disk_id));
        let snapshot = Snapshot { disk_id: disk_id.into(), size_gib: 1, content: None };
        self.snapshots.insert(id.into(), snapshot);
        self.publish();
    }
}
