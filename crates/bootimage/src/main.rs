//! `ecs-bootimage`: takes kernel, initrd and command line out of a disk, in a process that has given
//! up its rights before it reads the first byte. One JSON line on standard output says what was
//! found, or with exit code 1 what went wrong.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bootimage::confine::{self, Confinement, NOBODY};
use bootimage::{BlockSource, BootFiles, Error, Limits, RawFile, Table};
use clap::{Args, Parser, Subcommand};
use qcow2::{Format, Image, Layer, OpenOptions, Passphrase};
use serde_json::json;

/// Takes kernel, initrd and command line out of a disk image, in a confined process.
#[derive(Debug, Parser)]
#[command(name = "ecs-bootimage", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    extract: Extract,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what an image would boot.
    Inspect {
        /// PATH, PATH:raw or PATH:qcow2; of a chain all layers, the top one first.
        #[arg(required = true)]
        layers: Vec<LayerArgument>,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        jail: Jail,
    },
    /// Enters the jail and shows what is in effect; with an attempt, tries that inside.
    Confinement {
        /// What to try.
        #[arg(value_enum)]
        attempt: Option<Attempt>,
        #[command(flatten)]
        jail: Jail,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Attempt {
    /// Open a file.
    Open,
    /// Make a socket.
    Socket,
    /// Start a process.
    Fork,
    /// Make memory that can be executed.
    Execute,
    /// Take more memory than there is for it.
    Memory,
    /// Never end.
    Loop,
    /// Panic.
    Panic,
}

#[derive(Debug, Args)]
struct Extract {
    /// A layer of the disk, the top one first: an inherited descriptor or a path, and raw or qcow2.
    #[arg(long = "layer", value_name = "FD|PATH:FORMAT")]
    layers: Vec<LayerArgument>,
    /// Descriptor with the passphrase of encrypted layers, which is read to its end.
    #[arg(long, value_name = "FD")]
    key: Option<RawFd>,
    /// Descriptor to write the kernel to.
    #[arg(long, value_name = "FD")]
    kernel_out: Option<RawFd>,
    /// Descriptor to write the initrd to; nothing is written if the entry has none.
    #[arg(long, value_name = "FD")]
    initrd_out: Option<RawFd>,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    jail: Jail,
}

#[derive(Debug, Clone, Copy, Args)]
struct Sizes {
    /// Largest kernel to take.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().kernel_bytes)]
    kernel_limit: u64,
    /// Largest initrd to take; of several all together.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().initrd_bytes)]
    initrd_limit: u64,
}

#[derive(Debug, Args)]
struct Jail {
    /// User to become when started as root.
    #[arg(long, default_value_t = NOBODY)]
    uid: u32,
    /// Group to become when started as root.
    #[arg(long, default_value_t = NOBODY)]
    gid: u32,
    /// Wall time after which to give up.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    timeout_seconds: u32,
    /// Fail where namespaces or Landlock are not to be had, instead of going on without.
    #[arg(long)]
    require_jail: bool,
    /// The process that started this one, and to end with; one that is gone is an error.
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<libc::pid_t>,
    /// Whose disk it is. Only for whoever looks for this process in /proc.
    #[arg(long, value_name = "ID", hide = true)]
    instance: Option<String>,
}

#[derive(Debug, Clone)]
struct LayerArgument {
    place: Place,
    format: Format,
}

#[derive(Debug, Clone)]
enum Place {
    Descriptor(RawFd),
    Path(String),
}

impl FromStr for LayerArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<LayerArgument, String> {
        let (place, format) = match text.rsplit_once(':') {
            Some((place, "qcow2")) => (place, Format::Qcow2),
            Some((place, "raw")) => (place, Format::Raw),
            Some((_, format)) if !format.contains('/') => {
                return Err(format!("format {format:?} is not known; use raw or qcow2"));
            }
            _ if text.ends_with(".qcow2") => (text, Format::Qcow2),
            _ => (text, Format::Raw),
        };
        let place = match place.parse() {
            Ok(descriptor) => Place::Descriptor(descriptor),
            Err(_) => Place::Path(place.to_owned()),
        };
        Ok(LayerArgument { place, format })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let answer = match cli.command {
        Some(Command::Inspect { layers, sizes, jail }) => {
            extract(&layers, None, (None, None), sizes, &jail)
        }
        Some(Command::Confinement { attempt, jail }) => try_confinement(attempt, &jail),
        None => {
            let Extract { layers, key, kernel_out, initrd_out, sizes, jail } = cli.extract;
            extract(&layers, key, (kernel_out, initrd_out), sizes, &jail)
        }
    };
    let (line, code) = match answer {
        Ok(found) => (found, ExitCode::SUCCESS),
        Err(error) => {
            let line = json!({ "code": error.code(), "message": error.to_string() });
            (line, ExitCode::FAILURE)
        }
    };
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn extract(
    layers: &[LayerArgument],
    key: Option<RawFd>,
    (kernel_out, initrd_out): (Option<RawFd>, Option<RawFd>),
    sizes: Sizes,
    jail: &Jail,
) -> Result<serde_json::Value, Error> {
    if layers.is_empty() {
        return Err(host("--layer", io::Error::other("name the layers of the disk")));
    }
    let mut open = Vec::new();
    for layer in layers {
        let file = match &layer.place {
            Place::Descriptor(descriptor) => inherited(*descriptor)?,
            Place::Path(path) => File::open(path).map_err(|source| host(path, source))?,
        };
        open.push(Layer { file, format: layer.format });
    }
    let key = match key {
        Some(descriptor) => {
            let read = Passphrase::read(&inherited(descriptor)?);
            Some(read.map_err(|source| host("the key of the disk", source))?)
        }
        None => None,
    };
    let kernel_out = kernel_out.map(inherited).transpose()?;
    let initrd_out = initrd_out.map(inherited).transpose()?;

    let keep = open.iter().map(|layer| &layer.file).chain(&kernel_out).chain(&initrd_out);
    let limits = Limits {
        time: Duration::from_secs(jail.timeout_seconds.into()),
        kernel_bytes: sizes.kernel_limit,
        initrd_bytes: sizes.initrd_limit,
        ..Limits::default()
    };
    let report =
        confine::enter(&confinement(jail, keep.map(AsRawFd::as_raw_fd).collect(), &limits))?;
    let found = bootimage::find(source(open, key)?, limits)?;
    let kernel_bytes = match kernel_out {
        Some(mut out) => found.write_kernel(&mut out)?,
        None => found.kernel_size(),
    };
    let initrd_bytes = match initrd_out {
        Some(mut out) => found.write_initrd(&mut out)?,
        None => found.initrd_size(),
    };
    let mut answer = describe(&found, kernel_bytes, initrd_bytes);
    answer["jail"] = json!(report);
    answer["instance"] = json!(jail.instance);
    Ok(answer)
}

fn describe(found: &BootFiles, kernel_bytes: u64, initrd_bytes: u64) -> serde_json::Value {
    let (table, partition) = found.partition();
    let table = match table {
        Table::Gpt => "gpt",
        Table::Mbr => "mbr",
        Table::Bare => "none",
    };
    json!({
        "cmdline": found.command_line(),
        "kernel_path": found.kernel_path(),
        "kernel_bytes": kernel_bytes,
        "initrd_path": found.initrd_paths().collect::<Vec<_>>().join(" "),
        "initrd_bytes": initrd_bytes,
        "title": found.title(),
        "config": found.config(),
        "filesystem": found.filesystem(),
        "partition_table": table,
        "partition": partition,
    })
}

fn confinement(jail: &Jail, keep: Vec<RawFd>, limits: &Limits) -> Confinement {
    Confinement {
        uid: jail.uid,
        gid: jail.gid,
        time: Duration::from_secs(jail.timeout_seconds.into()),
        keep,
        file_bytes: limits.kernel_bytes.max(limits.initrd_bytes),
        required: jail.require_jail,
        parent: jail.parent,
    }
}

/// Takes over a descriptor of the parent process.
fn inherited(descriptor: RawFd) -> Result<File, Error> {
    // SAFETY: asks for flags only.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if descriptor < 3 || flags < 0 {
        let source = io::Error::other("it is not an open descriptor from 3 on");
        return Err(host(&format!("descriptor {descriptor}"), source));
    }
    // SAFETY: it is open, and this process has just started and owns what it inherited.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn source(mut layers: Vec<Layer>, key: Option<Passphrase>) -> Result<Box<dyn BlockSource>, Error> {
    if let [Layer { format: Format::Raw, .. }] = layers.as_slice()
        && let Some(layer) = layers.pop()
    {
        let file = RawFile::new(layer.file).map_err(|source| host("the disk", source))?;
        return Ok(Box::new(file));
    }
    let options = OpenOptions { read_only: true };
    let opened = match key {
        Some(key) => Image::open_encrypted(layers, options, &key),
        None => Image::open(layers, options),
    };
    match opened {
        Ok(image) => Ok(Box::new(image)),
        Err(error) => Err(Error::Corrupt { what: "the disk image".into(), why: error.to_string() }),
    }
}

fn host(what: &str, source: io::Error) -> Error {
    Error::Io { what: format!("could not open {what}"), source }
}

/// Shows that the jail holds on this host.
fn try_confinement(attempt: Option<Attempt>, jail: &Jail) -> Result<serde_json::Value, Error> {
    let report = confine::enter(&confinement(jail, Vec::new(), &Limits::default()))?;
    let done = match attempt {
        None => return Ok(json!(report)),
        Some(Attempt::Open) => File::open("/etc/passwd").map(|_| ()),
        Some(Attempt::Socket) => std::net::UdpSocket::bind("127.0.0.1:0").map(|_| ()),
        Some(Attempt::Fork) => std::process::Command::new("/bin/true").status().map(|_| ()),
        Some(Attempt::Execute) => executable_memory(),
        Some(Attempt::Memory) => {
            let mut bytes: Vec<u8> = Vec::new();
            bytes.try_reserve_exact(1 << 30).map_err(io::Error::other)
        }
        Some(Attempt::Loop) => loop {
            std::hint::spin_loop();
        },
        #[allow(clippy::panic)]
        Some(Attempt::Panic) => panic!("asked for"),
    };
    match done {
        Ok(()) => Ok(json!({ "escaped": true })),
        Err(source) => Err(host("what the jail denies", source)),
    }
}

fn executable_memory() -> io::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing uses it.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
