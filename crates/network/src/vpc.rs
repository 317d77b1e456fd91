//! Makes one VPC's namespace as desired.

use crate::{
    Error, GATEWAY_MAC, METADATA_ADDRESS, Options, Problem, Report, ResourceKind, SERVICE_ADDRESS,
    changes::Changes,
    conntrack,
    dhcp::{self, Lease},
    edge,
    filter::{self, Change, Scope},
    names,
    namespace::{self, Namespace},
    netlink::{Hop, Link, MAIN_TABLE, Netlink},
    overlay,
    plan::{Eni, Vpc},
    security_groups::compile::compile,
    shaping::{Classes, Shapers},
    sysctl, tap,
    wiring::{Links, Wiring},
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
    /// What was desired when nothing lacked.
    settled: Option<Vpc>,
    shapers: Shapers,
    edge_classes: Classes,
    /// Public addresses and what they stand for.
    public: HashMap<Ipv4Addr, Option<Ipv4Addr>>,
    /// What was changed before the VPC's turn came.
    early: Changes,
}

impl VpcState {
    /// Finds or makes the namespace of this VNI.
    pub(crate) async fn open(vni: u32, options: &Options) -> Result<Self, Error> {
        let dir = &options.namespace_dir;
        let name = names::namespace_name(vni);
        let mut early = Changes::default();
        let namespace = match Namespace::open(dir, &name)? {
            Some(namespace) => namespace,
            None => {
                early.add("", format!("namespace {name}"));
                Namespace::create(dir, &name).await?
            }
        };
        Ok(Self {
            namespace,
            applied: None,
            dhcp: None,
            filtered: false,
            settled: None,
            shapers: Shapers::default(),
            edge_classes: Classes::default(),
            public: HashMap::new(),
            early,
        })
    }

    /// Gives a namespace whose name was taken away or given to another one its name back.
    pub(crate) fn keep_name(&mut self, options: &Options) -> Result<(), Error> {
        let dir = &options.namespace_dir;
        let found = Namespace::open(dir, &self.namespace.name)?;
        if found.as_ref().map(Namespace::inode) == Some(self.namespace.inode()) {
            return Ok(());
        }
        namespace::remove(dir, &self.namespace.name)?;
        self.namespace.restore_name()?;
        self.early.add("", format!("name of namespace {}", self.namespace.name));
        Ok(())
    }

    /// Makes all of the VPC as desired. What fails is in the report.
    pub(crate) async fn reconcile(
        &mut self,
        vpc: &Vpc,
        host: &Namespace,
        options: &Options,
        report: &mut Report,
    ) {
        let problems = report.problems.len();
        let mut changes = std::mem::take(&mut self.early);
        self.make(vpc, host, options, &mut changes, report).await;
        report.take(changes, self.settled.as_ref() == Some(vpc));
        let settled = report.problems.len() == problems;
        self.settled = settled.then(|| vpc.clone());
    }

