//! One VPC on several hosts.

use crate::{
    cloud::{Cloud, accept_tcp, address, drop_tcp},
    dhcp::udp_frame,
    fabric::{Fabric, introduce, underlay},
    guest::{Guest, echoes},
};
use api::host::{EniSpec, RuleSpec};
use network::{namespace_name, vxlan_mac};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

/// Two hosts with one VPC; both know both groups.
async fn two(fabric: &Fabric) -> (Cloud, Cloud) {
    let (mut a, mut b) = (fabric.cloud(0).await, fabric.cloud(1).await);
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(7);
        cloud.add_group(7, "sg-a", vec![]);
        cloud.add_group(7, "sg-b", vec![]);
    }
    (a, b)
}

async fn agree(a: &mut Cloud, b: &mut Cloud) {
    introduce(&mut [a, b]);
    a.reconcile().await;
    b.reconcile().await;
}

async fn boot_all<const N: usize>(of: [(&Cloud, &EniSpec); N]) -> Vec<Guest> {
    let mut guests = Vec::new();
    for (cloud, eni) in of {
        guests.push(cloud.boot(eni).await);
    }
    guests
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_judge_across_hosts_as_they_do_on_one() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = two(&fabric).await;
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    let stranger = b.add_eni(7, 3, &["sg-b"]);
    agree(&mut a, &mut b).await;
    let guests = boot_all([(&a, &near), (&b, &far), (&b, &stranger)]).await;
    let [near_guest, far_guest, stranger_guest] = &guests[..] else { panic!("three") };
    for guest in &guests {
        guest.serve(80);
        guest.echo(81);
    }
    assert!(near_guest.pings(address(2)));
    assert!(near_guest.reaches(address(2), 80));
    assert!(far_guest.reaches(address(1), 80));
    assert!(!stranger_guest.pings(address(1)));
    assert!(!stranger_guest.reaches(address(1), 80));
    assert!(!near_guest.reaches(address(3), 80));
    let flow = near_guest.connect(address(2), 81).expect("allowed");
    assert!(echoes(&flow));

    // The receiver's group, on the receiver's host.
    b.group("sg-b").rules = vec![accept_tcp(80, "10.0.0.1/32")];
    a.group("sg-b").rules = b.group("sg-b").rules.clone();
    agree(&mut a, &mut b).await;
    assert!(near_guest.reaches(address(3), 80));
    assert!(!stranger_guest.reaches(address(1), 80));
    assert!(echoes(&flow), "a flow that is still allowed goes on");

    // The sender's, on the sender's.
    for cloud in [&mut a, &mut b] {
        let egress = RuleSpec { egress: true, ..drop_tcp(81, "10.0.0.2/32", 1) };
        cloud.group("sg-a").rules = vec![egress];
    }
    agree(&mut a, &mut b).await;
    assert!(!echoes(&flow));
    assert!(near_guest.reaches(address(2), 80));
    drop(guests);
    a.demolish().await;
    b.demolish().await;
    assert_eq!(fabric.hosts[0].sh("nft list ruleset"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_packets_are_cut_to_what_fits_between_hosts() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = two(&fabric).await;
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    agree(&mut a, &mut b).await;
    assert_eq!(a.network.mtu(), 1450);
    // These guests have an MTU of 1500, whatever DHCP told them.
    let guests = boot_all([(&a, &near), (&b, &far)]).await;
    let [near, far] = &guests[..] else { panic!("two") };
    far.echo(81);
    let stream = near.connect(address(2), 81).expect("allowed");
    let mss = socket::getsockopt(&stream, sockopt::TcpMaxSeg).expect("MSS");
    // 1450 less 40 for headers and 12 for timestamps.
    assert!((1380..=1410).contains(&mss), "MSS {mss}");
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let copy = sent.clone();
    let mut writer = stream.try_clone().expect("a socket");
    let write = std::thread::spawn(move || writer.write_all(&copy).expect("send"));
    let mut received = vec![0; sent.len()];
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set a timeout");
    (&stream).read_exact(&mut received).expect("all of it");
    write.join().expect("sent");
    assert!(received == sent);

    // A first packet that is too long is answered, and the next one may be as long as it says.
    let mtu = near.run(|| {
        let socket =
            socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)
                .expect("a socket");
        let discover: libc::c_int = libc::IP_PMTUDISC_DO;
        // SAFETY: the option reads one int, which `discover` is.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                (&raw const discover).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
        let to = SockaddrIn::from(SocketAddrV4::new(address(2), 5000));
        socket::connect(socket.as_raw_fd(), &to).expect("connect");
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let sent = socket::send(socket.as_raw_fd(), &[0; 1472], socket::MsgFlags::empty());
            let (mut mtu, mut length): (libc::c_int, libc::socklen_t) = (0, 4);
            // SAFETY: the option writes one int, which `mtu` is.
            let got = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_MTU,
                    (&raw mut mtu).cast(),
                    &raw mut length,
                )
            };
            assert_eq!(got, 0);
            if sent.is_err() || Instant::now() > until {
                break mtu;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(mtu, 1450);
    drop(guests);
    a.demolish().await;
    b.demolish().await;
}

/// A VXLAN packet's payload: a UDP packet from `from` to `to` inside.
fn vxlan(vni: u32, sender: Ipv4Addr, from: Ipv4Addr, to: Ipv4Addr, host: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend(&vni.to_be_bytes()[1..]);
    packet.push(0);
    let mut frame = udp_frame(vxlan_mac(sender), (from, 4000), (to, 5000), b"forged");
    frame[..6].copy_from_slice(&vxlan_mac(host));
    packet.extend(frame);
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hosts_of_a_vpc_send_into_it_and_only_what_is_theirs() {
    let fabric = Fabric::new(3);
    let (mut a, mut b) = two(&fabric).await;
    let mut c = fabric.cloud(2).await;
    c.add_vpc(7);
    c.add_group(7, "sg-a", vec![]);
    let near = a.add_eni(7, 1, &["sg-a"]);
    b.add_eni(7, 2, &["sg-a"]);
    c.add_eni(7, 3, &["sg-a"]);
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(8);
        cloud.add_group(8, "sg-8", vec![]);
        cloud.add_eni(
            8,
            if cloud.options.underlay.expect("set").address == underlay(0) { 1 } else { 2 },
            &["sg-8"],
        );
    }
    introduce(&mut [&mut a, &mut b, &mut c]);
    a.reconcile().await;
    let guest = a.boot(&near).await;
    let socket = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set a timeout");
    let heard = || socket.recv_from(&mut [0; 64]).is_ok();
    let send = |host: u8, packet: Vec<u8>| {
        fabric.hosts[usize::from(host)].run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
            socket.send_to(&packet, (underlay(0), 4789)).expect("send");
        });
    };
    let (one, two, three) = (underlay(0), underlay(1), underlay(2));
    let mine = address(1);
    send(1, vxlan(7, two, address(2), mine, one));
    assert!(heard(), "an honest packet");
    send(1, vxlan(7, two, address(3), mine, one));
    assert!(!heard(), "an address of the third host");
    send(1, vxlan(7, three, address(3), mine, one));
    assert!(!heard(), "in the name of the third host");
    send(1, vxlan(7, two, Ipv4Addr::new(8, 8, 8, 8), mine, one));
    assert!(!heard(), "an address of nobody");
    send(1, vxlan(7, two, mine, mine, one));
    assert!(!heard(), "the receiver's own address");
    send(2, vxlan(8, three, address(2), mine, one));
    assert!(!heard(), "a VPC of which it has nothing");
    send(2, vxlan(7, three, address(3), mine, one));
    assert!(heard(), "another honest packet");

    // Somebody on the underlay who is no host at all.
    let outsider = fabric.node("192.168.77.66/24");
    outsider.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        for sender in [underlay(1), Ipv4Addr::new(192, 168, 77, 66)] {
            let packet = vxlan(7, sender, address(2), address(1), underlay(0));
            socket.send_to(&packet, (underlay(0), 4789)).expect("send");
        }
    });
    assert!(!heard(), "an outsider");

    // VXLAN of a guest is a payload like others.
    b.reconcile().await;
    let far = b.desired.enis[0].clone();
    let far = b.boot(&far).await;
    let plain = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4789)).expect("bind"));
    plain.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
    let inner = vxlan(7, two, address(2), address(1), one);
    let copy = inner.clone();
    far.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        socket.send_to(&copy, (address(1), 4789)).expect("send");
        // Nor does it reach a host.
        let _ = socket.send_to(&copy, (underlay(0), 4789));
    });
    let mut buffer = [0; 256];
    let (bytes, from) = plain.recv_from(&mut buffer).expect("the packet itself");
    assert_eq!((&buffer[..bytes], from.ip()), (inner.as_slice(), address(2).into()));
    assert!(!heard(), "what is inside is nobody's business");
    drop((guest, far));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_addresses_of_two_vpcs_do_not_meet_on_the_way() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = two(&fabric).await;
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(8);
        cloud.add_group(8, "sg-8", vec![]);
    }
    let (a7, b7) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    let (a8, b8) = (a.add_eni(8, 1, &["sg-8"]), b.add_eni(8, 2, &["sg-8"]));
    agree(&mut a, &mut b).await;
    let guests = boot_all([(&a, &a7), (&b, &b7), (&a, &a8), (&b, &b8)]).await;
    let [a7, b7, a8, _b8] = &guests[..] else { panic!("four") };
    b7.serve(80);
    assert!(a7.reaches(address(2), 80));
    assert!(!a8.reaches(address(2), 80));
    assert!(a8.pings(address(2)));
    drop(guests);
    a.demolish().await;
    b.demolish().await;
}

