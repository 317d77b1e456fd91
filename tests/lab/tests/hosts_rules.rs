//! Security groups over several hosts: what real packets do, against what the rules say.

use anyhow::{Context as _, Result, bail, ensure};
use api::host::{PrefixListSpec, RuleSpec, SecurityGroupSpec};
use lab_tests::{
    Cloud,
    grouped::{self, Guest, line, markers, rule},
    leaks,
    prober::{ANSWER, MARKERS, PORTS},
};
use rand::{
    Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _, seq::SliceRandom as _,
};
use reachability::{Packet, Protocol, decide};
use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Instant,
};

/// Where a TCP probe comes from, as far as rules of this test tell source ports apart.
const EPHEMERAL: u16 = 40_000;
/// Probes that were not answered though they should have been are asked so often.
const ATTEMPTS: usize = 4;

/// What random rules may name.
struct Names {
    addresses: Vec<Ipv4Addr>,
    groups: Vec<String>,
    prefix_list: String,
}

/// The block of so many bits that an address is in.
fn block(address: Ipv4Addr, bits: u32) -> String {
    let mask = u32::MAX << (32 - bits);
    format!("{}/{bits}", Ipv4Addr::from(u32::from(address) & mask))
}

fn random_rule(random: &mut StdRng, names: &Names) -> RuleSpec {
    let one = |random: &mut StdRng, of: &[&str]| -> String {
        (*of.choose(random).unwrap_or(&"all")).to_owned()
    };
    let protocol = one(random, &["tcp", "tcp", "tcp", "udp", "udp", "udp", "icmp", "all", "gre"]);
    let mut new = rule(random.random(), &protocol, (0, 0), "", random.random_range(2..=4));
    new.drop = random.random_bool(0.4);
    if ["tcp", "udp"].contains(&protocol.as_str()) {
        let mut ends = [random.random_range(8000..=8005), random.random_range(8000..=8005)];
        ends.sort_unstable();
        let [from, to] = *[ends, ends, [ends[0]; 2], [ends[0]; 2], [0, 0], [1, 65_535]]
            .choose(random)
            .unwrap_or(&ends);
        (new.port_from, new.port_to) = (from, to);
        if random.random_bool(0.2) {
            new.source_port_range = one(random, &["1/20000", "20000/65535", "5001/5003"]);
        }
    }
    let address = names.addresses.choose(random).copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
    match random.random_range(0..10) {
        0 | 1 if !names.groups.is_empty() => {
            new.peer_group_id = names.groups.choose(random).cloned().unwrap_or_default();
        }
        2 => new.prefix_list_id.clone_from(&names.prefix_list),
        3 => new.cidr = one(random, &["192.168.0.0/16", "10.20.2.0/24", "100.104.0.0/16"]),
        4 | 5 => new.cidr = one(random, &["0.0.0.0/0", "10.20.0.0/16", "10.20.1.0/24"]),
        6 => new.cidr = block(address, random.random_range(28..=31)),
        _ => new.cidr = block(address, 32),
    }
    new
}

/// A packet, and how the prober is told of it.
struct Probe {
    from: usize,
    to: usize,
    packet: Packet,
    text: String,
}

/// What a guest asks others of its VPC.
fn random_probes(random: &mut StdRng, guests: &[Guest], from: usize) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut sources: Vec<u16> = (5001..=5006).collect();
    sources.shuffle(random);
    for (to, peer) in guests.iter().enumerate() {
        if to == from || peer.vpc != guests[from].vpc {
            continue;
        }
        let mut add = |protocol, source_port: u16, destination_port: u16| {
            let address = peer.address;
            let text = match protocol {
                Protocol::Tcp => format!("t:{address}:{destination_port}"),
                Protocol::Udp => format!("u:{address}:{destination_port}:{source_port}"),
                _ => format!("i:{address}"),
            };
            let packet = Packet {
                protocol,
                source: IpAddr::V4(guests[from].address),
                source_port,
                destination: IpAddr::V4(address),
                destination_port,
            };
            probes.push(Probe { from, to, packet, text });
        };
        let mut ports = PORTS;
        ports.shuffle(random);
        for port in &ports[..2] {
            add(Protocol::Tcp, EPHEMERAL, *port);
        }
        ports.shuffle(random);
        for port in &ports[..2] {
            add(Protocol::Udp, sources.pop().unwrap_or(5007), *port);
        }
        add(Protocol::Icmp, 0, 0);
    }
    probes
}

