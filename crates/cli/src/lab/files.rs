//! The image with programs, keys and scripts that every emulated host mounts at `/lab`, so that new
//! programs need no new root file system.

use super::{layout::Layout, source_tree::Programs};
use crate::error::{Error, Result};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
};

/// The port of HostAccess inside a host.
pub(crate) const AGENT_PORT: u16 = 7801;

/// Makes what is made once per lab: the join token and the SSH keys.
pub(crate) fn make_secrets(layout: &Layout) -> Result<()> {
    let token = layout.join_token();
    if !token.exists() {
        let bytes: [u8; 32] = rand::rng().random();
        write_private(&token, &hex(&bytes))?;
    }
    make_master_key(layout)?;
    let keys = layout.root.join("ssh");
    fs::create_dir_all(&keys).map_err(Error::file("make", &keys))?;
    for key in [layout.ssh_key(), layout.ssh_host_key()] {
        if key.exists() {
            continue;
        }
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "ecs-lab", "-f"])
            .arg(&key))?;
    }
    let public = read(&layout.ssh_host_key().with_extension("pub"))?;
    let known = layout.known_hosts();
    fs::write(&known, format!("ecs-lab {public}")).map_err(Error::file("write", &known))
}

/// The lab's own master key of encrypted disks.
fn make_master_key(layout: &Layout) -> Result<()> {
    let (folder, own) = (layout.kms(), layout.kms().join("default"));
    if own.exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
    let id = rand::rng().random::<[u8; 16]>();
    let id: Vec<String> = id.chunks(4).map(hex).collect();
    let id = id.join("-");
    let key: [u8; 32] = rand::rng().random();
    write_private(&folder.join(format!("{id}.key")), &hex(&key))?;
    fs::write(&own, id).map_err(Error::file("write", &own))
}

/// What one lab's hosts are told alike.
#[derive(Debug)]
pub(crate) struct HostSettings<'a> {
    pub(crate) controller_port: u16,
    pub(crate) vcpus: u32,
    pub(crate) kvm_note: &'a str,
}

/// What a host runs as its agent. It, and what it starts, keep to the guests' processors, see
/// `machine::processors`.
fn agent_script(settings: &HostSettings<'_>) -> String {
    format!(
        "#!/bin/sh\n. /run/lab.env\nexport NO_COLOR=1\n\
         # More for the agent, such as ECS_POOLS.\n\
         if [ -e /var/lib/ecs/agent.env ]; then set -a; . /var/lib/ecs/agent.env; set +a; fi\n\
         [ ! -e /sys/class/net/eth1 ] || export ECS_UNDERLAY_IP=$peer\n\
         exec taskset -c 1-{vcpus} /lab/bin/ecs-agent --controller http://10.0.2.2:{port} \
         --access-listen 0.0.0.0:{AGENT_PORT} --access-endpoint http://127.0.0.1:$access \
         --zone $zone --state-dir /var/lib/ecs --run-dir /run/ecs --join-token-file /lab/join-token --kms-keys /lab/kms \
         --vmm-bin /lab/bin/ecs-vmm --bootimage-bin /lab/bin/ecs-bootimage --vcpus {vcpus} \
         --kvm-note '{note}' >>/var/log/ecs-agent.log 2>&1\n",
        vcpus = settings.vcpus,
        port = settings.controller_port,
        note = settings.kvm_note,
    )
}

