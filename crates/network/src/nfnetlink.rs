//! Netlink to netfilter: framing, and the number of changes its rules have seen.
//!
//! As in linux/netfilter/nfnetlink.h. Everything here happens in the calling thread's namespace.

use crate::Error;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Of nlmsghdr, and of nfgenmsg behind it.
const HEADER: usize = 16;
pub(crate) const FAMILY_HEADER: usize = 4;
/// Without the flags for nested and for big-endian.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel's messages of a dump are at most this long.
const BUFFER: usize = 64 << 10;
/// NFNL_SUBSYS_NFTABLES, in the upper byte of message types.
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_NEWGEN: u16 = NFTABLES | 15;
const NFT_MSG_GETGEN: u16 = NFTABLES | 16;
const NFTA_GEN_ID: u16 = 1;

/// How many transactions the namespace's rules have seen: grows by one with each, whoever makes it.
pub(crate) fn rules_generation() -> Result<u32, Error> {
    let work = || -> io::Result<u32> {
        let socket = open()?;
        send(&socket, NFT_MSG_GETGEN, NLM_F_REQUEST, &[])?;
        let answer = receive(&socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NLMSG_ERROR => check(body)?,
                NFT_MSG_NEWGEN => {
                    let id = find(body.get(FAMILY_HEADER..).unwrap_or_default(), NFTA_GEN_ID);
                    let id = id.and_then(|id| <[u8; 4]>::try_from(id).ok());
                    return id
                        .map(u32::from_be_bytes)
                        .ok_or_else(|| io::Error::other("the kernel's answer has no generation"));
                }
                _ => {}
            }
        }
        Err(io::Error::other("the kernel did not answer"))
    };
    work()
        .map_err(|e| Error::io("ask for the generation of the rules (kernel module nf_tables)", e))
}

pub(crate) fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // The kernel answers at once; a lost answer must not hang the agent.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    Ok(socket)
}

pub(crate) fn send(socket: &OwnedFd, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
    let length = HEADER + FAMILY_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time, to the kernel.
    message.extend([0; 8]);
    // Family, version, resource.
    message.extend([u8::try_from(libc::AF_INET).map_err(io::Error::other)?, 0, 0, 0]);
    message.extend(attributes);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    Ok(())
}

pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(bytes) => {
                buffer.truncate(bytes);
                return Ok(buffer);
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Types and bodies of the messages in one answer.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

pub(crate) fn check(error: &[u8]) -> io::Result<()> {
    match error.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}

/// Type, value and all bytes of each attribute.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        let padded = length.next_multiple_of(4).min(bytes.len());
        let (whole, rest) = bytes.split_at(padded);
        bytes = rest;
        Some((kind, value, whole))
    })
}

pub(crate) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value, _)| (kind == wanted).then_some(value))
}