/// Whether the sender's groups and the receiver's let a packet pass, and what decides.
fn expected(
    probe: &Probe,
    guests: &[Guest],
    groups: &[SecurityGroupSpec],
    lists: &[PrefixListSpec],
) -> (bool, String) {
    let of = |guest: &Guest| -> Vec<&SecurityGroupSpec> {
        guest.groups.iter().filter_map(|number| groups.get(*number)).collect()
    };
    let out = decide(&of(&guests[probe.from]), groups, lists, true, &probe.packet);
    let into = decide(&of(&guests[probe.to]), groups, lists, false, &probe.packet);
    (out.accepted && into.accepted, format!("out: {out:?}, in: {into:?}"))
}

/// Asks all probes, each guest its own at the same time, and gives which were answered.
fn ask(guests: &mut [Guest], probes: &[Probe], marker: u16, number: &mut u32) -> Result<Vec<bool>> {
    *number += 1;
    let start = format!("probe {number}");
    let mut asked = Vec::new();
    for (from, guest) in guests.iter_mut().enumerate() {
        let own: Vec<usize> = (0..probes.len()).filter(|at| probes[*at].from == from).collect();
        if own.is_empty() {
            continue;
        }
        let texts: Vec<&str> = own.iter().map(|at| probes[*at].text.as_str()).collect();
        guest.screen.line(&format!("{start} {marker} {}", texts.join(" ")))?;
        asked.push((from, own));
    }
    let mut answered = vec![false; probes.len()];
    for (from, own) in asked {
        let answer = guests[from].screen.wait(&start, ANSWER)?;
        let Some(digits) = answer.strip_prefix("ok ").filter(|text| text.len() == own.len()) else {
            bail!("{}: the rules are not in force: {answer}", guests[from].id);
        };
        for (at, digit) in own.into_iter().zip(digits.chars()) {
            answered[at] = digit == '1';
        }
    }
    Ok(answered)
}

/// How many sets, and the seed of their randomness.
fn setting(name: &str) -> Result<Option<u64>> {
    let Some(text) = env::var_os(name) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).with_context(|| format!("{name} is {text:?}, which is no number"))
}

