//! Route tables, EIPs, NAT gateways and prefix lists.

use super::{Backend, records::*};
use store::*;

fn eip(id: &str, address: &str) -> EipRecord {
    EipRecord {
        allocation_id: id.to_owned(),
        address: address.parse().unwrap(),
        name: format!("name-{id}"),
        description: String::new(),
        bandwidth_mbps: 5,
        charge_type: "PayByTraffic".to_owned(),
        fixed: false,
        target: None,
        vpc_id: String::new(),
        tags: vec![("k".to_owned(), id.to_owned())],
        created_ms: 1,
        status: String::new(),
    }
}

fn gateway(id: &str, host_id: &str) -> NatGatewayRecord {
    NatGatewayRecord {
        nat_gateway_id: id.to_owned(),
        vpc_id: "vpc-1".to_owned(),
        vswitch_id: "vsw-1".to_owned(),
        zone_id: "z".to_owned(),
        snat_table_id: format!("stb-{id}"),
        forward_table_id: format!("ftb-{id}"),
        host_id: host_id.to_owned(),
        created_ms: 1,
        ..NatGatewayRecord::default()
    }
}

fn route(id: &str, destination: &str, kind: NextHopKind, next_hop_id: &str) -> RouteEntryRecord {
    RouteEntryRecord {
        route_entry_id: id.to_owned(),
        route_table_id: "vtb-1".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        destination: destination.parse().unwrap(),
        next_hop_kind: kind,
        next_hop_id: next_hop_id.to_owned(),
        created_ms: 1,
        ..RouteEntryRecord::default()
    }
}

async fn apply(
    store: &dyn Store,
    delete: Vec<EdgeRecord>,
    put: Vec<EdgeRecord>,
) -> Result<Answer, StoreError> {
    let plan = EdgePlan { delete, put, ..Default::default() };
    let decide: Decide<EdgeView, EdgePlan> = Box::new(move |_| Ok(plan.clone()));
    store.change_edge(None, EdgeLookup::default(), decide).await
}

async fn put(store: &dyn Store, records: Vec<EdgeRecord>) {
    apply(store, Vec::new(), records).await.unwrap();
}

async fn the_eip(store: &dyn Store, id: &str) -> EipRecord {
    store.edge(EdgeLookup::of([id])).await.unwrap().eips.remove(0)
}

fn at_interface(eip: &EipRecord, eni: &EniRecord) -> EipRecord {
    EipRecord {
        target: Some(EipTarget::Interface {
            eni_id: eni.eni_id.clone(),
            private_ip: eni.private_ip,
            instance_id: eni.instance_id.clone(),
        }),
        vpc_id: eni.vpc_id.clone(),
        ..eip.clone()
    }
}

fn free(eip: &EipRecord) -> EipRecord {
    EipRecord { target: None, vpc_id: String::new(), ..eip.clone() }
}

/// The host says it has acted on a revision; an empty list of instances is no news.
async fn observed(store: &dyn Store, host_id: &str, session: u64, revision: u64) {
    let report = HostReport {
        host_id: host_id.to_owned(),
        session,
        observed_revision: revision,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 2,
        lease_until_ms: 1000,
        decide: Box::new(|_| Ok(StatusPlan::default())),
    };
    store.report_status(report).await.unwrap();
}

fn latest(store: &dyn Store) -> u64 {
    *store.revisions().borrow()
}

pub async fn an_eip_is_settled_when_its_host_has_acted(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    create(&*store, &["i-1"]).await.unwrap();
    let eni = listed(&*store).await.remove(0).enis.remove(0);
    let new = eip("eip-1", "203.0.113.1");
    put(&*store, vec![EdgeRecord::Eip(new.clone())]).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Available");
    let bound = at_interface(&new, &eni);
    put(&*store, vec![EdgeRecord::Eip(bound.clone())]).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Associating");
    let at = latest(&*store);
    observed(&*store, "h-1", 1, at - 1).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Associating");
    observed(&*store, "h-1", 1, at).await;
    let settled = the_eip(&*store, "eip-1").await;
    assert_eq!((settled.status.as_str(), &settled.tags), ("InUse", &new.tags));
    // Another bandwidth is no other association.
    put(&*store, vec![EdgeRecord::Eip(EipRecord { bandwidth_mbps: 9, ..bound })]).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "InUse");
    put(&*store, vec![EdgeRecord::Eip(free(&new))]).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Unassociating");
    let seen = latest(&*store);
    observed(&*store, "h-1", 1, seen).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Available");

    // A host that is lost keeps nothing from others.
    put(&*store, vec![EdgeRecord::Eip(at_interface(&new, &eni))]).await;
    put(&*store, vec![EdgeRecord::Eip(free(&new))]).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Unassociating");
    assert_eq!(store.expire_hosts(5000).await.unwrap(), ["h-1"]);
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Available");
}

