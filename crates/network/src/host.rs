//! The handle of a host's networks.

use crate::{
    Desired, DhcpOptions, Error, Object, ObjectKind, Options, Report, ResourceKind, TABLE_NAME,
    changes::Changes,
    edge::{self, HostEdge},
    filter,
    filter::{Applied, Change, Scope},
    names,
    namespace::{self, Namespace},
    netlink::Netlink,
    plan::{self, Eip, Plan, Vpc},
    shaping::{self, Classes},
    sockets, tap, underlay,
    vpc::{self, VpcState},
};
use api::host::EniSpec;
use futures::{StreamExt as _, stream};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

/// The networks of this host. Cheap to clone; all clones are the same networks.
#[derive(Debug, Clone)]
pub struct HostNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    /// The host's own namespace, and the name of its table there.
    host: Namespace,
    table: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    host: HostState,
    vpcs: HashMap<u32, VpcState>,
    vnis: HashMap<String, u32>,
}

/// What is remembered of the host's own namespace.
#[derive(Debug, Default)]
struct HostState {
    applied: Option<Applied>,
    /// The public addresses it was made for.
    public: Option<Vec<Eip>>,
    /// Of the host's ends of edges, by VNI.
    classes: BTreeMap<u32, Classes>,
}

impl State {
    /// The VPC's namespace, made or given its name back if need be. One that is known stays known
    /// whatever fails: guests run in it.
    async fn open(&mut self, vni: u32, options: &Options) -> Result<&mut VpcState, Error> {
        match self.vpcs.entry(vni) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                known.keep_name(options)?;
                Ok(known)
            }
            Entry::Vacant(place) => Ok(place.insert(VpcState::open(vni, options).await?)),
        }
    }

    /// Makes all of the VPCs that are open as desired, some at a time: each is mostly work of
    /// processes and of the kernel, in a namespace of its own.
    async fn reconcile(&mut self, plan: &Plan, host: &Namespace, options: &Options) -> Vec<Report> {
        let at_a_time = thread::available_parallelism().map_or(1, usize::from);
        let mut open: HashMap<u32, &mut VpcState> =
            self.vpcs.iter_mut().map(|(vni, vpc)| (*vni, vpc)).collect();
        let each = plan.vpcs.iter().filter_map(|vpc| Some((vpc, open.remove(&vpc.vni)?)));
        let each: Vec<_> = each
            .map(|(vpc, state)| async move {
                let mut report = Report { removals_done: true, ..Report::default() };
                state.reconcile(vpc, host, options, &mut report).await;
                report
            })
            .collect();
        stream::iter(each).buffered(at_a_time).collect().await
    }
}

