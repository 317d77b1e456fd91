//! The kernel's end of an ENI: a persistent multi-queue tap.

use crate::Error;
use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

/// Bytes before each frame: `virtio_net_hdr_v1`, with its `num_buffers`.
const VNET_HEADER_BYTES: libc::c_int = 12;
/// As many as a tap has, MAX_TAP_QUEUES of the kernel.
pub(crate) const MAX_QUEUE_PAIRS: u32 = 256;

/// Opens queues of the tap of this name in the calling thread's namespace. Makes the tap if there
/// is none; it stays when all its queues are closed.
pub(crate) fn open(name: &str, queues: u32) -> Result<Vec<OwnedFd>, Error> {
    (0..queues)
        .map(|_| open_queue(name).map_err(|e| Error::io(format!("open tap {name}"), e)))
        .collect()
}

fn open_queue(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    attach(&file, name)?;
    Ok(file.into())
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the file is open, and TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header = VNET_HEADER_BYTES;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which `header` is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(1u8)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
