//! The search: partitions, filesystems, boot entries, and the first entry whose files are there.

use std::io::Write;

use crate::command_line;
use crate::entries::{Entry, Location, Volume, Volumes, boot_loader_spec, grub, plain};
use crate::error::Error;
use crate::filesystems::{self, Found, Stat};
use crate::kernel;
use crate::limits::Limits;
use crate::partitions::{self, Partition, Table};
use crate::source::{BlockSource, Extent};

/// What to boot. The files stay on the disk until they are written out.
pub struct BootFiles {
    volumes: Volumes,
    kernel: File,
    initrds: Vec<File>,
    command_line: String,
    title: String,
    config: String,
    limits: Limits,
}

#[derive(Debug)]
struct File {
    at: Location,
    /// The path without symbolic links.
    path: String,
    size: u64,
}

impl std::fmt::Debug for BootFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootFiles")
            .field("kernel", &self.kernel)
            .field("initrds", &self.initrds)
            .field("command_line", &self.command_line)
            .field("title", &self.title)
            .finish_non_exhaustive()
    }
}

/// Finds the kernel, the initrd and the command line of the entry the disk's own boot loader would
/// take.
///
/// # Errors
/// Each says what was looked at and what to do; see [`Error`].
pub fn find(source: Box<dyn BlockSource>, limits: Limits) -> Result<BootFiles, Error> {
    let disk = Extent::whole(source, limits);
    let mut search = Search::open(&disk)?;
    match search.choose()? {
        Some(chosen) => search.finish(chosen, limits),
        None => Err(search.nothing()),
    }
}

struct Search {
    volumes: Volumes,
    /// Filesystems that cannot be read.
    unsupported: Vec<(&'static str, Partition)>,
    /// Areas without anything known.
    unknown: usize,
    /// The first thing that went wrong, for the case that nothing is found.
    first: Option<Error>,
    looked_at: Vec<String>,
}

struct Chosen {
    entry: Entry,
    kernel: File,
    initrds: Vec<File>,
}

impl Search {
    fn open(disk: &Extent) -> Result<Search, Error> {
        let mut search = Search {
            volumes: Volumes { list: Vec::new(), disk: disk.clone() },
            unsupported: Vec::new(),
            unknown: 0,
            first: None,
            looked_at: Vec::new(),
        };
        let mut bare = false;
        for partition in partitions::read(disk)? {
            bare |= partition.table == Table::Bare;
            match filesystems::open(&partition.extent) {
                Ok(Found::Readable(filesystem)) => {
                    search.looked_at.push(format!("{} in {partition}", filesystem.kind()));
                    search.volumes.list.push(Volume { partition, filesystem });
                }
                Ok(Found::Unsupported(name)) => search.unsupported.push((name, partition)),
                Ok(Found::Nothing) => {
                    search.unknown += 1;
                    search.looked_at.push(format!("nothing known in {partition}"));
                }
                Err(error) => search.keep(error)?,
            }
        }
        if bare && search.unknown > 0 {
            return Err(Error::NoPartition);
        }
        // A root or /boot that Linux made before an EFI system partition.
        search.volumes.list.sort_by_key(|volume| volume.filesystem.kind() == "vfat");
        Ok(search)
    }

    /// Remembers an error; answers it at once if there is no point in going on.
    fn keep(&mut self, error: Error) -> Result<(), Error> {
        if error.is_final() {
            return Err(error);
        }
        self.first.get_or_insert(error);
        Ok(())
    }

    fn choose(&mut self) -> Result<Option<Chosen>, Error> {
        for volume in 0..self.volumes.list.len() {
            match grub::configs(&self.volumes, volume) {
                Ok(configs) => {
                    for config in configs {
                        self.looked_at.push(config.path.clone());
                        let entries = grub::entries(&self.volumes, &config);
                        if let Some(chosen) = self.first_complete(entries)? {
                            return Ok(Some(chosen));
                        }
                    }
                }
                Err(error) => self.keep(error)?,
            }
        }
        for volume in 0..self.volumes.list.len() {
            let entries = boot_loader_spec::entries_of_systemd_boot(&self.volumes, volume);
            if let Some(chosen) = self.first_complete(entries)? {
                return Ok(Some(chosen));
            }
        }
        for volume in 0..self.volumes.list.len() {
            let mut entries = plain::entries(&self.volumes, volume);
            // A kernel whose initrd got lost would not find its root filesystem.
            if let (Ok(entries), Some(Error::NoInitrd { .. })) = (&mut entries, &self.first) {
                entries.retain(|entry| !entry.initrds.is_empty());
            }
            if let Some(chosen) = self.first_complete(entries)? {
                return Ok(Some(chosen));
            }
        }
        Ok(None)
    }

