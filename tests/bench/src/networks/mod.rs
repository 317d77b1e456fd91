//! What a host's VPC networks cost: in this machine's own kernel, without guests. Frames are put into
//! taps and taken from taps by this process, so that nothing but the host's side is measured.

mod cloud;
mod frames;

use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use api::host::RuleSpec;
use clap::Args;
use cloud::{Cloud, RULES_PORT};
use frames::Wire;
use std::{path::PathBuf, time::Instant};

const GROUP: &str = "networks";
/// Members of the group that others are compared with.
const FEW: usize = 10;
const MEMBERS: [usize; 2] = [1_000, 10_000];
const MOST_RULES: usize = 200;

/// What to measure, and how often.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Pairs of each comparison.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Packets of each figure.
    #[arg(long, default_value_t = 50_000)]
    packets: u32,
    /// VPCs of the host that comes up from nothing.
    #[arg(long, default_value_t = 200)]
    vpcs: u32,
    /// Its ENIs.
    #[arg(long, default_value_t = 1_000)]
    enis: u32,
    /// Folder for what is needed meanwhile.
    #[arg(long, default_value = "target/bench")]
    work: PathBuf,
}

/// Runs every measurement.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        whole_host(options).await?;
        updates(options).await?;
        packets(options).await
    })
}

/// A host with all its networks from nothing, and an agent that finds them there.
async fn whole_host(options: &Options) -> Result<()> {
    let mut cloud = Cloud::new(&options.work, None).await?;
    for vni in 1..=options.vpcs {
        let group = format!("sg-{vni}");
        cloud.add_vpc(vni);
        cloud.add_group(vni, &group, vec![cloud::accept(RULES_PORT, 1)]);
        for number in 0..options.enis / options.vpcs {
            cloud.add_eni(vni, number, &[&group]);
        }
    }
    let start = Instant::now();
    cloud.reconcile().await?;
    let from_nothing = start.elapsed().as_secs_f64();
    cloud.restart().await?;
    let start = Instant::now();
    cloud.reconcile().await?;
    let restart = start.elapsed().as_secs_f64();
    let what = format!("{} ENIs in {} VPCs", cloud.enis(), options.vpcs);
    cloud.demolish().await?;
    let row = |name, seconds, limit| {
        Row::new(GROUP, name, "s", &what, Goal::OursBelow(limit), &[(seconds, limit)])
    };
    row("net_host_from_nothing", from_nothing, 60.0).print()?;
    row("net_agent_restart", restart, 5.0).print()
}

/// A VPC whose first ENI is in a group of so many members, which its second lets in.
async fn grown(options: &Options, members: usize, counting: bool) -> Result<Cloud> {
    let mut cloud = Cloud::new(&options.work, counting.then_some("nft-bytes")).await?;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-peers", Vec::new());
    let by_group = RuleSpec { peer_group_id: "sg-peers".to_owned(), ..cloud::accept(53, 1) };
    cloud.add_group(1, "sg-server", vec![by_group]);
    cloud.add_eni(1, 0, &["sg-peers"]);
    cloud.add_eni(1, 1, &["sg-server"]);
    cloud.add_members("sg-peers", members);
    cloud.reconcile().await?;
    Ok(cloud)
}

/// What one more member costs.
async fn updates(options: &Options) -> Result<()> {
    for members in MEMBERS {
        let (mut times, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            let (many, few) =
                (update(options, members, false).await?, update(options, FEW, false).await?);
            times.push((many.0, few.0));
            let (many, few) =
                (update(options, members, true).await?, update(options, FEW, true).await?);
            bytes.push((many.1, few.1));
        }
        let against = format!("a group of {FEW}");
        let row = |what: &str, unit, pairs: &[_]| {
            let name = format!("net_member_update_{what}_{members}");
            Row::new(GROUP, &name, unit, &against, Goal::RatioAtMost(1.2), pairs).print()
        };
        row("ms", "ms", &times)?;
        row("bytes", "bytes", &bytes)?;
    }
    Ok(())
}

