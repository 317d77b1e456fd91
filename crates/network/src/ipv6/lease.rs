//! What the server says to a DHCPv6 request, RFC 8415.

use std::net::Ipv6Addr;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const INFORMATION_REQUEST: u8 = 11;

const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_IA_NA: u16 = 3;
const OPTION_IA_ADDRESS: u16 = 5;
const OPTION_STATUS: u16 = 13;
const OPTION_RAPID_COMMIT: u16 = 14;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;
/// An address never changes while its ENI has it.
const FOREVER: u32 = u32::MAX;
/// A DUID is at most 130 bytes long.
const DUID_BYTES: usize = 130;

/// What one ENI is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease6 {
    pub(crate) addresses: Vec<Ipv6Addr>,
}

/// What the server needs of a request.
struct Request<'a> {
    kind: u8,
    transaction: [u8; 3],
    client: &'a [u8],
    server: Option<&'a [u8]>,
    /// The identity association's number, and the addresses in it.
    association: Option<([u8; 4], Vec<Ipv6Addr>)>,
    rapid: bool,
}

impl<'a> Request<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let (head, rest) = packet.split_at_checked(4)?;
        let mut request = Self {
            kind: head[0],
            transaction: [head[1], head[2], head[3]],
            client: &[],
            server: None,
            association: None,
            rapid: false,
        };
        for option in options(rest) {
            match option? {
                (OPTION_CLIENT_ID, value) => request.client = value,
                (OPTION_SERVER_ID, value) => request.server = Some(value),
                (OPTION_RAPID_COMMIT, _) => request.rapid = true,
                (OPTION_IA_NA, value) if request.association.is_none() => {
                    let (head, inside) = value.split_at_checked(12)?;
                    let mut addresses = Vec::new();
                    for option in options(inside) {
                        if let (OPTION_IA_ADDRESS, value) = option? {
                            let address = <[u8; 16]>::try_from(value.get(..16)?).ok()?;
                            addresses.push(Ipv6Addr::from(address));
                        }
                    }
                    request.association = Some((head[..4].try_into().ok()?, addresses));
                }
                _ => {}
            }
        }
        Some(request)
    }
}

/// Kinds and values; none for one that is cut off, which is the last.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let option = (|| {
            let (head, rest) = bytes.split_at_checked(4)?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (value, rest) = rest.split_at_checked(length)?;
            Some((u16::from_be_bytes([head[0], head[1]]), value, rest))
        })();
        match option {
            Some((kind, value, rest)) => {
                bytes = rest;
                Some(Some((kind, value)))
            }
            None => {
                bytes = &[];
                Some(None)
            }
        }
    })
}

fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend(value);
}

/// The answer; none if the request deserves none. `server`: the server's DUID.
pub(super) fn answer(packet: &[u8], lease: &Lease6, server: &[u8]) -> Option<Vec<u8>> {
    let request = Request::parse(packet)?;
    if request.client.len() > DUID_BYTES || request.server.is_some_and(|chosen| chosen != server) {
        return None;
    }
    let names_client = !request.client.is_empty();
    let names_server = request.server.is_some();
    let kind = match request.kind {
        SOLICIT if names_client && !names_server => match request.rapid {
            true => REPLY,
            false => ADVERTISE,
        },
        REQUEST | RENEW | RELEASE if names_client && names_server => REPLY,
        REBIND | CONFIRM if names_client && !names_server => REPLY,
        INFORMATION_REQUEST => REPLY,
        _ => return None,
    };
    let mut message = vec![kind];
    message.extend(request.transaction);
    if names_client {
        push(&mut message, OPTION_CLIENT_ID, request.client);
    }
    push(&mut message, OPTION_SERVER_ID, server);
    if request.kind == SOLICIT && request.rapid {
        push(&mut message, OPTION_RAPID_COMMIT, &[]);
    }
    match (request.kind, request.association) {
        (CONFIRM, Some((_, addresses))) => {
            let known = addresses.iter().all(|address| lease.addresses.contains(address));
            let status = if known { 0 } else { NOT_ON_LINK };
            push(&mut message, OPTION_STATUS, &status.to_be_bytes());
        }
        (RELEASE, _) => push(&mut message, OPTION_STATUS, &[0, 0]),
        (SOLICIT | REQUEST | RENEW | REBIND, Some((number, asked))) => {
            let mut association = number.to_vec();
            // When to renew is the client's choice.
            association.extend([0; 8]);
            for address in &lease.addresses {
                push_address(&mut association, *address, FOREVER);
            }
            // What it had and has no longer ends at once.
            for address in asked.iter().filter(|address| !lease.addresses.contains(address)) {
                push_address(&mut association, *address, 0);
            }
            if lease.addresses.is_empty() {
                push(&mut association, OPTION_STATUS, &NO_ADDRESSES.to_be_bytes());
            }
            push(&mut message, OPTION_IA_NA, &association);
        }
        _ => {}
    }
    Some(message)
}

