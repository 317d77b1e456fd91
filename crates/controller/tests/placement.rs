//! The scheduler never plans more than there is, spreads, and says why it refuses.

#![allow(clippy::unwrap_used, clippy::panic)]

use controller::scheduler::{DiskNeed, Needs, choose, choose_all, no_stock, place};
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::{HostRecord, PoolRecord, PoolState};

fn host(index: usize, limit: u32, used: u32, memory: u64, lost: bool, zone: u8) -> HostRecord {
    HostRecord {
        host_id: format!("h-{index}"),
        hostname: String::new(),
        zone_id: format!("z-{zone}"),
        access_endpoint: String::new(),
        underlay_ip: String::new(),
        vcpus: limit,
        vcpu_limit: limit,
        memory_mib: memory,
        vcpus_used: used.min(limit),
        memory_mib_used: 0,
        kvm: String::new(),
        version: String::new(),
        session: 1,
        lease_until_ms: if index % 7 == 6 { 0 } else { 100 },
        lost,
        last_seen_ms: 0,
        observed_revision: 0,
        pools: vec![pool("p-0", 500)],
    }
}

fn pool(id: &str, limit_gib: u64) -> PoolRecord {
    PoolRecord { pool_id: id.to_owned(), name: id.to_owned(), limit_gib, ..Default::default() }
}

fn needs(vcpus: u32, memory_mib: u64, disk_gib: u64) -> Needs {
    Needs {
        zone_id: "z-0".to_owned(),
        instance_type: "ecs.test".to_owned(),
        vcpus,
        memory_mib,
        disks: vec![DiskNeed { gib: disk_gib, pool_id: String::new() }],
    }
}

prop_compose! {
    fn hosts()(shapes in prop::collection::vec(
        (0..32_u32, 0..8_u32, 0..64_u64, prop::bool::weighted(0.1), 0..2_u8), 0..12,
    )) -> Vec<HostRecord> {
        shapes
            .into_iter()
            .enumerate()
            .map(|(index, (limit, used, memory, lost, zone))| {
                host(index, limit, used, memory * 1024, lost, zone)
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_fit_and_use_what_there_is(
        hosts in hosts(),
        vcpus in 1..8_u32,
        memory_gib in 1..16_u64,
        disk_gib in 1..200_u64,
        amount in 1..100_u32,
    ) {
        let needs = needs(vcpus, memory_gib * 1024, disk_gib);
        let placed = place(&hosts, &needs, amount, 50);
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for place in &placed {
            *counts.entry(&place.host_id).or_default() += 1;
        }
        let mut room = 0;
        for host in &hosts {
            let usable = !host.lost && host.lease_until_ms >= 50 && host.zone_id == "z-0";
            let fits = if usable {
                u64::from((host.vcpu_limit - host.vcpus_used) / vcpus)
                    .min(host.memory_mib / needs.memory_mib)
                    .min(host.disk_gib() / disk_gib)
            } else {
                0
            };
            room += fits;
            let count = counts.get(host.host_id.as_str()).copied().unwrap_or(0);
            prop_assert!(count <= fits, "{} got {count} of {fits}", host.host_id);
        }
        prop_assert_eq!(placed.len() as u64, room.min(amount.into()));
    }
}

#[test]
fn equal_hosts_get_equal_shares() {
    let hosts: Vec<HostRecord> =
        (0..4).map(|index| host(index, 32, 0, 64 << 10, false, 0)).collect();
    let placed = place(&hosts, &needs(2, 1024, 1), 8, 50);
    for index in 0..4 {
        let id = format!("h-{index}");
        assert_eq!(placed.iter().filter(|place| place.host_id == id).count(), 2);
    }
}

#[test]
fn a_refusal_says_what_is_wrong_with_each_host() {
    let mut hosts = vec![
        host(0, 1, 0, 64 << 10, false, 0),
        host(1, 32, 0, 1 << 10, false, 0),
        host(2, 32, 0, 64 << 10, true, 0),
        host(3, 32, 0, 64 << 10, false, 1),
    ];
    let needs = needs(2, 4096, 20);
    let refusal = no_stock(&hosts, &needs, 1, 0, 50);
    assert_eq!((refusal.status, &*refusal.code), (403, "OperationDenied.NoStock"));
    for part in [
        "h-0 has 1 vCPUs free of 1, 2 needed",
        "h-1 has 1024 MiB free of 1024, 4096 needed",
        "h-2 has lost its lease",
    ] {
        assert!(refusal.message.contains(part), "{part} is not in {}", refusal.message);
    }
    assert!(!refusal.message.contains("h-3"), "another zone's host does not matter");
    hosts.clear();
    assert!(no_stock(&hosts, &needs, 1, 0, 50).message.contains("no hosts; register one"));
}

fn disk(gib: u64, pool_id: &str) -> DiskNeed {
    DiskNeed { gib, pool_id: pool_id.to_owned() }
}

#[test]
fn a_disk_goes_to_the_pool_that_is_least_full_and_takes_disks() {
    let mut host = host(0, 32, 0, 64 << 10, false, 0);
    host.pools = vec![pool("p-a", 100), pool("p-b", 1000)];
    host.pools[0].provisioned_gib = 10;
    host.pools[1].provisioned_gib = 50;
    assert_eq!(choose(&host, &disk(10, "")).unwrap(), "p-b");
    assert_eq!(choose(&host, &disk(10, "p-a")).unwrap(), "p-a");
    host.pools[1].state = PoolState::Low;
    assert_eq!(choose(&host, &disk(10, "")).unwrap(), "p-a", "placement moves on");
    let why = choose(&host, &disk(91, "")).unwrap_err();
    assert!(why.contains("p-a) has 90 GiB of disk free of 100 (10 GiB are promised"), "{why}");
    assert!(why.contains("p-b) takes no new disks"), "{why}");
    host.pools[0].snapshot_bytes = 5 << 30;
    choose(&host, &disk(86, "p-a")).unwrap_err();
    choose(&host, &disk(85, "p-a")).unwrap();
    host.pools[0].state = PoolState::Unavailable;
    choose(&host, &disk(1, "")).unwrap_err();
    assert!(choose(&host, &disk(1, "p-x")).unwrap_err().contains("does not have storage pool p-x"));
}

#[test]
fn the_disks_of_an_instance_are_placed_together_or_not_at_all() {
    let mut full = host(0, 32, 0, 64 << 10, false, 0);
    full.pools = vec![pool("p-a", 100), pool("p-b", 60)];
    let before = full.clone();
    choose_all(&mut full, &[disk(50, ""), disk(60, ""), disk(60, "")]).unwrap_err();
    assert_eq!(full, before);
    let chosen = choose_all(&mut full, &[disk(20, "p-b"), disk(40, ""), disk(90, "")]).unwrap();
    assert_eq!(chosen, ["p-b", "p-b", "p-a"]);
    assert_eq!((full.pools[0].provisioned_gib, full.pools[1].provisioned_gib), (90, 60));
    // A host without room is passed over for one that has it.
    let mut other = host(1, 32, 30, 64 << 10, false, 0);
    other.pools = vec![pool("p-c", 30)];
    let placed = place(&[full, other], &needs(1, 1024, 30), 1, 50);
    assert_eq!(placed[0].pool_ids, ["p-c"]);
}
