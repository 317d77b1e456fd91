//! The DHCP exchange over a tap, frame by frame.

use crate::cloud::{Cloud, GATEWAY, address};
use dhcproto::{
    Decodable as _, Decoder, Encodable as _,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};
use network::{DhcpOptions, GATEWAY_MAC, METADATA_ADDRESS};
use std::{net::Ipv4Addr, time::Duration};

const PATIENCE: Duration = Duration::from_secs(3);

/// An Ethernet frame with a UDP packet in it.
pub fn udp_frame(
    mac: [u8; 6],
    (from, from_port): (Ipv4Addr, u16),
    (to, to_port): (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let broadcast = to == Ipv4Addr::BROADCAST;
    let mut frame = if broadcast { [0xff; 6] } else { GATEWAY_MAC }.to_vec();
    frame.extend(mac);
    frame.extend([0x08, 0x00]);
    let udp_length = u16::try_from(8 + payload.len()).expect("fits");
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_length).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("fits");
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(from_port.to_be_bytes());
    frame.extend(to_port.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Destination MAC and address, and the message, if the frame is a DHCP answer.
fn dhcp_answer(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr, Message)> {
    let is_udp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 17;
    if !is_udp || frame.get(34..38)? != [0, 67, 0, 68] {
        return None;
    }
    let to = Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?);
    let message = Message::decode(&mut Decoder::new(frame.get(42..)?)).ok()?;
    Some((frame.get(..6)?.try_into().ok()?, to, message))
}

fn request(mac: [u8; 6], kind: MessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(42, none, none, none, none, &mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    if let Some(wanted) = wanted {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(wanted));
    }
    let payload = message.to_vec().expect("encode");
    udp_frame(mac, (none, 68), (Ipv4Addr::BROADCAST, 67), &payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_its_own_address_and_no_other() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let eni = cloud.add_eni(1, 7, &["sg-a"]);
    let told = DhcpOptions { hostname: "web-7".to_owned(), dns_servers: vec![] };
    cloud.desired.dhcp.insert(eni.eni_id.clone(), told);
    cloud.reconcile().await;
    let mut cable = cloud.cable(&eni).await;
    let mac = [0, 0x16, 0x3e, 0, 1, 7];

    let discover = request(mac, MessageType::Discover, None);
    let (to_mac, to, offer) = cable.ask(&discover, dhcp_answer).expect("an offer");
    assert_eq!((to_mac, to), (mac, address(7)));
    assert_eq!(offer.yiaddr(), address(7));
    let option = |code| offer.opts().get(code).cloned();
    assert_eq!(option(OptionCode::Router), Some(DhcpOption::Router(vec![GATEWAY])));
    assert_eq!(option(OptionCode::Hostname), Some(DhcpOption::Hostname("web-7".to_owned())));
    let dns = DhcpOption::DomainNameServer(vec![Ipv4Addr::new(100, 100, 2, 136)]);
    assert_eq!(option(OptionCode::DomainNameServer), Some(dns));
    let Some(DhcpOption::ClasslessStaticRoute(routes)) = option(OptionCode::ClasslessStaticRoute)
    else {
        panic!("no routes");
    };
    assert!(routes.contains(&(METADATA_ADDRESS.into(), GATEWAY)));

    cable.send(&request(mac, MessageType::Request, Some(address(7))));
    let (_, _, ack) = cable.receive(PATIENCE, dhcp_answer).expect("an answer");
    assert!(ack.opts().has_msg_type(MessageType::Ack));
    cable.send(&request(mac, MessageType::Request, Some(address(8))));
    let (_, to, nak) = cable.receive(PATIENCE, dhcp_answer).expect("an answer");
    assert!(nak.opts().has_msg_type(MessageType::Nak));
    assert_eq!(to, Ipv4Addr::BROADCAST);

    // Another MAC address is neither heard nor answered.
    cable.send(&request([0, 0x16, 0x3e, 0, 1, 8], MessageType::Discover, None));
    assert!(cable.receive(Duration::from_millis(500), dhcp_answer).is_none());
    drop(cable);
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_does_not_keep_others_from_an_address() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(2);
    cloud.add_group(2, "sg-a", vec![]);
    let loud = cloud.add_eni(2, 1, &["sg-a"]);
    let quiet = cloud.add_eni(2, 2, &["sg-a"]);
    cloud.reconcile().await;
    let mut loud_cable = cloud.cable(&loud).await;
    let mut quiet_cable = cloud.cable(&quiet).await;
    let loud_discover = request([0, 0x16, 0x3e, 0, 2, 1], MessageType::Discover, None);
    assert!(loud_cable.ask(&loud_discover, dhcp_answer).is_some());
    for _ in 0..200 {
        loud_cable.send(&loud_discover);
    }
    let discover = request([0, 0x16, 0x3e, 0, 2, 2], MessageType::Discover, None);
    assert!(quiet_cable.ask(&discover, dhcp_answer).is_some());
    let mut answers = 0;
    while loud_cable.receive(Duration::from_millis(300), dhcp_answer).is_some() {
        answers += 1;
    }
    assert!((1..=60).contains(&answers), "{answers} answers to 200 requests");

    // Nor one that has its address and asks again and again in one flow.
    let renewal = {
        let (mac, none) = ([0, 0x16, 0x3e, 0, 2, 1], Ipv4Addr::UNSPECIFIED);
        let mut message = Message::new_with_id(43, address(1), none, none, none, &mac);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
        let payload = message.to_vec().expect("encode");
        udp_frame(mac, (address(1), 68), (GATEWAY, 67), &payload)
    };
    assert!(loud_cable.ask(&renewal, dhcp_answer).is_some());
    for _ in 0..200 {
        loud_cable.send(&renewal);
    }
    let mut answers = 0;
    while loud_cable.receive(Duration::from_millis(300), dhcp_answer).is_some() {
        answers += 1;
    }
    assert!((1..=60).contains(&answers), "{answers} answers to 200 renewals");
    drop((loud_cable, quiet_cable));
    cloud.demolish().await;
}
