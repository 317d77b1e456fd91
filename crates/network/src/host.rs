//! The handle of a host's networks.

use crate::{
    Desired, DhcpOptions, Error, Object, ObjectKind, Options, Report, ResourceKind, filter, names,
    namespace::{self, Namespace},
    netlink::Netlink,
    plan::{self, Plan},
    sockets, tap,
    vpc::{self, VpcState},
};
use api::host::EniSpec;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    vpcs: HashMap<u32, VpcState>,
    vnis: HashMap<String, u32>,
}

impl State {
    /// The VPC's namespace, made or given its name back if need be. One that is known stays known
    /// whatever fails: guests run in it.
    async fn open(
        &mut self,
        vni: u32,
        options: &Options,
        report: &mut Report,
    ) -> Result<&mut VpcState, Error> {
        match self.vpcs.entry(vni) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                report.changes += known.keep_name(options)?;
                Ok(known)
            }
            Entry::Vacant(place) => Ok(place.insert(VpcState::open(vni, options, report).await?)),
        }
    }
}

impl HostNetwork {
    /// Checks that namespaces can be made. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Permission`] without root's privileges.
    pub async fn new(options: Options) -> Result<Self, Error> {
        namespace::check_permission().await?;
        Ok(Self { inner: Arc::new(Inner { options, state: Mutex::default() }) })
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
            changes: 0,
            removals_done: true,
        };
        self.remove_others(&plan, &mut state, &mut report).await;
        state.vnis = plan.vpcs.iter().map(|vpc| (vpc.id.clone(), vpc.vni)).collect();
        for vpc in &plan.vpcs {
            match state.open(vpc.vni, options, &mut report).await {
                Ok(opened) => opened.reconcile(vpc, options, &mut report).await,
                Err(e) => {
                    report.removals_done = false;
                    report.problem(ResourceKind::Vpc, &vpc.id, &e);
                }
            }
        }
        report
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
                    }
                }
                for table in filter::tables(&namespace, &options.nft).await? {
                    let kind = ObjectKind::Table;
                    let name = format!("{name}/{table}");
                    objects.push(Object { kind, name, owner: owner.clone() });
                }
            }
            objects.push(Object { kind: ObjectKind::Namespace, name, owner });
        }
        objects.sort();
        Ok(objects)
    }
}
