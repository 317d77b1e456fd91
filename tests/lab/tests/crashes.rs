//! `kill -9` of everything that may die, at the worst moments.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Frozen, Network, leaks, wait};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// How many of the instances that are ordered while things die are to run.
const RUNNING: usize = 3;
/// Several guests start at once here, with agents that start over.
const LONG: Duration = Duration::from_secs(420);

/// Repeats an order with its token until the cloud answers, as a client must.
fn insist(cloud: &Cloud, order: &[String]) -> Result<String> {
    wait::until("an answer to an order", LONG, || cloud.id(order).map(Some))
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

    // Some run; the rest take a disk, an address and their share of the host all the same, so there are
    // as many as a host of two CPUs has room for.
    let orders: Vec<Vec<String>> = (0..6)
        .map(|n| {
            let token = format!("crash-{n}-{}", network.group);
            let mut order = network.run(&image, &kind);
            order[1] = if n < RUNNING { "run" } else { "create" };
            order.into_iter().chain(["--client-token", &token]).map(str::to_owned).collect()
        })
        .collect();
    // Orders are under way for as long as something dies: when there is no new one, an old one is
    // sent again.
    let over = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| -> Result<Vec<String>> {
        let crasher = scope.spawn(|| {
            let result = (0..6).try_for_each(|round| {
                let what = if round % 2 == 0 { "controller" } else { "agent" };
                thread::sleep(Duration::from_millis(700));
                cloud.crash(&[what])
            });
            over.store(true, Ordering::Relaxed);
            result
        });
        let mut ids = Vec::new();
        for (n, order) in orders.iter().cycle().enumerate() {
            let id = insist(&cloud, order)?;
            match ids.get(n % orders.len()) {
                None => ids.push(id),
                Some(before) => ensure!(*before == id, "{order:?} gave {before}, then {id}"),
            }
            if ids.len() == orders.len() && over.load(Ordering::Relaxed) {
                break;
            }
        }
        match crasher.join() {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("the crashing thread panicked"),
        }
        Ok(ids)
    })?;

    // Sent again, every order gives the same instance.
    for (order, id) in orders.iter().zip(&acknowledged) {
        ensure!(insist(&cloud, order)? == *id);
    }
    let mut all = acknowledged.clone();
    all.push(witness.clone());
    let listed = network.instances()?;
    ensure!(listed.len() == all.len(), "ordered {all:?}, there are {listed:?}");
    for (n, id) in all.iter().enumerate() {
        let runs = n < RUNNING || id == &witness;
        let state = if runs { "Running" } else { "Stopped" };
        wait::until(&format!("{id} {state}"), LONG, || {
            Ok((cloud.field(id, "/status")? == state).then_some(()))
        })?;
        if runs {
            wait::for_console(&cloud, id, "tiny: userland, boot 1", LONG)?;
        }
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
    wait::until("all deleted", LONG, || Ok(network.instances()?.is_empty().then_some(())))?;
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

    // A guest that writes, so that its disk's tables are being changed at the moment of the kill.
    cloud.type_in(
        &id,
        "\nn=0; while :; do dd if=/dev/urandom of=/f$((n % 9)) bs=4k count=300 2>/dev/null; sync; \
         n=$((n + 1)); echo \"wri\"ting $n; [ $((n % 9)) != 0 ] || rm -f /f*; done &\n",
    )?;
    wait::for_console(&cloud, &id, "writing 12", wait::TINY_BOOT)?;
    let disk = gone_with_it.iter().find(|id| id.starts_with("d-")).context("no disk")?;
    let check =
        format!("qemu-img check {}/disks/{disk}.qcow2; echo exit code $?", cloud.path("state")?);

    // With the agent frozen the disk is seen as the kill left it: clusters may be lost, which costs
    // space only, but nothing may contradict anything.
    let frozen = Frozen::new(&cloud)?;
    cloud.crash(&["vmm", &id])?;
    let left = cloud.on_host("lab-1", &check)?;
    let sound = left.ends_with("exit code 0") || left.ends_with("exit code 3");
    ensure!(sound && !left.contains("corrupt") && !left.contains("ERROR"), "{left}");
    eprintln!("after the kill: {left}");
    drop(frozen);

    let event = wait::until("an event about the killed VMM", LONG, || {
        let events = cloud.json(["instance", "events", &id])?;
        Ok(events.pointer("/0/event_type").and_then(|t| t.as_str()).map(str::to_owned))
    })?;
    ensure!(event.contains("Failure"), "{event}");

    // It was to run, so it runs again.
    wait::for_console(&cloud, &id, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    cloud.run(["instance", "stop", &id, "--force", "--wait", "--timeout", "120"])?;
    let repaired = cloud.on_host("lab-1", &check)?;
    ensure!(repaired.contains("No errors were found"), "{repaired}");

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
    wait::until("the same hosts, Ready", Duration::from_secs(180), || {
        Ok((hosts()? == before && before.values().all(|s| s == "Ready")).then_some(()))
    })?;
    leaks::none(&cloud, &[])
}
