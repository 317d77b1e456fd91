//! Disks: one qcow2 file each, an overlay on an image copy or blank. Made in milliseconds whatever
//! the image's size, since only metadata is written.

use crate::{
    durable_file::{self, PART},
    error::{Error, FileContext as _, Result},
    layout::{Layout, is_safe_id, names_in, remove_file},
};
use api::{
    host::{DiskSpec, DiskStatus, HostSpec, ImageSpec},
    vmm::DiskFormat,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

const READY: &str = "ready";
const FAILED: &str = "failed";
const GIB: u64 = 1 << 30;
/// Findings of a check that fit a message.
const FINDINGS: usize = 5;

/// The disks of this host and how each is.
#[derive(Debug)]
pub struct Disks {
    layout: Layout,
    status: Mutex<BTreeMap<String, DiskStatus>>,
    /// Disks that were made once. One whose file is missing must not come back empty.
    made: Mutex<BTreeSet<String>>,
}

/// One file of a disk's chain, opened for a VMM or the boot finder.
#[derive(Debug)]
pub struct OpenLayer {
    /// The file.
    pub file: File,
    /// Its format as this host knows it.
    pub format: DiskFormat,
}

impl Disks {
    /// Over the disk directory.
    ///
    /// # Errors
    /// When the list of disks made before cannot be read.
    pub fn open_all(layout: Layout) -> Result<Self> {
        let made = durable_file::read_json(&layout.made_disks())?.unwrap_or_default();
        Ok(Self { layout, status: Mutex::default(), made: Mutex::new(made) })
    }

    /// Makes the disks of the spec whose image is here, removes those that are not in it and not
    /// `in_use`. What cannot be done is in the status of that disk.
    ///
    /// # Errors
    /// When the disk directory cannot be read.
    pub fn reconcile(
        &self,
        spec: &HostSpec,
        image_error: impl Fn(&str) -> Option<Error>,
        in_use: impl FnOnce() -> Result<HashSet<String>>,
    ) -> Result<bool> {
        let mut changed = false;
        for disk in &spec.disks {
            let made = self.make(disk, spec, &image_error);
            changed |= self.note(disk, made);
        }
        let wanted: HashSet<&str> = spec.disks.iter().map(|d| d.disk_id.as_str()).collect();
        self.note_made(&wanted)?;
        let gone: Vec<String> =
            self.on_medium()?.into_iter().filter(|id| !wanted.contains(id.as_str())).collect();
        if !gone.is_empty() {
            let in_use = in_use()?;
            for id in &gone {
                if in_use.contains(id) {
                    self.status().entry(id.clone()).or_insert_with(|| DiskStatus {
                        disk_id: id.clone(),
                        state: READY.into(),
                        ..DiskStatus::default()
                    });
                    continue;
                }
                remove_file(&self.layout.disk(id))?;
                changed = true;
            }
        }
        let left: HashSet<String> = self.on_medium()?.into_iter().collect();
        self.status().retain(|id, _| wanted.contains(id.as_str()) || left.contains(id));
        for name in names_in(&self.layout.disks())?.iter().filter(|n| n.ends_with(PART)) {
            remove_file(&self.layout.disks().join(name))?;
        }
        Ok(changed)
    }

    fn make(
        &self,
        disk: &DiskSpec,
        spec: &HostSpec,
        image_error: impl Fn(&str) -> Option<Error>,
    ) -> Result<()> {
        let path = self.layout.disk(&disk.disk_id);
        if path.exists() {
            return Ok(());
        }
        if self.made().contains(&disk.disk_id) {
            return Err(Error::resource(
                &disk.disk_id,
                "DiskMissing",
                format!("its file {} is gone; put it back, or delete the disk", path.display()),
            ));
        }
        let virtual_size = disk.size_gib.saturating_mul(GIB);
        let backing = if disk.image_id.is_empty() {
            None
        } else {
            let image = image_of(spec, disk)?;
            if let Some(error) = image_error(&image.image_id) {
                return Err(error);
            }
            if image.virtual_bytes > virtual_size {
                return Err(Error::resource(
                    &disk.disk_id,
                    "InvalidDiskSize.TooSmall",
                    format!(
                        "the disk has {virtual_size} bytes, its image {} needs {}; ask for a \
                         larger disk",
                        image.image_id, image.virtual_bytes
                    ),
                ));
            }
            let format = match image_format(image)? {
                DiskFormat::Raw => qcow2::Format::Raw,
                _ => qcow2::Format::Qcow2,
            };
            Some(qcow2::Backing { name: format!("../images/{}", image.image_id), format })
        };
        let options = qcow2::CreateOptions { virtual_size, backing, ..Default::default() };
        durable_file::create_with(&path, |file, _| {
            qcow2::create(file, &options).map_err(|e| {
                Error::resource(
                    &disk.disk_id,
                    "DiskCreateFailed",
                    format!("cannot write {}: {e}", path.display()),
                )
            })
        })
    }

    fn note_made(&self, wanted: &HashSet<&str>) -> Result<()> {
        let mut now: BTreeSet<String> = self.on_medium()?.into_iter().collect();
        let mut made = self.made();
        now.extend(made.iter().filter(|id| wanted.contains(id.as_str())).cloned());
        if now != *made {
            durable_file::write_json(&self.layout.made_disks(), &now)?;
            *made = now;
        }
        Ok(())
    }

    fn note(&self, disk: &DiskSpec, made: Result<()>) -> bool {
        let mut status = DiskStatus {
            disk_id: disk.disk_id.clone(),
            observed_generation: disk.generation,
            state: READY.into(),
            allocated_bytes: self.allocated(&disk.disk_id),
            ..DiskStatus::default()
        };
        if let Err(e) = made {
            status.state = FAILED.into();
            status.code = e.code().into();
            status.message = e.to_string();
        }
        let mut all = self.status();
        let old = all.insert(disk.disk_id.clone(), status.clone());
        old.is_none_or(|old| {
            (&old.state, &old.code, old.observed_generation)
                != (&status.state, &status.code, status.observed_generation)
        })
    }

    /// How every disk is.
    pub fn report(&self) -> Vec<DiskStatus> {
        let mut all: Vec<DiskStatus> = self.status().values().cloned().collect();
        for disk in &mut all {
            disk.allocated_bytes = self.allocated(&disk.disk_id);
        }
        all
    }

    /// Opens a disk's chain, top first. The top is writable on demand, the rest never is.
    ///
    /// # Errors
    /// When a file of the chain is not here; names the disk and why.
    pub fn open(&self, spec: &HostSpec, disk_id: &str, writable: bool) -> Result<Vec<OpenLayer>> {
        let disk = spec.disks.iter().find(|d| d.disk_id == disk_id).ok_or_else(|| {
            Error::resource(disk_id, "DiskNotReady", "the disk is not in this host's spec yet")
        })?;
        let ready = match self.status().get(disk_id) {
            Some(status) if status.state == READY => Ok(()),
            Some(status) => Err(Error::resource(disk_id, &status.code, &status.message)),
            None => Err(Error::resource(disk_id, "DiskNotReady", "the disk is being made")),
        };
        ready?;
        let top = self.layout.disk(disk_id);
        let mut layers = vec![OpenLayer {
            file: OpenOptions::new().read(true).write(writable).open(&top).at("open", &top)?,
            format: DiskFormat::Qcow2,
        }];
        if !disk.image_id.is_empty() {
            let path = self.layout.image(&disk.image_id);
            let file = File::open(&path).at("open", &path)?;
            layers.push(OpenLayer { file, format: image_format(image_of(spec, disk)?)? });
        }
        Ok(layers)
    }

    /// Puts a disk's metadata in order after a crash: what was allocated for a write that never came
    /// is given back. Tells what was done. The disk must not be in use.
    ///
    /// # Errors
    /// `DiskCorrupt` when the metadata contradicts itself, which is left as it is; otherwise what
    /// the file system said.
    pub fn mend(&self, disk_id: &str) -> Result<Option<String>> {
        let path = self.layout.disk(disk_id);
        let corrupt = |found: String| {
            let message = format!(
                "its metadata is damaged ({found}); keep a copy of {} and repair the file with \
                 qemu-img check -r all, or put a good copy in its place, then start the instance",
                path.display()
            );
            Error::resource(disk_id, "DiskCorrupt", message)
        };
        let failed = |e: qcow2::Error| match e {
            qcow2::Error::Io { action, source } => {
                let message = format!("cannot {action} of {}: {source}", path.display());
                Error::resource(disk_id, "DiskCheckFailed", message)
            }
            other => corrupt(other.to_string()),
        };
        let file = OpenOptions::new().read(true).write(true).open(&path).at("open", &path)?;
        let report = qcow2::check(&file).map_err(failed)?;
        if report.corruptions > 0 {
            let found = report.messages.iter().take(FINDINGS).cloned().collect::<Vec<_>>();
            let found = format!("{} contradictions: {}", report.corruptions, found.join("; "));
            return Err(corrupt(found));
        }
        if report.leaks == 0 {
            return Ok(None);
        }
        qcow2::repair(&file).map_err(failed)?;
        Ok(Some(format!("disk {disk_id}: {} unused clusters were given back", report.leaks)))
    }

    fn on_medium(&self) -> Result<Vec<String>> {
        let names = names_in(&self.layout.disks())?;
        let ids = names.iter().filter_map(|n| n.strip_suffix(".qcow2"));
        Ok(ids.filter(|id| is_safe_id(id)).map(str::to_owned).collect())
    }

    /// The files of the disk directory with the disk each belongs to.
    pub(crate) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let dir = self.layout.disks();
        let owner = |name: &str| name.trim_end_matches(PART).trim_end_matches(".qcow2").to_owned();
        Ok(names_in(&dir)?.iter().map(|name| (dir.join(name), owner(name))).collect())
    }

    fn allocated(&self, disk_id: &str) -> u64 {
        // st_blocks counts units of 512 bytes.
        fs::metadata(self.layout.disk(disk_id)).map_or(0, |m| m.blocks().saturating_mul(512))
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, BTreeMap<String, DiskStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn image_of<'a>(spec: &'a HostSpec, disk: &DiskSpec) -> Result<&'a ImageSpec> {
    spec.images.iter().find(|i| i.image_id == disk.image_id).ok_or_else(|| {
        Error::resource(
            &disk.disk_id,
            "ImageNotReady",
            format!("its image {} is not in this host's spec", disk.image_id),
        )
    })
}

fn image_format(image: &ImageSpec) -> Result<DiskFormat> {
    match image.format.to_ascii_lowercase().as_str() {
        "qcow2" => Ok(DiskFormat::Qcow2),
        "raw" => Ok(DiskFormat::Raw),
        other => Err(Error::resource(
            &image.image_id,
            "InvalidImageFormat.Unsupported",
            format!("image format {other:?} is not one of qcow2, raw; import it in one of these"),
        )),
    }
}

#[cfg(test)]
mod tests;
