//! Asks a running VMM for what its network interfaces lack, and keeps account of which it has.

use super::nic_plan::{self, NicAsk};
use crate::{
    error::{Error, Result},
    host::Host,
    interfaces::NicsOfVmm,
    vmm_client::VmmClient,
};
use api::{
    host::{EniSpec, InstanceSpec},
    vmm::{Info, Nic},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
    sync::Arc,
};

/// Queue pairs of an interface that comes to a running guest: what the descriptors of one request
/// to the VMM allow.
const MOST_PLUGGED_PAIRS: u32 = 32;

/// An interface, and what its VMM is to be given for it.
#[derive(Debug)]
pub struct OpenNic {
    /// As the VMM is told of it, without descriptors.
    pub nic: Nic,
    /// One for each queue pair.
    pub taps: Vec<OwnedFd>,
    /// As many, or none: the VMM then moves the packets itself.
    pub vhost: Vec<OwnedFd>,
}

/// Opens what a VMM needs for an ENI.
///
/// # Errors
/// When the ENI's network could not be made; names it and says why.
pub async fn open(
    host: &Host,
    instance: &InstanceSpec,
    eni: &EniSpec,
    most_pairs: u32,
) -> Result<OpenNic> {
    let wanted = match (eni.queues, eni.primary) {
        (0, true) => instance.nic_queues,
        (queues, _) => queues,
    };
    let queue_pairs = wanted.min(instance.vcpus).min(most_pairs).max(1);
    let taps = host.networks.open_tap(eni, queue_pairs).await?;
    let nic = Nic {
        eni_id: eni.eni_id.clone(),
        mac: eni.mac.clone(),
        queue_pairs,
        mtu: host.networks.mtu().into(),
        tap_epoch: host.networks.tap_epoch(eni).await,
        ..Nic::default()
    };
    let vhost = vhost_net(taps.len());
    Ok(OpenNic { nic, taps, vhost })
}

/// One vhost-net descriptor per queue pair, or none.
fn vhost_net(queue_pairs: usize) -> Vec<OwnedFd> {
    let open = |_| OpenOptions::new().read(true).write(true).open("/dev/vhost-net");
    let fds: std::io::Result<Vec<File>> = (0..queue_pairs).map(open).collect();
    fds.unwrap_or_default().into_iter().map(OwnedFd::from).collect()
}

/// Sees to the network interfaces of one running VMM.
#[derive(Debug)]
pub struct NicPlugging {
    host: Arc<Host>,
    instance_id: String,
    client: VmmClient,
    /// When the guest was last asked to let one go, milliseconds since 1970.
    asked_ms: HashMap<String, u64>,
    problems: BTreeMap<String, (String, String)>,
}

impl NicPlugging {
    /// For the VMM behind `client`.
    pub fn new(host: Arc<Host>, instance_id: &str, client: VmmClient) -> Self {
        Self {
            host,
            instance_id: instance_id.to_owned(),
            client,
            asked_ms: HashMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// A VMM lives that has, or may have, these; what it says of them comes later.
    pub fn presume(&self, enis: &[String]) {
        self.publish(NicsOfVmm::presumed(enis));
    }

    /// The VMM is gone, and with it what was asked of it.
    pub fn forget(&mut self) {
        self.asked_ms.clear();
        self.problems.clear();
        self.host.interfaces.clear(&self.instance_id);
        self.host.board.touch();
    }

    /// What must be asked of the VMM; `instance` as the spec has it, none: it is to go, and its
    /// interfaces with it.
    pub async fn lacks(
        &mut self,
        now: u64,
        info: &Info,
        instance: Option<&InstanceSpec>,
    ) -> Vec<NicAsk> {
        let Some(instance) = instance else { return Vec::new() };
        let mut epochs = HashMap::new();
        for eni in &instance.enis {
            epochs.insert(eni.eni_id.as_str(), self.host.networks.tap_epoch(eni).await);
        }
        let epoch = |id: &str| epochs.get(id).copied().unwrap_or(0);
        let asked = |id: &str| self.asked_ms.get(id).copied();
        let asks = nic_plan::plan(now, &instance.enis, &info.nics, epoch, asked);
        self.problems.retain(|id, _| asks.iter().any(|ask| ask.eni_id() == id));
        asks
    }

    /// Asks the VMM.
    pub async fn ask(&mut self, ask: &NicAsk, instance: &InstanceSpec, now: u64) {
        let id = ask.eni_id().to_owned();
        let eni = instance.enis.iter().find(|eni| eni.eni_id == id);
        let asked = match (ask, eni) {
            (NicAsk::Detach { eni_id }, _) => {
                self.asked_ms.insert(eni_id.clone(), now);
                self.client.detach_nic(eni_id).await
            }
            (NicAsk::Attach { .. }, Some(eni)) => self.attach(instance, eni).await,
            (NicAsk::SwitchTaps { .. }, Some(eni)) => self.switch_taps(instance, eni).await,
            (_, None) => Ok(()),
        };
        match asked {
            Ok(()) => {
                tracing::info!(instance_id = self.instance_id, ?ask, "asked");
                self.problems.remove(&id);
            }
            Err(e) => {
                let problem = (e.code().to_owned(), e.to_string());
                if self.problems.get(&id) != Some(&problem) {
                    tracing::warn!(instance_id = self.instance_id, ?ask, "{e}");
                }
                self.problems.insert(id, problem);
            }
        }
    }

    async fn attach(&self, instance: &InstanceSpec, eni: &EniSpec) -> Result<()> {
        let OpenNic { nic, taps, vhost } =
            open(&self.host, instance, eni, MOST_PLUGGED_PAIRS).await?;
        self.client.attach_nic(nic, taps, vhost).await
    }

    async fn switch_taps(&self, instance: &InstanceSpec, eni: &EniSpec) -> Result<()> {
        let most = if eni.primary { u32::MAX } else { MOST_PLUGGED_PAIRS };
        let OpenNic { nic, taps, .. } = open(&self.host, instance, eni, most).await?;
        if nic.tap_epoch == 0 {
            let message = "its tap went away as it was opened; tried again".to_owned();
            return Err(Error::resource(&eni.eni_id, "NetworkNotReady", message));
        }
        self.client.switch_taps(&eni.eni_id, nic.tap_epoch, taps).await?;
        tracing::warn!(eni_id = eni.eni_id, "its tap was made anew; the guest goes on with it");
        Ok(())
    }

    /// Says what the VMM has.
    pub fn tell(&self, now: u64, info: &Info) {
        let mut nics = NicsOfVmm { problems: self.problems.clone(), ..NicsOfVmm::default() };
        for nic in &info.nics {
            if let Some(slow) = nic_plan::slow_guest(now, nic) {
                nics.problems.entry(nic.eni_id.clone()).or_insert(slow);
            }
            nics.attached.insert(nic.eni_id.clone(), Some(nic.clone()));
        }
        self.publish(nics);
    }

    fn publish(&self, nics: NicsOfVmm) {
        if self.host.interfaces.set(&self.instance_id, nics) {
            self.host.board.touch();
        }
    }
}
