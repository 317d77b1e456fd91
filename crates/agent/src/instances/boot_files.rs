//! Kernel, initrd and command line, taken out of the instance's own system disk by
//! `ecs-bootimage`, a confined process that gets the disk's layers and two empty memory files.

use super::{keeper::LOCK_FD, processes::BOOT_FINDER_MARK};
use crate::{
    disks::in_pipe,
    error::{Error, Result},
    host::Host,
};
use api::{
    host::{HostSpec, InstanceSpec},
    vmm::DiskFormat,
};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{Command, Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Child,
};

const TIMEOUT_SECONDS: u64 = 60;
/// Of the guest's memory, what a kernel and an initrd may take: both must fit beside what they
/// unpack.
const KERNEL_SHARE: u64 = 4;
const INITRD_SHARE: u64 = 2;
/// Codes of failures that may be gone at the next try.
const RETRYABLE: [&str; 3] =
    ["ImageBootFailed.Timeout", "ImageBootFailed.ReadError", "ImageBootFailed.Confinement"];
/// Bytes the step may print to each of its outputs.
const SAID_MAX: u64 = 64 << 10;
/// The step ends itself at its timeout; this is for one that cannot.
const KILL_AFTER: Duration = Duration::from_secs(TIMEOUT_SECONDS + 10);

/// What a guest is started with.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: File,
    /// The initial RAM disk, if the boot entry names one.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub cmdline: String,
}

#[derive(Debug, Deserialize)]
struct Found {
    cmdline: String,
}

#[derive(Debug, Deserialize)]
struct Refused {
    code: String,
    message: String,
}

/// Looks into the system disk.
///
/// # Errors
/// [`Error::NotBootable`] with the finder's code when the disk holds nothing to boot.
pub async fn find(
    host: &Host,
    spec: &HostSpec,
    instance: &InstanceSpec,
    uid: u32,
) -> Result<BootFiles> {
    let id = &instance.instance_id;
    let failed = |detail: String| Error::resource(id, "HostError.BootImage", detail);
    let system_disk = instance.disk_ids.first().ok_or_else(|| {
        Error::resource(id, "ImageBootFailed.NoDisk", "the instance has no system disk")
    })?;
    // The step reads as fast as a core can, and many instances may start at once.
    let permit = host.boot_finders.acquire().await;
    let _permit = permit.map_err(|e| failed(format!("the agent is ending: {e}")))?;
    let kernel = memory_file("kernel").map_err(|e| failed(format!("memory file: {e}")))?;
    let initrd = memory_file("initrd").map_err(|e| failed(format!("memory file: {e}")))?;

    let mut command = Command::new(&host.settings.bootimage_bin);
    // First, since the agent knows the process by it.
    command.arg(BOOT_FINDER_MARK).arg(host.layout.vmm_dir(id));
    let mut mappings = Vec::new();
    let mut pass = |fd: OwnedFd| {
        let child_fd = LOCK_FD + i32::try_from(mappings.len()).unwrap_or(i32::MAX - 64);
        mappings.push(FdMapping { parent_fd: fd, child_fd });
        child_fd.to_string()
    };
    let chain = host.disks.open(spec, system_disk, false)?;
    if let Some(key) = &chain.key {
        let pipe = in_pipe(key).map_err(|e| failed(format!("pipe: {e}")))?;
        command.arg("--key").arg(pass(pipe.into()));
    }
    for layer in chain.layers {
        let format = match layer.format {
            DiskFormat::Raw => "raw",
            _ => "qcow2",
        };
        command.arg("--layer").arg(format!("{}:{format}", pass(layer.file.into())));
    }
    let memory = instance.memory_mib.saturating_mul(1 << 20);
    let copy = |file: &File| file.try_clone().map(OwnedFd::from);
    command
        .arg("--kernel-out")
        .arg(pass(copy(&kernel).map_err(|e| failed(e.to_string()))?))
        .arg("--initrd-out")
        .arg(pass(copy(&initrd).map_err(|e| failed(e.to_string()))?))
        .arg("--uid")
        .arg(uid.to_string())
        .arg("--gid")
        .arg(uid.to_string())
        .arg("--require-jail")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--kernel-limit")
        .arg((memory / KERNEL_SHARE).to_string())
        .arg("--initrd-limit")
        .arg((memory / INITRD_SHARE).to_string())
        .arg("--timeout-seconds")
        .arg(TIMEOUT_SECONDS.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    command.fd_mappings(mappings).map_err(|e| failed(format!("descriptor table: {e}")))?;
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let program = host.settings.bootimage_bin.display();
    let child = command.spawn().map_err(|e| failed(format!("cannot run {program}: {e}")))?;
    let output = tokio::time::timeout(KILL_AFTER, output_of(child))
        .await
        .map_err(|_| failed(format!("{program} did not end within {} s", KILL_AFTER.as_secs())))?
        .map_err(|e| failed(format!("cannot run {program}: {e}")))?;

    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().rev().find(|l| l.starts_with('{')).unwrap_or_default();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(match serde_json::from_str::<Refused>(line) {
            // Of the host at this moment, not of the disk.
            Ok(Refused { code, message }) if RETRYABLE.contains(&code.as_str()) => {
                Error::resource(system_disk, code, message)
            }
            Ok(Refused { code, message }) => {
                Error::NotBootable { disk_id: system_disk.clone(), code, message }
            }
            Err(_) => failed(format!("{program}: {}: {}", output.status, errors.trim())),
        });
    }
    let found: Found = serde_json::from_str(line)
        .map_err(|e| failed(format!("{program} gave an answer that cannot be read: {e}")))?;
    let initrd = match initrd.metadata().map(|m| m.len()) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(rewound(initrd).map_err(|e| failed(e.to_string()))?),
    };
    let kernel = rewound(kernel).map_err(|e| failed(e.to_string()))?;
    Ok(BootFiles { kernel, initrd, cmdline: found.cmdline })
}

/// What the process said and how it ended. It is confined but reads an untrusted disk: what it says
/// beyond the limit is cut off, and writing on is an error to it.
async fn output_of(mut child: Child) -> io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(limited(stdout), limited(stderr))?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn limited(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(SAID_MAX).read_to_end(&mut said).await?;
    }
    Ok(said)
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

fn rewound(mut file: File) -> io::Result<File> {
    io::Seek::rewind(&mut file)?;
    Ok(file)
}
