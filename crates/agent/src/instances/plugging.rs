//! Asks a running VMM for what its devices lack, and keeps account of which disks it has.

use super::{
    nic_plan::NicAsk,
    nic_plugging::NicPlugging,
    owner::Wish,
    plug::{self, Ask, Trouble},
    record::Record,
};
use crate::{
    disks::{Attached, DisksOfVmm},
    error::Result,
    host::{Host, now_ms},
    vmm_client::VmmClient,
};
use api::{
    host::{DiskMetrics, DiskSpec},
    vmm::{AttachedDisk, Disk, DiskStats, Info},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// While something is under way.
const SOON_MS: u64 = 200;
/// Otherwise: counters grow old.
const LATER_MS: u64 = 5_000;

/// Sees to the disks and, through [`NicPlugging`], network interfaces of one running VMM.
#[derive(Debug)]
pub struct Plugging {
    host: Arc<Host>,
    instance_id: String,
    client: VmmClient,
    /// When the guest was last asked to let a disk go, milliseconds since 1970.
    asked_ms: HashMap<String, u64>,
    /// Why a disk could not be attached or changed.
    problems: BTreeMap<String, (String, String)>,
    /// Troubles of disks that could not be noted as events yet: a full host has no room for these
    /// either.
    untold: Vec<(String, Trouble)>,
    nics: NicPlugging,
}

impl Plugging {
    /// For the VMM behind `client`.
    pub fn new(host: Arc<Host>, instance_id: &str, client: VmmClient) -> Self {
        Self {
            nics: NicPlugging::new(Arc::clone(&host), instance_id, client.clone()),
            host,
            instance_id: instance_id.to_owned(),
            client,
            asked_ms: HashMap::new(),
            problems: BTreeMap::new(),
            untold: Vec::new(),
        }
    }

    /// A VMM lives that has, or may have, the devices of the record; what it says of them comes later.
    pub fn presume(&self, record: &Record) {
        self.nics.presume(&record.enis);
        let disks = DisksOfVmm::presumed(&record.disks);
        if self.host.disks.attachments().set(&self.instance_id, disks) {
            self.host.board.touch();
        }
    }

    /// The VMM is gone, and with it what was asked of it.
    pub fn forget(&mut self) {
        self.nics.forget();
        self.asked_ms.clear();
        self.problems.clear();
        self.host.disks.attachments().clear(&self.instance_id);
        if let Err(e) = self.host.disks.leases().settle(&self.instance_id, &[]) {
            tracing::warn!(instance_id = self.instance_id, "{e}");
        }
        self.host.board.touch();
    }

    /// One look at the VMM's devices and what follows from it. Answers when to look again,
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// When the record cannot be written. What the VMM refuses is told of with the device.
    pub async fn tend(&mut self, wish: &Wish, record: &mut Record) -> Result<u64> {
        let info = match self.client.info().await {
            Ok(info) => info,
            Err(e) => {
                tracing::debug!(instance_id = self.instance_id, "{e}");
                return Ok(now_ms() + LATER_MS);
            }
        };
        let now = now_ms();
        let asked = self.ask_for_what_lacks(now, &info, &wish.disks, record).await;
        let mut busy = *asked.as_ref().unwrap_or(&false) || info.disks.iter().any(|d| d.detaching);
        let asked_nics = self.ask_for_nics(now, &info, wish, record).await;
        busy |= *asked_nics.as_ref().unwrap_or(&false) || info.nics.iter().any(|n| n.detaching);
        for disk in info.disks.iter().filter(|d| !d.detaching) {
            busy |= self.switch_layers(disk).await;
        }
        let stats = if !busy {
            self.client.stats().await.map(|stats| stats.disks).unwrap_or_default()
        } else {
            Vec::new()
        };
        self.publish(now, &info, &stats);
        self.nics.tell(now, &info);
        // A host without room for the record tells of its devices all the same.
        asked?;
        asked_nics?;
        Ok(now_ms() + if busy { SOON_MS } else { LATER_MS })
    }

    /// True if there was anything.
    async fn ask_for_what_lacks(
        &mut self,
        now: u64,
        info: &Info,
        wanted: &[DiskSpec],
        record: &mut Record,
    ) -> Result<bool> {
        self.settle_record(info, record)?;
        self.host.disks.leases().settle(&self.instance_id, &record.disks)?;
        for disk in &info.disks {
            self.host.disks.note_use(&self.instance_id, &disk.disk_id)?;
        }
        let system_disk = record.disks.first().cloned().unwrap_or_default();
        let asked = |id: &str| self.asked_ms.get(id).copied();
        let asks = plug::plan(now, wanted, &info.disks, &system_disk, asked);
        self.problems.retain(|id, _| {
            asks.iter().any(|ask| ask_of(ask) == id) && wanted.iter().any(|w| w.disk_id == *id)
        });
        for ask in &asks {
            self.ask(ask, wanted, record, now).await?;
        }
        Ok(!asks.is_empty())
    }

    /// True if there was anything.
    async fn ask_for_nics(
        &mut self,
        now: u64,
        info: &Info,
        wish: &Wish,
        record: &mut Record,
    ) -> Result<bool> {
        let has: Vec<String> = info.nics.iter().map(|nic| nic.eni_id.clone()).collect();
        if record.enis != has {
            record.enis = has;
            record.save(&self.host.layout)?;
        }
        // Before the networks follow the same spec an ENI may have no tap yet, or one that goes.
        if self.host.applied.borrow().revision < wish.revision {
            return Ok(true);
        }
        let asks = self.nics.lacks(now, info, wish.instance.as_deref()).await;
        let Some(instance) = &wish.instance else { return Ok(false) };
        for ask in &asks {
            if let NicAsk::Attach { eni_id } = ask {
                // Before it is asked: an agent that dies now must know that the VMM may have it.
                record.enis.push(eni_id.clone());
                record.save(&self.host.layout)?;
            }
            self.nics.ask(ask, instance, now).await;
        }
        Ok(!asks.is_empty())
    }

    /// Takes the disk's next snapshot, or puts it on the chain it should have. True if there may be
    /// more to do at once.
    async fn switch_layers(&self, disk: &AttachedDisk) -> bool {
        let id = disk.disk_id.as_str();
        let Some(spec) = self.host.current_spec() else { return false };
        let disks = &self.host.disks;
        let snapshot = disks.snapshot_to_take(&spec, id);
        let done = match &snapshot {
            Some(snapshot) => self.take_snapshot(disk, snapshot).await,
            None if disks.chain_epoch(id).is_some_and(|epoch| epoch != disk.chain_epoch) => {
                self.follow_chain(id).await
            }
            None => return false,
        };
        match (done, snapshot) {
            (Ok(()), _) => {
                self.host.board.touch();
                true
            }
            (Err(e), Some(snapshot)) => {
                tracing::warn!(disk_id = id, snapshot_id = snapshot, "{e}");
                disks.explain_snapshot(id, &snapshot, &e);
                self.host.board.touch();
                false
            }
            (Err(e), None) => {
                // It reads the same from the layers it has, which take space until then.
                tracing::warn!(disk_id = id, "cannot leave layers that were merged: {e}");
                false
            }
        }
    }

    async fn take_snapshot(&self, disk: &AttachedDisk, snapshot: &str) -> Result<()> {
        let (id, disks) = (disk.disk_id.as_str(), &self.host.disks);
        if disks.chain_epoch(id).is_some_and(|epoch| disk.chain_epoch == epoch + 1) {
            // Cut off after the VMM had done its part.
            return disks.finish_freeze(id, 0);
        }
        let frozen = disks.prepare_freeze(id, snapshot)?;
        let paused_ns = self.client.switch_layers(id, Some(frozen.top), frozen.below).await?;
        disks.finish_freeze(id, paused_ns)?;
        tracing::info!(disk_id = id, snapshot_id = snapshot, paused_ns, "snapshot taken");
        Ok(())
    }

    async fn follow_chain(&self, disk_id: &str) -> Result<()> {
        let backing = self.host.disks.open_backing(disk_id)?;
        self.client.switch_layers(disk_id, None, backing).await.map(drop)
    }

    /// The record names what the VMM may have: what it does not list any more is let go.
    fn settle_record(&self, info: &Info, record: &mut Record) -> Result<()> {
        let has = |id: &String| info.disks.iter().any(|d| d.disk_id == *id);
        let mut disks: Vec<String> = record.disks.iter().filter(|id| has(id)).cloned().collect();
        for disk in &info.disks {
            if !disks.contains(&disk.disk_id) {
                disks.push(disk.disk_id.clone());
            }
        }
        if disks != record.disks {
            record.disks = disks;
            record.save(&self.host.layout)?;
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        ask: &Ask,
        wanted: &[DiskSpec],
        record: &mut Record,
        now: u64,
    ) -> Result<()> {
        let asked = match ask {
            Ask::Attach { disk_id } => {
                // Before it is asked: an agent that dies now must know that the VMM may have it.
                if !record.disks.contains(disk_id) {
                    record.disks.push(disk_id.clone());
                    record.save(&self.host.layout)?;
                }
                self.attach(disk_id, wanted, record).await
            }
            Ask::Detach { disk_id } => {
                self.asked_ms.insert(disk_id.clone(), now);
                self.client.detach_disk(disk_id).await
            }
            Ask::Resize { disk_id, size_bytes } => {
                self.client.resize_disk(disk_id, *size_bytes).await
            }
            Ask::Limit { disk_id, limit } => self.client.set_disk_limit(disk_id, *limit).await,
        };
        let id = ask_of(ask).to_owned();
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
        Ok(())
    }

    async fn attach(&self, disk_id: &str, wanted: &[DiskSpec], record: &Record) -> Result<()> {
        let Some(spec) = self.host.current_spec() else { return Ok(()) };
        let disks = &self.host.disks;
        disks.register(&self.instance_id, disk_id)?;
        let opened = disks.open(&spec, disk_id, true);
        if opened.is_err() {
            // A lease that it does not need must not end the VMM.
            let has = record.disks.iter().filter(|id| *id != disk_id).cloned();
            disks.leases().settle(&self.instance_id, &has.collect::<Vec<_>>())?;
        }
        let chain = opened?;
        let limit = wanted.iter().find(|w| w.disk_id == disk_id).and_then(plug::limit);
        let chain_epoch = chain.chain_epoch;
        let disk = Disk { disk_id: disk_id.to_owned(), limit, chain_epoch, ..Disk::default() };
        self.client.attach_disk(disk, chain).await
    }

    fn publish(&mut self, now: u64, info: &Info, stats: &[DiskStats]) {
        let mut of_vmm = DisksOfVmm::default();
        for disk in &info.disks {
            let pool = || {
                let known = self.host.disks.directory_of(&disk.disk_id);
                known.unwrap_or_else(|| self.host.layout.disks())
            };
            let trouble = plug::trouble(now, disk, pool);
            let metrics = stats.iter().find(|s| s.disk_id == disk.disk_id);
            let kept = || {
                let (_, before) = self.host.disks.attachments().of_disk(&disk.disk_id)?;
                before.metrics
            };
            of_vmm.attached.insert(
                disk.disk_id.clone(),
                Attached {
                    seen: Some(disk.clone()),
                    metrics: metrics.map(|s| counters(s, info, now)).or_else(kept),
                    problem: self.problem(now, disk, trouble.as_ref()),
                },
            );
            if let Some(trouble) = trouble {
                self.note_trouble(&disk.disk_id, trouble);
            }
        }
        self.tell_troubles();
        for (id, problem) in &self.problems {
            if !of_vmm.attached.contains_key(id) {
                of_vmm.refused.insert(id.clone(), problem.clone());
            }
        }
        if self.host.disks.attachments().set(&self.instance_id, of_vmm) {
            self.host.board.touch();
        }
    }

    fn problem(
        &self,
        now: u64,
        disk: &AttachedDisk,
        trouble: Option<&Trouble>,
    ) -> Option<(String, String)> {
        let trouble = trouble.map(|t| (t.kind.to_owned(), t.message.clone()));
        let asked = self.problems.get(&disk.disk_id).cloned();
        trouble.or(asked).or_else(|| plug::slow_guest(now, disk))
    }

    fn note_trouble(&mut self, disk_id: &str, trouble: Trouble) {
        let same = |(id, noted): &(String, Trouble)| id == disk_id && noted.kind == trouble.kind;
        if !self.untold.iter().any(same) {
            self.untold.push((disk_id.to_owned(), trouble));
        }
    }

    /// As events of the instance.
    fn tell_troubles(&mut self) {
        let (host, id) = (&self.host, &self.instance_id);
        self.untold.retain(|(disk_id, trouble)| {
            let Trouble { kind, message, since_unix_ms } = trouble;
            match host.events.append_seldom(id, disk_id, kind, message, *since_unix_ms) {
                Ok(told) => {
                    if told {
                        host.board.touch();
                    }
                    false
                }
                Err(e) => {
                    tracing::warn!(instance_id = id, disk_id, kind, "{message}; not noted: {e}");
                    true
                }
            }
        });
    }
}

fn ask_of(ask: &Ask) -> &str {
    match ask {
        Ask::Attach { disk_id }
        | Ask::Detach { disk_id }
        | Ask::Resize { disk_id, .. }
        | Ask::Limit { disk_id, .. } => disk_id,
    }
}

fn counters(stats: &DiskStats, info: &Info, now: u64) -> DiskMetrics {
    DiskMetrics {
        reads: stats.reads,
        writes: stats.writes,
        read_bytes: stats.read_bytes,
        write_bytes: stats.write_bytes,
        flushes: stats.flushes,
        errors: stats.errors,
        throttled_ns: stats.throttled_ns,
        throttled: stats.throttled,
        read_latency: stats.read_latency.clone(),
        write_latency: stats.write_latency.clone(),
        since_unix_ms: info.started_unix_ms,
        at_unix_ms: now,
    }
}
