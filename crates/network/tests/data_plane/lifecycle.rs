//! Made, repaired, taken over after a restart, removed.

use crate::{
    cloud::{Cloud, GATEWAY, accept_tcp, address},
    fabric::{Fabric, introduce},
    guest::Guest,
};
use network::{ObjectKind, ResourceKind, namespace_name, tap_name};
use std::{
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test(flavor = "multi_thread")]
async fn reconciling_twice_changes_nothing_and_delete_leaves_nothing() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_vpc(2);
    cloud.add_group(1, "sg-a", vec![accept_tcp(22, "0.0.0.0/0")]);
    let a = cloud.add_eni(1, 1, &["sg-a"]);
    cloud.add_eni(1, 2, &["sg-a"]);
    assert!(cloud.reconcile().await.changes > 0);
    assert_eq!(cloud.reconcile().await.changes, 0);
    let objects = cloud.network.list().await.expect("list");
    let count = |kind| objects.iter().filter(|o| o.kind == kind).count();
    assert_eq!(count(ObjectKind::Namespace), 2);
    assert_eq!(count(ObjectKind::Table), 4);
    assert_eq!(count(ObjectKind::Tap), 2);
    let tap = objects.iter().find(|o| o.name.ends_with(&tap_name("eni-1-1"))).expect("the tap");
    assert_eq!(tap.owner, "eni-1-1");
    assert!(objects.iter().all(|o| !o.owner.is_empty()), "{objects:?}");

    // A new process finds all as it is, but knows the rules only once it has written them.
    cloud.restart().await;
    assert!(cloud.reconcile().await.changes <= 4);
    assert_eq!(cloud.reconcile().await.changes, 0);

    cloud.remove_eni(&a);
    cloud.reconcile().await;
    let objects = cloud.network.list().await.expect("list");
    assert!(!objects.iter().any(|o| o.owner == a.eni_id), "{objects:?}");

    // An open tap keeps neither itself nor its namespace.
    let b = cloud.desired.enis[0].clone();
    let _open = cloud.network.open_tap(&b, 2).await.expect("open the tap");
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_hand_is_put_right() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let (a, b) = (cloud.add_eni(1, 1, &["sg-a"]), cloud.add_eni(1, 2, &["sg-a"]));
    cloud.reconcile().await;
    let (ga, gb) = (cloud.boot(&a).await, cloud.boot(&b).await);
    gb.serve(80);
    assert!(ga.reaches(address(2), 80));
    let tap = tap_name(&b.eni_id);
    for damage in [
        "nft flush ruleset".to_owned(),
        "nft delete element inet ecs members_sg_a '{ 10.0.0.1 }'".to_owned(),
        "nft insert rule inet ecs forward drop".to_owned(),
        "nft add table inet other && nft add chain inet other c '{ type filter hook forward \
         priority 1; policy drop; }'"
            .to_owned(),
        "ip route flush table main".to_owned(),
        format!("ip route replace 10.0.0.2/32 dev {}", tap_name(&a.eni_id)),
        "ip neigh flush nud permanent".to_owned(),
        format!("ip neigh replace 10.0.0.2 lladdr 00:16:3e:00:00:99 dev {tap}"),
        "ip addr flush dev lo".to_owned(),
        "ip addr add 10.0.0.2/32 dev lo".to_owned(),
        format!("ip link set {tap} down"),
        "ip link set lo down".to_owned(),
        format!("ip link set {tap} address 00:16:3e:00:00:99"),
        "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
        format!("echo 0 > /proc/sys/net/ipv4/conf/{tap}/proxy_arp"),
    ] {
        cloud.by_hand(1, &damage);
        assert!(cloud.reconcile().await.changes > 0, "{damage}");
        // Whatever the guest has learnt in between.
        ga.ip("neigh flush dev eth0");
        assert!(ga.reaches(address(2), 80), "{damage}");
        assert!(ga.pings(GATEWAY), "{damage}");
        assert_eq!(cloud.reconcile().await.changes, 0, "{damage}");
    }
    drop((ga, gb));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_lost_its_name_gets_it_back() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    let eni = cloud.add_eni(1, 1, &["sg-a"]);
    cloud.reconcile().await;
    let guest = cloud.boot(&eni).await;
    let path = cloud.options.namespace_dir.join(namespace_name(1));
    let before = std::fs::metadata(&path).expect("the namespace").ino();
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    std::fs::remove_file(&path).expect("remove");
    cloud.reconcile().await;
    assert_eq!(std::fs::metadata(&path).expect("the namespace").ino(), before);
    assert!(guest.pings(GATEWAY));
    drop(guest);

    // Killed between making the file and mounting on it.
    cloud.desired = network::Desired::default();
    cloud.reconcile().await;
    std::fs::write(&path, "").expect("write");
    cloud.add_vpc(1);
    cloud.reconcile().await;
    assert!(cloud.network.list().await.expect("list").iter().any(|o| o.owner == "vpc-1"));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_rules_cannot_be_written_the_old_ones_stay() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![accept_tcp(80, "0.0.0.0/0")]);
    cloud.add_group(1, "sg-b", vec![]);
    let (a, b) = (cloud.add_eni(1, 1, &["sg-a"]), cloud.add_eni(1, 2, &["sg-b"]));
    cloud.reconcile().await;
    let (ga, gb) = (cloud.boot(&a).await, cloud.boot(&b).await);
    ga.serve(80);
    gb.serve(80);

    // An nft that lists but refuses every change.
    let fake = cloud.options.namespace_dir.parent().expect("a parent").join("nft");
    std::fs::write(&fake, "#!/bin/sh\nfor a; do [ \"$a\" = list ] && exec nft \"$@\"; done\necho 'no space' >&2; exit 1\n")
        .expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&fake, mode).expect("chmod");
    let mut options = cloud.options.clone();
    options.nft = fake;
    let broken = network::HostNetwork::new(options).await.expect("root");
    cloud.group("sg-b").rules = vec![accept_tcp(80, "0.0.0.0/0")];
    let third = cloud.add_eni(1, 3, &["sg-a"]);
    // The address 10.0.0.1 goes on being served, 10.0.0.2 stays closed, and the new one too.
    let report = broken.reconcile(&cloud.desired).await;
    let problem = report.problems.first().expect("a problem");
    assert_eq!(problem.kind, ResourceKind::Vpc);
    assert!(problem.message.contains("no space"), "{problem}");
    assert!(gb.reaches(address(1), 80));
    assert!(!ga.reaches(address(2), 80));
    let gc = cloud.boot(&third).await;
    assert!(!gc.pings(GATEWAY));

    // Without any rules in force there is no tap.
    cloud.add_vpc(2);
    cloud.add_group(2, "sg-c", vec![]);
    let fourth = cloud.add_eni(2, 1, &["sg-c"]);
    assert!(!broken.reconcile(&cloud.desired).await.problems.is_empty());
    assert!(broken.open_tap(&fourth, 1).await.is_err());
    let objects = broken.list().await.expect("list");
    assert!(!objects.iter().any(|o| o.owner == fourth.eni_id), "{objects:?}");

    // What is to go goes all the same, and is not called gone before.
    let removed = cloud.add_eni(1, 4, &["sg-a"]);
    cloud.network.open_tap(&removed, 1).await.expect("a tap");
    cloud.remove_eni(&removed);
    assert!(broken.reconcile(&cloud.desired).await.removals_done);
    let objects = broken.list().await.expect("list");
    assert!(!objects.iter().any(|o| o.owner == removed.eni_id), "{objects:?}");
    let blind = network::Options {
        namespace_dir: cloud.options.namespace_dir.parent().expect("a parent").join("nft"),
        ..cloud.options.clone()
    };
    let blind = network::HostNetwork::new(blind).await.expect("root");
    assert!(!blind.reconcile(&network::Desired::default()).await.removals_done);

    cloud.reconcile().await;
    assert!(ga.reaches(address(2), 80));
    gc.ip("neigh flush dev eth0");
    assert!(gc.pings(GATEWAY));
    drop((ga, gb, gc));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn specs_that_make_no_sense_are_reported_and_harm_nobody_else() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-a", vec![]);
    cloud.add_eni(1, 1, &["sg-a"]);
    let good = cloud.desired.clone();
    for spoil in [
        |eni: &mut api::host::EniSpec| eni.private_ip = "10.0.0.1".to_owned(),
        |eni: &mut api::host::EniSpec| eni.private_ip = "10.9.0.1".to_owned(),
        |eni: &mut api::host::EniSpec| eni.private_ip = GATEWAY.to_string(),
        |eni: &mut api::host::EniSpec| eni.mac = "ff:ff:ff:ff:ff:ff".to_owned(),
        |eni: &mut api::host::EniSpec| eni.mac = "\"; drop".to_owned(),
        |eni: &mut api::host::EniSpec| eni.vswitch_cidr = "10.0.0.0/33".to_owned(),
        |eni: &mut api::host::EniSpec| eni.vpc_id = "vpc-none".to_owned(),
    ] {
        cloud.desired = good.clone();
        let mut bad = cloud.add_eni(1, 2, &["sg-a"]);
        spoil(&mut bad);
        cloud.desired.enis[1] = bad.clone();
        let report = cloud.network.reconcile(&cloud.desired).await;
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert!(report.problem_of(&bad).is_some());
        assert!(report.problem_of(&good.enis[0]).is_none());
    }
    cloud.desired = good;
    cloud.add_vpc(1);
    let report = cloud.network.reconcile(&cloud.desired).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    cloud.demolish().await;
}

