//! Network interfaces: where they are wanted, their addresses, and who gets to know of them.

use super::{Backend, records::*};
use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};
use store::*;

fn new(id: &str) -> NewEni {
    NewEni { eni: eni(id), ..Default::default() }
}

async fn put(store: &dyn Store, new: NewEni) -> Result<Answer, StoreError> {
    let decide = Box::new(move |_: &EnisView| {
        Ok(EnisPlan { insert: vec![new.clone()], ..Default::default() })
    });
    store.change_enis(None, EnisLookup::default(), decide).await
}

fn one(id: &str) -> EnisLookup {
    EnisLookup { eni_ids: vec![id.to_owned()], ..Default::default() }
}

/// Changes one interface.
async fn change_eni(
    store: &dyn Store,
    id: &str,
    change: impl Fn(&mut EniRecord) + Send + Sync + 'static,
) -> Result<Answer, StoreError> {
    let decide = Box::new(move |view: &EnisView| {
        let mut eni = view.enis[0].clone();
        change(&mut eni);
        Ok(EnisPlan { update: vec![eni], ..Default::default() })
    });
    store.change_enis(None, one(id), decide).await
}

async fn delete(store: &dyn Store, id: &str) {
    let gone = id.to_owned();
    let decide = Box::new(move |_: &EnisView| {
        Ok(EnisPlan { delete: vec![gone.clone()], ..Default::default() })
    });
    store.change_enis(None, one(id), decide).await.unwrap();
}

async fn enis(store: &dyn Store, filter: EniFilter) -> Vec<EniRecord> {
    let page = Page::Offset { offset: 0, limit: 100 };
    let listed = store.enis(filter, page).await.unwrap().items;
    listed.into_iter().map(|details| details.eni).collect()
}

async fn the_eni(store: &dyn Store, id: &str) -> EniRecord {
    let filter = EniFilter { eni_ids: vec![id.to_owned()], ..Default::default() };
    enis(store, filter).await.remove(0)
}

async fn used(store: &dyn Store) -> u64 {
    let page = Page::Offset { offset: 0, limit: 1 };
    store.vswitches(VSwitchFilter::default(), page).await.unwrap().items[0].1
}

async fn report(store: &dyn Store, plan: StatusPlan) {
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session: 1,
        observed_revision: 1,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(move |_| Ok(plan.clone())),
    };
    store.report_status(report).await.unwrap();
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn at_i1(eni: &mut EniRecord) {
    (eni.instance_id, eni.host_id, eni.position) = ("i-1".to_owned(), "h-1".to_owned(), 1);
}

/// Ids of a kind that have changed since.
async fn changed(store: &dyn Store, since: u64, kind: &str) -> Vec<String> {
    let changes = store.changes_after(since).await.unwrap().changes;
    changes.into_iter().filter(|change| change.kind == kind).map(|change| change.id).collect()
}

