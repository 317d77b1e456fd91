//! The leak check: what is on hosts and belongs to nobody.

use crate::{Cloud, wait};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// That no host has an object without an owner that should be there, nor any of `deleted`.
///
/// # Errors
/// When one is left after a while; all of them are in the error.
pub fn none(cloud: &Cloud, deleted: &[String]) -> Result<()> {
    wait::until("no leak on any host", Duration::from_secs(60), || {
        let objects = cloud.json(["host", "objects"])?;
        let left: Vec<_> = objects
            .as_array()
            .into_iter()
            .flatten()
            .filter(|object| {
                let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("");
                let expected = object.get("expected").and_then(Value::as_bool).unwrap_or(false);
                !expected
                    || deleted
                        .iter()
                        .any(|id| text("owner") == id || text("name").contains(id.as_str()))
            })
            .map(Value::to_string)
            .collect();
        ensure!(left.is_empty(), "left on hosts:\n{}", left.join("\n"));
        Ok(Some(()))
    })
}

/// The ids that go when an instance goes: its own, its disks' and its interfaces'.
///
/// # Errors
/// When there is no such instance.
pub fn ids_of(cloud: &Cloud, instance: &str) -> Result<Vec<String>> {
    let mut ids = vec![instance.to_owned()];
    for (resource, field) in [("disk", "disk_id"), ("eni", "network_interface_id")] {
        let list = cloud.json([resource, "list", "--instance", instance])?;
        ids.extend(
            list.as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one.get(field).and_then(Value::as_str))
                .map(str::to_owned),
        );
    }
    Ok(ids)
}
