//! What is kept, one struct per table. Times are milliseconds since the Unix epoch.

use crate::{DataKeyRecord, PoolRecord};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcRecord {
    /// `vpc-...`
    pub vpc_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Address range.
    pub cidr: Ipv4Net,
    /// Network identifier, unique, 1..2^24; the store allocates it.
    pub vni: u32,
    /// More address ranges.
    pub secondary_cidrs: Vec<Ipv4Net>,
    /// Its /56; none: the VPC has no IPv6. The store chooses it, as it does `vni`.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// The route table that VSwitches have that were given no other; made with the VPC.
    pub system_route_table_id: String,
    /// When it was made.
    pub created_ms: i64,
}

impl VpcRecord {
    /// The IPv6 range of a VPC with this network identifier: a unique local one (RFC 4193) of its
    /// own, as no public one is given to a cloud that is self-hosted.
    pub fn ipv6_range(vni: u32) -> Ipv6Net {
        let [_, a, b, c] = vni.to_be_bytes();
        let address =
            Ipv6Addr::new(0xfdec, u16::from(a), u16::from_be_bytes([b, c]), 0, 0, 0, 0, 0);
        Ipv6Net::new_assert(address, 56)
    }
}

/// A VSwitch: a subnet of a VPC in one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VSwitchRecord {
    /// `vsw-...`
    pub vswitch_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its zone.
    pub zone_id: String,
    /// Address range, inside the VPC's.
    pub cidr: Ipv4Net,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// First address an interface may have.
    pub first_ip: Ipv4Addr,
    /// Last address an interface may have.
    pub last_ip: Ipv4Addr,
    /// Address of the gateway.
    pub gateway_ip: Ipv4Addr,
    /// The route table it uses: the VPC's system one, or a custom one.
    pub route_table_id: String,
    /// Its /64 in the VPC's range, if it has one.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// When it was made.
    pub created_ms: i64,
}

impl VSwitchRecord {
    /// Whether interfaces may have this address of a VSwitch's IPv6 block. As in ECS the block's first
    /// address and its last nine are not for them.
    pub fn is_usable_ipv6(block: Ipv6Net, address: Ipv6Addr) -> bool {
        const RESERVED_AT_THE_END: u128 = 9;
        block.contains(&address)
            && address != block.network()
            && u128::from(block.broadcast()) - u128::from(address) >= RESERVED_AT_THE_END
    }
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroupRecord {
    /// `sg-...`
    pub group_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Display name, may be empty.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Advanced group: no implicit rules.
    pub enterprise: bool,
    /// Members of a basic group reach each other.
    pub inner_accept: bool,
    /// Tags, key and value.
    pub tags: Vec<(String, String)>,
    /// When it was made.
    pub created_ms: i64,
}

/// One rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRecord {
    /// `sgr-...`
    pub rule_id: String,
    /// The group it belongs to.
    pub group_id: String,
    /// Judges what members send, not what they receive.
    pub egress: bool,
    /// `tcp udp icmp icmpv6 gre all`
    pub protocol: String,
    /// First port; 0 with `port_to` 0 for all.
    pub port_from: u16,
    /// Last port.
    pub port_to: u16,
    /// Source port range `from/to`, empty for all.
    pub source_ports: String,
    /// Peer range; none when `peer_group_id` or `prefix_list_id` is given.
    pub cidr: Option<IpNet>,
    /// Peer group.
    pub peer_group_id: Option<String>,
    /// Prefix list of the peers, empty: none.
    pub prefix_list_id: String,
    /// Range of the members' own addresses; none: any.
    pub own_cidr: Option<IpNet>,
    /// 1..100, smaller first.
    pub priority: u32,
    /// Drops instead of accepting.
    pub drop: bool,
    /// Free text.
    pub description: String,
    /// When it was made.
    pub created_ms: i64,
}

/// An SSH key pair's public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPairRecord {
    /// `skp-...`
    pub key_pair_id: String,
    /// Unique name.
    pub name: String,
    /// MD5 of the public key, lower-case hex with colons.
    pub fingerprint: String,
    /// One line, OpenSSH.
    pub public_key: String,
    /// When it was made.
    pub created_ms: i64,
}

/// An image and where its making stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRecord {
    /// `m-...`
    pub image_id: String,
    /// Unique name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// `Creating Available CreateFailed`
    pub status: String,
    /// Why it is not available.
    pub status_reason: String,
    /// `x86_64 arm64`
    pub architecture: String,
    /// `linux`
    pub os_type: String,
    /// `Debian`, ...
    pub platform: String,
    /// Family name, may be empty.
    pub family: String,
    /// Version, for people.
    pub version: String,
    /// `qcow2 raw`
    pub format: String,
    /// Size of the file.
    pub file_bytes: u64,
    /// Size of the disk it describes.
    pub virtual_bytes: u64,
    /// Of the file, lower-case hex.
    pub sha256: String,
    /// When it was asked for.
    pub created_ms: i64,
    /// Snapshot whose content it has, empty: none. The snapshot may be gone.
    pub source_snapshot_id: String,
    /// Image it is a copy of, empty: none. That image may be gone.
    pub source_image_id: String,
    /// Of an encrypted image: that of the snapshot it has the content of.
    pub data_key: Option<DataKeyRecord>,
    /// Disks of instances made from it, the system disk first; none of an imported image.
    pub disks: Vec<ImageDisk>,
    /// Tags, key and value; only lists fill them in.
    pub tags: Vec<(String, String)>,
}

