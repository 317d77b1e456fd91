use super::keys::none as keys;
use super::*;
use api::host::{DiskEncryption, DiskStatus, ImageSpec, InstanceSpec, SnapshotSpec};
use std::fs::{self, OpenOptions};

fn disk(id: &str, image: &str, size_gib: u64) -> DiskSpec {
    DiskSpec {
        disk_id: id.into(),
        generation: 4,
        size_gib,
        image_id: image.into(),
        ..DiskSpec::default()
    }
}

fn open(layout: &Layout) -> Result<Disks> {
    Disks::open_in(layout.clone(), "pool-1", true, Arc::default(), keys())
}

fn image(id: &str, virtual_bytes: u64) -> ImageSpec {
    ImageSpec { image_id: id.into(), format: "raw".into(), virtual_bytes, ..ImageSpec::default() }
}

struct Fixture {
    _dir: tempfile::TempDir,
    layout: Layout,
    disks: Disks,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        layout.create().unwrap();
        Self { _dir: dir, disks: open(&layout).unwrap(), layout }
    }

    fn reconcile(&self, spec: &HostSpec) -> bool {
        let missing = |id: &str| {
            (!self.layout.image(id).exists())
                .then(|| Error::resource(id, "ImageNotReady", "being copied"))
        };
        self.disks.reconcile(spec, missing).unwrap()
    }

    fn state(&self, id: &str) -> (String, String) {
        let all = self.disks.report(None);
        let disk = all.iter().find(|d| d.disk_id == id).unwrap();
        (disk.state.clone(), disk.code.clone())
    }
}

#[test]
fn an_overlay_waits_for_its_image_and_names_it() {
    let f = Fixture::new();
    let spec = HostSpec {
        disks: vec![disk("d-1", "m-1", 1)],
        images: vec![image("m-1", 1 << 20)],
        ..HostSpec::default()
    };
    assert!(f.reconcile(&spec));
    assert_eq!(f.state("d-1"), ("failed".into(), "ImageNotReady".into()));
    assert_eq!(f.disks.open(&spec, "d-1", true).unwrap_err().code(), "ImageNotReady");
    fs::write(f.layout.image("m-1"), [0; 512]).unwrap();
    assert!(f.reconcile(&spec));
    assert_eq!(f.state("d-1"), ("ready".into(), String::new()));
    let info = qcow2::probe(&File::open(f.layout.disk("d-1")).unwrap()).unwrap();
    assert_eq!(info.virtual_size, 1 << 30);
    assert_eq!(info.backing_name.as_deref(), Some("../images/m-1"));
    let layers = f.disks.open(&spec, "d-1", true).unwrap();
    let formats: Vec<DiskFormat> = layers.layers.iter().map(|l| l.format).collect();
    assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Raw]);
    assert_eq!(f.disks.mend("d-1").unwrap(), None);
    // Made once: a second pass leaves it alone.
    assert!(!f.reconcile(&spec));
}

#[test]
fn a_disk_goes_with_the_spec_but_not_under_a_running_guest() {
    let f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    let leftover = f.layout.disks().join("d-2.qcow2.part");
    fs::write(&leftover, "half").unwrap();
    let empty = HostSpec::default();
    let vmms = f.disks.open(&spec, "d-1", true).unwrap();
    f.reconcile(&empty);
    assert!(f.layout.disk("d-1").exists() && !leftover.exists());
    assert_eq!(f.disks.report(None).len(), 1);
    drop(vmms);
    f.reconcile(&empty);
    assert!(!f.layout.disk("d-1").exists());
    assert!(f.disks.report(None).is_empty());
}

