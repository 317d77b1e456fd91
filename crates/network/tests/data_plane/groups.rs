//! What security groups let pass.

use crate::{
    cloud::{Cloud, GATEWAY, accept_tcp, address, drop_tcp},
    dhcp::udp_frame,
    guest::echoes,
};
use api::host::{EniSpec, RuleSpec};
use network::security_groups::policy::{Direction, Packet, Policy, Verdict};
use std::{net::SocketAddrV4, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_reach_each_other_and_strangers_do_not() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    cloud.add_group(1, "sg-b", vec![]);
    let (a1, a2) = (cloud.add_eni(1, 1, &["sg-a"]), cloud.add_eni(1, 2, &["sg-a"]));
    let b = cloud.add_eni(1, 3, &["sg-b"]);
    cloud.reconcile().await;
    let (g1, g2, g3) = (cloud.boot(&a1).await, cloud.boot(&a2).await, cloud.boot(&b).await);
    g2.serve(80);
    assert!(g1.pings(GATEWAY));
    assert!(g1.pings(address(2)));
    assert!(g1.reaches(address(2), 80));
    assert!(!g3.pings(address(2)));
    assert!(!g3.reaches(address(2), 80));

    // A group may keep its members apart.
    cloud.group("sg-a").inner_accept = false;
    cloud.reconcile().await;
    assert!(!g1.reaches(address(2), 80));
    drop((g1, g2, g3));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_merged_by_priority_and_drop_wins_ties() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-client", vec![]);
    cloud.add_group(1, "sg-web", vec![accept_tcp(80, "10.0.0.0/24")]);
    cloud.add_group(1, "sg-more", vec![]);
    let client = cloud.add_eni(1, 1, &["sg-client"]);
    let web = cloud.add_eni(1, 2, &["sg-web", "sg-more"]);
    cloud.reconcile().await;
    let (client, web) = (cloud.boot(&client).await, cloud.boot(&web).await);
    web.serve(80);
    web.serve(81);
    assert!(client.reaches(address(2), 80));
    assert!(!client.reaches(address(2), 81));

    cloud.group("sg-more").rules = vec![drop_tcp(80, "0.0.0.0/0", 2)];
    cloud.reconcile().await;
    assert!(client.reaches(address(2), 80), "a drop of lower rank has no effect");
    cloud.group("sg-more").rules = vec![drop_tcp(80, "0.0.0.0/0", 1)];
    cloud.reconcile().await;
    assert!(!client.reaches(address(2), 80), "a drop wins at equal priority");

    // Rules name groups.
    let by_group = RuleSpec {
        cidr: String::new(),
        peer_group_id: "sg-client".to_owned(),
        ..accept_tcp(81, "")
    };
    cloud.group("sg-more").rules = vec![by_group];
    cloud.reconcile().await;
    assert!(client.reaches(address(2), 81));
    cloud.group("sg-client").member_ips.clear();
    cloud.reconcile().await;
    assert!(!client.reaches(address(2), 81));

    // Outbound rules count too.
    let egress = RuleSpec { egress: true, ..drop_tcp(80, "10.0.0.2", 1) };
    cloud.group("sg-client").rules = vec![egress];
    cloud.group("sg-more").rules.clear();
    cloud.reconcile().await;
    assert!(!client.reaches(address(2), 80));
    drop((client, web));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_ends_the_flows_that_may_not_be_any_more_and_no_others() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-client", vec![]);
    let rules = vec![accept_tcp(80, "10.0.0.1/32"), accept_tcp(81, "0.0.0.0/0")];
    cloud.add_group(1, "sg-web", rules);
    let (client, web) = (cloud.add_eni(1, 1, &["sg-client"]), cloud.add_eni(1, 2, &["sg-web"]));
    cloud.reconcile().await;
    let (client, server) = (cloud.boot(&client).await, cloud.boot(&web).await);
    server.echo(80);
    server.echo(81);
    let revoked = client.connect(address(2), 80).expect("allowed");
    let kept = client.connect(address(2), 81).expect("allowed");
    let to = SocketAddrV4::new(address(2), 81);
    let tunnel = cloud.network.tcp_connect(1, to).await.expect("allowed");
    let tunnel = tunnel.into_std().expect("a socket");
    tunnel.set_nonblocking(false).expect("a socket");
    assert!(echoes(&revoked) && echoes(&kept) && echoes(&tunnel));

    // Rules that are equal but new, as after a restart of the agent: nothing ends.
    cloud.restart().await;
    cloud.reconcile().await;
    assert!(echoes(&revoked) && echoes(&kept) && echoes(&tunnel));

    cloud.group("sg-web").rules.remove(0);
    cloud.reconcile().await;
    // The one side is silenced as the other is: an answer is judged like its flow.
    assert!(!echoes(&revoked));
    assert!(echoes(&kept) && echoes(&tunnel));

    // A change of what may leave, and one that concerns the host's own connections.
    cloud.group("sg-client").rules =
        vec![RuleSpec { egress: true, ..drop_tcp(81, "10.0.0.2/32", 1) }];
    cloud.reconcile().await;
    assert!(!echoes(&kept));
    assert!(echoes(&tunnel));
    cloud.group("sg-web").rules.clear();
    cloud.reconcile().await;
    assert!(!echoes(&tunnel));
    drop((client, server));
    cloud.demolish().await;
}

