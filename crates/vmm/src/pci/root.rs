//! The bus: a host bridge, 31 slots, and the two ways to configuration space.

use super::{
    BarAllocator, BarSpace, BarSpec, ConfigSpace, Hypervisor, Identity, MsiRouter, PciError, config,
};
use crate::{
    bus::{Bus, BusDevice},
    context::MachineContext,
    layout::PciWindows,
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak},
};

const SLOTS: usize = 32;
/// CONFIG_ADDRESS and CONFIG_DATA, eight ports together.
const CONFIG_PORTS: u64 = 0xcf8;
const CONFIG_DATA: u64 = 4;
const CONFIG_ENABLE: u32 = 1 << 31;
/// Red Hat's generic host bridge: no driver wants to bind to it.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A function behind the bus. Its plain registers and BAR placement are the bus's work.
pub trait PciDevice: Send + Sync {
    /// A guest is about to read configuration space at `offset`: registers that show live state
    /// may be brought up to date.
    fn before_config_read(&self, _config: &mut ConfigSpace, _offset: usize, _len: usize) {}
    /// A guest wrote configuration space.
    fn config_written(&self, _config: &mut ConfigSpace, _offset: usize, _len: usize) {}
    /// Fills `data` with what the guest reads from a BAR.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes to a BAR.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]);
    /// The BAR now lies at `to`, or nowhere. Called before the first access and at each move.
    ///
    /// # Errors
    /// If the host refuses; the BAR then lies nowhere.
    fn place_bar(&self, bar: u8, to: Option<u64>) -> Result<(), PciError>;
}

struct Function {
    device: Option<Arc<dyn PciDevice>>,
    state: Mutex<FunctionState>,
}

struct FunctionState {
    config: ConfigSpace,
    /// Where each BAR answers now, in the order of `config.bars()`.
    placed: Vec<Option<u64>>,
    /// Taken off the bus: an access that had begun before must not place BARs again.
    gone: bool,
}

/// Where a device was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Device number on bus 0.
    pub slot: u8,
}

/// Where BARs of one kind can lie, and who answers there.
struct Space {
    bus: Arc<Bus>,
    free: Mutex<BarAllocator>,
}

/// The PCI bus of the machine.
pub struct PciRoot {
    router: Arc<MsiRouter>,
    memory: Space,
    ports: Space,
    slots: RwLock<[Option<Arc<Function>>; SLOTS]>,
    address: Mutex<u32>,
}

impl PciRoot {
    /// An empty bus with its host bridge, answering at ECAM and at the configuration ports of the
    /// machine.
    ///
    /// # Errors
    /// If the address ranges are not free, or KVM refuses the routing table.
    pub fn new(context: &MachineContext, windows: &PciWindows) -> Result<Arc<Self>, PciError> {
        let vm: Arc<dyn Hypervisor> = context.vm.clone();
        Self::with_hypervisor(vm, &context.mmio, &context.pio, windows)
    }

