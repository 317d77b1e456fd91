//! The network interfaces of a machine, which come and go while it runs; see [`crate::plugged`].

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::{
    control::Files,
    memory::GuestMemory,
    pci::{PciRoot, hotplug::HotplugController},
    plugged::{PlugError, Pluggable as _, Plugged},
    virtio::{DeviceError, NicHandle, attach_nic, plug_nic},
};
use api::vmm::{AttachNic, AttachedNic, Nic, NicStats, SwitchTaps};
use std::{fs::File, sync::Arc};

/// Interfaces that may come to a running machine: as many as the catalog's largest types have.
const MORE_NICS: u32 = 15;
/// Queue pairs of one that comes to a running machine: what the descriptors of a request allow.
pub const MOST_PAIRS: u32 = 32;
/// Descriptors a queue pair takes: tap, vhost, doorbells, interrupts, and what waits.
const FILES_PER_PAIR: u32 = 12;

/// Why a request about a network interface was refused.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// It cannot come or go now.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// Nor at any other time.
    #[error("{nic}: {problem}")]
    Argument {
        /// ECS id.
        nic: String,
        /// What is wrong.
        problem: String,
    },
    /// The device, or what the host gave for it.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// All network interfaces.
pub struct Nics {
    root: Arc<PciRoot>,
    memory: GuestMemory,
    vcpus: u32,
    plugged: Arc<Plugged<NicHandle>>,
}

impl Nics {
    /// A machine without any.
    pub fn new(
        root: &Arc<PciRoot>,
        memory: &GuestMemory,
        vcpus: u32,
        hotplug: &Arc<HotplugController>,
    ) -> Self {
        let fixed = "the primary network interface stays as long as the instance";
        let plugged = Plugged::new(root, hotplug, fixed);
        Self { root: Arc::clone(root), memory: memory.clone(), vcpus, plugged }
    }

    /// Attaches an interface of the description, before the machine runs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn attach(&self, nic: &Nic, primary: bool) -> Result<(), DeviceError> {
        let handle = attach_nic(&self.root, &self.memory, nic)?;
        self.plugged.insert(&nic.eni_id, primary, handle);
        Ok(())
    }

    /// Plugs an interface in and tells the guest.
    ///
    /// # Errors
    /// [`NicError`]; the machine is as before.
    pub fn plug(&self, request: &AttachNic, files: &mut Files) -> Result<(), NicError> {
        let refuse =
            |nic: &str, problem: String| NicError::Argument { nic: nic.to_owned(), problem };
        let wanted = request.nic.as_ref();
        let wanted = wanted.ok_or_else(|| refuse("AttachNic", "names no interface".to_owned()))?;
        let id = wanted.eni_id.as_str();
        if id.is_empty() {
            return Err(refuse("AttachNic", "the interface has no eni_id".to_owned()));
        }
        if wanted.tap_fds.is_empty() {
            let problem = "a running machine opens no taps by name; send descriptors along";
            return Err(refuse(id, problem.to_owned()));
        }
        if wanted.queue_pairs > MOST_PAIRS {
            let problem = format!(
                "{} queue pairs; a running machine takes at most {MOST_PAIRS}",
                wanted.queue_pairs
            );
            return Err(refuse(id, problem));
        }
        self.plugged.plug(id, || {
            let mut take = |positions: &[i32]| -> Result<Vec<File>, NicError> {
                let taken = positions.iter().map(|&position| files.take(position));
                taken.collect::<Result<_, _>>().map_err(|error| refuse(id, error.message))
            };
            let taps = take(&wanted.tap_fds)?;
            let vhost = take(&wanted.vhost_fds)?;
            Ok(plug_nic(&self.root, &self.memory, wanted, taps, vhost)?)
        })
    }

    /// Asks the guest to let an interface go, or takes it out by force.
    ///
    /// # Errors
    /// [`NicError`] for one that is not there, or must not be taken out.
    pub fn unplug(&self, eni_id: &str, force: bool) -> Result<(), NicError> {
        Ok(self.plugged.unplug(eni_id, force)?)
    }

    /// Puts an interface on other taps.
    ///
    /// # Errors
    /// [`NicError`]; asked again it is done in full.
    pub fn switch_taps(&self, request: &SwitchTaps, files: &mut Files) -> Result<(), NicError> {
        let SwitchTaps { eni_id, tap_epoch, tap_fds } = request;
        let nic = self.plugged.find(eni_id)?;
        if nic.tap_epoch() == *tap_epoch {
            return Ok(());
        }
        let refuse = |problem: String| NicError::Argument { nic: eni_id.clone(), problem };
        if tap_fds.len() != nic.pairs() {
            let (came, pairs) = (tap_fds.len(), nic.pairs());
            return Err(refuse(format!("{came} taps for {pairs} queue pairs; send one for each")));
        }
        let taps = tap_fds.iter().map(|&position| files.take(position));
        let taps = taps.collect::<Result<_, _>>().map_err(|error| refuse(error.message))?;
        Ok(nic.switch_taps(*tap_epoch, taps)?)
    }

    /// Slots of those that may go: bit `n` for slot `n`.
    pub fn changing_slots(&self) -> u32 {
        self.plugged.changing_slots()
    }

    /// Descriptors those that may still come can take.
    pub fn files_to_come(&self) -> u64 {
        u64::from(MORE_NICS * self.vcpus.clamp(1, MOST_PAIRS) * FILES_PER_PAIR)
    }

    /// What there is, in order of slots.
    pub fn list(&self) -> Vec<AttachedNic> {
        let listed = self.plugged.list().into_iter();
        let describe = listed.map(|listed| AttachedNic {
            eni_id: listed.id,
            slot: listed.device.slot().slot.into(),
            detaching: listed.asked_unix_ms.is_some(),
            detach_asked_unix_ms: listed.asked_unix_ms.unwrap_or(0),
            in_use: listed.device.in_use(),
            tap_epoch: listed.device.tap_epoch(),
        });
        describe.collect()
    }

    /// What each has done so far.
    pub fn stats(&self) -> Vec<NicStats> {
        self.plugged.present().iter().map(|nic| nic.stats()).collect()
    }

    /// Serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        self.plugged.stop();
    }
}

impl std::fmt::Debug for Nics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nics").field("nics", &self.plugged.handles()).finish_non_exhaustive()
    }
}
