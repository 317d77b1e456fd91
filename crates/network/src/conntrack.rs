//! What the connection tracker remembers of an address, forgotten: an address that is given to
//! another interface must not bring the old one's flows along.
//!
//! Spoken over netlink as in linux/netfilter/nfnetlink_conntrack.h. Everything here happens in the
//! calling thread's namespace.

use crate::{
    Error,
    nfnetlink::{
        FAMILY_HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attributes,
        check, find, messages, open, receive, send,
    },
};
use std::{io, net::Ipv4Addr, os::fd::OwnedFd};

/// NFNL_SUBSYS_CTNETLINK, in the upper byte of message types.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;

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
