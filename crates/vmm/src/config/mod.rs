//! The machine description: is it one that can be built?

mod command_line;
mod files;

pub use command_line::{DiskArgument, NicArgument, RunArguments, parse_size};
pub use files::{FileError, open_file};

use crate::layout;
use api::vmm::{FileRef, VmConfig, file_ref::Source};
use std::collections::HashSet;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
/// Least RAM of a machine in bytes.
pub const MIN_MEMORY: u64 = 64 * MIB;
/// Most RAM of a machine in bytes: what the catalog's largest types need, and then some.
pub const MAX_MEMORY: u64 = 16 << 40;
/// RAM comes in pieces of this many bytes.
pub const MEMORY_UNIT: u64 = 2 * MIB;
/// Most vCPUs: APIC ids are bytes, and 255 means all.
pub const MAX_VCPUS: u32 = 254;
const MAX_STRING: usize = 64;
const MAX_LAYERS: usize = 64;
const MAX_QUEUES: u32 = 256;
const MAX_DEVICES: usize = 30;

/// What is wrong with which field of `VmConfig`, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the machine description {path}: {source}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no `VmConfig`.
    #[error("the machine description {path} is not a VmConfig in JSON: {source}")]
    Json {
        /// Its path.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field has a value it must not have.
    #[error("{field}: {problem}; {fix}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: String,
    },
}

fn bad(
    field: impl Into<String>,
    problem: impl Into<String>,
    fix: impl Into<String>,
) -> ConfigError {
    ConfigError::Field { field: field.into(), problem: problem.into(), fix: fix.into() }
}

/// Reads a machine description.
///
/// # Errors
/// [`ConfigError`] if it cannot be read or is none.
pub fn read(path: &str) -> Result<VmConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|source| ConfigError::Json { path: path.to_owned(), source })
}

/// Checks every field. Returns the system's UUID.
///
/// # Errors
/// [`ConfigError::Field`] for the first field that is wrong.
pub fn validate(config: &VmConfig) -> Result<Uuid, ConfigError> {
    let id = &config.instance_id;
    if id.is_empty() || id.len() > MAX_STRING || !id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(bad(
            "instance_id",
            format!("{id:?} is not an instance id"),
            "give 1 to 64 printable characters, e.g. i-bp67acfmxazb4p",
        ));
    }
    let uuid = Uuid::parse_str(&config.uuid).map_err(|error| {
        bad("uuid", format!("{:?} is no UUID: {error}", config.uuid), "give RFC 4122 text")
    })?;
    if config.product_name.len() > MAX_STRING || config.product_name.chars().any(|c| c.is_control())
    {
        return Err(bad("product_name", "too long or not printable", "give at most 64 bytes"));
    }
    if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
        let problem = format!("{} vCPUs", config.vcpus);
        return Err(bad("vcpus", problem, format!("give 1 to {MAX_VCPUS}")));
    }
    let memory = config.memory_bytes;
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&memory) || !memory.is_multiple_of(MEMORY_UNIT) {
        return Err(bad(
            "memory_bytes",
            format!("{memory} bytes"),
            "give a multiple of 2 MiB between 64 MiB and 16 TiB",
        ));
    }
    validate_boot(config)?;
    validate_disks(config)?;
    validate_nics(config)?;
    validate_slots(config)?;
    if let Some(jail) = &config.jail
        && !jail.chroot.is_empty()
        && !jail.chroot.starts_with('/')
    {
        let problem = format!("{:?} is relative", jail.chroot);
        return Err(bad("jail.chroot", problem, "give an absolute path to an empty directory"));
    }
    Ok(uuid)
}

