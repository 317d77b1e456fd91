//! Images that are made here, calls about them, and waits for what they bring about.

#![allow(dead_code)]

use crate::{
    cloud_process::{CloudProcess, Site},
    disk_calls::{list, run, until_hosts},
    fake_access::{self, Content, Contents, Objects},
    fake_agent::{FakeAgent, registration},
};
use api::{
    host::{FileEnd, FilePiece, ReadSnapshotPart, read_snapshot_part},
    v1::*,
};
use qcow2::{CreateOptions, Format, Image as Disk, Layer, OpenOptions};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};
use tonic::Status;

pub fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn end(file_bytes: u64, sha256: String) -> Result<ReadSnapshotPart, Status> {
    let end = FileEnd { file_bytes, sha256 };
    Ok(ReadSnapshotPart { part: Some(read_snapshot_part::Part::End(end)) })
}

/// What a host sends of a disk of 1 GiB that has `byte` in some places.
pub fn content(byte: u8) -> Content {
    let file = tempfile::tempfile().unwrap();
    qcow2::create(&file, &CreateOptions { virtual_size: 1 << 30, ..Default::default() }).unwrap();
    let layer = Layer { file, format: Format::Qcow2 };
    let disk = Disk::open(vec![layer], OpenOptions::default()).unwrap();
    for at in 0..20 {
        disk.write_at(&[byte; 100_000], at * (40 << 20)).unwrap();
    }
    let (mut parts, mut digest) = (Vec::new(), Sha256::new());
    let length = qcow2::flatten(&disk, Format::Qcow2, |piece| {
        digest.update(piece.data);
        let (offset, data) = (piece.offset, piece.data.to_vec());
        let percent = u32::try_from(piece.done * 100 / piece.total).unwrap();
        let piece = FilePiece { offset, data, percent };
        let part = Some(read_snapshot_part::Part::Piece(piece));
        parts.push(Ok(ReadSnapshotPart { part }));
        ControlFlow::Continue(())
    });
    parts.push(end(length.unwrap().unwrap(), hex(digest.finalize())));
    Content { parts, ..Default::default() }
}

pub fn slow(byte: u8) -> Content {
    Content { pause: Duration::from_millis(100), ..content(byte) }
}

/// The first byte of a disk.
pub fn first_byte(file: File) -> u8 {
    let layer = Layer { file, format: Format::Qcow2 };
    let disk = Disk::open(vec![layer], OpenOptions { read_only: true }).unwrap();
    let mut byte = [0];
    disk.read_at(&mut byte, 40 << 20).unwrap();
    byte[0]
}

/// A cloud with a running instance, and the snapshots its host can send.
pub struct Place {
    pub cloud: CloudProcess,
    pub site: Site,
    pub agent: FakeAgent,
    pub contents: Contents,
    pub instance_id: String,
    pub system: String,
}

impl Place {
    pub async fn new() -> Self {
        let cloud = CloudProcess::start(&["--cpu-overcommit", "10"]).await;
        let site = cloud.site().await;
        let contents = Contents::default();
        let agent = host(&cloud, "host-1", contents.clone()).await;
        until_hosts(&cloud, 1).await;
        let instance_id = run(&cloud, site.run(1)).await;
        let request =
            DescribeDisksRequest { instance_id: instance_id.clone(), ..Default::default() };
        let system = list(&cloud, request).await[0].disk_id.clone();
        Self { cloud, site, agent, contents, instance_id, system }
    }

