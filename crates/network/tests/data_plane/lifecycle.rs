//! Made, repaired, taken over after a restart, removed.

use crate::cloud::{Cloud, GATEWAY, accept_tcp, address};
use network::{ObjectKind, ResourceKind, namespace_name, tap_name};
use std::os::unix::fs::MetadataExt as _;

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