/// A flow that only the server has something to say in is judged by the packets of the server.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_judged_like_the_flow_they_belong_to() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-client", vec![]);
    let udp =
        |port, cidr: &str| RuleSpec { ip_protocol: "udp".to_owned(), ..accept_tcp(port, cidr) };
    cloud.add_group(1, "sg-server", vec![udp(53, "0.0.0.0/0"), udp(54, "10.0.0.1/32")]);
    let client = cloud.add_eni(1, 1, &["sg-client"]);
    let server = cloud.add_eni(1, 2, &["sg-server"]);
    cloud.reconcile().await;
    let (mut from, mut to) = (cloud.cable(&client).await, cloud.cable(&server).await);
    let (client_mac, server_mac) = ([0, 0x16, 0x3e, 0, 1, 1], [0, 0x16, 0x3e, 0, 1, 2]);
    let ask = |port| udp_frame(client_mac, (address(1), 4000), (address(2), port), b"question");
    let say = |port| udp_frame(server_mac, (address(2), port), (address(1), 4000), b"answer");
    let question = |frame: &[u8]| frame.ends_with(b"question").then_some(());
    let answer = |frame: &[u8]| frame.ends_with(b"answer").then_some(());
    let patience = Duration::from_millis(500);
    for port in [53, 54] {
        let asked = (0..10).find_map(|_| {
            from.send(&ask(port));
            to.receive(patience, question)
        });
        assert!(asked.is_some());
        to.send(&say(port));
        assert!(from.receive(patience, answer).is_some());
    }
    cloud.group("sg-server").rules.pop();
    cloud.reconcile().await;
    to.send(&say(54));
    assert!(from.receive(patience, answer).is_none());
    to.send(&say(53));
    assert!(from.receive(patience, answer).is_some());
    drop((from, to));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_used_again_brings_no_flows_along() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    cloud.add_group(1, "sg-b", vec![]);
    cloud.group("sg-b").rules =
        vec![RuleSpec { ip_protocol: "udp".to_owned(), ..accept_tcp(53, "0.0.0.0/0") }];
    let old = cloud.add_eni(1, 1, &["sg-a"]);
    let peer = cloud.add_eni(1, 2, &["sg-b"]);
    cloud.reconcile().await;
    let (mut from, mut to) = (cloud.cable(&old).await, cloud.cable(&peer).await);
    let ask =
        udp_frame([0, 0x16, 0x3e, 0, 1, 1], (address(1), 4000), (address(2), 53), b"question");
    let say = udp_frame([0, 0x16, 0x3e, 0, 1, 2], (address(2), 53), (address(1), 4000), b"answer");
    let question = |frame: &[u8]| frame.ends_with(b"question").then_some(());
    let answer = |frame: &[u8]| frame.ends_with(b"answer").then_some(());
    let patience = Duration::from_millis(500);
    let asked = (0..10).find_map(|_| {
        from.send(&ask);
        to.receive(patience, question)
    });
    assert!(asked.is_some());
    to.send(&say);
    assert!(from.receive(patience, answer).is_some());

    cloud.remove_eni(&old);
    cloud.reconcile().await;
    drop(from);
    let mut new = old.clone();
    new.eni_id = "eni-new".to_owned();
    cloud.group("sg-a").member_ips.push(new.private_ip.clone());
    cloud.desired.enis.push(new.clone());
    cloud.reconcile().await;
    let mut from = cloud.cable(&new).await;
    // Its own flow tells that the cable carries.
    let asked = (0..10).find_map(|_| {
        from.send(&udp_frame(
            [0, 0x16, 0x3e, 0, 1, 1],
            (address(1), 4001),
            (address(2), 53),
            b"question",
        ));
        to.receive(patience, question)
    });
    assert!(asked.is_some());
    to.send(&say);
    assert!(from.receive(patience, answer).is_none(), "an answer to the old one's question");
    drop((from, to));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enterprise_groups_deny_both_ways() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-e", vec![]);
    cloud.group("sg-e").enterprise = true;
    let (a, b) = (cloud.add_eni(1, 1, &["sg-e"]), cloud.add_eni(1, 2, &["sg-e"]));
    cloud.reconcile().await;
    let (a, b) = (cloud.boot(&a).await, cloud.boot(&b).await);
    b.serve(80);
    assert!(!a.reaches(address(2), 80));
    cloud.group("sg-e").rules = vec![accept_tcp(80, "0.0.0.0/0")];
    cloud.reconcile().await;
    assert!(!a.reaches(address(2), 80), "nothing may leave yet");
    let out = RuleSpec { egress: true, ..accept_tcp(80, "0.0.0.0/0") };
    cloud.group("sg-e").rules.push(out);
    cloud.reconcile().await;
    assert!(a.reaches(address(2), 80));
    drop((a, b));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_obey_the_groups_of_the_guest() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let eni = cloud.add_eni(1, 1, &["sg-a"]);
    cloud.reconcile().await;
    let guest = cloud.boot(&eni).await;
    guest.serve(22);
    let to = SocketAddrV4::new(address(1), 22);
    let network = cloud.network.clone();
    let refused =
        tokio::time::timeout(std::time::Duration::from_secs(2), network.tcp_connect(1, to));
    assert!(!matches!(refused.await, Ok(Ok(_))), "no rule allows it");
    cloud.group("sg-a").rules = vec![accept_tcp(22, "100.104.0.1/32")];
    cloud.reconcile().await;
    let stream = network.tcp_connect(1, to).await.expect("the rule allows it");
    assert_eq!(stream.local_addr().expect("an address").ip(), network::SERVICE_ADDRESS);
    drop((guest, stream));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_group_cuts_the_interface_off_and_is_reported() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![accept_tcp(80, "0.0.0.0/0")]);
    let (a, b) = (cloud.add_eni(1, 1, &["sg-a"]), cloud.add_eni(1, 2, &["sg-a"]));
    cloud.reconcile().await;
    let (ga, gb) = (cloud.boot(&a).await, cloud.boot(&b).await);
    gb.serve(80);
    assert!(ga.reaches(address(2), 80));
    cloud.desired.enis[1].security_group_ids.push("sg-gone".to_owned());
    let report = cloud.network.reconcile(&cloud.desired).await;
    let problem = report.problem_of(&b).expect("a problem");
    assert!(problem.message.contains("sg-gone"), "{problem}");
    assert!(!ga.reaches(address(2), 80));
    drop((ga, gb));
    cloud.demolish().await;
}

