//! A host that is an emulated machine: QEMU's TCG with a processor that carries AMD SVM, so that
//! kvm-amd and our VMM work in it for real.

use super::{
    files::{self, AGENT_PORT},
    layout::{Layout, Record},
    process, tsc,
};
use crate::error::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A processor that has been stuck in the kernel for a minute does not come back: the host panics,
/// boots again and is counted. Reports of RCU stalls put off those of soft lockups, for ever if they
/// come first, so that it is the stall that has to panic.
const HANGS: &str = "softlockup_panic=1 watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=50 \
                     sysctl.kernel.panic_on_rcu_stall=1";

/// All that TCG emulates, but for the two flags that say that `rep movsb` is fast: TCG moves one byte at
/// a time, so that a kernel that believes them takes several times as long for every page it clears
/// or copies.
const PROCESSOR: &str = "max,-erms,-fsrm";

/// Region of every lab.
pub(crate) const REGION: &str = "cn-lab-1";
/// Zone of every host of a lab.
pub(crate) const ZONE: &str = "cn-lab-1a";
/// An emulated 8254 is late on a busy machine, which fails the kernel's test of its timer. TCG's
/// counters are one and the same, but an AMD kernel of several CPUs believes it only when told; the
/// clock it would take instead costs an exit to QEMU for every look, and makes guests' clocks
/// unreliable too.
const CLOCKS: &str = "no_timer_check tsc=reliable";
/// Most of it is never written, and takes no space until it is.
const DATA_DISK_GIB: u64 = 100;

/// Processors of a machine that offers `cpus` to guests. The first one is the host's own, and never
/// runs a guest: QEMU lets every processor write the first one's SVM flags (`cpu_clear_ignne`, at each
/// restore of an x87 state), unsynchronized, so that the first one loses its own changes of them, and
/// with them guests and the host's kernel.
pub(crate) fn processors(cpus: u32) -> u32 {
    cpus.saturating_add(1)
}

/// A host's name.
pub(crate) fn name(number: u32) -> String {
    format!("lab-{number}")
}

fn pid_file(layout: &Layout, number: u32) -> PathBuf {
    layout.pid(&format!("host-{number}"))
}

pub(crate) fn is_running(layout: &Layout, number: u32) -> bool {
    process::running(&pid_file(layout, number)).is_some()
}