pub async fn addresses_are_taken_and_freed(backend: &impl Backend) {
    let store = backend.open();
    network(&*store, "10.0.0.1", "10.0.0.6").await;
    let first = NewEni {
        address: Some(ip("10.0.0.2")),
        eni: EniRecord { secondary_private_ips: vec![ip("10.0.0.1")], ..eni("eni-1") },
        more_addresses: 2,
        ..Default::default()
    };
    put(&*store, first).await.unwrap();
    let made = the_eni(&*store, "eni-1").await;
    let all: Vec<_> = made.addresses().collect();
    assert_eq!(all, [ip("10.0.0.2"), ip("10.0.0.1"), ip("10.0.0.3"), ip("10.0.0.4")]);
    assert!(made.mac.starts_with("00:16:3e:"), "{}", made.mac);
    assert_eq!(used(&*store).await, 4);
    // What is taken, as primary or as secondary one, is nobody else's.
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.4"] {
        let taken = put(&*store, NewEni { address: Some(ip(address)), ..new("eni-2") }).await;
        let error = taken.unwrap_err();
        assert!(matches!(error, StoreError::AddressInUse { .. }), "{error}");
    }
    put(&*store, new("eni-2")).await.unwrap();
    assert_eq!(the_eni(&*store, "eni-2").await.private_ip, ip("10.0.0.5"));
    let error = change_eni(&*store, "eni-2", |eni| {
        eni.secondary_private_ips = vec![ip("10.0.0.6"), ip("10.0.0.3")];
    })
    .await
    .unwrap_err();
    assert!(matches!(error, StoreError::AddressInUse { address, .. } if address == ip("10.0.0.3")));
    assert_eq!(used(&*store).await, 5, "a failing transaction takes nothing");
    // One that stays, stays with its interface while others come and go.
    change_eni(&*store, "eni-1", |eni| {
        eni.secondary_private_ips = vec![ip("10.0.0.4"), ip("10.0.0.6")];
    })
    .await
    .unwrap();
    let made = the_eni(&*store, "eni-1").await;
    assert_eq!(made.secondary_private_ips, [ip("10.0.0.4"), ip("10.0.0.6")]);
    assert_eq!((used(&*store).await, made.private_ip), (4, ip("10.0.0.2")));

    let decide = Box::new(|view: &EnisView| {
        assert_eq!(view.vswitch.as_ref().unwrap().free_addresses, 2);
        assert_eq!(view.offered.iter().copied().collect::<BTreeSet<_>>().len(), 2);
        assert!(
            view.offered.iter().all(|ip| [[10, 0, 0, 1], [10, 0, 0, 3]].contains(&ip.octets()))
        );
        Ok(EnisPlan::default())
    });
    let lookup = EnisLookup { addresses: 7, ..one("eni-1") };
    store.change_enis(None, lookup, decide).await.unwrap();
    let error = put(&*store, NewEni { more_addresses: 2, ..new("eni-3") }).await.unwrap_err();
    assert!(matches!(error, StoreError::NoFreeAddress { .. }), "{error}");
    delete(&*store, "eni-1").await;
    assert_eq!(used(&*store).await, 1);
    put(&*store, NewEni { more_addresses: 4, ..new("eni-3") }).await.unwrap();
    assert_eq!(used(&*store).await, 6);
}

pub async fn concurrent_interfaces_share_no_address(backend: &impl Backend) {
    let store = backend.open();
    network(&*store, "10.0.0.1", "10.0.0.40").await;
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let store = Arc::clone(&store);
            let new = NewEni { more_addresses: 2, ..new(&format!("eni-{index}")) };
            tokio::spawn(async move { put(&*store, new).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert!(matches!(error, StoreError::NoFreeAddress { .. }), "{error}"),
        }
    }
    assert_eq!(made, 13, "40 addresses are room for 13 times three");
    let all = enis(&*store, EniFilter::default()).await;
    let addresses: BTreeSet<_> = all.iter().flat_map(EniRecord::addresses).collect();
    let macs: BTreeSet<_> = all.iter().map(|eni| eni.mac.clone()).collect();
    assert_eq!((addresses.len(), macs.len()), (39, 13));
}