    fn first_complete(
        &mut self,
        entries: Result<Vec<Entry>, Error>,
    ) -> Result<Option<Chosen>, Error> {
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.keep(error)?;
                return Ok(None);
            }
        };
        for entry in entries {
            match self.check(entry) {
                Ok(Some(chosen)) => return Ok(Some(chosen)),
                Ok(None) => {}
                Err(error) => self.keep(error)?,
            }
        }
        Ok(None)
    }

    /// Whether the files of an entry are there and its kernel is one.
    fn check(&mut self, entry: Entry) -> Result<Option<Chosen>, Error> {
        let Some(kernel) = self.file(&entry.kernel)? else {
            let missing = format!("{} named by {} is missing", entry.kernel.path, entry.config);
            if !self.looked_at.contains(&missing) {
                self.looked_at.push(missing);
            }
            return Ok(None);
        };
        let mut head = Vec::new();
        if let Some(volume) = self.volumes.list.get(kernel.at.volume) {
            volume.filesystem.read(&kernel.path, kernel::HEAD, &mut |piece| {
                head.extend_from_slice(piece);
                Ok(())
            })?;
        }
        kernel::check(&kernel.path, kernel.size, &head)?;
        let mut initrds = Vec::new();
        for at in &entry.initrds {
            match self.file(at)? {
                Some(file) => initrds.push(file),
                None => {
                    return Err(Error::NoInitrd {
                        title: entry.title.clone(),
                        config: entry.config.clone(),
                        path: at.path.clone(),
                    });
                }
            }
        }
        Ok(Some(Chosen { entry, kernel, initrds }))
    }

    /// The file at a path, or at the same path of another volume: a separate /boot makes
    /// `/boot/vmlinuz` of one configuration `/vmlinuz` of another.
    fn file(&self, at: &Location) -> Result<Option<File>, Error> {
        let mut candidates = vec![at.clone()];
        for volume in 0..self.volumes.list.len() {
            candidates.push(Location { volume, path: at.path.clone() });
            if let Some(below) = at.path.strip_prefix("/boot/") {
                candidates.push(Location { volume, path: format!("/{below}") });
            }
        }
        for at in candidates {
            if let Some(Stat::File(size)) = self.volumes.stat(&at)?
                && let Some(volume) = self.volumes.list.get(at.volume)
            {
                let path = volume.filesystem.resolve(&at.path)?;
                return Ok(Some(File { at, path, size }));
            }
        }
        Ok(None)
    }

    fn finish(self, chosen: Chosen, limits: Limits) -> Result<BootFiles, Error> {
        let Chosen { entry, kernel, initrds } = chosen;
        too_large("the kernel", kernel.size, limits.kernel_bytes)?;
        let total = initrds.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
        too_large("the initrd", total, limits.initrd_bytes)?;
        let root = self.root(kernel.at.volume, !initrds.is_empty())?;
        let command_line = command_line::complete(&entry.options, root.as_deref())?;
        Ok(BootFiles {
            volumes: self.volumes,
            kernel,
            initrds,
            command_line,
            title: entry.title,
            config: entry.config,
            limits,
        })
    }

    /// `root=` for an entry without: the volume that looks like a root filesystem. A kernel without
    /// initrd finds it by partition only.
    fn root(&self, kernel_volume: usize, initrd: bool) -> Result<Option<String>, Error> {
        let mut order: Vec<usize> = (0..self.volumes.list.len()).collect();
        order.sort_by_key(|&volume| volume != kernel_volume);
        for volume in order {
            for path in ["/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/etc/fstab"] {
                let at = Location { volume, path: path.to_owned() };
                if self.volumes.stat(&at)?.is_none() {
                    continue;
                }
                let Some(found) = self.volumes.list.get(volume) else { continue };
                return Ok(Some(match (&found.partition.uuid, found.filesystem.uuid()) {
                    (_, Some(uuid)) if initrd => format!("root=UUID={uuid}"),
                    (Some(uuid), _) => format!("root=PARTUUID={uuid}"),
                    (None, _) => match found.partition.number {
                        0 => "root=/dev/vda".to_owned(),
                        number => format!("root=/dev/vda{number}"),
                    },
                }));
            }
        }
        Ok(None)
    }

    /// Why there is nothing to boot.
    fn nothing(self) -> Error {
        if let Some(first) = self.first {
            return first;
        }
        if !self.unsupported.is_empty() {
            let found =
                self.unsupported.iter().map(|(name, partition)| format!("{name} in {partition}"));
            return Error::UnsupportedFilesystem { found: found.collect::<Vec<_>>().join(", ") };
        }
        let looked_at = if self.looked_at.is_empty() {
            "the partition table is empty".to_owned()
        } else {
            format!("looked at {}", self.looked_at.join(", "))
        };
        if self.volumes.list.is_empty() {
            Error::NoFilesystem { looked_at }
        } else {
            Error::NoKernel { looked_at }
        }
    }
}

