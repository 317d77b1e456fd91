//! Images made from an instance: they boot with its content, also after they were files.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;
use std::{fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(600);

fn image(cloud: &Cloud, id: &str) -> Result<Value> {
    let list = cloud.json(["image", "list", id])?;
    list.pointer("/0").cloned().with_context(|| format!("there is no image {id}"))
}

/// An instance that goes on where the first one was when the image was made.
fn boots_with_the_mark(cloud: &Cloud, order: &[&str]) -> Result<String> {
    let wait = ["--wait", "--timeout", "300"];
    let id = cloud.id(order.iter().chain(&wait))?;
    wait::for_console(cloud, &id, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    wait::in_guest(cloud, &id, "echo \"system has $(cat /root/mark).\"", "system has golden.")?;
    Ok(id)
}

#[test]
fn an_image_of_an_instance_boots_with_its_content_and_as_a_file_too() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "images")?;
    let (tiny, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&tiny, &kind);
    order.extend(["--data-disk", "size=20", "--wait", "--timeout", "300"]);
    let first = cloud.id(&order)?;
    wait::for_console(&cloud, &first, &format!("tiny: instance-id {first}"), wait::TINY_BOOT)?;
    let mark = "echo golden >/root/mark; dd if=/root/mark of=/dev/vdb bs=4k conv=sync,fsync \
                2>/dev/null; sync; echo \"marked $?\"";
    wait::in_guest(&cloud, &first, mark, "marked 0")?;

    // Both ends die while the content is on its way.
    let (name, family) = (format!("golden-{}", network.group), format!("f-{}", network.group));
    let create = ["image", "create", "--instance", &first, "--name", &name, "--family", &family];
    let golden = cloud.id(create)?;
    cloud.crash(&["agent"])?;
    wait::until("the image to be on its way", LIMIT, || {
        let image = image(&cloud, &golden)?;
        Ok((image["status"] == "Available" || image["progress"] != "0%").then_some(()))
    })?;
    cloud.crash(&["controller"])?;
    let made = wait::until("the image to be Available", LIMIT, || {
        let image = image(&cloud, &golden)?;
        ensure!(image["status"] != "CreateFailed", "{image}");
        Ok((image["status"] == "Available").then_some(image))
    })?;
    let disks = made["disk_device_mappings"].as_array().context("no disks")?.clone();
    ensure!(disks.len() == 2, "{made}");
    let snapshot = |index: usize| disks[index]["snapshot_id"].as_str().unwrap_or("").to_owned();
    let (system, data) = (snapshot(0), snapshot(1));
    cloud.refused(["snapshot", "delete", &system])?.says(&["SnapshotCreatedImage", &golden])?;
    cloud.run(["instance", "delete", &first, "--force", "--wait", "--timeout", "120"])?;

    // By its family, with the data disk.
    let mut by_family = network.run("", &kind);
    by_family.splice(2..4, ["--image-family", &family]);
    let second = boots_with_the_mark(&cloud, &by_family)?;
    let look = "echo \"data has $(dd if=/dev/vdb bs=4k count=1 2>/dev/null | head -n 1).\"";
    wait::in_guest(&cloud, &second, look, "data has golden.")?;
    cloud.refused(["image", "delete", &golden])?.says(&["ImageUsingByInstance", &second])?;
    cloud.run(["instance", "delete", &second, "--force", "--wait", "--timeout", "120"])?;

    // As a file, and back; and a copy.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("golden.qcow2").display().to_string();
    let raw = folder.path().join("golden.raw").display().to_string();
    let told = cloud.json(["image", "export", &golden, &file])?;
    ensure!(told["sha256"] == made["sha256"], "{told} of {made}");
    cloud.run(["image", "export", &golden, &raw, "--format", "raw"])?;
    ensure!(fs::metadata(&raw)?.len() == made["size"].as_u64().unwrap_or(0) << 30);
    cloud.refused(["image", "export", &golden, &raw])?.says(&["--overwrite"])?;
    ensure!(fs::read_dir(folder.path())?.count() == 2, "partial files stay");
    let copy = cloud.id(["image", "copy", &golden, "--wait"])?;
    ensure!(image(&cloud, &copy)?["sha256"] == made["sha256"]);
    let again = cloud.id(["image", "import", &file, "--name", &format!("again-{name}")])?;
    let order = network.run(&again, &kind);
    let third = boots_with_the_mark(&cloud, &order)?;
    cloud.run(["instance", "delete", &third, "--force", "--wait", "--timeout", "120"])?;

    for id in [&golden, &copy, &again] {
        cloud.run(["image", "delete", id])?;
    }
    cloud.run(["snapshot", "delete", &system, &data, "--wait", "--timeout", "120"])?;
    network.delete()?;
    leaks::none(&cloud, &[first, second, third, golden, copy, again, system, data])
}
