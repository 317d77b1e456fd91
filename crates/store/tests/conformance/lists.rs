//! Pages and filters.

use super::{Backend, records::*};
use store::*;

pub async fn pages_are_whole_and_without_repetition(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 10_000).await;
    for index in 0..25 {
        create(&*store, &[&format!("i-{index:02}")]).await.unwrap();
    }
    let ids = |listed: &Listed<InstanceDetails>| -> Vec<String> {
        listed.items.iter().map(|found| found.instance.instance_id.clone()).collect()
    };
    let newest_first: Vec<String> = (0..25).rev().map(|index| format!("i-{index:02}")).collect();
    for limit in [1, 7, 24, 25, 26] {
        let mut by_token = Vec::new();
        let mut position = None;
        loop {
            let page = Page::After { position, limit };
            let listed = store.instances(InstanceFilter::default(), page).await.unwrap();
            assert_eq!(listed.total, 25);
            by_token.extend(ids(&listed));
            position = listed.next;
            if position.is_none() {
                break;
            }
            // New rows come first and do not disturb the rest.
        }
        assert_eq!(by_token, newest_first, "limit {limit}");
        let mut by_offset = Vec::new();
        for number in 0..25 {
            let page = Page::Offset { offset: number * u64::from(limit), limit };
            by_offset.extend(ids(&store.instances(InstanceFilter::default(), page).await.unwrap()));
        }
        assert_eq!(by_offset, newest_first, "limit {limit}");
    }
    let first = Page::After { position: None, limit: 10 };
    let listed = store.instances(InstanceFilter::default(), first).await.unwrap();
    create(&*store, &["i-new"]).await.unwrap();
    let second = Page::After { position: listed.next, limit: 10 };
    let listed = store.instances(InstanceFilter::default(), second).await.unwrap();
    assert_eq!(ids(&listed), newest_first[10..20]);
}

pub async fn filters_narrow(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 10_000).await;
    create(&*store, &["i-a", "i-b", "i-c"]).await.unwrap();
    change(&*store, "i-b", |record| record.status = "Running".to_owned()).await.unwrap();
    let addresses: Vec<_> = listed(&*store)
        .await
        .into_iter()
        .map(|found| (found.instance.instance_id, found.enis[0].private_ip))
        .collect();
    let cases: Vec<(InstanceFilter, Vec<&str>)> = vec![
        (InstanceFilter { status: "Running".to_owned(), ..Default::default() }, vec!["i-b"]),
        (
            InstanceFilter { name: "name-*".to_owned(), ..Default::default() },
            vec!["i-c", "i-b", "i-a"],
        ),
        (InstanceFilter { name: "*-a".to_owned(), ..Default::default() }, vec!["i-a"]),
        (InstanceFilter { name: "name-[ab]*".to_owned(), ..Default::default() }, vec![]),
        (InstanceFilter { name: "name".to_owned(), ..Default::default() }, vec![]),
        (
            InstanceFilter {
                instance_ids: vec!["i-a".to_owned(), "i-zz".to_owned()],
                ..Default::default()
            },
            vec!["i-a"],
        ),
        (
            InstanceFilter {
                tags: vec![("owner".to_owned(), "i-c".to_owned())],
                ..Default::default()
            },
            vec!["i-c"],
        ),
        (
            InstanceFilter {
                tags: vec![("other".to_owned(), String::new())],
                ..Default::default()
            },
            vec![],
        ),
        (
            InstanceFilter { security_group_id: "sg-1".to_owned(), ..Default::default() },
            vec!["i-c", "i-b", "i-a"],
        ),
        (InstanceFilter { security_group_id: "sg-2".to_owned(), ..Default::default() }, vec![]),
        (
            InstanceFilter { private_ips: vec![addresses[0].1], ..Default::default() },
            vec![addresses[0].0.as_str()],
        ),
    ];
    for (filter, expected) in cases {
        let page = Page::Offset { offset: 0, limit: 10 };
        let listed = store.instances(filter.clone(), page).await.unwrap();
        let ids: Vec<&str> =
            listed.items.iter().map(|found| found.instance.instance_id.as_str()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        assert_eq!(listed.total, expected.len() as u64);
    }
    let found = listed(&*store).await;
    assert_eq!(found[0].instance.tags, [("owner".to_owned(), "i-c".to_owned())]);
    assert_eq!(found[0].instance.user_data, [0, 255]);
}

pub async fn attributes_can_be_modified(backend: &impl Backend) {
    let store = backend.open();
    site(&*store, 4).await;
    create(&*store, &["i-1"]).await.unwrap();
    let before = *store.revisions().borrow();
    change(&*store, "i-1", |record| {
        record.name = "new".to_owned();
        record.description = "text".to_owned();
        record.host_name = "host".to_owned();
        record.user_data = vec![1, 2];
        record.deletion_protection = true;
    })
    .await
    .unwrap();
    let record = listed(&*store).await.remove(0).instance;
    assert_eq!((&*record.name, &*record.description, &*record.host_name), ("new", "text", "host"));
    assert_eq!((record.user_data, record.deletion_protection), (vec![1, 2], true));
    let changes = store.changes_after(before).await.unwrap().changes;
    assert_eq!(changes[0].kind, "instance", "its host has to be told");
}
