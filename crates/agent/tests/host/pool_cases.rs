//! A host with a second storage pool.

use crate::{
    disk_cases::{attach, disk, until_at},
    fixture::Host,
};
use api::host::{DiskSpec, StoragePool, StoragePoolState};
use std::fs;

fn pools(host: &Host) -> Vec<StoragePool> {
    host.seen(|seen| seen.registrations.last().map(|r| r.pools.clone()).unwrap_or_default())
}

pub async fn a_second_pool_is_told_of_and_has_its_disks() {
    let mut host = Host::new().await;
    fs::create_dir(host.path("fast")).unwrap();
    let option =
        format!("name=fast,path={},capacity=1GiB,overcommit=2", host.path("fast").display());
    host.options = vec!["--pool".into(), option];
    host.start_agent();
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let told = pools(&host);
    let [default, fast] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((default.name.as_str(), fast.name.as_str()), ("default", "fast"));
    assert_eq!((fast.state(), fast.overcommit), (StoragePoolState::Ready, 2.0));
    assert!(default.capacity_bytes > default.available_bytes && default.reserve_bytes > 0);
    let pool_id = fast.pool_id.clone();
    host.controller.publish(|spec| {
        spec.disks.push(DiskSpec {
            disk_id: "d-data".into(),
            generation: 1,
            size_gib: 1,
            pool_id: pool_id.clone(),
            ..DiskSpec::default()
        });
    });
    attach(&host, "i-1", "d-data");
    until_at(&host, "d-data", "i-1").await;
    let file = host.path("fast/disks/d-data.qcow2");
    assert!(file.exists() && !host.path("state/disks/d-data.qcow2").exists());

    // Not mounted: said, and the guest goes on; nothing is made in its place.
    host.kill_agent();
    fs::rename(host.path("fast"), host.path("away")).unwrap();
    fs::create_dir(host.path("fast")).unwrap();
    host.start_agent();
    let failed = |h: &Host| disk(h, "d-data").filter(|d| d.code == "StoragePoolUnavailable");
    host.until("the disk without its pool", failed).await;
    let gone = pools(&host).remove(1);
    assert_eq!((gone.pool_id.as_str(), gone.state()), (&*pool_id, StoragePoolState::Unavailable));
    let told =
        |h: &Host| h.seen(|s| s.events.iter().any(|e| e.r#type == "StoragePool.Unavailable"));
    host.until("an event", |h| told(h).then_some(())).await;
    assert!(fs::read_dir(host.path("fast")).unwrap().next().is_none());
    assert_eq!(host.starts("i-1"), 1);
    fs::remove_dir(host.path("fast")).unwrap();
    fs::rename(host.path("away"), host.path("fast")).unwrap();
    until_at(&host, "d-data", "i-1").await;

    host.controller.publish(|spec| spec.disks.retain(|d| d.disk_id != "d-data"));
    host.change("i-1", |i| i.disk_ids.retain(|id| id != "d-data"));
    host.until("its file to go", |_| (!file.exists()).then_some(())).await;
    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
}
