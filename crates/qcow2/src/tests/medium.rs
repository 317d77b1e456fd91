//! A file in memory that keeps a log and can refuse writes.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use crate::storage::Storage;
use crate::{CreateOptions, Format, Image, OpenOptions, Passphrase};

#[derive(Debug, Clone)]
pub(super) enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Punch {
        offset: u64,
        len: u64,
    },
    SetLen(u64),
    Sync,
    /// An operation on this range of the disk begins.
    Begin {
        offset: u64,
        len: u64,
    },
    /// A flush was answered with success; the number of the model that was flushed.
    Flushed(usize),
}

#[derive(Debug, Default)]
pub(super) struct Medium {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    log: Vec<Event>,
    /// Changes until one fails, and the errno it fails with.
    fail: Option<(u32, i32)>,
    syncs_fail: bool,
    reads: u64,
}

pub(super) fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, bytes: data } => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Event::Punch { offset, len } => {
            let end = bytes.len().min((offset + len) as usize);
            let start = end.min(*offset as usize);
            bytes[start..end].fill(0);
        }
        Event::SetLen(len) => bytes.resize(*len as usize, 0),
        Event::Sync | Event::Begin { .. } | Event::Flushed(_) => {}
    }
}

impl Medium {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { bytes, ..State::default() }) })
    }

    pub(super) fn note(&self, event: Event) {
        self.state.lock().unwrap().log.push(event);
    }

    pub(super) fn log(&self) -> Vec<Event> {
        self.state.lock().unwrap().log.clone()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    /// Reads so far.
    pub(super) fn reads(&self) -> u64 {
        self.state.lock().unwrap().reads
    }

    /// Let the change after `count` more fail with `errno`.
    pub(super) fn fail_after(&self, count: u32, errno: i32) {
        self.state.lock().unwrap().fail = Some((count, errno));
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        self.state.lock().unwrap().syncs_fail = fail;
    }

    fn change(&self, event: Event) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        match &mut state.fail {
            Some((0, errno)) => {
                let errno = *errno;
                state.fail = None;
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some((count, _)) => *count -= 1,
            None => {}
        }
        apply(&mut state.bytes, &event);
        state.log.push(event);
        Ok(())
    }
}

impl Storage for Medium {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        state.reads += 1;
        let start = state.bytes.len().min(offset as usize);
        let n = buf.len().min(state.bytes.len() - start);
        buf[..n].copy_from_slice(&state.bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(Event::Write { offset, bytes: buf.to_vec() })
    }

    fn sync(&self) -> io::Result<()> {
        if self.state.lock().unwrap().syncs_fail {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.state.lock().unwrap().log.push(Event::Sync);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Event::Punch { offset, len })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Event::SetLen(len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().bytes.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}

/// The bytes of a new image.
pub(super) fn image_bytes(options: &CreateOptions) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    crate::create(file.as_file(), options).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// Open a chain: a qcow2 medium over raw bytes.
pub(super) fn open(top: &Arc<Medium>, base: Option<&[u8]>, read_only: bool) -> Arc<Image> {
    let storage: Arc<dyn Storage> = top.clone();
    let mut layers = vec![(storage, Format::Qcow2)];
    if let Some(base) = base {
        let storage: Arc<dyn Storage> = Medium::new(base.to_vec());
        layers.push((storage, Format::Raw));
    }
    Image::open_storage(layers, OpenOptions { read_only }, Some(&passphrase())).unwrap()
}

/// That of encrypted images.
pub(super) fn passphrase() -> Passphrase {
    Passphrase::new(b"of these tests".to_vec())
}

/// Bytes that differ from seed to seed.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8 | 1
        })
        .collect()
}