impl HostNetwork {
    /// Checks that namespaces can be made. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Permission`] without root's privileges; [`Error::Invalid`] if no interface of the
    /// host has the underlay address.
    pub async fn new(mut options: Options) -> Result<Self, Error> {
        namespace::check_permission().await?;
        let host = Namespace::of_host(options.host_namespace.as_deref())?;
        if options.mtu == 0 {
            options.mtu = underlay::guest_mtu(&host, options.underlay).await?;
        }
        let table = names::host_table(&options.namespace_dir);
        let inner = Inner { options, host, table, state: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// MTU of guests' interfaces, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.inner.options.mtu
    }

    /// Makes namespaces, addresses, routes, taps, tables and DHCP match `desired`, and removes what
    /// is not in it. What a person changed by hand is put right. On an error the packet filter
    /// that was in force stays in force, and the report names what failed.
    pub async fn reconcile(&self, desired: &Desired) -> Report {
        let options = &self.inner.options;
        let mut state = self.inner.state.lock().await;
        let mut plan = Plan::new(desired, options);
        let mut report = Report {
            problems: std::mem::take(&mut plan.problems),
            removals_done: true,
            ..Report::default()
        };
        self.remove_others(&plan, &mut state, &mut report).await;
        // Before there is an interface that could receive or send anything.
        let edge = self.guard_host(&plan, &mut state.host, &mut report).await;
        let edge = edge.unwrap_or_else(|e| {
            report.problem(ResourceKind::Host, "packet filter", &e);
            // Those who are here reach each other without it.
            for vpc in &mut plan.vpcs {
                vpc.peers.clear();
                vpc.eips.clear();
            }
            HostEdge::default()
        });
        state.vnis = plan.vpcs.iter().map(|vpc| (vpc.id.clone(), vpc.vni)).collect();
        let Inner { options, host, .. } = &*self.inner;
        for vpc in &plan.vpcs {
            if let Err(e) = state.open(vpc.vni, options).await {
                report.removals_done = false;
                report.problem(ResourceKind::Vpc, &vpc.id, &e);
            }
        }
        report.extend(state.reconcile(&plan, host, options).await);
        let mut changes = Changes::default();
        let classes = &mut state.host.classes;
        let outcome =
            edge::reconcile_host(host, options, &plan.vpcs, &edge, classes, &mut changes).await;
        let wanted: Vec<Eip> = plan.vpcs.iter().flat_map(|vpc| vpc.eips.iter().cloned()).collect();
        report.take(changes, state.host.public.as_ref() == Some(&wanted));
        state.host.public = outcome.is_ok().then_some(wanted);
        if let Err(e) = outcome {
            report.problem(ResourceKind::Host, "edge", &e);
        }
        report
    }

    /// The rules of the host's own namespace.
    async fn guard_host(
        &self,
        plan: &Plan,
        state: &mut HostState,
        report: &mut Report,
    ) -> Result<HostEdge, Error> {
        let Inner { options, host, table, .. } = &*self.inner;
        let edge = match plan.vpcs.iter().any(Vpc::has_edge) {
            true => HostEdge::look(host, options, plan).await?,
            false => HostEdge::default(),
        };
        let ruleset = underlay::ruleset(table, options, &plan.vpcs, &edge);
        let mut changes = Changes::default();
        let mut change = Change::None;
        // The first rules replace none, and are nobody's damage.
        let had_rules = state.applied.is_some();
        if ruleset.tables.is_empty() {
            state.applied = None;
            if filter::remove(host, &options.nft, table).await? {
                change = Change::Desired;
            }
        } else {
            let applied = &mut state.applied;
            change = filter::ensure(host, &options.nft, Scope::Name, ruleset, applied).await?;
        }
        if change != Change::None {
            changes.add("", format!("the host's packet filter (table {table})"));
        }
        report.take(changes, had_rules && change == Change::Replaced);
        Ok(edge)
    }

    async fn remove_others(&self, plan: &Plan, state: &mut State, report: &mut Report) {
        let options = &self.inner.options;
        let existing = match namespace::list(&options.namespace_dir) {
            Ok(existing) => existing,
            Err(e) => {
                let dir = options.namespace_dir.display().to_string();
                report.removals_done = false;
                report.problem(ResourceKind::Host, &dir, &e);
                return;
            }
        };
        // What a VPC whose spec is refused has beyond that spec is not known.
        report.removals_done &= !existing.iter().any(|vni| plan.untouched.contains(vni));
        let keeps =
            |vni: &u32| plan.untouched.contains(vni) || plan.vpcs.iter().any(|vpc| vpc.vni == *vni);
        for vni in existing.iter().filter(|vni| !keeps(vni)) {
            state.vpcs.remove(vni);
            match vpc::remove(*vni, options).await {
                Ok(()) => report.changes += 1,
                Err(e) => {
                    report.removals_done = false;
                    report.problem(ResourceKind::Host, &names::namespace_name(*vni), &e);
                }
            }
        }
        state.vpcs.retain(|vni, _| keeps(vni));
    }

    /// Opens the tap of an ENI, made if need be: one descriptor per queue pair, with 12 bytes of
    /// virtio-net header before each frame, non-blocking. The tap outlives its descriptors.
    ///
    /// # Errors
    /// [`Error::UnknownVpc`] if the ENI's VPC was not in the last reconciliation;
    /// [`Error::Invalid`] for a spec that makes no sense; otherwise what the system said.
    pub async fn open_tap(&self, eni: &EniSpec, queue_pairs: u32) -> Result<Vec<OwnedFd>, Error> {
        if queue_pairs == 0 || queue_pairs > tap::MAX_QUEUE_PAIRS {
            return Err(Error::Invalid {
                resource: eni.eni_id.clone(),
                field: "queue pairs",
                value: queue_pairs.to_string(),
                expected: "1 to 256",
            });
        }
        let options = &self.inner.options;
        let state = self.inner.state.lock().await;
        let vpc = state.vnis.get(&eni.vpc_id).and_then(|vni| state.vpcs.get(vni));
        let vpc = vpc.ok_or_else(|| Error::UnknownVpc(eni.vpc_id.clone()))?;
        let name = names::tap_name(&eni.eni_id);
        vpc.ensure_eni(&plan::eni(eni, DhcpOptions::default(), options)?, options).await?;
        vpc.namespace.run(move || tap::open(&name, queue_pairs)).await?
    }

    /// What tells an ENI's tap from one that was there before: 0 if there is none now. Never the same
    /// for two taps of an ENI, as long as the host runs.
    ///
    /// # Errors
    /// As for [`Self::open_tap`].
    pub async fn tap_epoch(&self, eni: &EniSpec) -> Result<u64, Error> {
        let state = self.inner.state.lock().await;
        let vpc = state.vnis.get(&eni.vpc_id).and_then(|vni| state.vpcs.get(vni));
        let vpc = vpc.ok_or_else(|| Error::UnknownVpc(eni.vpc_id.clone()))?;
        let name = names::tap_name(&eni.eni_id);
        let index = vpc.namespace.run(move || nix::net::if_::if_nametoindex(name.as_str())).await?;
        // A namespace's inode number may be given again, but then to one with other interfaces: it
        // only has to differ where the index does not.
        Ok(index.map_or(0, |index| vpc.namespace.inode() << 32 | u64::from(index)))
    }

    /// Listens on an address inside a VPC's namespace. While the listener lives, so does the
    /// namespace: drop it when the VPC goes.
    ///
    /// # Errors
    /// [`Error::NoNamespace`], or what the system said.
    pub async fn tcp_listen(
        &self,
        vni: u32,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<TcpListener, Error> {
        sockets::listen(&self.namespace(vni)?, address, port).await
    }

    /// Connects from [`crate::SERVICE_ADDRESS`] to an address inside a VPC. Judged by the security
    /// groups of the ENI that has the address.
    ///
    /// # Errors
    /// [`Error::NoNamespace`]; [`Error::Connect`] if the guest refuses or no answer comes within ten
    /// seconds.
    pub async fn tcp_connect(&self, vni: u32, to: SocketAddrV4) -> Result<TcpStream, Error> {
        sockets::connect(&self.namespace(vni)?, vni, to).await
    }

    fn namespace(&self, vni: u32) -> Result<Namespace, Error> {
        Namespace::open(&self.inner.options.namespace_dir, &names::namespace_name(vni))?
            .ok_or(Error::NoNamespace(vni))
    }

    /// Everything of ours on the host, desired or not.
    ///
    /// # Errors
    /// What the system said when looking: then nothing is known about leaks.
    pub async fn list(&self) -> Result<Vec<Object>, Error> {
        let options = &self.inner.options;
        let mut objects = Vec::new();
        for link in Netlink::open(&self.inner.host).await?.links().await? {
            if names::is_edge_link(&options.namespace_dir, &link.name) {
                let (name, owner) = (link.name, link.alias);
                objects.push(Object { kind: ObjectKind::Edge, name, owner });
            }
        }
        for vni in namespace::list(&options.namespace_dir)? {
            let name = names::namespace_name(vni);
            let mut owner = String::new();
            if let Some(namespace) = Namespace::open(&options.namespace_dir, &name)? {
                let netlink = Netlink::open(&namespace).await?;
                for link in netlink.links().await? {
                    if link.name == "lo" {
                        owner = link.alias;
                    } else if names::is_tap_name(&link.name) {
                        let kind = ObjectKind::Tap;
                        let name = format!("{name}/{}", link.name);
                        objects.push(Object { kind, name, owner: link.alias });
                    } else if shaping::is_queue_link(&link.name) {
                        let kind = ObjectKind::Queue;
                        let name = format!("{name}/{}", link.name);
                        objects.push(Object { kind, name, owner: link.alias });
                    } else if link.name == names::VXLAN_LINK {
                        let kind = ObjectKind::Vxlan;
                        let name = format!("{name}/{}", link.name);
                        objects.push(Object { kind, name, owner: link.alias });
                    }
                }
                for table in filter::tables(&namespace, &options.nft, TABLE_NAME).await? {
                    let kind = ObjectKind::Table;
                    let name = format!("{name}/{table}");
                    objects.push(Object { kind, name, owner: owner.clone() });
                }
            }
            objects.push(Object { kind: ObjectKind::Namespace, name, owner });
        }
        // Any VPC here may be what the host's own table is for; without one it is for nothing.
        let owner = objects.iter().find(|o| o.kind == ObjectKind::Namespace && !o.owner.is_empty());
        let owner = owner.map(|namespace| namespace.owner.clone()).unwrap_or_default();
        let Inner { host, table, .. } = &*self.inner;
        for name in filter::tables(host, &options.nft, table).await? {
            objects.push(Object { kind: ObjectKind::Table, name, owner: owner.clone() });
        }
        objects.sort();
        Ok(objects)
    }
}
