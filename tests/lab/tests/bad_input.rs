//! Input that is wrong gets an answer that says what is wrong with it and what to do.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, cloud::images, leaks, wait};
use std::{ffi::OsStr, fs, path::Path, process::Command, time::Duration};

fn import(file: &Path, name: &str) -> Vec<std::ffi::OsString> {
    [OsStr::new("image"), "import".as_ref(), file.as_ref(), "--name".as_ref(), name.as_ref()]
        .map(OsStr::to_owned)
        .into()
}

/// That a text names one of `resources` and, after a semicolon as everywhere, what to do.
fn names_and_helps(text: &str, resources: &[&str]) -> Result<()> {
    ensure!(resources.iter().any(|id| text.contains(id)), "none of {resources:?} in: {text}");
    let help = text.split(';').nth(1).map(str::trim).unwrap_or_default();
    ensure!(!help.is_empty(), "it does not say what to do: {text}");
    Ok(())
}

fn qemu_img(arguments: &[&OsStr]) -> Result<()> {
    let status = Command::new("qemu-img").args(arguments).status()?;
    ensure!(status.success(), "qemu-img {arguments:?}");
    Ok(())
}

#[test]
fn images_that_are_no_images_are_not_run_and_the_reason_is_said() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "bad-images")?;
    let kind = cloud.smallest_type()?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let good = fs::read(images().join("tiny/tiny.qcow2"))?;

    let empty = path("empty.qcow2");
    fs::write(&empty, b"")?;
    let noise = path("noise.qcow2");
    let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
    bytes.extend((0..65_528_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    fs::write(&noise, bytes)?;
    let truncated = path("truncated.qcow2");
    fs::write(&truncated, &good[..good.len() / 3])?;
    let table = path("table.qcow2");
    let mut bytes = good.clone();
    bytes[40..48].copy_from_slice(&u64::MAX.to_be_bytes()); // where the header says L1 is
    fs::write(&table, bytes)?;
    let huge = path("huge.qcow2");
    let mut bytes = good;
    bytes[24..32].copy_from_slice(&(u64::MAX >> 1).to_be_bytes()); // the virtual size
    fs::write(&huge, bytes)?;
    let backed = path("backed.qcow2");
    let options =
        ["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw"].map(OsStr::new);
    qemu_img(&[&options[..], &[backed.as_os_str(), OsStr::new("1G")]].concat())?;

    // Chains that never end: an image over itself, and two over each other.
    let looped = path("loop.qcow2");
    let other = path("loop-other.qcow2");
    let over = |backing: &Path, image: &Path| {
        let options = ["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"].map(OsStr::new);
        qemu_img(
            &[&options[..], &[backing.as_os_str(), image.as_os_str(), OsStr::new("1G")]].concat(),
        )
    };
    // qemu-img makes the first under another name only, which is then put right.
    let stand_in = path("LOOP.qcow2");
    over(&stand_in, &looped)?;
    let mut bytes = fs::read(&looped)?;
    let name = stand_in.as_os_str().as_encoded_bytes();
    let at = bytes.windows(name.len()).position(|w| w == name).context("no backing name")?;
    bytes[at..at + name.len()].copy_from_slice(looped.as_os_str().as_encoded_bytes());
    fs::write(&looped, bytes)?;
    let mutual = path("mutual.qcow2");
    over(&mutual, &other)?;
    over(&other, &mutual)?;

    for (file, name) in [
        (&looped, "loop"),
        (&mutual, "mutual"),
        (&empty, "empty"),
        (&noise, "noise"),
        (&truncated, "truncated"),
        (&table, "table"),
        (&huge, "huge"),
        (&backed, "backed"),
    ] {
        match cloud.id(import(file, &format!("bad-{name}"))) {
            Err(refusal) => {
                let text = format!("{refusal:#}");
                ensure!(text.contains("exit status: 1"), "{name}: {text}");
                ensure!(text.contains("Error "), "{name} is refused without a code: {text}");
                let said = text.rsplit("Error ").next().unwrap_or_default();
                names_and_helps(said, &["image m-"])?;
                eprintln!("{name}: {text}");
            }
            // What only shows when the disk is made must be said by the instance.
            Ok(image) => {
                let id = cloud.id(network.run(&image, &kind))?;
                let reason = wait::until("a reason", Duration::from_secs(120), || {
                    let reason = cloud.field(&id, "/status_reason")?;
                    let said = reason.starts_with("Image") && !reason.starts_with("ImageNotReady")
                        || reason.starts_with("Disk");
                    ensure!(said, "{}: {reason}", cloud.field(&id, "/status")?);
                    Ok(Some(reason))
                })
                .with_context(|| format!("an instance of {name}"))?;
                eprintln!("{name}: {reason}");
                let ids = leaks::ids_of(&cloud, &id)?;
                let mut resources: Vec<&str> = ids.iter().map(String::as_str).collect();
                resources.push(&image);
                names_and_helps(&reason, &resources)?;
                ensure!(cloud.field(&id, "/status")? != "Running");
                cloud.run(["instance", "delete", &id, "--force", "--wait", "--timeout", "120"])?;
                cloud.run(["image", "delete", &image])?;
            }
        }
    }
    let available = cloud.json(["image", "list", "--name", "bad-*", "--status", "Available"])?;
    ensure!(available.as_array().is_some_and(Vec::is_empty), "{available}");
    let left = cloud.json(["image", "list", "--name", "bad-*"])?;
    for image in left.as_array().into_iter().flatten() {
        cloud.run(["image", "delete", image["image_id"].as_str().unwrap_or_default()])?;
    }
    network.delete()?;
    leaks::none(&cloud, &[])
}

#[test]
fn an_image_without_a_kernel_does_not_start_and_says_so() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "kernel-less")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("blank.qcow2");
    qemu_img(
        &[
            &["create", "-q", "-f", "qcow2"].map(OsStr::new)[..],
            &[file.as_os_str(), OsStr::new("1G")],
        ]
        .concat(),
    )?;
    let image = cloud.id(import(&file, "kernel-less"))?;
    let kind = cloud.smallest_type()?;
    let id = cloud.id(network.run(&image, &kind))?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    let reason = wait::until("a reason", Duration::from_secs(120), || {
        let reason = cloud.field(&id, "/status_reason")?;
        let said = reason.to_lowercase();
        Ok((said.contains("kernel") || said.contains("partition")).then_some(reason))
    })?;
    eprintln!("{reason}");
    let mut resources: Vec<&str> = gone_with_it.iter().map(String::as_str).collect();
    resources.push(&image);
    names_and_helps(&reason, &resources)?;
    ensure!(cloud.field(&id, "/status")? != "Running");
    cloud.run(["instance", "delete", &id, "--force", "--wait", "--timeout", "120"])?;
    cloud.run(["image", "delete", &image])?;
    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}

