//! Network interfaces as resources of their own: they come to running guests, go, and move with their
//! addresses.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;

const WAIT: [&str; 3] = ["--wait", "--timeout", "120"];

fn booted(cloud: &Cloud, network: &Network, image: &str, kind: &str) -> Result<String> {
    let mut order = network.run(image, kind);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    Ok(id)
}

fn field(cloud: &Cloud, eni: &str, name: &str) -> Result<String> {
    let shown = cloud.json(["eni", "list", eni])?;
    let value = shown.pointer(&format!("/0/{name}")).and_then(Value::as_str);
    Ok(value.with_context(|| format!("{eni} has no {name}: {shown}"))?.to_owned())
}

/// Asks the host's side for the page of the guest at this address of its instance.
fn page(cloud: &Cloud, instance: &str, address: &str) -> Result<String> {
    let arguments = ["tunnel", instance, "80", "--address", address];
    let output = cloud.output(arguments, b"GET / HTTP/1.0\r\n\r\n")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_interface_comes_to_a_running_guest_and_moves_with_its_addresses() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "interfaces")?;
    network.allow(80)?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let first = booted(&cloud, &network, &image, &kind)?;
    let create =
        ["eni", "create", "--vswitch", &network.vswitch, "--security-group", &network.group];
    let eni = cloud.id(create.iter().chain(&["--name", "moving", "--keep"]))?;
    ensure!(field(&cloud, &eni, "status")? == "Available");
    let (address, mac) =
        (field(&cloud, &eni, "private_ip_address")?, field(&cloud, &eni, "mac_address")?);
    cloud.refused(["eni", "attach", &eni, "i-none"])?.says(&["i-none"])?;

    cloud.run(["eni", "attach", &eni, &first].iter().chain(&WAIT))?;
    ensure!(field(&cloud, &eni, "status")? == "InUse");
    ensure!(field(&cloud, &eni, "instance_id")? == first);
    let set_up = "ip link set eth1 up; udhcpc -i eth1 -q -n -t 20 -T 1 -s /etc/udhcpc >/dev/null 2>&1; \
                  echo \"has $(cat /sys/class/net/eth1/address) $(ip -4 -o addr show eth1 | awk '{print $4}')\"";
    wait::in_guest(&cloud, &first, set_up, &format!("has {mac} {address}/"))?;
    ensure!(page(&cloud, &first, &address)?.contains("a tiny instance"), "no answer at {address}");

    // More addresses; one that is not the guest's passes nothing.
    let more = cloud.run(["-o", "name", "eni", "assign-ip", &eni, "--count", "1"])?;
    let add = format!("ip addr add {more}/32 dev eth1 && echo added $?");
    wait::in_guest(&cloud, &first, &add, "added 0")?;
    ensure!(page(&cloud, &first, &more)?.contains("a tiny instance"), "no answer at {more}");
    cloud.run(["eni", "unassign-ip", &eni, &more])?;
    wait::until("no answer at an address that was taken away", wait::TINY_BOOT, || {
        Ok((!page(&cloud, &first, &more)?.contains("a tiny instance")).then_some(()))
    })?;

    // The primary one stays, and what is in use is not deleted.
    let primary = cloud.json(["eni", "list", "--instance", &first, "--type", "Primary"])?;
    let primary = primary.pointer("/0/network_interface_id").and_then(Value::as_str);
    let primary = primary.context("no primary interface")?;
    ensure!(!cloud.refused(["eni", "detach", primary])?.text.is_empty());
    cloud.refused(["eni", "delete", &eni])?.says(&["InvalidOperation.InvalidEniState"])?;

    // The agent may die under it.
    cloud.crash(&["agent"])?;
    cloud.run(["eni", "detach", &eni].iter().chain(&WAIT))?;
    let look = "echo \"now $(ls /sys/class/net | tr '\\n' ' ').\"";
    wait::in_guest(&cloud, &first, look, "now eth0 lo .")?;

    let second = booted(&cloud, &network, &image, &kind)?;
    cloud.run(["eni", "attach", &eni, &second].iter().chain(&WAIT))?;
    wait::in_guest(&cloud, &second, set_up, &format!("has {mac} {address}/"))?;
    ensure!(
        page(&cloud, &second, &address)?.contains("a tiny instance"),
        "no answer after it moved"
    );

    // It is there after a stop and a start, and outlives its instance as it was told to.
    cloud.run(["instance", "stop", &second].iter().chain(&WAIT))?;
    ensure!(field(&cloud, &eni, "status")? == "InUse");
    cloud.run(["instance", "start", &second].iter().chain(&WAIT))?;
    wait::for_console(&cloud, &second, "tiny: userland, boot 2", wait::TINY_BOOT)?;
    wait::in_guest(&cloud, &second, look, "now eth0 eth1 lo .")?;
    cloud.run(["instance", "delete", &second, "--force"].iter().chain(&WAIT))?;
    wait::until("the interface without its instance", wait::TINY_BOOT, || {
        Ok((field(&cloud, &eni, "status")? == "Available").then_some(()))
    })?;
    ensure!(field(&cloud, &eni, "private_ip_address")? == address);
    cloud.run(["eni", "delete", &eni])?;
    network.delete()?;
    leaks::none(&cloud, &[first, second, eni])
}

#[test]
fn a_tap_that_somebody_removes_is_made_again_under_the_guest() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "removed-tap")?;
    network.allow(80)?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let id = booted(&cloud, &network, &image, &kind)?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    ensure!(page(&cloud, &id, &address)?.contains("a tiny instance"));
    let host = cloud.hosts()?.into_iter().next().context("no host")?;
    let remove = "for ns in $(ip netns list | awk '{print $1}'); do \
                  for tap in $(ip -n $ns -o link show type tun | awk -F': ' '{print $2}'); do \
                  ip -n $ns link del $tap; echo removed $tap; done; done";
    ensure!(cloud.on_host(&host, remove)?.contains("removed"), "there was no tap");
    wait::until("an answer through a new tap", wait::TINY_BOOT, || {
        Ok(page(&cloud, &id, &address)?.contains("a tiny instance").then_some(()))
    })?;
    ensure!(!cloud.console(&id)?.contains("boot 2"), "the guest was restarted");
    network.delete()?;
    leaks::none(&cloud, &[id])
}
