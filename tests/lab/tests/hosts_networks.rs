//! VPCs over several hosts: who reaches whom with real packets, whatever host they are on.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, leaks, wait};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

const WAIT: [&str; 3] = ["--wait", "--timeout", "300"];

/// One guest, and what it is to the test.
struct Guest {
    id: String,
    address: String,
    vpc: usize,
    /// Which of its VPC's two groups it is in.
    group: usize,
}

struct Vpc {
    id: String,
    vswitch: String,
    /// The first is reached on port 80 by the second; members of one reach each other.
    groups: [String; 2],
}

fn vpc(cloud: &Cloud, name: &str) -> Result<Vpc> {
    let id = cloud.id(["vpc", "create", "--name", name, "--cidr", "10.20.0.0/16"])?;
    let vswitch = ["vswitch", "create", "--vpc", &id, "--name", name, "--cidr", "10.20.1.0/24"];
    let vswitch = cloud.id(vswitch)?;
    let group = |kind: &str| {
        let name = format!("{name}-{kind}");
        cloud.id(["security-group", "create", "--vpc", &id, "--name", &name])
    };
    let groups = [group("web")?, group("client")?];
    cloud.run([
        "security-group",
        "authorize",
        &groups[0],
        "--port",
        "80/80",
        "--group",
        &groups[1],
    ])?;
    Ok(Vpc { id, vswitch, groups })
}

fn remove(cloud: &Cloud, vpc: &Vpc) -> Result<()> {
    let instances = cloud.json(["instance", "list", "--vpc", &vpc.id])?;
    for instance in instances.as_array().into_iter().flatten() {
        let id = instance["instance_id"].as_str().unwrap_or_default();
        cloud.run(["instance", "delete", id, "--force", "--wait", "--timeout", "120"])?;
    }
    for group in &vpc.groups {
        // The first one's rule names the second.
        cloud.run(["security-group", "delete", group])?;
    }
    cloud.run(["vswitch", "delete", &vpc.vswitch])?;
    cloud.run(["vpc", "delete", &vpc.id]).map(drop)
}

/// The host an instance is on.
fn host_of(cloud: &Cloud, id: &str) -> Result<String> {
    let eni = cloud.json(["eni", "list", "--instance", id])?;
    let host = eni.pointer("/0/host_id").and_then(Value::as_str).filter(|host| !host.is_empty());
    Ok(host.with_context(|| format!("{id} is on no host: {eni}"))?.to_owned())
}

/// What each address answers a guest on port 80, and whether it answers a ping: address to id or
/// nothing, and `ping` or nothing.
fn reach(
    cloud: &Cloud,
    from: &Guest,
    addresses: &[String],
    round: u32,
) -> Result<BTreeMap<String, (String, bool)>> {
    let list = addresses.join(" ");
    let ask = format!(
        "for a in {list}; do \
         n=$(printf 'GET /id HTTP/1.0\\r\\n\\r\\n' | nc -w 4 $a 80 2>/dev/null | tail -n 1); \
         p=; ping -c 1 -W 3 $a >/dev/null 2>&1 && p=ping; \
         echo \"reach{round}: $a is ${{n:-nobody}} ${{p:-silent}}\"; done; echo \"reached{round} $?\""
    );
    cloud.type_in(&from.id, &format!("{ask}\n"))?;
    let limit = Duration::from_secs(60 + 12 * addresses.len() as u64);
    let console = wait::for_console(cloud, &from.id, &format!("reached{round} 0"), limit)?;
    let start = format!("reach{round}: ");
    let mut found = BTreeMap::new();
    for line in console.lines().filter_map(|line| line.trim().strip_prefix(&start)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [address, "is", name, ping] = words[..] {
            found.insert(address.to_owned(), (name.to_owned(), ping == "ping"));
        }
    }
    ensure!(found.len() == addresses.len(), "{} said: {found:?}", from.id);
    Ok(found)
}

/// Whether the groups let `from` reach `to` on port 80, and by ping.
fn allowed(from: &Guest, to: &Guest) -> (bool, bool) {
    let same_group = from.group == to.group;
    (same_group || (to.group == 0 && from.group == 1), same_group)
}