/// What left by a VPC's VXLAN interface.
fn sent(cloud: &Cloud, vni: u32) -> u64 {
    let text = cloud.by_hand(vni, "sed -n 's/.*vxlan0: *//p' /proc/net/dev | awk '{print $10}'");
    text.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_for_an_address_nobody_has_and_one_that_moves_is_found() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = two(&fabric).await;
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    agree(&mut a, &mut b).await;
    let guest = a.boot(&near).await;
    let moving = b.boot(&far).await;
    assert!(guest.pings(address(2)));
    let before = sent(&a, 7);
    assert!(!guest.pings(address(77)));
    assert!(!guest.pings(Ipv4Addr::new(10, 9, 9, 9)));
    assert_eq!(sent(&a, 7), before);

    // It moves here: the spec of this host may come first.
    drop(moving);
    let moved = a.add_eni(7, 2, &["sg-a"]);
    a.reconcile().await;
    let moving = a.boot(&moved).await;
    assert!(guest.pings(address(2)));
    b.remove_eni(&far);
    agree(&mut a, &mut b).await;
    assert!(guest.pings(address(2)));
    assert!(!a.by_hand(7, "ip -o link").contains("vxlan0"), "nobody is anywhere else");
    drop((guest, moving));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_between_hosts_is_put_right_and_named() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = two(&fabric).await;
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    agree(&mut a, &mut b).await;
    let guest = a.boot(&near).await;
    let _far = b.boot(&far).await;
    assert!(guest.pings(address(2)));
    assert_eq!(a.reconcile().await.changes, 0);
    let file = a.options.namespace_dir.join(namespace_name(7));
    for (damage, named) in [
        ("ip link del vxlan0", "VXLAN interface"),
        ("ip link set vxlan0 down", "VXLAN interface"),
        ("ip link set vxlan0 mtu 1000", "VXLAN interface"),
        ("bridge fdb del 02:ec:c0:a8:4d:02 dev vxlan0 dst 192.168.77.2", "192.168.77.2"),
        ("bridge fdb append 02:ec:c0:a8:4d:99 dev vxlan0 dst 192.168.77.99", "VXLAN interface"),
        ("ip neigh flush dev vxlan0 nud permanent", "neighbour"),
        ("ip route del 10.0.0.2/32", "route to 10.0.0.2/32"),
        ("ip route add 10.0.0.128/25 dev vxlan0", "route to 10.0.0.128/25"),
        ("ip rule del pref 32766", "rule"),
        ("ip rule add from 10.0.0.1 blackhole", "rule"),
        ("nft flush ruleset", "packet filter"),
        (
            "nft delete element inet ecs sources '{ \"vxlan0\" . 02:ec:c0:a8:4d:02 . 10.0.0.2 }'",
            "packet filter",
        ),
    ] {
        a.by_hand(7, damage);
        let report = a.reconcile().await;
        assert!(!report.repairs.is_empty(), "{damage}");
        let all = format!("{:?}", report.repairs);
        assert!(all.contains(named) && all.contains("vpc-7"), "{damage}: {all}");
        assert!(guest.pings(address(2)), "{damage}");
        let report = a.reconcile().await;
        assert_eq!((report.changes, report.repairs.len()), (0, 0), "{damage}: {report:?}");
    }
    for damage in
        ["nft flush ruleset", "nft add rule inet $(nft list tables | sed 's/.* //') input drop"]
    {
        fabric.hosts[0].sh(damage);
        let report = a.reconcile().await;
        assert!(format!("{:?}", report.repairs).contains("host's packet filter"), "{damage}");
        assert!(guest.pings(address(2)), "{damage}");
        assert_eq!(a.reconcile().await.changes, 0, "{damage}");
    }
    // What others do in the host's namespace is their business.
    fabric.hosts[0].sh("nft add table inet other");
    assert_eq!(a.reconcile().await.changes, 0);
    fabric.hosts[0].sh("nft list table inet other");

    // A namespace that lost its name.
    nix::mount::umount2(&file, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    let report = a.reconcile().await;
    assert!(format!("{:?}", report.repairs).contains("namespace"), "{report:?}");
    assert!(guest.pings(address(2)));

    // What is asked for is no repair.
    a.group("sg-a").rules = vec![accept_tcp(80, "0.0.0.0/0")];
    let report = a.reconcile().await;
    assert!(report.changes > 0 && report.repairs.is_empty(), "{report:?}");
    drop((guest, _far));
    a.demolish().await;
    b.demolish().await;
}
