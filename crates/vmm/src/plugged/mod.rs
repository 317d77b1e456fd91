//! Devices that come and go while the machine runs.
//!
//! A device is in one of four states: it is being opened, it is in the machine, the guest was asked
//! to let it go, or it is off the bus and being closed. It is listed until what the host gave for it
//! is closed, so that who does not see it any more may use that.
//!
//! Force closes a device's files under a driver that is at work. The device stays on the bus without
//! them, and only fails, until the guest lets go of it.
//!
//! The guest has a say in one thing only: it may let go of a device it was asked for. One that is
//! ejected without having been asked for stays where it is; the guest finds it again by a scan of
//! the bus, and meanwhile the list says that it is not in use.

use crate::{
    events::unix_ms,
    pci::{
        PciRoot, SlotInfo,
        hotplug::{Ejector, HotplugController},
    },
    thread::{self, ThreadKind},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A device that can be taken out of a running machine.
pub trait Pluggable: Send + Sync + 'static {
    /// Where it is on the bus.
    fn slot(&self) -> SlotInfo;
    /// Whether a guest's driver is at work with it.
    fn in_use(&self) -> bool;
    /// Gives up what the host gave for it, under its driver, which is told that nothing works. May
    /// take long.
    fn abandon(&self);
    /// Gives up what the host gave for it. For a device that is off the bus already; does nothing the
    /// second time. May take long.
    fn close(&self);
    /// Finishes what is under way, and serves the guest no more. Only once threads run.
    fn stop(&self);
}

/// Why a device cannot come or go.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// There is no such device.
    #[error("the machine has no {0}")]
    NotFound(String),
    /// Not as things are.
    #[error("{device}: {problem}")]
    State {
        /// ECS id.
        device: String,
        /// Why not, and what to do.
        problem: String,
    },
}

/// A device on its way in, in, or on its way out.
struct Entry<D> {
    id: String,
    /// It stays as long as the machine does.
    fixed: bool,
    /// Absent while it is being opened.
    device: Option<Arc<D>>,
    /// When the guest was asked first to let it go.
    asked_unix_ms: Option<u64>,
    /// It is off the bus, or somebody is taking it off.
    out: bool,
}

impl<D> Entry<D> {
    fn present(&self) -> Option<&Arc<D>> {
        self.device.as_ref().filter(|_| !self.out)
    }
}

/// A device that is listed.
#[derive(Debug)]
pub struct Listed<D> {
    /// ECS id.
    pub id: String,
    /// The device itself.
    pub device: Arc<D>,
    /// When the guest was asked first to let it go.
    pub asked_unix_ms: Option<u64>,
}

/// What is left to do to take a device out.
enum Rest {
    /// It is off the bus, or whoever takes it off is at it: it is closed, once.
    Close,
    /// No driver has it: all of it.
    Detach,
    /// A driver has it, and keeps a device that does nothing any more.
    Abandon,
}

/// All devices of a kind.
pub struct Plugged<D> {
    root: Arc<PciRoot>,
    hotplug: Arc<HotplugController>,
    /// Why those that are fixed are so.
    fixed: &'static str,
    /// Held for a moment only: whatever takes long happens without.
    set: Mutex<Vec<Entry<D>>>,
    /// Devices that were taken away, and whose slots the guest has not given back yet.
    husks: Mutex<Vec<Arc<D>>>,
    this: Weak<Self>,
}

impl<D: Pluggable> Plugged<D> {
    /// None yet. `fixed` is what is said to who wants a fixed one back.
    pub fn new(
        root: &Arc<PciRoot>,
        hotplug: &Arc<HotplugController>,
        fixed: &'static str,
    ) -> Arc<Self> {
        let plugged = Arc::new_cyclic(|this: &Weak<Self>| Self {
            root: Arc::clone(root),
            hotplug: Arc::clone(hotplug),
            fixed,
            set: Mutex::new(Vec::new()),
            husks: Mutex::new(Vec::new()),
            this: this.clone(),
        });
        let ejector: Weak<dyn Ejector> = plugged.this.clone();
        hotplug.eject_to(ejector);
        plugged
    }

