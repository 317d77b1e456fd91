//! VPCs whose security groups change often, and guests in them that run the prober.

use crate::{Cloud, Screen, prober, wait};
use anyhow::{Context as _, Result, ensure};
use api::host::{RuleSpec, SecurityGroupSpec};
use serde_json::Value;
use std::net::Ipv4Addr;

/// A security group as the cloud has it, with what the evaluator wants to know of it.
#[derive(Debug)]
pub struct Group {
    /// As hosts are told of it.
    pub spec: SecurityGroupSpec,
}

/// A guest that runs the prober.
#[derive(Debug)]
pub struct Guest {
    /// Of the instance.
    pub id: String,
    /// Its private one.
    pub address: Ipv4Addr,
    /// Which of the test's VPCs it is in.
    pub vpc: usize,
    /// Which of its VPC's groups it is in.
    pub groups: Vec<usize>,
    /// Where the prober takes orders.
    pub screen: Screen,
}

/// A VPC of 10.20.0.0/16 with one VSwitch, 10.20.1.0/24.
#[derive(Debug)]
pub struct Vpc {
    /// Of the VPC.
    pub id: String,
    /// Of the VSwitch.
    pub vswitch: String,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// Makes a VPC with so many groups of a kind, `normal` or `enterprise`.
///
/// # Errors
/// When the cloud refuses any part.
pub fn vpc(cloud: &Cloud, name: &str, kind: &str, groups: usize) -> Result<Vpc> {
    let id = cloud.id(["vpc", "create", "--name", name, "--cidr", "10.20.0.0/16"])?;
    let vswitch = ["vswitch", "create", "--vpc", &id, "--name", name, "--cidr", "10.20.1.0/24"];
    let vswitch = cloud.id(vswitch)?;
    let group = |number: usize| -> Result<Group> {
        let name = format!("{name}-{number}");
        let order = ["security-group", "create", "--vpc", &id, "--name", &name, "--type", kind];
        let spec = SecurityGroupSpec {
            security_group_id: cloud.id(order)?,
            vpc_id: id.clone(),
            enterprise: kind == "enterprise",
            inner_accept: kind == "normal",
            ..Default::default()
        };
        Ok(Group { spec })
    };
    let groups = (0..groups).map(group).collect::<Result<_>>()?;
    Ok(Vpc { id, vswitch, groups })
}

/// The guests of a VPC: for each the groups that it is in. They run the prober, and what lets people in
/// to bring it is a rule of every group.
///
/// # Errors
/// When one does not boot or does not take the prober.
pub fn guests(
    cloud: &Cloud,
    number: usize,
    vpc: &mut Vpc,
    members: &[&[usize]],
) -> Result<Vec<Guest>> {
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    for group in &mut vpc.groups {
        group.change(cloud, opening())?;
    }
    let mut booted = Vec::new();
    for groups in members {
        let mut order =
            vec!["instance", "run", "--image", &image, "--type", &kind, "--vswitch", &vpc.vswitch];
        for group in *groups {
            order.extend(["--security-group", &vpc.groups[*group].spec.security_group_id]);
        }
        let id = cloud.id(&order)?;
        let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
        booted.push((id, address.parse::<Ipv4Addr>()?, groups.to_vec()));
    }
    let program = prober::build()?;
    let mut guests = Vec::new();
    for (id, address, groups) in booted {
        for group in &groups {
            vpc.groups[*group].spec.member_ips.push(address.to_string());
        }
        wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
        let mut screen = prober::bring(cloud, &id, &program)?;
        prober::start(&mut screen)?;
        guests.push(Guest { id, address, vpc: number, groups, screen });
    }
    Ok(guests)
}

/// Deletes a VPC and all that is in it.
///
/// # Errors
/// When something is left.
pub fn remove(cloud: &Cloud, vpc: &Vpc) -> Result<()> {
    cloud.delete_all(&cloud.instances_of(&vpc.id)?)?;
    // None may be deleted that another names.
    for group in &vpc.groups {
        group.revoke(cloud, &group.spec.rules)?;
    }
    for group in &vpc.groups {
        cloud.run(["security-group", "delete", &group.spec.security_group_id])?;
    }
    cloud.run(["vswitch", "delete", &vpc.vswitch])?;
    cloud.run(["vpc", "delete", &vpc.id]).map(drop)
}

/// The hosts that guests of a VPC are on, each once.
///
/// # Errors
/// When one is on none.
pub fn hosts_of(cloud: &Cloud, guests: &[Guest], vpc: usize) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for guest in guests.iter().filter(|guest| guest.vpc == vpc) {
        let eni = cloud.json(["eni", "list", "--instance", &guest.id])?;
        let host = eni.pointer("/0/host_id").and_then(Value::as_str);
        hosts.push(host.with_context(|| format!("{} is on no host", guest.id))?.to_owned());
    }
    hosts.sort_unstable();
    hosts.dedup();
    Ok(hosts)
}

