//! `kill -9` of everything that may die, at the worst moments.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Repeats an order with its token until the cloud answers, as a client must.
fn insist(cloud: &Cloud, order: &[String]) -> Result<String> {
    wait::until("an answer to an order", Duration::from_secs(180), || cloud.id(order).map(Some))
}

#[test]
fn what_was_acknowledged_happens_once_however_often_agent_and_controller_die() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "crash")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);

    let mut order = network.run(&image, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let witness = cloud.id(&order)?;
    wait::for_console(&cloud, &witness, &format!("tiny: instance-id {witness}"), wait::TINY_BOOT)?;

    let done = AtomicBool::new(false);
    let orders: Vec<Vec<String>> = (0..3)
        .map(|n| {
            let token = format!("crash-{n}-{}", network.group);
            network
                .run(&image, &kind)
                .into_iter()
                .chain(["--client-token", &token])
                .map(str::to_owned)
                .collect()
        })
        .collect();
    let acknowledged = thread::scope(|scope| -> Result<Vec<String>> {
        let crasher = scope.spawn(|| -> Result<()> {
            for round in 0..6 {
                let what = if round % 2 == 0 { "controller" } else { "agent" };
                // What has just died may not be back yet; the next round finds it.
                let _ = cloud.crash(&[what]);
                thread::sleep(Duration::from_millis(1700));
                if done.load(Ordering::Relaxed) && round >= 3 {
                    break;
                }
            }
            Ok(())
        });
        let ids = orders.iter().map(|order| insist(&cloud, order)).collect();
        done.store(true, Ordering::Relaxed);
        match crasher.join() {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("the crashing thread panicked"),
        }
        ids
    })?;

    // Sent again, every order gives the same instance.
    for (order, id) in orders.iter().zip(&acknowledged) {
        ensure!(insist(&cloud, order)? == *id);
    }
    let mut all = acknowledged.clone();
    all.push(witness.clone());
    let listed = network.instances()?;
    ensure!(listed.len() == all.len(), "ordered {all:?}, there are {listed:?}");
    for id in &all {
        wait::until(&format!("{id} Running"), wait::TINY_BOOT, || {
            Ok((cloud.field(id, "/status")? == "Running").then_some(()))
        })?;
        wait::for_console(&cloud, id, "tiny: userland, boot 1", wait::TINY_BOOT)?;
    }
    // The one that ran all the time has not noticed.
    let console = cloud.console(&witness)?;
    ensure!(!console.contains("boot 2"), "the guest was restarted: {console}");
    let events = cloud.json(["instance", "events", &witness])?;
    ensure!(events.as_array().is_some_and(Vec::is_empty), "{events}");

    let mut gone_with_them = Vec::new();
    for id in &all {
        gone_with_them.extend(leaks::ids_of(&cloud, id)?);
    }
    // Deletes are orders too.
    let order: Vec<_> = ["instance", "delete", "--force"]
        .into_iter()
        .map(str::to_owned)
        .chain(all.clone())
        .collect();
    cloud.run(&order)?;
    cloud.crash(&["agent"])?;
    cloud.crash(&["controller"])?;
    wait::until("all deleted", Duration::from_secs(180), || {
        Ok(network.instances()?.is_empty().then_some(()))
    })?;
    network.delete()?;
    leaks::none(&cloud, &gone_with_them)
}

#[test]
fn a_killed_vmm_is_reported_and_its_disk_is_whole() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "vmm-crash")?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut order = network.run(&image, &kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;
    wait::for_console(&cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;

    cloud.crash(&["vmm", &id])?;
    let event = wait::until("an event about the killed VMM", Duration::from_secs(60), || {
        let events = cloud.json(["instance", "events", &id])?;
        Ok(events.pointer("/0/event_type").and_then(|t| t.as_str()).map(str::to_owned))
    })?;
    ensure!(event.contains("Failure"), "{event}");

    // It was to run, so it runs again.
    wait::for_console(&cloud, &id, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    cloud.run(["instance", "stop", &id, "--force", "--wait", "--timeout", "120"])?;
    let disk = gone_with_it.iter().find(|id| id.starts_with("d-")).context("no disk")?;
    let check =
        cloud.on_host("lab-1", &format!("qemu-img check /var/lib/ecs/disks/{disk}.qcow2"))?;
    ensure!(check.contains("No errors were found"), "{check}");

    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}

#[test]
fn crashes_with_nothing_to_do_change_nothing() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let hosts = || -> Result<BTreeMap<String, String>> {
        let list = cloud.json(["host", "list"])?;
        let text = |host: &serde_json::Value, field: &str| {
            host.get(field).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
        };
        Ok(list
            .as_array()
            .into_iter()
            .flatten()
            .map(|host| (text(host, "host_id"), text(host, "status")))
            .collect())
    };
    let before = hosts()?;
    cloud.crash(&["agent"])?;
    cloud.crash(&["controller"])?;
    wait::until("the same hosts, Ready", Duration::from_secs(90), || {
        Ok((hosts()? == before && before.values().all(|s| s == "Ready")).then_some(()))
    })?;
    leaks::none(&cloud, &[])
}
