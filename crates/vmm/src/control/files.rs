//! Descriptors that come along with requests.

use super::refusal;
use api::vmm::Error;
use std::{
    fs::File,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};
use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;

/// Most descriptors the kernel passes with one message.
const MAX_PASSED: usize = 253;
/// Most descriptors of one request: as many layers as a disk has, a new top, and their key.
pub const MAX_FILES: usize = crate::config::MAX_LAYERS + 2;

/// The descriptors of one request. What is not taken is closed.
#[derive(Debug, Default)]
pub struct Files(Vec<Option<OwnedFd>>);

impl Files {
    /// How many came.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The descriptor at `position`, which is not there a second time.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none.
    pub fn take(&mut self, position: i32) -> Result<File, Error> {
        let taken = usize::try_from(position)
            .ok()
            .and_then(|position| self.0.get_mut(position)?.take())
            .map(File::from);
        taken.ok_or_else(|| {
            let came = self.0.len();
            let message = format!(
                "descriptor {position} is named twice or did not come: {came} came with the request"
            );
            refusal("InvalidArgument", message)
        })
    }
}

impl From<Vec<OwnedFd>> for Files {
    fn from(files: Vec<OwnedFd>) -> Self {
        Self(files.into_iter().map(Some).collect())
    }
}

/// Reads from `stream` what is there, and the descriptors that came with it.
///
/// # Errors
/// The socket's; `ENOBUFS` if this process cannot take so many descriptors, which are closed then.
pub fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Files)> {
    let mut passed: [RawFd; MAX_PASSED] = [-1; MAX_PASSED];
    let mut buffers = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the one buffer is writable, as long as said, and outlives the call.
    let (len, count) = unsafe { stream.recv_with_fds(&mut buffers, &mut passed) }
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    // SAFETY: the kernel just made these for us, so nobody else owns them.
    let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
    Ok((len, passed[..count].iter().map(own).collect::<Vec<_>>().into()))
}

/// Writes all of `bytes`, and passes `files` with the first of them.
///
/// # Errors
/// The socket's.
pub fn send(stream: &mut UnixStream, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
    use std::io::Write as _;
    if files.is_empty() {
        return stream.write_all(bytes);
    }
    let sent = stream
        .send_with_fds(&[bytes], files)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    stream.write_all(&bytes[sent..])
}