/// A path among QEMU's comma-separated options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Starts host `number`, counted from 1.
pub(crate) fn start(layout: &Layout, record: &Record, images: &Path, number: u32) -> Result<()> {
    let directory = layout.host(number);
    fs::create_dir_all(&directory).map_err(Error::file("make", &directory))?;
    files::make_data_disk(&layout.host_disk(number), DATA_DISK_GIB)?;
    let console = layout.host_console(number);
    fs::write(&console, "").map_err(Error::file("write", &console))?;

    let index = usize::try_from(number - 1).unwrap_or_default();
    let (access, ssh) = (record.access_ports[index], record.ssh_ports[index]);
    let image = images.join("lab-host");
    let drive = |id: &str, path: &Path, more: &str| {
        let path = escaped(path);
        [
            "-drive".to_owned(),
            format!("if=none,id={id},file={path},format=raw,{more}"),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={id},serial={id}"),
        ]
    };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR])
        .args([
            "-smp",
            &processors(record.cpus).to_string(),
            "-m",
            &format!("{}M", record.memory_mib),
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-daemonize"])
        .args(["-name", &name(number)])
        .arg("-pidfile")
        .arg(pid_file(layout, number))
        // What QEMU itself has to say once it is a daemon, such as why it gave up.
        .args(["-d", "guest_errors", "-D"])
        .arg(layout.host_log(number))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", escaped(&layout.host_monitor(number))))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(image.join("initrd.img"))
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 {HANGS} {CLOCKS} tsc_early_khz={} lab.host={} lab.zone={ZONE} \
             lab.access={access} lab.peer=10.111.0.{number}",
            tsc::khz(),
            name(number)
        ))
        .args(drive("lab-root", &image.join("root.ext4"), "readonly=on,file.locking=off"))
        .args(drive("lab-files", &layout.files_image(), "readonly=on,file.locking=off"))
        .args(drive("lab-data", &layout.host_disk(number), "discard=unmap"))
        .args(["-device", "virtio-rng-pci"])
        .arg("-netdev")
        .arg(format!(
            "user,id=machine,hostfwd=tcp:127.0.0.1:{access}-:{AGENT_PORT},\
             hostfwd=tcp:127.0.0.1:{ssh}-:22"
        ))
        .args(["-device", "virtio-net-pci,netdev=machine"]);
    if record.hosts > 1 {
        // One segment for all hosts of this lab and no other.
        qemu.arg("-netdev")
            .arg(format!(
                "socket,id=peers,mcast=230.0.0.1:{},localaddr=127.0.0.1",
                record.controller_port
            ))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=peers,mac=52:54:00:6c:61:{number:02x}"));
    }
    let output = qemu.stdin(Stdio::null()).output().map_err(|e| {
        Error::Local(format!(
            "cannot run qemu-system-x86_64 ({e}); scripts/install-deps.sh installs it"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Local(format!(
        "host {} did not start: {}",
        name(number),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Whether a host has come up; an error when its machine is gone.
pub(crate) fn is_up(layout: &Layout, number: u32) -> Result<bool> {
    let console = layout.host_console(number);
    let text = fs::read(&console).map_err(Error::file("read", &console))?;
    let text = String::from_utf8_lossy(&text);
    if text.contains(&format!("lab-boot: {} is up", name(number))) {
        return Ok(true);
    }
    if is_running(layout, number) {
        return Ok(false);
    }
    let last: Vec<&str> = text.lines().rev().take(8).collect();
    Err(Error::Local(format!(
        "host {} stopped while it started; its console ends with:\n{}",
        name(number),
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    )))
}

/// What a host's console tells of its life since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// How often it came up; more than once if its kernel panicked, as a host then reboots.
    pub(crate) boots: usize,
    /// How often its kernel panicked.
    pub(crate) panics: usize,
}

pub(crate) fn life(layout: &Layout, number: u32) -> Life {
    let text = fs::read(layout.host_console(number)).unwrap_or_default();
    life_of(&String::from_utf8_lossy(&text), &name(number))
}

fn life_of(console: &str, host: &str) -> Life {
    let up = format!("lab-boot: {host} is up");
    Life {
        boots: console.matches(&up).count(),
        // A panic that does not reboot at once says so a second time, as its end.
        panics: console.matches("] Kernel panic - not syncing").count(),
    }
}

/// Shuts a host down: in order if it listens, at once if not.
pub(crate) fn stop(layout: &Layout, record: &Record, number: u32) -> Result<()> {
    let file = pid_file(layout, number);
    if process::running(&file).is_some() {
        let asked = ssh(layout, record, number, &["-o", "ConnectTimeout=5"])
            .arg("sync; exec busybox poweroff")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if asked.is_ok_and(|status| status.success()) {
            process::gone_within(&file, Duration::from_secs(20));
        }
    }
    process::stop(&file, Duration::from_secs(5))
}

/// The system's ssh, ready to run a command on a host.
pub(crate) fn ssh(layout: &Layout, record: &Record, number: u32, options: &[&str]) -> Command {
    let index = usize::try_from(number.saturating_sub(1)).unwrap_or_default();
    let port = record.ssh_ports.get(index).copied().unwrap_or_default();
    let mut command = Command::new("ssh");
    command
        .args(["-q", "-p", &port.to_string(), "-i"])
        .arg(layout.ssh_key())
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", layout.known_hosts().display()))
        .args(["-o", "HostKeyAlias=ecs-lab", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .args(["-F", "/dev/null"])
        .args(options)
        .arg("root@127.0.0.1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_tells_of_panics_and_boots() {
        let console = "lab-boot: lab-1 is up\r\n[  9.1] Kernel panic - not syncing: Fatal exception\r\n\
                       [  9.2] ---[ end Kernel panic - not syncing: Fatal exception ]---\r\n\
                       lab-boot: lab-1 is up\r\nlab-boot: lab-12 is up\r\n";
        assert_eq!(life_of(console, "lab-1"), Life { boots: 2, panics: 1 });
        assert_eq!(life_of("", "lab-1"), Life { boots: 0, panics: 0 });
    }
}