/// Milliseconds of one update, the least of several, and bytes given to nft.
async fn update(options: &Options, members: usize, counting: bool) -> Result<(f64, f64)> {
    let mut cloud = grown(options, members, counting).await?;
    let (mut least, mut bytes) = (f64::MAX, 0.0);
    for _ in 0..5 {
        cloud.add_members("sg-peers", 1);
        let before = cloud.bytes_given()?;
        let start = Instant::now();
        let changes = cloud.reconcile().await?;
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
        ensure!(changes > 0, "one more member changed nothing");
        bytes = (cloud.bytes_given()? - before) as f64;
    }
    cloud.demolish().await?;
    Ok((least, bytes))
}

/// Packets per second between two ENIs, of one established flow and of ever new ones.
async fn packets(options: &Options) -> Result<()> {
    for members in MEMBERS {
        let name = format!("members_{members}");
        let mut pairs = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            let many = rate(grown(options, members, false).await?, options).await?;
            let few = rate(grown(options, FEW, false).await?, options).await?;
            pairs.0.push((many.0, few.0));
            pairs.1.push((many.1, few.1));
        }
        print_rates(&name, &format!("a group of {FEW}"), &pairs)?;
    }
    let mut pairs = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let many = rate(ruled(options, MOST_RULES).await?, options).await?;
        let few = rate(ruled(options, 1).await?, options).await?;
        pairs.0.push((many.0, few.0));
        pairs.1.push((many.1, few.1));
    }
    print_rates(&format!("rules_{MOST_RULES}"), "1 rule", &pairs)
}

type Pairs = Vec<(f64, f64)>;

fn print_rates(name: &str, against: &str, pairs: &(Pairs, Pairs)) -> Result<()> {
    for (kind, pairs) in [("established", &pairs.0), ("new_flows", &pairs.1)] {
        let name = format!("net_packets_{kind}_{name}");
        Row::new(GROUP, &name, "packets/s", against, Goal::RatioAtLeast(0.8), pairs).print()?;
    }
    Ok(())
}

/// Two ENIs; so many rules of the second's group, each of its own priority, of which the last but one
/// lets the first in.
async fn ruled(options: &Options, rules: usize) -> Result<Cloud> {
    let mut cloud = Cloud::new(&options.work, None).await?;
    cloud.add_vpc(1);
    cloud.add_group(1, "sg-peers", Vec::new());
    let mut all: Vec<_> = (0..rules)
        .map(|n| {
            let priority = u32::try_from(n * 99 / rules.max(1)).unwrap_or(0) + 1;
            cloud::accept(10_000 + u32::try_from(n).unwrap_or(0) * 2, priority)
        })
        .collect();
    if let Some(last) = all.last_mut() {
        (last.port_from, last.port_to) = (53, 53);
    }
    cloud.add_group(1, "sg-server", all);
    cloud.add_eni(1, 0, &["sg-peers"]);
    cloud.add_eni(1, 1, &["sg-server"]);
    cloud.reconcile().await?;
    Ok(cloud)
}

/// Packets per second of one established flow, and of as many flows as packets.
async fn rate(cloud: Cloud, options: &Options) -> Result<(f64, f64)> {
    let (from, to) = (cloud.eni(0).clone(), cloud.eni(1).clone());
    let (sender, receiver) = (cloud.tap(&from).await?, cloud.tap(&to).await?);
    let packets = options.packets;
    let figures = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut wire = Wire::new(sender, receiver, &from, &to)?;
        wire.warm_up().context("no packet came through")?;
        wire.establish(40_000)?;
        let one = wire.packets_per_second(packets, |_| 40_000)?;
        // A new flow is remembered for a while; no more than the table takes.
        let flows = packets.min(20_000);
        let new = wire.packets_per_second(flows, |n| 20_000 + (n % 20_000) as u16)?;
        Ok((one, new))
    })
    .await??;
    cloud.demolish().await?;
    Ok(figures)
}