pub async fn an_interface_is_seen_with_its_instance(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    create(&*store, &["i-1", "i-2"]).await.unwrap();
    put(&*store, NewEni { more_addresses: 1, ..new("eni-1") }).await.unwrap();
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(spec.groups[0].member_ips.len(), 2, "one at no instance is nowhere");
    let before = *store.revisions().borrow();
    change_eni(&*store, "eni-1", |eni| eni.name = "new".to_owned()).await.unwrap();
    assert_eq!(changed(&*store, before, "vpc").await, [""; 0]);

    let before = *store.revisions().borrow();
    change_eni(&*store, "eni-1", at_i1).await.unwrap();
    let attached = the_eni(&*store, "eni-1").await;
    assert!(attached.attachment_revision > before);
    assert_eq!(changed(&*store, before, "vpc").await, ["vpc-1"]);
    assert_eq!(changed(&*store, before, "security_group").await, ["sg-1"]);
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    let of_first =
        spec.instances.iter().find(|details| details.instance.instance_id == "i-1").unwrap();
    let ids: Vec<&str> = of_first.enis.iter().map(|eni| eni.eni_id.as_str()).collect();
    assert_eq!(ids, ["eni-i-1", "eni-1"]);
    assert_eq!(of_first.enis[1], attached);
    assert_eq!(spec.groups[0].member_ips.len(), 4, "each of its addresses counts");

    // What is only said of it is no change of what is wanted.
    let before = *store.revisions().borrow();
    let mut told = attached.clone();
    told.reported =
        ReportedEni { instance_id: "i-1".to_owned(), generation: 3, ..Default::default() };
    told.status = "InUse".to_owned();
    report(&*store, StatusPlan { update_enis: vec![told.clone()], ..Default::default() }).await;
    assert_eq!(the_eni(&*store, "eni-1").await, told);
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().all(|change| change.kind == "eni_status"), "{changes:?}");

    // One that still leaves is seen with its instance, though it is wanted there no more.
    change_eni(&*store, "eni-1", |eni| eni.instance_id.clear()).await.unwrap();
    assert!(the_eni(&*store, "eni-1").await.attachment_revision > attached.attachment_revision);
    let decide = Box::new(|view: &EnisView| {
        assert_eq!(view.leaving[0].eni_id, "eni-1");
        assert_eq!(view.instances[0].enis.len(), 1);
        assert_eq!((view.groups.len(), view.groups[0].addresses), (1, 4));
        Ok(EnisPlan::default())
    });
    let lookup = EnisLookup { instance_ids: vec!["i-1".to_owned()], ..Default::default() };
    store.change_enis(None, lookup, decide).await.unwrap();
    let filter = EniFilter { instance_id: "i-1".to_owned(), ..Default::default() };
    assert_eq!(enis(&*store, filter).await.len(), 2);
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(spec.groups[0].member_ips.len(), 2, "its addresses count no more");
    let report = HostReport {
        host_id: "h-1".to_owned(),
        session: 1,
        observed_revision: 1,
        events: Vec::new(),
        pools: Vec::new(),
        now_ms: 10,
        lease_until_ms: 2000,
        decide: Box::new(|view| {
            assert_eq!(view.enis.len(), 3, "its host is still asked for it");
            let leaving = view.enis.iter().find(|eni| eni.eni_id == "eni-1").unwrap();
            assert_eq!(leaving.security_group_ids, ["sg-1"]);
            assert_eq!(leaving.secondary_private_ips.len(), 1);
            Ok(StatusPlan::default())
        }),
    };
    store.report_status(report).await.unwrap();
}

pub async fn two_interfaces_never_share_a_place(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    create(&*store, &["i-1"]).await.unwrap();
    for id in ["eni-1", "eni-2"] {
        put(&*store, new(id)).await.unwrap();
    }
    change_eni(&*store, "eni-1", at_i1).await.unwrap();
    change_eni(&*store, "eni-2", at_i1).await.unwrap_err();
    assert_eq!(the_eni(&*store, "eni-2").await.instance_id, "");
}

pub async fn a_kept_interface_outlives_its_instance(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    create(&*store, &["i-1"]).await.unwrap();
    for id in ["eni-1", "eni-2"] {
        let tagged = EniRecord { tags: vec![("a".to_owned(), "b".to_owned())], ..eni(id) };
        put(&*store, NewEni { eni: tagged, ..new(id) }).await.unwrap();
    }
    change_eni(&*store, "eni-1", at_i1).await.unwrap();
    change_eni(&*store, "eni-2", |eni| {
        at_i1(eni);
        eni.position = 2;
    })
    .await
    .unwrap();
    let mut kept = the_eni(&*store, "eni-1").await;
    kept.instance_id.clear();
    kept.host_id.clear();
    let plan =
        StatusPlan { update_enis: vec![kept], purge: vec!["i-1".to_owned()], ..Default::default() };
    report(&*store, plan).await;
    let left = enis(&*store, EniFilter::default()).await;
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((left.eni_id.as_str(), left.instance_id.as_str()), ("eni-1", ""));
    assert_eq!((left.tags.len(), used(&*store).await), (1, 1));
    let tagged = EniFilter { tags: vec![("a".to_owned(), String::new())], ..Default::default() };
    assert_eq!(enis(&*store, tagged).await.len(), 1, "tags go with their interface");
}

