//! Starting one VMM: boot files out of the system disk, descriptors, machine description, process.

use super::{
    boot_files::{self, BootFiles},
    keeper,
    nic_plugging::{self, OpenNic},
    plug,
    record::Record,
};
use crate::{
    cgroups::Limits,
    disks::{OpenLayer, in_pipe},
    error::{Error, FileContext as _, Result},
    host::Host,
    layout::{make_dir, remove_dir},
};
use api::{
    host::{HostSpec, InstanceSpec},
    vmm::{Boot, Console, Disk, DiskLayer, FileRef, Jail, Nic, VmConfig, file_ref::Source},
};
use command_fds::{CommandFdExt as _, FdMapping};
use std::{
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

/// Open files of a VMM beyond what a queue or a disk needs.
const OPEN_FILES: u64 = 1024;

/// Descriptors a VMM inherits, numbered as they will be in its process.
#[derive(Debug, Default)]
struct Inherited {
    fds: Vec<OwnedFd>,
}

impl Inherited {
    fn add(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        self.fds.push(fd.into());
        keeper::FIRST_FD + i32::try_from(self.fds.len()).unwrap_or(i32::MAX - 64) - 1
    }

    fn file(&mut self, fd: impl Into<OwnedFd>) -> FileRef {
        FileRef { source: Some(Source::Fd(self.add(fd))) }
    }
}

/// Starts the instance's VMM under `lock`, which it then holds. On return its keeper runs; whether
/// the guest does is asked on the control socket.
///
/// # Errors
/// When something it needs is not there; no process was started then.
pub async fn launch(
    host: &Host,
    spec: &HostSpec,
    instance: &InstanceSpec,
    record: &Record,
    lock: File,
) -> Result<tokio::process::Child> {
    let id = &instance.instance_id;
    let uid = host.settings.jail_uid_base.saturating_add(record.uid_slot);
    let boot = boot_files::find(host, spec, instance, uid).await?;

    let layout = &host.layout;
    remove_dir(&layout.vmm_dir(id))?;
    make_dir(&layout.jail_root(id), 0o711)?;

    let mut inherited = Inherited::default();
    let config = describe(host, spec, instance, record, uid, boot, &mut inherited).await?;
    let json = serde_json::to_vec_pretty(&config)
        .map_err(|e| Error::resource(id, "InvalidConfiguration.Vmm", e.to_string()))?;
    let config_path = layout.vmm_config(id);
    std::fs::write(&config_path, json).at("write", &config_path)?;

    let log_path = layout.vmm_log(id);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&log_path)
        .at("open", &log_path)?;
    let limits = Limits { memory_mib: instance.memory_mib, vcpus: instance.vcpus };
    let cgroup = host.cgroups.prepare(id, limits)?;

    let mut command = Command::new(&host.settings.keeper_bin);
    command
        .arg(keeper::COMMAND)
        .arg("--launch")
        .arg(record.launches.to_string())
        .arg("--exit-report")
        .arg(layout.exit_report(id))
        .arg("--vmm")
        .arg(&host.settings.vmm_bin)
        .arg("--config")
        .arg(&config_path)
        .arg("--cgroup")
        .arg(&cgroup)
        .arg("--leases")
        .arg(layout.leases())
        .stdin(Stdio::null())
        .stdout(log.try_clone().at("duplicate", &log_path)?)
        .stderr(log)
        .current_dir("/");
    let mut mappings = vec![FdMapping { parent_fd: lock.into(), child_fd: keeper::LOCK_FD }];
    for (index, fd) in inherited.fds.into_iter().enumerate() {
        let child_fd = keeper::FIRST_FD + i32::try_from(index).unwrap_or(i32::MAX - 64);
        mappings.push(FdMapping { parent_fd: fd, child_fd });
    }
    command
        .fd_mappings(mappings)
        .map_err(|e| Error::resource(id, "HostError", format!("descriptor table: {e}")))?;
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(false);
    command.spawn().at("start", &host.settings.keeper_bin)
}

async fn describe(
    host: &Host,
    spec: &HostSpec,
    instance: &InstanceSpec,
    record: &Record,
    uid: u32,
    boot: BootFiles,
    inherited: &mut Inherited,
) -> Result<VmConfig> {
    let id = &instance.instance_id;
    let layout = &host.layout;
    let boot = Boot {
        kernel: Some(inherited.file(boot.kernel)),
        initrd: boot.initrd.map(|f| inherited.file(f)),
        cmdline: boot.cmdline,
    };
    let mut disks = Vec::new();
    for disk_id in &instance.disk_ids {
        host.disks.register(id, disk_id)?;
        let chain = host.disks.open(spec, disk_id, true)?;
        let limit = spec.disks.iter().find(|d| d.disk_id == *disk_id).and_then(plug::limit);
        let layer = |OpenLayer { file, format }| DiskLayer {
            file: Some(inherited.file(file)),
            format: format.into(),
        };
        let layers = chain.layers.into_iter().map(layer).collect();
        disks.push(Disk {
            disk_id: disk_id.clone(),
            layers,
            chain_epoch: chain.chain_epoch,
            key: match &chain.key {
                Some(key) => Some(inherited.file(in_pipe(key).at("make", "a pipe for a key")?)),
                None => None,
            },
            limit,
            ..Disk::default()
        });
    }
    let mut nics = Vec::new();
    for eni in &instance.enis {
        let OpenNic { nic, taps, vhost } =
            nic_plugging::open(host, instance, eni, u32::MAX).await?;
        nics.push(Nic {
            tap_fds: taps.into_iter().map(|fd| inherited.add(fd)).collect(),
            vhost_fds: vhost.into_iter().map(|fd| inherited.add(fd)).collect(),
            ..nic
        });
    }
    let descriptors = inherited.fds.len() as u64;
    Ok(VmConfig {
        instance_id: id.clone(),
        uuid: instance.uuid.clone(),
        vcpus: instance.vcpus,
        memory_bytes: instance.memory_mib.saturating_mul(1 << 20),
        boot: Some(boot),
        disks,
        nics,
        console: Some(Console {
            log_path: layout.console_log(id).to_string_lossy().into_owned(),
            socket_path: layout.console_socket(id).to_string_lossy().into_owned(),
            ..Console::default()
        }),
        jail: Some(Jail {
            uid,
            gid: uid,
            chroot: layout.jail_root(id).to_string_lossy().into_owned(),
            seccomp: true,
            landlock: true,
            max_open_files: OPEN_FILES + descriptors,
            new_namespaces: true,
        }),
        control_socket: layout.control_socket(id).to_string_lossy().into_owned(),
        boot_epoch: record.boot_epoch,
        ..VmConfig::default()
    })
}
