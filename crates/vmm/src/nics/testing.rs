//! Taps to plug in.

use nix::sched::{CloneFlags, unshare};
use std::{
    fs::OpenOptions,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// A network of this thread's own, so that tests do not see each other's taps.
pub(crate) fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
}

/// A queue of the tap `name`, which exists as long as one of its queues is open.
pub(crate) fn tap(name: &str, multi_queue: bool) -> OwnedFd {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let kind = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | kind;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is a valid `ifreq` for the length of the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    file.into()
}
