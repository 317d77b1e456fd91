//! The files that disks are written to: making them, growing them, putting another in their place.

use super::{
    Disks, GIB,
    keys::KeptKey,
    layering::{Below, DiskEntry, LayerEntry, Layering, Pending},
};
use crate::{
    disks::merge::held_by,
    disks::sources::{Sources, qcow2_format},
    durable_file,
    error::{Error, FileContext as _, Result},
    host::now_ms,
    layout::remove_file,
};
use api::host::DiskSpec;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    sync::Arc,
};

/// The disk keeps the size it has.
pub(super) const RESIZE_FAILED: &str = "ResizeFailed";

/// A disk's top, open for writing. While any duplicate of the descriptor lives, in a VMM too, nobody
/// else gets it.
#[derive(Debug)]
pub(super) struct LockedTop(pub File);

impl LockedTop {
    /// Opens and locks the file; `None` while somebody else has it.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(path).at("open", path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Error::File { action: "lock", path: path.into(), source: e.into() }),
        }
    }
}

impl Disks {
    /// Makes a disk that is not there. One that was made once and whose file is gone must not come
    /// back empty.
    pub(super) fn make(
        &self,
        layering: &mut Layering,
        disk: &DiskSpec,
        sources: &Sources<'_>,
    ) -> Result<()> {
        let path = self.layout.disk(&disk.disk_id);
        if path.exists() {
            if !layering.disks.contains_key(&disk.disk_id) {
                // Made, and cut off before it was noted.
                let entry = DiskEntry {
                    below: Some(sources.below(disk)?),
                    content_epoch: disk.content_epoch,
                    key: disk.encryption.as_ref().map(KeptKey::from),
                    ..DiskEntry::default()
                };
                let id = disk.disk_id.clone();
                layering.change(&self.layout, |account| account.disks.insert(id, entry))?;
            }
            return Ok(());
        }
        if layering.disks.contains_key(&disk.disk_id) {
            return Err(Error::resource(
                &disk.disk_id,
                "DiskMissing",
                format!("its file {} is gone; put it back, or delete the disk", path.display()),
            ));
        }
        let below = sources.below(disk)?;
        self.create_top(layering, &path, disk, &below, sources)?;
        let entry = DiskEntry {
            below: Some(below),
            content_epoch: disk.content_epoch,
            key: disk.encryption.as_ref().map(KeptKey::from),
            ..DiskEntry::default()
        };
        let id = disk.disk_id.clone();
        layering.change(&self.layout, |account| account.disks.insert(id, entry)).map(drop)
    }

    /// An empty top of the disk's size, complete and on the medium.
    fn create_top(
        &self,
        layering: &Layering,
        path: &Path,
        disk: &DiskSpec,
        below: &Below,
        sources: &Sources<'_>,
    ) -> Result<()> {
        let virtual_size = disk.size_gib.saturating_mul(GIB);
        let (backing, least) = sources.backing(&self.layout, layering, disk, below)?;
        if least > virtual_size {
            return Err(Error::resource(
                &disk.disk_id,
                "InvalidDiskSize.TooSmall",
                format!(
                    "the disk has {virtual_size} bytes, what it is made from needs {least}; ask \
                     for a larger disk"
                ),
            ));
        }
        let key = disk.encryption.as_ref().map(KeptKey::from);
        let key = self.keys.passphrase(&disk.disk_id, key.as_ref())?;
        self.create_overlay(path, &disk.disk_id, virtual_size, backing, key)
    }

    pub(super) fn create_overlay(
        &self,
        path: &Path,
        disk_id: &str,
        virtual_size: u64,
        backing: Option<qcow2::Backing>,
        encryption: Option<qcow2::Passphrase>,
    ) -> Result<()> {
        let options =
            qcow2::CreateOptions { virtual_size, backing, encryption, ..Default::default() };
        durable_file::create_with(path, |file, _| {
            qcow2::create(file, &options).map_err(|e| {
                Error::resource(
                    disk_id,
                    "DiskCreateFailed",
                    format!("cannot write {}: {e}", path.display()),
                )
            })
        })
    }