#[test]
fn random_rules_do_to_packets_what_the_evaluator_says() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    ensure!(cloud.hosts()?.len() >= 3, "this test needs a lab of three hosts: lab up --hosts 3");
    let seed = setting("ECS_RULE_SEED")?.unwrap_or_else(rand::random);
    let sets = setting("ECS_RULE_SETS")?.unwrap_or(60);
    println!("{sets} sets of rules, ECS_RULE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    // Groups of one kind and of the other; two VPCs with the same addresses.
    let mut vpcs = [
        grouped::vpc(&cloud, "basic", "normal", 3)?,
        grouped::vpc(&cloud, "advanced", "enterprise", 2)?,
    ];
    let mut guests_all = grouped::guests(&cloud, 0, &mut vpcs[0], &[&[0], &[1, 2], &[2]])?;
    guests_all.extend(grouped::guests(&cloud, 1, &mut vpcs[1], &[&[0], &[1]])?);
    let guests = &mut guests_all;
    for number in 0..vpcs.len() {
        let hosts = grouped::hosts_of(&cloud, guests, number)?;
        ensure!(hosts.len() > 1, "all guests of a VPC are on {hosts:?}");
    }
    let cidrs = [block(guests[0].address, 32), block(guests[2].address, 31)];
    let order = ["prefix-list", "create", "--name", "random", "--max-entries", "2"];
    let prefix_list =
        cloud.id(order.iter().chain(&["--entry", &cidrs[0], "--entry", &cidrs[1]]))?;
    let lists = [PrefixListSpec { prefix_list_id: prefix_list.clone(), cidrs: cidrs.to_vec() }];
    let names: Vec<Names> = (0..vpcs.len())
        .map(|number| {
            let addresses = guests.iter().filter(|guest| guest.vpc == number);
            let of_vpc = vpcs[number].groups.iter().filter(|group| !group.spec.enterprise);
            Names {
                addresses: addresses.map(|guest| guest.address).collect(),
                groups: of_vpc.map(|group| group.spec.security_group_id.clone()).collect(),
                prefix_list: prefix_list.clone(),
            }
        })
        .collect();

    let began = Instant::now();
    let (mut number, mut done, mut round) = (0, 0, 0);
    let (mut passed, mut held, mut repeated) = (0, 0, 0);
    while done < sets {
        let marker = MARKERS[round % 2];
        round += 1;
        let at = |what: &str| format!("{what}, in round {round} of ECS_RULE_SEED={seed}");
        thread::scope(|scope| -> Result<()> {
            let mut orders = Vec::new();
            for (vpc, names) in vpcs.iter_mut().zip(&names) {
                for group in &mut vpc.groups {
                    let count = random.random_range(0..=7);
                    let rules = (0..count).map(|_| random_rule(&mut random, names));
                    let rules = markers(Some(marker)).chain(rules).collect();
                    let inner = !group.spec.enterprise && random.random_bool(0.25);
                    let cloud = &cloud;
                    done += 1;
                    orders.push(scope.spawn(move || {
                        if inner {
                            group.set_inner_access(cloud, !group.spec.inner_accept)?;
                        }
                        group.change(cloud, rules)
                    }));
                }
            }
            for order in orders {
                order.join().unwrap_or_else(|_| bail!("an order did not end"))?;
            }
            Ok(())
        })
        .with_context(|| at("a set was refused"))?;

        let mut probes: Vec<Probe> =
            (0..guests.len()).flat_map(|from| random_probes(&mut random, guests, from)).collect();
        let groups: Vec<Vec<SecurityGroupSpec>> = vpcs
            .iter()
            .map(|vpc| vpc.groups.iter().map(|group| group.spec.clone()).collect())
            .collect();
        for attempt in 1..=ATTEMPTS {
            let answered =
                ask(guests, &probes, marker, &mut number).with_context(|| at("probes"))?;
            let mut silent = Vec::new();
            for (probe, answered) in probes.into_iter().zip(answered) {
                let groups = &groups[guests[probe.from].vpc];
                let (accepted, why) = expected(&probe, guests, groups, &lists);
                match (accepted, answered) {
                    (true, true) => passed += 1,
                    (false, false) => held += 1,
                    // A packet that got lost is no difference yet.
                    (true, false) if attempt < ATTEMPTS => silent.push(probe),
                    _ => {
                        let packet = probe.packet;
                        let groups: Vec<_> = groups
                            .iter()
                            .flat_map(|group| {
                                let id = &group.security_group_id;
                                group.rules.iter().map(move |rule| format!("{id} {}", line(rule)))
                            })
                            .collect();
                        bail!(
                            "{}: {packet}: answered {answered}, but the rules say {accepted}: \
                             {why}\n{}",
                            at("a difference"),
                            groups.join("\n")
                        );
                    }
                }
            }
            probes = silent;
            if probes.is_empty() {
                break;
            }
            repeated += probes.len();
        }
    }
    println!(
        "{done} sets of rules in {:.0} s: {passed} probes passed and {held} were held back, as the \
         rules say; {repeated} were asked again; no difference",
        began.elapsed().as_secs_f64()
    );

    let ids: Vec<String> = guests.iter().map(|guest| guest.id.clone()).collect();
    drop(guests_all);
    for vpc in &vpcs {
        grouped::remove(&cloud, vpc)?;
    }
    cloud.run(["prefix-list", "delete", &prefix_list])?;
    leaks::none(&cloud, &ids)
}