#[test]
fn an_encrypted_disk_needs_its_master_key_and_its_layers_keep_its_data_key() {
    use kms::KeyManagement as _;
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let f = Fixture::new();
    let folder = f._dir.path().join("kms");
    fs::create_dir(&folder).unwrap();
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    options.open(folder.join("k.key")).unwrap().write_all(&b"1f".repeat(32)).unwrap();
    let service = kms::KeyFolder::new(&folder);
    let key = service.generate_data_key("k").unwrap();
    let clear = service.unwrap_data_key(&key).unwrap().passphrase();
    let encryption = Some(DiskEncryption { kms_key_id: key.key_id, wrapped_key: key.wrapped });
    let encrypted = DiskSpec { encryption, ..disk("d-1", "", 1) };
    let mut spec = HostSpec { disks: vec![encrypted], ..HostSpec::default() };
    f.reconcile(&spec);
    assert_eq!(f.state("d-1"), ("failed".into(), "KmsKeyUnavailable".into()));
    assert!(!f.layout.disk("d-1").exists());

    let keys = Keys::new(Arc::new(service));
    let open =
        |keys| Disks::open_in(f.layout.clone(), "pool-1", true, Arc::default(), keys).unwrap();
    let disks = open(keys);
    disks.reconcile(&spec, |_| None).unwrap();
    spec.snapshots.push(SnapshotSpec {
        snapshot_id: "s-1".into(),
        disk_id: "d-1".into(),
        ..SnapshotSpec::default()
    });
    disks.reconcile(&spec, |_| None).unwrap();
    for path in [f.layout.disk("d-1"), f.layout.layer("s-1")] {
        assert!(qcow2::probe(&File::open(path).unwrap()).unwrap().encrypted);
    }
    let expected = Passphrase::new(clear.to_vec());
    assert!(disks.open_snapshot("s-1").unwrap().key == Some(expected.clone()));
    assert!(disks.open(&spec, "d-1", true).unwrap().key == Some(expected));
    let account = fs::read(f.layout.layering()).unwrap();
    assert!(!account.windows(clear.len()).any(|part| part == clear.as_slice()));
    // On a host without the key it is there, and nobody opens it.
    let without = open(super::keys::none());
    let refused = without.open(&spec, "d-1", true).unwrap_err();
    assert_ne!(refused.code(), "");
    assert_eq!(without.open_snapshot("s-1").unwrap_err().code(), "KmsKeyUnavailable");
}

#[test]
fn a_disk_smaller_than_its_image_is_refused_with_the_reason() {
    let f = Fixture::new();
    fs::write(f.layout.image("m-1"), [0; 512]).unwrap();
    let spec = HostSpec {
        disks: vec![disk("d-1", "m-1", 1), disk("d-2", "m-2", 1)],
        images: vec![image("m-1", 2 << 30)],
        ..HostSpec::default()
    };
    f.reconcile(&spec);
    assert_eq!(f.state("d-1"), ("failed".into(), "InvalidDiskSize.TooSmall".into()));
    assert_eq!(f.state("d-2"), ("failed".into(), "ImageNotReady".into()));
    assert!(!f.layout.disk("d-1").exists());
}

#[test]
fn a_disk_that_was_lost_does_not_come_back_empty() {
    let mut f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    fs::remove_file(f.layout.disk("d-1")).unwrap();
    f.disks = open(&f.layout).unwrap();
    f.reconcile(&spec);
    assert_eq!(f.state("d-1"), ("failed".into(), "DiskMissing".into()));
    assert!(!f.layout.disk("d-1").exists());
    // Deleted and made anew is another matter.
    f.reconcile(&HostSpec::default());
    f.reconcile(&spec);
    assert_eq!(f.state("d-1"), ("ready".into(), String::new()));
}

#[test]
fn after_a_crash_leaks_are_given_back_and_contradictions_are_refused() {
    use std::os::unix::fs::FileExt as _;
    let f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    let file = OpenOptions::new().read(true).write(true).open(f.layout.disk("d-1")).unwrap();
    let read = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    // A cluster with a count of 1 that nothing refers to, as of a write that was cut off.
    const CLUSTER: u64 = 64 << 10;
    let clusters = file.metadata().unwrap().len().div_ceil(CLUSTER);
    file.set_len((clusters + 1) * CLUSTER).unwrap();
    let counts = read(read(48));
    file.write_all_at(&1u16.to_be_bytes(), counts + 2 * clusters).unwrap();
    assert_eq!(qcow2::check(&file).unwrap().leaks, 1);
    let done = f.disks.mend("d-1").unwrap().unwrap();
    assert!(done.contains("d-1: 1 unused"), "{done}");
    let report = qcow2::check(&file).unwrap();
    assert_eq!((report.leaks, report.corruptions), (0, 0));
    assert_eq!(f.disks.mend("d-1").unwrap(), None);

    // The first L1 entry leads beyond the end of the file.
    file.write_all_at(&(CLUSTER << 20).to_be_bytes(), read(40)).unwrap();
    let refused = f.disks.mend("d-1").unwrap_err();
    assert_eq!(refused.code(), "DiskCorrupt");
    assert!(refused.is_permanent());
    assert!(refused.to_string().contains("qemu-img check -r all"), "{refused}");
}

