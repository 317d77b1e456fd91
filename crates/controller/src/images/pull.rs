//! A snapshot's content comes in from the host that has it.

use super::{
    builds::Trouble,
    files::Incoming,
    format::{FormatError, MOST, inspect},
};
use crate::{
    cloud::Cloud,
    hosts::{agent_error, ask},
};
use api::host::{FileEnd, FilePiece, ReadSnapshotRequest, read_snapshot_part::Part};
use std::{io, time::Duration};
use store::{HostRecord, ImageRecord, Refusal};

const GIB: u64 = 1 << 30;
/// A host that sends nothing for so long is given up. It may read many zeroes between two pieces.
const SILENCE: Duration = Duration::from_secs(600);
/// Answers of a host that it would give again.
const LASTING: [&str; 4] =
    ["SnapshotDamaged", "SnapshotMissing", "LayerMissing", "InvalidParameter"];

/// Takes the content of the image's snapshot in and checks it. What is half here is removed.
pub(super) async fn pull(
    cloud: &Cloud,
    image: &ImageRecord,
    host: &HostRecord,
) -> Result<ImageRecord, Trouble> {
    let (image_id, host_id) = (&image.image_id, host.host_id.as_str());
    let refused = |refusal: Refusal| {
        if LASTING.contains(&refusal.code.as_ref()) {
            Trouble::Lasting(refusal.message)
        } else {
            Trouble::Passing(refusal.message)
        }
    };
    let no_file = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => {
            Trouble::Lasting(format!("no room for it: {error}; delete images you do not need"))
        }
        _ => Trouble::Passing(format!("it cannot be written: {error}")),
    };
    let mut client = cloud.access.client(host).map_err(refused)?;
    let request = ReadSnapshotRequest { snapshot_id: image.source_snapshot_id.clone() };
    let mut stream = ask(host_id, client.read_snapshot(request)).await.map_err(refused)?;
    let mut file = cloud.images.create(image_id, 0).await.map_err(no_file)?;
    cloud.builds.progress(image_id, 0);
    let end = loop {
        let part = tokio::time::timeout(SILENCE, stream.message())
            .await
            .map_err(|_| Trouble::Passing(format!("host {host_id} sent nothing for minutes")))?
            .map_err(|status| refused(agent_error(host_id, &status)))?;
        match part.map(|part| part.part) {
            Some(Some(Part::Piece(piece))) => {
                let FilePiece { offset, data, percent } = piece;
                if offset.checked_add(data.len() as u64).is_none_or(|end| end > MOST) {
                    let reason = format!("host {host_id} sent more than an image can have");
                    return Err(Trouble::Lasting(reason));
                }
                file.write_at(offset, &data).await.map_err(no_file)?;
                cloud.builds.progress(image_id, percent);
            }
            Some(Some(Part::End(end))) => break end,
            Some(None) | None => {
                return Err(Trouble::Passing(format!("host {host_id} broke off")));
            }
        }
    };
    check(&mut file, &end, host_id, no_file).await?;
    let looked_at = inspect(file.path().to_owned(), "qcow2".to_owned()).await;
    let format = looked_at.map_err(|error| match error {
        FormatError::Read(error) => Trouble::Passing(format!("it cannot be read: {error}")),
        error => Trouble::Lasting(format!("what host {host_id} sent is no image: {error}")),
    })?;
    if format.encrypted != image.data_key.is_some() {
        let is = if format.encrypted { "" } else { " not" };
        let reason = format!("what host {host_id} sent is{is} encrypted, unlike the image");
        return Err(Trouble::Lasting(reason));
    }
    let sha256 = file.sha256().await.map_err(no_file)?;
    let file_bytes = file.length();
    file.complete().await.map_err(no_file)?;
    let least = image.disks.first().map_or(0, |disk| disk.size_gib.saturating_mul(GIB));
    Ok(ImageRecord {
        status: "Available".to_owned(),
        status_reason: String::new(),
        format: format.name.to_owned(),
        file_bytes,
        virtual_bytes: format.virtual_bytes.max(least),
        sha256,
        ..image.clone()
    })
}

/// That all of it has come.
async fn check(
    file: &mut Incoming,
    end: &FileEnd,
    host_id: &str,
    no_file: impl Fn(io::Error) -> Trouble,
) -> Result<(), Trouble> {
    let came = file.sync().await.map_err(no_file)?;
    if came == end.sha256 && file.length() == end.file_bytes {
        return Ok(());
    }
    Err(Trouble::Passing(format!(
        "{} bytes with the SHA-256 {came} came, host {host_id} sent {} with {}",
        file.length(),
        end.file_bytes,
        end.sha256
    )))
}
