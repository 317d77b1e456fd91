//! The host's end of an interface: a queue of a tap device.

use super::config::{F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, HEADER_LEN};
use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    sync::atomic::{AtomicBool, Ordering},
};

const TUN: &str = "/dev/net/tun";
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;

/// One queue of a tap device, with the packet header virtio uses.
#[derive(Debug)]
pub struct Tap {
    file: File,
    attached: AtomicBool,
    #[cfg(test)]
    fake: bool,
}

impl Tap {
    /// Takes over an opened queue.
    ///
    /// # Errors
    /// If it is not a tap with virtio headers.
    pub fn from_file(file: File) -> io::Result<Self> {
        let mut request = empty_request();
        // SAFETY: the request is a valid `ifreq`, which the kernel fills.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF as _, &mut request) })?;
        // SAFETY: the kernel filled in the flags; every bit pattern of them is valid.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_TAP == 0 || flags & libc::IFF_VNET_HDR == 0 {
            let problem = "the descriptor is not a tap opened with IFF_TAP and IFF_VNET_HDR";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        // SAFETY: takes and returns numbers only.
        let mode = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, mode | libc::O_NONBLOCK) })?;
        let tap = Self {
            file,
            attached: AtomicBool::new(true),
            #[cfg(test)]
            fake: false,
        };
        let len = HEADER_LEN as libc::c_int;
        // SAFETY: the kernel reads one int.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &len) })?;
        Ok(tap)
    }

    /// Goes on with another tap's queue, under the descriptor it had, so that whoever knows the
    /// descriptor uses the new one from now on.
    ///
    /// # Errors
    /// As for [`Self::from_file`]; it goes on as it was then.
    pub fn replace(&self, file: File) -> io::Result<()> {
        let new = Self::from_file(file)?;
        // SAFETY: both descriptors are open and ours; the old one is only ever used by its number.
        check(unsafe { libc::dup3(new.as_raw_fd(), self.as_raw_fd(), libc::O_CLOEXEC) })?;
        let attached = self.attached.swap(true, Ordering::AcqRel);
        self.set_attached(attached)
    }

    /// Anything that passes packets with headers, for tests.
    #[cfg(test)]
    pub(super) fn unchecked(file: File) -> Self {
        Self { file, attached: AtomicBool::new(true), fake: true }
    }

    /// Opens a queue of the tap `name`, which comes into being if there is none.
    ///
    /// # Errors
    /// If the name is too long or the host refuses.
    pub fn open(name: &str, multi_queue: bool) -> io::Result<Self> {
        match Self::open_as(name, multi_queue) {
            // An existing tap is of one kind or the other.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !multi_queue => {
                Self::open_as(name, true)
            }
            outcome => outcome,
        }
    }

    fn open_as(name: &str, multi_queue: bool) -> io::Result<Self> {
        let mut request = empty_request();
        if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
            let problem = "a tap's name has 1 to 15 bytes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open(TUN)?;
        // SAFETY: the request is a valid `ifreq` for the length of the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
        Self::from_file(file)
    }

    /// Which unfinished packets the guest takes, by the features it agreed to.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn set_offload(&self, features: u64) -> io::Result<()> {
        let map = [
            (F_GUEST_CSUM, TUN_F_CSUM),
            (F_GUEST_TSO4, TUN_F_TSO4),
            (F_GUEST_TSO6, TUN_F_TSO6),
            (F_GUEST_ECN, TUN_F_TSO_ECN),
        ];
        let chosen = map.iter().filter(|(feature, _)| features & feature != 0);
        let mut offload = chosen.fold(0, |all, (_, flag)| all | flag);
        if offload & TUN_F_CSUM == 0 {
            // Segmentation without checksums does not exist.
            offload = 0;
        } else if offload & (TUN_F_TSO4 | TUN_F_TSO6) == 0 {
            offload &= !TUN_F_TSO_ECN;
        }
        #[cfg(test)]
        if self.fake {
            return Ok(());
        }
        // SAFETY: takes a number only.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD as _, offload) })?;
        Ok(())
    }

    /// Makes the tap use this queue, or not.
    ///
    /// # Errors
    /// If the host refuses, as it does for a tap of one queue.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        if self.attached.load(Ordering::Acquire) == attached {
            return Ok(());
        }
        #[cfg(test)]
        if self.fake {
            return Ok(());
        }
        let mut request = empty_request();
        let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = flag as libc::c_short;
        // SAFETY: the request is a valid `ifreq` for the length of the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETQUEUE as _, &mut request) })?;
        self.attached.store(attached, Ordering::Release);
        Ok(())
    }

    /// Back to where a driver starts: with the first pair of queues, and with no other.
    pub fn start_over(&self, number: usize) {
        // A tap with one queue cannot be detached, and only has number 0.
        if let Err(error) = self.set_attached(number == 0) {
            crate::say::report(format_args!("tap queue {number}: {error}"));
        }
    }

    /// Receives one packet into `pieces`, as much of it as fits.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, or what the host says.
    ///
    /// # Safety
    /// The pieces must be writable memory.
    pub unsafe fn receive(&self, pieces: &[libc::iovec]) -> io::Result<usize> {
        let count = pieces.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        // SAFETY: the caller vouches for the memory; the count is that of the slice at most.
        let len = unsafe { libc::readv(self.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// If the host does not take it.
    ///
    /// # Safety
    /// The pieces must be readable memory.
    pub unsafe fn send(&self, pieces: &[libc::iovec]) -> io::Result<usize> {
        let count = pieces.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        // SAFETY: the caller vouches for the memory; the count is that of the slice at most.
        let len = unsafe { libc::writev(self.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn empty_request() -> libc::ifreq {
    // SAFETY: all zeroes is a valid `ifreq`: no name, no flags.
    unsafe { std::mem::zeroed() }
}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
