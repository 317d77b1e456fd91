//! Public addresses and a NAT gateway with stock guests: who comes in, who gets out and as whom, and how
//! fast.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, Screen, World, leaks, prober, wait, world};
use std::{thread, time::Duration};

const WAIT: [&str; 3] = ["--wait", "--timeout", "300"];
const SHELL: Duration = Duration::from_secs(60);
/// Ports for transfers.
const TAKE: u16 = 8002;
const GIVE: u16 = 8003;
/// Attempts at a transfer: a machine that is busy for a moment makes one slow, or late to be measured.
const ATTEMPTS: usize = 6;

struct Guest {
    id: String,
    address: String,
    screen: Screen,
}

fn booted(cloud: &Cloud, id: String, program: &[u8]) -> Result<Guest> {
    wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    let mut screen = prober::bring(cloud, &id, program)?;
    screen.shell(&format!("echo {id} >/www/id"), SHELL)?;
    Ok(Guest { id, address, screen })
}

impl Guest {
    /// As whom the world sees it, nothing if it does not get there.
    fn name(&mut self) -> Result<String> {
        let (address, port) = (world::ADDRESS, world::NAMES_PORT);
        self.screen.shell(&format!("nc -w 3 {address} {port} </dev/null 2>/dev/null"), SHELL)
    }
}

/// Allocates a public address: its id and the address.
fn allocate(cloud: &Cloud, bandwidth: &str) -> Result<(String, String)> {
    let id = cloud.id(["eip", "allocate", "--bandwidth", bandwidth])?;
    let shown = cloud.json(["eip", "list", &id])?;
    let address = shown.pointer("/0/ip_address").and_then(serde_json::Value::as_str);
    Ok((id, address.with_context(|| format!("no address: {shown}"))?.to_owned()))
}

/// That the world and a guest with a public address are within 5 % of a figure in Mbit/s, each way, on
/// transfers of some seconds.
fn measure(world: &World, guest: &mut Guest, public: &str, mbps: f64) -> Result<()> {
    // Of which the payload is a little less.
    let bytes = (mbps * 1e6 / 8.0 * 5.0) as u64;
    let is_right = |speed: f64| (mbps * 0.95..=mbps * 1.05).contains(&speed);
    for way in ["in", "out"] {
        let mut seen = Vec::new();
        while seen.len() < ATTEMPTS {
            let speed = if way == "in" {
                guest.screen.line(&format!("{} take {TAKE}", prober::PATH))?;
                // It listens in a moment.
                thread::sleep(Duration::from_millis(1500));
                let speed = world.transfer(&format!("give {public}:{TAKE} {bytes}"))?;
                guest.screen.wait("took ", SHELL)?;
                speed
            } else {
                thread::scope(|scope| -> Result<f64> {
                    let taken = scope.spawn(|| world.transfer(&format!("take {GIVE}")));
                    thread::sleep(Duration::from_millis(1500));
                    let give = format!("{} give {}:{GIVE} {bytes}", prober::PATH, world::ADDRESS);
                    guest.screen.line(&give)?;
                    guest.screen.wait("gave ", SHELL)?;
                    taken.join().unwrap_or_else(|_| anyhow::bail!("nothing was taken"))
                })?
            };
            seen.push(speed);
            if is_right(speed) {
                break;
            }
        }
        println!("{way}: {seen:.2?} Mbit/s, of {mbps}");
        let last = seen.last().copied().unwrap_or_default();
        ensure!(is_right(last), "{way}: {seen:.2?} Mbit/s instead of {mbps}");
    }
    Ok(())
}

