//! What the connection tracker remembers of an address, forgotten: an address that is given to
//! another interface must not bring the old one's flows along.
//!
//! Spoken over netlink as in linux/netfilter/nfnetlink_conntrack.h. Everything here happens in the
//! calling thread's namespace.

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
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// NFNL_SUBSYS_CTNETLINK, in the upper byte of message types.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Of nlmsghdr, and of nfgenmsg behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
/// Without the flags for nested and for big-endian.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel's messages of a dump are at most this long.
const BUFFER: usize = 64 << 10;

/// Drops every flow from or to this address.
pub(crate) fn forget(address: Ipv4Addr) -> Result<(), Error> {
    let work = || -> io::Result<()> {
        let socket = open()?;
        for key in flows_of(&socket, address)? {
            delete(&socket, &key)?;
        }
        Ok(())
    };
    work().map_err(|e| {
        let what =
            format!("forget the old flows of {address} (kernel module nf_conntrack_netlink)");
        Error::io(what, e)
    })
}

fn open() -> io::Result<OwnedFd> {
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

/// The attributes that name each flow of the address.
fn flows_of(socket: &OwnedFd, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
    send(socket, GET, NLM_F_REQUEST | NLM_F_DUMP, &[])?;
    let mut keys = Vec::new();
    loop {
        let answer = receive(socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(keys),
                NLMSG_ERROR => check(body)?,
                _ => keys.extend(body.get(FAMILY_HEADER..).and_then(|b| key_of(b, address))),
            }
        }
    }
}

fn delete(socket: &OwnedFd, key: &[u8]) -> io::Result<()> {
    send(socket, DELETE, NLM_F_REQUEST | NLM_F_ACK, key)?;
    let answer = receive(socket)?;
    match messages(&answer).find(|(kind, _)| *kind == NLMSG_ERROR).map(|(_, body)| check(body)) {
        // It ended by itself in between.
        Some(Err(e)) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Some(result) => result,
        None => Err(io::Error::other("the kernel did not acknowledge")),
    }
}

fn send(socket: &OwnedFd, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
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

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
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
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn check(error: &[u8]) -> io::Result<()> {
    match error.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}

/// Type, value and all bytes of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
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

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value, _)| (kind == wanted).then_some(value))
}

/// What names the flow, if it is one of the address.
fn key_of(flow: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let touches = |tuple: u16| {
        let ip = find(flow, tuple).and_then(|tuple| find(tuple, CTA_TUPLE_IP)).unwrap_or_default();
        [CTA_IP_V4_SRC, CTA_IP_V4_DST]
            .into_iter()
            .any(|side| find(ip, side) == Some(address.octets().as_slice()))
    };
    if !touches(CTA_TUPLE_ORIG) && !touches(CTA_TUPLE_REPLY) {
        return None;
    }
    let names = |kind: &u16| matches!(*kind, CTA_TUPLE_ORIG | CTA_ID);
    let key = attributes(flow).filter(|(kind, ..)| names(kind)).map(|(_, _, whole)| whole);
    Some(key.flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("fits");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_flow_is_known_by_either_end_and_named_by_tuple_and_id() {
        const NESTED: u16 = 0x8000;
        let tuple = |kind, from: [u8; 4], to: [u8; 4]| {
            let ip = [attribute(CTA_IP_V4_SRC, &from), attribute(CTA_IP_V4_DST, &to)].concat();
            attribute(kind | NESTED, &attribute(CTA_TUPLE_IP | NESTED, &ip))
        };
        let original = tuple(CTA_TUPLE_ORIG, [10, 0, 0, 1], [10, 0, 0, 2]);
        let reply = tuple(CTA_TUPLE_REPLY, [10, 0, 0, 2], [10, 0, 0, 1]);
        let (status, id) = (attribute(3, &[0; 4]), attribute(CTA_ID, &[1, 2, 3, 4]));
        let flow = [original.clone(), reply, status, id.clone()].concat();
        let key = Some([original, id].concat());
        assert_eq!(key_of(&flow, [10, 0, 0, 1].into()), key);
        assert_eq!(key_of(&flow, [10, 0, 0, 2].into()), key);
        assert_eq!(key_of(&flow, [10, 0, 0, 3].into()), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, body) in messages(&bytes) {
                let _ = (check(body), key_of(body, Ipv4Addr::LOCALHOST));
            }
            let _ = key_of(&bytes, Ipv4Addr::LOCALHOST);
        }
    }
}
