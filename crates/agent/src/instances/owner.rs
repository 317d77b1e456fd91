//! The one task that acts on an instance. It may be killed anywhere: what it is about to do is in
//! the record before it is done, and what was done is seen in the lock, the processes and the exit
//! report.

use super::{
    decide::{self, Desired, Step},
    exit::{Exit, ExitReport},
    launch::launch,
    plugging::Plugging,
    processes::{Presence, Role, launch_of, try_lock},
    record::{Phase, Record},
};
use crate::{
    durable_file,
    error::{Error, Result},
    host::{Host, now_ms},
    layout::remove_dir,
    vmm_client::VmmClient,
};
use api::{
    host::{DiskSpec, InstanceSpec, Power},
    vmm::{VmConfig, VmState},
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A VMM must answer within this time of its start.
const ANSWER: Duration = Duration::from_secs(60);
/// Most do within this.
const ANSWER_SOON: Duration = Duration::from_secs(2);
const RETRY_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 30_000;

/// What the spec says of one instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    /// Revision of the spec in which this last changed.
    pub revision: u64,
    /// Its part of the spec; `None`: it is not in the spec any more.
    pub instance: Option<Arc<InstanceSpec>>,
    /// Its disks, in device order.
    pub disks: Arc<[DiskSpec]>,
    /// Snapshots of these, by id.
    pub snapshots: Arc<[String]>,
}

impl From<&InstanceSpec> for Desired {
    fn from(spec: &InstanceSpec) -> Self {
        Self {
            generation: spec.generation,
            boot_epoch: spec.boot_epoch,
            running: spec.power() == Power::Running,
            force: spec.force,
            stop_timeout_ms: u64::from(spec.stop_timeout_seconds).saturating_mul(1000),
        }
    }
}

/// Owns one instance until nothing of it is left.
pub async fn own(host: Arc<Host>, instance_id: String, wish: watch::Receiver<Wish>) {
    let mut pause = Duration::from_millis(RETRY_MS);
    loop {
        let mut owner = match Owner::open(&host, &instance_id, wish.clone()).await {
            Ok(owner) => owner,
            Err(e) => {
                tracing::error!(instance_id, "cannot read the instance's record: {e}");
                host.board.explain(&instance_id, e.code(), &e.to_string());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(RETRY_MAX_MS));
                continue;
            }
        };
        match owner.run().await {
            Ok(()) => return,
            Err(e) => {
                tracing::error!(instance_id, "{e}; trying again");
                host.board.explain(&instance_id, e.code(), &e.to_string());
            }
        }
        tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
    }
}

struct Owner<'a> {
    host: &'a Arc<Host>,
    id: String,
    wish: watch::Receiver<Wish>,
    record: Record,
    client: VmmClient,
    plugging: Plugging,
}

impl<'a> Owner<'a> {
    async fn open(host: &'a Arc<Host>, id: &str, wish: watch::Receiver<Wish>) -> Result<Self> {
        let client = VmmClient::new(id, &host.layout.control_socket(id));
        let record = match Record::load(&host.layout, id) {
            Ok(Some(record)) => record,
            Ok(None) => work_out(host, id, &client).await?,
            Err(Error::Damaged { path, detail }) => {
                tracing::error!(instance_id = id, "{}: {detail}; set aside", path.display());
                durable_file::rename(&path, &path.with_extension("damaged"))?;
                work_out(host, id, &client).await?
            }
            Err(e) => return Err(e),
        };
        let plugging = Plugging::new(Arc::clone(host), id, client.clone());
        if Presence::look(&host.layout, id)?.alive() {
            plugging.presume(&record);
        }
        Ok(Self { host, id: id.to_owned(), wish, record, client, plugging })
    }