impl Fixture {
    fn status(&self, spec: &HostSpec, id: &str) -> DiskStatus {
        self.disks.report(Some(spec)).into_iter().find(|d| d.disk_id == id).unwrap()
    }

    fn image(&self, spec: &HostSpec, id: &str) -> std::sync::Arc<qcow2::Image> {
        let chain = self.disks.open(spec, id, true).unwrap().layers.into_iter();
        let layers = chain
            .map(|l| qcow2::Layer { file: l.file, format: sources::qcow2_format(l.format) })
            .collect();
        qcow2::Image::open(layers, qcow2::OpenOptions::default()).unwrap()
    }

    fn write(&self, spec: &HostSpec, id: &str, offset: u64, byte: u8) {
        let image = self.image(spec, id);
        image.write_at(&[byte; 4096], offset).unwrap();
        image.flush().unwrap();
    }

    fn read(&self, spec: &HostSpec, id: &str, offset: u64) -> u8 {
        let mut bytes = [0; 4096];
        self.image(spec, id).read_at(&mut bytes, offset).unwrap();
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        bytes[0]
    }

    /// As after a restart of the agent.
    fn reopen(&mut self) {
        self.disks = open(&self.layout).unwrap();
    }
}

fn snapshot(id: &str, disk_id: &str) -> SnapshotSpec {
    SnapshotSpec {
        snapshot_id: id.into(),
        disk_id: disk_id.into(),
        disk_size_gib: 1,
        ..Default::default()
    }
}

#[test]
fn a_disk_that_no_vmm_has_grows_and_one_in_use_is_left_to_its_vmm() {
    let f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    assert_eq!(f.status(&spec, "d-1").observed_generation, 4);
    f.write(&spec, "d-1", 0, 7);
    spec.disks[0].size_gib = 3;
    spec.disks[0].generation = 5;
    let held = f.disks.open(&spec, "d-1", true).unwrap();
    assert_eq!(f.disks.open(&spec, "d-1", true).unwrap_err().code(), "DiskBusy");
    f.reconcile(&spec);
    let status = f.status(&spec, "d-1");
    assert_eq!((status.size_bytes, status.observed_generation), (1 << 30, 4));
    drop(held);
    f.reconcile(&spec);
    let status = f.status(&spec, "d-1");
    assert_eq!((status.size_bytes, status.observed_generation), (3 << 30, 5));
    assert_eq!((f.read(&spec, "d-1", 0), f.read(&spec, "d-1", (3 << 30) - 4096)), (7, 0));
    // Never smaller.
    spec.disks[0].size_gib = 2;
    f.reconcile(&spec);
    assert_eq!(f.status(&spec, "d-1").size_bytes, 3 << 30);
}

#[test]
fn a_disk_has_a_place_in_the_instance_that_wants_it() {
    let f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "");
    spec.instances.push(InstanceSpec {
        instance_id: "i-1".into(),
        disk_ids: vec!["d-s".into(), "d-1".into()],
        ..InstanceSpec::default()
    });
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "i-1");
    // Its VMM lives and does not have the disk yet; then it has.
    f.disks.attachments().set("i-1", DisksOfVmm::presumed(&["d-s".into()]));
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "");
    f.disks.attachments().set("i-1", DisksOfVmm::presumed(&["d-s".into(), "d-1".into()]));
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "i-1");
    // Not wanted any more, and still there.
    spec.instances[0].disk_ids.pop();
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "i-1");
    f.disks.attachments().clear("i-1");
    assert_eq!(f.status(&spec, "d-1").attached_instance_id, "");
}