pub async fn an_address_is_given_once_and_a_private_one_has_one(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    create(&*store, &["i-1"]).await.unwrap();
    let eni = listed(&*store).await.remove(0).enis.remove(0);
    let (a, b) = (eip("eip-1", "203.0.113.1"), eip("eip-2", "203.0.113.2"));
    put(&*store, vec![EdgeRecord::Eip(a.clone()), EdgeRecord::Eip(b.clone())]).await;
    let same = EdgeRecord::Eip(eip("eip-3", "203.0.113.1"));
    apply(&*store, Vec::new(), vec![same]).await.unwrap_err();
    let before = latest(&*store);
    let both =
        vec![EdgeRecord::Eip(at_interface(&a, &eni)), EdgeRecord::Eip(at_interface(&b, &eni))];
    apply(&*store, Vec::new(), both).await.unwrap_err();
    assert_eq!(latest(&*store), before, "nothing of it is left behind");
    assert_eq!(the_eip(&*store, "eip-1").await.target, None);
    let lookup = EdgeLookup { public_addresses: true, ..EdgeLookup::default() };
    assert_eq!(store.edge(lookup).await.unwrap().public_addresses.len(), 2);
}

pub async fn what_an_instance_leaves_behind(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    create(&*store, &["i-1"]).await.unwrap();
    let eni = listed(&*store).await.remove(0).enis.remove(0);
    let kept = at_interface(&eip("eip-1", "203.0.113.1"), &eni);
    let own = route("rte-1", "192.168.0.0/16", NextHopKind::Instance, "i-1");
    let by_eni = route("rte-2", "192.168.1.0/24", NextHopKind::NetworkInterface, "eni-i-1");
    put(
        &*store,
        vec![EdgeRecord::Eip(kept), EdgeRecord::RouteEntry(own), EdgeRecord::RouteEntry(by_eni)],
    )
    .await;
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    let hops: Vec<_> =
        spec.networks[0].route_entries.iter().map(|entry| entry.next_hop.clone()).collect();
    assert_eq!(hops, vec![Some(NextHop::Interface(eni.private_ip)); 2]);
    assert_eq!(spec.networks[0].eips[0].allocation_id, "eip-1");
    let before = latest(&*store);
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session: 1,
        observed_revision: before,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 2,
        lease_until_ms: 1000,
        decide: Box::new(|_| {
            Ok(StatusPlan { purge: vec!["i-1".to_owned()], ..StatusPlan::default() })
        }),
    };
    store.report_status(report).await.unwrap();
    let freed = the_eip(&*store, "eip-1").await;
    assert_eq!((freed.target, freed.vpc_id.as_str()), (None, ""));
    let view = store.edge(EdgeLookup::of(["vpc-1"])).await.unwrap();
    assert!(view.vpcs[0].route_entries.iter().all(|entry| entry.next_hop.is_none()));
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().any(|change| change.kind == "vpc" && change.id == "vpc-1"));
}

