//! Where the bytes are from, and the meter every read goes through.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{BUDGET_REMEDY, Error};
use crate::limits::Limits;

/// A disk that can be read.
pub trait BlockSource {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// If the range is not on the disk or the host cannot read it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A raw image, byte for byte.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    size: u64,
}

impl RawFile {
    /// Takes an open file. Its size is looked up once.
    ///
    /// # Errors
    /// If the file has no size.
    pub fn new(file: File) -> io::Result<RawFile> {
        let size = file.metadata()?.len();
        Ok(RawFile { file, size })
    }
}

impl BlockSource for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl BlockSource for Arc<qcow2::Image> {
    fn size(&self) -> u64 {
        self.virtual_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        qcow2::Image::read_at(self, buf, offset).map_err(io::Error::other)
    }
}

impl BlockSource for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(buf.len());
        let bytes = self.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// A range of the disk. Every read is counted against one budget for the whole disk.
#[derive(Clone)]
pub(crate) struct Extent {
    meter: Rc<Meter>,
    start: u64,
    length: u64,
}

struct Meter {
    source: Box<dyn BlockSource>,
    size: u64,
    limits: Limits,
    started: Instant,
    bytes: Cell<u64>,
    reads: Cell<u64>,
    windows: RefCell<VecDeque<Window>>,
}

/// A piece of the disk in memory, the latest used ones first. Filesystems read block by block, and
/// a block of a compressed image costs as much as its whole cluster.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

const WINDOW: u64 = 256 << 10;
const WINDOWS: usize = 16;

impl Meter {
    fn read(&self, mut out: &mut [u8], mut offset: u64) -> Result<(), Error> {
        while !out.is_empty() {
            let start = offset / WINDOW * WINDOW;
            self.load(start)?;
            let windows = self.windows.borrow();
            let inside = usize::try_from(offset - start).unwrap_or(usize::MAX);
            let bytes = windows.front().and_then(|window| window.bytes.get(inside..));
            let bytes = bytes.unwrap_or_default();
            let len = bytes.len().min(out.len());
            if len == 0 {
                return Err(self.unreadable(offset, io::ErrorKind::UnexpectedEof.into()));
            }
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&bytes[..len]);
            out = later;
            offset += len as u64;
        }
        Ok(())
    }

    /// Brings the window to the front.
    fn load(&self, start: u64) -> Result<(), Error> {
        let mut windows = self.windows.borrow_mut();
        let at = windows.iter().position(|window| window.start == start);
        if let Some(window) = at.and_then(|at| windows.remove(at)) {
            windows.push_front(window);
            return Ok(());
        }
        let mut bytes = match windows.len() {
            WINDOWS.. => windows.pop_back().map(|window| window.bytes).unwrap_or_default(),
            _ => Vec::new(),
        };
        let len = self.size.saturating_sub(start).min(WINDOW);
        bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        self.bytes.set(self.bytes.get().saturating_add(len));
        self.source.read_at(&mut bytes, start).map_err(|source| self.unreadable(start, source))?;
        windows.push_front(Window { start, bytes });
        Ok(())
    }

    fn unreadable(&self, offset: u64, source: io::Error) -> Error {
        Error::Io { what: format!("could not read the disk at byte {offset}"), source }
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extent").field("start", &self.start).field("length", &self.length).finish()
    }
}

impl Extent {
    /// The whole disk.
    pub(crate) fn whole(source: Box<dyn BlockSource>, limits: Limits) -> Extent {
        let length = source.size();
        let meter = Meter {
            source,
            size: length,
            limits,
            started: Instant::now(),
            bytes: Cell::new(0),
            reads: Cell::new(0),
            windows: RefCell::default(),
        };
        Extent { meter: Rc::new(meter), start: 0, length }
    }

    /// A part of it; what does not fit is cut off.
    pub(crate) fn part(&self, start: u64, length: u64) -> Extent {
        let start = start.min(self.length);
        let length = length.min(self.length - start);
        Extent { meter: Rc::clone(&self.meter), start: self.start + start, length }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.meter.limits
    }

    /// Fails once the time or the budget is used up, so that loops without reads end as well.
    pub(crate) fn check_budget(&self) -> Result<(), Error> {
        let limits = &self.meter.limits;
        if self.meter.started.elapsed() > limits.time {
            return Err(Error::Timeout { seconds: limits.time.as_secs() });
        }
        if self.meter.bytes.get() > limits.read_bytes || self.meter.reads.get() > limits.reads {
            return Err(Error::TooLarge {
                what: "what would have to be read to find the kernel".into(),
                limit: format!("{} MiB or {} reads", limits.read_bytes >> 20, limits.reads),
                remedy: BUDGET_REMEDY,
            });
        }
        Ok(())
    }

    /// Fills `buf`.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let len = buf.len() as u64;
        self.meter.reads.set(self.meter.reads.get().saturating_add(1));
        self.check_budget()?;
        if offset.checked_add(len).is_none_or(|end| end > self.length) {
            return Err(Error::Corrupt {
                what: "a structure on the disk".into(),
                why: format!(
                    "it points to bytes {offset}..+{len} of an area of {} bytes",
                    self.length
                ),
            });
        }
        self.meter.read(buf, self.start + offset)
    }

    /// The first bytes of the area: `len`, or fewer if it is shorter.
    pub(crate) fn head(&self, len: usize) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(self.length).map_or(len, |length| length.min(len));
        let mut bytes = vec![0; len];
        self.read(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// An [`Extent`] for crates that want a stream. Writing is refused. Small reads are served from a
/// buffer.
#[derive(Debug)]
pub(crate) struct Stream {
    extent: Extent,
    position: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    failed: Rc<RefCell<Option<Error>>>,
}

const STREAM_BUFFER: u64 = 4096;

impl Stream {
    /// `failed` keeps the first error, which `io::Error` cannot carry through other crates.
    pub(crate) fn new(extent: Extent, failed: Rc<RefCell<Option<Error>>>) -> Stream {
        Stream { extent, position: 0, buffer: Vec::new(), buffer_at: 0, failed }
    }

    fn fail(&self, error: Error) -> io::Error {
        let text = error.to_string();
        self.failed.borrow_mut().get_or_insert(error);
        io::Error::other(text)
    }
}

impl io::Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.extent.length.saturating_sub(self.position);
        if out.is_empty() || left == 0 {
            // Callers may loop on an end they do not expect.
            return self.extent.check_budget().map(|()| 0).map_err(|error| self.fail(error));
        }
        let inside =
            self.position.checked_sub(self.buffer_at).and_then(|at| usize::try_from(at).ok());
        if inside.is_none_or(|at| at >= self.buffer.len()) {
            let len = left.min(STREAM_BUFFER.max(out.len() as u64));
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(usize::try_from(len).unwrap_or(0), 0);
            self.extent.read(&mut buffer, self.position).map_err(|error| self.fail(error))?;
            self.buffer = buffer;
            self.buffer_at = self.position;
        }
        self.extent.check_budget().map_err(|error| self.fail(error))?;
        let at = usize::try_from(self.position - self.buffer_at).unwrap_or(0);
        let from = self.buffer.get(at..).unwrap_or_default();
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        self.position += len as u64;
        Ok(len)
    }
}

impl io::Seek for Stream {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let to = match to {
            io::SeekFrom::Start(to) => Some(to),
            io::SeekFrom::End(by) => self.extent.length.checked_add_signed(by),
            io::SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl io::Write for Stream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
