//! QEMU's tools on the files, against the model.

use crate::{
    content::{SECTOR, writer},
    world::World,
};
use std::{
    collections::BTreeMap, fs::File, os::unix::fs::FileExt as _, path::Path, process::Command,
};

/// A chain of files as QEMU is told of it, by their own headers: some may be encrypted.
fn named(path: &Path) -> String {
    let mut name = String::new();
    let chain = qcow2::probe_chain(path).unwrap();
    for (index, (path, info)) in chain.iter().enumerate() {
        let below = "backing.".repeat(index);
        let driver = if info.format == qcow2::Format::Raw { "raw" } else { "qcow2" };
        let path = path.display();
        name += &format!("{below}driver={driver},{below}file.filename={path},");
        if info.encrypted {
            name += &format!("{below}encrypt.key-secret=s,");
        }
    }
    name.trim_end_matches(',').to_owned()
}

impl World {
    /// The disks' key as an object of QEMU's.
    fn secret(&self) -> String {
        let key = self.passphrase().unwrap_or_else(|| "none".to_owned());
        format!("secret,id=s,data={key}")
    }

    /// What a chain of files holds, by their own headers.
    fn content_of(&self, path: &Path) -> BTreeMap<u64, Option<u64>> {
        let raw = self.outside.path().join("raw");
        let out = Command::new("qemu-img")
            .args(["convert", "-U", "--object", &self.secret(), "--image-opts", "-O", "raw"])
            .arg(named(path))
            .arg(&raw)
            .output()
            .unwrap();
        assert!(out.status.success(), "{path:?}: {}", String::from_utf8_lossy(&out.stderr));
        let file = File::open(&raw).unwrap();
        let mut found = BTreeMap::new();
        let mut at = 0;
        use rustix::fs::{SeekFrom, seek};
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(start)).unwrap();
            for sector in start / SECTOR..end.div_ceil(SECTOR) {
                let mut bytes = [0; SECTOR as usize];
                file.read_exact_at(&mut bytes, sector * SECTOR).unwrap();
                let write = writer(&bytes, sector);
                if write != Some(0) {
                    found.insert(sector, write);
                }
            }
            at = end;
        }
        std::fs::remove_file(&raw).unwrap();
        found
    }

    /// A snapshot holds what it did, and its disk what it may.
    pub fn compare_snapshot(&mut self, id: &str) {
        let found = self.content_of(&self.layout.layer(id));
        let snapshot = self.snapshots.get_mut(id).unwrap();
        if let Err(wrong) = snapshot.content.as_mut().unwrap().see_all(&found) {
            panic!("snapshot {id} of {}: {wrong:?}", snapshot.disk_id);
        }
    }

    /// A disk nobody has open.
    pub fn compare_disk(&mut self, id: &str) {
        let found = self.content_of(&self.layout.disk(id));
        if let Err(wrong) = self.disks.get_mut(id).unwrap().now.see_all(&found) {
            panic!("disk {id}: {wrong:?}");
        }
    }

    /// Nothing contradicts itself in any file. Clusters may be lost: a fault costs room, and what is in
    /// use is not counted in its file at once.
    pub fn check_files(&mut self) {
        let mut files = Vec::new();
        for dir in [self.layout.disks(), self.layout.layers()] {
            files.extend(std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
        }
        for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "qcow2")) {
            let check = ["check", "-U", "--object", &self.secret(), "--image-opts"];
            let out = Command::new("qemu-img").args(check).arg(named(path)).output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout);
            let sound = matches!(out.status.code(), Some(0 | 3)) && !said.contains("ERROR");
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(sound, "{path:?}: {said}{errors}");
        }
    }
}
