//! The people's form of a machine description: arguments instead of a file.

use super::{ConfigError, bad};
use api::vmm::{
    Boot, Console, Disk, DiskFormat, DiskLayer, FileRef, Nic, VmConfig, file_ref::Source,
};
use std::str::FromStr;
use uuid::Uuid;

/// Arguments of `ecs-vmm run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArguments {
    /// Machine description, ecs.vmm.v1.VmConfig in JSON; excludes all other arguments
    #[arg(long, value_name = "FILE", exclusive = true)]
    pub config: Option<String>,
    /// Kernel: bzImage, or ELF with a PVH note
    #[arg(long, required_unless_present = "config")]
    pub kernel: Option<String>,
    /// Initial RAM disk
    #[arg(long)]
    pub initrd: Option<String>,
    /// Kernel command line
    #[arg(long, default_value = "console=ttyS0")]
    pub cmdline: String,
    /// PATH[,format=raw|qcow2][,ro][,id=ID][,queues=N][,backing=PATH...]; may be repeated
    #[arg(long)]
    pub disk: Vec<DiskArgument>,
    /// tap=NAME,mac=MAC[,queues=N][,mtu=N][,vhost]; may be repeated
    #[arg(long)]
    pub net: Vec<NicArgument>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    pub vcpus: u32,
    /// RAM, e.g. 512M or 4G
    #[arg(long, default_value = "512M", value_parser = parse_size)]
    pub memory: u64,
    /// Where the serial console goes
    #[arg(long, default_value = "stdio", value_parser = ["stdio", "none"])]
    pub serial: String,
    /// File the serial console is recorded in
    #[arg(long)]
    pub log: Option<String>,
    /// Unix socket to attach to the serial console
    #[arg(long)]
    pub console_socket: Option<String>,
    /// Unix socket for control requests
    #[arg(long)]
    pub control_socket: Option<String>,
    /// Instance id, the SMBIOS serial number
    #[arg(long, default_value = "i-local")]
    pub id: String,
}

impl RunArguments {
    /// The description these arguments stand for.
    ///
    /// # Errors
    /// If the file named by `--config` is none.
    pub fn into_config(self) -> Result<VmConfig, ConfigError> {
        if let Some(path) = &self.config {
            return super::read(path);
        }
        let stdio = self.serial == "stdio";
        let mut config = VmConfig {
            uuid: Uuid::new_v5(&Uuid::NAMESPACE_OID, self.id.as_bytes()).to_string(),
            instance_id: self.id,
            vcpus: self.vcpus,
            memory_bytes: self.memory,
            boot: Some(Boot {
                kernel: self.kernel.map(file),
                initrd: self.initrd.map(file),
                cmdline: self.cmdline,
            }),
            console: Some(Console {
                log_path: self.log.unwrap_or_default(),
                socket_path: self.console_socket.unwrap_or_default(),
                stdio,
                ..Default::default()
            }),
            control_socket: self.control_socket.unwrap_or_default(),
            ..Default::default()
        };
        config.disks = self.disk.into_iter().enumerate().map(DiskArgument::into_disk).collect();
        config.nics = self.net.into_iter().enumerate().map(NicArgument::into_nic).collect();
        Ok(config)
    }
}

fn file(path: String) -> FileRef {
    FileRef { source: Some(Source::Path(path)) }
}

/// Bytes from text with an optional suffix K, M, G or T (powers of 1024).
///
/// # Errors
/// If the text is no such number.
pub fn parse_size(text: &str) -> Result<u64, ConfigError> {
    let refuse = || bad("memory", format!("{text:?} is no size"), "give e.g. 512M or 4G");
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| refuse())?;
    number.checked_mul(1 << shift).ok_or_else(refuse)
}

/// One `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    id: Option<String>,
    format: DiskFormat,
    read_only: bool,
    queues: u32,
    path: String,
    backing: Vec<String>,
}

impl FromStr for DiskArgument {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut options = text.split(',');
        let path = options.next().unwrap_or_default().to_owned();
        let mut disk = Self {
            id: None,
            format: guess_format(&path),
            read_only: false,
            queues: 0,
            path,
            backing: Vec::new(),
        };
        for option in options {
            match option.split_once('=') {
                None if option == "ro" => disk.read_only = true,
                Some(("format", "raw")) => disk.format = DiskFormat::Raw,
                Some(("format", "qcow2")) => disk.format = DiskFormat::Qcow2,
                Some(("id", id)) => disk.id = Some(id.to_owned()),
                Some(("backing", path)) => disk.backing.push(path.to_owned()),
                Some(("queues", count)) => disk.queues = number("--disk", count)?,
                _ => return Err(unknown("--disk", option)),
            }
        }
        Ok(disk)
    }
}

