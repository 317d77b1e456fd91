//! Where a lab keeps its files, and what it remembers between commands.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// The folder of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    /// `ECS_LAB_DIR`, else in the user's data folder.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        let root = match named
            .map(Path::to_owned)
            .or_else(|| env::var_os("ECS_LAB_DIR").map(Into::into))
        {
            Some(directory) => directory,
            None => env::var_os("XDG_DATA_HOME")
                .map(PathBuf::from)
                .or_else(|| {
                    env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"))
                })
                .ok_or_else(|| {
                    Error::Local(
                        "HOME is not set; name the lab's folder with ECS_LAB_DIR".to_owned(),
                    )
                })?
                .join("ecs-lab"),
        };
        let root = std::path::absolute(&root).map_err(Error::file("find", &root))?;
        Ok(Self { root })
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("lab.json")
    }
    pub(crate) fn join_token(&self) -> PathBuf {
        self.root.join("join-token")
    }
    /// Master keys of encrypted disks, the controller's and the hosts'.
    pub(crate) fn kms(&self) -> PathBuf {
        self.root.join("kms")
    }
    /// The image with programs, keys and scripts that every host reads.
    pub(crate) fn files_image(&self) -> PathBuf {
        self.root.join("files.ext4")
    }
    pub(crate) fn ssh_key(&self) -> PathBuf {
        self.root.join("ssh/id_ed25519")
    }
    pub(crate) fn ssh_host_key(&self) -> PathBuf {
        self.root.join("ssh/ssh_host_ed25519_key")
    }
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.root.join("ssh/known_hosts")
    }
    pub(crate) fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }
    pub(crate) fn controller_log(&self) -> PathBuf {
        self.root.join("controller.log")
    }
    pub(crate) fn native_agent_log(&self) -> PathBuf {
        self.root.join("agent.log")
    }
    pub(crate) fn pid(&self, process: &str) -> PathBuf {
        self.root.join(format!("{process}.pid"))
    }
    pub(crate) fn host(&self, number: u32) -> PathBuf {
        self.root.join(format!("hosts/{number}"))
    }
    pub(crate) fn host_disk(&self, number: u32) -> PathBuf {
        self.host(number).join("data.raw")
    }
    pub(crate) fn host_console(&self, number: u32) -> PathBuf {
        self.host(number).join("console.log")
    }
    /// QEMU's own control socket.
    pub(crate) fn host_monitor(&self, number: u32) -> PathBuf {
        self.host(number).join("qmp.sock")
    }
    pub(crate) fn host_log(&self, number: u32) -> PathBuf {
        self.host(number).join("qemu.log")
    }
}

/// Where the agent of a host keeps its things, on that host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostPaths {
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    /// Of the user ids that its VMMs run as, the first.
    pub(crate) first_uid: u32,
}

impl HostPaths {
    /// An emulated host has a machine for itself. Labs whose host is this machine share it with each
    /// other and with whatever else is here, so that each has names made of its folder's.
    pub(crate) fn of(layout: &Layout, kind: Kind) -> Self {
        if kind == Kind::Emulated {
            return Self {
                state: "/var/lib/ecs".into(),
                run: "/run/ecs".into(),
                netns: "/run/netns".into(),
                cgroup: "/sys/fs/cgroup/ecs".into(),
                first_uid: 2_000_000,
            };
        }
        let digest = Sha256::digest(layout.root.as_os_str().as_encoded_bytes());
        let name = format!(
            "ecs-lab-{}",
            digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        // A socket's path may have 107 bytes; the lab's own folder may be longer.
        let run = Path::new("/run").join(&name);
        Self {
            state: layout.root.join("agent"),
            netns: run.join("netns"),
            run,
            cgroup: Path::new("/sys/fs/cgroup").join(name),
            first_uid: 10_000_000 + u32::from(u16::from_be_bytes([digest[4], digest[5]])) * 50_000,
        }
    }
}

/// How the lab's hosts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The agent runs on this machine itself.
    Native,
    /// Each host is an emulated machine.
    Emulated,
}

/// `lab.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) hosts: u32,
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u32,
    pub(crate) controller_port: u16,
    /// Of host 1, 2, ...: the agent's HostAccess on this machine.
    pub(crate) access_ports: Vec<u16>,
    pub(crate) ssh_ports: Vec<u16>,
    /// Of the programs the hosts were started with.
    pub(crate) files_digest: String,
    pub(crate) kvm: String,
}

impl Record {
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.controller_port)
    }

    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.record();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::file("read", &path)(e)),
        };
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::Local(format!(
                "{} is not a lab's record ({e}); `ecsctl lab down --wipe` starts over",
                path.display()
            ))
        })
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.record();
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::Local(format!("cannot write {}: {e}", path.display())))?;
        let next = path.with_extension("json.next");
        fs::write(&next, text).map_err(Error::file("write", &next))?;
        fs::rename(&next, &path).map_err(Error::file("write", &path))
    }
}

/// A port of this machine nobody listens on: the wished one, or any.
pub(crate) fn free_port(wish: u16) -> Result<u16> {
    for port in [wish, 0] {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr().map_err(Error::io("cannot find a free port"))?.port());
        }
    }
    Err(Error::Local("no free TCP port on 127.0.0.1".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_a_round_trip_and_a_broken_one_says_how_to_start_over() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(directory.path())).unwrap();
        assert!(Record::load(&layout).unwrap().is_none());
        let record = Record {
            kind: Kind::Emulated,
            hosts: 1,
            memory_mib: 2048,
            cpus: 2,
            controller_port: 7800,
            access_ports: vec![7811],
            ssh_ports: vec![7821],
            files_digest: "d".to_owned(),
            kvm: "none".to_owned(),
        };
        record.save(&layout).unwrap();
        let loaded = Record::load(&layout).unwrap().unwrap();
        assert_eq!(
            (loaded.endpoint(), loaded.access_ports),
            ("http://127.0.0.1:7800".to_owned(), vec![7811])
        );
        fs::write(layout.record(), "{").unwrap();
        let error = Record::load(&layout).unwrap_err().to_string();
        assert!(error.contains("--wipe"), "{error}");
    }

    #[test]
    fn labs_whose_host_is_this_machine_share_no_name() {
        let paths =
            |root: &str| HostPaths::of(&Layout::find(Some(Path::new(root))).unwrap(), Kind::Native);
        let deep = format!("/{}", "deep/".repeat(40));
        let (one, other) = (paths("/a/lab"), paths(&deep));
        assert_eq!(one, paths("/a/lab"));
        assert!(one.state.starts_with("/a/lab"));
        assert_ne!(one.run, other.run);
        assert_ne!(one.cgroup, other.cgroup);
        assert_ne!(one.netns, Path::new("/run/netns"));
        let socket = other.run.join("vmm/i-0123456789abcdefghij/control.sock");
        assert!(socket.as_os_str().len() < 108, "{}", socket.display());
    }

    #[test]
    fn a_taken_port_gives_another_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(port).unwrap(), port);
    }
}
