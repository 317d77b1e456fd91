//! Configuration space of a function with a type 0 header.

use super::PciError;

/// Bytes of configuration space a function has behind ECAM.
pub const CONFIG_SIZE: usize = 4096;
/// Bytes of it that ports reach, and that capabilities live in.
const CONVENTIONAL_SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const BAR0: usize = 0x10;
const BAR_COUNT: u8 = 6;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_PORTS: u16 = 1;
const COMMAND_MEMORY: u16 = 1 << 1;
/// Ports, memory, bus master, parity, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = COMMAND_PORTS | COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
/// The lowest bit of a BAR of ports.
const BAR_PORTS: u32 = 1;
/// Ports a BAR has at most.
const MOST_PORTS: u64 = 256;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, as in 0x020000.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// Where a BAR's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarSpace {
    /// In memory.
    Memory,
    /// At I/O ports.
    Ports,
}

/// A range of registers a function wants.
#[derive(Clone, Copy, Debug)]
pub struct BarSpec {
    /// Which of the six registers.
    pub index: u8,
    /// Bytes; a power of two, from 16 to 2 GiB in memory, from 4 to 256 at ports.
    pub size: u64,
    /// Where.
    pub space: BarSpace,
}

/// The registers, and which of their bits a guest may change.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    bars: Vec<BarSpec>,
    capability_end: usize,
    last_capability: usize,
}

impl ConfigSpace {
    /// A function with neither BARs nor capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            bars: Vec::new(),
            capability_end: FIRST_CAPABILITY,
            last_capability: CAPABILITIES,
        };
        space.set(0, &identity.vendor.to_le_bytes());
        space.set(2, &identity.device.to_le_bytes());
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &identity.class.to_le_bytes()[..3]);
        space.set(SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM + 2, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        // Interrupt line: no meaning to hardware, system software keeps notes in it.
        space.writable[0x3c] = 0xff;
        space
    }

    /// Adds a BAR that lies at `address`, below 4 GiB.
    ///
    /// # Errors
    /// If the size or the register is impossible.
    pub fn add_bar(&mut self, bar: BarSpec, address: u64) -> Result<(), PciError> {
        let BarSpec { index, size, space } = bar;
        let (sizes, flags) = match space {
            BarSpace::Memory => (16..=1 << 31, 0),
            BarSpace::Ports => (4..=MOST_PORTS, BAR_PORTS),
        };
        if index >= BAR_COUNT
            || !size.is_power_of_two()
            || !sizes.contains(&size)
            || self.bars.iter().any(|used| used.index == index)
        {
            return Err(PciError::Bar { index, size });
        }
        let at = BAR0 + 4 * usize::from(index);
        let mask = !(size - 1);
        self.writable[at..at + 4].copy_from_slice(&(mask as u32).to_le_bytes());
        self.set(at, &(address as u32 & mask as u32 | flags).to_le_bytes());
        self.bars.push(bar);
        Ok(())
    }

    /// The BARs there are.
    pub fn bars(&self) -> &[BarSpec] {
        &self.bars
    }

    /// Where a BAR's register says it lies.
    pub fn bar_address(&self, bar: BarSpec) -> u64 {
        u64::from(self.u32(BAR0 + 4 * usize::from(bar.index))) & !(bar.size - 1)
    }

    /// Whether the function answers at BARs in `space`.
    pub fn answers_in(&self, space: BarSpace) -> bool {
        let bit = match space {
            BarSpace::Memory => COMMAND_MEMORY,
            BarSpace::Ports => COMMAND_PORTS,
        };
        self.u16(COMMAND) & bit != 0
    }

    /// Switches the answering at all BARs on, as firmware does before it starts a system.
    pub fn enable_bars(&mut self) {
        self.bytes[COMMAND] |= (COMMAND_MEMORY | COMMAND_PORTS) as u8;
    }

    /// Adds a capability and returns where it is. `body` starts after id and next pointer, and so
    /// does `writable`, the mask of bits a guest may change.
    ///
    /// # Errors
    /// If there is no room left.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<usize, PciError> {
        let at = self.capability_end;
        let end = at + 2 + body.len();
        if end > CONVENTIONAL_SIZE || writable.len() > body.len() {
            return Err(PciError::Capabilities);
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.writable[at + 2..][..writable.len()].copy_from_slice(writable);
        self.set(self.last_capability, &[at as u8]);
        let status = u16::from_le_bytes([self.bytes[STATUS], self.bytes[STATUS + 1]]);
        self.set(STATUS, &(status | STATUS_CAPABILITIES).to_le_bytes());
        self.last_capability = at + 1;
        self.capability_end = end.next_multiple_of(4);
        Ok(at)
    }

    /// A guest's read. What lies beyond the space reads as zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// A guest's write: changes only the bits that may change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &byte) in (offset..CONFIG_SIZE).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
        }
    }

    /// The 16 bits at `at`; zero beyond the space.
    pub fn u16(&self, at: usize) -> u16 {
        let mut data = [0; 2];
        self.read(at, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 32 bits at `at`; zero beyond the space.
    pub fn u32(&self, at: usize) -> u32 {
        let mut data = [0; 4];
        self.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
    }
}
