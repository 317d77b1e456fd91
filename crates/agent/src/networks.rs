//! The host's VPC networks as the spec wants them, and the metadata service inside each.

use crate::{
    durable_file,
    error::{Error, Result},
    events::{EventLog, SELDOM_MS},
    host::now_ms,
    layout::Layout,
    metadata_directory::VpcDirectory,
};
use api::host::{EniSpec, HostSpec};
use ipnet::Ipv4Net;
use network::{
    Desired, DhcpOptions, HostNetwork, InstanceLimit, METADATA_ADDRESS, METADATA_PORT, Repair,
    Report,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;

/// Networks and metadata of this host.
#[derive(Debug)]
pub struct Networks {
    host: HostNetwork,
    metadata: metadata::Service,
    report: Mutex<Report>,
    repairs: Repairs,
    /// By VNI.
    services: tokio::sync::Mutex<BTreeMap<u32, MetadataService>>,
}

#[derive(Debug)]
struct MetadataService {
    directory: Arc<VpcDirectory>,
    task: JoinHandle<()>,
}

impl Networks {
    /// Opens the networks of this host; changes nothing yet.
    ///
    /// # Errors
    /// Without root's privileges.
    pub async fn open(layout: &Layout, options: network::Options) -> Result<Self> {
        let host =
            HostNetwork::new(options).await.map_err(|e| Error::Configuration(e.to_string()))?;
        Ok(Self {
            host,
            metadata: metadata::Service::new(token_key(layout)?),
            report: Mutex::default(),
            repairs: Repairs::default(),
            services: tokio::sync::Mutex::default(),
        })
    }

    /// Makes networks and metadata match the spec. What it changed is told by an event of the host
    /// where nobody had asked for a change. True when nothing of what is not in the spec is left.
    pub async fn reconcile(&self, spec: &HostSpec, events: &EventLog) -> bool {
        self.end_services_not_in(spec).await;
        let report = self.host.reconcile(&desired(spec)).await;
        let clean = report.removals_done;
        if let Some(message) = self.repairs.told_now(&report.repairs, now_ms()) {
            tracing::warn!("network: {message}");
            let kind = "Network.Repaired";
            if let Err(e) = events.append(&spec.host_id, now_ms(), kind, &message, now_ms()) {
                tracing::warn!("cannot note that networks were put right: {e}");
            }
        }
        {
            let mut last = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            for problem in report.problems.iter().filter(|p| !last.problems.contains(p)) {
                tracing::warn!("network: {problem}");
            }
            *last = report;
        }
        self.serve_metadata(spec).await;
        clean
    }

    /// A listener keeps its namespace alive, so it must end first.
    async fn end_services_not_in(&self, spec: &HostSpec) {
        let mut services = self.services.lock().await;
        let mut ended = Vec::new();
        services.retain(|vni, service| {
            let wanted = spec.vpcs.iter().any(|v| v.vni == *vni) && !service.task.is_finished();
            if !wanted {
                service.task.abort();
                ended.push(std::mem::replace(&mut service.task, tokio::spawn(async {})));
            }
            wanted
        });
        for task in ended {
            // Ends as cancelled, which is what was asked for.
            let _ = task.await;
        }
    }

    async fn serve_metadata(&self, spec: &HostSpec) {
        let mut services = self.services.lock().await;
        for vpc in &spec.vpcs {
            if let Some(service) = services.get(&vpc.vni) {
                service.directory.update(spec, &vpc.vpc_id);
                continue;
            }
            match self.host.tcp_listen(vpc.vni, METADATA_ADDRESS, METADATA_PORT).await {
                Ok(listener) => {
                    let directory = Arc::new(VpcDirectory::default());
                    directory.update(spec, &vpc.vpc_id);
                    let metadata = self.metadata.clone();
                    let answers = Arc::clone(&directory);
                    let task = tokio::spawn(async move { metadata.serve(listener, answers).await });
                    services.insert(vpc.vni, MetadataService { directory, task });
                }
                Err(e) => {
                    tracing::warn!(vpc_id = vpc.vpc_id, "cannot serve metadata: {e}");
                }
            }
        }
    }

    /// Opens the tap of an ENI, one descriptor per queue pair.
    ///
    /// # Errors
    /// When the ENI's network could not be made; names it and says why.
    pub async fn open_tap(&self, eni: &EniSpec, queue_pairs: u32) -> Result<Vec<OwnedFd>> {
        if let Some(problem) = self.problem(eni) {
            return Err(Error::resource(&eni.eni_id, "NetworkNotReady", problem));
        }
        self.host
            .open_tap(eni, queue_pairs)
            .await
            .map_err(|e| Error::resource(&eni.eni_id, "NetworkNotReady", e.to_string()))
    }

    /// What tells the ENI's tap from one that was there before; 0 if there is none, or nothing is known
    /// of it.
    pub async fn tap_epoch(&self, eni: &EniSpec) -> u64 {
        self.host.tap_epoch(eni).await.unwrap_or(0)
    }

    /// Why the ENI's network is not as the spec wants it.
    pub fn problem(&self, eni: &EniSpec) -> Option<String> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.problem_of(eni).map(ToString::to_string)
    }

    /// MTU of guests' interfaces, in bytes.
    pub fn mtu(&self) -> u16 {
        self.host.mtu()
    }

    /// The kernel's side of the networks.
    pub fn host(&self) -> &HostNetwork {
        &self.host
    }
}