/// Numbers that are the same in every run, Knuth's MMIX generator.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).expect("31 bits") % sides
    }

    fn rules(&mut self) -> Vec<RuleSpec> {
        let rule = |dice: &mut Self| {
            let ip_protocol = ["udp", "udp", "all"][dice.roll(3) as usize];
            let (from, to) = (dice.roll(5) + 1, dice.roll(5) + 1);
            let peer = ["10.0.0.0/30", "10.0.0.2/31", "0.0.0.0/0", "", ""][dice.roll(5) as usize];
            let group = format!("sg-{}", dice.roll(3));
            let has_ports = ip_protocol == "udp";
            RuleSpec {
                egress: dice.roll(2) == 0,
                ip_protocol: ip_protocol.to_owned(),
                port_from: if has_ports { from.min(to) } else { 0 },
                port_to: if has_ports { from.max(to) } else { 0 },
                cidr: peer.to_owned(),
                peer_group_id: if peer.is_empty() { group } else { String::new() },
                priority: dice.roll(3) + 1,
                own_cidr: ["", "", "10.0.0.1/32", "10.0.0.2/32"][dice.roll(4) as usize].to_owned(),
                drop: dice.roll(3) == 0,
                source_port_range: ["", "", "1/3"][dice.roll(3) as usize]
                    .repeat(usize::from(has_ports)),
                ..RuleSpec::default()
            }
        };
        (0..4).map(|_| rule(self)).collect()
    }
}

