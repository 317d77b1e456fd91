//! Faults: a pool without room, and calls on files that fail or do half of their work.

use qcow2::faults::{Call, Verdict};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

const POOL_BYTES: u64 = 96 << 20;

/// A small file system that only this thread, and those it starts, see.
#[derive(Debug)]
pub struct Pool {
    dir: TempDir,
}

impl Pool {
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a file system: run as root"
        );
        let dir = tempfile::Builder::new().prefix("ecs-pool-").tempdir().unwrap();
        // SAFETY: this thread's mounts become its own; no memory is concerned.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let options = std::ffi::CString::new(format!("size={POOL_BYTES}")).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all room but `left` bytes.
    pub fn fill(&self, left: u64) {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(CWD, self.ballast(), flags, Mode::RUSR | Mode::WUSR).unwrap();
        let free = rustix::fs::statvfs(self.path()).unwrap();
        let len = (free.f_bavail * free.f_frsize).saturating_sub(left);
        if len > 0 {
            let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len);
        }
    }

    pub fn make_room(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// What files do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What they should.
    None,
    /// Whatever would change them fails: as if nobody were there to ask.
    Dead,
    /// Of every `each` calls of a kind one fails with EIO.
    Eio { call: Call, each: u64 },
    /// Transfers do at most so many bytes at a time.
    Short { bytes: usize },
}

#[derive(Debug)]
pub struct Faults {
    fault: Mutex<Fault>,
    calls: AtomicU64,
    pub failed: AtomicU64,
}

impl Faults {
    pub fn install() -> Arc<Self> {
        let faults = Arc::new(Self {
            fault: Mutex::new(Fault::None),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let judge = Arc::clone(&faults);
        qcow2::faults::judge(Some(Arc::new(move |call| judge.verdict(call))));
        faults
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn verdict(&self, call: Call) -> Verdict {
        let fault = *self.fault.lock().unwrap();
        let fails = match fault {
            Fault::None => false,
            Fault::Short { bytes } => return Verdict::Short(bytes),
            Fault::Dead => call != Call::Read,
            Fault::Eio { call: kind, each } => {
                kind == call && self.calls.fetch_add(1, Ordering::Relaxed) % each == each - 1
            }
        };
        if !fails {
            return Verdict::Proceed;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        Verdict::Fail(libc::EIO)
    }
}
