//! Entry points for fuzzing: hostile bytes in, no panic, no hang, bounded memory.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::check::{check_storage, repair_storage};
use crate::format::header::Compression;
use crate::image::{Format, Image, OpenOptions};
use crate::storage::Storage;
use crate::{compressed, probe};

/// A file in memory that is full at 64 MiB.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

const FULL: u64 = 64 << 20;

impl Memory {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, end: Option<u64>) -> io::Result<std::sync::MutexGuard<'_, Vec<u8>>> {
        let end = end.filter(|e| *e <= FULL).ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
        let mut bytes = self.bytes();
        if (bytes.len() as u64) < end {
            bytes.resize(end as usize, 0);
        }
        Ok(bytes)
    }
}

impl Storage for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buf.len().min(bytes.len() - start);
        buf[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.grow(offset.checked_add(buf.len() as u64))?;
        bytes[offset as usize..offset as usize + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        let end = offset.saturating_add(len).min(bytes.len() as u64) as usize;
        if let Some(range) = bytes.get_mut(offset.min(end as u64) as usize..end) {
            range.fill(0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.grow(Some(len))?.truncate(len as usize);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}

/// Use `data` as an image file in every way a host does: probe, check, read, write, repair.
pub fn image(data: &[u8]) {
    let memory = Arc::new(Memory(Mutex::new(data.to_vec())));
    let _ = probe::probe_storage(&*memory);
    let _ = check_storage(&*memory);
    for read_only in [true, false] {
        let storage: Arc<dyn Storage> = memory.clone();
        let options = OpenOptions { read_only };
        if let Ok(image) = Image::open_storage(vec![(storage, Format::Qcow2)], options, None) {
            exercise(&image);
        }
    }
    let _ = repair_storage(&*memory);
    let _ = check_storage(&*memory);
}

fn exercise(image: &Image) {
    let size = image.virtual_size();
    let mut buf = vec![0u8; 70_000];
    for at in [0, 4096, size / 3, size / 2, size.saturating_sub(70_000)] {
        let len = (size.saturating_sub(at)).min(buf.len() as u64) as usize;
        let _ = image.read_at(&mut buf[..len], at);
        let _ = image.write_at(&buf[..len.min(5000)], at);
        let _ = image.discard(at, len as u64);
        let _ = image.write_zeroes(at, (len as u64).min(9000), at % 2 == 0);
        let _ = image.flush();
    }
    let _ = image.grow(size.saturating_add(1 << 20));
    let _ = image.write_at(&buf[..512], size);
    let _ = image.flush();
}

/// Unpack `data` as a compressed cluster of either kind.
pub fn compressed_cluster(data: &[u8]) {
    let mut out = vec![0u8; 1 << 16];
    let _ = compressed::unpack(Compression::Zlib, data, &mut out);
    let _ = compressed::unpack(Compression::Zstd, data, &mut out);
}