    /// Lists a device that is on the bus before the machine runs.
    pub fn insert(&self, id: &str, fixed: bool, device: D) {
        let device = Some(Arc::new(device));
        self.set().push(Entry {
            id: id.to_owned(),
            fixed,
            device,
            asked_unix_ms: None,
            out: false,
        });
    }

    /// Slots of those that may go: bit `n` for slot `n`.
    pub fn changing_slots(&self) -> u32 {
        self.set().iter().fold(0, |mine, entry| match &entry.device {
            Some(device) if !entry.fixed => mine | 1 << device.slot().slot,
            _ => mine,
        })
    }

    /// What there is, in order of slots.
    pub fn list(&self) -> Vec<Listed<D>> {
        let listed = |entry: &Entry<D>| {
            let device = Arc::clone(entry.device.as_ref()?);
            Some(Listed { id: entry.id.clone(), device, asked_unix_ms: entry.asked_unix_ms })
        };
        let mut devices: Vec<_> = self.set().iter().filter_map(listed).collect();
        devices.sort_by_key(|listed| listed.device.slot().slot);
        devices
    }

    /// Those that are in the machine and not on their way out.
    pub fn present(&self) -> Vec<Arc<D>> {
        self.set().iter().filter_map(|entry| entry.present().cloned()).collect()
    }

    /// Every device that is not closed yet.
    pub fn handles(&self) -> Vec<Arc<D>> {
        self.set().iter().filter_map(|entry| entry.device.clone()).collect()
    }

    /// A device that is in the machine.
    ///
    /// # Errors
    /// [`PlugError::NotFound`].
    pub fn find(&self, id: &str) -> Result<Arc<D>, PlugError> {
        let set = self.set();
        let entry = set.iter().find(|entry| entry.id == id);
        entry.and_then(Entry::present).cloned().ok_or_else(|| PlugError::NotFound(id.to_owned()))
    }

    /// Puts in what `open` puts on the bus, and tells the guest. What is there already is left as it
    /// is.
    ///
    /// # Errors
    /// That of `open`, or [`PlugError`]; the machine is as before.
    pub fn plug<E: From<PlugError>>(
        &self,
        id: &str,
        open: impl FnOnce() -> Result<D, E>,
    ) -> Result<(), E> {
        if !self.announce(id)? {
            return Ok(());
        }
        let opened = open();
        let mut set = self.set();
        let place = set.iter_mut().find(|entry| entry.id == id);
        match (opened, place) {
            (Ok(device), Some(entry)) => {
                let slot = device.slot().slot;
                entry.device = Some(Arc::new(device));
                self.tell(slot);
                Ok(())
            }
            (Ok(device), None) => {
                // Nobody takes away an entry that is being opened; but if, then not half of it.
                drop(set);
                self.root.detach(device.slot());
                device.close();
                Err(PlugError::NotFound(id.to_owned()).into())
            }
            (Err(error), _) => {
                set.retain(|entry| entry.id != id);
                drop(set);
                self.root.router().refresh();
                Err(error)
            }
        }
    }

    /// Makes an entry for a device that is to be opened; `false` if it is there already.
    fn announce(&self, id: &str) -> Result<bool, PlugError> {
        let state =
            |problem: &str| PlugError::State { device: id.to_owned(), problem: problem.to_owned() };
        let mut set = self.set();
        let Some(entry) = set.iter().find(|entry| entry.id == id) else {
            set.push(Entry {
                id: id.to_owned(),
                fixed: false,
                device: None,
                asked_unix_ms: None,
                out: false,
            });
            return Ok(true);
        };
        match &entry.device {
            None => Err(state("another request is attaching it; ask again")),
            Some(_) if entry.out || entry.asked_unix_ms.is_some() => {
                Err(state("it is being detached; attach it again once it is gone"))
            }
            Some(device) => {
                if !device.in_use() {
                    self.tell(device.slot().slot);
                }
                Ok(false)
            }
        }
    }

    fn tell(&self, slot: u8) {
        if let Err(error) = self.hotplug.plugged(slot) {
            crate::say::report(format_args!("the guest is not told of slot {slot}: {error}"));
        }
    }

