//! An image as a file for people.

use crate::ecs_error::refuse;
use api::v1::{ExportImageEnd, ExportImagePiece};
use qcow2::{Format, Image, Layer, OpenOptions};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::Refusal;

/// Exports at once: each keeps a thread.
const AT_ONCE: usize = 8;
/// Bytes of one piece.
const PIECE: u64 = 1 << 20;

/// Exports that run, by image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exports(Arc<Mutex<HashMap<String, usize>>>);

/// One export that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Export {
    all: Exports,
    image_id: String,
}

impl Exports {
    /// Begins an export.
    pub fn begin(&self, image_id: &str) -> Result<Export, Refusal> {
        let mut running = self.running();
        if running.values().sum::<usize>() >= AT_ONCE {
            return Err(refuse(
                503,
                "Throttling",
                format!("{AT_ONCE} images are being exported; try again when one is done"),
            ));
        }
        *running.entry(image_id.to_owned()).or_default() += 1;
        Ok(Export { all: self.clone(), image_id: image_id.to_owned() })
    }

    /// Whether the image is being exported.
    pub fn is_running(&self, image_id: &str) -> bool {
        self.running().contains_key(image_id)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let mut running = self.all.running();
        if let Some(count) = running.get_mut(&self.image_id) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.image_id);
            }
        }
    }
}

/// Gives the file piece by piece until `put` breaks off; none then. Blocks.
pub(crate) fn send(
    file: File,
    stored: Format,
    wanted: Format,
    mut put: impl FnMut(ExportImagePiece) -> ControlFlow<()>,
) -> Result<Option<ExportImageEnd>, qcow2::Error> {
    let mut digest = Sha256::new();
    let mut piece = |offset: u64, data: &[u8], done: u64, total: u64| {
        digest.update(data);
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        let percent = u32::try_from(percent).unwrap_or(100).min(100);
        put(ExportImagePiece { offset, data: data.to_vec(), percent })
    };
    let sent = if stored == Format::Qcow2 && wanted == Format::Qcow2 {
        as_it_is(file, &mut piece).map_err(|source| qcow2::Error::Io {
            action: "read the image's file".to_owned(),
            source,
        })?
    } else {
        let layer = Layer { file, format: stored };
        let image = Image::open(vec![layer], OpenOptions { read_only: true })?;
        qcow2::flatten(&image, wanted, |part| piece(part.offset, part.data, part.done, part.total))?
    };
    Ok(sent.map(|file_bytes| ExportImageEnd {
        file_bytes,
        sha256: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
    }))
}

fn as_it_is(
    mut file: File,
    piece: &mut impl FnMut(u64, &[u8], u64, u64) -> ControlFlow<()>,
) -> io::Result<Option<u64>> {
    let total = file.metadata()?.len();
    let (mut offset, mut data) = (0, Vec::new());
    while offset < total {
        data.clear();
        file.by_ref().take(PIECE).read_to_end(&mut data)?;
        if data.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let done = offset + data.len() as u64;
        if piece(offset, &data, done, total).is_break() {
            return Ok(None);
        }
        offset = done;
    }
    Ok(Some(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    /// What a client makes of the pieces.
    fn export(file: &File, stored: Format, wanted: Format) -> (File, ExportImageEnd) {
        let out = tempfile::tempfile().unwrap();
        let mut digest = Sha256::new();
        let end = send(file.try_clone().unwrap(), stored, wanted, |piece| {
            digest.update(&piece.data);
            out.write_all_at(&piece.data, piece.offset).unwrap();
            ControlFlow::Continue(())
        });
        let end = end.unwrap().unwrap();
        let sha256: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(end.sha256, sha256);
        out.set_len(end.file_bytes).unwrap();
        (out, end)
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn an_image_goes_from_any_format_to_any() {
        let raw = tempfile::tempfile().unwrap();
        raw.set_len(3 << 20).unwrap();
        raw.write_all_at(&[7; 5000], 1 << 20).unwrap();
        let (same, _) = export(&raw, Format::Raw, Format::Raw);
        assert_eq!(content(&same), content(&raw));
        let (packed, end) = export(&raw, Format::Raw, Format::Qcow2);
        assert!(end.file_bytes < 1 << 20);
        assert_eq!(qcow2::check(&packed).unwrap().corruptions, 0);
        use std::io::{Seek as _, SeekFrom};
        (&packed).seek(SeekFrom::Start(0)).unwrap();
        let (as_stored, end) = export(&packed, Format::Qcow2, Format::Qcow2);
        assert_eq!(content(&as_stored), content(&packed));
        let file_sha256 = Sha256::digest(content(&packed));
        let hex: String = file_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(end.sha256, hex);
        let (unpacked, _) = export(&packed, Format::Qcow2, Format::Raw);
        assert_eq!(content(&unpacked), content(&raw));
    }

    #[test]
    fn only_so_many_run_at_once() {
        let exports = Exports::default();
        let running: Vec<_> = (0..AT_ONCE).map(|_| exports.begin("m-1").unwrap()).collect();
        assert_eq!(exports.begin("m-2").unwrap_err().code, "Throttling");
        assert!(exports.is_running("m-1") && !exports.is_running("m-2"));
        drop(running);
        assert!(!exports.is_running("m-1"));
        exports.begin("m-2").unwrap();
    }
}
