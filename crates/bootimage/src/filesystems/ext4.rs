//! ext2, ext3 and ext4, through `ext4-view`; the journal is replayed by [`overlay`].

mod checksum;
mod inode;
mod log;
mod overlay;
mod superblock;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::error::Error as StdError;
use std::rc::Rc;

use ext4_view::{Ext4 as View, Ext4Error, Ext4Read, FileType};

use super::{FileSystem, Sink, Stat};
use crate::error::Error;
use crate::source::Extent;
use overlay::Overlay;

/// Bytes read at a time.
const PIECE: usize = 64 << 10;

/// An ext4 filesystem.
pub(super) struct Ext4 {
    view: View,
    area: Extent,
    failed: Failed,
}

/// The first error of the reader below, which `ext4-view` wraps.
type Failed = Rc<RefCell<Option<Error>>>;

struct Reader {
    overlay: Overlay,
    failed: Failed,
}

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        out: &mut [u8],
    ) -> Result<(), Box<dyn StdError + Send + Sync + 'static>> {
        self.overlay.read(out, start).map_err(|error| {
            let text = error.to_string();
            self.failed.borrow_mut().get_or_insert(error);
            text.into()
        })
    }
}

impl Ext4 {
    pub(super) fn open(area: &Extent) -> Result<Ext4, Error> {
        let overlay = Overlay::open(area)?;
        let failed = Failed::default();
        let reader = Reader { overlay, failed: Rc::clone(&failed) };
        let view = match View::load(Box::new(reader)) {
            Ok(view) => view,
            Err(error) => return Err(convert(&failed, "the ext4 filesystem", &error)),
        };
        Ok(Ext4 { view, area: area.clone(), failed })
    }

    fn error(&self, path: &str, error: &Ext4Error) -> Error {
        convert(&self.failed, &format!("{path} in the ext4 filesystem"), error)
    }
}

fn convert(failed: &Failed, what: &str, error: &Ext4Error) -> Error {
    match (failed.borrow_mut().take(), error) {
        (Some(first), _) if first.is_final() => first,
        (_, Ext4Error::Incompatible(feature)) => {
            Error::UnsupportedFilesystem { found: format!("{what} uses {feature}") }
        }
        (_, Ext4Error::Encrypted) => {
            Error::UnsupportedFilesystem { found: format!("{what} is encrypted") }
        }
        _ => Error::Corrupt { what: what.to_owned(), why: error.to_string() },
    }
}

impl FileSystem for Ext4 {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn uuid(&self) -> Option<String> {
        Some(uuid::Uuid::from_bytes(*self.view.uuid().as_bytes()).hyphenated().to_string())
    }

    fn label(&self) -> Option<String> {
        let label = self.view.label().to_str().ok()?;
        (!label.is_empty()).then(|| label.to_owned())
    }

    fn stat(&self, path: &str) -> Result<Option<Stat>, Error> {
        self.area.check_budget()?;
        match self.view.metadata(path) {
            Ok(metadata) => Ok(Some(match metadata.file_type() {
                FileType::Regular => Stat::File(metadata.len()),
                FileType::Directory => Stat::Directory,
                _ => Stat::Other,
            })),
            // Too many symbolic links name nothing either.
            Err(
                Ext4Error::NotFound
                | Ext4Error::NotADirectory
                | Ext4Error::MalformedPath
                | Ext4Error::NotAbsolute
                | Ext4Error::PathTooLong
                | Ext4Error::TooManySymlinks,
            ) => Ok(None),
            Err(error) => Err(self.error(path, &error)),
        }
    }

    fn list(&self, path: &str) -> Result<Option<Vec<String>>, Error> {
        if self.stat(path)? != Some(Stat::Directory) {
            return Ok(None);
        }
        let entries = self.view.read_dir(path).map_err(|error| self.error(path, &error))?;
        let mut names = Vec::new();
        for entry in entries.take(self.area.limits().directory_entries) {
            self.area.check_budget()?;
            let entry = entry.map_err(|error| self.error(path, &error))?;
            if let Ok(name) = entry.file_name().as_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(Some(names))
    }

    fn resolve(&self, path: &str) -> Result<String, Error> {
        let resolved = self.view.canonicalize(path).map_err(|error| self.error(path, &error))?;
        Ok(resolved.to_str().unwrap_or(path).to_owned())
    }

    fn read(&self, path: &str, limit: u64, sink: &mut Sink<'_>) -> Result<u64, Error> {
        let mut file = self.view.open(path).map_err(|error| self.error(path, &error))?;
        let mut piece = vec![0; PIECE];
        let mut total = 0;
        while total < limit {
            self.area.check_budget()?;
            let mut filled = 0;
            let wanted = usize::try_from(limit - total).map_or(PIECE, |left| left.min(PIECE));
            while filled < wanted {
                let read = file
                    .read_bytes(&mut piece[filled..wanted])
                    .map_err(|error| self.error(path, &error))?;
                if read == 0 {
                    break;
                }
                filled += read;
            }
            if filled == 0 {
                break;
            }
            sink(&piece[..filled])?;
            total += filled as u64;
        }
        Ok(total)
    }
}
