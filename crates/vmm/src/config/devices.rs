//! Disks and network interfaces of a description. Who attaches one checks it here too.

use super::{ConfigError, MAX_STRING, bad, validate_file};
use api::vmm::{Disk, Nic, VmConfig};
use std::collections::HashSet;

/// Most queues of a disk: more than this bring no disk anything.
pub const MAX_DISK_QUEUES: u32 = 8;
/// Most queue pairs of a network interface: twice what the catalog's largest types have, and half
/// of what a tap takes.
pub const MAX_QUEUE_PAIRS: u32 = 128;
/// Disks and network interfaces the bus has room for, beside its bridge and the entropy device.
pub const MAX_DEVICES: usize = 30;
/// What IPv4 asks of every link, and the largest a tap takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_521;
const DEFAULT_MTU: u32 = 1500;
/// Most layers of a disk.
pub const MAX_LAYERS: usize = 64;
const LAST_SLOT: u32 = 31;
/// Bytes of a tap's name.
const MAX_TAP_NAME: usize = 15;

/// What a network interface is to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicShape {
    /// MAC address.
    pub mac: [u8; 6],
    /// Most bytes of a packet without its Ethernet header.
    pub mtu: u16,
    /// Pairs of a receive and a transmit queue.
    pub pairs: u16,
}

/// Checks a disk; `name` is what messages call it.
///
/// # Errors
/// [`ConfigError::Field`] for the first field that is wrong.
pub fn check_disk(name: &str, disk: &Disk) -> Result<(), ConfigError> {
    check_disk_shape(name, disk)?;
    for (at, layer) in disk.layers.iter().enumerate() {
        validate_file(&format!("{name}.layers[{at}].file"), layer.file.as_ref())?;
    }
    if disk.key.is_some() {
        validate_file(&format!("{name}.key"), disk.key.as_ref())?;
    }
    Ok(())
}

/// Checks all of a disk but its files, which come in another way when the machine runs.
///
/// # Errors
/// As [`check_disk`].
pub fn check_disk_shape(name: &str, disk: &Disk) -> Result<(), ConfigError> {
    let field = |part: &str| format!("{name}.{part}");
    if disk.disk_id.is_empty() || disk.disk_id.len() > MAX_STRING {
        return Err(bad(field("disk_id"), "empty or too long", "give the ECS disk id"));
    }
    if disk.layers.is_empty() || disk.layers.len() > MAX_LAYERS {
        return Err(bad(
            field("layers"),
            format!("{} layers", disk.layers.len()),
            format!("give 1 to {MAX_LAYERS}, the one to write to first"),
        ));
    }
    if disk.queues > MAX_DISK_QUEUES {
        let problem = format!("{} queues", disk.queues);
        let fix = format!("give at most {MAX_DISK_QUEUES}, or 0 for one per vCPU");
        return Err(bad(field("queues"), problem, fix));
    }
    Ok(())
}

/// Checks a network interface; `name` is what messages call it. Returns what the fields stand for.
///
/// # Errors
/// [`ConfigError::Field`] for the first field that is wrong.
pub fn check_nic(name: &str, nic: &Nic) -> Result<NicShape, ConfigError> {
    let field = |part: &str| format!("{name}.{part}");
    if let Some(fd) = nic.tap_fds.iter().chain(&nic.vhost_fds).find(|fd| **fd < 3) {
        let problem = format!("descriptor {fd}");
        return Err(bad(field("tap_fds"), problem, "pass descriptors 3 or above"));
    }
    check_nic_shape(name, nic)
}