impl DiskArgument {
    /// The disk it describes, as `id`.
    pub fn describe(self, id: &str) -> Disk {
        Self::into_disk((0, Self { id: Some(id.to_owned()), ..self }))
    }

    /// The formats of layers and their paths, the layer to write to first.
    pub fn layers(paths: &[String]) -> Vec<DiskLayer> {
        let layer = |path: &String| DiskLayer {
            file: Some(file(path.clone())),
            format: guess_format(path).into(),
        };
        paths.iter().map(layer).collect()
    }

    fn into_disk((index, this): (usize, Self)) -> Disk {
        let layer = |path: String, format: DiskFormat| DiskLayer {
            file: Some(file(path)),
            format: format.into(),
        };
        let mut layers = vec![layer(this.path, this.format)];
        layers.extend(this.backing.into_iter().map(|path| {
            let format = guess_format(&path);
            layer(path, format)
        }));
        Disk {
            disk_id: this.id.unwrap_or_else(|| format!("d-local{index}")),
            read_only: this.read_only,
            layers,
            queues: this.queues,
            ..Default::default()
        }
    }
}

/// People name their files; the machine description proper always says the format.
fn guess_format(path: &str) -> DiskFormat {
    if path.ends_with(".qcow2") { DiskFormat::Qcow2 } else { DiskFormat::Raw }
}

/// One `--net`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicArgument {
    tap: String,
    mac: String,
    queues: u32,
    mtu: u32,
    vhost: bool,
}

impl FromStr for NicArgument {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut nic = Self::default();
        for option in text.split(',') {
            match option.split_once('=') {
                None if option == "vhost" => nic.vhost = true,
                Some(("tap", name)) => nic.tap = name.to_owned(),
                Some(("mac", mac)) => nic.mac = mac.to_owned(),
                Some(("queues", count)) => nic.queues = number("--net", count)?,
                Some(("mtu", bytes)) => nic.mtu = number("--net", bytes)?,
                _ => return Err(unknown("--net", option)),
            }
        }
        Ok(nic)
    }
}

impl NicArgument {
    fn into_nic((index, this): (usize, Self)) -> Nic {
        Nic {
            eni_id: format!("eni-local{index}"),
            mac: this.mac,
            tap_name: this.tap,
            queue_pairs: this.queues,
            mtu: this.mtu,
            vhost: this.vhost,
            ..Default::default()
        }
    }
}

fn number(argument: &str, text: &str) -> Result<u32, ConfigError> {
    text.parse().map_err(|_| bad(argument, format!("{text:?} is no number"), "give digits only"))
}

fn unknown(argument: &str, option: &str) -> ConfigError {
    bad(argument, format!("unknown option {option:?}"), "see ecs-vmm run --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(parse_size("128").unwrap(), 128);
        assert_eq!(parse_size("512M").unwrap(), 512 << 20);
        assert_eq!(parse_size("4g").unwrap(), 4 << 30);
        for bad in ["", "M", "1.5G", "-1", "99999999999T", "1é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_disk_names_its_layers_top_first() {
        let argument: DiskArgument =
            "top.qcow2,ro,id=d-7,queues=2,backing=mid.qcow2,backing=base.img".parse().unwrap();
        let disk = DiskArgument::into_disk((0, argument));
        assert_eq!((disk.disk_id.as_str(), disk.read_only, disk.queues), ("d-7", true, 2));
        let formats: Vec<_> = disk.layers.iter().map(|layer| layer.format()).collect();
        assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Qcow2, DiskFormat::Raw]);
        assert!("x,format=vmdk".parse::<DiskArgument>().is_err());
    }

    #[test]
    fn a_nic_names_its_tap() {
        let argument: NicArgument = "tap=t0,mac=00:16:3e:00:00:01,vhost".parse().unwrap();
        let nic = NicArgument::into_nic((0, argument));
        assert_eq!((nic.tap_name.as_str(), nic.vhost), ("t0", true));
        assert!("tap=t0,ip=1".parse::<NicArgument>().is_err());
    }
}
