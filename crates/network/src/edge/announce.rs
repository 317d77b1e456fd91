//! Tells the uplink's neighbours that a public address is here now, so that they do not go on
//! sending to where it was.

use crate::Error;
use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

const ETHERTYPE_ARP: u16 = 0x0806;

/// Sends a gratuitous ARP request for each address, in the calling thread's namespace.
pub(super) fn announce(link: u32, mac: [u8; 6], addresses: &[Ipv4Addr]) -> Result<(), Error> {
    let work = || -> io::Result<()> {
        // SAFETY: socket takes three integers; the descriptor it gives is ours alone.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: sockaddr_ll is plain data, for which all zeroes is a valid value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        to.sll_protocol = ETHERTYPE_ARP.to_be();
        to.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
        to.sll_halen = 6;
        to.sll_addr[..6].fill(0xff);
        for address in addresses {
            let frame = frame(mac, *address);
            let length = size_of::<libc::sockaddr_ll>();
            // SAFETY: the frame and the address are live for the call and as long as is said.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const to).cast(),
                    libc::socklen_t::try_from(length).map_err(io::Error::other)?,
                )
            };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    work().map_err(|e| Error::io("announce public addresses on the uplink", e))
}

fn frame(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}