fn validate_boot(config: &VmConfig) -> Result<(), ConfigError> {
    let boot = config.boot.as_ref().ok_or_else(|| bad("boot", "absent", "name a kernel"))?;
    validate_file("boot.kernel", boot.kernel.as_ref())?;
    if boot.initrd.is_some() {
        validate_file("boot.initrd", boot.initrd.as_ref())?;
    }
    let max = layout::CMDLINE_SIZE as usize - 1;
    if boot.cmdline.len() > max || boot.cmdline.contains('\0') {
        return Err(bad(
            "boot.cmdline",
            format!("{} bytes, or a NUL byte among them", boot.cmdline.len()),
            format!("give at most {max} bytes without NUL"),
        ));
    }
    Ok(())
}

fn validate_file(field: &str, file: Option<&FileRef>) -> Result<(), ConfigError> {
    match file.and_then(|file| file.source.as_ref()) {
        None => Err(bad(field, "absent", "give a path or an inherited descriptor")),
        Some(Source::Path(path)) if path.is_empty() || path.contains('\0') => {
            Err(bad(field, "not a path", "give the path of a file"))
        }
        Some(Source::Fd(fd)) if *fd < 3 => {
            Err(bad(field, format!("descriptor {fd}"), "pass the file as descriptor 3 or above"))
        }
        Some(_) => Ok(()),
    }
}

fn validate_disks(config: &VmConfig) -> Result<(), ConfigError> {
    let mut ids = HashSet::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let field = |name: &str| format!("disks[{index}].{name}");
        if disk.disk_id.is_empty() || disk.disk_id.len() > MAX_STRING {
            return Err(bad(field("disk_id"), "empty or too long", "give the ECS disk id"));
        }
        if !ids.insert(disk.disk_id.as_str()) {
            let problem = format!("{} is there twice", disk.disk_id);
            return Err(bad(field("disk_id"), problem, "attach a disk once"));
        }
        if disk.layers.is_empty() || disk.layers.len() > MAX_LAYERS {
            return Err(bad(
                field("layers"),
                format!("{} layers", disk.layers.len()),
                format!("give 1 to {MAX_LAYERS}, the one to write to first"),
            ));
        }
        for (at, layer) in disk.layers.iter().enumerate() {
            validate_file(&field(&format!("layers[{at}].file")), layer.file.as_ref())?;
        }
        if disk.queues > MAX_QUEUES {
            let problem = format!("{} queues", disk.queues);
            return Err(bad(field("queues"), problem, format!("give at most {MAX_QUEUES}")));
        }
    }
    Ok(())
}

fn validate_nics(config: &VmConfig) -> Result<(), ConfigError> {
    for (index, nic) in config.nics.iter().enumerate() {
        let field = |name: &str| format!("nics[{index}].{name}");
        if parse_mac(&nic.mac).is_none() {
            let problem = format!("{:?} is no unicast MAC address", nic.mac);
            return Err(bad(
                field("mac"),
                problem,
                "give six bytes in hex, e.g. 00:16:3e:00:00:01",
            ));
        }
        if nic.tap_fds.is_empty() == nic.tap_name.is_empty() {
            return Err(bad(
                field("tap_fds"),
                "both or neither of tap_fds and tap_name are given",
                "give one of them",
            ));
        }
        if let Some(fd) = nic.tap_fds.iter().chain(&nic.vhost_fds).find(|fd| **fd < 3) {
            let problem = format!("descriptor {fd}");
            return Err(bad(field("tap_fds"), problem, "pass descriptors 3 or above"));
        }
        if nic.queue_pairs > MAX_QUEUES {
            let problem = format!("{} queue pairs", nic.queue_pairs);
            return Err(bad(field("queue_pairs"), problem, format!("give at most {MAX_QUEUES}")));
        }
        if nic.mtu != 0 && !(68..=65_535).contains(&nic.mtu) {
            let problem = format!("{} bytes", nic.mtu);
            return Err(bad(field("mtu"), problem, "give 68 to 65535, or 0 for 1500"));
        }
    }
    Ok(())
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
        if slot > 31 || !taken.insert(slot) {
            let problem = format!("slot {slot} is taken or past the end");
            return Err(bad(field, problem, "give a free slot from 1 to 31, or 0 for any"));
        }
    }
    Ok(())
}

