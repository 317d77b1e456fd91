//! The bytes under a layer: positioned I/O, durability, space.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use crate::faults::{self, Call};

/// A file as the engine sees it. Production has one implementation, [`File`]; tests put recorders
/// and failing media behind it.
pub(crate) trait Storage: Send + Sync + Debug {
    /// Fill `buf` from `offset`; fewer bytes than asked for means the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Write all of `buf`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Make everything written so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Give the range back to the host; it reads as zeroes afterwards.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Change the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Space taken on the host in bytes.
    fn allocated(&self) -> io::Result<u64>;
    /// The descriptor for io_uring, when there is one.
    fn raw_fd(&self) -> Option<RawFd>;
    /// The next range that may hold data, at `offset` or behind it; the rest are holes.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..u64::MAX))
    }
    /// What tells this file from others: device and inode.
    fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        Ok(None)
    }
    /// Was it opened for writing?
    fn is_writable(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Storage for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        faults::ask(Call::Read)?;
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(self, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        faults::ask(Call::Write)?;
        self.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        faults::ask(Call::Sync)?;
        self.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        faults::ask(Call::Punch)?;
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: fallocate takes no pointers; the descriptor is open for the call's duration.
            if unsafe { libc::fallocate(self.as_raw_fd(), mode, offset, len) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if is_block_device(self)? {
            return Ok(());
        }
        faults::ask(Call::SetLen)?;
        File::set_len(self, len)
    }

    fn len(&self) -> io::Result<u64> {
        if is_block_device(self)? { block_device_len(self) } else { Ok(self.metadata()?.len()) }
    }

    fn allocated(&self) -> io::Result<u64> {
        if is_block_device(self)? {
            return block_device_len(self);
        }
        Ok(self.metadata()?.blocks().saturating_mul(512))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let seek = |offset: u64, whence| {
            let Ok(offset) = i64::try_from(offset) else { return Ok(None) };
            // SAFETY: lseek takes no pointers. The file's position is used by nobody.
            let found = unsafe { libc::lseek(self.as_raw_fd(), offset, whence) };
            if let Ok(found) = u64::try_from(found) {
                return Ok(Some(found));
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
        };
        match seek(offset, libc::SEEK_DATA) {
            Ok(None) => Ok(None),
            Ok(Some(start)) => {
                let end = seek(start, libc::SEEK_HOLE)?.filter(|end| *end > start);
                Ok(Some(start..end.unwrap_or(u64::MAX)))
            }
            // A host that cannot tell.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                Ok(Some(offset..u64::MAX))
            }
            Err(e) => Err(e),
        }
    }

    fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        let metadata = self.metadata()?;
        Ok(Some((metadata.dev(), metadata.ino())))
    }

    fn is_writable(&self) -> io::Result<bool> {
        // SAFETY: F_GETFL takes no pointers; the descriptor is open for the call's duration.
        let flags = unsafe { libc::fcntl(self.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(flags & libc::O_ACCMODE == libc::O_RDWR)
    }
}

fn is_block_device(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.file_type().is_block_device())
}

fn block_device_len(file: &File) -> io::Result<u64> {
    // _IOR(0x12, 114, size_t); libc does not name it.
    const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
    let mut len = 0u64;
    // SAFETY: the ioctl writes one u64 through the pointer, which is valid for that.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(len)
}