/// Lays out `/lab` in a folder; the digest of everything in it.
pub(crate) fn stage(
    layout: &Layout,
    programs: &Programs,
    settings: &HostSettings<'_>,
) -> Result<String> {
    let staging = layout.root.join("files");
    let _ = fs::remove_dir_all(&staging);
    let bin = staging.join("bin");
    fs::create_dir_all(&bin).map_err(Error::file("make", &bin))?;
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o700))
        .map_err(Error::file("write", &staging))?;
    for name in Programs::OF_HOSTS {
        let (from, to) = (programs.path(name), bin.join(name));
        fs::copy(&from, &to).map_err(Error::file("copy", &from))?;
        // Symbols are for debuggers; in a host they would only be read from disk. Without strip
        // the program is as good.
        let _ = Command::new("strip").arg(&to).stderr(Stdio::null()).status();
    }
    let sshd = "HostKey /run/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n\
                PasswordAuthentication no\nUsePAM no\nUseDNS no\nSubsystem sftp internal-sftp\n";
    let files = [
        ("agent", agent_script(settings), 0o755),
        ("sshd_config", sshd.to_owned(), 0o644),
        ("join-token", read(&layout.join_token())?, 0o600),
        ("authorized_keys", read(&layout.ssh_key().with_extension("pub"))?, 0o600),
        ("ssh_host_ed25519_key", read(&layout.ssh_host_key())?, 0o600),
    ];
    let mut digest = Sha256::new();
    for (name, text, mode) in files {
        let path = staging.join(name);
        fs::write(&path, &text).map_err(Error::file("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(Error::file("write", &path))?;
        digest.update(text);
    }
    let (keys, staged) = (layout.kms(), staging.join("kms"));
    fs::create_dir_all(&staged).map_err(Error::file("make", &staged))?;
    let entries = fs::read_dir(&keys).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut paths: Vec<_> =
        entries.map_err(Error::file("read", &keys))?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let text = read(&path)?;
        let to = staged.join(path.file_name().unwrap_or_default());
        write_private(&to, &text)?;
        digest.update(text);
    }
    for name in Programs::OF_HOSTS {
        let path = bin.join(name);
        digest.update(fs::read(&path).map_err(Error::file("read", &path))?);
    }
    Ok(hex(&digest.finalize()))
}

/// Makes the image of what was staged. No host may have the old one open.
pub(crate) fn pack(layout: &Layout) -> Result<()> {
    let (staging, image) = (layout.root.join("files"), layout.files_image());
    let mut bytes = 0;
    for folder in [staging.clone(), staging.join("bin")] {
        for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
            bytes += entry
                .and_then(|entry| entry.metadata())
                .map_err(Error::file("read", &folder))?
                .len();
        }
    }
    let mib = (bytes >> 20) * 11 / 10 + 16;
    let _ = fs::remove_file(&image);
    // There are a host key and the join token in it.
    write_private(&image, "")?;
    run(Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-E",
            "root_owner=0:0",
            "-d",
        ])
        .arg(&staging)
        .arg(&image)
        .arg(format!("{mib}M")))
}

/// A sparse ext4 disk for a host's state, unless there is one.
pub(crate) fn make_data_disk(path: &Path, gib: u64) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let next = path.with_extension("next");
    let _ = fs::remove_file(&next);
    run(Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
            "-i",
            "4194304",
        ])
        .arg(&next)
        .arg(format!("{gib}G")))?;
    fs::rename(&next, path).map_err(Error::file("make", path))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Debian keeps file system tools out of a plain user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            Error::Local(format!(
                "cannot run {name} ({e}); scripts/install-deps.sh installs what is needed"
            ))
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Local(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::file("write", path))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::machine;

    #[test]
    fn guests_never_run_on_a_machines_first_processor() {
        for vcpus in [1, 2, 8] {
            let settings = HostSettings { controller_port: 1, vcpus, kvm_note: "" };
            let last = machine::processors(vcpus) - 1;
            let script = agent_script(&settings);
            assert!(
                script.contains(&format!("exec taskset -c 1-{last} /lab/bin/ecs-agent")),
                "{script}"
            );
        }
    }

    #[test]
    fn the_image_with_keys_is_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        let bin = folder.path().join("files/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("x"), "x").unwrap();
        pack(&layout).unwrap();
        let metadata = fs::metadata(layout.files_image()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(metadata.len() > 0);
    }
}