    pub async fn snapshot(&self, disk_id: &str) -> String {
        let request = CreateSnapshotRequest { disk_id: disk_id.to_owned(), ..Default::default() };
        let made = self.cloud.snapshots().create_snapshot(request).await.unwrap().into_inner();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let request = DescribeSnapshotsRequest {
                snapshot_ids: vec![made.snapshot_id.clone()],
                status: "accomplished".to_owned(),
                ..Default::default()
            };
            let found = self.cloud.snapshots().describe_snapshots(request).await.unwrap();
            if found.into_inner().total_count == 1 {
                return made.snapshot_id;
            }
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn has(&self, snapshot_id: &str, content: Content) {
        self.contents.lock().unwrap().insert(snapshot_id.to_owned(), content);
    }

    pub async fn create(&self, request: CreateImageRequest) -> Result<String, Status> {
        let made = self.cloud.images().create_image(request).await?;
        Ok(made.into_inner().image_id)
    }

    /// An Available image of a new snapshot.
    pub async fn made(&self, byte: u8) -> Image {
        let snapshot_id = self.snapshot(&self.system).await;
        self.has(&snapshot_id, content(byte));
        let id = self.create(of(&snapshot_id)).await.unwrap();
        until_image(&self.cloud, &id, "Available").await
    }

    /// The names of the files of images other than the site's.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cloud.path("images")).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| *name != self.site.image_id).collect()
    }
}

pub async fn host(cloud: &CloudProcess, id: &str, contents: Contents) -> FakeAgent {
    let mut host = registration(id, 16, 64 << 10);
    let token = cloud.join_token();
    host.access_endpoint = fake_access::serve_with(&token, Objects::default(), contents).await;
    FakeAgent::start_as(cloud, host)
}

pub fn of(snapshot_id: &str) -> CreateImageRequest {
    CreateImageRequest { snapshot_id: snapshot_id.to_owned(), ..Default::default() }
}

pub async fn images(cloud: &CloudProcess, request: DescribeImagesRequest) -> Vec<Image> {
    cloud.images().describe_images(request).await.unwrap().into_inner().images
}

pub async fn find_image(cloud: &CloudProcess, id: &str) -> Option<Image> {
    let request = DescribeImagesRequest {
        image_id: vec![id.to_owned()],
        status: "Available,Creating,CreateFailed".to_owned(),
        ..Default::default()
    };
    images(cloud, request).await.into_iter().next()
}

pub async fn until_so(cloud: &CloudProcess, id: &str, so: impl Fn(&Image) -> bool) -> Image {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = find_image(cloud, id).await;
        match found {
            Some(image) if so(&image) => return image,
            other => assert!(Instant::now() < deadline, "{other:?} is not as expected"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_image(cloud: &CloudProcess, id: &str, status: &str) -> Image {
    until_so(cloud, id, |image| image.status == status).await
}

pub async fn drop_image(cloud: &CloudProcess, id: &str, force: bool) -> Result<(), Status> {
    let request = DeleteImageRequest { image_id: id.to_owned(), force, ..Default::default() };
    cloud.images().delete_image(request).await.map(drop)
}

pub async fn forget(cloud: &CloudProcess, id: &str, force: bool) -> Result<(), Status> {
    let request = DeleteSnapshotRequest { snapshot_id: id.to_owned(), force };
    cloud.snapshots().delete_snapshot(request).await.map(drop)
}

/// Takes an export in, as a client does.
pub async fn export(
    cloud: &CloudProcess,
    id: &str,
    format: &str,
    path: &Path,
) -> Result<ExportImageHeader, Status> {
    use export_image_response::Part;
    let request = ExportImageRequest {
        image_id: id.to_owned(),
        image_format: format.to_owned(),
        ..Default::default()
    };
    let mut parts = cloud.images().export_image(request).await?.into_inner();
    let file = File::options().create(true).truncate(true).write(true).read(true).open(path);
    let (file, mut header, mut digest) = (file.unwrap(), None, Sha256::new());
    while let Some(part) = parts.message().await? {
        match part.part.unwrap() {
            Part::Header(first) => header = Some(first),
            Part::Piece(piece) => {
                digest.update(&piece.data);
                file.write_all_at(&piece.data, piece.offset).unwrap();
            }
            Part::End(end) => {
                assert_eq!(end.sha256, hex(digest.finalize()));
                file.set_len(end.file_bytes).unwrap();
                return Ok(header.unwrap());
            }
        }
    }
    panic!("the export has no end")
}