    /// Asks the guest to let a device go, or takes it out by force.
    ///
    /// # Errors
    /// [`PlugError`] for a device that is not there, or must not be taken out.
    pub fn unplug(&self, id: &str, force: bool) -> Result<(), PlugError> {
        let (device, rest) = {
            let mut set = self.set();
            let Some(entry) = set.iter_mut().find(|entry| entry.id == id) else {
                return Err(PlugError::NotFound(id.to_owned()));
            };
            let state = |problem: &str| PlugError::State {
                device: id.to_owned(),
                problem: problem.to_owned(),
            };
            if entry.fixed {
                return Err(state(self.fixed));
            }
            let Some(device) = entry.device.clone() else {
                return Err(state("another request is attaching it; ask again"));
            };
            entry.asked_unix_ms.get_or_insert_with(now);
            let mut rest = Rest::Close;
            if !entry.out {
                // With force too, and before the slot is free: a guest that has the device learns
                // that it is gone, and learns it before it hears of the slot's next one.
                let slot = device.slot().slot;
                if let Err(error) = self.hotplug.want_back(slot) {
                    let what = format_args!("the guest is not asked for slot {slot}: {error}");
                    crate::say::report(what);
                }
                if !force {
                    return Ok(());
                }
                entry.out = true;
                rest = Rest::Detach;
                if device.in_use() {
                    self.husks().push(Arc::clone(&device));
                    rest = Rest::Abandon;
                }
            }
            (device, rest)
        };
        match rest {
            Rest::Close => self.finish(device),
            Rest::Detach => {
                self.root.detach(device.slot());
                self.finish(device);
            }
            Rest::Abandon => {
                device.abandon();
                self.forget(&device);
            }
        }
        Ok(())
    }

    /// Finishes what is under way and serves the guest no more. Only once threads run.
    pub fn stop(&self) {
        for device in self.handles() {
            device.stop();
        }
    }

    fn set(&self) -> MutexGuard<'_, Vec<Entry<D>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Devices that were taken away by force and are on the bus still.
    pub(crate) fn husks(&self) -> MutexGuard<'_, Vec<Arc<D>>> {
        self.husks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device in `slot` that the guest may let go of. It is this call's to take off the bus.
    fn wanted_back(&self, slot: u8) -> Option<Arc<D>> {
        let mut set = self.set();
        let mut husks = self.husks();
        if let Some(at) = husks.iter().position(|husk| husk.slot().slot == slot) {
            return Some(husks.swap_remove(at));
        }
        let entry = set.iter_mut().find(|entry| {
            entry.present().is_some_and(|device| device.slot().slot == slot)
                && entry.asked_unix_ms.is_some()
        })?;
        entry.out = true;
        entry.device.clone()
    }

    /// Closes a device that is off the bus, and lists it no more. May take long.
    fn finish(&self, device: Arc<D>) {
        device.close();
        self.forget(&device);
        // Its vectors go with it, and then their routes can.
        drop(device);
        self.root.router().refresh();
    }

    /// Lists a device no more that is closed.
    fn forget(&self, device: &Arc<D>) {
        let is_it = |other: &Arc<D>| Arc::ptr_eq(other, device);
        self.set().retain(|entry| !entry.device.as_ref().is_some_and(is_it));
    }
}

impl<D: Pluggable> Ejector for Plugged<D> {
    fn ejected(&self, slot: u8) {
        let (Some(device), Some(this)) = (self.wanted_back(slot), self.this.upgrade()) else {
            return;
        };
        // The guest sees at once that it is gone; closing takes its time.
        self.root.detach(device.slot());
        let closing = thread::spawn(ThreadKind::Device, "detach", move || this.finish(device));
        if let Err(error) = closing {
            // The next request to detach it does the rest.
            crate::say::report(format_args!("an ejected device is not closed yet: {error}"));
        }
    }
}

impl<D: std::fmt::Debug> std::fmt::Debug for Plugged<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let devices: Vec<_> = set.iter().map(|entry| (&entry.id, &entry.device)).collect();
        f.debug_struct("Plugged").field("devices", &devices).finish_non_exhaustive()
    }
}

/// Now, as it is said to have been asked.
fn now() -> u64 {
    unix_ms().max(1)
}
