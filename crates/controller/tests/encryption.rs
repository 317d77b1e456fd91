//! Encrypted disks, snapshots and images, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_agent;

use api::v1::*;
use cloud_process::{CloudProcess, code};
use disk_calls::*;
use fake_agent::FakeAgent;
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

fn put_key(folder: &Path, name: &str, mode: u32) {
    let path = folder.join(name);
    fs::write(&path, "5a".repeat(32)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn make_keys(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for id in ["own", "mine"] {
        put_key(folder, &format!("{id}.key"), 0o600);
    }
    put_key(folder, "off.key.disabled", 0o600);
    put_key(folder, "open.key", 0o644);
    fs::write(folder.join("default"), "own\n").unwrap();
}

fn encrypted(kms_key_id: &str) -> CreateDiskRequest {
    CreateDiskRequest { encrypted: true, kms_key_id: kms_key_id.to_owned(), ..new_disk(20) }
}

async fn refusal(cloud: &CloudProcess, request: CreateDiskRequest) -> String {
    code(&cloud.disks().create_disk(request).await.unwrap_err())
}

#[tokio::test]
async fn requests_name_keys_that_can_be_used() {
    let cloud = CloudProcess::start(&[]).await;
    let no_store = refusal(&cloud, encrypted("")).await;
    assert_eq!(no_store, "InvalidParameter.EncryptedNotSupported");
    make_keys(&cloud.path("kms"));
    let illegal = CreateDiskRequest { encrypted: false, ..encrypted("mine") };
    assert_eq!(refusal(&cloud, illegal).await, "InvalidParameter.EncryptedIllegal");
    for (id, expected) in [
        ("none", "InvalidParameter.KMSKeyId.NotFound"),
        ("../kms/mine", "InvalidParameter.KMSKeyId.NotFound"),
        ("off", "InvalidParameter.KMSKeyId.CMKNotEnabled"),
        ("open", "InvalidParameter.KMSKeyId.KMSUnauthorized"),
    ] {
        assert_eq!(refusal(&cloud, encrypted(id)).await, expected, "{id}");
    }
    let request = CreateDiskRequest { client_token: "once".to_owned(), ..encrypted("") };
    let own = create(&cloud, request.clone()).await;
    let (key, away) = (cloud.path("kms/own.key"), cloud.path("kms/own.key.disabled"));
    fs::rename(&key, &away).unwrap();
    assert_eq!(create(&cloud, request).await, own, "the token names the same order");
    let disabled = refusal(&cloud, encrypted("")).await;
    assert_eq!(disabled, "InvalidParameter.KMSKeyId.CMKNotEnabled");
    fs::rename(&away, &key).unwrap();
    let mine = create(&cloud, encrypted("mine")).await;
    let plain = create(&cloud, new_disk(20)).await;
    for (id, key) in [(&own, "own"), (&mine, "mine"), (&plain, "")] {
        let disk = find(&cloud, id).await.unwrap();
        assert_eq!((disk.encrypted, disk.kms_key_id.as_str()), (!key.is_empty(), key));
    }
    let ids = |request| async {
        let found = list(&cloud, request).await.into_iter();
        let mut ids: Vec<String> = found.map(|disk| disk.disk_id).collect();
        ids.sort();
        ids
    };
    let by_key = DescribeDisksRequest { kms_key_id: "mine".to_owned(), ..Default::default() };
    assert_eq!(ids(by_key).await, [mine]);
    let not = DescribeDisksRequest { encrypted: Some(false), ..Default::default() };
    assert_eq!(ids(not).await, [plain]);
}

/// The key that a host is told of a disk: the master key's id and the wrapped key.
fn told(agent: &FakeAgent, disk_id: &str) -> Option<(String, Vec<u8>)> {
    let spec = agent.spec();
    let disk = spec.disks.iter().find(|disk| disk.disk_id == disk_id).unwrap();
    let key = disk.encryption.as_ref()?;
    Some((key.kms_key_id.clone(), key.wrapped_key.clone()))
}

#[tokio::test]
async fn what_is_made_from_what_is_encrypted_has_its_key() {
    let (cloud, site, agent) = cloud_with_host().await;
    make_keys(&cloud.path("kms"));
    let data =
        DataDisk { size: 20, encrypted: true, kms_key_id: "mine".to_owned(), ..Default::default() };
    let plain = DataDisk { size: 20, ..Default::default() };
    let request = RunInstancesRequest {
        system_disk: Some(SystemDisk { encrypted: true, ..Default::default() }),
        data_disk: vec![plain, data],
        ..site.run(2)
    };
    let first = run(&cloud, request).await;
    let of = |instance_id: &str| DescribeDisksRequest {
        instance_id: instance_id.to_owned(),
        ..Default::default()
    };
    let mut disks = list(&cloud, of(&first)).await;
    disks.sort_by(|a, b| a.device.cmp(&b.device));
    let keys: Vec<&str> = disks.iter().map(|disk| disk.kms_key_id.as_str()).collect();
    assert_eq!(keys, ["own", "", "mine"]);
    // Every disk has a data key of its own, and none is sent in the clear.
    let mut all: Vec<_> = agent.spec().disks.into_iter().filter_map(|d| d.encryption).collect();
    assert_eq!(all.len(), 4);
    all.sort_by(|a, b| a.wrapped_key.cmp(&b.wrapped_key));
    all.dedup();
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|key| key.wrapped_key.len() == 12 + 32 + 16));

    let disk_id = disks[2].disk_id.clone();
    let snapshot = CreateSnapshotRequest { disk_id: disk_id.clone(), ..Default::default() };
    let snapshot = cloud.snapshots().create_snapshot(snapshot).await.unwrap().into_inner();
    let request = DescribeSnapshotsRequest {
        snapshot_ids: vec![snapshot.snapshot_id.clone()],
        status: "accomplished".to_owned(),
        ..Default::default()
    };
    let found = loop {
        let found = cloud.snapshots().describe_snapshots(request.clone()).await.unwrap();
        if let Some(found) = found.into_inner().snapshots.pop() {
            break found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((found.encrypted, found.kms_key_id.as_str()), (true, "mine"));
    let from = CreateDiskRequest {
        snapshot_id: snapshot.snapshot_id.clone(),
        instance_id: first.clone(),
        ..Default::default()
    };
    let other = CreateDiskRequest { encrypted: true, kms_key_id: "own".to_owned(), ..from.clone() };
    assert_eq!(refusal(&cloud, other).await, "EncryptedOption.Conflict");
    let made = create(&cloud, from).await;
    until_status(&cloud, &made, "In_use").await;
    assert_eq!(told(&agent, &made), told(&agent, &disk_id));
    assert!(told(&agent, &made).is_some());
}
