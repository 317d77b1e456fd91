//! Deleted snapshots leave layers behind that other layers lie on. Where exactly one frozen layer
//! does, the two become one, in the background: what the upper lacks is copied up. Readers of either
//! see no change, and a copy that was cut off goes on where it stopped.
//!
//! A layer on which only a disk's top lies stays until the next snapshot freezes that top: tops are
//! their VMMs' alone to write.

use super::{Disks, layering::Below, sources::qcow2_format, tops::open_below};
use crate::{
    error::{Error, FileContext as _, Result},
    host::Host,
    layout::remove_file,
};
use api::{host::HostSpec, vmm::DiskFormat};
use std::{fs::OpenOptions, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

const EVERY: Duration = Duration::from_secs(5);

/// Merges layers until the agent ends.
pub async fn run(host: Arc<Host>) {
    let mut said = String::new();
    loop {
        let more = match host.current_spec() {
            Some(spec) => {
                let host = Arc::clone(&host);
                let work = move || host.disks.merge_next(&spec, || host.current_spec());
                tokio::task::spawn_blocking(work).await.unwrap_or(Ok(false))
            }
            None => Ok(false),
        };
        match more {
            Ok(true) => continue,
            Ok(false) => said.clear(),
            Err(e) => {
                let message = e.to_string();
                if message != said {
                    tracing::warn!("{message}; trying again");
                    said = message;
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Disks {
    /// Merges one pair of layers, if there is one. `spec_now` is asked now and then whether the upper
    /// one is still wanted.
    ///
    /// # Errors
    /// When the copy or the account of it fails; what was copied stays and counts next time.
    pub fn merge_next(
        &self,
        spec: &HostSpec,
        spec_now: impl Fn() -> Option<Arc<HostSpec>>,
    ) -> Result<bool> {
        let layering = self.layering();
        let kept = self.kept_layers(spec, &layering);
        let keep = |id: &str| kept.contains(id);
        let Some((lower, upper)) = layering.mergeable(keep) else { return Ok(false) };
        let path = self.layout.layer(&upper);
        let file = OpenOptions::new().read(true).write(true).open(&path).at("open", &path)?;
        let below = self.open_chain(&layering, &upper, &Below::Layer(lower.clone()))?;
        let key = self.key_of_layer(&layering, &upper)?;
        drop(layering);

        let layer = |file, format| qcow2::Layer { file, format };
        let below = below.into_iter().map(|l| layer(l.file, qcow2_format(l.format))).collect();
        let go_on = |_| match spec_now() {
            _ if !self.may_go_on() => ControlFlow::Break(()),
            Some(now) if now.revision != spec.revision && !self.is_there(&upper) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        };
        let upper_layer = layer(file, qcow2_format(DiskFormat::Qcow2));
        let options = qcow2::PullOptions::default();
        let pulled = match &key {
            Some(key) => qcow2::pull_encrypted(upper_layer, below, options, key, go_on),
            None => qcow2::pull(upper_layer, below, options, go_on),
        };
        let failed = |e: qcow2::Error| {
            let message = format!("deleted snapshot {lower} cannot be merged into {upper}: {e}");
            Error::resource(&upper, "SnapshotMergeFailed", message)
        };
        if !pulled.map_err(failed)?.complete {
            return Ok(false);
        }
        self.finish_merge(&lower, &upper)
    }

    fn finish_merge(&self, lower: &str, upper: &str) -> Result<bool> {
        if !self.may_go_on() {
            return Ok(false);
        }
        let mut layering = self.layering();
        let on_lower = Below::Layer(lower.to_owned());
        if layering.layers.get(upper).is_none_or(|entry| entry.below != on_lower) {
            // The upper one went meanwhile.
            return Ok(false);
        }
        if layering.has_pending_through(upper) {
            // The chain its VMM is being given must be the one the account knows.
            return Err(Error::resource(upper, "DiskBusy", "a snapshot on it is being taken"));
        }
        let held = held_by(&self.layout.layer(upper), upper)?;
        layering.change(&self.layout, |account| account.note_merged(lower, upper, held))?;
        tracing::info!(lower, upper, "a deleted snapshot's layer was merged into the next");
        remove_file(&self.layout.layer(lower))?;
        Ok(true)
    }

    fn is_there(&self, layer: &str) -> bool {
        self.layering().layers.contains_key(layer)
    }
}

/// Bytes of the guest's that a layer itself holds.
pub(super) fn held_by(path: &Path, snapshot_id: &str) -> Result<u64> {
    qcow2::changed_bytes(&open_below(path)?).map_err(|e| unreadable(snapshot_id, path, &e))
}

/// A layer cannot be read. What the host fails may go well the next time.
pub(super) fn unreadable(resource: &str, path: &Path, error: &qcow2::Error) -> Error {
    let code = if error.is_of_the_host() { "SnapshotReadFailed" } else { "SnapshotDamaged" };
    Error::resource(resource, code, format!("{}: {error}", path.display()))
}
