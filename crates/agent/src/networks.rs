//! The host's VPC networks as the spec wants them, and the metadata service inside each.

use crate::{
    durable_file,
    error::{Error, Result},
    layout::Layout,
    metadata_directory::VpcDirectory,
};
use api::host::{EniSpec, HostSpec};
use network::{Desired, DhcpOptions, HostNetwork, METADATA_ADDRESS, METADATA_PORT, Report};
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;

/// Networks and metadata of this host.
#[derive(Debug)]
pub struct Networks {
    host: HostNetwork,
    metadata: metadata::Service,
    report: Mutex<Report>,
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
    pub async fn open(layout: &Layout, namespace_dir: &Path) -> Result<Self> {
        let options =
            network::Options { namespace_dir: namespace_dir.to_owned(), ..Default::default() };
        let host =
            HostNetwork::new(options).await.map_err(|e| Error::Configuration(e.to_string()))?;
        Ok(Self {
            host,
            metadata: metadata::Service::new(token_key(layout)?),
            report: Mutex::default(),
            services: tokio::sync::Mutex::default(),
        })
    }

    /// Makes networks and metadata match the spec. True when nothing of what is not in the spec is
    /// left.
    pub async fn reconcile(&self, spec: &HostSpec) -> bool {
        self.end_services_not_in(spec).await;
        let report = self.host.reconcile(&desired(spec)).await;
        let clean = report.removals_done;
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

    /// The kernel's side of the networks.
    pub fn host(&self) -> &HostNetwork {
        &self.host
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
    Desired {
        vpcs: spec.vpcs.clone(),
        enis: spec.instances.iter().flat_map(|i| i.enis.iter().cloned()).collect(),
        groups: spec.security_groups.clone(),
        dhcp,
    }
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
