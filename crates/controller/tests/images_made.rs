//! Images made from snapshots and instances, against the real process and fake agents.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_access;
mod fake_agent;
mod image_calls;

use api::{host::read_snapshot_part, v1::*};
use cloud_process::code;
use disk_calls::*;
use fake_access::{Content, Contents};
use image_calls::*;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    time::{Duration, Instant},
};

#[tokio::test]
async fn an_image_is_made_from_a_snapshot_and_instances_from_the_image() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let snapshot_id = place.snapshot(&place.system).await;
    place.has(&snapshot_id, slow(7));
    let request = CreateImageRequest {
        image_name: "golden".to_owned(),
        image_family: "web".to_owned(),
        image_version: "1".to_owned(),
        client_token: "once".to_owned(),
        tag: vec![Tag { key: "env".to_owned(), value: "test".to_owned() }],
        ..of(&snapshot_id)
    };
    let dry = CreateImageRequest { dry_run: true, client_token: String::new(), ..request.clone() };
    assert_eq!(code(&place.create(dry).await.unwrap_err()), "DryRunOperation");
    let id = place.create(request.clone()).await.unwrap();
    assert_eq!(place.create(request.clone()).await.unwrap(), id);
    let other = CreateImageRequest { client_token: String::new(), ..request };
    let refused = place.create(other).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageName.Duplicated");
    let seen = until_so(cloud, &id, |image| image.progress != "0%").await;
    assert_eq!(seen.status, "Creating");
    // Until it is there, nothing is made of it and its snapshot stays.
    let run_it = RunInstancesRequest { image_id: id.clone(), ..place.site.run(1) };
    let refused = cloud.instances().run_instances(run_it.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "OperationDenied.ImageNotValid");
    let refused = forget(cloud, &snapshot_id, true).await.unwrap_err();
    assert_eq!(code(&refused), "Operation.Conflict");

    let image = until_image(cloud, &id, "Available").await;
    assert_eq!((image.progress.as_str(), image.status_reason.as_str()), ("100%", ""));
    assert_eq!((image.image_name.as_str(), image.image_version.as_str()), ("golden", "1"));
    assert_eq!((image.format.as_str(), image.architecture.as_str()), ("qcow2", "x86_64"));
    let mapping = &image.disk_device_mappings[0];
    assert_eq!((mapping.device.as_str(), mapping.r#type.as_str()), ("/dev/xvda", "system"));
    assert_eq!((mapping.snapshot_id.as_str(), mapping.size), (&*snapshot_id, image.size));
    let stored = std::fs::read(cloud.path("images").join(&id)).unwrap();
    assert_eq!(
        (image.file_bytes, &image.sha256),
        (stored.len() as u64, &hex(Sha256::digest(&stored)))
    );
    let request = DescribeImagesRequest { snapshot_id: snapshot_id.clone(), ..Default::default() };
    assert_eq!(images(cloud, request).await.len(), 1);
    let tag = vec![Tag { key: "env".to_owned(), value: "test".to_owned() }];
    let request = DescribeImagesRequest { tag: tag.clone(), ..Default::default() };
    assert_eq!(images(cloud, request).await[0].tags, tag);

    let instance = run(cloud, run_it).await;
    let by_family = RunInstancesRequest {
        image_id: String::new(),
        image_family: "web".to_owned(),
        ..place.site.run(1)
    };
    let second = run(cloud, by_family.clone()).await;
    let request = DescribeInstancesRequest { image_id: id.clone(), ..Default::default() };
    let made = cloud.instances().describe_instances(request).await.unwrap().into_inner();
    let mut made: Vec<String> = made.instances.into_iter().map(|i| i.instance_id).collect();
    made.sort();
    let mut expected = vec![instance, second];
    expected.sort();
    assert_eq!(made, expected);
    let spec = place.agent.spec();
    let sent = spec.images.iter().find(|sent| sent.image_id == id).unwrap();
    assert_eq!((&sent.sha256, sent.file_bytes), (&image.sha256, image.file_bytes));
    let both = RunInstancesRequest { image_id: id.clone(), ..by_family.clone() };
    let refused = cloud.instances().run_instances(both).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter.Conflict");
    let none = RunInstancesRequest { image_family: "none".to_owned(), ..by_family };
    let refused = cloud.instances().run_instances(none).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageId.NotFound");

    // What an image has been made from and what uses it goes only by force.
    let refused = forget(cloud, &snapshot_id, false).await.unwrap_err();
    assert_eq!(code(&refused), "SnapshotCreatedImage");
    forget(cloud, &snapshot_id, true).await.unwrap();
    let refused = drop_image(cloud, &id, false).await.unwrap_err();
    assert_eq!(code(&refused), "ImageUsingByInstance");
    let dry = DeleteImageRequest {
        image_id: id.clone(),
        force: true,
        dry_run: true,
        ..Default::default()
    };
    let refused = cloud.images().delete_image(dry).await.unwrap_err();
    assert_eq!(code(&refused), "DryRunOperation");
    drop_image(cloud, &id, true).await.unwrap();
    assert!(find_image(cloud, &id).await.is_none());
    assert_eq!(place.files(), std::slice::from_ref(&id), "instances lie on it");
    for instance_id in expected {
        let request = DeleteInstanceRequest { instance_id, force: true, ..Default::default() };
        cloud.instances().delete_instance(request).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while place.agent.spec().images.iter().any(|image| image.image_id == id) {
        assert!(Instant::now() < deadline, "the image stays on the host");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_cannot_become_an_image_is_refused() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let data =
        create(cloud, CreateDiskRequest { instance_id: place.instance_id.clone(), ..new_disk(20) })
            .await;
    until_status(cloud, &data, "In_use").await;
    let of_data = place.snapshot(&data).await;
    let of_system = place.snapshot(&place.system).await;
    let mapping = |snapshot_id: &str, kind: &str, size| DiskDeviceMapping {
        snapshot_id: snapshot_id.to_owned(),
        r#type: kind.to_owned(),
        size,
        ..Default::default()
    };
    let mapped = |disk_device_mapping: &[DiskDeviceMapping]| CreateImageRequest {
        disk_device_mapping: disk_device_mapping.to_vec(),
        ..Default::default()
    };
    let system = mapping(&of_system, "system", 0);
    let cases = [
        (CreateImageRequest::default(), "InvalidParameter.AllEmpty"),
        (
            CreateImageRequest { instance_id: "i-1".to_owned(), ..of("s-1") },
            "InvalidParamter.Conflict",
        ),
        (of("s-none"), "InvalidSnapshotId.NotFound"),
        (of(&of_data), "OperationDenied"),
        (
            CreateImageRequest { instance_id: "i-none".to_owned(), ..Default::default() },
            "InvalidInstanceId.NotFound",
        ),
        (
            CreateImageRequest { image_name: "aliyun-1".to_owned(), ..of(&of_system) },
            "InvalidImageName.Malformed",
        ),
        (
            CreateImageRequest { image_family: "acs:x".to_owned(), ..of(&of_system) },
            "InvalidImageFamily.Malformed",
        ),
        (
            CreateImageRequest { image_version: "x".repeat(41), ..of(&of_system) },
            "InvalidImageVersion.Malformed",
        ),
        (
            CreateImageRequest { architecture: "mips".to_owned(), ..of(&of_system) },
            "InvalidArchitecture.Malformed",
        ),
        (
            CreateImageRequest { region_id: "elsewhere".to_owned(), ..of(&of_system) },
            "InvalidRegionId.NotFound",
        ),
        (mapped(&[mapping(&of_data, "data", 0)]), "InvalidSystemSnapshot.Missing"),
        (mapped(&[system.clone(), system.clone()]), "InvalidDevice.InUse"),
        (mapped(&[system.clone(), mapping("", "data", 0)]), "MissingParameter"),
        (mapped(&[system.clone(), mapping(&of_data, "data", 19)]), "InvalidSize.ValueNotSupported"),
        (
            mapped(&[system.clone(), mapping(&of_data, "swap", 0)]),
            "InvalidDiskType.ValueNotSupported",
        ),
        (mapped(&vec![system; 18]), "InvalidParameter"),
    ];
    for (request, expected) in cases {
        let refused = place.create(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let request =
        DescribeImagesRequest { status: "Creating,CreateFailed".to_owned(), ..Default::default() };
    assert!(images(cloud, request).await.is_empty());
}

#[tokio::test]
async fn a_content_that_does_not_come_is_asked_for_again_or_fails_with_the_reason() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    // Cut off, then with a wrong digest, then whole.
    let snapshot_id = place.snapshot(&place.system).await;
    let whole = content(3);
    let mut cut = whole.clone();
    cut.parts.truncate(4);
    place.has(&snapshot_id, cut);
    let id = place.create(of(&snapshot_id)).await.unwrap();
    let waits = until_so(cloud, &id, |image| image.status_reason.contains("broke off")).await;
    assert_eq!((waits.status.as_str(), waits.progress.as_str()), ("Creating", "0%"));
    let mut wrong = whole.clone();
    *wrong.parts.last_mut().unwrap() = end(5 << 20, "00".to_owned());
    place.has(&snapshot_id, wrong);
    until_so(cloud, &id, |image| image.status_reason.contains("SHA-256")).await;
    let busy = api::error::status(tonic::Code::Unavailable, "HostBusy", "busy", "");
    place.has(&snapshot_id, Content { parts: vec![Err(busy)], ..Default::default() });
    until_so(cloud, &id, |image| image.status_reason.contains("busy")).await;
    place.has(&snapshot_id, whole);
    until_image(cloud, &id, "Available").await;
    assert_eq!(place.files(), std::slice::from_ref(&id));
    assert_eq!(first_byte(File::open(cloud.path("images").join(&id)).unwrap()), 3);

    // A damaged one, and one that is no image, stay failed.
    let damaged = api::error::status(
        tonic::Code::FailedPrecondition,
        "SnapshotDamaged",
        "its tables contradict each other",
        "",
    );
    let mut none = content(4);
    none.parts = vec![none.parts[0].clone()];
    let Some(read_snapshot_part::Part::Piece(piece)) = none.parts[0].clone().unwrap().part else {
        panic!()
    };
    let length = piece.offset + piece.data.len() as u64;
    none.parts.push(end(length, hex(Sha256::digest(&piece.data))));
    let first = none.parts[0].clone();
    for (content, why) in [
        (Content { parts: vec![first, Err(damaged)], ..Default::default() }, "contradict"),
        (none, "is no image"),
    ] {
        let snapshot_id = place.snapshot(&place.system).await;
        place.has(&snapshot_id, content);
        let id = place.create(of(&snapshot_id)).await.unwrap();
        let failed = until_image(cloud, &id, "CreateFailed").await;
        assert!(failed.status_reason.contains(why), "{failed:?}");
        assert_eq!(place.contents.lock().unwrap()[&snapshot_id].asked, 1);
        forget(cloud, &snapshot_id, false).await.unwrap();
        drop_image(cloud, &id, false).await.unwrap();
    }
    assert_eq!(place.files(), [id]);

    // One that is deleted meanwhile leaves nothing.
    let snapshot_id = place.snapshot(&place.system).await;
    place.has(&snapshot_id, Content { pause: Duration::from_millis(400), ..content(5) });
    let gone = place.create(of(&snapshot_id)).await.unwrap();
    until_so(cloud, &gone, |image| image.progress != "0%").await;
    drop_image(cloud, &gone, false).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while place.files().iter().any(|name| name.contains(&gone)) {
        assert!(Instant::now() < deadline, "{:?}", place.files());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    forget(cloud, &snapshot_id, false).await.unwrap();
}

#[tokio::test]
async fn a_controller_killed_at_any_moment_makes_the_image_all_the_same() {
    let mut place = Place::new().await;
    let snapshot_id = place.snapshot(&place.system).await;
    place.has(&snapshot_id, slow(9));
    let id = place.create(of(&snapshot_id)).await.unwrap();
    let copy = CopyImageRequest { image_id: place.site.image_id.clone(), ..Default::default() };
    let copy = place.cloud.images().copy_image(copy).await.unwrap().into_inner().image_id;
    let partial = format!("{id}.partial");
    for round in 0..5 {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !place.files().contains(&partial) {
            assert!(Instant::now() < deadline, "it does not begin again: {:?}", place.files());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(90 * round)).await;
        place.cloud.kill();
        // Half of something that nobody knows.
        std::fs::write(place.cloud.path("images").join("m-unknown.partial"), "half").unwrap();
        place.cloud.spawn().await;
    }
    until_image(&place.cloud, &id, "Available").await;
    until_image(&place.cloud, &copy, "Available").await;
    let mut files = place.files();
    files.sort();
    let mut expected = vec![id.clone(), copy];
    expected.sort();
    assert_eq!(files, expected);
    assert_eq!(first_byte(File::open(place.cloud.path("images").join(&id)).unwrap()), 9);
    assert!(place.contents.lock().unwrap()[&snapshot_id].asked >= 6);
    place.cloud.restart().await;
    assert_eq!(find_image(&place.cloud, &id).await.unwrap().status, "Available");
}

#[tokio::test]
async fn an_image_of_an_instance_has_its_data_disks() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let new = CreateDiskRequest { instance_id: place.instance_id.clone(), ..new_disk(30) };
    let data = create(cloud, new).await;
    until_status(cloud, &data, "In_use").await;
    place.agent.behaviour.lock().unwrap().slow_snapshots = true;
    let request = CreateImageRequest {
        instance_id: place.instance_id.clone(),
        client_token: "t".to_owned(),
        ..Default::default()
    };
    let id = place.create(request.clone()).await.unwrap();
    assert_eq!(place.create(request.clone()).await.unwrap(), id);
    let image = until_so(cloud, &id, |image| image.status_reason.contains("progressing")).await;
    assert_eq!(image.image_name, id);
    let [system, data_disk] = image.disk_device_mappings.as_slice() else { panic!("{image:?}") };
    assert_eq!((data_disk.device.as_str(), data_disk.size), ("/dev/xvdb", 30));
    let busy = place.create(CreateImageRequest { client_token: String::new(), ..request }).await;
    assert_eq!(code(&busy.unwrap_err()), "IncorrectDiskStatus.CreatingSnapshot");
    place.has(&system.snapshot_id, content(1));
    place.agent.behaviour.lock().unwrap().slow_snapshots = false;
    until_image(cloud, &id, "Available").await;
    let asked = place.contents.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(asked, std::slice::from_ref(&system.snapshot_id), "data disks stay snapshots");
    let refused = forget(cloud, &data_disk.snapshot_id, false).await.unwrap_err();
    assert_eq!(code(&refused), "SnapshotCreatedImage");

    // Where the data is, though the other host is emptier; with another disk beside.
    let _second_host = host(cloud, "host-2", Contents::default()).await;
    until_hosts(cloud, 2).await;
    let more = DataDisk { size: 50, ..Default::default() };
    let made = run(
        cloud,
        RunInstancesRequest { image_id: id.clone(), data_disk: vec![more], ..place.site.run(1) },
    )
    .await;
    let request = DescribeDisksRequest { instance_id: made.clone(), ..Default::default() };
    let mut disks = list(cloud, request).await;
    disks.sort_by(|a, b| a.device.cmp(&b.device));
    let seen: Vec<_> = disks
        .iter()
        .map(|d| (d.device.as_str(), d.size, d.source_snapshot_id.as_str(), d.host_id.as_str()))
        .collect();
    assert_eq!(
        seen[1..],
        [("/dev/xvdb", 30, &*data_disk.snapshot_id, "host-1"), ("/dev/xvdc", 50, "", "host-1"),]
    );
    let many = vec![DataDisk { size: 20, ..Default::default() }; 16];
    let many = RunInstancesRequest { image_id: id.clone(), data_disk: many, ..place.site.run(1) };
    let refused = cloud.instances().run_instances(many).await.unwrap_err();
    assert_eq!(code(&refused), "InstanceDiskNumber.LimitExceed");

    // Without its content, a data disk cannot be made any more.
    forget(cloud, &data_disk.snapshot_id, true).await.unwrap();
    let again = RunInstancesRequest { image_id: id, ..place.site.run(1) };
    let refused = cloud.instances().run_instances(again).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSnapshotId.NotFound");
}
