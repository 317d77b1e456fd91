//! System disks that are made anew, and that are replaced by one of another image.
//!
//! Automatic snapshots are not here: policies name full hours, so that a test would wait for one. Their
//! clock is that of the controller's own tests; the snapshots are taken as any other.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, cloud, leaks, wait};
use std::{fs::OpenOptions, io::Write as _, path::Path, process::Command};

const WAIT: [&str; 3] = ["--wait", "--timeout", "120"];
/// Of the image.
const TINY_MIB: u64 = 128;

fn system_disk(cloud: &Cloud, id: &str) -> Result<String> {
    cloud.id(["disk", "list", "--instance", id, "--type", "system"])
}

/// Starts it, and waits for the `count`th first boot of its disk on the console.
fn start_anew(cloud: &Cloud, id: &str, count: usize) -> Result<()> {
    cloud.run(["instance", "start", id].iter().chain(&WAIT))?;
    wait::until(&format!("first boot {count} of {id}"), wait::TINY_BOOT, || {
        let console = cloud.console(id)?;
        let boots = console.lines().filter(|line| line.ends_with("tiny: userland, boot 1"));
        Ok((boots.count() >= count).then_some(()))
    })
}

/// The tiny image with a line behind its end, as a raw file.
fn another_image(cloud: &Cloud, folder: &Path) -> Result<String> {
    let raw = folder.join("another.raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([&cloud::images().join("tiny/tiny.qcow2"), &raw])
        .status()
        .context("cannot run qemu-img")?;
    ensure!(converted.success(), "qemu-img convert: {converted}");
    let mut file = OpenOptions::new().append(true).open(&raw)?;
    ensure!(file.metadata()?.len() == TINY_MIB << 20, "the tiny image has another size");
    let mut end = b"another image\n".to_vec();
    end.resize(1 << 20, 0);
    file.write_all(&end)?;
    let raw = raw.display().to_string();
    cloud.id(["image", "import", &raw, "--name", "another"])
}

#[test]
fn a_system_disk_is_made_anew_and_replaced_by_that_of_another_image() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "system-disk")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let folder = tempfile::tempdir()?;
    let another = another_image(&cloud, folder.path())?;
    let mut order = network.run(&image, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    wait::for_console(&cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    let first = system_disk(&cloud, &id)?;
    wait::in_guest(&cloud, &id, "echo here >/mark; sync; echo \"marked $?\"", "marked 0")?;

    // As it was at first.
    cloud.refused(["disk", "reinit", &first])?.says(&["IncorrectInstanceStatus"])?;
    cloud.run(["instance", "stop", &id, "--force"].iter().chain(&WAIT))?;
    cloud.run(["disk", "reinit", &first].iter().chain(&WAIT))?;
    start_anew(&cloud, &id, 2)?;
    wait::in_guest(&cloud, &id, "echo \"mark is $(cat /mark 2>/dev/null).\"", "mark is .")?;
    ensure!(system_disk(&cloud, &id)? == first);

    // Another image: another disk, the same instance.
    let replace = ["disk", "replace-system", &id, &another];
    cloud.refused(replace)?.says(&["IncorrectInstanceStatus"])?;
    cloud.run(["instance", "stop", &id, "--force"].iter().chain(&WAIT))?;
    let second = cloud.id(replace.iter().chain(&WAIT))?;
    ensure!(second != first && system_disk(&cloud, &id)? == second);
    start_anew(&cloud, &id, 3)?;
    let look = format!(
        "echo \"this is $(dd if=/dev/vda bs=1M skip={TINY_MIB} count=1 2>/dev/null | head -n 1).\""
    );
    wait::in_guest(&cloud, &id, &look, "this is another image.")?;
    ensure!(cloud.field(&id, "/image_id")? == another);
    ensure!(cloud.field(&id, "/vpc_attributes/private_ip_address/0")? == address);
    let address = format!("tiny: address {address}/");
    ensure!(cloud.console(&id)?.matches(&address).count() == 3, "not the same address");
    let left = cloud.json(["disk", "list", &first])?;
    ensure!(
        left.as_array().is_some_and(Vec::is_empty),
        "the disk before it is still there: {left}"
    );

    network.delete()?;
    cloud.run(["image", "delete", &another])?;
    leaks::none(&cloud, &[id, first, second])
}
