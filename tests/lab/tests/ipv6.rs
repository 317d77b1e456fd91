//! IPv6 between guests of one VPC, by addresses that the API gave.

use anyhow::{Context as _, Result, bail, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;

fn address(cloud: &Cloud, instance: &str) -> Result<String> {
    let shown = cloud.json(["eni", "list", "--instance", instance])?;
    let value = shown.pointer("/0/ipv6_sets/0/ipv6_address").and_then(Value::as_str);
    Ok(value.with_context(|| format!("{instance} has no IPv6 address: {shown}"))?.to_owned())
}

#[test]
fn guests_of_a_vpc_reach_each_other_over_ipv6() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "ipv6")?;
    cloud.run(["vpc", "modify", &network.vpc, "--ipv6", "true"])?;
    cloud.run(["vswitch", "modify", &network.vswitch, "--ipv6", "7"])?;
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut order = network.run(&image, &kind);
        order.extend(["--ipv6-count", "1", "--wait", "--timeout", "300"]);
        ids.push(cloud.id(&order)?);
    }
    let mut addresses = Vec::new();
    for id in &ids {
        wait::for_console(&cloud, id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
        let own = address(&cloud, id)?;
        // As a person does on an image without a DHCPv6 client; the router is found by itself.
        let set_up = format!(
            "ip -6 addr add {own}/128 dev eth0; \
             until ip -6 route | grep -q ^default; do sleep 1; done; echo \"has a $(echo router)\""
        );
        wait::in_guest(&cloud, id, &set_up, "has a router")?;
        let ask = "printf 'GET /latest/meta-data/network/interfaces/macs/%s/ipv6s HTTP/1.0\\r\\n\\r\\n' \
                   $(cat /sys/class/net/eth0/address) | nc -w 10 100.100.100.200 80 | tail -n 1; echo";
        wait::in_guest(&cloud, id, ask, &format!("[{own}]"))?;
        addresses.push(own);
    }
    let ([first, second], [_, of_second]) = (ids.as_slice(), addresses.as_slice()) else {
        bail!("two of each were made")
    };
    let ping = format!("ping6 -c 3 -W 10 {of_second} >/dev/null 2>&1; echo \"ping gave $?.\"");
    wait::in_guest(&cloud, first, &ping, "ping gave 0.")?;

    // An address that was taken away passes nothing, though the guest still has it.
    let eni = cloud.json(["eni", "list", "--instance", second])?;
    let eni = eni.pointer("/0/network_interface_id").and_then(Value::as_str);
    cloud.run(["eni", "unassign-ipv6", eni.context("no interface")?, of_second])?;
    wait::until("no answer at an address that was taken away", wait::TINY_BOOT, || {
        let silent = cloud.ask(
            first,
            &format!("ping6 -c 1 -W 3 {of_second} >/dev/null 2>&1 || echo \"is $(echo silent)\"\n"),
            "is silent",
            std::time::Duration::from_secs(20),
        );
        Ok(silent.ok())
    })?;
    ensure!(address(&cloud, second).is_err(), "it is still shown");
    network.delete()?;
    leaks::none(&cloud, &ids)
}
