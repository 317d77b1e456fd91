//! The machine description: is it one that can be built?

mod command_line;
mod devices;
mod files;

pub use command_line::{DiskArgument, NicArgument, RunArguments, parse_size};
pub use devices::{
    MAX_DEVICES, MAX_DISK_QUEUES, MAX_LAYERS, MAX_QUEUE_PAIRS, NicShape, check_disk,
    check_disk_shape, check_nic, check_nic_shape,
};
pub use files::{FileError, close_given, inherited, open_file};

use crate::layout;
use api::vmm::{FileRef, VmConfig, file_ref::Source};
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

pub(crate) fn bad(
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
    devices::validate(config)?;
    validate_console(config)?;
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

fn validate_console(config: &VmConfig) -> Result<(), ConfigError> {
    match config.console.as_ref().map_or(0, |console| console.log_fd) {
        0 | 3.. => Ok(()),
        fd => {
            let problem = format!("descriptor {fd}");
            Err(bad("console.log_fd", problem, "pass the log as descriptor 3 or above"))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::vmm::{Boot, Console, Disk, DiskLayer, Jail, Nic};

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
            ("disks[0].queues", |c| c.disks[0].queues = 9),
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
            ("nics[0].tap_name", |c| c.nics[0].tap_name = "t".repeat(16)),
            ("nics[0].queue_pairs", |c| c.nics[0].queue_pairs = 129),
            ("nics[0].mtu", |c| c.nics[0].mtu = 10),
            ("nics[0].mtu", |c| c.nics[0].mtu = 65_522),
            ("console.log_fd", |c| c.console = Some(Console { log_fd: 2, ..Default::default() })),
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
    fn every_instance_type_of_the_catalog_is_a_machine() {
        for kind in catalog::instance_types() {
            let mut config = good();
            config.vcpus = kind.vcpus;
            // Of two GPU sizes nobody knows the memory; they are named, but never started.
            config.memory_bytes = (kind.memory_mib * MIB).max(MIN_MEMORY);
            config.nics[0].queue_pairs = kind.nic_queues.unwrap_or(0);
            config.disks = (0..=kind.max_data_disks).map(|n| disk(&format!("d-{n}"))).collect();
            if let Err(error) = validate(&config) {
                panic!("{}: {error}", kind.id);
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
