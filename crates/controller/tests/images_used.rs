//! Images copied, exported and changed, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod fake_access;
mod fake_agent;
mod image_calls;

use api::v1::*;
use cloud_process::code;
use disk_calls::run;
use image_calls::*;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};
use tonic::Status;

#[tokio::test]
async fn copies_are_images_of_their_own() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let source = place.made(6).await;
    let request = CopyImageRequest {
        image_id: source.image_id.clone(),
        destination_image_name: "copy".to_owned(),
        destination_region_id: cloud_process::REGION.to_owned(),
        client_token: "t".to_owned(),
        ..Default::default()
    };
    let copy = async |request: CopyImageRequest| {
        cloud.images().copy_image(request).await.map(|made| made.into_inner().image_id)
    };
    let id = copy(request.clone()).await.unwrap();
    assert_eq!(copy(request.clone()).await.unwrap(), id);
    let image = until_image(cloud, &id, "Available").await;
    assert!(image.is_copied && image.source_image_id == source.image_id);
    assert_eq!((&image.sha256, image.size), (&source.sha256, source.size));
    assert_eq!(image.disk_device_mappings, source.disk_device_mappings);
    use std::os::unix::fs::MetadataExt as _;
    let file = std::fs::metadata(cloud.path("images").join(&id)).unwrap();
    assert_eq!(file.nlink(), 2, "the content is kept once");
    let other = |request: CopyImageRequest| CopyImageRequest {
        client_token: String::new(),
        destination_image_name: String::new(),
        ..request
    };
    let cases = [
        (
            CopyImageRequest {
                destination_region_id: "cn-other".to_owned(),
                ..other(request.clone())
            },
            "InvalidRegionId.NotFound",
        ),
        (
            CopyImageRequest { image_id: "m-none".to_owned(), ..other(request.clone()) },
            "InvalidImageId.NotFound",
        ),
        (CopyImageRequest { encrypted: true, ..other(request.clone()) }, "UnsupportedOperation"),
        (CopyImageRequest { dry_run: true, ..other(request.clone()) }, "DryRunOperation"),
        (
            CopyImageRequest { client_token: String::new(), ..request.clone() },
            "InvalidImageName.Duplicated",
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(code(&copy(request).await.unwrap_err()), expected);
    }
    drop_image(cloud, &source.image_id, false).await.unwrap();
    run(cloud, RunInstancesRequest { image_id: id.clone(), ..place.site.run(1) }).await;
    assert_eq!(place.files(), [id]);
}

#[tokio::test]
async fn an_exported_image_can_be_imported_again() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let image = place.made(8).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let header = export(cloud, &image.image_id, "QCOW2", &path).await.unwrap();
    assert_eq!((header.format.as_str(), header.file_bytes), ("qcow2", image.file_bytes));
    assert_eq!(hex(Sha256::digest(std::fs::read(&path).unwrap())), image.sha256);
    let named =
        |name: &str| ImportImageHeader { image_name: name.to_owned(), ..Default::default() };
    let again = cloud.import(named("again"), &std::fs::read(&path).unwrap()).await.unwrap();
    assert_eq!(find_image(cloud, &again).await.unwrap().sha256, image.sha256);
    // A raw one, as the site's, in both formats.
    let header = export(cloud, &place.site.image_id, "", &path).await.unwrap();
    assert_eq!(header.format, "raw");
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 3 << 20]);
    export(cloud, &place.site.image_id, "qcow2", &path).await.unwrap();
    let packed = std::fs::read(&path).unwrap();
    let packed = cloud.import(named("packed"), &packed).await.unwrap();
    assert_eq!(find_image(cloud, &packed).await.unwrap().format, "qcow2");
    let header = export(cloud, &packed, "raw", &path).await.unwrap();
    assert_eq!(header.file_bytes, 3 << 20);
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 3 << 20]);

    for (id, format, expected) in [
        ("m-none", "raw", "InvalidImageId.NotFound"),
        ("", "raw", "MissingParameter"),
        (&*packed, "vhd", "InvalidParameter"),
    ] {
        assert_eq!(code(&export(cloud, id, format, &path).await.unwrap_err()), expected);
    }
    // While it goes out it is not deleted; a reader who goes away ends that. It is larger than what
    // is on the way to a reader who does not read.
    let large = cloud.import(named("large"), &vec![7; 32 << 20]).await.unwrap();
    let request = ExportImageRequest { image_id: large.clone(), ..Default::default() };
    let stream = cloud.images().export_image(request).await.unwrap();
    let refused = drop_image(cloud, &large, false).await;
    if let Err(refused) = refused {
        assert_eq!(code(&refused), "ImageIsExporting");
        drop(stream);
        let deadline = Instant::now() + Duration::from_secs(20);
        while drop_image(cloud, &large, false).await.is_err() {
            assert!(Instant::now() < deadline, "an export without a reader goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    } else {
        panic!("deleted while it is exported");
    }
}

#[tokio::test]
async fn attributes_change_and_families_follow_the_newest() {
    let place = Place::new().await;
    let cloud = &place.cloud;
    let (first, second) = (place.made(1).await, place.made(2).await);
    let modify = |id: &str| ModifyImageAttributeRequest {
        image_id: id.to_owned(),
        image_family: Some("web".to_owned()),
        ..Default::default()
    };
    let change = async |request: ModifyImageAttributeRequest| {
        cloud.images().modify_image_attribute(request).await.map(drop)
    };
    let newest = async || {
        let request =
            DescribeImageFromFamilyRequest { image_family: "web".to_owned(), ..Default::default() };
        let found = cloud.images().describe_image_from_family(request).await?.into_inner();
        Ok::<_, Status>(found.image.unwrap().image_id)
    };
    assert_eq!(code(&newest().await.unwrap_err()), "InvalidImageId.NotFound");
    change(modify(&first.image_id)).await.unwrap();
    assert_eq!(newest().await.unwrap(), first.image_id);
    let named = ModifyImageAttributeRequest {
        image_name: Some("second".to_owned()),
        description: Some("the newer one".to_owned()),
        ..modify(&second.image_id)
    };
    change(named).await.unwrap();
    assert_eq!(newest().await.unwrap(), second.image_id);
    let seen = find_image(cloud, &second.image_id).await.unwrap();
    assert_eq!((seen.image_name.as_str(), seen.description.as_str()), ("second", "the newer one"));
    let out = ModifyImageAttributeRequest {
        image_family: Some(String::new()),
        ..modify(&second.image_id)
    };
    change(out).await.unwrap();
    assert_eq!(newest().await.unwrap(), first.image_id);
    let cases = [
        (
            ModifyImageAttributeRequest {
                image_name: Some("second".to_owned()),
                ..modify(&first.image_id)
            },
            "InvalidImageName.Duplicated",
        ),
        (
            ModifyImageAttributeRequest {
                image_name: Some("1st".to_owned()),
                ..modify(&first.image_id)
            },
            "InvalidImageName.Malformed",
        ),
        (
            ModifyImageAttributeRequest {
                image_name: Some(String::new()),
                ..modify(&first.image_id)
            },
            "MissingParameter",
        ),
        (
            ModifyImageAttributeRequest { dry_run: true, ..modify(&first.image_id) },
            "DryRunOperation",
        ),
        (modify("m-none"), "InvalidImageId.NotFound"),
    ];
    for (request, expected) in cases {
        assert_eq!(code(&change(request).await.unwrap_err()), expected);
    }
}
