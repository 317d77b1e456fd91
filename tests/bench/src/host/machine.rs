//! One running guest under either monitor.

use super::Options;
use anyhow::{Context as _, Result, bail, ensure};
use api::vmm::{
    Boot, Console, Disk as VmDisk, DiskFormat, DiskLayer, DiskLimit, FileRef, Nic, VmConfig,
    file_ref::Source,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Printed by the guest's init as its very first act.
pub const USERLAND: &str = "ECS-BENCH-USERLAND";
/// Printed when it has loaded what it was asked to, before it sleeps.
pub const IDLE: &str = "ECS-BENCH-IDLE";
const DONE: &str = "ECS-BENCH-DONE";

/// Who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    Ours,
    /// QEMU with this `-M` argument.
    Qemu(&'static str),
}

/// QEMU as small as it gets, for guests without devices.
pub const MICROVM: Monitor =
    Monitor::Qemu("microvm,acpi=on,pcie=off,pit=off,pic=off,rtc=off,isa-serial=on");
/// The same with PCI, for the same devices as ours.
pub const MICROVM_PCI: Monitor =
    Monitor::Qemu("microvm,acpi=on,pcie=on,pit=off,pic=off,rtc=off,isa-serial=on");
pub const Q35: Monitor = Monitor::Qemu("q35");

/// The guest both are given.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    pub arguments: String,
    pub memory_mib: u64,
    pub vcpus: u32,
    pub disk: Option<Disk>,
    /// More disks, which QEMU is not given.
    pub limited: Vec<Limited>,
    pub tap: Option<String>,
    /// Control socket, for ours.
    pub control: Option<PathBuf>,
}

/// A disk of ours that is kept to a rate, or to none.
#[derive(Debug, Clone)]
pub struct Limited {
    pub file: PathBuf,
    pub limit: Option<DiskLimit>,
}

/// A disk of a guest.
#[derive(Debug, Clone)]
pub enum Disk {
    /// This qcow2 file as it is.
    Plain(PathBuf),
    /// A new, empty overlay over it at each start.
    Overlay(PathBuf),
}

impl Disk {
    /// The files, top first; makes the overlay.
    fn layers(&self, work: &Path) -> Result<Vec<PathBuf>> {
        let base = match self {
            Self::Plain(file) => return Ok(vec![file.clone()]),
            Self::Overlay(base) => fs::canonicalize(base)?,
        };
        let overlay = work.join("bench-overlay.qcow2");
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&base, &overlay])
            .status()
            .context("run qemu-img")?;
        ensure!(status.success(), "qemu-img create ended with {status}");
        Ok(vec![overlay, base])
    }
}

/// A started guest; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    lines: mpsc::Receiver<(Instant, String)>,
    config: PathBuf,
}

fn file(path: &Path) -> FileRef {
    FileRef { source: Some(Source::Path(path.display().to_string())) }
}

fn ours(
    options: &Options,
    guest: &Guest,
    layers: &[PathBuf],
    config: &Path,
    cmdline: &str,
) -> Result<Command> {
    let vm = VmConfig {
        instance_id: "i-bench".to_owned(),
        uuid: "6f1c0f7e-9d0f-4a53-8a6b-0b0d5f3f7c11".to_owned(),
        vcpus: guest.vcpus,
        memory_bytes: guest.memory_mib << 20,
        boot: Some(Boot {
            kernel: Some(file(&options.kernel)),
            initrd: Some(file(&options.initrd)),
            cmdline: cmdline.to_owned(),
        }),
        disks: disks(guest, layers),
        nics: guest.tap.iter().map(|tap| nic(tap)).collect(),
        console: Some(Console { stdio: true, ..Console::default() }),
        control_socket: guest.control.as_ref().map_or(String::new(), |p| p.display().to_string()),
        ..VmConfig::default()
    };
    fs::write(config, serde_json::to_vec_pretty(&vm)?)?;
    let mut command = Command::new(&options.vmm);
    command.arg("run").arg("--config").arg(config);
    Ok(command)
}

fn disks(guest: &Guest, layers: &[PathBuf]) -> Vec<VmDisk> {
    let first = (!layers.is_empty()).then(|| disk(layers));
    let limited = guest.limited.iter().enumerate().map(|(n, limited)| VmDisk {
        disk_id: format!("d-bench{n}"),
        limit: limited.limit,
        queues: guest.vcpus,
        ..disk(std::slice::from_ref(&limited.file))
    });
    first.into_iter().chain(limited).collect()
}

fn disk(layers: &[PathBuf]) -> VmDisk {
    let layer =
        |path: &PathBuf| DiskLayer { file: Some(file(path)), format: DiskFormat::Qcow2.into() };
    VmDisk {
        disk_id: "d-bench".to_owned(),
        layers: layers.iter().map(layer).collect(),
        queues: 1,
        ..VmDisk::default()
    }
}

fn nic(tap: &str) -> Nic {
    Nic {
        eni_id: "eni-bench".to_owned(),
        mac: "00:16:3e:00:00:02".to_owned(),
        tap_name: tap.to_owned(),
        queue_pairs: 1,
        vhost: Path::new("/dev/vhost-net").exists(),
        ..Nic::default()
    }
}

