//! Flows between guests of different hosts that run while rules change under them.

use anyhow::{Context as _, Result, ensure};
use api::host::RuleSpec;
use lab_tests::{
    Cloud,
    grouped::{self, Guest, rule},
    leaks,
    prober::ANSWER,
    wait,
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// The flows, by what the server counts them under and in the order that the client started them.
const FLOWS: [&str; 4] = ["t8001", "u8001", "t8002", "u8002"];

/// Flows from the second guest to the first, which sends back what it gets.
struct Flows<'a> {
    guests: &'a mut [Guest],
    orders: u32,
}

impl Flows<'_> {
    fn order(&mut self, guest: usize, order: &str) -> Result<String> {
        self.orders += 1;
        let start = format!("{order} {}", self.orders);
        let screen = &mut self.guests[guest].screen;
        screen.line(&start)?;
        screen.wait(&start, ANSWER)
    }

    /// Bytes of each flow that came back to the client.
    fn came_back(&mut self) -> Result<Vec<u64>> {
        let answer = self.order(1, "count")?;
        answer.split_whitespace().map(|count| Ok(count.parse()?)).collect()
    }

    /// Bytes of each flow that came to the server.
    fn came_in(&mut self) -> Result<[u64; 4]> {
        let answer = self.order(0, "heard")?;
        let mut counts = [0; 4];
        for (count, port) in counts.iter_mut().zip(FLOWS) {
            let found = answer.split_whitespace().find_map(|word| word.strip_prefix(port));
            let found = found.and_then(|rest| rest.strip_prefix('='));
            *count = found.with_context(|| format!("no {port} in {answer}"))?.parse()?;
        }
        Ok(counts)
    }

    /// That two of the flows, from `gone` on, stop, and the other two go on, as both ends see it.
    fn have_stopped(&mut self, what: &str, gone: usize, began: Instant) -> Result<()> {
        let stopped = wait::until("the flows to stop", Duration::from_secs(20), || {
            let before = self.came_in()?;
            thread::sleep(Duration::from_millis(500));
            let after = self.came_in()?;
            Ok((before[gone..gone + 2] == after[gone..gone + 2]).then(|| began.elapsed()))
        })?;
        let before = (self.came_in()?, self.came_back()?);
        thread::sleep(Duration::from_secs(5));
        let after = (self.came_in()?, self.came_back()?);
        let more: Vec<[u64; 2]> = (0..FLOWS.len())
            .map(|at| [after.0[at] - before.0[at], after.1[at] - before.1[at]])
            .collect();
        println!(
            "{what}: seen to have stopped after {stopped:.1?}; in the 5 s after that {more:?}"
        );
        ensure!(more[gone..gone + 2] == [[0, 0]; 2], "{what}: not stopped: {more:?}");
        let going = 2 - gone;
        let live = &more[going..going + 2];
        ensure!(live.iter().flatten().all(|bytes| *bytes >= 10), "{what}: stopped too: {more:?}");
        Ok(())
    }
}

#[test]
fn a_revoked_rule_stops_its_running_flows_and_no_others() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    ensure!(cloud.hosts()?.len() >= 3, "this test needs a lab of three hosts: lab up --hosts 3");
    let mut vpc = grouped::vpc(&cloud, "flows", "normal", 2)?;
    let mut guests = grouped::guests(&cloud, 0, &mut vpc, &[&[0], &[1]])?;
    let hosts = grouped::hosts_of(&cloud, &guests, 0)?;
    ensure!(hosts.len() == 2, "both are on {hosts:?}");
    let clients = vpc.groups[1].spec.security_group_id.clone();
    let from_clients = |protocol: &str, port: u16| RuleSpec {
        peer_group_id: clients.clone(),
        ..rule(false, protocol, (port, port), "", 1)
    };
    let mut rules: Vec<RuleSpec> = [8001, 8002]
        .into_iter()
        .flat_map(|port| [from_clients("tcp", port), from_clients("udp", port)])
        .collect();
    vpc.groups[0].change(&cloud, rules.clone())?;

    let address = guests[0].address;
    let mut flows = Flows { guests: &mut guests, orders: 0 };
    // The rules are in force in a moment; a flow of TCP tries so long.
    for (order, flow) in
        ["t:@:8001", "u:@:8001:5001", "t:@:8002", "u:@:8002:5002"].iter().enumerate()
    {
        let flow = flow.replace('@', &address.to_string());
        let client = &mut flows.guests[1].screen;
        client.line(&format!("flow {order} {flow}"))?;
        client.wait(&format!("flow {order} started"), ANSWER)?;
    }
    let all_run = wait::until("four flows that run", wait::TINY_BOOT, || {
        let counts = flows.came_back()?;
        Ok((counts.len() == 4 && counts.iter().all(|count| *count > 20)).then_some(counts))
    })?;
    println!("bytes that came back before: {all_run:?}");

    // One rule of TCP and one of UDP go.
    rules.retain(|rule| rule.port_from == 8002);
    let began = Instant::now();
    vpc.groups[0].change(&cloud, rules.clone())?;
    flows.have_stopped("rules revoked", 0, began)?;

    // They come back, and the sender's own group holds the others back.
    rules.extend([from_clients("tcp", 8001), from_clients("udp", 8001)]);
    vpc.groups[0].change(&cloud, rules)?;
    let again = flows.came_back()?;
    wait::until("the flows to go on", Duration::from_secs(60), || {
        let counts = flows.came_back()?;
        Ok((counts[0] > again[0] + 5 && counts[1] > again[1] + 5).then_some(()))
    })?;
    let drops = ["tcp", "udp"].map(|protocol| RuleSpec {
        drop: true,
        ..rule(true, protocol, (8002, 8002), "10.20.0.0/16", 1)
    });
    let began = Instant::now();
    vpc.groups[1].change(&cloud, drops.to_vec())?;
    flows.have_stopped("drops authorized", 2, began)?;

    let ids: Vec<String> = guests.iter().map(|guest| guest.id.clone()).collect();
    drop(guests);
    grouped::remove(&cloud, &vpc)?;
    leaks::none(&cloud, &ids)
}