    /// Like [`Self::new`], on any hypervisor.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_hypervisor(
        hypervisor: Arc<dyn Hypervisor>,
        mmio: &Arc<Bus>,
        pio: &Arc<Bus>,
        windows: &PciWindows,
    ) -> Result<Arc<Self>, PciError> {
        let bridge = Function {
            device: None,
            state: Mutex::new(FunctionState {
                config: ConfigSpace::new(HOST_BRIDGE),
                placed: vec![],
                gone: false,
            }),
        };
        let space = |bus: &Arc<Bus>, window: &std::ops::Range<u64>| Space {
            bus: Arc::clone(bus),
            free: Mutex::new(BarAllocator::new(window.clone())),
        };
        let mut slots = [const { None }; SLOTS];
        slots[0] = Some(Arc::new(bridge));
        let root = Arc::new(Self {
            router: MsiRouter::new(hypervisor)?,
            memory: space(mmio, &windows.mmio32),
            ports: space(pio, &windows.pio),
            slots: RwLock::new(slots),
            address: Mutex::new(0),
        });
        let ecam_len = windows.ecam.end - windows.ecam.start;
        mmio.insert(windows.ecam.start, ecam_len, Arc::new(Ecam(Arc::downgrade(&root))))?;
        pio.insert(CONFIG_PORTS, 8, Arc::new(Ports(Arc::downgrade(&root))))?;
        Ok(root)
    }

    /// Where to get interrupt vectors.
    pub fn router(&self) -> &Arc<MsiRouter> {
        &self.router
    }

    /// Puts a function on the bus: at device number `slot`, or at the next free one if that is 0.
    /// Its BARs get addresses and answer at once.
    ///
    /// # Errors
    /// If the slot is taken, or there is no room for a BAR.
    pub fn attach(
        &self,
        slot: u32,
        mut config: ConfigSpace,
        bars: &[BarSpec],
        device: Arc<dyn PciDevice>,
    ) -> Result<SlotInfo, PciError> {
        let mut slots = self.slots_mut();
        let index = free_slot(&slots, slot)?;
        for &bar in bars {
            let mut free = lock(&self.space(bar.space).free);
            let address = free.allocate(bar.size)?;
            free.release(address);
            drop(free);
            config.add_bar(bar, address)?;
        }
        config.enable_bars();
        let placed = vec![None; config.bars().len()];
        let mut state = FunctionState { config, placed, gone: false };
        self.place_bars(&device, &mut state);
        if let Some(number) = state.placed.iter().position(Option::is_none) {
            let size = state.config.bars()[number].size;
            for number in 0..state.placed.len() {
                self.displace_bar(&device, &mut state, number);
            }
            return Err(PciError::NoSpace { size });
        }
        slots[index] = Some(Arc::new(Function { device: Some(device), state: Mutex::new(state) }));
        Ok(SlotInfo { slot: index as u8 })
    }

    /// Puts a function on the bus of a running machine, as [`Self::attach`] does. Its BARs lie
    /// nowhere: the guest gives addresses to what comes later, by its own view of what is free.
    ///
    /// # Errors
    /// If the slot is taken.
    pub fn plug(
        &self,
        slot: u32,
        mut config: ConfigSpace,
        bars: &[BarSpec],
        device: Arc<dyn PciDevice>,
    ) -> Result<SlotInfo, PciError> {
        for &bar in bars {
            config.add_bar(bar, 0)?;
        }
        let placed = vec![None; config.bars().len()];
        let state = Mutex::new(FunctionState { config, placed, gone: false });
        let mut slots = self.slots_mut();
        let index = free_slot(&slots, slot)?;
        slots[index] = Some(Arc::new(Function { device: Some(device), state }));
        Ok(SlotInfo { slot: index as u8 })
    }

    /// Takes a function off the bus. Returns whether there was one.
    pub fn detach(&self, slot: SlotInfo) -> bool {
        let index = usize::from(slot.slot);
        if index == 0 || index >= SLOTS {
            return false;
        }
        // Other functions can be reached while a guest's access to this one ends.
        let taken = self.slots_mut()[index].take();
        let Some(function) = taken else { return false };
        let mut state = lock(&function.state);
        state.gone = true;
        if let Some(device) = &function.device {
            for number in 0..state.placed.len() {
                self.displace_bar(device, &mut state, number);
            }
        }
        true
    }

    /// Device numbers that are taken, bit `n` for slot `n`.
    pub fn taken(&self) -> u32 {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots
            .iter()
            .zip(0..)
            .fold(0, |taken, (slot, number)| taken | u32::from(slot.is_some()) << number)
    }

    fn space(&self, space: BarSpace) -> &Space {
        match space {
            BarSpace::Memory => &self.memory,
            BarSpace::Ports => &self.ports,
        }
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, [Option<Arc<Function>>; SLOTS]> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, bus: u64, slot: u64, function: u64) -> Option<Arc<Function>> {
        if bus != 0 || function != 0 {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::try_from(slot).ok()?)?.clone()
    }

    fn read_config(&self, address: ConfigAddress, data: &mut [u8]) {
        let Some(function) = self.function(address.bus, address.slot, address.function) else {
            return data.fill(0xff);
        };
        let mut state = lock(&function.state);
        if let Some(device) = &function.device {
            device.before_config_read(&mut state.config, address.register, data.len());
        }
        state.config.read(address.register, data);
    }

    fn write_config(&self, address: ConfigAddress, data: &[u8]) {
        let Some(function) = self.function(address.bus, address.slot, address.function) else {
            return;
        };
        let mut state = lock(&function.state);
        if state.gone {
            return;
        }
        state.config.write(address.register, data);
        if let Some(device) = &function.device {
            device.config_written(&mut state.config, address.register, data.len());
            self.place_bars(device, &mut state);
        }
    }

    /// Makes each BAR answer where its registers say. While a guest has decoding off, as it does
    /// to size a BAR, everything stays where it was. An address outside the windows, or one
    /// that is taken, makes the BAR answer nowhere until the guest writes a better one.
    fn place_bars(&self, device: &Arc<dyn PciDevice>, state: &mut FunctionState) {
        for number in 0..state.placed.len() {
            let bar = state.config.bars()[number];
            if !state.config.answers_in(bar.space) {
                continue;
            }
            let space = self.space(bar.space);
            let wanted = state.config.bar_address(bar);
            if state.placed[number] == Some(wanted) {
                continue;
            }
            self.displace_bar(device, state, number);
            if !lock(&space.free).claim(wanted, bar.size) {
                continue;
            }
            let window = Arc::new(Window { device: Arc::clone(device), bar: bar.index });
            let placed = space.bus.insert(wanted, bar.size, window).is_ok();
            if placed && device.place_bar(bar.index, Some(wanted)).is_ok() {
                state.placed[number] = Some(wanted);
                continue;
            }
            if placed {
                space.bus.remove(wanted);
                let _ = device.place_bar(bar.index, None);
            }
            lock(&space.free).release(wanted);
        }
    }

    fn displace_bar(&self, device: &Arc<dyn PciDevice>, state: &mut FunctionState, number: usize) {
        if let Some(old) = state.placed[number].take() {
            let bar = state.config.bars()[number];
            let space = self.space(bar.space);
            space.bus.remove(old);
            let _ = device.place_bar(bar.index, None);
            lock(&space.free).release(old);
        }
    }
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciRoot").field("bars", &self.memory.free).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device number `wanted`, or the first free one if that is 0.
fn free_slot(slots: &[Option<Arc<Function>>; SLOTS], wanted: u32) -> Result<usize, PciError> {
    if wanted == 0 {
        return (1..SLOTS).find(|&slot| slots[slot].is_none()).ok_or(PciError::NoSlot);
    }
    usize::try_from(wanted)
        .ok()
        .filter(|&slot| slot < SLOTS && slots[slot].is_none())
        .ok_or(PciError::Slot { slot: wanted })
}

