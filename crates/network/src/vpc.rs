//! Makes one VPC's namespace as desired.

use crate::{
    Error, GATEWAY_MAC, METADATA_ADDRESS, Options, Problem, Report, ResourceKind, SERVICE_ADDRESS,
    conntrack,
    dhcp::{self, Lease},
    filter, names,
    namespace::{self, Namespace},
    netlink::{Link, Netlink},
    plan::{Eni, Vpc},
    security_groups::compile::compile,
    sysctl, tap,
};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// What is remembered of a VPC. Losing it costs a replacement of equal rules, nothing more.
#[derive(Debug)]
pub(crate) struct VpcState {
    pub(crate) namespace: Namespace,
    applied: Option<filter::Applied>,
    dhcp: Option<dhcp::Server>,
    /// Without a filter no tap may exist: it would be open to everything.
    filtered: bool,
}

impl VpcState {
    /// Finds or makes the namespace of this VNI.
    pub(crate) async fn open(
        vni: u32,
        options: &Options,
        report: &mut Report,
    ) -> Result<Self, Error> {
        let dir = &options.namespace_dir;
        let name = names::namespace_name(vni);
        let namespace = match Namespace::open(dir, &name)? {
            Some(namespace) => namespace,
            None => {
                report.changes += 1;
                Namespace::create(dir, &name).await?
            }
        };
        Ok(Self { namespace, applied: None, dhcp: None, filtered: false })
    }

    /// Gives a namespace whose name was taken away or given to another one its name back.
    pub(crate) fn keep_name(&self, options: &Options) -> Result<usize, Error> {
        let dir = &options.namespace_dir;
        let found = Namespace::open(dir, &self.namespace.name)?;
        if found.as_ref().map(Namespace::inode) == Some(self.namespace.inode()) {
            return Ok(0);
        }
        namespace::remove(dir, &self.namespace.name)?;
        self.namespace.restore_name()?;
        Ok(1)
    }

