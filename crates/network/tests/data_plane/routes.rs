//! More addresses than one, routers of tenants, custom routes.

use crate::{
    cloud::{Cloud, GATEWAY, accept_tcp, address},
    dhcp::udp_frame,
    fabric::{Fabric, introduce},
    guest::Guest,
};
use api::host::{
    EniSpec, RouteEntrySpec, RouteTableSpec, RuleSpec, VSwitchSpec, route_entry_spec::NextHop,
};
use network::ResourceKind;
use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

const BEYOND: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);

/// Gives every cloud this route table, for its first VSwitch.
fn set_routes(clouds: &mut [&mut Cloud], routes: &[(&str, Option<NextHop>)]) {
    let entries = routes.iter().enumerate().map(|(number, (to, hop))| RouteEntrySpec {
        route_entry_id: format!("rte-{number}"),
        destination_cidr: (*to).to_owned(),
        next_hop: hop.clone(),
    });
    let table = RouteTableSpec { route_table_id: "vtb-1".to_owned(), entries: entries.collect() };
    for cloud in clouds {
        let vpc = &mut cloud.desired.vpcs[0];
        vpc.route_tables = vec![table.clone()];
        vpc.vswitches[0].route_table_id = "vtb-1".to_owned();
    }
}

fn by_way_of(host: u8) -> Option<NextHop> {
    Some(NextHop::PrivateIp(address(host).to_string()))
}

async fn reconcile(clouds: &mut [&mut Cloud]) {
    introduce(clouds);
    for cloud in clouds {
        cloud.reconcile().await;
    }
}

fn eni_of<'a>(cloud: &'a mut Cloud, id: &str) -> &'a mut EniSpec {
    cloud.desired.enis.iter_mut().find(|eni| eni.eni_id == id).expect("an ENI")
}

/// A guest that has the network beyond, with a server.
async fn router(cloud: &Cloud, eni: &EniSpec) -> Guest {
    let guest = cloud.boot(eni).await;
    guest.ip(&format!("addr add {BEYOND}/32 dev lo"));
    guest.serve(80);
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn secondary_addresses_work_everywhere_and_are_nobody_elses() {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (fabric.cloud(0).await, fabric.cloud(1).await);
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(7);
        cloud.add_group(7, "sg-a", vec![]);
    }
    let (near, far) = (a.add_eni(7, 1, &["sg-a"]), b.add_eni(7, 2, &["sg-a"]));
    let third = a.add_eni(7, 3, &["sg-a"]);
    eni_of(&mut a, &near.eni_id).secondary_private_ips = vec![address(9).to_string()];
    reconcile(&mut [&mut a, &mut b]).await;
    let (guest, other) = (a.boot(&near).await, b.boot(&far).await);
    guest.ip("addr add 10.0.0.9/24 dev eth0");
    guest.serve(80);
    other.serve(80);
    assert!(other.reaches(address(1), 80) && other.reaches(address(9), 80));
    guest.ip("route add 10.0.0.2/32 via 10.0.0.253 dev eth0 src 10.0.0.9");
    assert!(guest.reaches(address(2), 80), "from the secondary address");

    // Another ENI may not have it.
    let mut cable = a.cable(&third).await;
    let socket = other.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(700))).expect("set a timeout");
    let mac = [0, 0x16, 0x3e, 0, 7, 3];
    cable.send(&udp_frame(mac, (address(3), 4000), (address(2), 5000), b"mine"));
    assert!(socket.recv_from(&mut [0; 64]).is_ok());
    cable.send(&udp_frame(mac, (address(9), 4000), (address(2), 5000), b"another's"));
    assert!(socket.recv_from(&mut [0; 64]).is_err());

    // Taken back, it is gone at once.
    eni_of(&mut a, &near.eni_id).secondary_private_ips.clear();
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(!guest.reaches(address(2), 80));
    assert!(!other.reaches(address(9), 80));
    assert!(other.reaches(address(1), 80));

    // Two ENIs with one address: the second is refused.
    let mut twice = a.add_eni(7, 4, &["sg-a"]);
    twice.secondary_private_ips = vec![address(1).to_string()];
    *eni_of(&mut a, &twice.eni_id) = twice.clone();
    let report = a.network.reconcile(&a.desired).await;
    assert!(report.problem_of(&twice).is_some() && report.problem_of(&near).is_none());
    a.remove_eni(&twice);
    drop((guest, other, cable));
    a.demolish().await;
    b.demolish().await;
}