#[test]
fn snapshots_keep_what_was_and_disks_are_made_from_and_set_back_to_them() {
    let mut f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    f.write(&spec, "d-1", 0, 1);
    spec.snapshots.push(snapshot("s-1", "d-1"));
    f.reconcile(&spec);
    f.write(&spec, "d-1", 0, 2);
    spec.snapshots.push(snapshot("s-2", "d-1"));
    f.reconcile(&spec);
    f.write(&spec, "d-1", 0, 3);
    let told = f.disks.report_snapshots(&spec);
    assert!(told.iter().all(|s| s.state == "accomplished" && s.taken_unix_ms > 0), "{told:?}");
    assert_eq!(told[0].changed_bytes, 64 << 10);

    let mut clone = disk("d-2", "", 1);
    clone.source_snapshot_id = "s-1".into();
    spec.disks.push(clone);
    f.reconcile(&spec);
    assert_eq!((f.read(&spec, "d-2", 0), f.read(&spec, "d-1", 0)), (1, 3));
    spec.disks[0].source_snapshot_id = "s-2".into();
    spec.disks[0].content_epoch = 1;
    f.reconcile(&spec);
    assert_eq!((f.read(&spec, "d-1", 0), f.status(&spec, "d-1").content_epoch), (2, 1));
    f.reopen();
    f.reconcile(&spec);
    assert_eq!((f.read(&spec, "d-1", 0), f.read(&spec, "d-2", 0)), (2, 1));

    // Deleted snapshots stay as layers for as long as anything lies on them.
    spec.snapshots.clear();
    spec.disks.retain(|d| d.disk_id == "d-2");
    f.reconcile(&spec);
    assert_eq!(names_in(&f.layout.layers()).unwrap(), ["s-1.qcow2"]);
    assert_eq!(f.read(&spec, "d-2", 0), 1);
    f.reconcile(&HostSpec::default());
    assert_eq!(names_in(&f.layout.layers()).unwrap(), Vec::<String>::new());
}

#[test]
fn a_snapshot_outlives_its_disk_but_one_of_a_deleted_disk_is_never_taken() {
    let f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    spec.snapshots.push(snapshot("s-1", "d-1"));
    f.reconcile(&spec);
    spec.disks.clear();
    f.reconcile(&spec);
    spec.snapshots.push(snapshot("s-2", "d-1"));
    f.reconcile(&spec);
    let states: Vec<_> = f
        .disks
        .report_snapshots(&spec)
        .into_iter()
        .map(|s| (s.snapshot_id, s.state, s.code))
        .collect();
    let told = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        states,
        [told("s-1", "accomplished", ""), told("s-2", "failed", "InvalidDiskId.NotFound")]
    );
}

#[test]
fn a_snapshot_of_a_disk_in_use_is_its_vmms_and_finished_wherever_it_was_cut_off() {
    // What the VMM has done and which renames were made when the agent was killed.
    for cut in 0..3 {
        let mut f = Fixture::new();
        let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
        f.reconcile(&spec);
        f.write(&spec, "d-1", 0, 1);
        spec.snapshots.push(snapshot("s-1", "d-1"));
        let vmm = f.disks.open(&spec, "d-1", true).unwrap();
        f.reconcile(&spec);
        assert_eq!(f.disks.report_snapshots(&spec)[0].state, "progressing");
        assert_eq!(f.disks.snapshot_to_take(&spec, "d-1").as_deref(), Some("s-1"));
        let frozen = f.disks.prepare_freeze("d-1", "s-1").unwrap();
        assert_eq!(frozen.below.chain_epoch, vmm.chain_epoch + 1);
        assert_eq!(frozen.below.layers.len(), 1);
        // Asked again before the VMM let go of the descriptors it was sent.
        assert_eq!(f.disks.prepare_freeze("d-1", "s-1").unwrap_err().code(), "DiskBusy");
        drop(vmm);
        // The VMM writes to the new top.
        let below = frozen.below.layers.into_iter().next().unwrap();
        let layers = [frozen.top, below]
            .map(|l| qcow2::Layer { file: l.file, format: qcow2::Format::Qcow2 });
        let image = qcow2::Image::open(layers.into(), qcow2::OpenOptions::default()).unwrap();
        image.write_at(&[2; 4096], 0).unwrap();
        drop(image);
        let (top, next) = (f.layout.disk("d-1"), f.layout.next_top("d-1"));
        if cut > 0 {
            fs::rename(&top, f.layout.layer("s-1")).unwrap();
        }
        if cut > 1 {
            fs::rename(&next, &top).unwrap();
        }
        f.reopen();
        f.reconcile(&spec);
        assert_eq!(f.disks.report_snapshots(&spec)[0].state, "accomplished", "cut {cut}");
        assert_eq!(f.read(&spec, "d-1", 0), 2, "cut {cut}");
        spec.disks[0].source_snapshot_id = "s-1".into();
        spec.disks[0].content_epoch = 1;
        f.reconcile(&spec);
        assert_eq!(f.read(&spec, "d-1", 0), 1, "cut {cut}");
        assert!(!next.exists());
    }
}