fn compare(cloud: &Cloud, guests: &[Guest], round: u32) -> Result<()> {
    for from in guests {
        let mut expected = BTreeMap::new();
        for to in guests.iter().filter(|to| to.vpc == from.vpc && to.id != from.id) {
            let (http, ping) = allowed(from, to);
            let name = if http { to.id.clone() } else { "nobody".to_owned() };
            expected.insert(to.address.clone(), (name, ping));
        }
        // One that nobody has.
        expected.insert("10.20.1.200".to_owned(), ("nobody".to_owned(), false));
        let addresses: Vec<String> = expected.keys().cloned().collect();
        let found = reach(cloud, from, &addresses, round)?;
        ensure!(found == expected, "{}: found {found:?}, expected {expected:?}", from.id);
    }
    Ok(())
}

#[test]
fn two_vpcs_with_one_range_span_hosts_and_reach_what_their_groups_say() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    ensure!(cloud.hosts()?.len() >= 3, "this test needs a lab of three hosts: lab up --hosts 3");
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let vpcs = [vpc(&cloud, "one")?, vpc(&cloud, "two")?];
    let mut guests = Vec::new();
    for (number, groups) in [&[0, 1, 1][..], &[0, 1][..]].into_iter().enumerate() {
        for group in groups {
            let vpc = &vpcs[number];
            let order = ["instance", "run", "--image", &image, "--type", &kind];
            let place = ["--vswitch", &vpc.vswitch, "--security-group", &vpc.groups[*group]];
            let id = cloud.id(order.iter().chain(&place).chain(&WAIT))?;
            let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
            guests.push(Guest { id, address, vpc: number, group: *group });
        }
    }
    for guest in &guests {
        let line = format!("tiny: instance-id {}", guest.id);
        wait::for_console(&cloud, &guest.id, &line, wait::TINY_BOOT)?;
        let name = format!("echo {} >/www/id; echo \"named $?\"", guest.id);
        wait::in_guest(&cloud, &guest.id, &name, "named 0")?;
    }
    // The ranges overlap, and so do the addresses; the guests of a VPC are on several hosts.
    ensure!(guests[0].address == guests[3].address && guests[1].address == guests[4].address);
    for number in 0..vpcs.len() {
        let of_vpc = guests.iter().filter(|guest| guest.vpc == number);
        let mut hosts = of_vpc.map(|g| host_of(&cloud, &g.id)).collect::<Result<Vec<_>>>()?;
        hosts.sort_unstable();
        hosts.dedup();
        ensure!(hosts.len() > 1, "all of a VPC on {hosts:?}");
    }
    compare(&cloud, &guests, 1)?;

    // What is larger than a packet arrives whole: the MTU is right from end to end.
    let (server, client) = (&guests[0], &guests[1]);
    let make = "dd if=/dev/urandom of=/www/large bs=1024 count=512 2>/dev/null; \
                echo \"sum $(md5sum </www/large)\"";
    cloud.type_in(&server.id, &format!("{make}\n"))?;
    let console = wait::for_console(&cloud, &server.id, "\nsum ", Duration::from_secs(90))?;
    let sum = console.lines().filter_map(|line| line.trim().strip_prefix("sum ")).next_back();
    let sum = sum.context("no sum")?.trim().to_owned();
    let fetch = format!(
        "printf 'GET /large HTTP/1.0\\r\\n\\r\\n' | nc {} 80 | tail -c 524288 | md5sum | \
         sed 's/^/got /'",
        server.address
    );
    wait::in_guest(&cloud, &client.id, &fetch, &format!("got {sum}"))?;

    // A rule that goes stops what runs; agents that start anew change nothing.
    for host in cloud.hosts()? {
        cloud.crash(&["agent", "--host", &host])?;
    }
    compare(&cloud, &guests, 2)?;
    let revoke = ["security-group", "revoke", &vpcs[0].groups[0], "--port", "80/80"];
    cloud.run(revoke.iter().chain(&["--group", vpcs[0].groups[1].as_str()]))?;
    wait::until("the revoked rule to be gone on the hosts", wait::TINY_BOOT, || {
        let found = reach(&cloud, client, std::slice::from_ref(&server.address), 3)?;
        Ok((found[&server.address].0 == "nobody").then_some(()))
    })?;

    let ids: Vec<String> = guests.iter().map(|guest| guest.id.clone()).collect();
    for vpc in &vpcs {
        remove(&cloud, vpc)?;
    }
    leaks::none(&cloud, &ids)
}
