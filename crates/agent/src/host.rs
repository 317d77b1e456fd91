//! Everything the parts of one agent share.

use crate::{
    cgroups::Cgroups, error::Result, events::EventLog, images::Images, instances::slots::UidSlots,
    interfaces::Interfaces, layout::Layout, networks::Networks, pools::Pools,
};
use api::host::{HostSpec, InstanceStatus};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, Semaphore, watch};

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ecs-vmm`.
    pub vmm_bin: PathBuf,
    /// `ecs-bootimage`.
    pub bootimage_bin: PathBuf,
    /// This executable, as the keeper of VMMs.
    pub keeper_bin: PathBuf,
    /// User id of slot 0.
    pub jail_uid_base: u32,
    /// Which boot of the host this is.
    pub boot_id: String,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Fixed parameters.
    pub settings: Settings,
    /// Paths.
    pub layout: Layout,
    /// Image copies.
    pub images: Images,
    /// Disks, in their pools.
    pub disks: Pools,
    /// VPC networks.
    pub networks: Networks,
    /// Which VMM has which ENI.
    pub interfaces: Interfaces,
    /// Resource limits.
    pub cgroups: Cgroups,
    /// Events not yet acknowledged.
    pub events: EventLog,
    /// User ids of instances.
    pub slots: UidSlots,
    /// One permit per boot finder that may run: each keeps a core busy.
    pub boot_finders: Semaphore,
    /// What the controller is told of instances.
    pub board: Board,
    /// The latest spec; `None` before the first.
    pub spec: watch::Sender<Option<std::sync::Arc<HostSpec>>>,
    /// Revision up to which resources are as the spec wants them, and how often they were looked at.
    pub applied: watch::Sender<Applied>,
}

/// How far the resources are that instances need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Revision of the spec whose instances have owners.
    pub revision: u64,
    /// Revision up to which what is not in the spec has left the networks.
    pub networks_revision: u64,
    /// Grows with every pass.
    pub passes: u64,
}

/// Instance states, as reported.
#[derive(Debug, Default)]
pub struct Board {
    instances: Mutex<BTreeMap<String, InstanceStatus>>,
    changed: Notify,
}

impl Board {
    /// Notes the state of one instance.
    pub fn set(&self, status: InstanceStatus) {
        let mut all = self.lock();
        if all.get(&status.instance_id) != Some(&status) {
            all.insert(status.instance_id.clone(), status);
            drop(all);
            self.changed.notify_one();
        }
    }

    /// Forgets an instance of which nothing is left.
    pub fn remove(&self, instance_id: &str) {
        if self.lock().remove(instance_id).is_some() {
            self.changed.notify_one();
        }
    }

    /// Whether anything of the instance may be left on this host.
    pub fn has(&self, instance_id: &str) -> bool {
        self.lock().contains_key(instance_id)
    }

    /// All instances.
    pub fn all(&self) -> Vec<InstanceStatus> {
        self.lock().values().cloned().collect()
    }

    /// Says why an instance does not get on, until its next state is noted.
    pub fn explain(&self, instance_id: &str, code: &str, message: &str) {
        let mut all = self.lock();
        if let Some(status) = all.get_mut(instance_id)
            && (status.code.as_str(), status.message.as_str()) != (code, message)
        {
            status.code = code.to_owned();
            status.message = message.to_owned();
            drop(all);
            self.changed.notify_one();
        }
    }

    /// Says that something beside the instances is worth a report.
    pub fn touch(&self) {
        self.changed.notify_one();
    }

    /// Returns when something changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, InstanceStatus>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Whether the instance is wanted here, or anything of it may be left.
    pub fn knows_instance(&self, instance_id: &str) -> bool {
        self.board.has(instance_id)
            || self.spec.borrow().iter().any(|spec| {
                spec.instances.iter().any(|instance| instance.instance_id == instance_id)
            })
    }

    /// The latest spec, if there is one.
    pub fn current_spec(&self) -> Option<std::sync::Arc<HostSpec>> {
        self.spec.borrow().clone()
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Which boot of the host this is.
///
/// # Errors
/// When the kernel does not say.
pub fn boot_id() -> Result<String> {
    use crate::error::FileContext as _;
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(PATH).at("read", PATH)?.trim().to_owned())
}