fn push_address(association: &mut Vec<u8>, address: Ipv6Addr, lifetime: u32) {
    let mut value = address.octets().to_vec();
    value.extend(lifetime.to_be_bytes());
    value.extend(lifetime.to_be_bytes());
    push(association, OPTION_IA_ADDRESS, &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: &[u8] = &[0, 3, 0, 1, 1, 2, 3, 4, 5, 6];

    fn lease() -> Lease6 {
        Lease6 { addresses: vec!["2001:db8::5".parse().expect("an address")] }
    }

    fn request(kind: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut packet = vec![kind, 1, 2, 3];
        for (kind, value) in options {
            push(&mut packet, *kind, value);
        }
        packet
    }

    fn addresses(reply: &[u8]) -> Vec<(Ipv6Addr, u32)> {
        let reply_options: Vec<_> = options(&reply[4..]).map(|o| o.expect("whole")).collect();
        let association = reply_options.iter().find(|(kind, _)| *kind == OPTION_IA_NA);
        let inside = &association.expect("an association").1[12..];
        options(inside)
            .map(|option| option.expect("whole"))
            .filter(|(kind, _)| *kind == OPTION_IA_ADDRESS)
            .map(|(_, value)| {
                let address = <[u8; 16]>::try_from(&value[..16]).expect("an address");
                let lifetime = <[u8; 4]>::try_from(&value[20..24]).expect("a lifetime");
                (address.into(), u32::from_be_bytes(lifetime))
            })
            .collect()
    }

    #[test]
    fn gives_the_address_and_takes_others_back() {
        let association = [[0, 0, 0, 9].as_slice(), &[0; 8]].concat();
        let client = (OPTION_CLIENT_ID, [7u8; 10]);
        let solicit = request(SOLICIT, &[(client.0, &client.1), (OPTION_IA_NA, &association)]);
        let advertise = answer(&solicit, &lease(), SERVER).expect("an answer");
        assert_eq!(advertise[..4], [ADVERTISE, 1, 2, 3]);
        assert_eq!(addresses(&advertise), [(lease().addresses[0], FOREVER)]);
        let mut old = association.clone();
        push_address(&mut old, Ipv6Addr::LOCALHOST, 100);
        let renew = request(
            RENEW,
            &[(client.0, &client.1), (OPTION_SERVER_ID, SERVER), (OPTION_IA_NA, &old)],
        );
        let reply = answer(&renew, &lease(), SERVER).expect("an answer");
        assert_eq!(reply[0], REPLY);
        let given = addresses(&reply);
        assert_eq!(given, [(lease().addresses[0], FOREVER), (Ipv6Addr::LOCALHOST, 0)]);
        // Another server's client, and one without a name.
        let others = request(REQUEST, &[(client.0, &client.1), (OPTION_SERVER_ID, b"other")]);
        assert_eq!(answer(&others, &lease(), SERVER), None);
        assert_eq!(answer(&request(SOLICIT, &[]), &lease(), SERVER), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..12) {
            let _ = answer(&bytes, &lease(), SERVER);
            let whole = [vec![kind, 0, 0, 0, 0, 1, 0, 1, 1], bytes].concat();
            let _ = answer(&whole, &lease(), SERVER);
        }
    }
}