/// A client on one host, a router on `hosts - 1`.
async fn route_by_way_of_an_instance(hosts: u8) {
    let fabric = Fabric::new(2);
    let (mut a, mut b) = (fabric.cloud(0).await, fabric.cloud(1).await);
    for cloud in [&mut a, &mut b] {
        cloud.add_vpc(7);
        cloud.add_group(7, "sg-a", vec![accept_tcp(81, "192.168.0.0/16")]);
    }
    let client = a.add_eni(7, 1, &["sg-a"]);
    let at = |hosts| if hosts == 1 { 0 } else { 1 };
    let eni = [&mut a, &mut b][at(hosts)].add_eni(7, 5, &["sg-a"]);
    b.add_eni(7, 2, &["sg-a"]);
    eni_of([&mut a, &mut b][at(hosts)], &eni.eni_id).no_source_check = true;
    set_routes(&mut [&mut a, &mut b], &[("192.168.9.0/24", by_way_of(5))]);
    reconcile(&mut [&mut a, &mut b]).await;
    let guest = a.boot(&client).await;
    guest.serve(81);
    let router = router([&a, &b][at(hosts)], &eni).await;
    assert!(guest.reaches(BEYOND, 80), "there and back");
    assert!(guest.pings(BEYOND));
    // The network beyond speaks first: judged by its own addresses.
    router.ip("route add 10.0.0.1/32 via 10.0.0.253 dev eth0 src 192.168.9.1");
    assert!(router.reaches(address(1), 81));
    assert!(!router.reaches(address(1), 82));
    assert!(!guest.reaches(Ipv4Addr::new(192, 168, 8, 1), 80), "there is no such route");

    // An address of the VPC is where it is, whatever routes say.
    set_routes(&mut [&mut a, &mut b], &[("0.0.0.0/0", by_way_of(5)), ("10.0.0.0/8", by_way_of(5))]);
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(guest.reaches(BEYOND, 80));
    assert!(guest.pings(GATEWAY));
    router.ip("addr add 10.0.0.2/32 dev lo");
    assert!(!guest.reaches(address(2), 80));

    // Without leave, the router may not answer for others.
    eni_of([&mut a, &mut b][at(hosts)], &eni.eni_id).no_source_check = false;
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(!guest.reaches(BEYOND, 80));
    eni_of([&mut a, &mut b][at(hosts)], &eni.eni_id).no_source_check = true;
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(guest.reaches(BEYOND, 80));

    // Gone, it leaves a hole, not another way.
    set_routes(
        &mut [&mut a, &mut b],
        &[("0.0.0.0/0", by_way_of(5)), ("192.168.9.0/24", Some(NextHop::Blackhole(true)))],
    );
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(!guest.reaches(BEYOND, 80));
    set_routes(
        &mut [&mut a, &mut b],
        &[("0.0.0.0/0", by_way_of(5)), ("192.168.9.0/24", by_way_of(66))],
    );
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(!guest.reaches(BEYOND, 80));
    set_routes(&mut [&mut a, &mut b], &[]);
    reconcile(&mut [&mut a, &mut b]).await;
    assert!(!guest.reaches(BEYOND, 80));
    assert_eq!(a.by_hand(7, "ip rule | wc -l").trim(), "3");
    drop((guest, router));
    a.demolish().await;
    b.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_leads_by_way_of_an_instance_of_the_same_host() {
    route_by_way_of_an_instance(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_leads_by_way_of_an_instance_of_another_host() {
    route_by_way_of_an_instance(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_wins_and_every_vswitch_has_its_own_table() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-a", vec![]);
    let client = cloud.add_eni(7, 1, &["sg-a"]);
    let routers = [cloud.add_eni(7, 5, &["sg-a"]), cloud.add_eni(7, 6, &["sg-a"])];
    for router in &routers {
        eni_of(&mut cloud, &router.eni_id).no_source_check = true;
    }
    // A second VSwitch without a table.
    cloud.desired.vpcs[0].vswitches.push(VSwitchSpec {
        vswitch_id: "vsw-2".to_owned(),
        cidr: "10.0.1.0/24".to_owned(),
        gateway_ip: "10.0.1.253".to_owned(),
        ..VSwitchSpec::default()
    });
    let elsewhere = cloud.add_eni(7, 9, &["sg-a"]);
    let elsewhere = {
        let eni = eni_of(&mut cloud, &elsewhere.eni_id);
        eni.vswitch_id = "vsw-2".to_owned();
        eni.vswitch_cidr = "10.0.1.0/24".to_owned();
        eni.private_ip = "10.0.1.9".to_owned();
        eni.gateway_ip = "10.0.1.253".to_owned();
        eni.clone()
    };
    cloud.group("sg-a").member_ips.push("10.0.1.9".to_owned());
    set_routes(
        &mut [&mut cloud],
        &[("192.168.0.0/16", by_way_of(5)), ("192.168.9.0/24", by_way_of(6))],
    );
    cloud.reconcile().await;
    let guest = cloud.boot(&client).await;
    let elsewhere = cloud.boot(&elsewhere).await;
    let (wide, narrow) = (cloud.boot(&routers[0]).await, cloud.boot(&routers[1]).await);
    for (router, port) in [(&wide, 85), (&narrow, 86)] {
        router.ip("addr add 192.168.9.1/32 dev lo");
        router.ip("addr add 192.168.8.1/32 dev lo");
        router.serve(port);
    }
    assert!(guest.reaches(BEYOND, 86) && !guest.reaches(BEYOND, 85));
    assert!(guest.reaches(Ipv4Addr::new(192, 168, 8, 1), 85));
    assert!(!elsewhere.reaches(BEYOND, 86));
    assert!(elsewhere.pings(address(1)) && guest.pings(Ipv4Addr::new(10, 0, 1, 9)));
    assert_eq!(cloud.reconcile().await.changes, 0);

    // An entry that makes no sense is said, and harms nobody.
    set_routes(
        &mut [&mut cloud],
        &[("192.168.9.0/24", by_way_of(6)), ("192.168.9.0/99", by_way_of(5))],
    );
    let report = cloud.network.reconcile(&cloud.desired).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].kind, ResourceKind::RouteTable);
    assert!(report.problem_of(&client).is_none());
    assert!(guest.reaches(BEYOND, 86));
    drop((guest, elsewhere, wide, narrow));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_reaches_no_service_of_the_host_in_anothers_name() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-a", vec![]);
    let router = cloud.add_eni(7, 1, &["sg-a"]);
    let victim = cloud.add_eni(7, 2, &["sg-a"]);
    eni_of(&mut cloud, &router.eni_id).no_source_check = true;
    cloud.reconcile().await;
    let listener = cloud
        .network
        .tcp_listen(7, network::METADATA_ADDRESS, network::METADATA_PORT)
        .await
        .expect("listen");
    let router = cloud.boot(&router).await;
    let _victim = cloud.boot(&victim).await;
    // Even in its own name it is answered, with another's name not one packet arrives.
    let counter =
        "nft list ruleset >/dev/null; grep -c 'dst=100.100.100.200' /proc/net/nf_conntrack || true";
    router.ip("addr add 10.0.0.2/32 dev lo");
    router.ip("route add 100.100.100.200/32 via 10.0.0.253 dev eth0 src 10.0.0.2");
    let connected = tokio::task::spawn_blocking(move || {
        let connected = router.connect(network::METADATA_ADDRESS, network::METADATA_PORT).is_ok();
        (connected, router)
    });
    let (connected, router) = connected.await.expect("the guest");
    assert!(!connected);
    assert_eq!(cloud.by_hand(7, counter).trim(), "0");
    router.ip("route del 100.100.100.200/32");
    let reached = tokio::task::spawn_blocking(move || {
        router.connect(network::METADATA_ADDRESS, network::METADATA_PORT).is_ok()
    });
    assert!(reached.await.expect("the guest"));
    drop((listener, _victim));
    cloud.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_name_prefix_lists() {
    let mut cloud = Cloud::new().await;
    cloud.add_vpc(7);
    cloud.add_group(7, "sg-client", vec![]);
    let by_list =
        RuleSpec { cidr: String::new(), prefix_list_id: "pl-bp1".to_owned(), ..accept_tcp(80, "") };
    cloud.add_group(7, "sg-web", vec![by_list]);
    let (client, web) = (cloud.add_eni(7, 1, &["sg-client"]), cloud.add_eni(7, 2, &["sg-web"]));
    let set = |cloud: &mut Cloud, cidrs: &[&str]| {
        cloud.desired.prefix_lists = vec![api::host::PrefixListSpec {
            prefix_list_id: "pl-bp1".to_owned(),
            cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
        }];
    };
    set(&mut cloud, &["10.0.0.0/30", "172.16.0.0/12"]);
    cloud.reconcile().await;
    let (client, server) = (cloud.boot(&client).await, cloud.boot(&web).await);
    server.serve(80);
    assert!(client.reaches(address(2), 80));
    for (cidrs, allowed) in [
        (&["172.16.0.0/12", "10.0.0.4/30"][..], false),
        (&["172.16.0.0/12", "10.0.0.4/30", "10.0.0.0/24", "10.0.0.0/16"], true),
        (&["2001:db8::/32"], false),
        (&["10.0.0.1"], true),
        (&[], false),
    ] {
        set(&mut cloud, cidrs);
        cloud.reconcile().await;
        assert_eq!(client.reaches(address(2), 80), allowed, "{cidrs:?}");
    }
    // One that is not known is as a rule that makes no sense: it opens nothing.
    cloud.desired.prefix_lists.clear();
    let report = cloud.network.reconcile(&cloud.desired).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(!client.reaches(address(2), 80));
    set(&mut cloud, &["10.0.0.0/24", "nonsense"]);
    let report = cloud.network.reconcile(&cloud.desired).await;
    assert!(report.problems.iter().any(|p| p.kind == ResourceKind::PrefixList));
    assert!(!client.reaches(address(2), 80));
    drop((client, server));
    cloud.demolish().await;
}
