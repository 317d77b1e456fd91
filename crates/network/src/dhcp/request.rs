//! What the server needs of a guest's packet.
//!
//! Read here and not by the crate that writes the answers: that one's decoder can be made to panic,
//! and the packets come from guests.

use std::net::Ipv4Addr;

const HEADER_BYTES: usize = 236;
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const ETHERNET: u8 = 1;
const BROADCAST_FLAG: u8 = 0x80;

/// Kinds of requests a server answers, RFC 2131.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Inform,
}

/// A request of an Ethernet client, not relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) id: u32,
    pub(super) mac: [u8; 6],
    /// The client wants the answer by broadcast.
    pub(super) broadcast: bool,
    /// The address the client uses already, or zero.
    pub(super) client: Ipv4Addr,
    /// The address the client would like.
    pub(super) wanted: Option<Ipv4Addr>,
    /// The server the client has chosen.
    pub(super) server: Option<Ipv4Addr>,
}

impl Request {
    /// None for anything that is not to be answered.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_at_checked(HEADER_BYTES)?;
        let (cookie, mut options) = rest.split_at_checked(MAGIC_COOKIE.len())?;
        let fits = header[0] == BOOT_REQUEST && header[1] == ETHERNET && header[2] == 6;
        let relayed = header[24..28] != [0; 4];
        if !fits || relayed || cookie != MAGIC_COOKIE {
            return None;
        }
        let mut kind = None;
        let mut wanted = None;
        let mut server = None;
        while let Some((&code, rest)) = options.split_first() {
            match code {
                0 => {
                    options = rest;
                    continue;
                }
                255 => break,
                _ => {}
            }
            let (&length, rest) = rest.split_first()?;
            let (value, rest) = rest.split_at_checked(usize::from(length))?;
            options = rest;
            match code {
                50 => wanted = Some(address(value)?),
                53 => {
                    kind = match value {
                        [1] => Some(Kind::Discover),
                        [3] => Some(Kind::Request),
                        [8] => Some(Kind::Inform),
                        _ => return None,
                    }
                }
                54 => server = Some(address(value)?),
                _ => {}
            }
        }
        Some(Self {
            kind: kind?,
            id: u32::from_be_bytes(header[4..8].try_into().ok()?),
            mac: header[28..34].try_into().ok()?,
            broadcast: header[10] & BROADCAST_FLAG != 0,
            client: address(&header[12..16])?,
            wanted,
            server,
        })
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn packet(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[..3].copy_from_slice(&[BOOT_REQUEST, ETHERNET, 6]);
        packet[4..8].copy_from_slice(&[1, 2, 3, 4]);
        packet[28..34].copy_from_slice(&[0, 0x16, 0x3e, 1, 2, 3]);
        packet.extend(MAGIC_COOKIE);
        packet.extend(options);
        packet
    }

    #[test]
    fn reads_a_request() {
        let packet = packet(&[53, 1, 3, 0, 50, 4, 10, 0, 0, 5, 54, 4, 10, 0, 0, 1, 255]);
        let request = Request::parse(&packet).expect("a request");
        assert_eq!(request.kind, Kind::Request);
        assert_eq!(request.id, 0x0102_0304);
        assert_eq!(request.mac, [0, 0x16, 0x3e, 1, 2, 3]);
        assert_eq!(request.wanted, Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(request.server, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!request.broadcast);
    }

    #[test]
    fn refuses_relayed_truncated_and_typeless_packets() {
        let good = packet(&[53, 1, 1, 255]);
        assert!(Request::parse(&good).is_some());
        let mut relayed = good.clone();
        relayed[24] = 10;
        assert_eq!(Request::parse(&relayed), None);
        let mut long_address = good.clone();
        long_address[2] = 255;
        assert_eq!(Request::parse(&long_address), None);
        assert_eq!(Request::parse(&packet(&[53, 1])), None);
        assert_eq!(Request::parse(&packet(&[53, 200, 1])), None);
        assert_eq!(Request::parse(&packet(&[255])), None);
        assert_eq!(Request::parse(&packet(&[53, 1, 5, 255])), None);
        assert_eq!(Request::parse(&good[..239]), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), whole in any::<bool>()) {
            let _ = Request::parse(&if whole { bytes } else { packet(&bytes) });
        }
    }
}
