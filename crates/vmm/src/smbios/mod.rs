//! SMBIOS 3 tables (DMTF DSP0134): who made the machine and which instance it is.

use crate::{layout, memory::GuestMemory};
use std::io;
use uuid::Uuid;
use vm_memory::{Bytes, GuestAddress};

/// Product name by which software in the guest knows it runs on ECS.
pub const PRODUCT: &str = "Alibaba Cloud ECS";
const MANUFACTURER: &str = "Alibaba Cloud";
const ENTRY_LEN: usize = 24;
const TABLE_AT: u64 = layout::SMBIOS.start + 0x20;
const NONE: u8 = 0;
const UNKNOWN: u8 = 2;

/// What the tables say.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// ECS instance id: serial number of the system.
    pub instance_id: &'a str,
    /// UUID of the system.
    pub uuid: Uuid,
    /// Product name of the system.
    pub product: &'a str,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
}

/// One structure: its formatted part and its strings.
struct Structure {
    kind: u8,
    body: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8) -> Self {
        Self { kind, body: Vec::new(), strings: Vec::new() }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// A reference to a string; NUL bytes would end it early and are left out.
    fn string(mut self, text: &str) -> Self {
        let text = text.replace('\0', "");
        if text.is_empty() {
            self.body.push(NONE);
        } else {
            self.strings.push(text);
            self.body.push(self.strings.len() as u8);
        }
        self
    }

    fn finish(self, handle: u16, out: &mut Vec<u8>) {
        out.push(self.kind);
        out.push(4 + self.body.len() as u8);
        out.extend_from_slice(&handle.to_le_bytes());
        out.extend_from_slice(&self.body);
        for string in &self.strings {
            out.extend_from_slice(string.as_bytes());
            out.push(0);
        }
        if self.strings.is_empty() {
            out.push(0);
        }
        out.push(0);
    }
}

fn structures(identity: &Identity<'_>) -> Vec<Structure> {
    let mib = identity.memory_bytes >> 20;
    let kib = identity.memory_bytes >> 10;
    let version = env!("CARGO_PKG_VERSION");
    let firmware = Structure::new(0)
        .string(MANUFACTURER)
        .string(version)
        .bytes(&0xe800u16.to_le_bytes())
        .string("01/01/2026")
        .bytes(&[0])
        // Characteristics: not supported; extension: the table describes a virtual machine.
        .bytes(&(1u64 << 3).to_le_bytes())
        .bytes(&[0, 1 << 4])
        .bytes(&[0, 1, 0xff, 0xff]);
    let system = Structure::new(1)
        .string(MANUFACTURER)
        .string(identity.product)
        .string(version)
        .string(identity.instance_id)
        // The first three fields are little endian since SMBIOS 2.6.
        .bytes(&identity.uuid.to_bytes_le())
        // Woken by the power switch.
        .bytes(&[6])
        .bytes(&[NONE, NONE]);
    let enclosure = Structure::new(3)
        .string(MANUFACTURER)
        // Type: other; then version, serial and asset tag.
        .bytes(&[1, NONE])
        .string(identity.instance_id)
        .bytes(&[NONE, 3, 3, 3, UNKNOWN])
        .bytes(&0u32.to_le_bytes())
        .bytes(&[0, 0, 0, 0]);
    let cores = identity.vcpus.min(0xff) as u8;
    let processor = Structure::new(4)
        .string("CPU 0")
        // Central processor, family "other".
        .bytes(&[3, 1])
        .string(MANUFACTURER)
        .bytes(&0u64.to_le_bytes())
        .string("virtual")
        .bytes(&[0])
        .bytes(&[0; 6])
        // Socket populated and enabled; upgrade "other".
        .bytes(&[0x41, 1])
        .bytes(&[0xff; 6])
        .bytes(&[NONE, NONE, NONE])
        .bytes(&[cores, cores, cores])
        // 64-bit capable, multi-core.
        .bytes(&0b1100u16.to_le_bytes())
        .bytes(&1u16.to_le_bytes());
    let array = Structure::new(16)
        // System board, system memory, no error correction.
        .bytes(&[3, 3, 3])
        .bytes(&0x8000_0000u32.to_le_bytes())
        .bytes(&0xfffeu16.to_le_bytes())
        .bytes(&1u16.to_le_bytes())
        .bytes(&identity.memory_bytes.to_le_bytes());
    let (size, extended) = if mib < 0x7fff { (mib as u16, 0) } else { (0x7fff, mib as u32) };
    let module = Structure::new(17)
        .bytes(&array_handle().to_le_bytes())
        .bytes(&0xfffeu16.to_le_bytes())
        .bytes(&[0xff; 4])
        .bytes(&size.to_le_bytes())
        // DIMM, in no set.
        .bytes(&[9, 0])
        .string("DIMM 0")
        .bytes(&[NONE])
        // RAM, other.
        .bytes(&[7])
        .bytes(&0b10u16.to_le_bytes())
        .bytes(&0u16.to_le_bytes())
        .string(MANUFACTURER)
        .bytes(&[NONE, NONE, NONE, 0])
        .bytes(&extended.to_le_bytes())
        .bytes(&0u16.to_le_bytes());
    let end = kib.saturating_sub(1);
    let (start32, end32, start64, end64) = match u32::try_from(end) {
        Ok(end) if end != u32::MAX => (0u32, end, 0u64, 0u64),
        _ => (u32::MAX, u32::MAX, 0, identity.memory_bytes.saturating_sub(1)),
    };
    let mapped = Structure::new(19)
        .bytes(&start32.to_le_bytes())
        .bytes(&end32.to_le_bytes())
        .bytes(&array_handle().to_le_bytes())
        .bytes(&[1])
        .bytes(&start64.to_le_bytes())
        .bytes(&end64.to_le_bytes());
    let boot = Structure::new(32).bytes(&[0; 7]);
    vec![firmware, system, enclosure, processor, array, module, mapped, boot, Structure::new(127)]
}

