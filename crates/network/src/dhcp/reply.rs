//! What the server says to a request.

use super::request::{Kind, Request};
use crate::METADATA_ADDRESS;
use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode},
};
use ipnet::Ipv4Net;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

const CLIENT_PORT: u16 = 68;
/// RFC 1035's limit of a label.
const HOSTNAME_BYTES: usize = 63;

/// What one ENI is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) mac: [u8; 6],
    pub(crate) address: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u16,
    pub(crate) dns_servers: Vec<Ipv4Addr>,
    pub(crate) hostname: String,
    pub(crate) duration: Duration,
}

/// The answer's bytes and where they go; none if the request deserves none.
pub(super) fn answer(request: &Request, lease: &Lease) -> Option<(Vec<u8>, SocketAddrV4)> {
    if request.mac != lease.mac {
        return None;
    }
    let kind = match request.kind {
        Kind::Discover => MessageType::Offer,
        Kind::Inform => MessageType::Ack,
        Kind::Request => {
            if request.server.is_some_and(|server| server != lease.gateway) {
                return None;
            }
            let wanted = request.wanted.unwrap_or(request.client);
            if wanted == lease.address { MessageType::Ack } else { MessageType::Nak }
        }
    };
    let refused = kind == MessageType::Nak;
    let mut message = Message::new_with_id(
        request.id,
        if refused { Ipv4Addr::UNSPECIFIED } else { request.client },
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &request.mac,
    );
    message.set_opcode(Opcode::BootReply);
    if request.broadcast {
        message.set_flags(Flags::default().set_broadcast());
    }
    if !refused && request.kind != Kind::Inform {
        message.set_yiaddr(lease.address);
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(lease.gateway));
    if !refused {
        if request.kind != Kind::Inform {
            let seconds = u32::try_from(lease.duration.as_secs()).unwrap_or(u32::MAX);
            options.insert(DhcpOption::AddressLeaseTime(seconds));
        }
        options.insert(DhcpOption::SubnetMask(lease.subnet.netmask()));
        options.insert(DhcpOption::BroadcastAddr(lease.subnet.broadcast()));
        options.insert(DhcpOption::Router(vec![lease.gateway]));
        options.insert(DhcpOption::InterfaceMtu(lease.mtu));
        // A client that reads this option ignores the router, so the default route is here too.
        options.insert(DhcpOption::ClasslessStaticRoute(vec![
            (METADATA_ADDRESS.into(), lease.gateway),
            (Ipv4Net::default(), lease.gateway),
        ]));
        if !lease.dns_servers.is_empty() {
            options.insert(DhcpOption::DomainNameServer(lease.dns_servers.clone()));
        }
        if is_hostname(&lease.hostname) {
            options.insert(DhcpOption::Hostname(lease.hostname.clone()));
        }
    }
    let to = if refused || (request.broadcast && request.client.is_unspecified()) {
        Ipv4Addr::BROADCAST
    } else {
        // The neighbour entry of the tap is there before the guest has its address.
        lease.address
    };
    let bytes = message.to_vec().ok()?;
    Some((bytes, SocketAddrV4::new(to, CLIENT_PORT)))
}

fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= HOSTNAME_BYTES
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 255 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::{Decodable as _, Decoder, v4::OptionCode};

    fn lease() -> Lease {
        Lease {
            mac: [0, 0x16, 0x3e, 1, 2, 3],
            address: Ipv4Addr::new(10, 0, 0, 5),
            subnet: "10.0.0.0/24".parse().expect("a block"),
            gateway: Ipv4Addr::new(10, 0, 0, 253),
            mtu: 1500,
            dns_servers: vec![Ipv4Addr::new(100, 100, 2, 136)],
            hostname: "web-1".to_owned(),
            duration: Duration::from_secs(3600),
        }
    }

    fn request(kind: Kind) -> Request {
        Request {
            kind,
            id: 7,
            mac: lease().mac,
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            wanted: None,
            server: None,
        }
    }

    fn reply(request: &Request) -> Option<(Message, SocketAddrV4)> {
        answer(request, &lease()).map(|(bytes, to)| {
            (Message::decode(&mut Decoder::new(&bytes)).expect("a DHCP message"), to)
        })
    }

    #[test]
    fn offers_all_the_guest_needs() {
        let (offer, to) = reply(&request(Kind::Discover)).expect("an offer");
        assert_eq!(to, SocketAddrV4::new(lease().address, CLIENT_PORT));
        assert_eq!((offer.xid(), offer.yiaddr()), (7, lease().address));
        assert!(offer.opts().has_msg_type(MessageType::Offer));
        let option = |code| offer.opts().get(code).cloned();
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        assert_eq!(option(OptionCode::SubnetMask), Some(DhcpOption::SubnetMask(mask)));
        assert_eq!(option(OptionCode::InterfaceMtu), Some(DhcpOption::InterfaceMtu(1500)));
        let routers = DhcpOption::Router(vec![lease().gateway]);
        assert_eq!(option(OptionCode::Router), Some(routers));
        assert_eq!(option(OptionCode::Hostname), Some(DhcpOption::Hostname("web-1".to_owned())));
        let Some(DhcpOption::ClasslessStaticRoute(routes)) =
            option(OptionCode::ClasslessStaticRoute)
        else {
            panic!("no routes");
        };
        assert!(routes.contains(&(Ipv4Net::default(), lease().gateway)));
    }

    #[test]
    fn grants_the_address_and_refuses_others() {
        let mut wants = request(Kind::Request);
        wants.wanted = Some(lease().address);
        let (ack, _) = reply(&wants).expect("an answer");
        assert!(ack.opts().has_msg_type(MessageType::Ack));
        wants.wanted = Some(Ipv4Addr::new(10, 0, 0, 6));
        let (nak, to) = reply(&wants).expect("an answer");
        assert!(nak.opts().has_msg_type(MessageType::Nak));
        assert_eq!(nak.yiaddr(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(*to.ip(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn is_silent_to_other_macs_and_other_servers_clients() {
        let mut other = request(Kind::Discover);
        other.mac[5] = 9;
        assert!(reply(&other).is_none());
        let mut chosen = request(Kind::Request);
        chosen.wanted = Some(lease().address);
        chosen.server = Some(Ipv4Addr::new(10, 0, 0, 66));
        assert!(reply(&chosen).is_none());
    }

    #[test]
    fn honours_the_broadcast_flag_and_informs_without_a_lease() {
        let mut discover = request(Kind::Discover);
        discover.broadcast = true;
        assert_eq!(*reply(&discover).expect("an offer").1.ip(), Ipv4Addr::BROADCAST);
        let mut inform = request(Kind::Inform);
        inform.client = lease().address;
        let (ack, _) = reply(&inform).expect("an answer");
        assert!(ack.opts().get(OptionCode::AddressLeaseTime).is_none());
        assert_eq!(ack.yiaddr(), Ipv4Addr::UNSPECIFIED);
    }
}