    async fn make(
        &mut self,
        vpc: &Vpc,
        host: &Namespace,
        options: &Options,
        changes: &mut Changes,
        report: &mut Report,
    ) {
        // First, and whatever else fails: nothing is safer than no tap.
        if let Err(e) = self.remove_taps(vpc, changes).await {
            report.removals_done = false;
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
        if let Err(e) = self.reconcile_shared(vpc, options, changes, report).await {
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
        if !self.filtered {
            return;
        }
        if let Err(e) = self.forget_moved(vpc).await {
            report.problem(ResourceKind::Host, "edge", &e);
        }
        if let Err(e) = self.reconcile_enis(vpc, host, options, changes, report).await {
            report.problem(ResourceKind::Vpc, &vpc.id, &e);
        }
    }

    /// The filter, before anything could pass; then what all ENIs share.
    async fn reconcile_shared(
        &mut self,
        vpc: &Vpc,
        options: &Options,
        changes: &mut Changes,
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
        let (namespace, nft, scope) = (&self.namespace, &options.nft, Scope::Namespace);
        let filter =
            filter::ensure(namespace, nft, scope, compiled.ruleset, &mut self.applied).await;
        self.filtered = filter.is_ok() || filter::is_in_force(namespace, nft).await;
        if filter? != Change::None {
            changes.add(&vpc.id, "packet filter");
        }
        changes.add_all(&vpc.id, sysctl::set_namespace(namespace).await?);

        let netlink = Netlink::open(namespace).await?;
        let links = netlink.links().await?;
        let lo = links.iter().find(|link| link.name == "lo").ok_or_else(|| Error::Netlink {
            what: format!("find lo in {}", namespace.name),
            message: "it is not there".to_owned(),
        })?;
        if !lo.up || lo.alias != vpc.id {
            netlink.set_link(lo.index, &vpc.id, None).await?;
            changes.add(&vpc.id, "settings of lo");
        }
        addresses(vpc, &netlink, lo.index, changes).await?;
        if self.dhcp.as_ref().is_none_or(|server| !server.is_running()) {
            self.dhcp = None;
            self.dhcp = Some(dhcp::Server::start(namespace).await?);
            changes.add(&vpc.id, "DHCP server");
        }
        Ok(())
    }

    /// A public address that stands for another private one now takes no flow of the old one along.
    async fn forget_moved(&mut self, vpc: &Vpc) -> Result<(), Error> {
        let public: HashMap<Ipv4Addr, Option<Ipv4Addr>> =
            vpc.eips.iter().map(|eip| (eip.address, eip.private)).collect();
        let moved: Vec<Ipv4Addr> = self
            .public
            .iter()
            .filter(|(address, private)| public.get(address) != Some(private))
            .map(|(address, _)| *address)
            .collect();
        if !moved.is_empty() {
            let forget = move || moved.into_iter().try_for_each(conntrack::forget);
            self.namespace.run(forget).await??;
        }
        self.public = public;
        Ok(())
    }

    async fn remove_taps(&self, vpc: &Vpc, changes: &mut Changes) -> Result<(), Error> {
        let wanted: BTreeSet<&str> = vpc.enis.iter().map(|eni| eni.tap.as_str()).collect();
        let netlink = Netlink::open(&self.namespace).await?;
        for link in netlink.links().await? {
            let keep = wanted.contains(link.name.as_str()) || vpc.untouched.contains(&link.name);
            if names::is_tap_name(&link.name) && !keep {
                netlink.delete_link(&link).await?;
                changes.add(&link.alias, format!("tap {}", link.name));
            }
        }
        Ok(())
    }

    async fn reconcile_enis(
        &mut self,
        vpc: &Vpc,
        host: &Namespace,
        options: &Options,
        changes: &mut Changes,
        report: &mut Report,
    ) -> Result<(), Error> {
        let netlink = Netlink::open(&self.namespace).await?;
        let links = netlink.links().await?;
        let vxlan =
            overlay::ensure(vpc, &self.namespace, host, &netlink, &links, options, changes).await;
        let vxlan = vxlan.unwrap_or_else(|e| {
            // Those who are here reach each other without it.
            report.problem(ResourceKind::Host, "underlay", &e);
            None
        });
        let edge =
            edge::ensure(vpc, &self.namespace, host, &netlink, &links, options, changes).await;
        let edge = edge.unwrap_or_else(|e| {
            report.problem(ResourceKind::Host, "edge", &e);
            None
        });
        if let Some(link) = edge {
            let classes = &mut self.edge_classes;
            if let Err(e) = classes.ensure(&vpc.id, link, &vpc.eips, &netlink, changes).await {
                report.problem(ResourceKind::Host, "bandwidth", &e);
            }
        }
        let all = links.clone();
        let links: HashMap<String, Link> =
            links.into_iter().map(|link| (link.name.clone(), link)).collect();
        let mut taps: HashMap<&str, u32> = HashMap::new();
        for eni in &vpc.enis {
            match self.ensure_link(&netlink, eni, links.get(&eni.tap), options, changes).await {
                Ok(index) => {
                    taps.insert(&eni.tap, index);
                }
                Err(e) => report.problem(ResourceKind::Eni, &eni.id, &e),
            }
        }
        if let Some(server) = &self.dhcp {
            let leases = vpc.enis.iter();
            let leases =
                leases.filter_map(|e| Some((*taps.get(e.tap.as_str())?, lease(e, options))));
            server.set_leases(leases.collect());
        }
        // What is too fast is better than what is not there.
        if let Err(e) = self.shapers.ensure(vpc, &taps, &netlink, &all, changes).await {
            report.problem(ResourceKind::Host, "bandwidth", &e);
        }
        let untouched =
            vpc.untouched.iter().filter_map(|tap| links.get(tap).map(|link| link.index)).collect();
        let links = Links { taps, vxlan, edge, untouched };
        Wiring::of(vpc, &links).apply(vpc, &links, &netlink, changes).await
    }

    /// The tap of an ENI, made if need be, set up. Gives its index.
    async fn ensure_link(
        &self,
        netlink: &Netlink,
        eni: &Eni,
        found: Option<&Link>,
        options: &Options,
        changes: &mut Changes,
    ) -> Result<u32, Error> {
        let made;
        let link = match found {
            Some(link) => link,
            None => {
                let (name, addresses) = (eni.tap.clone(), eni.addresses.clone());
                let make = move || {
                    // Whoever had the address before, its flows are not this ENI's.
                    addresses.into_iter().try_for_each(conntrack::forget)?;
                    tap::open(&name, 1).map(drop)
                };
                self.namespace.run(make).await??;
                changes.add(&eni.id, format!("tap {}", eni.tap));
                let links = netlink.links().await?;
                made = links.into_iter().find(|link| link.name == eni.tap);
                made.as_ref().ok_or_else(|| Error::Netlink {
                    what: format!("find {} in {}", eni.tap, self.namespace.name),
                    message: "it was removed as it was made".to_owned(),
                })?
            }
        };
        let name = eni.tap.clone();
        changes.add_all(&eni.id, self.namespace.run(move || sysctl::set_tap(&name)).await??);
        let is_set = link.up
            && link.alias == eni.id
            && link.mac == GATEWAY_MAC
            && link.mtu == u32::from(options.mtu);
        if !is_set {
            netlink.set_link(link.index, &eni.id, Some((GATEWAY_MAC, options.mtu))).await?;
            changes.add(&eni.id, format!("settings of tap {}", eni.tap));
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
        let index = self.ensure_link(&netlink, eni, None, options, &mut Changes::default()).await?;
        for address in &eni.addresses {
            netlink.set_neighbour(index, *address, eni.mac).await?;
            let hop = Hop::Link { link: index, via: None };
            netlink.set_route(MAIN_TABLE, Ipv4Net::from(*address), hop).await?;
        }
        if let Some(server) = &self.dhcp {
            server.set_lease(index, lease(eni, options));
        }
        Ok(())
    }
}

/// Removes a VPC from the host. Taps go first: a machine that still has one open would otherwise
/// keep the namespace.
pub(crate) async fn remove(vni: u32, options: &Options) -> Result<(), Error> {
    let name = names::namespace_name(vni);
    if let Some(namespace) = Namespace::open(&options.namespace_dir, &name)? {
        let netlink = Netlink::open(&namespace).await?;
        for link in netlink.links().await? {
            let ours = [names::VXLAN_LINK, edge::EDGE_LINK].contains(&link.name.as_str());
            if names::is_tap_name(&link.name) || ours {
                netlink.delete_link(&link).await?;
            }
        }
    }
    namespace::remove(&options.namespace_dir, &name)
}

fn lease(eni: &Eni, options: &Options) -> Lease {
    Lease {
        mac: eni.mac,
        address: eni.primary(),
        subnet: eni.subnet,
        gateway: eni.gateway,
        mtu: options.mtu,
        dns_servers: eni.dhcp.dns_servers.clone(),
        hostname: eni.dhcp.hostname.clone(),
        duration: options.lease,
    }
}

async fn addresses(
    vpc: &Vpc,
    netlink: &Netlink,
    lo: u32,
    changes: &mut Changes,
) -> Result<(), Error> {
    let mut missing: BTreeSet<Ipv4Addr> = vpc.gateways.clone();
    missing.extend([METADATA_ADDRESS, SERVICE_ADDRESS]);
    for (address, message) in netlink.addresses(lo).await? {
        if address.addr().is_loopback() {
            continue;
        }
        if address.prefix_len() != 32 || !missing.remove(&address.addr()) {
            netlink.delete_address(message).await?;
            changes.add(&vpc.id, format!("address {address}"));
        }
    }
    for address in missing {
        netlink.add_address(lo, address).await?;
        changes.add(&vpc.id, format!("address {address}"));
    }
    Ok(())
}
