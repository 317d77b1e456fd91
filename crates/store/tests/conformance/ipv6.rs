//! IPv6 addresses of network interfaces.

use super::{Backend, records::*};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};
use store::*;

const BLOCK: &str = "fdec:0:1:7::/64";

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A host, and a VPC with two VSwitches, `vsw-1` with IPv6 and `vsw-2` without.
async fn network6(store: &dyn Store) {
    store.register_host(host("h-1", 8, 65_536)).await.unwrap();
    store.create_vpc(None, vpc("vpc-1")).await.unwrap();
    for (id, block) in [("vsw-1", Some(BLOCK)), ("vsw-2", None)] {
        let decide = Box::new(move |_: &VpcView| {
            let mut planned = vswitch(id, "vpc-1", "10.0.0.1", "10.0.0.99");
            planned.record.ipv6_cidr = block.map(|text| text.parse().unwrap());
            Ok(planned)
        });
        store.create_vswitch(None, "vpc-1", decide).await.unwrap();
    }
    let decide = Box::new(|_: &VpcView| Ok(group("sg-1", "vpc-1")));
    store.create_security_group(None, "vpc-1", decide).await.unwrap();
}

async fn put(store: &dyn Store, new: NewEni) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &EnisView| {
        Ok(EnisPlan { insert: vec![new.clone()], ..Default::default() })
    });
    store.change_enis(None, EnisLookup::default(), decide).await
}

async fn change(store: &dyn Store, id: &str, addresses: Vec<Ipv6Addr>) -> Result<(), StoreError> {
    let lookup = EnisLookup { eni_ids: vec![id.to_owned()], ..Default::default() };
    let decide = Box::new(move |view: &EnisView| {
        let eni = EniRecord { ipv6_addresses: addresses.clone(), ..view.enis[0].clone() };
        Ok(EnisPlan { update: vec![eni], ..Default::default() })
    });
    store.change_enis(None, lookup, decide).await.map(drop)
}

async fn found(store: &dyn Store, filter: EniFilter) -> Vec<EniRecord> {
    let page = Page::Offset { offset: 0, limit: 100 };
    let listed = store.enis(filter, page).await.unwrap().items;
    listed.into_iter().map(|details| details.eni).collect()
}

async fn addresses(store: &dyn Store, id: &str) -> Vec<Ipv6Addr> {
    let filter = EniFilter { eni_ids: vec![id.to_owned()], ..Default::default() };
    found(store, filter).await.remove(0).ipv6_addresses
}

async fn in_use(store: &dyn Store) -> Vec<String> {
    store.edge(EdgeLookup::of(["vpc-1"])).await.unwrap().vpcs.remove(0).ipv6_in_use
}