/// Handle of the memory array: its place in [`structures`].
const fn array_handle() -> u16 {
    4
}

fn table(identity: &Identity<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for (handle, structure) in (0u16..).zip(structures(identity)) {
        structure.finish(handle, &mut out);
    }
    out
}

fn entry_point(table_len: u32) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[..5].copy_from_slice(b"_SM3_");
    entry[6] = ENTRY_LEN as u8;
    // Version 3.2 of the specification, its document revision, revision 1 of the entry point.
    entry[7..11].copy_from_slice(&[3, 2, 0, 1]);
    entry[12..16].copy_from_slice(&table_len.to_le_bytes());
    entry[16..].copy_from_slice(&TABLE_AT.to_le_bytes());
    entry[5] = entry.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    entry
}

/// Puts the tables into guest memory.
///
/// # Errors
/// If they do not fit where they belong.
pub fn write(memory: &GuestMemory, identity: &Identity<'_>) -> io::Result<()> {
    let table = table(identity);
    if TABLE_AT + table.len() as u64 > layout::SMBIOS.end {
        return Err(io::Error::other("the SMBIOS table does not fit into its region"));
    }
    let entry = entry_point(table.len() as u32);
    memory.write_slice(&table, GuestAddress(TABLE_AT)).map_err(io::Error::other)?;
    memory.write_slice(&entry, GuestAddress(layout::SMBIOS.start)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn identity(memory_bytes: u64) -> Identity<'static> {
        Identity {
            instance_id: "i-bp67acfmxazb4p",
            uuid: Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff),
            product: PRODUCT,
            memory_bytes,
            vcpus: 2,
        }
    }

    /// Splits a table the way a reader does.
    fn parse(table: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut found = Vec::new();
        let mut rest = table;
        while !rest.is_empty() {
            let (body, tail) = rest.split_at(usize::from(rest[1]));
            let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let strings = tail[..end]
                .split(|byte| *byte == 0)
                .filter(|text| !text.is_empty())
                .map(|text| String::from_utf8(text.to_vec()).unwrap())
                .collect();
            found.push((body[0], body.to_vec(), strings));
            rest = &tail[end + 2..];
        }
        found
    }

    #[test]
    fn the_system_structure_names_ecs_and_the_instance() {
        let structures = parse(&table(&identity(4 * GIB)));
        let kinds: Vec<_> = structures.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 32, 127]);
        let (_, body, strings) = &structures[1];
        let string = |at: usize| &strings[usize::from(body[at]) - 1];
        assert_eq!(string(4), "Alibaba Cloud");
        assert_eq!(string(5), "Alibaba Cloud ECS");
        assert_eq!(string(7), "i-bp67acfmxazb4p");
        assert_eq!(body[8..16], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
        assert_eq!(body[16..24], [0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    }

    #[test]
    fn structures_have_the_lengths_of_the_specification() {
        let lengths: Vec<_> = parse(&table(&identity(4 * GIB)))
            .iter()
            .map(|(kind, body, _)| (*kind, body.len()))
            .collect();
        assert_eq!(
            lengths,
            [
                (0, 0x18),
                (1, 0x1b),
                (3, 0x15),
                (4, 0x2a),
                (16, 0x17),
                (17, 0x22),
                (19, 0x1f),
                (32, 0xb),
                (127, 4)
            ]
        );
    }

    #[test]
    fn sizes_past_the_short_fields_go_into_the_extended_ones() {
        let large = parse(&table(&identity(8192 * GIB)));
        let module = &large[5].1;
        assert_eq!(u16::from_le_bytes([module[0xc], module[0xd]]), 0x7fff);
        assert_eq!(u32::from_le_bytes(module[0x1c..0x20].try_into().unwrap()), 8192 * 1024);
        let mapped = &large[6].1;
        assert_eq!(mapped[4..8], [0xff; 4]);
        assert_eq!(u64::from_le_bytes(mapped[0x17..0x1f].try_into().unwrap()), 8192 * GIB - 1);
    }

    #[test]
    fn the_entry_point_sums_to_zero_and_points_to_the_table() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        write(&memory, &identity(64 << 20)).unwrap();
        let mut entry = [0; ENTRY_LEN];
        memory.read_slice(&mut entry, GuestAddress(0xf_0000)).unwrap();
        assert_eq!(&entry[..5], b"_SM3_");
        assert_eq!(entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let at = u64::from_le_bytes(entry[16..24].try_into().unwrap());
        let len = u32::from_le_bytes(entry[12..16].try_into().unwrap());
        let mut found = vec![0; len as usize];
        memory.read_slice(&mut found, GuestAddress(at)).unwrap();
        assert_eq!(found, table(&identity(64 << 20)));
    }
}