/// A disk that instances made from an image have. Its place in the list is that among the devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDisk {
    /// Snapshot whose content it has, empty: a blank disk. The snapshot may be gone.
    pub snapshot_id: String,
    /// Least size.
    pub size_gib: u64,
}

/// An instance: what is wanted of it, and what its host last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    /// `i-...`
    pub instance_id: String,
    /// Display name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Host name inside the guest.
    pub host_name: String,
    /// Image its system disk was made from.
    pub image_id: String,
    /// `ecs.c7.large`
    pub instance_type: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Queues of the primary interface.
    pub nic_queues: u32,
    /// Zone.
    pub zone_id: String,
    /// VPC of its primary interface.
    pub vpc_id: String,
    /// VSwitch of its primary interface.
    pub vswitch_id: String,
    /// Key pair it was made with, or got with its system disk; may be empty.
    pub key_pair_name: String,
    /// The pair's public key as it was then.
    pub public_key: String,
    /// User data, decoded.
    pub user_data: Vec<u8>,
    /// The metadata service answers.
    pub metadata_enabled: bool,
    /// The metadata service wants a token.
    pub metadata_token_required: bool,
    /// Delete is refused.
    pub deletion_protection: bool,
    /// SMBIOS system UUID.
    pub uuid: String,
    /// Mbit/s of a static public address, also while it has none; 0: it gets none.
    pub internet_max_bandwidth_out: u32,
    /// `PayByTraffic PayByBandwidth`, of that address.
    pub internet_charge_type: String,
    /// Tags, key and value.
    pub tags: Vec<(String, String)>,
    /// When it was made.
    pub created_ms: i64,

    /// The host it is placed on.
    pub host_id: String,
    /// Its vCPUs and memory are claimed on the host.
    pub claimed: bool,

    /// Wanted to run.
    pub power_on: bool,
    /// Grows with every change of what is wanted.
    pub generation: u64,
    /// The generation at which power last changed.
    pub power_generation: u64,
    /// Grows with each start and reboot.
    pub boot_epoch: u64,
    /// Stop without asking the guest.
    pub force: bool,
    /// Wanted to run once no disk of it is being made anew.
    pub start_when_ready: bool,
    /// The next stop gives vCPUs and memory back.
    pub stop_charging: bool,
    /// Deleted; kept until the host has nothing left of it.
    pub releasing: bool,
    /// Revision at which `releasing` was set.
    pub released_revision: u64,

    /// What the host said, none before its first report.
    pub reported: Option<ReportedState>,
    /// Derived from all above; kept as a column so that it can be filtered on.
    pub status: String,
    /// Why, and what unblocks it. Empty when there is nothing to say.
    pub status_reason: String,
}

/// What a host said about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedState {
    /// Generation the agent had seen.
    pub generation: u64,
    /// Boot epoch of the guest that runs or ran last.
    pub boot_epoch: u64,
    /// State of the guest.
    pub state: GuestState,
    /// ECS-like reason, may be empty.
    pub code: String,
    /// Explanation, may be empty.
    pub message: String,
    /// When the guest was started, 0 if never.
    pub started_ms: i64,
}

/// State of a guest on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Being started.
    Starting,
    /// Runs.
    Running,
    /// Being stopped.
    Stopping,
    /// Does not run.
    Stopped,
    /// Cannot be started.
    Failed,
}

/// A host, its capacity and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Stable id the host gave itself.
    pub host_id: String,
    /// Name for people.
    pub hostname: String,
    /// Zone.
    pub zone_id: String,
    /// `http://host:port` of its HostAccess service.
    pub access_endpoint: String,
    /// Where it takes packets of VPCs from other hosts, empty: nowhere.
    pub underlay_ip: String,
    /// Physical threads.
    pub vcpus: u32,
    /// vCPUs that may be claimed: threads times overcommit.
    pub vcpu_limit: u32,
    /// MiB that may be claimed.
    pub memory_mib: u64,
    /// vCPUs claimed.
    pub vcpus_used: u32,
    /// MiB claimed.
    pub memory_mib_used: u64,
    /// Which KVM the host found.
    pub kvm: String,
    /// Version of its agent.
    pub version: String,
    /// Number of its latest registration.
    pub session: u64,
    /// When the lease ends.
    pub lease_until_ms: i64,
    /// The lease has ended.
    pub lost: bool,
    /// When it last registered, renewed or reported.
    pub last_seen_ms: i64,
    /// Spec revision it last said it had acted on.
    pub observed_revision: u64,
    /// Where its disks lie.
    pub pools: Vec<PoolRecord>,
}

impl HostRecord {
    /// GiB that may be claimed of its own pools; shared ones are no host's.
    pub fn disk_gib(&self) -> u64 {
        self.own_pools().map(|pool| pool.limit_gib).sum()
    }

    /// GiB claimed of its own pools.
    pub fn disk_gib_used(&self) -> u64 {
        self.own_pools().map(PoolRecord::claimed_gib).sum()
    }

    fn own_pools(&self) -> impl Iterator<Item = &PoolRecord> {
        self.pools.iter().filter(|pool| !pool.shared)
    }
}

/// An event a host reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// `e-...`
    pub event_id: String,
    /// Host that saw it.
    pub host_id: String,
    /// Number on that host.
    pub sequence: u64,
    /// What it is about.
    pub resource_id: String,
    /// `InstanceFailure.Reboot`, ...
    pub event_type: String,
    /// What happened.
    pub message: String,
    /// When.
    pub occurred_ms: i64,
}