#[test]
fn public_addresses_and_a_gateway_lead_in_and_out_as_fast_as_they_should() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    if cloud.is_native()? {
        println!("skipped: this test would change this machine's default route");
        return Ok(());
    }
    let program = prober::build()?;
    let hosts = cloud.hosts()?;
    let world = World::new(&cloud, hosts.first().context("no host")?, &program)?;
    let network = Network::new(&cloud, "edge")?;
    network.allow(prober::PORT)?;
    // Groups judge who it is that comes in, and where to in private.
    let person = format!("{}/32", world::ADDRESS);
    for (protocol, port) in [("tcp", "80/80"), ("tcp", "8002/8002"), ("icmp", "-1/-1")] {
        let order = ["security-group", "authorize", &network.group, "--protocol", protocol];
        cloud.run(order.iter().chain(&["--port", port, "--cidr", &person]))?;
    }
    let kind = cloud.smallest_type()?;
    let image = cloud.image("tiny")?;
    let order = || cloud.id(network.run(&image, &kind));
    let (first, second) = (order()?, order()?);
    let mut first = booted(&cloud, first, &program)?;
    let mut second = booted(&cloud, second, &program)?;
    ensure!(first.name()?.is_empty(), "it gets out without a public address");

    // One that is associated leads in and out.
    let (eip, public) = allocate(&cloud, "10")?;
    cloud.run(["eip", "associate", &eip, &first.id].iter().chain(&WAIT))?;
    wait::until("the page of the first by its public address", wait::TINY_BOOT, || {
        Ok((world.page(&public, 80)? == first.id).then_some(()))
    })?;
    ensure!(world.pings(&public)?, "no ping");
    ensure!(first.name()? == public, "it leaves as {}", first.name()?);
    ensure!(world.page(&public, 8004)?.is_empty(), "a port that no rule accepts answers");
    ensure!(second.name()?.is_empty(), "the other one gets out too");

    // A gateway for those that have none.
    let order = ["nat-gateway", "create", "--vpc", &network.vpc, "--vswitch", &network.vswitch];
    let gateway = cloud.id(order.iter().chain(&WAIT))?;
    let (gateway_eip, gateway_public) = allocate(&cloud, "50")?;
    cloud.run(["eip", "associate", &gateway_eip, &gateway].iter().chain(&WAIT))?;
    let order = ["nat-gateway", "add-snat", &gateway, "--vswitch", &network.vswitch];
    cloud.run(order.iter().chain(&["--address", &gateway_public]))?;
    wait::until("the second to leave as the gateway", wait::TINY_BOOT, || {
        Ok((second.name()? == gateway_public).then_some(()))
    })?;
    ensure!(first.name()? == public, "its own address comes first");
    ensure!(world.page(&gateway_public, 8080)?.is_empty(), "no DNAT entry, but an answer");
    let (external, internal) = (format!("{gateway_public}:8080"), format!("{}:80", second.address));
    let order = ["nat-gateway", "add-dnat", &gateway, "--external", &external];
    cloud.run(order.iter().chain(&["--internal", &internal]))?;
    wait::until("the page of the second by the gateway", wait::TINY_BOOT, || {
        Ok((world.page(&gateway_public, 8080)? == second.id).then_some(()))
    })?;

    // As fast as it is said to be: the address, then more of it, then the instance's type.
    measure(&world, &mut first, &public, 10.0)?;
    cloud.run(["eip", "modify", &eip, "--bandwidth", "20"])?;
    thread::sleep(Duration::from_secs(5));
    measure(&world, &mut first, &public, 20.0)?;
    let types = cloud.json(["instance-type", "list"])?;
    let own =
        types.as_array().into_iter().flatten().find(|t| t["instance_type_id"] == kind.as_str());
    let kbps = own.and_then(|t| t["instance_bandwidth_rx"].as_u64()).context("no bandwidth")?;
    let mbps = kbps as f64 / 1000.0;
    cloud.run(["eip", "modify", &eip, "--bandwidth", "200"])?;
    thread::sleep(Duration::from_secs(5));
    println!("{kind}: {mbps} Mbit/s");
    measure(&world, &mut first, &public, mbps)?;

    // What is taken away leads nowhere.
    cloud.run(["eip", "unassociate", &eip].iter().chain(&WAIT))?;
    ensure!(world.page(&public, 80)?.is_empty(), "an answer at an address that is nobody's");
    wait::until("the first to leave as the gateway", wait::TINY_BOOT, || {
        Ok((first.name()? == gateway_public).then_some(()))
    })?;
    cloud.run(["nat-gateway", "delete", &gateway, "--force"])?;
    wait::until("nobody to leave", wait::TINY_BOOT, || {
        Ok((first.name()?.is_empty() && second.name()?.is_empty()).then_some(()))
    })?;
    for eip in [eip, gateway_eip] {
        wait::until("the address to be released", Duration::from_secs(60), || {
            cloud.run(["eip", "release", &eip]).map(Some)
        })?;
    }
    let ids = [first.id.clone(), second.id.clone()];
    drop((first, second, world));
    network.delete()?;
    leaks::none(&cloud, &ids)
}
