//! The disks of the double: it keeps the files it was given, so that their locks are held as by a
//! real VMM.

use crate::vmm_double::ack;
use api::vmm::{
    AttachedDisk, Disk, DiskStats, Error, LayersSwitched, Stats, SwitchLayers, VmConfig, file_ref,
    response,
};
use std::{
    fs::File,
    os::fd::{FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub struct Disks {
    /// Each with the files it lies on, the top first.
    pub all: Vec<(AttachedDisk, Vec<File>)>,
    cling: Option<PathBuf>,
}

impl Disks {
    pub fn new(config: &VmConfig, root: &Path) -> Self {
        let inherited = |disk: &Disk| {
            let layers = disk.layers.iter().filter_map(|l| l.file.as_ref());
            layers
                .map(|file| match file.source {
                    // SAFETY: the number was given to this process, and nothing else uses it.
                    Some(file_ref::Source::Fd(fd)) => unsafe { OwnedFd::from_raw_fd(fd) }.into(),
                    _ => panic!("not a descriptor: {file:?}"),
                })
                .collect::<Vec<File>>()
        };
        let all = config.disks.iter().map(|disk| {
            let files = inherited(disk);
            (attached(disk, &files), files)
        });
        let cling = config.instance_id.contains("clinging").then(|| root.join("cling"));
        Self { all: all.collect(), cling }
    }

    pub fn attach(&mut self, disk: &Disk, files: Vec<File>) -> response::Result {
        if files.len() != disk.layers.len() {
            return refuse("InvalidArgument", "as many files as layers are needed");
        }
        if !self.all.iter().any(|(d, _)| d.disk_id == disk.disk_id) {
            self.all.push((attached(disk, &files), files));
        }
        ack()
    }

    pub fn detach(&mut self, disk_id: &str) -> response::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        self.change(disk_id, |disk| {
            if !disk.detaching {
                disk.detach_asked_unix_ms = u64::try_from(now).unwrap();
            }
            disk.detaching = true;
        })
    }

    /// What a guest does once it has been asked.
    pub fn let_go(&mut self) {
        if !self.cling.as_ref().is_some_and(|file| file.exists()) {
            self.all.retain(|(disk, _)| !disk.detaching);
        }
    }

    pub fn change(
        &mut self,
        disk_id: &str,
        change: impl FnOnce(&mut AttachedDisk),
    ) -> response::Result {
        match self.all.iter_mut().find(|(d, _)| d.disk_id == disk_id) {
            Some((disk, _)) => {
                change(disk);
                ack()
            }
            None => refuse("NotFound", "no such disk"),
        }
    }

    pub fn switch(&mut self, request: &SwitchLayers, mut files: Vec<File>) -> response::Result {
        let Some((disk, held)) = self.all.iter_mut().find(|(d, _)| d.disk_id == request.disk_id)
        else {
            return refuse("NotFound", "no such disk");
        };
        if disk.chain_epoch != request.chain_epoch {
            if request.top.is_none() {
                files.insert(0, held.remove(0));
            }
            *held = files;
            disk.chain_epoch = request.chain_epoch;
        }
        response::Result::LayersSwitched(LayersSwitched { paused_ns: 1234 })
    }

    pub fn stats(&self) -> Stats {
        let of = |disk: &AttachedDisk| DiskStats {
            disk_id: disk.disk_id.clone(),
            reads: 5,
            ..DiskStats::default()
        };
        Stats { disks: self.all.iter().map(|(d, _)| of(d)).collect(), ..Stats::default() }
    }
}

fn attached(disk: &Disk, files: &[File]) -> AttachedDisk {
    AttachedDisk {
        disk_id: disk.disk_id.clone(),
        size_bytes: qcow2::probe(&files[0]).unwrap().virtual_size,
        limit: disk.limit,
        chain_epoch: disk.chain_epoch,
        in_use: true,
        ..AttachedDisk::default()
    }
}

fn refuse(code: &str, message: &str) -> response::Result {
    response::Result::Error(Error { code: code.into(), message: message.into() })
}
