//! Encrypted disks: what guests write to them is in no file of the host, and nothing else is different.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

/// What the guest writes, as its shell puts it together: typed as a whole it would be in the log of the
/// console.
const SECRET: &str = "secret-$((1000 + 337))-of-the-tenant";
const OPEN: &str = "secret-$((1000 + 338))-of-the-tenant";

/// Writes it far behind the file system of a small image, and says `word`.
fn write(device: &str, text: &str, word: &str) -> String {
    format!(
        "echo \"{text}\" >/tmp/m; dd if=/tmp/m of=/dev/{device} bs=1M seek=19000 conv=sync,fsync \
         2>/dev/null; echo \"{word} $?.\""
    )
}

/// Looks for it there, and says `word` and how often it is there.
fn look(device: &str, text: &str, word: &str) -> String {
    format!(
        "echo 3 >/proc/sys/vm/drop_caches; echo \"{word} $(dd if=/dev/{device} bs=1M skip=19000 \
         count=1 2>/dev/null | grep -c \"{text}\").\""
    )
}

fn disks(cloud: &Cloud, instance: &str) -> Result<Vec<Value>> {
    let list = cloud.json(["disk", "list", "--instance", instance])?;
    let mut disks = list.as_array().context("no list of disks")?.clone();
    disks.sort_by_key(|disk| disk["device"].as_str().unwrap_or_default().to_owned());
    Ok(disks)
}

fn id_of(disk: &Value) -> Result<String> {
    Ok(disk["disk_id"].as_str().context("a disk without an id")?.to_owned())
}

/// Files of the host that have it, and processes that were told of it.
fn files_with(cloud: &Cloud, text: &str) -> Result<Vec<String>> {
    let state = cloud.path("state")?;
    let command = format!("sync; grep -rlaF '{text}' {state} /run/ecs 2>/dev/null; true");
    Ok(cloud.on_host("lab-1", &command)?.lines().map(str::to_owned).collect())
}

#[test]
fn what_a_guest_writes_to_an_encrypted_disk_is_in_no_file_of_its_host() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "encryption")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let wait = ["--wait", "--timeout", "120"];

    // A system disk, a data disk, and one that is not encrypted.
    let mut order = network.run(&image, &kind);
    order.extend(["--system-disk", "size=20,encrypted=true"]);
    order.extend(["--data-disk", "size=20,encrypted=true", "--data-disk", "size=20"]);
    order.extend(["--wait", "--timeout", "300"]);
    let first = cloud.id(&order)?;
    wait::for_console(&cloud, &first, &format!("tiny: instance-id {first}"), wait::TINY_BOOT)?;
    let of_first = disks(&cloud, &first)?;
    let encrypted: Vec<bool> = of_first.iter().map(|disk| disk["encrypted"] == true).collect();
    ensure!(encrypted == [true, true, false], "{of_first:?}");
    let key = of_first[1]["kms_key_id"].clone();
    ensure!(key.as_str().is_some_and(|key| !key.is_empty()), "{of_first:?}");
    let (system, data) = (id_of(&of_first[0])?, id_of(&of_first[1])?);
    for (device, text) in [("vda", SECRET), ("vdb", SECRET), ("vdc", OPEN)] {
        let word = format!("wrote-{device}");
        wait::in_guest(&cloud, &first, &write(device, text, &word), &format!("{word} 0."))?;
    }
    ensure!(
        !files_with(&cloud, "secret-1338-of-the-tenant")?.is_empty(),
        "the search finds nothing"
    );
    let found = files_with(&cloud, "secret-1337-of-the-tenant")?;
    ensure!(found.is_empty(), "in the clear in {found:?}");

    // Detached, attached and frozen under a running guest; a disk of the snapshot.
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;
    cloud.run(["disk", "attach", &data, &first].iter().chain(&wait))?;
    wait::in_guest(&cloud, &first, &look("vdb", SECRET, "again"), "again 1.")?;
    let snapshot = cloud.id(["snapshot", "create", &data].iter().chain(&wait))?;
    let told = cloud.json(["snapshot", "list", &snapshot])?;
    ensure!(told[0]["encrypted"] == true && told[0]["kms_key_id"] == key, "{told}");
    let create = ["disk", "create", "--instance", &first, "--snapshot", &snapshot];
    let copy = cloud.id(create.iter().chain(&wait))?;
    wait::in_guest(&cloud, &first, &look("vdd", SECRET, "copied"), "copied 1.")?;
    wait::in_guest(&cloud, &first, &write("vdd", SECRET, "wrote-vdd"), "wrote-vdd 0.")?;

    // An image of the system disk is as encrypted as that.
    let of_system = cloud.id(["snapshot", "create", &system].iter().chain(&wait))?;
    let golden = cloud.id(["image", "create", "--snapshot", &of_system])?;
    cloud.run(["instance", "stop", &first].iter().chain(&wait))?;
    cloud.run(["instance", "start", &first].iter().chain(&wait))?;
    wait::for_console(&cloud, &first, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    wait::in_guest(&cloud, &first, &look("vda", SECRET, "system"), "system 1.")?;
    wait::in_guest(&cloud, &first, &look("vdb", SECRET, "data"), "data 1.")?;
    let made = wait::until("the image to be Available", LIMIT, || {
        let image = cloud.json(["image", "list", &golden])?[0].clone();
        ensure!(image["status"] != "CreateFailed", "{image}");
        Ok((image["status"] == "Available").then_some(image))
    })?;
    ensure!(made["encrypted"] == true, "{made}");
    let out = tempfile::tempdir()?.path().join("golden.qcow2").display().to_string();
    cloud.refused(["image", "export", &golden, &out])?.says(&["OperationDenied", "encrypted"])?;
    cloud.run(["instance", "delete", &first, "--force"].iter().chain(&wait))?;
    let mut order = network.run(&golden, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let second = cloud.id(&order)?;
    wait::for_console(&cloud, &second, &format!("tiny: instance-id {second}"), wait::TINY_BOOT)?;
    ensure!(disks(&cloud, &second)?[0]["encrypted"] == true);
    wait::in_guest(&cloud, &second, &look("vda", SECRET, "golden"), "golden 1.")?;
    let found = files_with(&cloud, "secret-1337-of-the-tenant")?;
    ensure!(found.is_empty(), "in the clear in {found:?}");

    cloud.run(["instance", "delete", &second, "--force"].iter().chain(&wait))?;
    cloud.run(["image", "delete", &golden])?;
    cloud.run(["disk", "delete", &copy].iter().chain(&wait))?;
    cloud.run(["snapshot", "delete", &snapshot, &of_system].iter().chain(&wait))?;
    network.delete()?;
    leaks::none(&cloud, &[first, second, golden, copy, snapshot, of_system])
}