pub async fn ipv6_addresses_are_taken_and_freed(backend: &impl Backend) {
    let store = backend.open();
    network6(&*store).await;
    let new = |id: &str, given: &[&str], more_ipv6_addresses| NewEni {
        eni: EniRecord { ipv6_addresses: given.iter().map(|text| ip(text)).collect(), ..eni(id) },
        more_ipv6_addresses,
        ..Default::default()
    };
    assert_eq!(in_use(&*store).await, [""; 0]);
    put(&*store, new("eni-1", &["fdec:0:1:7::1", "fdec:0:1:7::2"], 0)).await.unwrap();
    put(&*store, new("eni-2", &[], 3)).await.unwrap();
    assert_eq!(addresses(&*store, "eni-1").await, [ip("fdec:0:1:7::1"), ip("fdec:0:1:7::2")]);
    let any = addresses(&*store, "eni-2").await;
    let block: ipnet::Ipv6Net = BLOCK.parse().unwrap();
    assert_eq!(any.iter().collect::<BTreeSet<_>>().len(), 3);
    assert!(any.iter().all(|ip| VSwitchRecord::is_usable_ipv6(block, *ip)), "{any:?}");
    assert_eq!(in_use(&*store).await, ["vsw-1"]);
    for outside in ["fdec:0:1:7::", "fdec:0:1:7:ffff:ffff:ffff:fff7", "fdec:0:1:8::1"] {
        assert!(!VSwitchRecord::is_usable_ipv6(block, ip(outside)), "{outside}");
    }
    assert!(VSwitchRecord::is_usable_ipv6(block, ip("fdec:0:1:7:ffff:ffff:ffff:fff6")));

    // What is taken is nobody else's, and a refused change takes nothing.
    let is_taken = |result: Result<(), StoreError>, text: &str| {
        let error = result.unwrap_err();
        let taken =
            matches!(error, StoreError::AddressInUse { address, .. } if address == ip(text));
        assert!(taken, "{error}");
    };
    let refused = put(&*store, new("eni-3", &["fdec:0:1:7::2"], 0)).await.map(drop);
    is_taken(refused, "fdec:0:1:7::2");
    let refused = change(&*store, "eni-2", vec![any[2], ip("fdec:0:1:7::1")]).await;
    is_taken(refused, "fdec:0:1:7::1");
    assert_eq!(addresses(&*store, "eni-2").await, any);
    let elsewhere = NewEni {
        eni: EniRecord { vswitch_id: "vsw-2".to_owned(), ..eni("eni-3") },
        more_ipv6_addresses: 1,
        ..Default::default()
    };
    let error = put(&*store, elsewhere).await.unwrap_err();
    assert!(matches!(error, StoreError::NoFreeAddress { .. }), "{error}");

    // One that stays, stays while others come and go; one that went is another's.
    change(&*store, "eni-2", vec![any[2], ip("fdec:0:1:7::3")]).await.unwrap();
    assert_eq!(addresses(&*store, "eni-2").await, [any[2], ip("fdec:0:1:7::3")]);
    change(&*store, "eni-1", vec![any[0]]).await.unwrap();
    let filter = EniFilter { ipv6_addresses: vec![any[0]], ..Default::default() };
    assert_eq!(found(&*store, filter).await[0].eni_id, "eni-1");

    let lookup =
        EnisLookup { eni_ids: vec!["eni-1".to_owned()], ipv6_addresses: 2, ..Default::default() };
    let decide = Box::new(move |view: &EnisView| {
        assert_eq!(view.offered_ipv6.len(), 2);
        assert!(view.offered_ipv6.iter().all(|ip| !any.contains(ip)), "given away twice");
        let delete = vec!["eni-1".to_owned()];
        Ok(EnisPlan { delete, ..Default::default() })
    });
    store.change_enis(None, lookup, decide).await.unwrap();
    change(&*store, "eni-2", vec![]).await.unwrap();
    assert_eq!(in_use(&*store).await, [""; 0], "an interface frees its addresses when it goes");
}

pub async fn ipv6_addresses_are_those_of_members(backend: &impl Backend) {
    let store = backend.open();
    network6(&*store).await;
    create(&*store, &["i-1"]).await.unwrap();
    let usage = async || {
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = store.security_groups(GroupFilter::default(), page).await.unwrap();
        listed.items[0].addresses
    };
    assert_eq!(usage().await, 1);
    let before = *store.revisions().borrow();
    change(&*store, "eni-i-1", vec![ip("fdec:0:1:7::9")]).await.unwrap();
    assert_eq!(usage().await, 2, "they count as the others do");
    let changes = store.changes_after(before).await.unwrap().changes;
    for (kind, id) in [("vpc", "vpc-1"), ("security_group", "sg-1"), ("eni", "eni-i-1")] {
        assert!(changes.iter().any(|change| change.kind == kind && change.id == id), "{id}");
    }
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(spec.instances[0].enis[0].ipv6_addresses, [ip("fdec:0:1:7::9")]);
    let members = &spec.groups[0].member_ips;
    assert_eq!(members.last(), Some(&IpAddr::from(ip("fdec:0:1:7::9"))), "{members:?}");
    assert!(members.len() == 2 && members[0].is_ipv4());
    let filter = InstanceFilter { ipv6_addresses: vec![ip("fdec:0:1:7::9")], ..Default::default() };
    let page = Page::Offset { offset: 0, limit: 1 };
    assert_eq!(store.instances(filter, page).await.unwrap().total, 1);
    let filter = InstanceFilter { ipv6_addresses: vec![ip("fdec:0:1:7::8")], ..Default::default() };
    assert_eq!(store.instances(filter, page).await.unwrap().total, 0);
}
