//! IPv6 inside a VPC.

use crate::{
    cloud::{Cloud, accept_tcp, address},
    fabric::{Fabric, introduce},
    guest::{Guest, ask_name, tell_names},
};
use api::host::{EniSpec, RuleSpec};
use network::GATEWAY_MAC;
use std::{
    net::{Ipv6Addr, TcpListener, UdpSocket},
    time::Duration,
};

/// The host's end of every tap: EUI-64 of its MAC address.
const ROUTER: &str = "fe80::ecff:ffff:feff:ffff";

fn address6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, host.into())
}

fn add(cloud: &mut Cloud, host: u8, group: &str) -> EniSpec {
    let id = cloud.add_eni(7, host, &[group]).eni_id;
    let eni = cloud.desired.enis.iter_mut().find(|eni| eni.eni_id == id).expect("an ENI");
    eni.ipv6_addresses = vec![address6(host).to_string()];
    eni.clone()
}

fn add_vpc(cloud: &mut Cloud) {
    cloud.add_vpc(7);
    cloud.desired.vpcs[0].ipv6_cidr = "2001:db8:0:7::/64".to_owned();
    cloud.add_group(7, "sg-a", vec![]);
    cloud.add_group(7, "sg-b", vec![]);
}

async fn boot(cloud: &Cloud, eni: &EniSpec) -> Guest {
    let guest = cloud.boot(eni).await;
    guest.ip(&format!("addr add {}/128 dev eth0 nodad", eni.ipv6_addresses[0]));
    guest.ip(&format!("-6 route add default via {ROUTER} dev eth0"));
    for port in [80, 81] {
        tell_names(guest.run(move || {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("listen in the guest")
        }));
    }
    guest
}

fn asks(guest: &Guest, to: Ipv6Addr, port: u16) -> String {
    guest.run(move || ask_name(to, port))
}

async fn agree(a: &mut Cloud, b: &mut Cloud) {
    introduce(&mut [a, b]);
    a.reconcile().await;
    b.reconcile().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_judge_ipv6_on_one_host_and_across_hosts() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (fabric.cloud(0).await, fabric.cloud(1).await);
    for cloud in [&mut a, &mut b] {
        add_vpc(cloud);
    }
    let (one, two) = (add(&mut a, 1, "sg-a"), add(&mut a, 2, "sg-b"));
    let three = add(&mut b, 3, "sg-a");
    agree(&mut a, &mut b).await;
    let (g1, g2, g3) = (boot(&a, &one).await, boot(&a, &two).await, boot(&b, &three).await);
    assert_eq!(asks(&g1, address6(3), 80), address6(1).to_string());
    assert_eq!(asks(&g3, address6(1), 80), address6(3).to_string());
    assert_eq!(asks(&g1, address6(2), 80), "", "not of the group");
    assert_eq!(asks(&g3, address6(2), 80), "");
    assert!(g1.pings(address(3)), "IPv4 is as it was");
    assert_eq!(a.reconcile().await.changes, 0);

    // By block, by group, and only for the family a rule names.
    let by_group =
        RuleSpec { cidr: String::new(), peer_group_id: "sg-a".to_owned(), ..accept_tcp(81, "") };
    for cloud in [&mut a, &mut b] {
        cloud.group("sg-b").rules = vec![accept_tcp(80, "2001:db8:0:7::1/128"), by_group.clone()];
    }
    agree(&mut a, &mut b).await;
    assert_eq!(asks(&g1, address6(2), 80), address6(1).to_string());
    assert_eq!(asks(&g3, address6(2), 80), "");
    assert_eq!(asks(&g3, address6(2), 81), address6(3).to_string());
    for cloud in [&mut a, &mut b] {
        cloud.group("sg-b").rules = vec![accept_tcp(80, "0.0.0.0/0")];
    }
    agree(&mut a, &mut b).await;
    assert_eq!(asks(&g1, address6(2), 80), "");

    // An address that is not its own takes nobody anywhere, nor does one of nobody.
    g1.ip(&format!("addr add {}/128 dev eth0 nodad", address6(9)));
    g1.ip(&format!("-6 route add {}/128 via {ROUTER} dev eth0 src {}", address6(3), address6(9)));
    assert_eq!(asks(&g1, address6(3), 80), "");
    g1.ip(&format!("-6 route del {}/128", address6(3)));
    assert_eq!(asks(&g1, address6(3), 80), address6(1).to_string());

    for (damage, named) in [
        ("ip -6 route flush table main proto static", "route"),
        ("ip -6 neigh flush nud permanent", "neighbour"),
        ("nft flush chain inet ecs prerouting6", "packet filter"),
        ("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", "forwarding"),
    ] {
        a.by_hand(7, damage);
        let report = a.reconcile().await;
        assert!(format!("{:?}", report.repairs).contains(named), "{damage}: {report:?}");
        assert_eq!(asks(&g1, address6(3), 80), address6(1).to_string(), "{damage}");
        assert_eq!(a.reconcile().await.changes, 0, "{damage}");
    }
    drop((g1, g2, g3));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ipv6_nothing_of_it_passes() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-a", vec![]);
    let (one, two) = (add(&mut cloud, 1, "sg-a"), add(&mut cloud, 2, "sg-a"));
    cloud.reconcile().await;
    let (g1, _g2) = (boot(&cloud, &one).await, boot(&cloud, &two).await);
    assert_eq!(asks(&g1, address6(2), 80), "");
    assert!(g1.pings(address(2)));
    drop((g1, _g2));
    cloud.demolish().await;
}