    /// Makes all of the VPC as desired. What fails is in the report.
    pub(crate) async fn reconcile(&mut self, vpc: &Vpc, options: &Options, report: &mut Report) {
        // First, and whatever else fails: nothing is safer than no tap.
        if let Err(e) = self.remove_taps(vpc, report).await {
            report.removals_done = false;
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
        if let Err(e) = self.reconcile_shared(vpc, options, report).await {
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
        if !self.filtered {
            return;
        }
        if let Err(e) = self.reconcile_enis(vpc, options, report).await {
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
    }

    /// The filter, before anything could pass; then what all ENIs share.
    async fn reconcile_shared(
        &mut self,
        vpc: &Vpc,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        let compiled = compile(vpc);
        for (group, reason) in compiled.broken {
            let kind = ResourceKind::SecurityGroup;
            report.problems.push(Problem { kind, id: group, message: format!("rule: {reason}") });
        }
        for (eni, group) in compiled.without_group {
            let message =
                format!("its security group {group} is unknown, so all its flows are cut");
            report.problems.push(Problem { kind: ResourceKind::Eni, id: eni, message });
        }
        let namespace = &self.namespace;
        let filter =
            filter::ensure(namespace, &options.nft, compiled.ruleset, &mut self.applied).await;
        self.filtered = filter.is_ok() || filter::is_in_force(namespace, &options.nft).await;
        report.changes += filter?;
        report.changes += sysctl::set_namespace(namespace).await?;

        let netlink = Netlink::open(namespace).await?;
        let links = netlink.links().await?;
        let lo = links.iter().find(|link| link.name == "lo").ok_or_else(|| Error::Netlink {
            what: format!("find lo in {}", namespace.name),
            message: "it is not there".to_owned(),
        })?;
        if !lo.up || lo.alias != vpc.id {
            netlink.set_link(lo.index, &vpc.id, None).await?;
            report.changes += 1;
        }
        report.changes += addresses(&netlink, lo.index, &vpc.gateways).await?;
        if self.dhcp.as_ref().is_none_or(|server| !server.is_running()) {
            self.dhcp = None;
            self.dhcp = Some(dhcp::Server::start(namespace).await?);
            report.changes += 1;
        }
        Ok(())
    }

    async fn remove_taps(&self, vpc: &Vpc, report: &mut Report) -> Result<(), Error> {
        let wanted: BTreeSet<&str> = vpc.enis.iter().map(|eni| eni.tap.as_str()).collect();
        let netlink = Netlink::open(&self.namespace).await?;
        for link in netlink.links().await? {
            let keep = wanted.contains(link.name.as_str()) || vpc.untouched.contains(&link.name);
            if names::is_tap_name(&link.name) && !keep {
                netlink.delete_link(&link).await?;
                report.changes += 1;
            }
        }
        Ok(())
    }

    async fn reconcile_enis(
        &self,
        vpc: &Vpc,
        options: &Options,
        report: &mut Report,
    ) -> Result<(), Error> {
        let netlink = Netlink::open(&self.namespace).await?;
        let links: HashMap<String, Link> =
            netlink.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let mut indices: HashMap<&str, u32> = HashMap::new();
        for eni in &vpc.enis {
            match self.ensure_link(&netlink, eni, links.get(&eni.tap), options, report).await {
                Ok(index) => {
                    indices.insert(&eni.tap, index);
                }
                Err(e) => report.problem(ResourceKind::Eni, &eni.id, &e),
            }
        }
        let untouched: BTreeSet<u32> =
            vpc.untouched.iter().filter_map(|tap| links.get(tap).map(|link| link.index)).collect();
        let enis: Vec<(&Eni, u32)> = vpc
            .enis
            .iter()
            .filter_map(|eni| Some((eni, *indices.get(eni.tap.as_str())?)))
            .collect();
        if let Some(server) = &self.dhcp {
            server.set_leases(enis.iter().map(|(e, i)| (*i, lease(e, options))).collect());
        }
        neighbours(&netlink, &enis, &untouched, report).await?;
        routes(&netlink, &enis, &vpc.subnets, &untouched, report).await
    }

    /// The tap of an ENI, made if need be, set up. Gives its index.
    async fn ensure_link(
        &self,
        netlink: &Netlink,
        eni: &Eni,
        found: Option<&Link>,
        options: &Options,
        report: &mut Report,
    ) -> Result<u32, Error> {
        let made;
        let link = match found {
            Some(link) => link,
            None => {
                let (name, address) = (eni.tap.clone(), eni.address);
                let make = move || {
                    // Whoever had the address before, its flows are not this ENI's.
                    conntrack::forget(address)?;
                    tap::open(&name, 1).map(drop)
                };
                self.namespace.run(make).await??;
                report.changes += 1;
                let links = netlink.links().await?;
                made = links.into_iter().find(|link| link.name == eni.tap);
                made.as_ref().ok_or_else(|| Error::Netlink {
                    what: format!("find {} in {}", eni.tap, self.namespace.name),
                    message: "it was removed as it was made".to_owned(),
                })?
            }
        };
        let name = eni.tap.clone();
        report.changes += self.namespace.run(move || sysctl::set_tap(&name)).await??;
        let is_set = link.up
            && link.alias == eni.id
            && link.mac == GATEWAY_MAC
            && link.mtu == u32::from(options.mtu);
        if !is_set {
            netlink.set_link(link.index, &eni.id, Some((GATEWAY_MAC, options.mtu))).await?;
            report.changes += 1;
        }
        Ok(link.index)
    }

    /// Makes the tap of one ENI with its route if it is not there. What may pass it is decided by the
    /// next reconciliation that knows the ENI.
    pub(crate) async fn ensure_eni(&self, eni: &Eni, options: &Options) -> Result<(), Error> {
        if !self.filtered {
            return Err(Error::Nft {
                namespace: self.namespace.name.clone(),
                message: "no rules are in force yet, so no tap may be opened".to_owned(),
            });
        }
        let netlink = Netlink::open(&self.namespace).await?;
        let links = netlink.links().await?;
        if links.iter().any(|link| link.name == eni.tap) {
            return Ok(());
        }
        let mut report = Report::default();
        let index = self.ensure_link(&netlink, eni, None, options, &mut report).await?;
        netlink.set_neighbour(index, eni.address, eni.mac).await?;
        let to = Ipv4Net::from(eni.address);
        let routes = netlink.routes().await?;
        if !routes.iter().any(|route| route.to == to && route.via == Some(index)) {
            netlink.add_route(to, Some(index)).await?;
        }
        if let Some(server) = &self.dhcp {
            server.set_lease(index, lease(eni, options));
        }
        Ok(())
    }
}

impl Report {
    pub(crate) fn problem(&mut self, kind: ResourceKind, id: &str, error: &Error) {
        self.problems.push(Problem { kind, id: id.to_owned(), message: error.to_string() });
    }
}

/// Removes a VPC from the host. Taps go first: a machine that still has one open would otherwise
/// keep the namespace.
pub(crate) async fn remove(vni: u32, options: &Options) -> Result<(), Error> {
    let name = names::namespace_name(vni);
    if let Some(namespace) = Namespace::open(&options.namespace_dir, &name)? {
        let netlink = Netlink::open(&namespace).await?;
        for link in netlink.links().await? {
            if names::is_tap_name(&link.name) {
                netlink.delete_link(&link).await?;
            }
        }
    }
    namespace::remove(&options.namespace_dir, &name)
}

fn lease(eni: &Eni, options: &Options) -> Lease {
    Lease {
        mac: eni.mac,
        address: eni.address,
        subnet: eni.subnet,
        gateway: eni.gateway,
        mtu: options.mtu,
        dns_servers: eni.dhcp.dns_servers.clone(),
        hostname: eni.dhcp.hostname.clone(),
        duration: options.lease,
    }
}

async fn addresses(
    netlink: &Netlink,
    lo: u32,
    gateways: &BTreeSet<Ipv4Addr>,
) -> Result<usize, Error> {
    let mut missing: BTreeSet<Ipv4Addr> = gateways.clone();
    missing.extend([METADATA_ADDRESS, SERVICE_ADDRESS]);
    let mut changes = 0;
    for (address, message) in netlink.addresses(lo).await? {
        if address.addr().is_loopback() {
            continue;
        }
        if address.prefix_len() != 32 || !missing.remove(&address.addr()) {
            netlink.delete_address(message).await?;
            changes += 1;
        }
    }
    for address in missing {
        netlink.add_address(lo, address).await?;
        changes += 1;
    }
    Ok(changes)
}

async fn neighbours(
    netlink: &Netlink,
    enis: &[(&Eni, u32)],
    untouched: &BTreeSet<u32>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut missing: HashMap<(u32, Ipv4Addr), [u8; 6]> =
        enis.iter().map(|(eni, index)| ((*index, eni.address), eni.mac)).collect();
    for found in netlink.neighbours().await? {
        let key = (found.link, found.address);
        match missing.get(&key) {
            Some(mac) if found.mac == mac => {
                missing.remove(&key);
            }
            Some(_) => {}
            None if untouched.contains(&found.link) => {}
            None => {
                netlink.delete_neighbour(found).await?;
                report.changes += 1;
            }
        }
    }
    for ((link, address), mac) in missing {
        netlink.set_neighbour(link, address, mac).await?;
        report.changes += 1;
    }
    Ok(())
}

async fn routes(
    netlink: &Netlink,
    enis: &[(&Eni, u32)],
    subnets: &BTreeSet<Ipv4Net>,
    untouched: &BTreeSet<u32>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut missing: HashMap<Ipv4Net, Option<u32>> =
        subnets.iter().map(|subnet| (*subnet, None)).collect();
    missing.extend(enis.iter().map(|(eni, index)| (Ipv4Net::from(eni.address), Some(*index))));
    for found in netlink.routes().await? {
        if missing.get(&found.to) == Some(&found.via) {
            missing.remove(&found.to);
        } else if !found.via.is_some_and(|link| untouched.contains(&link)) {
            netlink.delete_route(found).await?;
            report.changes += 1;
        }
    }
    for (to, via) in missing {
        netlink.add_route(to, via).await?;
        report.changes += 1;
    }
    Ok(())
}
