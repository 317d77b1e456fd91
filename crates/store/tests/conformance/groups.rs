//! Security groups, their rules and their members.

use super::{Backend, records::*};
use store::*;

fn rule(id: &str) -> RuleRecord {
    RuleRecord {
        rule_id: id.to_owned(),
        group_id: "sg-1".to_owned(),
        egress: false,
        protocol: "tcp".to_owned(),
        port_from: 22,
        port_to: 22,
        source_ports: String::new(),
        cidr: Some("10.0.0.0/8".parse().unwrap()),
        peer_group_id: None,
        prefix_list_id: String::new(),
        own_cidr: None,
        priority: 1,
        drop: false,
        description: String::new(),
        created_ms: 1,
    }
}

async fn change_group(store: &dyn Store, id: &str, plan: GroupPlan) {
    let decide = Box::new(move |_: &GroupView| Ok(plan.clone()));
    store.change_security_group(None, id, Vec::new(), decide).await.unwrap();
}

async fn make_group(store: &dyn Store, id: &str) {
    let planned = group(id, "vpc-1");
    store
        .create_security_group(None, "vpc-1", Box::new(move |_| Ok(planned.clone())))
        .await
        .unwrap();
}

pub async fn rules_of_every_kind_are_kept_and_changed(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    make_group(&*store, "sg-2").await;
    let peer = |id: &str| RuleRecord { cidr: None, ..rule(id) };
    let rules = vec![
        rule("sgr-1"),
        RuleRecord {
            cidr: Some("2001:db8::/32".parse().unwrap()),
            own_cidr: Some("fdec:0:1:7::9/128".parse().unwrap()),
            egress: true,
            ..rule("sgr-2")
        },
        RuleRecord { peer_group_id: Some("sg-2".to_owned()), ..peer("sgr-3") },
        RuleRecord {
            prefix_list_id: "pl-1".to_owned(),
            drop: true,
            source_ports: "1/2".to_owned(),
            ..peer("sgr-4")
        },
    ];
    let plan = GroupPlan { insert: rules.clone(), ..Default::default() };
    change_group(&*store, "sg-1", plan).await;
    assert_eq!(store.security_group("sg-1").await.unwrap().rules, rules);
    assert_eq!(store.security_group("sg-2").await.unwrap().named_by, ["sg-1"]);

    let before = *store.revisions().borrow();
    let mut changed = rules.clone();
    changed[2] = RuleRecord { description: "was a group".to_owned(), priority: 9, ..rule("sgr-3") };
    let group = store.security_group("sg-1").await.unwrap().group.unwrap();
    let group = SecurityGroupRecord {
        name: "new".to_owned(),
        description: "text".to_owned(),
        inner_accept: false,
        ..group
    };
    let plan = GroupPlan {
        update: Some(group.clone()),
        update_rules: vec![changed[2].clone()],
        delete: vec!["sgr-2".to_owned()],
        ..Default::default()
    };
    change_group(&*store, "sg-1", plan).await;
    changed.remove(1);
    let view = store.security_group("sg-1").await.unwrap();
    assert_eq!((view.rules, view.group), (changed, Some(group)));
    assert!(store.security_group("sg-2").await.unwrap().named_by.is_empty());
    let changes = store.changes_after(before).await.unwrap().changes;
    assert!(changes.iter().any(|change| change.id == "sg-1"), "hosts have to be told");
}

pub async fn members_are_counted_by_their_addresses(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    create(&*store, &["i-1", "i-2"]).await.unwrap();
    let summary = async |id: &str| {
        let filter = GroupFilter { group_ids: vec![id.to_owned()], ..Default::default() };
        let page = Page::Offset { offset: 0, limit: 10 };
        store.security_groups(filter, page).await.unwrap().items.remove(0)
    };
    let of = summary("sg-1").await;
    assert_eq!((of.instances, of.addresses, of.rules, of.group_rules), (2, 2, 0, 0));
    let new = NewEni { eni: eni("eni-1"), address: None, more_addresses: 4, ..Default::default() };
    let decide = Box::new(move |_: &EnisView| {
        Ok(EnisPlan { insert: vec![new.clone()], ..Default::default() })
    });
    store.change_enis(None, EnisLookup::default(), decide).await.unwrap();
    let of = summary("sg-1").await;
    assert_eq!((of.instances, of.addresses), (2, 7), "one at no instance is a member too");
    make_group(&*store, "sg-2").await;
    let plan = GroupPlan { insert: vec![rule("sgr-1")], ..Default::default() };
    change_group(&*store, "sg-2", plan).await;
    let decide = Box::new(|view: &EnisView| {
        let mut eni = view.enis[0].clone();
        eni.security_group_ids = vec!["sg-2".to_owned()];
        eni.secondary_private_ips.truncate(1);
        Ok(EnisPlan { update: vec![eni], ..Default::default() })
    });
    let lookup = EnisLookup { eni_ids: vec!["eni-1".to_owned()], ..Default::default() };
    store.change_enis(None, lookup, decide).await.unwrap();
    assert_eq!(summary("sg-1").await.addresses, 2);
    let of = summary("sg-2").await;
    assert_eq!((of.instances, of.addresses, of.rules), (0, 2, 1));
    assert_eq!(store.security_group("sg-2").await.unwrap().members, 1);
}

pub async fn rules_of_members_in_many_groups_are_counted(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 8).await;
    let ids: Vec<String> = (1..=6).map(|number| format!("sg-{number}")).collect();
    for id in &ids[1..] {
        make_group(&*store, id).await;
    }
    for (group, count) in [("sg-1", 2), ("sg-6", 3)] {
        let insert = (0..count).map(|number| rule(&format!("{group}-{number}"))).collect();
        change_group(&*store, group, GroupPlan { insert, ..Default::default() }).await;
    }
    for (id, groups) in [("eni-few", &ids[..5]), ("eni-many", &ids[..])] {
        let one = EniRecord { security_group_ids: groups.to_vec(), ..eni(id) };
        let new = NewEni { eni: one, ..Default::default() };
        let decide = Box::new(move |_: &EnisView| {
            Ok(EnisPlan { insert: vec![new.clone()], ..Default::default() })
        });
        store.change_enis(None, EnisLookup::default(), decide).await.unwrap();
        let expected = if groups.len() > GroupView::FEW_GROUPS as usize { 5 } else { 0 };
        assert_eq!(store.security_group("sg-1").await.unwrap().most_member_rules, expected);
    }
    assert_eq!(store.security_group("sg-2").await.unwrap().most_member_rules, 5);
}