/// A unicast MAC address from text.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
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
    use api::vmm::{Boot, Disk, DiskLayer, Jail, Nic};

    fn path(path: &str) -> Option<FileRef> {
        Some(FileRef { source: Some(Source::Path(path.to_owned())) })
    }

    fn fd(fd: i32) -> Option<FileRef> {
        Some(FileRef { source: Some(Source::Fd(fd)) })
    }

    fn disk(id: &str) -> Disk {
        let layers = vec![DiskLayer { file: path("/d"), format: 1 }];
        Disk { disk_id: id.to_owned(), layers, ..Default::default() }
    }

    fn good() -> VmConfig {
        VmConfig {
            instance_id: "i-test".to_owned(),
            uuid: "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
            vcpus: 2,
            memory_bytes: 256 * MIB,
            boot: Some(Boot {
                kernel: path("/vmlinuz"),
                initrd: None,
                cmdline: "quiet".to_owned(),
            }),
            disks: vec![disk("d-1")],
            nics: vec![Nic {
                mac: "00:16:3e:00:00:01".to_owned(),
                tap_name: "tap0".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        type Break = fn(&mut VmConfig);
        let cases: &[(&str, Break)] = &[
            ("instance_id", |c| c.instance_id.clear()),
            ("instance_id", |c| c.instance_id = "x\ny".to_owned()),
            ("uuid", |c| c.uuid = "nope".to_owned()),
            ("vcpus", |c| c.vcpus = 0),
            ("vcpus", |c| c.vcpus = 255),
            ("memory_bytes", |c| c.memory_bytes = 0),
            ("memory_bytes", |c| c.memory_bytes = 100 * MIB + 1),
            ("memory_bytes", |c| c.memory_bytes = u64::MAX),
            ("boot", |c| c.boot = None),
            ("boot.kernel", |c| c.boot.as_mut().unwrap().kernel = None),
            ("boot.kernel", |c| c.boot.as_mut().unwrap().kernel = fd(1)),
            ("boot.initrd", |c| c.boot.as_mut().unwrap().initrd = path("")),
            ("boot.cmdline", |c| c.boot.as_mut().unwrap().cmdline = "x".repeat(2048)),
            ("disks[1].disk_id", |c| c.disks.push(disk("d-1"))),
            ("disks[0].layers", |c| c.disks[0].layers.clear()),
            ("disks[0].layers[0].file", |c| c.disks[0].layers[0].file = fd(-1)),
            ("disks[0].queues", |c| c.disks[0].queues = 1000),
            ("disks[0].slot", |c| c.disks[0].slot = 32),
            ("nics[0].slot", |c| {
                c.disks[0].slot = 3;
                c.nics[0].slot = 3;
            }),
            ("nics[0].mac", |c| c.nics[0].mac = "01:00:00:00:00:00".to_owned()),
            ("nics[0].mac", |c| c.nics[0].mac = "00:16:3e:00:00".to_owned()),
            ("nics[0].mac", |c| c.nics[0].mac = "00:16:3e:00:00:+1".to_owned()),
            ("nics[0].tap_fds", |c| c.nics[0].tap_fds = vec![5]),
            ("nics[0].tap_fds", |c| c.nics[0].tap_name.clear()),
            ("nics[0].mtu", |c| c.nics[0].mtu = 10),
            ("jail.chroot", |c| {
                c.jail = Some(Jail { chroot: "x".to_owned(), ..Default::default() })
            }),
        ];
        assert!(validate(&good()).is_ok());
        for (index, (name, spoil)) in cases.iter().enumerate() {
            let mut config = good();
            spoil(&mut config);
            match validate(&config) {
                Err(ConfigError::Field { field, .. }) => assert_eq!(field, *name, "case {index}"),
                other => panic!("case {index} ({name}): {other:?}"),
            }
        }
    }

    #[test]
    fn a_description_survives_json() {
        let config = good();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
    }
}
