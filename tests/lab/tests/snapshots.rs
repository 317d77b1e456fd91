//! Snapshots of a disk that a guest writes to, disks made from them, and disks set back to them.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

/// Has the guest write a number to the start of a disk, flushed.
fn write(cloud: &Cloud, id: &str, number: u32) -> Result<()> {
    let command = format!(
        "echo {number} | dd of=/dev/vdb bs=4k conv=sync,fsync 2>/dev/null; echo \"wrote $? {number}\""
    );
    wait::in_guest(cloud, id, &command, &format!("wrote 0 {number}"))
}

/// Has the guest say the number at the start of a disk.
fn reads(cloud: &Cloud, id: &str, device: &str, number: u32, at: &str) -> Result<()> {
    let command = format!(
        "echo \"{at} reads $(dd if=/dev/{device} bs=4k count=1 2>/dev/null | head -n 1).\""
    );
    wait::in_guest(cloud, id, &command, &format!("{at} reads {number}."))
}

fn layers(cloud: &Cloud) -> Result<Vec<String>> {
    let list = cloud.on_host("lab-1", &format!("ls {}/layers", cloud.path("state")?))?;
    Ok(list.lines().map(|name| name.trim_end_matches(".qcow2").to_owned()).collect())
}

#[test]
fn snapshots_are_taken_under_load_and_disks_made_from_and_set_back_to_them() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "snapshots")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&image, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    wait::for_console(&cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    let wait = ["--wait", "--timeout", "120"];
    let data =
        cloud.id(["disk", "create", "--instance", &id, "--size", "20"].iter().chain(&wait))?;
    let take = || cloud.id(["snapshot", "create", &data].iter().chain(&wait));

    // Writes and flushes that never stop.
    let load = "(while :; do dd if=/dev/urandom of=/dev/vdb bs=64k seek=$((RANDOM % 500 + 1)) \
                conv=fsync count=1 2>/dev/null; done) & echo \"load is $((1 + 1))\"";
    wait::in_guest(&cloud, &id, load, "load is 2")?;
    write(&cloud, &id, 1)?;
    let first = take()?;
    write(&cloud, &id, 2)?;
    // The agent may die under it.
    cloud.crash(&["agent"])?;
    let second = take()?;
    write(&cloud, &id, 3)?;
    let told = cloud.json(["snapshot", "list", &second])?;
    let size = told.pointer("/0/size_in_bytes").and_then(Value::as_u64);
    ensure!(size.is_some_and(|size| size > 0 && size < 200 << 20), "only what changed: {told}");

    // A disk from the first, beside the one it was taken of.
    let clone = ["disk", "create", "--instance", &id, "--snapshot", &first];
    let clone = cloud.id(clone.iter().chain(&wait))?;
    reads(&cloud, &id, "vdc", 1, "clone")?;
    reads(&cloud, &id, "vdb", 3, "disk")?;
    cloud.refused(["snapshot", "delete", &first])?.says(&["SnapshotCreatedDisk"])?;
    cloud.run(["disk", "detach", &clone].iter().chain(&wait))?;
    cloud.run(["disk", "delete", &clone].iter().chain(&wait))?;

    // The first goes; what the second needs of it is merged into that, under the running guest.
    cloud.run(["snapshot", "delete", &first].iter().chain(&wait))?;
    wait::until("the first snapshot's layer to be merged", SOON, || {
        let layers = layers(&cloud)?;
        Ok((layers.contains(&second) && !layers.contains(&first)).then_some(()))
    })?;
    reads(&cloud, &id, "vdb", 3, "merged")?;

    cloud.refused(["disk", "reset", &data, &second])?.says(&["IncorrectInstanceStatus"])?;
    cloud.run(["instance", "stop", &id].iter().chain(&wait))?;
    cloud.run(["disk", "reset", &data, &second].iter().chain(&wait))?;
    cloud.run(["instance", "start", &id].iter().chain(&wait))?;
    wait::for_console(&cloud, &id, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    reads(&cloud, &id, "vdb", 2, "set back")?;

    cloud.run(["instance", "delete", &id, "--force"].iter().chain(&wait))?;
    cloud.run(["disk", "delete", &data].iter().chain(&wait))?;
    cloud.run(["snapshot", "delete", &second].iter().chain(&wait))?;
    wait::until("no layer", SOON, || {
        let left = layers(&cloud).context("list the layers")?;
        Ok((!left.contains(&second)).then_some(()))
    })?;
    network.delete()?;
    leaks::none(&cloud, &[id, data, clone, first, second])
}
