//! Somebody outside of the cloud.

use crate::{Cloud, prober};
use anyhow::{Context as _, Result, ensure};

/// A network namespace on an emulated host, at the other end of what is the host's uplink for as long as
/// this lives. Public addresses are on its link, as they are for a router beside the hosts.
#[derive(Debug)]
pub struct World {
    cloud: Cloud,
    host: String,
}

/// The world's address, of a range for documentation (RFC 5737).
pub const ADDRESS: &str = "198.51.100.1";
/// The host's own address on the uplink.
pub const UPLINK_ADDRESS: &str = "198.51.100.2";
/// The world tells whoever connects here by TCP what address it comes from.
pub const NAMES_PORT: u16 = 80;
/// Ethernet frame over payload, of full packets of TCP with its time stamps, at an MTU of 1450 bytes.
const FRAME: f64 = 1464.0 / 1398.0;

/// By a process and not by name: `ip netns add` mounts over where the agent has its namespaces.
const MAKE: &str = "{ setsid unshare -n sleep 1000000 </dev/null >/dev/null 2>&1 & \
      echo $! >/tmp/world.pid; }; sleep 1; w=$(cat /tmp/world.pid); \
    ip link add wan0 type veth peer name wan1 netns $w && \
    ip addr add 198.51.100.2/24 dev wan0 && ip link set wan0 up && \
    nsenter --net=/proc/$w/ns/net sh -c 'ip link set lo up && ip link set wan1 up && \
      ip addr add 198.51.100.1/24 dev wan1 && ip route add 203.0.113.0/24 dev wan1' && \
    ip route replace default via 198.51.100.1 dev wan0 && \
    { setsid nsenter --net=/proc/$w/ns/net /tmp/prober names 80 </dev/null >/dev/null 2>&1 & \
      echo $! >/tmp/names.pid; }";
const REMOVE: &str = "ip route replace default via 10.0.2.2 dev eth0; ip link del wan0; \
    kill $(cat /tmp/names.pid) $(cat /tmp/world.pid); rm -f /tmp/names.pid /tmp/world.pid; true";

impl World {
    /// Makes it, and brings the prober to the host.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub fn new(cloud: &Cloud, host: &str, program: &[u8]) -> Result<Self> {
        let bring = "cat >/tmp/prober && chmod +x /tmp/prober";
        let output = cloud.output(["lab", "ssh", host, "--", bring], program)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the prober does not come to {host}: {error}");
        let world = Self { cloud: cloud.clone(), host: host.to_owned() };
        cloud.on_host(host, MAKE)?;
        Ok(world)
    }

    /// Runs a shell command there. Its standard output, whether it fails or not.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn shell(&self, command: &str) -> Result<String> {
        let quoted = command.replace('\'', "'\\''");
        let command =
            format!("nsenter --net=/proc/$(cat /tmp/world.pid)/ns/net sh -c '{quoted}'; true");
        self.cloud.on_host(&self.host, &command)
    }

    /// The last line of a guest's page, nothing if it does not answer.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn page(&self, address: &str, port: u16) -> Result<String> {
        self.shell(&format!(
            "printf 'GET /id HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 4 {address} {port} 2>/dev/null | tail -n 1"
        ))
    }

    /// Whether an address answers a ping.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn pings(&self, address: &str) -> Result<bool> {
        let said = self.shell(&format!("ping -c 1 -W 3 {address} >/dev/null && echo yes"))?;
        Ok(said == "yes")
    }

    /// What it measures as it takes what a guest's prober gives to this port, or gives what a guest's
    /// prober takes at an address: Mbit/s of Ethernet frames.
    ///
    /// # Errors
    /// When nothing is transferred.
    pub fn transfer(&self, prober: &str) -> Result<f64> {
        let said = self.shell(&format!("timeout 60 {} {prober} 2>&1", prober::PATH))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let [_, bytes, milliseconds] = words[..] else {
            anyhow::bail!("prober {prober} says {said:?}");
        };
        let bytes: f64 = bytes.parse().with_context(|| said.clone())?;
        let milliseconds: f64 = milliseconds.parse().with_context(|| said.clone())?;
        ensure!(milliseconds > 0.0, "no time at all: {said}");
        Ok(bytes * FRAME * 8.0 / 1000.0 / milliseconds)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.cloud.on_host(&self.host, REMOVE) {
            eprintln!("the world is not removed: {error:#}");
        }
    }
}