    /// Returns when nothing of the instance is left.
    async fn run(&mut self) -> Result<()> {
        loop {
            let wish = self.wish.borrow_and_update().clone();
            let desired = wish.instance.as_deref().map(Desired::from);
            let presence = Presence::look(&self.host.layout, &self.id)?;
            let alive = presence.alive();
            let thought_alive = matches!(self.record.phase, Phase::Launching | Phase::Running);
            if !alive && (thought_alive || self.record.stopping.is_some()) {
                self.settle_exit().await?;
                continue;
            }
            if alive && !thought_alive {
                self.record.phase = Phase::Launching;
                self.record.save(&self.host.layout)?;
            }
            let now = now_ms();
            let step = decide::decide(now, desired.as_ref(), &self.record, alive);
            tracing::debug!(instance_id = self.id, ?step, alive, phase = ?self.record.phase);
            match step {
                Step::Wait { mut until_ms } => {
                    self.publish(desired.as_ref(), alive);
                    if alive && self.record.phase == Phase::Running {
                        let again = self.plugging.tend(&wish, &mut self.record).await?;
                        until_ms = Some(until_ms.map_or(again, |until| until.min(again)));
                    }
                    self.wait(&presence, until_ms).await?;
                }
                Step::Launch { .. } => match (&wish.instance, &desired) {
                    (Some(instance), Some(desired)) => {
                        self.launch(wish.revision, instance, desired).await?;
                    }
                    _ => continue,
                },
                Step::PressPowerButton | Step::Terminate => {
                    self.record = decide::note_stop_step(now, &self.record, step);
                    self.record.save(&self.host.layout)?;
                    self.publish(desired.as_ref(), alive);
                    self.ask_to_stop(step, &presence).await;
                }
                Step::Kill => {
                    self.record = decide::note_stop_step(now, &self.record, step);
                    self.record.save(&self.host.layout)?;
                    tracing::warn!(instance_id = self.id, "the VMM did not end: killing it");
                    presence.kill(&self.host.layout, &self.id);
                    let gone = presence.gone(&self.host.layout, &self.id);
                    // Looked at again in any case.
                    let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
                }
                Step::SettleStopped => {
                    self.record.phase = Phase::Stopped;
                    self.record.save(&self.host.layout)?;
                }
                Step::Remove => {
                    if self.remove(wish.revision).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn publish(&self, desired: Option<&Desired>, alive: bool) {
        let mut status = decide::status(&self.record, desired, alive);
        if let Some(desired) = desired {
            status.observed_generation = desired.generation;
        }
        self.host.board.set(status);
    }

    /// Waits for whatever may change the next step.
    async fn wait(&mut self, presence: &Presence, until_ms: Option<u64>) -> Result<()> {
        let starting = presence.alive() && self.record.phase == Phase::Launching;
        let layout = &self.host.layout;
        let mut answer = None;
        tokio::select! {
            changed = self.wish.changed() => {
                if changed.is_err() {
                    // The agent is ending.
                    std::future::pending::<()>().await;
                }
            }
            () = sleep_until(until_ms) => {}
            () = presence.gone(layout, &self.id), if presence.alive() => {}
            info = answers(&self.client, ANSWER), if starting => answer = Some(info),
        }
        match answer {
            Some(Some(info)) => {
                self.record.phase = Phase::Running;
                self.record.boot_epoch = self.record.boot_epoch.max(info.boot_epoch);
                self.record.started_unix_ms = info.started_unix_ms;
                self.record.save(layout)?;
                tracing::info!(instance_id = self.id, pid = info.pid, "the guest runs");
            }
            Some(None) => {
                tracing::error!(instance_id = self.id, "the VMM does not answer: killing it");
                presence.kill(layout, &self.id);
            }
            None => {}
        }
        Ok(())
    }

    async fn launch(
        &mut self,
        revision: u64,
        instance: &InstanceSpec,
        desired: &Desired,
    ) -> Result<()> {
        let Some(spec) = self.host.current_spec() else { return Ok(()) };
        let boot_id = self.host.settings.boot_id.as_str();
        let mut applied = self.host.applied.subscribe();
        let ready = applied.borrow_and_update().revision >= revision;
        let missing = instance
            .disk_ids
            .iter()
            .find_map(|disk| self.host.disks.open(&spec, disk, false).err());
        if ready && let Some(error) = missing.as_ref().filter(|error| error.is_permanent()) {
            return self.note_refused(desired, error);
        }
        if !ready || missing.is_some() {
            self.publish_pending(desired, missing.as_ref());
            tokio::select! {
                _ = self.wish.changed() => {}
                _ = applied.changed() => {}
            }
            return Ok(());
        }
        let Some(lock) = try_lock(&self.host.layout, &self.id)? else { return Ok(()) };
        if self.record.disks_suspect {
            match self.mend_disks().await {
                Ok(_) => self.record.disks_suspect = false,
                Err(e) if e.is_permanent() => return self.note_refused(desired, &e),
                Err(e) => {
                    self.record = decide::note_launch(&self.record, desired, boot_id);
                    return self.note_failed_launch(desired, &e);
                }
            }
        }
        self.record = decide::note_launch(&self.record, desired, boot_id);
        self.record.disks.clone_from(&instance.disk_ids);
        self.record.enis = instance.enis.iter().map(|eni| eni.eni_id.clone()).collect();
        self.record.save(&self.host.layout)?;
        self.plugging.presume(&self.record);
        self.publish(Some(desired), false);
        let launched = tokio::select! {
            launched = launch(self.host, &spec, instance, &self.record, lock) => launched,
            // The step is dropped before it has started a process, or is finished.
            _ = self.wish.changed() => {
                self.plugging.forget();
                return Ok(());
            }
        };
        match launched {
            Ok(mut keeper) => {
                // Only to reap it: its end is seen as the end of its process, like after a restart.
                tokio::spawn(async move { keeper.wait().await });
                Ok(())
            }
            Err(e) => {
                self.plugging.forget();
                self.note_failed_launch(desired, &e)
            }
        }
    }

    fn publish_pending(&self, desired: &Desired, missing: Option<&Error>) {
        let mut status = decide::status(&self.record, Some(desired), false);
        status.state = api::host::InstanceState::Starting.into();
        status.boot_epoch = desired.boot_epoch;
        status.observed_generation = desired.generation;
        status.guest_initiated = false;
        if let Some(error) = missing {
            status.code = error.code().into();
            status.message = error.to_string();
        }
        self.host.board.set(status);
    }

    fn note_refused(&mut self, desired: &Desired, error: &Error) -> Result<()> {
        tracing::warn!(instance_id = self.id, "the instance cannot be started: {error}");
        self.record = decide::note_refused(&self.record, desired, error);
        self.record.save(&self.host.layout)?;
        self.publish(Some(desired), false);
        Ok(())
    }

    fn note_failed_launch(&mut self, desired: &Desired, error: &Error) -> Result<()> {
        tracing::warn!(instance_id = self.id, "cannot start the instance: {error}");
        self.record = decide::note_failed_launch(now_ms(), &self.record, error);
        self.record.save(&self.host.layout)?;
        self.publish(Some(desired), false);
        Ok(())
    }

    async fn ask_to_stop(&mut self, step: Step, presence: &Presence) {
        let asked = match step {
            Step::PressPowerButton => self.client.power_button().await,
            _ => self.client.terminate().await,
        };
        if let Err(e) = asked {
            tracing::warn!(instance_id = self.id, ?step, "{e}");
            if step == Step::PressPowerButton
                && let Some(stopping) = &mut self.record.stopping
            {
                stopping.pressed_ms = None;
            }
            let gone = presence.gone(&self.host.layout, &self.id);
            // Tried again after the pause, or the machine is gone already.
            let _ = tokio::time::timeout(Duration::from_millis(300), gone).await;
        }
    }

    /// Works out how the VMM ended, tells of it and notes it.
    async fn settle_exit(&mut self) -> Result<()> {
        let layout = &self.host.layout;
        let report: Option<ExitReport> =
            durable_file::read_json(&layout.exit_report(&self.id)).unwrap_or_default();
        let said = tail(&layout.vmm_log(&self.id), 8 << 10);
        let boot_id = &self.host.settings.boot_id;
        let exit = Exit::of(&self.record, report.as_ref(), boot_id, &said);
        let (mut next, mut notice) = decide::note_exit(now_ms(), &self.record, &exit);
        tracing::info!(instance_id = self.id, "VMM gone: {exit}");
        if next.disks_suspect {
            match self.mend_disks().await {
                Ok(done) => {
                    next.disks_suspect = false;
                    for done in done {
                        tracing::info!(instance_id = self.id, "{done}");
                        if let Some(notice) = &mut notice {
                            notice.message = format!("{}; {done}", notice.message);
                        }
                    }
                }
                Err(e) if e.is_permanent() => {
                    let (damaged, told) = decide::note_damage(next, notice, &exit, &e);
                    (next, notice) = (damaged, Some(told));
                }
                // Tried again before the next start.
                Err(e) => tracing::warn!(instance_id = self.id, "{e}"),
            }
        }
        if let Some(notice) = notice {
            let launch = self.record.launches;
            let events = &self.host.events;
            events.append(&self.id, launch, notice.kind, &notice.message, now_ms())?;
            self.host.board.touch();
        }
        self.record = next;
        self.record.save(layout)?;
        self.plugging.forget();
        Ok(())
    }

    /// Puts the disks in order after a crash; tells what was done.
    async fn mend_disks(&self) -> Result<Vec<String>> {
        // One that was let go before the crash was in order then.
        let disks = match &self.wish.borrow().instance {
            Some(instance) if self.record.disks.is_empty() => instance.disk_ids.clone(),
            _ => self.record.disks.clone(),
        };
        let host = Arc::clone(self.host);
        let mend = move || disks.iter().filter_map(|d| host.disks.mend(d).transpose()).collect();
        match tokio::task::spawn_blocking(mend).await {
            Ok(result) => result,
            Err(e) => {
                let message = format!("the check of its disks was cut off: {e}");
                Err(Error::resource(&self.id, "HostError", message))
            }
        }
    }

    /// Removes what is left. False: the spec has the instance again.
    async fn remove(&mut self, revision: u64) -> Result<bool> {
        let layout = &self.host.layout;
        self.host.cgroups.remove(&self.id).await?;
        remove_dir(&layout.vmm_dir(&self.id))?;
        remove_dir(&layout.instance(&self.id))?;
        self.host.events.forget(&self.id)?;
        // Its taps go with the networks; before that something of it is left.
        let mut applied = self.host.applied.subscribe();
        while applied.borrow_and_update().networks_revision < revision {
            tokio::select! {
                changed = applied.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                _ = self.wish.changed() => {
                    if self.wish.borrow().instance.is_some() {
                        return Ok(false);
                    }
                }
            }
        }
        self.host.slots.release(&self.id);
        self.host.board.remove(&self.id);
        tracing::info!(instance_id = self.id, "nothing of the instance is left");
        Ok(true)
    }
}

/// The record of an instance whose own is not there or cannot be read: new, or worked out from the
/// VMM that lives, so that its guest is not taken for one of an older epoch and rebooted.
async fn work_out(host: &Host, id: &str, client: &VmmClient) -> Result<Record> {
    let mut record = Record::new(id, host.slots.take(id)?);
    record.launches = host.events.last_occurrence(id);
    let presence = Presence::look(&host.layout, id)?;
    if !presence.alive() {
        return Ok(record);
    }
    let keeper = presence.processes.iter().find(|process| process.role == Role::Keeper);
    if let Some(launch) = keeper.and_then(launch_of) {
        record.launches = launch;
    }
    // One that does not answer was started with this, or is killed soon.
    let config = durable_file::read_json::<VmConfig>(&host.layout.vmm_config(id)).ok().flatten();
    let config = config.unwrap_or_default();
    record.disks = config.disks.into_iter().map(|disk| disk.disk_id).collect();
    record.enis = config.nics.into_iter().map(|nic| nic.eni_id).collect();
    record.boot_epoch = match client.info().await {
        Ok(info) => info.boot_epoch,
        Err(_) => config.boot_epoch,
    };
    record.host_boot_id.clone_from(&host.settings.boot_id);
    record.phase = Phase::Launching;
    tracing::warn!(
        instance_id = id,
        boot_epoch = record.boot_epoch,
        "a VMM without a record: it is taken over as it is"
    );
    Ok(record)
}

/// The VMM's answer once its guest runs; `None` if it does not come in time.
async fn answers(client: &VmmClient, patience: Duration) -> Option<api::vmm::Info> {
    let asking = async {
        let since = Instant::now();
        loop {
            if let Ok(info) = client.info().await
                && matches!(info.state(), VmState::Running | VmState::Paused | VmState::Panicked)
            {
                return info;
            }
            let pause = if since.elapsed() < ANSWER_SOON { 10 } else { 100 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    };
    tokio::time::timeout(patience, asking).await.ok()
}

async fn sleep_until(until_ms: Option<u64>) {
    match until_ms {
        Some(until) => {
            tokio::time::sleep(Duration::from_millis(until.saturating_sub(now_ms()))).await;
        }
        None => std::future::pending().await,
    }
}

/// The end of a log, however long it is; empty if there is none.
fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        file.take(bytes).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_vmm_that_accepts_but_never_answers_is_not_waited_for_longer_than_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = VmmClient::new("i-1", &socket);
        let since = Instant::now();
        assert!(answers(&client, Duration::from_millis(200)).await.is_none());
        assert!(since.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn of_a_log_only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vmm.log");
        assert_eq!(tail(&log, 3), "");
        fs::write(&log, "abcdef").unwrap();
        assert_eq!(tail(&log, 3), "def");
        // Far larger than memory; only blocks that are read exist.
        File::options().write(true).open(&log).unwrap().set_len(1 << 42).unwrap();
        assert_eq!(tail(&log, 2), "\0\0");
    }
}
