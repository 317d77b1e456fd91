//! A snapshot's content on its way to the controller, for an image made of it.

use crate::{
    disks::{OpenLayer, open_image},
    error::{Error, Result},
    host::Host,
    layout::is_safe_id,
};
use api::{
    host::{FileEnd, FilePiece, ReadSnapshotPart, read_snapshot_part::Part},
    vmm::DiskFormat,
};
use sha2::{Digest as _, Sha256};
use std::{ops::ControlFlow, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Code, Status};

/// Snapshots read at once: guests use the same medium.
pub(super) const AT_ONCE: usize = 2;

type Output = mpsc::Sender<Result<ReadSnapshotPart, Status>>;

/// A snapshot's content, and the key that it is sent encrypted with.
pub(super) type Content = (Arc<qcow2::Image>, Option<qcow2::Passphrase>);

/// Opens the files of a snapshot.
pub(super) fn open(host: &Host, id: &str) -> Result<Content, Status> {
    let chain = match is_safe_id(id) {
        true => host.disks.open_snapshot(id).map_err(|e| to_status(&e))?,
        false => {
            let message = format!("{id:?} is not the id of a snapshot");
            return Err(super::error(Code::InvalidArgument, "InvalidParameter", message));
        }
    };
    let layers = chain.layers.into_iter().map(|OpenLayer { file, format }| {
        let format = match format {
            DiskFormat::Raw => qcow2::Format::Raw,
            _ => qcow2::Format::Qcow2,
        };
        qcow2::Layer { file, format }
    });
    let options = qcow2::OpenOptions { read_only: true };
    let image = open_image(layers.collect(), options, chain.key.as_ref());
    Ok((image.map_err(|e| to_status(&damage(id, &e)))?, chain.key))
}

/// Sends it until all of it is sent or nobody listens. Blocks. What is encrypted stays so on its way.
pub(super) fn send(
    id: &str,
    (image, key): &Content,
    output: &Output,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    let mut digest = Sha256::new();
    let send = |piece: qcow2::Piece<'_>| {
        digest.update(piece.data);
        let percent = u128::from(piece.done) * 100 / u128::from(piece.total.max(1));
        let piece = FilePiece {
            offset: piece.offset,
            data: piece.data.to_vec(),
            percent: u32::try_from(percent).unwrap_or(100),
        };
        let part = ReadSnapshotPart { part: Some(Part::Piece(piece)) };
        match output.blocking_send(Ok(part)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let flattened = match key {
        Some(key) => qcow2::flatten_encrypted(image, key, send),
        None => qcow2::flatten(image, qcow2::Format::Qcow2, send),
    };
    let last = match flattened {
        Ok(None) => return,
        Ok(Some(file_bytes)) => {
            let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(ReadSnapshotPart { part: Some(Part::End(FileEnd { file_bytes, sha256 })) })
        }
        Err(e) => {
            let e = damage(id, &e);
            tracing::warn!(snapshot_id = id, "{e}");
            Err(to_status(&e))
        }
    };
    // Nobody is left to hear it then.
    let _ = output.blocking_send(last);
}

/// What is wrong with the files, or with the host.
fn damage(id: &str, error: &qcow2::Error) -> Error {
    let code = if error.is_of_the_host() { "HostError" } else { "SnapshotDamaged" };
    Error::resource(id, code, format!("its content cannot be read: {error}"))
}

fn to_status(error: &Error) -> Status {
    let code = if error.is_permanent() { Code::FailedPrecondition } else { Code::Unavailable };
    super::error(code, error.code(), error.to_string())
}