/// When which repairs were told. Something that undoes them again and again is told seldom.
#[derive(Debug, Default)]
struct Repairs {
    told: Mutex<HashMap<String, u64>>,
}

impl Repairs {
    /// As many as a person reads.
    const NAMED: usize = 10;

    /// What there is to say of these repairs now, if anything.
    fn told_now(&self, repairs: &[Repair], now_ms: u64) -> Option<String> {
        if repairs.is_empty() {
            return None;
        }
        let mut named: Vec<String> = repairs.iter().map(ToString::to_string).collect();
        named.sort_unstable();
        named.dedup();
        if let Some(more) = named.len().checked_sub(Self::NAMED).filter(|more| *more > 0) {
            named.truncate(Self::NAMED);
            named.push(format!("{more} more"));
        }
        let what = named.join(", ");
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now_ms < at.saturating_add(SELDOM_MS));
        if told.contains_key(&what) {
            return None;
        }
        told.insert(what.clone(), now_ms);
        Some(format!("{what}: not as the agent had left it, so it was put right"))
    }
}

fn desired(spec: &HostSpec) -> Desired {
    let mut dhcp = HashMap::new();
    for instance in &spec.instances {
        let Some(metadata) = &instance.metadata else { continue };
        let options = DhcpOptions {
            hostname: metadata.hostname.clone(),
            dns_servers: metadata.dns_servers.iter().filter_map(|s| s.parse().ok()).collect(),
        };
        dhcp.extend(instance.enis.iter().map(|e| (e.eni_id.clone(), options.clone())));
    }
    let limits = spec.instances.iter().filter_map(|instance| {
        Some(InstanceLimit {
            instance_id: instance.instance_id.clone(),
            eni_ids: instance.enis.iter().map(|eni| eni.eni_id.clone()).collect(),
            limit: instance.network_limit?,
        })
    });
    Desired {
        limits: limits.collect(),
        edge_denied: spec.protected_cidrs.iter().filter_map(|cidr| block(cidr)).collect(),
        vpcs: spec.vpcs.clone(),
        enis: spec.instances.iter().flat_map(|i| i.enis.iter().cloned()).collect(),
        groups: spec.security_groups.clone(),
        prefix_lists: spec.prefix_lists.clone(),
        dhcp,
    }
}

fn block(cidr: &str) -> Option<Ipv4Net> {
    let address = || cidr.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    cidr.parse::<Ipv4Net>().ok().or_else(address)
}

/// The key that signs metadata tokens, kept so that guests' tokens outlive the agent.
fn token_key(layout: &Layout) -> Result<[u8; 32]> {
    let path = layout.state().join("metadata-token-key");
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice())
    {
        return Ok(key);
    }
    let key: [u8; 32] = rand::random();
    durable_file::write(&path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_repair_is_told_seldom_and_another_at_once() {
        let repairs = Repairs::default();
        let route =
            Repair { resource: "vpc-1".to_owned(), what: "route to 10.0.0.2/32".to_owned() };
        let tap = Repair { resource: "eni-1".to_owned(), what: "tap tap1".to_owned() };
        assert_eq!(repairs.told_now(&[], 0), None);
        let told = repairs.told_now(std::slice::from_ref(&route), 0).unwrap();
        assert!(told.contains("route to 10.0.0.2/32 of vpc-1"), "{told}");
        assert_eq!(repairs.told_now(std::slice::from_ref(&route), SELDOM_MS - 1), None);
        assert!(repairs.told_now(&[tap, route.clone()], SELDOM_MS - 1).is_some());
        assert!(repairs.told_now(&[route], SELDOM_MS).is_some());
        let many: Vec<Repair> = (0..15)
            .map(|n| Repair { resource: String::new(), what: format!("route {n:02}") })
            .collect();
        let told = repairs.told_now(&many, 0).unwrap();
        assert!(told.contains("route 09, 5 more"), "{told}");
    }
}