/// Checks all of a network interface but the numbers of its descriptors, which are positions when the
/// machine runs.
///
/// # Errors
/// As [`check_nic`].
pub fn check_nic_shape(name: &str, nic: &Nic) -> Result<NicShape, ConfigError> {
    let field = |part: &str| format!("{name}.{part}");
    let mac = parse_mac(&nic.mac).ok_or_else(|| {
        let problem = format!("{:?} is no unicast MAC address", nic.mac);
        bad(field("mac"), problem, "give six bytes in hex, e.g. 00:16:3e:00:00:01")
    })?;
    if nic.tap_fds.is_empty() == nic.tap_name.is_empty() {
        return Err(bad(
            field("tap_fds"),
            "both or neither of tap_fds and tap_name are given",
            "give one of them",
        ));
    }
    if nic.tap_name.len() > MAX_TAP_NAME || nic.tap_name.contains('\0') {
        let problem = format!("{:?} is no name of an interface", nic.tap_name);
        return Err(bad(field("tap_name"), problem, format!("give 1 to {MAX_TAP_NAME} bytes")));
    }
    let pairs = nic.queue_pairs.max(1);
    if pairs > MAX_QUEUE_PAIRS {
        let problem = format!("{pairs} queue pairs");
        return Err(bad(field("queue_pairs"), problem, format!("give at most {MAX_QUEUE_PAIRS}")));
    }
    for (part, fds) in [("tap_fds", &nic.tap_fds), ("vhost_fds", &nic.vhost_fds)] {
        if !fds.is_empty() && fds.len() != pairs as usize {
            let problem = format!("{} descriptors for {pairs} queue pairs", fds.len());
            return Err(bad(field(part), problem, "give one for each queue pair"));
        }
    }
    let mtu = if nic.mtu == 0 { DEFAULT_MTU } else { nic.mtu };
    if !MTU_RANGE.contains(&mtu) {
        let (least, most) = (MTU_RANGE.start(), MTU_RANGE.end());
        let fix = format!("give {least} to {most}, or 0 for {DEFAULT_MTU}");
        return Err(bad(field("mtu"), format!("{mtu} bytes"), fix));
    }
    Ok(NicShape { mac, mtu: mtu as u16, pairs: pairs as u16 })
}

pub(super) fn validate(config: &VmConfig) -> Result<(), ConfigError> {
    let mut ids = HashSet::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let name = format!("disks[{index}]");
        check_disk(&name, disk)?;
        if !ids.insert(disk.disk_id.as_str()) {
            let problem = format!("{} is there twice", disk.disk_id);
            return Err(bad(format!("{name}.disk_id"), problem, "attach a disk once"));
        }
    }
    for (index, nic) in config.nics.iter().enumerate() {
        check_nic(&format!("nics[{index}]"), nic)?;
    }
    validate_slots(config)
}

fn validate_slots(config: &VmConfig) -> Result<(), ConfigError> {
    let devices = config.disks.len() + config.nics.len();
    if devices > MAX_DEVICES {
        let problem = format!("{devices} disks and NICs");
        return Err(bad("disks", problem, format!("attach at most {MAX_DEVICES} in all")));
    }
    let disks = config.disks.iter().enumerate().map(|(i, d)| (format!("disks[{i}].slot"), d.slot));
    let nics = config.nics.iter().enumerate().map(|(i, n)| (format!("nics[{i}].slot"), n.slot));
    let mut taken = HashSet::new();
    for (field, slot) in disks.chain(nics).filter(|(_, slot)| *slot != 0) {
        if slot > LAST_SLOT || !taken.insert(slot) {
            let problem = format!("slot {slot} is taken or past the end");
            let fix = format!("give a free slot from 1 to {LAST_SLOT}, or 0 for any");
            return Err(bad(field, problem, fix));
        }
    }
    Ok(())
}

/// A unicast MAC address from text.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        if !part.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_or_refused() {
        assert_eq!(parse_mac("00:16:3e:01:02:0A"), Some([0x00, 0x16, 0x3e, 1, 2, 10]));
        for bad in [
            "",
            "00:16:3e:01:02",
            "00:16:3e:01:02:03:04",
            "01:16:3e:01:02:03",
            "00:00:00:00:00:00",
            "0:16:3e:01:02:03",
            "00:16:3e:01:02:zz",
            "+0:16:3e:01:02:03",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_interface_has_one_descriptor_for_each_queue_pair() {
        let nic = Nic {
            mac: "00:16:3e:00:00:01".to_owned(),
            tap_fds: (10..138).collect(),
            vhost_fds: (200..328).collect(),
            queue_pairs: 128,
            ..Default::default()
        };
        let shape = check_nic("eni-1", &nic).unwrap();
        assert_eq!((shape.pairs, shape.mtu), (128, 1500));
        let few = Nic { tap_fds: vec![10], ..nic.clone() };
        assert!(check_nic("eni-1", &few).unwrap_err().to_string().contains("eni-1.tap_fds"));
        let many = Nic { vhost_fds: (200..329).collect(), ..nic };
        assert!(check_nic("eni-1", &many).unwrap_err().to_string().contains("eni-1.vhost_fds"));
    }
}
