//! Network interfaces: what is kept of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network interface: what is wanted of it, and what its host last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniRecord {
    /// `eni-...`
    pub eni_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its VSwitch.
    pub vswitch_id: String,
    /// Zone.
    pub zone_id: String,
    /// Unique; the store allocates it under 00:16:3e.
    pub mac: String,
    /// Primary private address; the store allocates it.
    pub private_ip: Ipv4Addr,
    /// More private addresses of the VSwitch, in the order they were given.
    pub secondary_private_ips: Vec<Ipv4Addr>,
    /// IPv6 addresses of the VSwitch, in the order they were given.
    pub ipv6_addresses: Vec<Ipv6Addr>,
    /// An instance's first, made and deleted with it.
    pub primary: bool,
    /// Groups it is a member of, in the order given.
    pub security_group_ids: Vec<String>,
    /// Goes with its instance.
    pub delete_on_release: bool,
    /// It sends from, and is sent, its own addresses only.
    pub source_dest_check: bool,
    /// Queues; 0: as many as the instance type has for the primary one, 1 for others.
    pub queues: u32,
    /// Tags, key and value; only lists fill them in.
    pub tags: Vec<(String, String)>,
    /// When it was made.
    pub created_ms: i64,

    /// The instance it is wanted at, empty: none.
    pub instance_id: String,
    /// The host of the instance it is wanted at, or still leaves; empty: none.
    pub host_id: String,
    /// Its place among the instance's interfaces; 0 is the primary one.
    pub position: u32,
    /// When it was last wanted at an instance, 0: never.
    pub attached_ms: i64,
    /// Revision at which `instance_id` last changed.
    pub attachment_revision: u64,
    /// Grows with every change of what its host has to know.
    pub generation: u64,

    /// What the host said.
    pub reported: ReportedEni,
    /// Derived from all above; kept as a column so that it can be filtered on.
    pub status: String,
}

impl Default for EniRecord {
    fn default() -> Self {
        Self {
            eni_id: String::new(),
            name: String::new(),
            description: String::new(),
            vpc_id: String::new(),
            vswitch_id: String::new(),
            zone_id: String::new(),
            mac: String::new(),
            private_ip: Ipv4Addr::UNSPECIFIED,
            secondary_private_ips: Vec::new(),
            ipv6_addresses: Vec::new(),
            primary: false,
            security_group_ids: Vec::new(),
            delete_on_release: false,
            source_dest_check: true,
            queues: 0,
            tags: Vec::new(),
            created_ms: 0,
            instance_id: String::new(),
            host_id: String::new(),
            position: 0,
            attached_ms: 0,
            attachment_revision: 0,
            generation: 1,
            reported: ReportedEni::default(),
            status: String::new(),
        }
    }
}

impl EniRecord {
    /// Every private IPv4 address, the primary one first.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.private_ip).chain(self.secondary_private_ips.iter().copied())
    }

    /// Every address of both families.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv6 = self.ipv6_addresses.iter().copied().map(IpAddr::from);
        self.addresses().map(IpAddr::from).chain(ipv6)
    }
}

/// What a host said about a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedEni {
    /// The instance that has the interface or has a place for it, empty: none. Until the host has
    /// seen that an interface is to be taken from an instance, that instance counts as having it.
    pub instance_id: String,
    /// Generation the host has acted on.
    pub generation: u64,
    /// Why it is not as wanted, may be empty.
    pub code: String,
    /// Explanation, may be empty.
    pub message: String,
}