/// Sends a packet every millisecond while `work` is done; how many were sent, and how many of them
/// were answered.
async fn flood(
    from: &Guest,
    to: &Guest,
    address: Ipv4Addr,
    work: impl Future<Output = ()>,
) -> (usize, usize) {
    let any = |port| move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let (echo, socket) = (to.run(any(5000)), from.run(any(0)));
    echo.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
    let echoing = std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((bytes, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..bytes], from);
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, sender) = (Arc::clone(&stop), socket.try_clone().expect("a socket"));
    let sending = std::thread::spawn(move || {
        let mut sent = 0;
        while !flag.load(Ordering::Relaxed) {
            sender.send_to(b"ping", (address, 5000)).expect("send");
            sent += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let receiving = std::thread::spawn(move || {
        let mut answers = 0;
        while socket.recv(&mut [0; 16]).is_ok() {
            answers += 1;
        }
        answers
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    work.await;
    stop.store(true, Ordering::Relaxed);
    let sent = sending.join().expect("sent");
    let answers = receiving.join().expect("received");
    echoing.join().expect("echoed");
    (sent, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_changes_for_others_drop_no_packet() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (fabric.cloud(0).await, fabric.cloud(1).await);
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(7);
        cloud.add_group(7, "sg-a", vec![]);
        cloud.add_group(7, "sg-b", vec![]);
    }
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    introduce(&mut [&mut a, &mut b]);
    a.reconcile().await;
    b.reconcile().await;
    let (one, two) = (a.boot(&near).await, b.boot(&far).await);
    assert!(one.pings(address(2)));
    let restarts = async {
        for _ in 0..5 {
            a.restart().await;
            let report = a.reconcile().await;
            // It does not know what the one before had done, so it blames nobody.
            assert!(report.repairs.is_empty(), "{report:?}");
            assert_eq!(a.reconcile().await.changes, 0);
            b.restart().await;
            b.reconcile().await;
        }
    };
    let (sent, answers) = flood(&one, &two, address(2), restarts).await;
    assert!(sent > 300, "{sent}");
    assert_eq!(answers, sent, "restarts");

    let changes = async {
        for host in 10..20 {
            a.add_eni(7, host, &["sg-b"]);
            a.group("sg-b").rules = vec![accept_tcp(u32::from(host), "0.0.0.0/0")];
            introduce(&mut [&mut a, &mut b]);
            a.reconcile().await;
            b.reconcile().await;
        }
    };
    let (sent, answers) = flood(&one, &two, address(2), changes).await;
    assert_eq!(answers, sent, "changes of {sent}");
    drop((one, two));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_sends_the_kernel_what_changed_and_nothing_else() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let (nft, log) = (dir.path().join("nft"), dir.path().join("log"));
    let script = format!("#!/bin/sh\ntee -a {} | nft \"$@\"\n", log.display());
    std::fs::write(&nft, script).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&nft, mode).expect("chmod");
    let mut cloud = Cloud::with(|options| options.nft = nft).await;
    cloud.add_vpc(7);
    let from_members = api::host::RuleSpec {
        cidr: String::new(),
        peer_group_id: "sg-many".to_owned(),
        ..accept_tcp(80, "")
    };
    cloud.add_group(7, "sg-web", vec![from_members]);
    cloud.add_group(7, "sg-many", vec![]);
    cloud.add_eni(7, 1, &["sg-web"]);
    let members = (0..10_000u32).map(|n| Ipv4Addr::from(0x0a01_0000 + n).to_string());
    cloud.group("sg-many").member_ips = members.collect();
    cloud.reconcile().await;
    let written = |cloud: &Cloud| {
        let _ = cloud;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        std::fs::write(&log, "").expect("write");
        text
    };
    assert!(written(&cloud).len() > 50_000);
    assert_eq!(cloud.reconcile().await.changes, 0);
    assert_eq!(written(&cloud), "");

    cloud.group("sg-many").member_ips.push("10.9.9.9".to_owned());
    let begun = std::time::Instant::now();
    cloud.reconcile().await;
    let took = begun.elapsed();
    let text = written(&cloud);
    assert!(text.contains("add element inet ecs members_sg_many { 10.9.9.9 }"), "{text}");
    // Beside it, the two rules that say which flows were judged by the rules of today.
    assert_eq!(text.matches("element").count(), 1, "{text}");
    assert!(text.lines().count() <= 6, "{text}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    cloud.add_eni(7, 2, &["sg-web"]);
    cloud.reconcile().await;
    let text = written(&cloud);
    assert!(text.lines().count() <= 20 && !text.contains("10.1.0."), "{text}");
    cloud.demolish().await;
}
