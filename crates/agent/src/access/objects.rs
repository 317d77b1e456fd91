//! Everything of ours on this host, each with its owner. What has none has leaked.

use crate::{
    error::{Error, Result},
    host::Host,
    instances::processes::{Role, processes},
    layout::names_in,
};
use api::host::HostObject;
use std::{collections::HashSet, path::Path};

/// Lists processes, taps, namespaces, tables, cgroups and files.
pub async fn list(host: &Host) -> Result<Vec<HostObject>> {
    let owners = living(host);
    let mut objects = Vec::new();
    let mut add = |kind: &str, name: String, owner: &str| {
        let owner = if owners.contains(owner) { owner.to_owned() } else { String::new() };
        objects.push(HostObject { kind: kind.into(), name, owner });
    };
    for (id, found) in processes(&host.layout, Path::new("/proc"))? {
        for process in found {
            let what = match process.role {
                Role::Vmm => "ecs-vmm",
                Role::Keeper => "ecs-agent keep-vmm",
                Role::BootFinder => "ecs-bootimage",
            };
            add("process", format!("{} {what} {id}", process.pid), &id);
        }
    }
    let networks = host.networks.host().list().await;
    for object in networks.map_err(|e| Error::Configuration(e.to_string()))? {
        add(object.kind.as_str(), object.name.clone(), &object.owner);
    }
    for id in host.cgroups.list()? {
        add("cgroup", host.cgroups.path(&id).display().to_string(), &id);
    }
    for (path, id) in host.images.files()?.into_iter().chain(host.disks.files()?) {
        // A layer outlives its snapshot for the disks that are read through it.
        let owner = if owners.contains(&id) { None } else { host.disks.user_of(&id) };
        add("file", path.display().to_string(), &owner.unwrap_or(id));
    }
    for dir in [host.layout.instances(), host.layout.vmm()] {
        for id in names_in(&dir)? {
            add("file", dir.join(&id).display().to_string(), &id);
        }
    }
    Ok(objects)
}

/// Ids that may have something here: what the spec names, and what is still being removed.
fn living(host: &Host) -> HashSet<String> {
    let mut ids: HashSet<String> =
        host.board.all().into_iter().map(|status| status.instance_id).collect();
    ids.extend(host.disks.report(None).into_iter().map(|status| status.disk_id));
    if let Some(spec) = host.current_spec() {
        ids.extend(spec.instances.iter().map(|i| i.instance_id.clone()));
        ids.extend(spec.instances.iter().flat_map(|i| &i.enis).map(|e| e.eni_id.clone()));
        ids.extend(spec.snapshots.iter().map(|s| s.snapshot_id.clone()));
        ids.extend(spec.disks.iter().map(|d| d.disk_id.clone()));
        ids.extend(spec.removals.iter().map(|r| r.resource_id.clone()));
        ids.extend(spec.images.iter().map(|i| i.image_id.clone()));
        ids.extend(spec.vpcs.iter().map(|v| v.vpc_id.clone()));
    }
    ids.remove("");
    ids
}
