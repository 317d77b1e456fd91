use super::*;

fn disk(id: &str, image: &str, size_gib: u64) -> DiskSpec {
    DiskSpec {
        disk_id: id.into(),
        generation: 4,
        size_gib,
        image_id: image.into(),
        ..DiskSpec::default()
    }
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
        Self { _dir: dir, disks: Disks::open_all(layout.clone()).unwrap(), layout }
    }

    fn reconcile(&self, spec: &HostSpec, in_use: &[&str]) -> bool {
        let missing = |id: &str| {
            (!self.layout.image(id).exists())
                .then(|| Error::resource(id, "ImageNotReady", "being copied"))
        };
        let in_use = in_use.iter().map(|s| (*s).to_owned()).collect();
        self.disks.reconcile(spec, missing, || Ok(in_use)).unwrap()
    }

    fn state(&self, id: &str) -> (String, String) {
        let all = self.disks.report();
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
    assert!(f.reconcile(&spec, &[]));
    assert_eq!(f.state("d-1"), ("failed".into(), "ImageNotReady".into()));
    assert_eq!(f.disks.open(&spec, "d-1", true).unwrap_err().code(), "ImageNotReady");
    fs::write(f.layout.image("m-1"), [0; 512]).unwrap();
    assert!(f.reconcile(&spec, &[]));
    assert_eq!(f.state("d-1"), ("ready".into(), String::new()));
    let info = qcow2::probe(&File::open(f.layout.disk("d-1")).unwrap()).unwrap();
    assert_eq!(info.virtual_size, 1 << 30);
    assert_eq!(info.backing_name.as_deref(), Some("../images/m-1"));
    let layers = f.disks.open(&spec, "d-1", true).unwrap();
    let formats: Vec<DiskFormat> = layers.iter().map(|l| l.format).collect();
    assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Raw]);
    assert_eq!(f.disks.mend("d-1").unwrap(), None);
    // Made once: a second pass leaves it alone.
    assert!(!f.reconcile(&spec, &[]));
}

#[test]
fn a_disk_goes_with_the_spec_but_not_under_a_running_guest() {
    let f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec, &[]);
    let leftover = f.layout.disks().join("d-2.qcow2.part");
    fs::write(&leftover, "half").unwrap();
    let empty = HostSpec::default();
    f.reconcile(&empty, &["d-1"]);
    assert!(f.layout.disk("d-1").exists() && !leftover.exists());
    assert_eq!(f.disks.report().len(), 1);
    f.reconcile(&empty, &[]);
    assert!(!f.layout.disk("d-1").exists());
    assert!(f.disks.report().is_empty());
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
    f.reconcile(&spec, &[]);
    assert_eq!(f.state("d-1"), ("failed".into(), "InvalidDiskSize.TooSmall".into()));
    assert_eq!(f.state("d-2"), ("failed".into(), "ImageNotReady".into()));
    assert!(!f.layout.disk("d-1").exists());
}

#[test]
fn a_disk_that_was_lost_does_not_come_back_empty() {
    let mut f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec, &[]);
    fs::remove_file(f.layout.disk("d-1")).unwrap();
    f.disks = Disks::open_all(f.layout.clone()).unwrap();
    f.reconcile(&spec, &[]);
    assert_eq!(f.state("d-1"), ("failed".into(), "DiskMissing".into()));
    assert!(!f.layout.disk("d-1").exists());
    // Deleted and made anew is another matter.
    f.reconcile(&HostSpec::default(), &[]);
    f.reconcile(&spec, &[]);
    assert_eq!(f.state("d-1"), ("ready".into(), String::new()));
}

#[test]
fn after_a_crash_leaks_are_given_back_and_contradictions_are_refused() {
    use std::os::unix::fs::FileExt as _;
    let f = Fixture::new();
    let spec = HostSpec { disks: vec![disk("d-1", "", 1)], ..HostSpec::default() };
    f.reconcile(&spec, &[]);
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