#[test]
fn sizes_and_amounts_out_of_range_are_refused() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "sizes")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let order = network.run(&image, &kind);
    let refused = |more: &[&str]| cloud.refused(order.iter().chain(more));

    refused(&["--system-disk", "size=4294967295"])?.says(&["InvalidSystemDiskSize"])?;
    refused(&["--data-disk", "size=0"])?.says(&["size"])?;
    refused(&["--data-disk", "size=4294967295"])?.says(&["Disk"])?;
    refused(&["--amount", "101"])?.says(&["Amount"])?;
    refused(&["--amount", "4294967295"])?.says(&["Amount"])?;
    refused(&["--address", "10.20.1.0"])?.says(&["InvalidPrivateIpAddress"])?;
    refused(&["--address", "8.8.8.8"])?.says(&["InvalidPrivateIpAddress"])?;
    let folder = tempfile::tempdir()?;
    let big = folder.path().join("big");
    fs::write(&big, vec![b'x'; (32 << 10) + 1])?;
    refused(&["--user-data", &big.display().to_string()])?.says(&["InvalidUserData"])?;
    let wrong = ["instance", "run", "--image", &image, "--type", "ecs.none.large", "--vswitch"];
    let wrong = [&wrong[..], &[&network.vswitch, "--security-group", &network.group]].concat();
    cloud.refused(wrong)?.says(&["InvalidInstanceType"])?;
    cloud.refused(["vpc", "create", "--cidr", "10.0.0.0/99"])?.says(&["Cidr"])?;
    cloud
        .refused(["vswitch", "create", "--vpc", &network.vpc, "--cidr", "192.168.0.0/24"])?
        .says(&["Cidr"])?;
    cloud.refused(["instance", "start", "i-doesnotexist"])?.says(&["InvalidInstanceId"])?;

    ensure!(network.instances()?.is_empty());
    network.delete()?;
    leaks::none(&cloud, &[])
}
