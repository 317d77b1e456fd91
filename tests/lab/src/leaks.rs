//! The leak check: what is on hosts and belongs to nobody. Asked twice: of the agents, who know what
//! each thing is for, and of the hosts themselves, which know nothing of agents.

use crate::{Cloud, wait};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// That no host has an object without an owner that should be there, nor any of `deleted`.
///
/// # Errors
/// When one is left after a while; all of them are in the error.
pub fn none(cloud: &Cloud, deleted: &[String]) -> Result<()> {
    wait::until("no leak on any host", Duration::from_secs(90), || {
        let mut left = said_by_agents(cloud, deleted)?;
        left.extend(found_on_hosts(cloud, deleted)?);
        ensure!(left.is_empty(), "left on hosts:\n{}", left.join("\n"));
        Ok(Some(()))
    })
}

fn said_by_agents(cloud: &Cloud, deleted: &[String]) -> Result<Vec<String>> {
    let objects = cloud.json(["host", "objects"])?;
    Ok(objects
        .as_array()
        .context("no list of objects")?
        .iter()
        .filter(|object| {
            let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("");
            let expected = object.get("expected").and_then(Value::as_bool).unwrap_or(false);
            !expected
                || deleted
                    .iter()
                    .any(|id| text("owner") == id || text("name").contains(id.as_str()))
        })
        .map(Value::to_string)
        .collect())
}

/// What the host's own tools list, one thing a line, as `KIND NAME`. The brackets keep pgrep from
/// finding the shell it is in.
fn listing(cloud: &Cloud) -> Result<String> {
    let [state, run, netns, cgroup] =
        ["state", "run", "netns", "cgroup"].map(|what| cloud.path(what));
    let (state, run, netns, cgroup) = (state?, run?, netns?, cgroup?);
    // `ip` knows that folder only; one of another name is this lab's alone.
    let names = if netns == "/run/netns" { "ip netns list" } else { "true" };
    Ok(format!(
        "{{ {names} | cut -d ' ' -f 1; ls {netns}; }} 2>/dev/null | grep '^ecs-' | sort -u | sed 's/^/netns /'
         for ns in {netns}/ecs-*; do
             [ -e $ns ] || continue
             nsenter --net=$ns ip -o link show type tun | sed 's/^[0-9]*: /tap /; s/[:@].*//'
             nsenter --net=$ns nft list tables | sed 's/^table /table /'
         done
         ip -o link show type vxlan | sed 's/^[0-9]*: /stray-vxlan /; s/[:@].*//' | grep -v lab-keep
         ip -o link show type veth | grep -o ' ecse[^:@]*' | sed 's/^ /edge /'
         ip -o link show type tun | grep -E ' tap[0-9a-f]{{12}}[:@]' | sed 's/^[0-9]*: /stray-tap /; s/[:@].*//'
         nft list tables | grep -w ecs | sed 's/^table /stray-table /'
         pgrep -af '[e]cs-(vmm run|agent keep-vmm) ' | sed -n 's|.* --config {run}/vmm/\\([^/]*\\)/.*|process \\1|p'
         for folder in {state}/disks {state}/layers {state}/images {state}/instances {run}/vmm; do
             ls $folder | sed \"s|^|${{folder##*/}} |\"
         done
         find {cgroup} -mindepth 1 -maxdepth 1 -type d | sed 's|.*/|cgroup |'
         true"
    ))
}

fn found_on_hosts(cloud: &Cloud, deleted: &[String]) -> Result<Vec<String>> {
    let ids = |arguments: &[&str]| -> Result<BTreeSet<String>> {
        let text = cloud.run(["-o", "name"].iter().chain(arguments))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let (instances, disks) = (ids(&["instance", "list"])?, ids(&["disk", "list"])?);
    let (images, enis) = (ids(&["image", "list"])?, ids(&["eni", "list"])?);
    let vpcs = ids(&["vpc", "list"])?;
    let snapshots = ids(&["snapshot", "list"])?;
    let command = listing(cloud)?;
    let mut left = Vec::new();
    for host in cloud.hosts()? {
        let text = cloud.on_host(&host, &command)?;
        let things: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once(' ')).collect();
        for (kind, name) in &things {
            let id = name.trim_end_matches(".part").trim_end_matches(".qcow2");
            let known = match *kind {
                "disks" => disks.contains(id),
                "layers" => snapshots.contains(id),
                "images" => images.contains(id),
                "instances" | "vmm" | "process" | "cgroup" => instances.contains(id),
                // Their names come from numbers and hashes, so that they are counted below.
                "netns" | "tap" | "edge" => true,
                // A host's own, while a VPC reaches beyond it.
                "stray-table" => *name == "inet ecs" && !vpcs.is_empty(),
                "table" => ["inet ecs", "arp ecs"].contains(name),
                _ => false,
            };
            if !known || deleted.iter().any(|gone| gone == id) {
                left.push(format!("{host}: {kind} {name}"));
            }
        }
        let count = |wanted: &str| things.iter().filter(|(kind, _)| *kind == wanted).count();
        for (kind, most) in [
            ("netns", vpcs.len()),
            ("edge", vpcs.len()),
            ("tap", enis.len()),
            ("table", 2 * vpcs.len()),
        ] {
            if count(kind) > most {
                left.push(format!("{host}: {} of {kind}, of at most {most}", count(kind)));
            }
        }
    }
    Ok(left)
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