pub async fn a_gateway_is_told_to_both_of_its_hosts(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    store.register_host(host("h-2", 4, 1024)).await.unwrap();
    let entry = SnatEntryRecord {
        snat_entry_id: "snat-1".to_owned(),
        nat_gateway_id: "ngw-1".to_owned(),
        source: "10.0.0.0/16".parse().unwrap(),
        snat_ips: vec!["203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap()],
        created_ms: 1,
        ..SnatEntryRecord::default()
    };
    put(
        &*store,
        vec![
            EdgeRecord::NatGateway(gateway("ngw-1", "h-1")),
            EdgeRecord::SnatEntry(entry.clone()),
            EdgeRecord::RouteEntry(route("rte-1", "0.0.0.0/0", NextHopKind::NatGateway, "ngw-1")),
            EdgeRecord::Eip(EipRecord {
                target: Some(EipTarget::NatGateway("ngw-1".to_owned())),
                vpc_id: "vpc-1".to_owned(),
                ..eip("eip-1", "203.0.113.1")
            }),
        ],
    )
    .await;
    // The VPC is on the host for the gateway alone.
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(spec.networks[0].snat_entries, [entry]);
    assert_eq!(spec.gateway_hosts[0].host_id, "h-1");
    assert!(store.host_snapshot("h-2").await.unwrap().unwrap().networks.is_empty());
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Associating");
    let seen = latest(&*store);
    observed(&*store, "h-1", 1, seen).await;
    assert_eq!(the_eip(&*store, "eip-1").await.status, "InUse");
    put(&*store, vec![EdgeRecord::NatGateway(gateway("ngw-1", "h-2"))]).await;
    let changes = store.changes_after(seen).await.unwrap().changes;
    for host_id in ["h-1", "h-2"] {
        let told = changes.iter().any(|c| c.kind == "nat_gateway" && c.host_id == host_id);
        assert!(told, "{host_id}: {changes:?}");
    }
    let moved = store.edge(EdgeLookup::of(["ngw-1"])).await.unwrap();
    assert!(!moved.nat_gateway("ngw-1").unwrap().1.settled);
    // What used it first: the address is let go by the host it was on.
    let (network, record) = moved.nat_gateway("ngw-1").unwrap();
    let freed = EdgeRecord::Eip(free(&network.eips[0]));
    let gone = vec![EdgeRecord::NatGateway(record.clone())];
    apply(&*store, gone, vec![freed]).await.unwrap();
    assert_eq!(the_eip(&*store, "eip-1").await.status, "Unassociating");
    let view = store.edge(EdgeLookup::of(["vpc-1"])).await.unwrap();
    assert!(view.vpcs[0].nat_gateways.is_empty() && view.vpcs[0].snat_entries.is_empty());
    assert_eq!(view.vpcs[0].route_entries[0].next_hop, None);
}

pub async fn lists_of_networks_narrow(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let table = RouteTableRecord {
        route_table_id: "vtb-2".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        name: "inner".to_owned(),
        ..RouteTableRecord::default()
    };
    let list = PrefixListRecord {
        prefix_list_id: "pl-1".to_owned(),
        name: "office".to_owned(),
        ipv6: true,
        max_entries: 3,
        entries: vec![("2001:db8::/32".parse().unwrap(), "d".to_owned())],
        ..PrefixListRecord::default()
    };
    put(
        &*store,
        vec![
            EdgeRecord::RouteTable(table.clone()),
            EdgeRecord::PrefixList(list.clone()),
            EdgeRecord::NatGateway(gateway("ngw-1", "")),
            EdgeRecord::NatGateway(gateway("ngw-2", "h-1")),
            EdgeRecord::Eip(eip("eip-1", "203.0.113.1")),
            EdgeRecord::Eip(EipRecord { fixed: true, ..eip("eip-2", "203.0.113.2") }),
        ],
    )
    .await;
    let page = Page::Offset { offset: 0, limit: 10 };
    let custom = RouteTableFilter { system: Some(false), ..RouteTableFilter::default() };
    assert_eq!(store.route_tables(custom, page).await.unwrap().items, [(table, Vec::new())]);
    let own = RouteTableFilter { system: Some(true), ..RouteTableFilter::default() };
    let own = store.route_tables(own, page).await.unwrap().items;
    assert_eq!(own[0].1, ["vsw-1"]);
    let misplaced = NatGatewayFilter { misplaced: true, ..NatGatewayFilter::default() };
    let misplaced = store.nat_gateways(misplaced, page).await.unwrap();
    assert_eq!((misplaced.total, misplaced.items[0].nat_gateway_id.as_str()), (1, "ngw-1"));
    let eips = async |filter: EipFilter| store.eips(filter, page).await.unwrap().items.len();
    assert_eq!(eips(EipFilter::default()).await, 1);
    assert_eq!(eips(EipFilter { fixed_too: true, ..EipFilter::default() }).await, 2);
    assert_eq!(eips(EipFilter { status: "InUse".to_owned(), ..EipFilter::default() }).await, 0);
    assert_eq!(eips(EipFilter { name: "*-1".to_owned(), ..EipFilter::default() }).await, 1);
    let tags = vec![("k".to_owned(), "eip-1".to_owned())];
    assert_eq!(eips(EipFilter { tags, ..EipFilter::default() }).await, 1);
    let addresses = vec!["203.0.113.9".parse().unwrap()];
    assert_eq!(eips(EipFilter { addresses, ..EipFilter::default() }).await, 0);
    let of_ipv4 = PrefixListFilter { ipv6: Some(false), ..PrefixListFilter::default() };
    assert_eq!(store.prefix_lists(of_ipv4, page).await.unwrap().total, 0);
    let all = store.prefix_lists(PrefixListFilter::default(), page).await.unwrap();
    assert_eq!(all.items, [(list, 0)]);
}

pub async fn a_token_repeats_a_change(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 100).await;
    let change = async |id: &str, hash: u8| {
        let plan = EdgePlan {
            put: vec![EdgeRecord::Eip(eip(id, "203.0.113.1"))],
            answer: id.as_bytes().to_vec(),
            ..EdgePlan::default()
        };
        let decide: Decide<EdgeView, EdgePlan> = Box::new(move |_| Ok(plan.clone()));
        store.change_edge(token("t", hash), EdgeLookup::default(), decide).await
    };
    assert_eq!(change("eip-1", 1).await.unwrap().bytes, b"eip-1");
    assert_eq!(change("eip-2", 1).await.unwrap().bytes, b"eip-1");
    assert!(matches!(change("eip-3", 2).await, Err(StoreError::TokenMismatch { .. })));
}
