//! Start parameters.

use crate::{
    error::{Error, Result},
    pools::PoolOption,
};
use clap::Parser;
use network::Underlay;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Reconciles one host with the spec its controller publishes.
#[derive(Debug, Clone, Parser)]
#[command(name = "ecs-agent", version)]
pub struct Config {
    /// URL of the controller.
    #[arg(long, env = "ECS_CONTROLLER", default_value = "http://127.0.0.1:7800")]
    pub controller: String,
    /// What must survive a reboot: images, disks, instance records, console logs.
    #[arg(long, env = "ECS_STATE_DIR", default_value = "/var/lib/ecs")]
    pub state_dir: PathBuf,
    /// A storage pool beside the default one, which is in --state-dir:
    /// name=NAME,path=DIR[,overcommit=1.5][,reserve=10GiB][,capacity=1TiB][,shared][,lease=20s]; again
    /// for more. Of
    /// name=default only the figures are given. overcommit: GiB of disks per GiB, instead of the
    /// controller's factor. reserve: with less available it takes no new disks; a twentieth, at most
    /// 10 GiB, if left out. capacity: as much of the file system as it may use; all if left out.
    /// shared: other hosts name the same directory, which is on a file system that they share; see
    /// docs/design.md for what that must do. lease=20s: how long a host that is cut off from it may
    /// go on; for a shared pool that is made now.
    #[arg(long = "pool", env = "ECS_POOLS", value_delimiter = ';', value_parser = PoolOption::parse)]
    pub pools: Vec<PoolOption>,
    /// Sockets and jails of running instances.
    #[arg(long, env = "ECS_RUN_DIR", default_value = "/run/ecs")]
    pub run_dir: PathBuf,
    /// Address to serve consoles and tunnels to the controller on.
    #[arg(long, env = "ECS_ACCESS_LISTEN", default_value = "0.0.0.0:7801")]
    pub access_listen: SocketAddr,
    /// URL under which the controller reaches --access-listen; default: this host's name and that
    /// port, or the listening address where it is a concrete one.
    #[arg(long, env = "ECS_ACCESS_ENDPOINT")]
    pub access_endpoint: Option<String>,
    /// Zone this host is in.
    #[arg(long, env = "ECS_ZONE", default_value = "cn-lab-1a")]
    pub zone: String,
    /// File with the token shared by the controller and its hosts. Whoever has it can reach every
    /// instance's console and ports.
    #[arg(long, env = "ECS_JOIN_TOKEN_FILE")]
    pub join_token_file: PathBuf,
    /// Folder with the master keys of encrypted disks: <id>.key with 64 hexadecimal digits. The
    /// controller has the same.
    #[arg(long, env = "ECS_KMS_KEYS", default_value = "/etc/ecs/kms")]
    pub kms_keys: PathBuf,
    /// vCPUs offered to guests; default: all threads of this host.
    #[arg(long, env = "ECS_VCPUS")]
    pub vcpus: Option<u32>,
    /// Memory offered to guests; default: what is there, less a reserve for the host.
    #[arg(long, env = "ECS_MEMORY_MIB")]
    pub memory_mib: Option<u64>,
    /// The VMM; default: ecs-vmm beside this program.
    #[arg(long, env = "ECS_VMM_BIN")]
    pub vmm_bin: Option<PathBuf>,
    /// The boot finder; default: ecs-bootimage beside this program.
    #[arg(long, env = "ECS_BOOTIMAGE_BIN")]
    pub bootimage_bin: Option<PathBuf>,
    /// Instance number N runs as user and group id BASE+N.
    #[arg(long, env = "ECS_JAIL_UID_BASE", default_value_t = 2_000_000)]
    pub jail_uid_base: u32,
    /// Where network namespaces are mounted. `ip netns` knows /run/netns only; a second agent on one
    /// machine needs its own.
    #[arg(long, env = "ECS_NETNS_DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// This host's IPv4 address on the network that joins the hosts: others send packets of VPCs
    /// there. Default: the address it reaches the controller from, unless that is a loopback one. What
    /// guests may send at once is this interface's MTU less 50, at most 1500.
    #[arg(long, env = "ECS_UNDERLAY_IP")]
    pub underlay_ip: Option<Ipv4Addr>,
    /// UDP port of packets between hosts (VXLAN); the same on every host.
    #[arg(long, env = "ECS_UNDERLAY_PORT", default_value_t = Underlay::PORT)]
    pub underlay_port: u16,
    /// Interface by which public addresses of instances are reached; default: that of the default
    /// route. The host answers ARP for them there.
    #[arg(long, env = "ECS_UPLINK")]
    pub uplink: Option<String>,
    /// Networks that instances must not reach from public addresses, such as those that hosts are
    /// managed by, separated by commas. The host itself, hosts with the same VPCs, the controller and
    /// the hosts' own network, where it is not the uplink's, are denied in any case.
    #[arg(long, env = "ECS_EDGE_DENY", value_delimiter = ',')]
    pub edge_deny: Vec<ipnet::Ipv4Net>,
    /// cgroup under which each instance has its own; a second agent on one machine needs its own.
    #[arg(long, env = "ECS_CGROUP", default_value = "ecs")]
    pub cgroup: PathBuf,
    /// What a probe of this host's KVM found, shown to operators.
    #[arg(long, env = "ECS_KVM_NOTE", default_value = "")]
    pub kvm_note: String,
}

impl Config {
    /// The token of --join-token-file.
    ///
    /// # Errors
    /// When the file cannot be read or is empty.
    pub fn join_token(&self) -> Result<String> {
        let path = &self.join_token_file;
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::Configuration(format!("cannot read --join-token-file {}: {e}", path.display()))
        })?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Configuration(format!(
                "--join-token-file {} must hold one line of printable characters",
                path.display()
            )));
        }
        Ok(token.to_owned())
    }

    /// A program of this product: as given, or beside the agent.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn program(given: Option<&PathBuf>, name: &str, flag: &str) -> Result<PathBuf> {
        let path = match given {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|e| Error::Configuration(format!("cannot find own executable: {e}")))?
                .with_file_name(name),
        };
        if !path.is_file() {
            return Err(Error::Configuration(format!(
                "{} is not there; build {name} or name it with {flag}",
                path.display()
            )));
        }
        Ok(path)
    }

    /// The advertised URL of HostAccess.
    pub fn advertised_endpoint(&self, hostname: &str) -> String {
        match &self.access_endpoint {
            Some(url) => url.clone(),
            None if self.access_listen.ip().is_unspecified() => {
                format!("http://{hostname}:{}", self.access_listen.port())
            }
            None => format!("http://{}", self.access_listen),
        }
    }
}