pub async fn a_host_knows_what_others_have_of_its_vpcs(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    let at = |underlay: &str| {
        let mut registration = host("h-2", 8, 1 << 20);
        registration.host.underlay_ip = underlay.to_owned();
        registration
    };
    store.register_host(at("192.0.2.2")).await.unwrap();
    let on = |id: &'static str, host_id: &'static str| -> Decide<CreateView, CreatePlan> {
        Box::new(move |_| {
            Ok(CreatePlan {
                instances: vec![instance(id, host_id)],
                answer: Vec::new(),
                ..CreatePlan::default()
            })
        })
    };
    store.create_instances(None, lookup(), on("i-1", "h-1")).await.unwrap();
    let of_h1 = async || store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(of_h1().await.remotes, []);
    let before = *store.revisions().borrow();
    store.create_instances(None, lookup(), on("i-2", "h-2")).await.unwrap();
    assert_eq!(changed(&*store, before, "vpc").await, ["vpc-1"], "the first host has to be told");
    put(&*store, NewEni { more_addresses: 1, ..new("eni-1") }).await.unwrap();
    change_eni(&*store, "eni-1", |eni| {
        (eni.instance_id, eni.host_id, eni.position) = ("i-2".to_owned(), "h-2".to_owned(), 1);
        eni.ipv6_addresses = vec!["fdec:0:1:7::9".parse().unwrap()];
    })
    .await
    .unwrap();
    let remotes = of_h1().await.remotes;
    let [remote] = remotes.as_slice() else { panic!("{remotes:?}") };
    assert_eq!((remote.vpc_id.as_str(), remote.underlay_ip.as_str()), ("vpc-1", "192.0.2.2"));
    let of_h2: Vec<Ipv4Addr> = listed(&*store)
        .await
        .iter()
        .filter(|details| details.instance.host_id == "h-2")
        .flat_map(|details| &details.enis)
        .flat_map(EniRecord::addresses)
        .collect();
    let of_h2: BTreeSet<Ipv4Addr> = of_h2.into_iter().collect();
    let [ipv4 @ .., ipv6] = remote.addresses.as_slice() else { panic!("{remote:?}") };
    assert_eq!(ipv4, of_h2.into_iter().collect::<Vec<_>>());
    assert_eq!((ipv4.len(), ipv6.to_string()), (3, "fdec:0:1:7::9".to_owned()));
    let other_way = store.host_snapshot("h-2").await.unwrap().unwrap().remotes;
    assert_eq!(other_way, [], "the first host does not say where it takes packets");

    // A host that is somewhere else now.
    let before = *store.revisions().borrow();
    store.register_host(at("192.0.2.2")).await.unwrap();
    assert_eq!(changed(&*store, before, "vpc").await, [""; 0]);
    store.register_host(at("192.0.2.9")).await.unwrap();
    assert_eq!(changed(&*store, before, "vpc").await, ["vpc-1"]);
    assert_eq!(of_h1().await.remotes[0].underlay_ip, "192.0.2.9");
    let hosts = store.hosts().await.unwrap();
    assert_eq!(hosts[1].0.underlay_ip, "192.0.2.9");

    // An instance that is to go has nothing any more that others could reach.
    let before = *store.revisions().borrow();
    change(&*store, "i-2", |record| record.releasing = true).await.unwrap();
    assert!(changed(&*store, before, "vpc").await.contains(&"vpc-1".to_owned()));
    assert_eq!(of_h1().await.remotes, []);
}