#[derive(Clone, Copy)]
struct ConfigAddress {
    bus: u64,
    slot: u64,
    function: u64,
    register: usize,
}

/// Configuration space as memory: 4 KiB for each function.
struct Ecam(Weak<PciRoot>);

impl Ecam {
    fn decode(offset: u64) -> ConfigAddress {
        ConfigAddress {
            bus: offset >> 20,
            slot: offset >> 15 & 0x1f,
            function: offset >> 12 & 7,
            register: offset as usize & (config::CONFIG_SIZE - 1),
        }
    }
}

impl BusDevice for Ecam {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(root) => root.read_config(Self::decode(offset), data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        if let Some(root) = self.0.upgrade() {
            root.write_config(Self::decode(offset), data);
        }
    }
}

/// Configuration space by an address and a data port, 256 bytes for each function.
struct Ports(Weak<PciRoot>);

impl Ports {
    /// What CONFIG_DATA stands for at the moment, if anything.
    fn decode(address: u32, offset: u64) -> Option<ConfigAddress> {
        let address = (address & CONFIG_ENABLE != 0).then_some(u64::from(address))?;
        Some(ConfigAddress {
            bus: address >> 16 & 0xff,
            slot: address >> 11 & 0x1f,
            function: address >> 8 & 7,
            register: (address & 0xfc) as usize + (offset - CONFIG_DATA) as usize,
        })
    }
}

impl BusDevice for Ports {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let Some(root) = self.0.upgrade() else { return };
        let address = *lock(&root.address);
        if offset >= CONFIG_DATA {
            if let Some(target) = Self::decode(address, offset) {
                let len = data.len().min((8 - offset) as usize);
                root.read_config(target, &mut data[..len]);
            }
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&address.to_le_bytes());
        }
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        let Some(root) = self.0.upgrade() else { return };
        if offset >= CONFIG_DATA {
            let address = *lock(&root.address);
            if let Some(target) = Self::decode(address, offset) {
                let len = data.len().min((8 - offset) as usize);
                root.write_config(target, &data[..len]);
            }
        } else if offset == 0
            && let Ok(bytes) = <[u8; 4]>::try_from(data)
        {
            *lock(&root.address) = u32::from_le_bytes(bytes) & !3;
        }
    }
}

/// A BAR where it lies now.
struct Window {
    device: Arc<dyn PciDevice>,
    bar: u8,
}

impl BusDevice for Window {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        self.device.read_bar(self.bar, offset, data);
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        self.device.write_bar(self.bar, offset, data);
    }
}
