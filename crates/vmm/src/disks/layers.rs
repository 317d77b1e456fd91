//! Layers of a disk, and the key to them, whose files came with a request.

use super::DiskError;
use crate::{control::Files, virtio::layer_format};
use api::vmm::{DiskLayer, FileRef, file_ref::Source};
use qcow2::Passphrase;

/// The layers `wanted`, upper first.
pub(super) fn open<'a>(
    disk_id: &str,
    wanted: impl IntoIterator<Item = &'a DiskLayer>,
    files: &mut Files,
) -> Result<Vec<qcow2::Layer>, DiskError> {
    let refuse = |problem: String| DiskError::Argument { disk: disk_id.to_owned(), problem };
    wanted
        .into_iter()
        .map(|layer| {
            let format = layer_format(disk_id, layer)?;
            let file = match layer.file.as_ref().and_then(|file| file.source.as_ref()) {
                Some(Source::Fd(position)) => {
                    files.take(*position).map_err(|error| refuse(error.message))?
                }
                Some(Source::Path(path)) => {
                    let problem = format!(
                        "layer {path:?}: a running machine opens no paths; send a descriptor along"
                    );
                    return Err(refuse(problem));
                }
                None => return Err(refuse("a layer names no file; send a descriptor".to_owned())),
            };
            Ok(qcow2::Layer { file, format })
        })
        .collect()
}

/// The key of encrypted layers, if one came.
pub(super) fn key(
    disk_id: &str,
    key: Option<&FileRef>,
    files: &mut Files,
) -> Result<Option<Passphrase>, DiskError> {
    let refuse = |problem: String| DiskError::Argument { disk: disk_id.to_owned(), problem };
    match key.and_then(|file| file.source.as_ref()) {
        None => Ok(None),
        Some(Source::Fd(position)) => {
            let file = files.take(*position).map_err(|error| refuse(error.message))?;
            let key = Passphrase::read(&file);
            key.map(Some).map_err(|error| refuse(format!("its key cannot be read: {error}")))
        }
        Some(Source::Path(_)) => {
            Err(refuse("a running machine opens no paths; send its key's descriptor along".into()))
        }
    }
}
