//! Network namespaces: made, entered, removed, found again.

use crate::{Error, names};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::runtime::Handle;

/// Type of the file system namespaces live in, NSFS_MAGIC of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace. It exists at least as long as this does.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    path: PathBuf,
    file: Arc<File>,
    inode: u64,
}

impl Namespace {
    /// Opens the namespace of this name, if there is one.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = dir.join(name);
        let what = || format!("open namespace {}", path.display());
        // The file may be anything if we were killed between making it and mounting on it.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(what(), e)),
        };
        let kind = fstatfs(&file).map_err(|e| Error::io(what(), e))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Ok(None);
        }
        let inode = file.metadata().map_err(|e| Error::io(what(), e))?.ino();
        Ok(Some(Self { name: name.to_owned(), path, file: Arc::new(file), inode }))
    }

    /// The one with the host's own interfaces: at this path, or this process's.
    pub(crate) fn of_host(path: Option<&Path>) -> Result<Self, Error> {
        let path = path.unwrap_or(Path::new("/proc/self/ns/net"));
        let what = || format!("open namespace {}", path.display());
        let file = File::open(path).map_err(|e| Error::io(what(), e))?;
        let inode = file.metadata().map_err(|e| Error::io(what(), e))?.ino();
        let name = "the host".to_owned();
        Ok(Self { name, path: path.to_owned(), file: Arc::new(file), inode })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes a namespace and gives it its name.
    pub(crate) async fn create(dir: &Path, name: &str) -> Result<Self, Error> {
        let path = dir.join(name);
        let (mount_dir, mount_path) = (dir.to_owned(), path.clone());
        on_thread(None, move || {
            fs::create_dir_all(&mount_dir)?;
            drop(OpenOptions::new().create(true).append(true).open(&mount_path)?);
            unshare(CloneFlags::CLONE_NEWNET)?;
            bind(Path::new("/proc/thread-self/ns/net"), &mount_path)
        })
        .await?
        .map_err(|e| Error::io(format!("make namespace {}", path.display()), e))?;
        Self::open(dir, name)?.ok_or_else(|| {
            Error::io(
                format!("make namespace {}", path.display()),
                io::Error::other("it was removed as it was made"),
            )
        })
    }

    /// Identifies the namespace itself, whatever is mounted under its name.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Gives a namespace that someone unmounted its name back.
    pub(crate) fn restore_name(&self) -> Result<(), Error> {
        let source = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|_| bind(&source, &self.path))
            .map_err(|e| Error::io(format!("restore namespace {}", self.path.display()), e))
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay there.
    pub(crate) async fn run<R, F>(&self, work: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        on_thread(Some(Arc::clone(&self.file)), work).await
    }
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    mount(Some(from), to, None::<&Path>, MsFlags::MS_BIND, None::<&Path>).map_err(io::Error::from)
}

/// A thread of its own, since one that has changed its namespace must not return to a pool.
async fn on_thread<R, F>(namespace: Option<Arc<File>>, work: F) -> Result<R, Error>
where
    R: Send + 'static,
    F: FnOnce() -> R + Send + 'static,
{
    let runtime = Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let entered = match namespace {
                Some(file) => setns(&*file, CloneFlags::CLONE_NEWNET),
                None => Ok(()),
            };
            let outcome =
                entered.map_err(|e| Error::io("enter a network namespace", e)).map(|()| {
                    let _runtime = runtime.enter();
                    work()
                });
            // The caller may have been cancelled; then nobody wants the outcome.
            let _ = sender.send(outcome);
        })
        .map_err(|e| Error::io("start a thread for a network namespace", e))?;
    receiver.await.map_err(|_| Error::WorkerGone)?
}

/// Whether this process may make namespaces.
pub(crate) async fn check_permission() -> Result<(), Error> {
    on_thread(None, || unshare(CloneFlags::CLONE_NEWNET))
        .await?
        .map_err(|e| Error::Permission(e.into()))
}

/// Takes a namespace's name away. The namespace ends when nothing refers to it any more.
pub(crate) fn remove(dir: &Path, name: &str) -> Result<(), Error> {
    let path = dir.join(name);
    let what = || format!("remove namespace {}", path.display());
    // More than one mount may lie on the file.
    while umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(what(), e)),
        _ => Ok(()),
    }
}

/// The VNIs for which there is a namespace, or the remains of one.
pub(crate) fn list(dir: &Path) -> Result<Vec<u32>, Error> {
    let what = || format!("list namespaces in {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(what(), e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(what(), e))?;
        found.extend(entry.file_name().to_str().and_then(names::vni_of_namespace));
    }
    found.sort_unstable();
    Ok(found)
}
