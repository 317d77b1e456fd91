//! The life of a small instance, from create to the last trace.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use std::time::{Duration, Instant};

#[test]
fn an_instance_boots_stops_starts_reboots_and_leaves_nothing() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "life")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let folder = tempfile::tempdir()?;
    let user_data = folder.path().join("user-data");
    std::fs::write(&user_data, "#!/bin/sh\necho hello\n")?;

    let mut order = network.run(&image, &kind);
    let path = user_data.display().to_string();
    order.extend(["--name", "life-1", "--user-data", &path, "--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    ensure!(gone_with_it.len() == 3, "one disk and one interface: {gone_with_it:?}");

    wait::for_console(&cloud, &id, "tiny: userland, boot 1", wait::TINY_BOOT)?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    wait::for_console(&cloud, &id, &format!("tiny: address {address}/"), wait::TINY_BOOT)?;
    let line = format!("tiny: instance-id {id}");
    let console = wait::for_console(&cloud, &id, &line, wait::TINY_BOOT)?;
    ensure!(!console.contains("tiny: metadata took"), "metadata did not answer at once: {console}");
    ensure!(console.contains("tiny: metadata needs no token"), "{console}");
    ensure!(cloud.run(["instance", "user-data", &id])?.contains("echo hello"));
    ensure!(cloud.field(&id, "/instance_name")? == "life-1");

    // The guest hears the power button and stops by itself, long before it would be forced.
    wait::for_console(&cloud, &id, "tiny: power button at", wait::TINY_BOOT)?;
    let asked = Instant::now();
    cloud.run(["instance", "stop", &id, "--wait", "--timeout", "200"])?;
    ensure!(asked.elapsed() < Duration::from_secs(90), "forced: {:?}", asked.elapsed());
    ensure!(cloud.console(&id)?.contains("tiny: power button pressed"), "not by ACPI");
    ensure!(cloud.field(&id, "/vpc_attributes/private_ip_address/0")? == address);

    cloud.run(["instance", "start", &id, "--wait", "--timeout", "200"])?;
    wait::for_console(&cloud, &id, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    wait::for_console(&cloud, &id, "tiny: power button at", wait::TINY_BOOT)?;
    ensure!(cloud.field(&id, "/vpc_attributes/private_ip_address/0")? == address);

    cloud.run(["instance", "reboot", &id])?;
    wait::for_console(&cloud, &id, "tiny: userland, boot 3", wait::TINY_BOOT)?;
    wait::until("Running after the reboot", wait::TINY_BOOT, || {
        Ok((cloud.field(&id, "/status")? == "Running").then_some(()))
    })?;

    cloud.run(["instance", "delete", &id, "--force", "--wait", "--timeout", "120"])?;
    ensure!(cloud.instance(&id)?.is_none());
    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}

#[test]
fn a_security_group_opens_and_closes_a_port_for_people() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "ports")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&image, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    wait::for_console(&cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;

    let ask = || -> Result<String> {
        let output = cloud.output(["tunnel", &id, "80"], b"GET / HTTP/1.0\r\n\r\n")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(!ask()?.contains("a tiny instance"), "the port is open before any rule");
    network.allow(80)?;
    wait::until("an answer on port 80", Duration::from_secs(60), || {
        Ok(ask()?.contains("a tiny instance").then_some(()))
    })?;
    cloud.run([
        "security-group",
        "revoke",
        &network.group,
        "--port",
        "80/80",
        "--cidr",
        "0.0.0.0/0",
    ])?;
    wait::until("no answer on port 80", Duration::from_secs(60), || {
        Ok((!ask()?.contains("a tiny instance")).then_some(()))
    })?;

    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}

#[test]
fn metadata_that_requires_a_token_answers_with_one_only() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "metadata-token")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&image, &kind);
    order.extend(["--require-metadata-token", "--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    ensure!(cloud.field(&id, "/metadata_options/http_tokens")? == "required");
    let line = format!("tiny: instance-id {id}");
    let console = wait::for_console(&cloud, &id, &line, wait::TINY_BOOT)?;
    ensure!(console.contains("tiny: metadata needs a token"), "it answers without one: {console}");
    ensure!(!console.contains("tiny: metadata took"), "metadata did not answer at once: {console}");

    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}

#[test]
fn create_ends_stopped_and_a_token_names_one_order() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "token")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&image, &kind);
    order[1] = "create";
    // A token is for ever; another run in the same lab needs one of its own.
    let token = format!("token-{}", network.group);
    order.extend(["--client-token", &token]);
    let first = cloud.id(&order)?;
    let again = cloud.id(&order)?;
    ensure!(first == again, "{first} and {again}");
    ensure!(network.instances()?.len() == 1);
    let state = wait::until("Stopped", Duration::from_secs(120), || {
        let state = cloud.field(&first, "/status")?;
        Ok((state == "Stopped").then_some(state))
    })?;
    ensure!(state == "Stopped");
    // The same token with another order is a mistake, not a new instance.
    let name = ["--name", "something-else"];
    cloud.refused(order.iter().chain(&name))?.says(&["IdempotentParameterMismatch"])?;

    let gone_with_it = leaks::ids_of(&cloud, &first)?;
    cloud
        .run(["instance", "delete", &first, "--wait", "--timeout", "120"])
        .context("a stopped one needs no force")?;
    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}