pub async fn lists_of_interfaces_narrow(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    create(&*store, &["i-1"]).await.unwrap();
    let named = EniRecord { name: "web-1".to_owned(), ..eni("eni-1") };
    put(&*store, NewEni { eni: named, more_addresses: 1, ..new("eni-1") }).await.unwrap();
    let of_1 = the_eni(&*store, "eni-1").await;
    let filter = EniFilter::default;
    for (filter, expected) in [
        (EniFilter { primary: Some(true), ..filter() }, vec!["eni-i-1"]),
        (EniFilter { primary: Some(false), ..filter() }, vec!["eni-1"]),
        (EniFilter { name: "web*".to_owned(), ..filter() }, vec!["eni-1"]),
        (EniFilter { status: "Available".to_owned(), ..filter() }, vec!["eni-1"]),
        (EniFilter { primary_ip: Some(of_1.private_ip), ..filter() }, vec!["eni-1"]),
        (EniFilter { primary_ip: Some(of_1.secondary_private_ips[0]), ..filter() }, vec![]),
        (EniFilter { private_ips: of_1.secondary_private_ips.clone(), ..filter() }, vec!["eni-1"]),
        (EniFilter { security_group_id: "sg-1".to_owned(), ..filter() }, vec!["eni-1", "eni-i-1"]),
        (EniFilter { vpc_id: "vpc-9".to_owned(), ..filter() }, vec![]),
    ] {
        let found = enis(&*store, filter.clone()).await;
        let ids: Vec<&str> = found.iter().map(|eni| eni.eni_id.as_str()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
    change_eni(&*store, "eni-1", at_i1).await.unwrap();
    let by_address =
        InstanceFilter { private_ips: of_1.secondary_private_ips.clone(), ..Default::default() };
    let page = Page::Offset { offset: 0, limit: 10 };
    assert_eq!(store.instances(by_address, page).await.unwrap().total, 1);
}

/// Numbers that look random and are the same each time (Knuth's multiplier).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

pub async fn what_is_counted_is_what_there_is(backend: &impl Backend) {
    let store = backend.open();
    network(&*store, "10.0.0.1", "10.0.0.30").await;
    let other = group("sg-2", "vpc-1");
    let decide = Box::new(move |_: &VpcView| Ok(other.clone()));
    store.create_security_group(None, "vpc-1", decide).await.unwrap();
    let groups = [vec!["sg-1"], vec!["sg-2"], vec!["sg-2", "sg-1"]];
    let mut model: std::collections::BTreeMap<String, EniRecord> = Default::default();
    let mut numbers = Numbers(7);
    for step in 0..400 {
        let id = format!("eni-{}", numbers.below(6));
        let in_groups: Vec<String> =
            groups[numbers.below(3) as usize].iter().map(ToString::to_string).collect();
        let mut wanted = || Ipv4Addr::from(0x0a00_0001 + numbers.below(30) as u32);
        let (first, second) = (wanted(), wanted());
        let more = numbers.below(5) as u32;
        let known = model.contains_key(&id);
        let outcome = match numbers.below(4) {
            0 if known => {
                delete(&*store, &id).await;
                model.remove(&id);
                continue;
            }
            0 | 1 if !known => {
                let one = EniRecord { security_group_ids: in_groups, ..eni(&id) };
                put(
                    &*store,
                    NewEni { eni: one, address: None, more_addresses: more, ..Default::default() },
                )
                .await
            }
            _ if !known => {
                let one = EniRecord {
                    security_group_ids: in_groups,
                    secondary_private_ips: if first == second { vec![] } else { vec![second] },
                    ..eni(&id)
                };
                let new = NewEni {
                    eni: one,
                    address: Some(first),
                    more_addresses: more,
                    ..Default::default()
                };
                put(&*store, new).await
            }
            1 => {
                change_eni(&*store, &id, move |eni| eni.security_group_ids = in_groups.clone())
                    .await
            }
            _ => {
                change_eni(&*store, &id, move |eni| {
                    eni.secondary_private_ips.truncate(more as usize);
                    if !eni.addresses().any(|own| own == first) {
                        eni.secondary_private_ips.insert(0, first);
                    }
                })
                .await
            }
        };
        match outcome {
            Ok(_) => {
                model.insert(id.clone(), the_eni(&*store, &id).await);
            }
            Err(StoreError::AddressInUse { address, .. }) => {
                let of_others = model.values().flat_map(EniRecord::addresses);
                assert!(of_others.into_iter().any(|taken| taken == address), "step {step}");
            }
            Err(StoreError::NoFreeAddress { .. }) => {}
            Err(error) => panic!("step {step}: {error}"),
        }
        let now = enis(&*store, EniFilter::default()).await;
        let now: std::collections::BTreeMap<_, _> =
            now.into_iter().map(|eni| (eni.eni_id.clone(), eni)).collect();
        assert_eq!(now, model, "step {step}");
        let all: Vec<Ipv4Addr> = model.values().flat_map(EniRecord::addresses).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "step {step}");
        assert_eq!(used(&*store).await, all.len() as u64, "step {step}");
        let page = Page::Offset { offset: 0, limit: 10 };
        for summary in store.security_groups(GroupFilter::default(), page).await.unwrap().items {
            let members = model
                .values()
                .filter(|eni| eni.security_group_ids.contains(&summary.group.group_id));
            let addresses: usize = members.map(|eni| eni.addresses().count()).sum();
            assert_eq!(summary.addresses, addresses as u64, "step {step}");
        }
    }
}