/// A rule as the command line has it.
pub fn line(rule: &RuleSpec) -> String {
    let ports = match (rule.port_from, rule.port_to) {
        (0, 0) => "-1/-1".to_owned(),
        (from, to) => format!("{from}/{to}"),
    };
    let (side, other) = match [&rule.cidr, &rule.peer_group_id, &rule.prefix_list_id] {
        [cidr, _, _] if !cidr.is_empty() => ("cidr", cidr),
        [_, group, _] if !group.is_empty() => ("group", group),
        [_, _, list] => ("prefix-list", list),
    };
    let mut line = format!(
        "--protocol {} --port {ports} --{side} {other} --priority {} --policy {}",
        rule.ip_protocol,
        rule.priority,
        if rule.drop { "drop" } else { "accept" }
    );
    if rule.egress {
        line.push_str(" --egress");
    }
    if !rule.source_port_range.is_empty() {
        line.push_str(&format!(" --source-port {}", rule.source_port_range));
    }
    line
}

impl Group {
    fn order(&self, cloud: &Cloud, what: &str, rules: &[RuleSpec]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        let text: String = rules.iter().map(|rule| line(rule) + "\n").collect();
        let id = self.spec.security_group_id.as_str();
        let output = cloud.output(["security-group", what, id, "--file", "-"], text.as_bytes())?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what} {id}: {error}:\n{text}");
        Ok(())
    }

    fn revoke(&self, cloud: &Cloud, rules: &[RuleSpec]) -> Result<()> {
        self.order(cloud, "revoke", rules)
    }

    /// Gives it these rules and no others. The new ones come before the old ones go, so that a marker
    /// that opens tells that all of the old ones are gone.
    ///
    /// # Errors
    /// When the cloud refuses one.
    pub fn change(&mut self, cloud: &Cloud, rules: Vec<RuleSpec>) -> Result<()> {
        let without = |of: &[RuleSpec], others: &[RuleSpec]| -> Vec<RuleSpec> {
            of.iter().filter(|rule| !others.contains(rule)).cloned().collect()
        };
        self.order(cloud, "authorize", &without(&rules, &self.spec.rules))?;
        self.revoke(cloud, &without(&self.spec.rules, &rules))?;
        self.spec.rules = rules;
        Ok(())
    }

    /// Whether members of this basic group reach each other.
    ///
    /// # Errors
    /// When the cloud refuses.
    pub fn set_inner_access(&mut self, cloud: &Cloud, accept: bool) -> Result<()> {
        let policy = if accept { "accept" } else { "drop" };
        let id = self.spec.security_group_id.as_str();
        cloud.run(["security-group", "modify", id, "--inner-access", policy])?;
        self.spec.inner_accept = accept;
        Ok(())
    }
}

/// A rule that accepts.
pub fn rule(
    egress: bool,
    protocol: &str,
    ports: (u16, u16),
    cidr: &str,
    priority: u32,
) -> RuleSpec {
    RuleSpec {
        egress,
        ip_protocol: protocol.to_owned(),
        port_from: ports.0.into(),
        port_to: ports.1.into(),
        cidr: cidr.to_owned(),
        priority,
        ..Default::default()
    }
}

/// Of the two markers one is open to all, and the other shut, before any other rule.
pub fn markers(open: Option<u16>) -> impl Iterator<Item = RuleSpec> {
    [false, true].into_iter().flat_map(move |egress| {
        prober::MARKERS.map(|port| RuleSpec {
            drop: open != Some(port),
            ..rule(egress, "udp", (port, port), "0.0.0.0/0", 1)
        })
    })
}

/// What a group has before the first set.
fn opening() -> Vec<RuleSpec> {
    let people = format!("{}/32", prober::PEOPLE);
    let bring = rule(false, "tcp", (prober::PORT, prober::PORT), &people, 1);
    markers(None).chain([bring]).collect()
}
