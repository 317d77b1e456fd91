//! What a guest cannot do.

use crate::{
    cloud::{Cloud, GATEWAY, accept_tcp, address},
    dhcp::udp_frame,
};
use network::{GATEWAY_MAC, METADATA_ADDRESS, METADATA_PORT};
use std::{
    io::Write as _,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

const MAC_1: [u8; 6] = [0, 0x16, 0x3e, 0, 1, 1];

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_packets_are_dropped() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let (a, b) = (cloud.add_eni(1, 1, &["sg-a"]), cloud.add_eni(1, 2, &["sg-a"]));
    let _third = cloud.add_eni(1, 3, &["sg-a"]);
    cloud.reconcile().await;
    let mut cable = cloud.cable(&a).await;
    let guest = cloud.boot(&b).await;
    let socket = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(700))).expect("set a timeout");
    let heard = || {
        let mut buffer = [0; 64];
        socket.recv_from(&mut buffer).ok().map(|(bytes, from)| (buffer[..bytes].to_vec(), from))
    };
    let to = (address(2), 5000);

    cable.send(&udp_frame(MAC_1, (address(1), 4000), to, b"mine"));
    assert_eq!(heard().expect("an honest packet").0, b"mine");
    cable.send(&udp_frame(MAC_1, (address(3), 4000), to, b"another's address"));
    assert_eq!(heard(), None);
    cable.send(&udp_frame([0, 0x16, 0x3e, 0, 1, 3], (address(1), 4000), to, b"another's MAC"));
    assert_eq!(heard(), None);
    cable.send(&udp_frame(MAC_1, (Ipv4Addr::new(100, 104, 0, 1), 4000), to, b"the host"));
    assert_eq!(heard(), None);

    // A guest is no DHCP server.
    let client = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).expect("bind"));
    client.set_read_timeout(Some(Duration::from_millis(700))).expect("set a timeout");
    cable.send(&udp_frame(MAC_1, (address(1), 67), (address(2), 68), b"an offer"));
    assert!(client.recv_from(&mut [0; 64]).is_err());
    cable.send(&udp_frame(MAC_1, (address(1), 66), (address(2), 68), b"no offer"));
    assert!(client.recv_from(&mut [0; 64]).is_ok());
    drop((cable, guest));
    cloud.demolish().await;
}

/// An ARP request, as a frame.
fn arp(mac: [u8; 6], from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Who answered for which address.
fn arp_reply(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    let is_reply = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 2];
    is_reply.then_some(())?;
    let address = <[u8; 4]>::try_from(frame.get(28..32)?).ok()?;
    Some((frame.get(22..28)?.try_into().ok()?, address.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_answers_arp_for_everything_but_only_to_the_owner() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let a = cloud.add_eni(1, 1, &["sg-a"]);
    cloud.add_eni(1, 2, &["sg-a"]);
    cloud.reconcile().await;
    let mut cable = cloud.cable(&a).await;
    for target in [GATEWAY, address(2), METADATA_ADDRESS] {
        let answer = cable.ask(&arp(MAC_1, address(1), target), arp_reply);
        assert_eq!(answer, Some((GATEWAY_MAC, target)));
    }
    let silence = Duration::from_millis(1200);
    // Its own address stays its own, or the guest would think that it is taken.
    cable.send(&arp(MAC_1, Ipv4Addr::UNSPECIFIED, address(1)));
    assert_eq!(cable.receive(silence, arp_reply), None);
    cable.send(&arp(MAC_1, address(2), GATEWAY));
    assert_eq!(cable.receive(silence, arp_reply), None);
    cable.send(&arp([0, 0x16, 0x3e, 0, 1, 2], address(1), GATEWAY));
    assert_eq!(cable.receive(silence, arp_reply), None);
    drop(cable);
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_addresses_in_two_vpcs_do_not_meet() {
    let mut cloud = Cloud::new().await;
    for vni in [1, 2] {
        cloud.add_vpc(vni);
        cloud.add_group(vni, &format!("sg-{vni}"), vec![accept_tcp(80, "0.0.0.0/0")]);
    }
    let mut guests = Vec::new();
    let mut enis = Vec::new();
    for vni in [1, 2] {
        let group = format!("sg-{vni}");
        enis.push(cloud.add_eni(vni, 1, &[&group]));
    }
    // Only the first VPC has a second address.
    enis.push(cloud.add_eni(1, 2, &["sg-1"]));
    cloud.reconcile().await;
    for eni in &enis {
        guests.push(cloud.boot(eni).await);
    }
    guests[2].serve(80);
    assert!(guests[0].reaches(address(2), 80));
    assert!(!guests[1].reaches(address(2), 80));
    drop(guests);
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_host_only_the_metadata_port_is_reachable() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-e", vec![]);
    cloud.group("sg-e").enterprise = true;
    let eni = cloud.add_eni(1, 1, &["sg-e"]);
    cloud.reconcile().await;
    let guest = cloud.boot(&eni).await;
    for (address, port) in
        [(METADATA_ADDRESS, METADATA_PORT), (METADATA_ADDRESS, 81), (GATEWAY, 80)]
    {
        let listener = cloud.network.tcp_listen(1, address, port).await.expect("listen");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.into_std().and_then(|mut s| s.write_all(b"hello"));
            }
        });
    }
    // Groups have no say in it, not even one that denies everything.
    let guest = tokio::task::spawn_blocking(move || {
        assert!(guest.reaches(METADATA_ADDRESS, METADATA_PORT));
        assert!(!guest.reaches(METADATA_ADDRESS, 81));
        assert!(!guest.reaches(GATEWAY, 80));
        assert!(guest.pings(GATEWAY));
        assert!(!guest.pings(network::SERVICE_ADDRESS));
        guest
    });
    drop(guest.await.expect("the guest"));
    cloud.demolish().await;
}
