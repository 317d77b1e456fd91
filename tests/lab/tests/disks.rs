//! Disks as resources of their own: they come to running guests, grow under them, move and stay.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;
use std::time::Duration;

const SECTORS_OF_GIB: u64 = 2 << 20;
const SOON: Duration = Duration::from_secs(60);

fn disk(cloud: &Cloud, id: &str) -> Result<Value> {
    let list = cloud.json(["disk", "list", id])?;
    list.pointer("/0").cloned().with_context(|| format!("there is no disk {id}"))
}

fn status(cloud: &Cloud, id: &str) -> Result<String> {
    Ok(disk(cloud, id)?["status"].as_str().unwrap_or_default().to_owned())
}

fn booted(cloud: &Cloud, network: &Network, image: &str, kind: &str) -> Result<String> {
    let mut order = network.run(image, kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    Ok(id)
}

#[test]
fn a_disk_comes_to_a_running_guest_grows_under_it_and_moves_with_its_data() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "disks")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let first = booted(&cloud, &network, &image, &kind)?;
    let wait = ["--wait", "--timeout", "120"];

    let create = ["disk", "create", "--zone", "cn-lab-1a", "--size", "20", "--name", "data-1"];
    let data = cloud.id(create.iter().chain(&wait))?;
    ensure!(status(&cloud, &data)? == "Available");
    cloud.run(["disk", "attach", &data, &first].iter().chain(&wait))?;
    ensure!(status(&cloud, &data)? == "In_use");
    let serial = data.trim_start_matches("d-");
    let look = "echo \"disk $(cat /sys/block/vdb/serial) of $(cat /sys/block/vdb/size)\"";
    let of = |gib: u64| format!("disk {serial} of {}", gib * SECTORS_OF_GIB);
    wait::in_guest(&cloud, &first, look, &of(20))?;
    // Direct, so that it is on the disk when it has been said.
    let write = "for i in 1 2 3 4; do echo line $i; done >/tmp/l; \
                 dd if=/tmp/l of=/dev/vdb bs=1M seek=19000 conv=sync,fsync 2>/dev/null; echo written $?";
    wait::in_guest(&cloud, &first, write, "written 0")?;

    // Grown and given another level while the guest has it; never smaller.
    cloud.run(["disk", "resize", &data, "30", "--online"].iter().chain(&wait))?;
    wait::in_guest(&cloud, &first, look, &of(30))?;
    cloud
        .refused(["disk", "resize", &data, "25"])?
        .says(&["InvalidDiskSize.TooSmall", "30 GiB"])?;
    cloud.run(["disk", "spec", &data, "--performance-level", "PL0"].iter().chain(&wait))?;
    ensure!(disk(&cloud, &data)?["iops"] == 1800 + 12 * 30);
    cloud.refused(["disk", "delete", &data])?.says(&[&data])?;

    // The agent may die under all of it.
    cloud.crash(&["agent"])?;
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;
    ensure!(status(&cloud, &data)? == "Available");
    wait::in_guest(&cloud, &first, "echo \"now $(ls /sys/block | tr '\\n' ' ').\"", "now vda .")?;

    let second = booted(&cloud, &network, &image, &kind)?;
    cloud.run(["disk", "attach", &data, &second].iter().chain(&wait))?;
    let read = "dd if=/dev/vdb bs=1M skip=19000 count=1 2>/dev/null | head -c 28 | tail -c 7 | sed s/line/read/";
    wait::in_guest(&cloud, &second, read, "read 4")?;

    // It is at its instance after a stop and a start, and outlives it.
    cloud.run(["instance", "stop", &second].iter().chain(&wait))?;
    cloud.run(["disk", "resize", &data, "40"].iter().chain(&wait))?;
    cloud.run(["instance", "start", &second].iter().chain(&wait))?;
    wait::for_console(&cloud, &second, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    wait::in_guest(&cloud, &second, look, &of(40))?;
    cloud.run(["instance", "delete", &second, "--force"].iter().chain(&wait))?;
    wait::until("the disk without its instance", SOON, || {
        Ok((status(&cloud, &data)? == "Available").then_some(()))
    })?;
    cloud.run(["disk", "delete", &data].iter().chain(&wait))?;
    network.delete()?;
    leaks::none(&cloud, &[first, second, data])
}

#[test]
fn a_disk_may_go_with_its_instance_and_the_system_disk_stays() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "busy-disk")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let id = booted(&cloud, &network, &image, &kind)?;
    let data = cloud.id([
        "disk",
        "create",
        "--instance",
        &id,
        "--size",
        "20",
        "--wait",
        "--timeout",
        "120",
    ])?;
    // The system disk does not leave a running guest.
    let system = cloud.json(["disk", "list", "--instance", &id, "--type", "system"])?;
    let system = system.pointer("/0/disk_id").and_then(Value::as_str).context("no system disk")?;
    ensure!(!cloud.refused(["disk", "detach", system])?.text.is_empty());

    // Deleted with the instance, running as it is.
    cloud.run(["disk", "modify", &data, "--delete-with-instance", "true"])?;
    cloud.run(["instance", "delete", &id, "--force", "--wait", "--timeout", "120"])?;
    let left = cloud.json(["disk", "list", &data])?;
    ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
    network.delete()?;
    leaks::none(&cloud, &[id, data])
}
