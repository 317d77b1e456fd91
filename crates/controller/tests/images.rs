//! Imports that go wrong, through the API.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;

use api::v1::*;
use cloud_process::{CloudProcess, code};
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

type Answer = Result<Response<ImportImageResponse>, Status>;

fn header(name: &str) -> ImportImageHeader {
    ImportImageHeader { image_name: name.to_owned(), ..Default::default() }
}

/// An upload that has begun and waits for more.
async fn begin(
    cloud: &CloudProcess,
    header: ImportImageHeader,
) -> (mpsc::Sender<ImportImageRequest>, JoinHandle<Answer>) {
    use import_image_request::Part;
    let (sender, receiver) = mpsc::channel(4);
    sender.send(ImportImageRequest { part: Some(Part::Header(header)) }).await.unwrap();
    sender.send(ImportImageRequest { part: Some(Part::Data(vec![1; 1 << 20])) }).await.unwrap();
    let mut images = cloud.images();
    let upload =
        tokio::spawn(async move { images.import_image(ReceiverStream::new(receiver)).await });
    (sender, upload)
}

async fn until_status(cloud: &CloudProcess, status: &str) -> Image {
    let request = DescribeImagesRequest { status: status.to_owned(), ..Default::default() };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = cloud.images().describe_images(request.clone()).await.unwrap().into_inner();
        if let Some(image) = found.images.into_iter().next() {
            return image;
        }
        assert!(Instant::now() < deadline, "no image is {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_token_names_one_import_while_it_runs_too() {
    let cloud = CloudProcess::start(&[]).await;
    let with_token =
        |name: &str| ImportImageHeader { client_token: "t".to_owned(), ..header(name) };
    let (sender, upload) = begin(&cloud, with_token("first")).await;
    let image = until_status(&cloud, "Creating").await;
    let content = vec![1; 1 << 20];
    let refused = cloud.import(with_token("first"), &content).await.unwrap_err();
    assert_eq!(code(&refused), "Idempotence.Processing");
    let refused = cloud.import(with_token("second"), &content).await.unwrap_err();
    assert_eq!(code(&refused), "IdempotentParameterMismatch");
    let delete = DeleteImageRequest { image_id: image.image_id.clone(), ..Default::default() };
    let refused = cloud.images().delete_image(delete).await.unwrap_err();
    assert_eq!(code(&refused), "ImageIsImporting");
    drop(sender);
    assert_eq!(upload.await.unwrap().unwrap().into_inner().image_id, image.image_id);
    assert_eq!(cloud.import(with_token("first"), &content).await.unwrap(), image.image_id);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let cloud = CloudProcess::start(&[]).await;
    for n in 0..10 {
        // Some go away while their import is being recorded, some later.
        // Of a known size: an upload of any may end, as its sender goes first, and be whole.
        let half = ImportImageHeader { file_bytes: 2 << 20, ..header(&format!("gone-{n}")) };
        let (sender, upload) = begin(&cloud, half).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        upload.abort();
        drop(sender);
    }
    // A record and its file may still appear when the client has gone: what counts is that
    // both are gone for good.
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(cloud.path("images")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        let creating =
            DescribeImagesRequest { status: "Creating".to_owned(), ..Default::default() };
        let left = cloud.images().describe_images(creating).await.unwrap().into_inner();
        let files = files();
        if left.total_count != 0 || !files.is_empty() {
            quiet = Instant::now();
        }
        assert!(Instant::now() < deadline, "an import without a client leaves {left:?}, {files:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cloud.import(header("gone-0"), &vec![1; 1 << 20]).await.unwrap();
}

#[tokio::test]
async fn headers_are_checked_before_anything_is_taken_in() {
    let cloud = CloudProcess::start(&[]).await;
    let cases = [
        (ImportImageHeader { file_bytes: 1 << 60, ..header("big") }, "InvalidParameter"),
        (ImportImageHeader { sha256: "00".to_owned(), ..header("sum") }, "InvalidParameter"),
        (ImportImageHeader { platform: "x".repeat(129), ..header("on") }, "InvalidParameter"),
        (
            ImportImageHeader { image_family: "x".repeat(129), ..header("of") },
            "InvalidImageFamily.Malformed",
        ),
        (
            ImportImageHeader { description: "x".repeat(257), ..header("about") },
            "InvalidDescription.Malformed",
        ),
        // No machine of a test has so much room.
        (ImportImageHeader { file_bytes: 60 << 40, ..header("full") }, "QuotaExceed.Image"),
    ];
    for (header, expected) in cases {
        let refused = cloud.import(header, &[1; 1000]).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
}

#[tokio::test]
async fn a_cut_off_qcow2_does_not_become_available() {
    let cloud = CloudProcess::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let file = std::fs::File::create_new(&path).unwrap();
    let options = qcow2::CreateOptions { virtual_size: 1 << 30, ..Default::default() };
    qcow2::create(&file, &options).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = cloud.import(header("cut"), &whole[..whole.len() / 2]).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidImageFormat");
    assert!(refused.message().contains("upload the whole"), "{refused}");
    let failed = until_status(&cloud, "CreateFailed").await;
    assert_eq!(failed.status_reason, refused.message());
    cloud.import(header("cut"), &whole).await.unwrap();
}
