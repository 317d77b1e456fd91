//! Hosts without machines: namespaces with an interface each on one switch, and a cloud on each.

use crate::{
    cloud::Cloud,
    guest::{ask_name, ip, tell_names},
};
use api::host::RemoteHost;
use network::{Options, Underlay};
use nix::sched::{CloneFlags, setns, unshare};
use std::{
    collections::BTreeSet,
    fs::File,
    net::{Ipv4Addr, TcpListener},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

/// A namespace that lives as long as this.
#[derive(Debug)]
pub struct Node(File);

impl Node {
    fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace: run as root");
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        });
        Self(file.join().expect("make a namespace"))
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs `work` inside.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let namespace = self.0.try_clone().expect("the namespace");
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter");
            work()
        })
        .join()
        .expect("work in a namespace")
    }

    /// Serves [`tell_names`] on a port of every address.
    pub fn tell_names(&self, port: u16) {
        let bind = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen");
        tell_names(self.run(bind));
    }

    pub fn ask_name(&self, to: Ipv4Addr, port: u16) -> String {
        self.run(move || ask_name(to, port))
    }

    pub fn ip(&self, command: &str) {
        let command = command.to_owned();
        self.run(move || ip(&command));
    }

    /// Runs a shell command, as a person would by hand.
    pub fn sh(&self, command: &str) -> String {
        let line = command.to_owned();
        let output = self.run(move || {
            std::process::Command::new("sh").args(["-c", &line]).output().expect("run sh")
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Hosts on one switch.
#[derive(Debug)]
pub struct Fabric {
    pub hosts: Vec<Node>,
    switch: Node,
    ports: AtomicU32,
}

impl Fabric {
    pub fn new(hosts: u8) -> Self {
        let switch = Node::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let mut fabric = Self { hosts: Vec::new(), switch, ports: AtomicU32::new(0) };
        for number in 0..hosts {
            let host = fabric.node(&format!("{}/24", underlay(number)));
            fabric.hosts.push(host);
        }
        fabric
    }

    /// Something else on the switch, with this address.
    pub fn node(&self, address: &str) -> Node {
        let node = Node::new();
        node.ip("link add eth0 type veth peer name port");
        node.ip(&format!("link set port netns {}", self.switch.path().display()));
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.switch.ip(&format!("link set port name {port} master br0 up"));
        node.ip(&format!("addr add {address} dev eth0"));
        node.ip("link set eth0 up");
        node
    }

    /// The cloud of one host.
    pub async fn cloud(&self, number: u8) -> Cloud {
        self.cloud_with(number, |_| {}).await
    }

    pub async fn cloud_with(&self, number: u8, change: impl FnOnce(&mut Options)) -> Cloud {
        let path = self.hosts[usize::from(number)].path();
        Cloud::with(|options| {
            options.host_namespace = Some(path);
            let address = underlay(number);
            options.underlay = Some(Underlay { address, port: Underlay::PORT });
            change(options);
        })
        .await
    }
}

/// The underlay address of a host.
pub fn underlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number + 1)
}

/// Tells each host of the others, and everybody of all members, as a controller would.
pub fn introduce(clouds: &mut [&mut Cloud]) {
    let hosts: Vec<_> = clouds.iter().map(|c| c.options.underlay.expect("set").address).collect();
    let enis: Vec<_> = clouds.iter().map(|cloud| cloud.desired.enis.clone()).collect();
    for (number, cloud) in clouds.iter_mut().enumerate() {
        for vpc in &mut cloud.desired.vpcs {
            vpc.remote_hosts = (0..hosts.len())
                .filter(|other| *other != number)
                .filter_map(|other| {
                    let enis = enis[other].iter().filter(|eni| eni.vpc_id == vpc.vpc_id);
                    let addresses: Vec<_> = enis
                        .flat_map(|eni| {
                            [&eni.private_ip].into_iter().chain(&eni.secondary_private_ips)
                        })
                        .cloned()
                        .collect();
                    let underlay_ip = hosts[other].to_string();
                    (!addresses.is_empty()).then_some(RemoteHost { underlay_ip, addresses })
                })
                .collect();
        }
        for group in &mut cloud.desired.groups {
            let members = enis.iter().flatten().filter(|eni| {
                eni.vpc_id == group.vpc_id
                    && eni.security_group_ids.contains(&group.security_group_id)
            });
            let members: BTreeSet<_> = members
                .flat_map(|eni| [&eni.private_ip].into_iter().chain(&eni.secondary_private_ips))
                .cloned()
                .collect();
            group.member_ips = members.into_iter().collect();
        }
    }
}