/// What the compiler put into the kernel is what the policy says, on a sample of groups and packets.
#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_decides_as_the_policy() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    for id in ["sg-0", "sg-1", "sg-2"] {
        cloud.add_group(1, id, vec![]);
    }
    let sender = cloud.add_eni(1, 1, &["sg-0", "sg-1"]);
    let receiver = cloud.add_eni(1, 2, &["sg-1", "sg-2"]);
    cloud.reconcile().await;
    let (mut from, mut to) = (cloud.cable(&sender).await, cloud.cable(&receiver).await);
    let mut dice = Dice(1);
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..20 {
        for id in ["sg-0", "sg-1", "sg-2"] {
            cloud.group(id).rules = dice.rules();
            cloud.group(id).inner_accept = dice.roll(2) == 0;
        }
        // Each a step from the one before, as changes are applied.
        cloud.reconcile().await;
        let verdict = |eni: &EniSpec, direction, packet: &Packet| {
            let groups = &cloud.desired.groups;
            let mine: Vec<_> = groups
                .iter()
                .filter(|g| eni.security_group_ids.contains(&g.security_group_id))
                .collect();
            let (policy, broken) = Policy::merge(&mine, direction, |_| true);
            assert_eq!(broken, []);
            policy.evaluate(packet, |id, peer| {
                groups
                    .iter()
                    .any(|g| g.security_group_id == id && g.member_ips.contains(&peer.to_string()))
            })
        };
        for _ in 0..6 {
            let (source_port, destination_port) = (dice.roll(6) + 1, dice.roll(6) + 1);
            let (source_port, destination_port) = (source_port as u16, destination_port as u16);
            let packet = |own, peer| Packet {
                protocol: 17,
                peer: address(peer),
                own: address(own),
                source_port,
                destination_port,
            };
            let passes = verdict(&sender, Direction::Egress, &packet(1, 2)) == Verdict::Accept
                && verdict(&receiver, Direction::Ingress, &packet(2, 1)) == Verdict::Accept;
            let mac = [0, 0x16, 0x3e, 0, 1, 1];
            let mark = dice.roll(u32::MAX >> 1).to_be_bytes();
            let frame =
                udp_frame(mac, (address(1), source_port), (address(2), destination_port), &mark);
            let arrived = |frame: &[u8]| frame.ends_with(&mark).then_some(());
            let got = if passes {
                passed += 1;
                (0..10).find_map(|_| {
                    from.send(&frame);
                    to.receive(Duration::from_millis(500), arrived)
                })
            } else {
                dropped += 1;
                from.send(&frame);
                to.receive(Duration::from_millis(60), arrived)
            };
            assert_eq!(got.is_some(), passes, "round {round}: {source_port} to {destination_port}");
        }
    }
    assert!(passed > 20 && dropped > 20, "{passed} passed, {dropped} dropped");
    drop((from, to));
    cloud.demolish().await;
}