fn too_large(what: &str, size: u64, limit: u64) -> Result<(), Error> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::TooLarge {
        what: format!("{what} with {size} bytes"),
        limit: format!("{limit} bytes ({:.1} MiB)", limit as f64 / f64::from(1 << 20)),
        remedy: "use a smaller one, e.g. an initrd with MODULES=dep, or an instance type with more memory",
    })
}

impl BootFiles {
    /// The complete command line.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// Title of the entry.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The configuration the entry is from.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Path of the kernel on its filesystem, without symbolic links.
    pub fn kernel_path(&self) -> &str {
        &self.kernel.path
    }

    /// Bytes of the kernel.
    pub fn kernel_size(&self) -> u64 {
        self.kernel.size
    }

    /// Paths of the initrds, in their order.
    pub fn initrd_paths(&self) -> impl Iterator<Item = &str> {
        self.initrds.iter().map(|file| file.path.as_str())
    }

    /// Bytes of all initrds, the padding between them not counted.
    pub fn initrd_size(&self) -> u64 {
        self.initrds.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Kind of the filesystem the kernel is on: `ext4`, `vfat`.
    pub fn filesystem(&self) -> &'static str {
        self.volumes.list.get(self.kernel.at.volume).map_or("", |volume| volume.filesystem.kind())
    }

    /// The partition the kernel is on: its table, and its number from 1 or 0.
    pub fn partition(&self) -> (Table, u32) {
        self.volumes
            .list
            .get(self.kernel.at.volume)
            .map_or((Table::Bare, 0), |volume| (volume.partition.table, volume.partition.number))
    }

    /// Writes the kernel. Returns its size in bytes.
    ///
    /// # Errors
    /// If the disk cannot be read or `out` cannot be written.
    pub fn write_kernel(&self, out: &mut dyn Write) -> Result<u64, Error> {
        self.write(std::slice::from_ref(&self.kernel), self.limits.kernel_bytes, out)
    }

    /// Writes the initrds, one after the other; each but the last is filled up to a multiple of four
    /// bytes, as the kernel wants it. Returns the size in bytes, 0 without initrd.
    ///
    /// # Errors
    /// If the disk cannot be read or `out` cannot be written.
    pub fn write_initrd(&self, out: &mut dyn Write) -> Result<u64, Error> {
        self.write(&self.initrds, self.limits.initrd_bytes, out)
    }

    fn write(&self, files: &[File], limit: u64, out: &mut dyn Write) -> Result<u64, Error> {
        let failed = |source| Error::Io { what: "could not write a boot file".into(), source };
        let mut total = 0;
        for file in files {
            let padding = [0; 3];
            let padding = &padding[..usize::try_from(total % 4).map_or(0, |over| (4 - over) % 4)];
            out.write_all(padding).map_err(failed)?;
            total += padding.len() as u64;
            let Some(volume) = self.volumes.list.get(file.at.volume) else { continue };
            let left = limit.saturating_sub(total).min(file.size);
            let written = volume
                .filesystem
                .read(&file.path, left, &mut |piece| out.write_all(piece).map_err(failed))?;
            if written < file.size {
                return Err(Error::Corrupt {
                    what: file.path.clone(),
                    why: format!("it ends after {written} of {} bytes", file.size),
                });
            }
            total += written;
        }
        out.flush().map_err(failed)?;
        Ok(total)
    }
}