/// The payload of an ICMPv6 or UDP packet in a frame, with its protocol.
fn ipv6_payload(frame: &[u8]) -> Option<(u8, Vec<u8>)> {
    (frame.get(12..14)? == [0x86, 0xdd]).then_some(())?;
    Some((*frame.get(20)?, frame.get(54..)?.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_told_its_router_and_its_addresses() {
    let mut cloud = Cloud::new().await;
    add_vpc(&mut cloud);
    let eni = add(&mut cloud, 1, "sg-a");
    cloud.reconcile().await;
    // A guest that has nothing but its link-local address.
    let guest = cloud.boot(&eni).await;
    let told = guest.run(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 546)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set a timeout");
        let index = nix::net::if_::if_nametoindex("eth0").expect("eth0");
        let to = std::net::SocketAddrV6::new("ff02::1:2".parse().expect("all"), 547, 0, index);
        // Solicit: client identifier, and an identity association.
        let mut solicit = vec![1, 9, 9, 9, 0, 1, 0, 10, 0, 3, 0, 1, 1, 2, 3, 4, 5, 6];
        solicit.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut buffer = [0; 512];
        (0..10).find_map(|_| {
            // Its link-local address is not there from the first moment on.
            if socket.send_to(&solicit, to).is_err() {
                std::thread::sleep(Duration::from_millis(300));
                return None;
            }
            let (bytes, from) = socket.recv_from(&mut buffer).ok()?;
            Some((buffer[..bytes].to_vec(), from))
        })
    });
    let (answer, from) = told.expect("an answer of the DHCPv6 server");
    assert_eq!(from.ip().to_string(), ROUTER);
    assert_eq!(answer[..4], [2, 9, 9, 9], "an advertisement of our transaction");
    let octets = address6(1).octets();
    assert!(answer.windows(16).any(|bytes| bytes == octets), "{answer:?}");

    // The kernel's own client takes the router from the advertisement.
    guest.ip("link set eth0 down");
    guest.ip("link set eth0 up");
    let found = (0..40).any(|_| {
        std::thread::sleep(Duration::from_millis(250));
        guest.run(|| {
            let output = std::process::Command::new("ip").args(["-6", "route"]).output();
            let routes = String::from_utf8_lossy(&output.expect("run ip").stdout).into_owned();
            routes.lines().any(|l| l.starts_with("default via fe80::ecff") && l.contains("ra"))
        })
    });
    assert!(found, "a default route by router advertisement");
    drop(guest);
    let mut cable = cloud.cable(&eni).await;
    let mac = [0, 0x16, 0x3e, 0, 7, 1];
    // A router solicitation of another MAC address is not heard, an own one is.
    let solicit = |mac: [u8; 6], from: Ipv6Addr| {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
        frame.extend(mac);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255]);
        let to: Ipv6Addr = "ff02::2".parse().expect("all routers");
        let mut sum: u32 = 58 + 8 + (133 << 8);
        for word in from.segments().into_iter().chain(to.segments()) {
            sum += u32::from(word);
        }
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("fits");
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend([133, 0]);
        frame.extend(sum.to_be_bytes());
        frame.extend([0; 4]);
        frame
    };
    let advert = |frame: &[u8]| {
        let (protocol, payload) = ipv6_payload(frame)?;
        (protocol == 58 && payload.first() == Some(&134)).then_some(payload)
    };
    let told = cable.ask(&solicit(mac, Ipv6Addr::UNSPECIFIED), advert).expect("an advertisement");
    assert!(told.windows(6).any(|bytes| bytes == GATEWAY_MAC));
    while cable.receive(Duration::from_millis(300), advert).is_some() {}
    cable.send(&solicit([0, 0x16, 0x3e, 0, 7, 9], Ipv6Addr::UNSPECIFIED));
    assert!(cable.receive(Duration::from_millis(700), advert).is_none());
    drop(cable);
    cloud.demolish().await;
}