    /// Finishes a step of the disk that was cut off, or whose VMM has done its part. Otherwise nobody
    /// has the disk.
    pub(super) fn finish_pending(
        &self,
        layering: &mut Layering,
        disk_id: &str,
        paused_ns: u64,
    ) -> Result<()> {
        let (top, next) = (self.layout.disk(disk_id), self.layout.next_top(disk_id));
        let Some(entry) = layering.disks.get(disk_id) else { return Ok(()) };
        match entry.pending.clone() {
            None => remove_file(&next),
            Some(Pending::Freeze { layer }) => {
                let frozen = self.layout.layer(&layer);
                if !next.exists() && !frozen.exists() {
                    let message = format!("{} is gone; nothing was frozen", next.display());
                    layering.change(&self.layout, |account| {
                        if let Some(disk) = account.disks.get_mut(disk_id) {
                            disk.pending = None;
                        }
                    })?;
                    return Err(Error::resource(disk_id, "SnapshotFailed", message));
                }
                if next.exists() {
                    if !frozen.exists() {
                        durable_file::rename(&top, &frozen)?;
                    }
                    durable_file::rename(&next, &top)?;
                }
                let entry = LayerEntry {
                    below: entry.below.clone().unwrap_or(Below::Nothing),
                    disk_id: disk_id.to_owned(),
                    taken_unix_ms: now_ms(),
                    paused_ns,
                    changed_bytes: held_by(&frozen, &layer)?,
                    deleted: false,
                    key: entry.key.clone(),
                };
                layering.change(&self.layout, |account| {
                    account.layers.insert(layer.clone(), entry);
                    if let Some(disk) = account.disks.get_mut(disk_id) {
                        disk.below = Some(Below::Layer(layer));
                        disk.chain_epoch += 1;
                        disk.pending = None;
                    }
                })
            }
            Some(Pending::Replace { below, content_epoch }) => {
                if next.exists() {
                    durable_file::rename(&next, &top)?;
                }
                layering.change(&self.layout, |account| {
                    if let Some(disk) = account.disks.get_mut(disk_id) {
                        disk.below = Some(below);
                        disk.content_epoch = content_epoch;
                        disk.chain_epoch += 1;
                        disk.pending = None;
                    }
                })
            }
        }
    }

    /// A step cut off between two renames left no top under its name: whoever has the disk, the
    /// second rename is due.
    pub(super) fn finish_moved(&self, layering: &mut Layering, disk_id: &str) -> Result<()> {
        let pending = layering.disks.get(disk_id).is_some_and(|entry| entry.pending.is_some());
        if pending && !self.layout.disk(disk_id).exists() {
            return self.finish_pending(layering, disk_id, 0);
        }
        Ok(())
    }

    /// Throws the disk's content away and starts again from its source. Nobody has the disk.
    pub(super) fn replace_content(
        &self,
        layering: &mut Layering,
        disk: &DiskSpec,
        sources: &Sources<'_>,
    ) -> Result<()> {
        let below = sources.below(disk)?;
        let next = self.layout.next_top(&disk.disk_id);
        self.create_top(layering, &next, disk, &below, sources)?;
        layering.change(&self.layout, |account| {
            if let Some(entry) = account.disks.get_mut(&disk.disk_id) {
                let content_epoch = disk.content_epoch;
                entry.pending = Some(Pending::Replace { below, content_epoch });
            }
        })?;
        self.finish_pending(layering, &disk.disk_id, 0)
    }

    /// Grows a disk that nobody has. Answers the size it has then.
    pub(super) fn grow(&self, top: LockedTop, layering: &Layering, disk: &DiskSpec) -> Result<u64> {
        let wanted = disk.size_gib.saturating_mul(GIB);
        let failed = |e: qcow2::Error| {
            let message = format!("cannot grow it to {} GiB: {e}", disk.size_gib);
            Error::resource(&disk.disk_id, RESIZE_FAILED, message)
        };
        let size = qcow2::probe(&top.0).map_err(failed)?.virtual_size;
        if size >= wanted {
            return Ok(size);
        }
        let layers = self.layers_of(layering, &disk.disk_id, top.0)?.into_iter();
        let layers = layers.map(|l| qcow2::Layer { format: qcow2_format(l.format), file: l.file });
        let key = self.key_of(layering, &disk.disk_id)?;
        let options = qcow2::OpenOptions::default();
        let image = open_image(layers.collect(), options, key.as_ref()).map_err(failed)?;
        image.grow(wanted).map_err(failed)?;
        image.flush().map_err(failed)?;
        Ok(wanted)
    }
}

/// Opens layers, some of which may be encrypted.
pub(crate) fn open_image(
    layers: Vec<qcow2::Layer>,
    options: qcow2::OpenOptions,
    key: Option<&qcow2::Passphrase>,
) -> std::result::Result<Arc<qcow2::Image>, qcow2::Error> {
    match key {
        Some(key) => qcow2::Image::open_encrypted(layers, options, key),
        None => qcow2::Image::open(layers, options),
    }
}

/// Bytes of the host's that a file takes.
pub(crate) fn held_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // st_blocks counts units of 512 bytes.
    std::fs::metadata(path).map_or(0, |m| m.blocks().saturating_mul(512))
}

/// A file that is read only.
pub(super) fn open_below(path: &Path) -> Result<File> {
    File::open(path).map_err(|source: io::Error| Error::File {
        action: "open",
        path: path.into(),
        source,
    })
}