#[test]
fn layers_without_their_account_are_not_taken_for_strays() {
    let f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    spec.snapshots.push(snapshot("s-1", "d-1"));
    f.reconcile(&spec);
    fs::remove_file(f.layout.layering()).unwrap();
    let refused = open(&f.layout).unwrap_err();
    assert!(refused.to_string().contains("put a copy of it back"), "{refused}");
}

#[test]
fn a_deleted_snapshot_in_the_middle_is_merged_and_everything_reads_as_before() {
    let mut f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    const CLUSTER: u64 = 64 << 10;
    for (number, id) in (1u8..).zip(["s-1", "s-2", "s-3"]) {
        f.write(&spec, "d-1", 0, number);
        f.write(&spec, "d-1", u64::from(number) * CLUSTER, number);
        spec.snapshots.push(snapshot(id, "d-1"));
        f.reconcile(&spec);
    }
    let mut clone = disk("d-3", "", 1);
    clone.source_snapshot_id = "s-3".into();
    spec.disks.push(clone);
    f.reconcile(&spec);
    assert!(!f.disks.merge_next(&spec, || None).unwrap(), "nothing was deleted");

    let before = f.disks.chain_epoch("d-1").unwrap();
    spec.snapshots.retain(|s| s.snapshot_id != "s-2");
    // A snapshot is being taken: what its VMM is given must stay what the account says.
    spec.snapshots.push(snapshot("s-4", "d-1"));
    let vmm = f.disks.open(&spec, "d-1", true).unwrap();
    let frozen = f.disks.prepare_freeze("d-1", "s-4").unwrap();
    assert_eq!(f.disks.merge_next(&spec, || None).unwrap_err().code(), "DiskBusy");
    assert!(f.layout.layer("s-2").exists());
    drop((vmm, frozen));
    f.disks.finish_freeze("d-1", 0).unwrap();
    f.reopen();
    f.reconcile(&spec);
    assert!(f.disks.merge_next(&spec, || None).unwrap());
    assert!(!f.disks.merge_next(&spec, || None).unwrap());
    assert_eq!(names_in(&f.layout.layers()).unwrap(), ["s-1.qcow2", "s-3.qcow2", "s-4.qcow2"]);
    assert_eq!(f.disks.chain_epoch("d-1"), Some(before + 2));
    let told = f.disks.report_snapshots(&spec);
    assert_eq!(told[1].snapshot_id, "s-3");
    assert_eq!(told[1].changed_bytes, 3 * CLUSTER, "its own two, and one of the deleted");

    let read = |id: &str| [0, 1, 2, 3].map(|n| f.read(&spec, id, n * CLUSTER));
    assert_eq!((read("d-1"), read("d-3")), ([3, 1, 2, 3], [3, 1, 2, 3]));
    let file = File::open(f.layout.layer("s-3")).unwrap();
    let below = qcow2::probe(&file).unwrap().backing_name;
    assert_eq!(below.as_deref(), Some("../layers/s-1.qcow2"));
}

#[test]
fn a_merge_that_could_not_be_noted_takes_no_layer_away() {
    let mut f = Fixture::new();
    let mut spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec);
    for (number, id) in (1u8..).zip(["s-1", "s-2"]) {
        f.write(&spec, "d-1", u64::from(number) << 20, number);
        spec.snapshots.push(snapshot(id, "d-1"));
        f.reconcile(&spec);
    }
    spec.snapshots.remove(0);
    // In the way of the account's new version, as a full file system would be.
    let in_the_way = f.layout.layering().with_extension("json.part");
    fs::create_dir(&in_the_way).unwrap();
    f.disks.merge_next(&spec, || None).unwrap_err();
    f.reconcile(&spec);
    f.reopen();
    f.reconcile(&spec);
    assert_eq!((f.read(&spec, "d-1", 1 << 20), f.read(&spec, "d-1", 2 << 20)), (1, 2));
    fs::remove_dir(in_the_way).unwrap();
    assert!(f.disks.merge_next(&spec, || None).unwrap());
    assert_eq!(names_in(&f.layout.layers()).unwrap(), ["s-2.qcow2"]);
    f.reopen();
    f.reconcile(&spec);
    assert_eq!((f.read(&spec, "d-1", 1 << 20), f.read(&spec, "d-1", 2 << 20)), (1, 2));
}
