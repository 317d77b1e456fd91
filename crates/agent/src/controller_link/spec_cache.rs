//! The latest spec on disk, so that a host that starts without its controller knows what to run.

use crate::{
    durable_file,
    error::{Error, Result},
    layout::{Layout, is_safe_id},
};
use api::host::HostSpec;
use prost::Message as _;
use std::{fs, io};

/// The spec kept from before; `None` on a host that never had one.
///
/// # Errors
/// When it cannot be read.
pub fn load(layout: &Layout) -> Result<Option<HostSpec>> {
    let path = layout.spec();
    match fs::read(&path) {
        Ok(bytes) => HostSpec::decode(bytes.as_slice())
            .map(Some)
            .map_err(|e| Error::Damaged { path, detail: e.to_string() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::File { action: "read", path, source: e }),
    }
}

/// Keeps a spec.
///
/// # Errors
/// When it cannot be written; the one before is then still there.
pub fn save(layout: &Layout, spec: &HostSpec) -> Result<()> {
    durable_file::write(&layout.spec(), &spec.encode_to_vec())
}

/// Whether `new` may replace `old`.
///
/// # Errors
/// When it is of another host, has an id that cannot be a file name, or is older. An older spec
/// comes from a controller that lost its store: following it would remove what it forgot.
pub fn accept(host_id: &str, old: Option<&HostSpec>, new: &HostSpec) -> Result<()> {
    if !new.host_id.is_empty() && new.host_id != host_id {
        let message = format!("the spec is for host {}, this is {host_id}", new.host_id);
        return Err(Error::resource(host_id, "InvalidHostSpec", message));
    }
    if let Some(old) = old.filter(|old| old.revision > new.revision) {
        let message = format!(
            "the controller sends spec revision {}, this host already has {}: its store is older \
             than this host. Restore the controller's store; or, to accept that all instances \
             and disks the controller does not know are removed, stop ecs-agent, remove spec.pb \
             from its --state-dir and start it again",
            new.revision, old.revision
        );
        return Err(Error::resource(host_id, "InvalidHostSpec.Older", message));
    }
    let instances = new.instances.iter().map(|i| i.instance_id.as_str());
    let disks = new.disks.iter().map(|d| d.disk_id.as_str());
    let images = new.images.iter().map(|i| i.image_id.as_str());
    let backings = new.disks.iter().map(|d| d.image_id.as_str()).filter(|id| !id.is_empty());
    match instances.chain(disks).chain(images).chain(backings).find(|id| !is_safe_id(id)) {
        Some(id) => Err(Error::resource(
            host_id,
            "InvalidHostSpec",
            format!("the spec holds the id {id:?}, which cannot be a file name"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::host::DiskSpec;

    #[test]
    fn an_older_spec_or_one_with_paths_as_ids_is_refused() {
        let at = |revision| HostSpec { revision, host_id: "h".into(), ..HostSpec::default() };
        assert!(accept("h", None, &at(0)).is_ok());
        assert!(accept("h", Some(&at(7)), &at(7)).is_ok());
        let older = accept("h", Some(&at(7)), &at(6)).unwrap_err();
        assert_eq!(older.code(), "InvalidHostSpec.Older");
        assert!(older.to_string().contains("stop ecs-agent"), "{older}");
        assert!(accept("other", None, &at(1)).is_err());
        let disks = vec![DiskSpec { disk_id: "../../etc/x".into(), ..DiskSpec::default() }];
        assert!(accept("h", None, &HostSpec { disks, ..at(1) }).is_err());
    }

    #[test]
    fn a_spec_comes_back_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        assert!(load(&layout).unwrap().is_none());
        let spec = HostSpec { revision: 3, ..HostSpec::default() };
        save(&layout, &spec).unwrap();
        assert_eq!(load(&layout).unwrap(), Some(spec));
        fs::write(layout.spec(), [0xff]).unwrap();
        assert!(matches!(load(&layout), Err(Error::Damaged { .. })));
    }
}
