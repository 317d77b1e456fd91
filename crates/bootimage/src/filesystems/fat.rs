//! FAT, through `fatfs`: EFI system partitions and FAT `/boot`.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use super::{FileSystem, Sink, Stat};
use crate::error::Error;
use crate::source::{Extent, Stream};

const PIECE: usize = 64 << 10;

/// A FAT filesystem.
pub(super) struct Fat {
    volume: fatfs::FileSystem<Stream>,
    area: Extent,
    failed: Rc<RefCell<Option<Error>>>,
}

impl Fat {
    pub(super) fn open(area: &Extent) -> Result<Fat, Error> {
        check_boot_sector(area)?;
        let failed = Rc::new(RefCell::new(None));
        let stream = Stream::new(area.clone(), Rc::clone(&failed));
        match fatfs::FileSystem::new(stream, fatfs::FsOptions::new()) {
            Ok(volume) => Ok(Fat { volume, area: area.clone(), failed }),
            Err(error) => Err(convert(&failed, "the FAT filesystem", &error)),
        }
    }

    fn error(&self, path: &str, error: &io::Error) -> Error {
        convert(&self.failed, &format!("{path} in the FAT filesystem"), error)
    }

    /// `None` if a component does not exist or is not a directory.
    fn directory(&self, path: &str) -> Result<Option<fatfs::Dir<'_, Stream>>, Error> {
        let mut directory = self.volume.root_dir();
        for name in components(path) {
            match self.entry(&directory, name, path)? {
                Some(entry) if entry.is_dir() => directory = entry.to_dir(),
                _ => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    fn entry<'a>(
        &self,
        directory: &fatfs::Dir<'a, Stream>,
        name: &str,
        path: &str,
    ) -> Result<Option<fatfs::DirEntry<'a, Stream>>, Error> {
        for entry in directory.iter().take(self.area.limits().directory_entries) {
            self.area.check_budget()?;
            let entry = entry.map_err(|error| self.error(path, &error))?;
            if entry.file_name().eq_ignore_ascii_case(name) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn find(&self, path: &str) -> Result<Option<fatfs::DirEntry<'_, Stream>>, Error> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        match self.directory(parent)? {
            Some(directory) if !name.is_empty() => self.entry(&directory, name, path),
            _ => Ok(None),
        }
    }
}

/// `fatfs` computes with these fields unchecked.
fn check_boot_sector(area: &Extent) -> Result<(), Error> {
    let corrupt = |why: String| Err(Error::Corrupt { what: "the FAT boot sector".into(), why });
    let mut bytes = [0; 512];
    area.read(&mut bytes, 0)?;
    let le16 = |at: usize| u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let le32 = |at: usize| le16(at) | le16(at + 2) << 16;
    let or = |short: u64, long: u64| if short != 0 { short } else { long };
    let sector = le16(11);
    let cluster = u64::from(bytes[13]);
    let fats = u64::from(bytes[16]);
    let fat_sectors = or(le16(22), le32(36));
    let sectors = or(le16(19), le32(32));
    if ![512, 1024, 2048, 4096].contains(&sector) || !cluster.is_power_of_two() {
        return corrupt(format!("sectors of {sector} bytes, clusters of {cluster} sectors"));
    }
    let root_sectors = (le16(17) * 32).div_ceil(sector);
    let metadata = le16(14) + fats * fat_sectors + root_sectors;
    if fats == 0 || fats > 4 || le16(14) == 0 || fat_sectors == 0 || metadata >= sectors {
        return corrupt(format!("{metadata} of {sectors} sectors are metadata"));
    }
    if sectors * sector > area.length() {
        return corrupt(format!(
            "{sectors} sectors of {sector} bytes on {} bytes of disk",
            area.length()
        ));
    }
    Ok(())
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".")
}

fn convert(failed: &RefCell<Option<Error>>, what: &str, error: &io::Error) -> Error {
    match failed.borrow_mut().take() {
        Some(first) if first.is_final() => first,
        _ => Error::Corrupt { what: what.to_owned(), why: error.to_string() },
    }
}

impl FileSystem for Fat {
    fn kind(&self) -> &'static str {
        "vfat"
    }

    fn uuid(&self) -> Option<String> {
        let id = self.volume.volume_id();
        Some(format!("{:04X}-{:04X}", id >> 16, id & 0xffff))
    }

    fn label(&self) -> Option<String> {
        let label = self.volume.volume_label();
        (!label.is_empty()).then_some(label)
    }

    fn stat(&self, path: &str) -> Result<Option<Stat>, Error> {
        if components(path).next().is_none() {
            return Ok(Some(Stat::Directory));
        }
        Ok(self
            .find(path)?
            .map(|entry| if entry.is_dir() { Stat::Directory } else { Stat::File(entry.len()) }))
    }

    fn list(&self, path: &str) -> Result<Option<Vec<String>>, Error> {
        let Some(directory) = self.directory(path)? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in directory.iter().take(self.area.limits().directory_entries) {
            self.area.check_budget()?;
            let entry = entry.map_err(|error| self.error(path, &error))?;
            let name = entry.file_name();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(Some(names))
    }

    fn resolve(&self, path: &str) -> Result<String, Error> {
        Ok(path.to_owned())
    }

    fn read(&self, path: &str, limit: u64, sink: &mut Sink<'_>) -> Result<u64, Error> {
        let entry = match self.find(path)? {
            Some(entry) if entry.is_file() => entry,
            _ => {
                return Err(Error::Corrupt {
                    what: format!("{path} in the FAT filesystem"),
                    why: "it is not a file".into(),
                });
            }
        };
        let mut file = entry.to_file().take(limit);
        let mut piece = vec![0; PIECE];
        let mut total = 0;
        loop {
            self.area.check_budget()?;
            let read = file.read(&mut piece).map_err(|error| self.error(path, &error))?;
            if read == 0 {
                return Ok(total);
            }
            sink(&piece[..read])?;
            total += read as u64;
        }
    }
}