fn qemu(
    options: &Options,
    machine: &str,
    guest: &Guest,
    layers: &[PathBuf],
    cmdline: &str,
) -> Command {
    let mut command = Command::new(&options.qemu);
    command
        .args(["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-M", machine])
        .args(["-m", &guest.memory_mib.to_string(), "-smp", &guest.vcpus.to_string()])
        .arg("-kernel")
        .arg(&options.kernel)
        .arg("-initrd")
        .arg(&options.initrd)
        .args(["-append", cmdline]);
    // What is below the first file, that file says.
    if let Some(path) = layers.first() {
        let drive = "driver=qcow2,node-name=d,discard=unmap,file.driver=file,file.aio=io_uring";
        command
            .args(["-object", "iothread,id=io", "-device"])
            .arg("virtio-blk-pci,drive=d,iothread=io,num-queues=1")
            .arg("-blockdev")
            .arg(format!("{drive},file.filename={}", path.display()));
    }
    if let Some(tap) = &guest.tap {
        let vhost = if Path::new("/dev/vhost-net").exists() { "on" } else { "off" };
        command
            .args(["-device", "virtio-net-pci,netdev=n,mac=00:16:3e:00:00:02,romfile=", "-netdev"])
            .arg(format!("tap,id=n,ifname={tap},script=no,downscript=no,vhost={vhost}"));
    }
    command
}

fn follow(stdout: ChildStdout) -> mpsc::Receiver<(Instant, String)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send((Instant::now(), text)).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

impl Running {
    /// Starts the guest.
    pub fn start(options: &Options, monitor: Monitor, guest: &Guest) -> Result<Self> {
        let cmdline = format!("console=ttyS0 quiet panic=-1 {}", guest.arguments);
        let config = options.work.join(format!("bench-{}.json", std::process::id()));
        let layers = match &guest.disk {
            Some(disk) => disk.layers(&options.work)?,
            None => Vec::new(),
        };
        let mut command = match monitor {
            Monitor::Ours => ours(options, guest, &layers, &config, &cmdline)?,
            Monitor::Qemu(machine) => qemu(options, machine, guest, &layers, &cmdline),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().context("the monitor's output is not piped")?;
        Ok(Self { child, started, lines: follow(stdout), config })
    }

    /// The monitor's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with `text`; gives the time from start and the lines up to it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(Duration, Vec<String>)> {
        self.wait_with(text, limit, |_| Ok(()))
    }

    /// The same; what the guest asks for meanwhile goes to `grant`.
    fn wait_with(
        &mut self,
        text: &str,
        limit: Duration,
        mut grant: impl FnMut(&str) -> Result<()>,
    ) -> Result<(Duration, Vec<String>)> {
        let mut seen = Vec::new();
        loop {
            let left = limit.saturating_sub(self.started.elapsed());
            let Ok((when, line)) = self.lines.recv_timeout(left) else {
                bail!("no {text:?} on the console in {limit:?}; it said:\n{}", seen.join("\n"));
            };
            if let Some((_, what)) = line.split_once(crate::guest::ASK) {
                grant(what.trim())?;
            }
            let found = line.contains(text);
            seen.push(line);
            if found {
                return Ok((when - self.started, seen));
            }
        }
    }

    /// Waits until the load is done; gives its figures by name.
    pub fn figures(&mut self, limit: Duration) -> Result<BTreeMap<String, f64>> {
        self.figures_with(limit, |_| Ok(()))
    }

    /// The same; what the guest asks for meanwhile goes to `grant`.
    pub fn figures_with(
        &mut self,
        limit: Duration,
        grant: impl FnMut(&str) -> Result<()>,
    ) -> Result<BTreeMap<String, f64>> {
        let (_, lines) = self.wait_with(DONE, limit, grant)?;
        let mut figures = BTreeMap::new();
        for line in &lines {
            if let Some((_, rest)) = line.split_once(crate::guest::MARK)
                && let Some((name, value)) = rest.split_once(' ')
            {
                figures.insert(name.to_owned(), value.trim().parse()?);
            }
        }
        if figures.is_empty() {
            bail!("the load gave no figure; the console said:\n{}", lines.join("\n"));
        }
        Ok(figures)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both may have ended by themselves; there is nothing to do about a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

/// Measures ours and `peer` in turn; gives the pairs. The order alternates, so that drift of the
/// host favours neither.
pub fn alternate<T>(
    options: &Options,
    peer: Monitor,
    mut measure: impl FnMut(Monitor) -> Result<T>,
) -> Result<Vec<(T, T)>> {
    (0..options.runs)
        .map(|run| {
            if run % 2 == 0 {
                let ours = measure(Monitor::Ours)?;
                Ok((ours, measure(peer)?))
            } else {
                let theirs = measure(peer)?;
                Ok((measure(Monitor::Ours)?, theirs))
            }
        })
        .collect()
}

/// Runs the same load under ours and `peer` in turn; gives the pairs by figure.
pub fn pairs(
    options: &Options,
    peer: Monitor,
    guest: &Guest,
    limit: Duration,
) -> Result<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let run = |monitor| Running::start(options, monitor, guest)?.figures(limit);
    for (ours, theirs) in alternate(options, peer, run)? {
        for (name, value) in ours {
            let peer = theirs.get(&name).with_context(|| format!("the peer gave no {name}"))?;
            all.entry(name).or_default().push((value, *peer));
        }
    }
    Ok(all)
}
