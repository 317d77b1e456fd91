//! The PCI function of a virtio device.

use super::{
    common::{CommonConfig, Effect, STATUS_DRIVER_OK},
    layout,
};
use crate::{
    memory::GuestMemory,
    pci::{
        BarSpace, BarSpec, ConfigSpace, Doorbell, Hypervisor, Identity, MsixTable, PciDevice,
        PciError, PciRoot, SlotInfo,
    },
    virtio::{
        device::{Activation, ActiveQueue, VirtioDevice},
        interrupt::{InterruptLines, QueueInterrupt},
    },
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

const VIRTIO_VENDOR: u16 = 0x1af4;
/// Device ids of modern virtio devices follow it.
const MODERN_DEVICE_BASE: u16 = 0x1040;
/// Any but 0, which is for transitional devices.
const REVISION: u8 = 1;
const SUBSYSTEM: u16 = 0x1100;
const MSIX_CONTROL: usize = 2;

/// A virtio device on the bus.
pub struct VirtioPci {
    hypervisor: Arc<dyn Hypervisor>,
    memory: GuestMemory,
    lines: Arc<InterruptLines>,
    doorbells: Vec<EventFd>,
    msix_capability: usize,
    access_capability: usize,
    state: Mutex<State>,
}

struct State {
    common: CommonConfig,
    msix: MsixTable,
    device: Box<dyn VirtioDevice>,
    active: bool,
    /// Where doorbells are connected in memory.
    placed: Option<u64>,
    /// And at ports.
    ports: Option<u64>,
}

/// Puts `device` on the bus, at device number `slot` or the next free one if that is 0.
///
/// # Errors
/// If there is no slot, BAR space, interrupt route or descriptor left.
pub fn attach(
    root: &PciRoot,
    memory: &GuestMemory,
    slot: u32,
    device: Box<dyn VirtioDevice>,
) -> Result<(Arc<VirtioPci>, SlotInfo), PciError> {
    let (function, config) = VirtioPci::new(root, memory.clone(), device)?;
    let function = Arc::new(function);
    let slot = root.attach(slot, config, &function.bars(), function.clone())?;
    Ok((function, slot))
}

/// Like [`attach`], on the bus of a running machine.
///
/// # Errors
/// As for [`attach`].
pub fn plug(
    root: &PciRoot,
    memory: &GuestMemory,
    slot: u32,
    device: Box<dyn VirtioDevice>,
) -> Result<(Arc<VirtioPci>, SlotInfo), PciError> {
    let (function, config) = VirtioPci::new(root, memory.clone(), device)?;
    let function = Arc::new(function);
    let slot = root.plug(slot, config, &function.bars(), function.clone())?;
    Ok((function, slot))
}

impl VirtioPci {
    fn new(
        root: &PciRoot,
        memory: GuestMemory,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(Self, ConfigSpace), PciError> {
        let sizes = device.queue_sizes();
        if sizes.len() >= layout::MAX_VECTORS {
            return Err(PciError::NoRoute);
        }
        // One vector for the configuration, then one for each queue.
        let vectors: Vec<_> = (0..=sizes.len())
            .map(|_| root.router().vector().map(Arc::new))
            .collect::<Result<_, _>>()?;
        let lines = InterruptLines::new(vectors.clone(), sizes.len())?;
        let msix = MsixTable::new(vectors);
        let mut config = ConfigSpace::new(Identity {
            vendor: VIRTIO_VENDOR,
            device: MODERN_DEVICE_BASE + device.device_type(),
            revision: REVISION,
            class: device.pci_class(),
            subsystem_vendor: VIRTIO_VENDOR,
            subsystem: SUBSYSTEM,
        });
        let table = layout::MSIX_TABLE.start as u32;
        let pending = layout::MSIX_PENDING.start as u32;
        let msix_capability = config.add_capability(
            crate::pci::MSIX_CAPABILITY,
            &msix.capability(layout::BAR, table, pending),
            &MsixTable::CONTROL_WRITABLE.to_le_bytes(),
        )?;
        let access_capability = layout::add_capabilities(
            &mut config,
            device.config().len(),
            layout::ports_size(sizes.len()),
        )?;
        let doorbells = sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
            .collect::<Result<_, _>>()
            .map_err(|source| PciError::Host { what: "make an event descriptor", source })?;
        let common = CommonConfig::new(Arc::clone(&lines), device.features(), &sizes);
        let function = Self {
            hypervisor: Arc::clone(root.router().hypervisor()),
            memory,
            lines,
            doorbells,
            msix_capability,
            access_capability,
            state: Mutex::new(State {
                common,
                msix,
                device,
                active: false,
                placed: None,
                ports: None,
            }),
        };
        Ok((function, config))
    }

    fn bars(&self) -> Vec<BarSpec> {
        let (size, space) = (layout::BAR_SIZE, BarSpace::Memory);
        let registers = BarSpec { index: layout::BAR, size, space };
        let ports = layout::ports_size(self.doorbells.len()).map(|size| BarSpec {
            index: layout::PORTS_BAR,
            size,
            space: BarSpace::Ports,
        });
        std::iter::once(registers).chain(ports).collect()
    }

    /// Connects doorbells that lie from `to` on, instead of from `old` on.
    fn move_doorbells(
        &self,
        old: &mut Option<u64>,
        to: Option<u64>,
        place: fn(u64) -> Doorbell,
    ) -> Result<(), PciError> {
        let at = |first: u64, queue: usize| place(first + layout::NOTIFY_STRIDE * queue as u64);
        if let Some(old) = old.take() {
            for (queue, doorbell) in self.doorbells.iter().enumerate() {
                let _ = self.hypervisor.disconnect_doorbell(doorbell, at(old, queue));
            }
        }
        let Some(new) = to else { return Ok(()) };
        for (queue, doorbell) in self.doorbells.iter().enumerate() {
            if let Err(source) = self.hypervisor.connect_doorbell(doorbell, at(new, queue)) {
                for (queue, doorbell) in self.doorbells[..queue].iter().enumerate() {
                    let _ = self.hypervisor.disconnect_doorbell(doorbell, at(new, queue));
                }
                return Err(PciError::Host { what: "connect a doorbell", source });
            }
        }
        *old = Some(new);
        Ok(())
    }

    fn ring(&self, offset: u64) {
        if let Some(doorbell) = self.doorbells.get((offset / layout::NOTIFY_STRIDE) as usize) {
            let _ = doorbell.write(1);
        }
    }

    /// Stops the device as a reset by the driver would.
    pub fn reset(&self) {
        self.state().reset();
    }

    /// Lets go of what the device works on. Its driver stays, and is told that nothing works.
    pub fn abandon(&self) {
        self.state().device.abandon();
    }

    /// Goes on with what was put in the place of what the device works on.
    ///
    /// # Errors
    /// The host's.
    pub fn renew(&self) -> std::io::Result<()> {
        self.state().device.renew()
    }

    /// Stops the device and gives up what the host gave it. For a function that is off the bus.
    pub fn close(&self) {
        let mut state = self.state();
        state.reset();
        state.device.close();
        report(state.msix.set_control(0));
    }

    /// Whether a driver is at work with the device.
    pub fn in_use(&self) -> bool {
        self.lines.status() & STATUS_DRIVER_OK != 0
    }

    /// Changes what a driver reads of the device, and tells it. It never reads half of a change
    /// without seeing that it did.
    pub fn change_config(&self, change: impl FnOnce()) {
        let _state = self.state();
        change();
        self.lines.config_changed();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn activate(&self, state: &mut State) {
        let outcome = self.activation(state).and_then(|activation| {
            state.active = true;
            state.device.activate(activation).map_err(|error| error.to_string())
        });
        if let Err(problem) = outcome {
            crate::say::report(format_args!(
                "virtio device {}: {problem}",
                state.device.device_type()
            ));
            self.lines.needs_reset();
        }
    }

    fn activation(&self, state: &State) -> Result<Activation, String> {
        if !state.common.queues_possible() {
            return Err("the driver enabled an impossible queue".to_owned());
        }
        let mut queues = Vec::new();
        for (index, queue) in state.common.enabled_queues() {
            let doorbell = self.doorbells[index].try_clone().map_err(|error| error.to_string())?;
            let interrupt = QueueInterrupt::new(Arc::clone(&self.lines), index);
            queues.push(ActiveQueue { index, queue, doorbell, interrupt });
        }
        Ok(Activation {
            memory: self.memory.clone(),
            features: state.common.features(),
            queues,
            lines: Arc::clone(&self.lines),
        })
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        match state.common.write(offset, data) {
            Effect::None => {}
            Effect::Activate => self.activate(&mut state),
            Effect::Reset => state.reset(),
            Effect::QueueVector(queue) if state.active => {
                let interrupt = QueueInterrupt::new(Arc::clone(&self.lines), queue);
                state.device.queue_vector_changed(queue, &interrupt);
            }
            Effect::QueueVector(_) => {}
        }
    }

    /// The range of a BAR the driver set up in the access capability, and how wide it is.
    fn access(&self, config: &ConfigSpace) -> Option<(u64, usize)> {
        let at = self.access_capability;
        let bar = config.u32(at + layout::ACCESS_BAR) as u8;
        let offset = u64::from(config.u32(at + layout::ACCESS_OFFSET));
        let len = config.u32(at + layout::ACCESS_LENGTH) as usize;
        let allowed = bar == layout::BAR
            && matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(len as u64)
            && offset + len as u64 <= layout::BAR_SIZE;
        allowed.then_some((offset, len))
    }

    fn touches_access_data(&self, offset: usize, len: usize) -> bool {
        let data = self.access_capability + layout::ACCESS_DATA;
        offset < data + 4 && data < offset + len
    }
}

impl State {
    fn reset(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
        self.common.reset();
    }
}

impl PciDevice for VirtioPci {
    fn before_config_read(&self, config: &mut ConfigSpace, offset: usize, len: usize) {
        if self.touches_access_data(offset, len)
            && let Some((from, width)) = self.access(config)
        {
            let mut data = [0; 4];
            self.read_bar(layout::BAR, from, &mut data[..width]);
            config.write(self.access_capability + layout::ACCESS_DATA, &data[..width]);
        }
    }

    fn config_written(&self, config: &mut ConfigSpace, offset: usize, len: usize) {
        let control = self.msix_capability + MSIX_CONTROL;
        if offset < control + 2 && control < offset + len {
            let outcome = self.state().msix.set_control(config.u16(control));
            report(outcome);
        }
        if self.touches_access_data(offset, len)
            && let Some((to, width)) = self.access(config)
        {
            let data = config.u32(self.access_capability + layout::ACCESS_DATA).to_le_bytes();
            self.write_bar(layout::BAR, to, &data[..width]);
        }
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if bar != layout::BAR {
            return;
        }
        if layout::COMMON.contains(&offset) {
            self.state().common.read(offset - layout::COMMON.start, data);
        } else if offset == layout::ISR.start {
            if let Some(first) = data.first_mut() {
                *first = self.lines.take_isr();
            }
        } else if layout::DEVICE.contains(&offset) {
            let config = self.state().device.config();
            let rest = config.get((offset - layout::DEVICE.start) as usize..).unwrap_or(&[]);
            let len = rest.len().min(data.len());
            data[..len].copy_from_slice(&rest[..len]);
        } else if layout::MSIX_TABLE.contains(&offset) {
            self.state().msix.read(offset - layout::MSIX_TABLE.start, data);
        } else if layout::MSIX_PENDING.contains(&offset) {
            self.state().msix.read_pending(offset - layout::MSIX_PENDING.start, data);
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar == layout::PORTS_BAR {
            self.ring(offset);
        } else if layout::COMMON.contains(&offset) {
            self.write_common(offset - layout::COMMON.start, data);
        } else if layout::NOTIFY.contains(&offset) {
            // Only what KVM does not see itself comes here: access through configuration space.
            self.ring(offset - layout::NOTIFY.start);
        } else if layout::MSIX_TABLE.contains(&offset) {
            let outcome = self.state().msix.write(offset - layout::MSIX_TABLE.start, data);
            report(outcome);
        }
    }

    fn place_bar(&self, bar: u8, to: Option<u64>) -> Result<(), PciError> {
        let mut state = self.state();
        if bar == layout::PORTS_BAR {
            self.move_doorbells(&mut state.ports, to, Doorbell::Port)
        } else {
            let to = to.map(|bar| bar + layout::NOTIFY.start);
            self.move_doorbells(&mut state.placed, to, Doorbell::Memory)
        }
    }
}

fn report(outcome: Result<(), PciError>) {
    if let Err(error) = outcome {
        crate::say::report(format_args!("MSI-X: {error}"));
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("lines", &self.lines).finish_non_exhaustive()
    }
}
